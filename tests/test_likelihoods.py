"""Each likelihood against its density in closed form, far out in the tails, and when copied."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.poutine as poutine
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from vaeppl import likelihoods
from vaeppl.likelihoods import (
    SCALE_FLOOR,
    Bernoulli,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    Likelihood,
    Mixed,
    MixedColumns,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
)

pytestmark = pytest.mark.usefixtures("double")

COLUMNS = 3


def softplus(a):
    return np.log1p(np.exp(-np.abs(a))) + np.maximum(a, 0)


def sigmoid(a):
    return scipy.special.expit(a)


def cb_logpdf(x, h):
    integral = 1.0 if h == 0 else math.expm1(h) / h
    return h * x - math.log(integral)


def table(*parts):
    """A Mixed of (columns, likelihood), bound."""
    mixed = Mixed(list(parts))
    return mixed.bind(sum(n for n, _ in parts))


def set_(parameter, values):
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(values))


# --- densities against scipy ---


def bernoulli():
    return Bernoulli().bind(COLUMNS), lambda x, h: scipy.stats.bernoulli.logpmf(x, sigmoid(h))


def continuous_bernoulli():
    return ContinuousBernoulli().bind(COLUMNS), np.vectorize(cb_logpdf)


def binomial():
    return Binomial(9).bind(COLUMNS), lambda x, h: scipy.stats.binom.logpmf(x, 9, sigmoid(h))


def normal_learnt():
    one = Normal().bind(COLUMNS)
    set_(one.log_scale, 0.3)
    scale = math.exp(0.3) + SCALE_FLOOR
    return one, lambda x, h: scipy.stats.norm.logpdf(x, h, scale)


def normal_per_column():
    one = Normal(per_column=True).bind(COLUMNS)
    set_(one.log_scale, [-1.0, 0.0, 2.0])
    scale = np.exp([-1.0, 0.0, 2.0]) + SCALE_FLOOR
    return one, lambda x, h: scipy.stats.norm.logpdf(x, h, scale)


def normal_fixed():
    return Normal(0.7).bind(COLUMNS), lambda x, h: scipy.stats.norm.logpdf(x, h, 0.7)


def normal_predicted():
    def logpdf(x, h, raw):
        return scipy.stats.norm.logpdf(x, h, softplus(raw) + SCALE_FLOOR)

    return Normal("predicted").bind(COLUMNS), logpdf


def normal_in_units():
    one = Normal(0.5, center=[1.0, -2.0, 30.0], unit=[0.1, 1.0, 1000.0]).bind(COLUMNS)
    center, unit = np.array([1.0, -2.0, 30.0]), np.array([0.1, 1.0, 1000.0])
    return one, lambda x, h: scipy.stats.norm.logpdf(x, center + unit * h, 0.5 * unit)


def student_t():
    one = StudentT(3.5, 0.7, center=2.0, unit=4.0).bind(COLUMNS)
    return one, lambda x, h: scipy.stats.t.logpdf(x, 3.5, 2.0 + 4.0 * h, 2.8)


def student_t_predicted():
    def logpdf(x, h, raw):
        return scipy.stats.t.logpdf(x, 5.0, h, softplus(raw) + SCALE_FLOOR)

    return StudentT(5.0, "predicted").bind(COLUMNS), logpdf


def poisson():
    return Poisson().bind(COLUMNS), lambda x, h: scipy.stats.poisson.logpmf(x, np.exp(h))


def nb_logpmf(x, log_mean, log_theta):
    theta = np.exp(log_theta)
    return scipy.stats.nbinom.logpmf(x, theta, theta / (theta + np.exp(log_mean)))


def negative_binomial():
    one = NegativeBinomial().bind(COLUMNS)
    set_(one.log_theta, [-1.0, 0.5, 6.0])
    return one, lambda x, h: nb_logpmf(x, h, np.array([-1.0, 0.5, 6.0]))


def negative_binomial_predicted():
    return NegativeBinomial("predicted").bind(COLUMNS), nb_logpmf


def categorical():
    def logpmf(x, *logits):
        logits = np.stack(logits, -1)
        chosen = np.take_along_axis(logits, x[..., None].astype(int), -1)[..., 0]
        return chosen - scipy.special.logsumexp(logits, -1)

    return Categorical(4).bind(COLUMNS), logpmf


CASES = [
    bernoulli, continuous_bernoulli, binomial, normal_learnt, normal_per_column, normal_fixed,
    normal_predicted, normal_in_units, student_t, student_t_predicted, poisson, negative_binomial,
    negative_binomial_predicted, categorical,
]  # fmt: skip
ids = [case.__name__ for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_log_prob_is_the_sum_of_the_columns_in_closed_form(case):
    """The first parameter of all columns stands first in h, then the second, and so on."""
    likelihood, logpdf = case()
    h = torch.randn(20, likelihood.num_params)
    assert likelihood.num_params == likelihood.params * COLUMNS
    p = likelihood(h)
    x = p.sample()
    params = np.split(h.numpy(), likelihood.params, axis=-1)
    expected = logpdf(x.numpy(), *params).sum(-1)
    np.testing.assert_allclose(p.log_prob(x).detach().numpy(), expected, rtol=1e-9, atol=1e-9)
    assert p.event_shape == (COLUMNS,) and p.batch_shape == (20,)


@pytest.mark.parametrize("case", CASES[:-1], ids=ids[:-1])  # codes have no mean
def test_draws_have_the_mean_that_is_said(case):
    likelihood, _ = case()
    p = likelihood(torch.randn(likelihood.num_params) / 2)
    draws = p.sample((20_000,))
    error = (draws.mean(0) - p.mean).abs()
    assert (error < 5 * draws.std(0) / len(draws) ** 0.5).all()


@pytest.mark.parametrize("extreme", [-50.0, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_gradients_are_finite_at_extreme_outputs(case, dtype, extreme):
    likelihood = case()[0].to(dtype)
    values = {
        Bernoulli: [0.0, 1.0], ContinuousBernoulli: [0.0, 0.5, 1.0], Binomial: [0.0, 9.0],
        Categorical: [0.0, 3.0],
    }.get(type(likelihood), [0.0, 1000.0])  # fmt: skip
    for value in values:
        h = torch.full((2, likelihood.num_params), extreme, dtype=dtype, requires_grad=True)
        log_p = likelihood(h).log_prob(torch.full((2, COLUMNS), value, dtype=dtype))
        assert log_p.isfinite().all() and log_p.dtype == dtype
        grads = torch.autograd.grad(log_p.sum(), [h, *likelihood.parameters()])
        assert all(g.isfinite().all() for g in grads)


# --- moments and sums ---


def test_negative_binomial_has_the_variance_that_is_said():
    likelihood = NegativeBinomial("predicted").bind(2)
    mean, theta = torch.tensor([3.0, 20.0]), torch.tensor([0.8, 400.0])
    p = likelihood(torch.cat([mean.log(), theta.log()]))
    draws = p.sample((100_000,))
    wanted = mean + mean.square() / theta
    torch.testing.assert_close(p.mean, mean)
    torch.testing.assert_close(draws.mean(0), mean, rtol=0.03, atol=0)
    torch.testing.assert_close(draws.var(0), wanted, rtol=0.05, atol=0)
    exact = scipy.stats.nbinom.var(theta.numpy(), (theta / (theta + mean)).numpy())
    np.testing.assert_allclose(exact, wanted.numpy())


def test_discrete_likelihoods_sum_to_one():
    counts = torch.arange(2000.0)[:, None]
    for one in (Poisson(), NegativeBinomial()):
        assert one.bind(1)(torch.tensor([3.0])).log_prob(
            counts
        ).exp().sum().item() == pytest.approx(1)
    nine = Binomial(9).bind(1)(torch.tensor([0.7]))
    assert nine.log_prob(torch.arange(10.0)[:, None]).exp().sum().item() == pytest.approx(1)


# --- location and scale, and the data's own unit ---


@pytest.mark.parametrize("scale", ["learnt", "predicted", 0.4])
@pytest.mark.parametrize("kind", [Normal, lambda *a, **k: StudentT(4.0, *a, **k)])
def test_the_density_is_one_over_the_datas_own_unit(kind, scale):
    """It is the density of the standardised data, divided by the unit (change of variables)."""
    plain, scaled = kind(scale).bind(1), kind(scale, center=200.0, unit=30.0).bind(1)
    h = torch.randn(plain.num_params)
    x = torch.tensor([215.0])
    standard = plain(h).log_prob((x - 200.0) / 30.0) - math.log(30.0)
    torch.testing.assert_close(scaled(h).log_prob(x), standard)
    grid = torch.linspace(-20_000.0, 20_400.0, 400_001)[:, None]
    total = torch.trapezoid(scaled(h).log_prob(grid).exp(), grid[:, 0])
    assert total.item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(scaled.features(x), (x - 200.0) / 30.0)


def test_for_data_standardises():
    x = torch.randn(500, 2) * torch.tensor([1e4, 1e-3]) + torch.tensor([1e6, 0.0])
    unit = Normal.for_data(x, per_column=True).bind(2)
    z = unit.features(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=1e-9, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(2))
    assert unit.log_scale.shape == (2,)
    assert isinstance(StudentT.for_data(x, df=3.0), StudentT)


def test_for_data_with_constant_missing_and_single_rows():
    x = torch.tensor([0.1]).float().expand(1000, 1).clone()
    assert Normal.for_data(x).unit.item() == 1
    holes = torch.tensor([[1.0, float("nan")], [3.0, float("nan")], [float("nan")] * 2])
    unit = Normal.for_data(holes)
    torch.testing.assert_close(unit.center, torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(unit.unit, torch.tensor([2.0**0.5, 1.0]))
    assert Normal.for_data(torch.ones(1, 2)).unit.tolist() == [1, 1]


def test_scale_has_a_floor():
    h = torch.tensor([0.0, -1e4])
    assert Normal("predicted").bind(1)(h).base_dist.scale.item() == pytest.approx(SCALE_FLOOR)


# --- features ---


def test_features_are_what_an_encoder_should_see():
    x = torch.tensor([[0.0, 3.0]])
    assert torch.equal(Bernoulli().bind(2).features(x), x)
    assert torch.equal(Binomial(6).bind(2).features(x), x / 6)
    assert torch.equal(Poisson().bind(2).features(x), torch.log1p(x))
    codes = Categorical(4).bind(2).features(x)
    assert codes.tolist() == [[1, 0, 0, 0, 0, 0, 0, 1]]
    assert Categorical(4).bind(2).features(x.long()).dtype == torch.get_default_dtype()
    mixed = table((1, Binomial(6)), (1, Categorical(4)))
    assert mixed.features(x).tolist() == [[0, 0, 0, 0, 1]]


@pytest.mark.parametrize("case", CASES, ids=ids)
@given(lead=st.lists(st.integers(1, 3), max_size=3))
def test_leading_dimensions_are_batch_dimensions(case, lead):
    likelihood, _ = case()
    h = torch.randn(*lead, likelihood.num_params)
    p = likelihood(h)
    x = p.sample()
    assert x.shape == (*lead, COLUMNS) and p.batch_shape == tuple(lead)
    assert likelihood.features(x).shape == (*lead, likelihood.num_features)
    flat = likelihood(h.reshape(-1, likelihood.num_params)).log_prob(x.reshape(-1, COLUMNS))
    torch.testing.assert_close(p.log_prob(x).reshape(-1), flat)


# --- binding ---


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_two_models_of_one_likelihood_share_no_parameter(case):
    likelihood, _ = case()
    a, b = likelihood.bind(COLUMNS), likelihood.bind(COLUMNS)
    mine = {id(p) for p in a.parameters()}
    assert not mine & {id(p) for p in b.parameters()}
    assert not mine & {id(p) for p in likelihood.parameters()}


def test_bind_leaves_the_original_alone():
    unbound = NegativeBinomial()
    assert unbound.bind(7).log_theta.shape == (7,)
    assert unbound.x_dim == 0 and not list(unbound.parameters())
    mixed = Mixed([(2, Normal()), (1, NegativeBinomial())])
    bound = mixed.bind(3)
    assert len(list(bound.parameters())) == 2 and not list(mixed.parameters())
    assert not {id(p) for p in bound.parameters()} & {id(p) for p in mixed.bind(3).parameters()}


# --- columns of several kinds ---


def mixed_case():
    return table(
        (2, Normal("predicted")), (1, Categorical(3)), (1, Poisson()), (1, Bernoulli())
    )  # fmt: skip


def test_mixed_is_the_sum_of_its_parts():
    mixed = mixed_case()
    sizes = [p.num_params for p in mixed.parts]
    assert sizes == [4, 3, 1, 1] and mixed.num_params == 9 and mixed.num_features == 7
    h = torch.randn(6, 9)
    p = mixed(h)
    x = p.sample()
    groups = zip(mixed.parts, h.split(sizes, -1), x.split([2, 1, 1, 1], -1), strict=True)
    by_hand = sum(part(g).log_prob(v) for part, g, v in groups)
    torch.testing.assert_close(p.log_prob(x), by_hand)
    with pyro.poutine.trace() as tr, pyro.plate("rows", 6):
        pyro.sample("x", p, obs=x)
    torch.testing.assert_close(tr.trace.log_prob_sum(), by_hand.sum())


def test_mixed_support_is_checked_by_column():
    p = mixed_case()(torch.randn(9))
    good = torch.tensor([-3.0, 0.5, 2.0, 7.0, 1.0])
    assert p.support.check(good)
    for column, value in [(0, math.nan), (2, 3.0), (2, 0.5), (3, -1.0), (4, 0.5)]:
        bad = good.clone()
        bad[column] = value
        assert not p.support.check(bad)
    with pytest.raises(ValueError, match="support"):
        p.log_prob(torch.tensor([0.0, 0.0, 0.0, -1.0, 0.0]))


def test_mixed_sample_mean_and_expand():
    p = mixed_case()(torch.randn(9))
    wide = p.expand((4, 2))
    assert wide.batch_shape == (4, 2) and wide.event_shape == (5,)
    x = wide.sample((3,))
    assert x.shape == (3, 4, 2, 5) and p.support.check(x).all()
    torch.testing.assert_close(wide.log_prob(x), p.log_prob(x))
    assert not p.has_rsample and MixedColumns(p.parts[:1]).has_rsample
    draws = p.sample((40_000,))
    torch.testing.assert_close(
        draws.mean(0)[[0, 1, 3, 4]], p.mean[[0, 1, 3, 4]], atol=0.1, rtol=0.1
    )
    logits = p.parts[1].base_dist.logits
    assert p.mean[2] == logits.argmax()  # of codes, the most probable


def test_mixed_of_reals_is_reparametrised():
    mixed = table((1, Normal(1.0)), (2, StudentT(5.0, 1.0)))
    h = torch.randn(4, 3, requires_grad=True)
    draws = mixed(h).rsample()
    assert torch.equal(torch.autograd.grad(draws.sum(), h)[0], torch.ones(4, 3))


def test_mixed_within_particles():
    mixed = mixed_case()
    with pyro.plate("particles", 5, dim=-2), pyro.plate("rows", 6, dim=-1):
        x = pyro.sample("x", mixed(torch.randn(6, 9)))
    assert x.shape == (5, 6, 5)


def test_mixed_tells_what_it_accepts():
    assert mixed_case().accepts.startswith("2 × reals; 1 × codes 0, ..., 2 (integers); 1 × counts")


# --- a likelihood of one's own ---


def test_a_likelihood_of_ones_own():
    class Gamma(Likelihood):
        params, accepts = 2, "positive reals"

        def distribution(self, log_shape, log_rate):
            return pyro.distributions.Gamma(log_shape.exp(), log_rate.exp())

    h = torch.tensor([0.1, 0.2, -0.3, -0.4])
    x = torch.tensor([1.5, 2.5])
    shape, rate = h[:2].exp().numpy(), h[2:].exp().numpy()
    expected = scipy.stats.gamma.logpdf(x.numpy(), shape, scale=1 / rate).sum()
    assert Gamma().bind(2)(h).log_prob(x).item() == pytest.approx(expected)
    with pytest.raises(TypeError, match="write it"):
        Likelihood().bind(2)(h[:2])


# --- errors ---


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Binomial(0), "total_count counts trials"),
        (lambda: Normal("learned"), "unknown scale 'learned': did you mean 'learnt'"),
        (lambda: Normal(-1.0), "a fixed scale is > 0; given -1.0"),
        (lambda: Normal(0), "a fixed scale is > 0"),
        (lambda: Normal(unit=[1.0, 0.0]), "a unit is > 0"),
        (lambda: Normal(center=[1.0, 2.0]).bind(3), "center has 2 entries for 3 columns"),
        (lambda: StudentT(0.0), "degrees of freedom are > 0"),
        (lambda: NegativeBinomial("colum"), "did you mean 'column'"),
        (lambda: Categorical(1), "at least 2 classes"),
        (lambda: Mixed([]), "at least one part"),
        (
            lambda: Mixed([(2, Normal()), (1, Poisson())]).bind(4),
            r"take 2 \+ 1 columns, but the data",
        ),
        (lambda: Bernoulli().bind(0), "at least one column"),
        (lambda: likelihoods.get("Bernouli"), "did you mean 'bernoulli'"),
    ],
)
def test_constructors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_names_are_listed_and_found():
    for name in likelihoods.available():
        arguments = (3,) if name == "categorical" else ()
        assert isinstance(likelihoods.get(name, *arguments), Likelihood)


def test_repr_shows_the_arguments():
    assert repr(Binomial(16)) == "Binomial(total_count=16)"
    assert "center=[5 values]" in repr(Normal(center=[0.0] * 5))
    assert "df=4.0" in repr(StudentT(scale=2.0))


def test_a_plate_of_particles_expands_every_likelihood():
    for case in CASES:
        likelihood, _ = case()
        with poutine.block(), pyro.plate("particles", 2, dim=-2), pyro.plate("rows", 4, dim=-1):
            x = pyro.sample("x", likelihood(torch.zeros(4, likelihood.num_params)))
        assert x.shape == (2, 4, COLUMNS)
