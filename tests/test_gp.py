"""Gaussian processes of low rank, against dense formulas in float64."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from gpytorch.kernels import LinearKernel, PeriodicKernel, RBFKernel, ScaleKernel
from torch.distributions import MultivariateNormal, kl_divergence

from vaeppl import gp
from vaeppl.config import build, to_config
from vaeppl.errors import ColumnError, StoryError

pytestmark = pytest.mark.usefixtures("double")
ANGLES = torch.arange(16, dtype=torch.float64) * (2 * math.pi / 16)


def close(a, b, tolerance=1e-8):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def process(n=30, h=5, batch=(), seed=0):
    g = torch.Generator().manual_seed(seed)
    v = torch.randn(*batch, n, h, generator=g)
    d = torch.rand(*batch, n, generator=g) + 0.1
    return v, d, v @ v.mT + torch.diag_embed(d)


# --- the distribution ---


@pytest.mark.parametrize("batch", [(), (3,)])
def test_log_prob_is_that_of_the_dense_normal(batch):
    v, d, k = process(batch=batch)
    z = torch.randn(4, *batch, 30)
    exact = MultivariateNormal(torch.zeros(30), k).log_prob(z)
    assert close(gp.LowRankNormal(v, d).log_prob(z), exact)
    assert close(dist.LowRankMultivariateNormal(torch.zeros(30), v, d).log_prob(z), exact)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_kl_from_a_diagonal_normal_is_that_of_the_dense_one(batch):
    v, d, k = process(batch=batch)
    m, s = torch.randn(3, 30), torch.rand(3, 30) + 0.2
    q = dist.Normal(m, s).to_event(1)
    exact = kl_divergence(
        MultivariateNormal(m, torch.diag_embed(s**2)), MultivariateNormal(torch.zeros(30), k)
    )
    assert close(kl_divergence(q, gp.LowRankNormal(v, d).expand((3,))), exact)


def test_one_factor_serves_all_in_a_plate():
    v, d, k = process()
    z = torch.randn(7, 30)
    with pyro.plate("latents", 7):
        fn = (
            pyro.poutine.trace(lambda: pyro.sample("z", gp.LowRankNormal(v, d), obs=z))
            .get_trace()
            .nodes["z"]["fn"]
        )
    assert fn.batch_shape == (7,) and fn._tril.shape == (5, 5)
    assert close(fn.log_prob(z), MultivariateNormal(torch.zeros(30), k).log_prob(z))


def test_gradients_are_those_of_the_dense_normal():
    v, d, _ = process()
    z, m, s = torch.randn(2, 30), torch.randn(2, 30), torch.rand(2, 30) + 0.2
    found = []
    for low in (True, False):
        inputs = [t.clone().requires_grad_() for t in (v, d, m, s)]
        v_, d_, m_, s_ = inputs
        if low:
            p, q = gp.LowRankNormal(v_, d_), dist.Normal(m_, s_).to_event(1)
        else:
            p = MultivariateNormal(torch.zeros(30), v_ @ v_.mT + torch.diag(d_))
            q = MultivariateNormal(m_, torch.diag_embed(s_**2))
        (p.log_prob(z).sum() - kl_divergence(q, p).sum()).backward()
        found.append([t.grad for t in inputs])
    for mine, exact in zip(*found, strict=True):
        assert close(mine, exact)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_many_rows_are_scaled_in_parts_without_a_change(batch, monkeypatch):
    found = []
    for part in (8192, 7):
        monkeypatch.setattr("vaeppl.gp.lowrank.PART", part)
        v, d = (t.requires_grad_() for t in process(batch=batch)[:2])
        g = torch.Generator().manual_seed(1)
        m, sd = torch.randn(3, 30, generator=g), torch.rand(3, 30, generator=g) + 0.1
        prior = gp.LowRankNormal(v, d).expand((3,))
        both = torch.stack(
            [
                kl_divergence(dist.Normal(m, sd).to_event(1), prior).sum(),
                prior.log_prob(m).sum(),
            ]
        )
        found.append([both, *torch.autograd.grad(both.sum(), (v, d))])
    assert all(close(a, b) for a, b in zip(*found, strict=True))


def test_draws_have_the_covariance():
    v, d, k = process(n=4, h=2)
    z = gp.LowRankNormal(v, d).rsample((200_000,))
    assert torch.allclose(torch.cov(z.T), k, atol=0.05 * float(k.diagonal().max()))
    assert close(gp.LowRankNormal(v, d).variance, k.diagonal())


def test_an_unequal_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="30 rows and the diagonal 29"):
        gp.LowRankNormal(torch.zeros(30, 2), torch.ones(29))


# --- kernels on columns ---


def columns(n=40, seed=1):
    g = torch.Generator().manual_seed(seed)
    return {
        "angle": ANGLES[torch.randint(16, (n,), generator=g)],
        "object": torch.randint(6, (n,), generator=g),
        "features": torch.randn(6, 3, generator=g)[torch.randint(6, (n,), generator=g)],
        "time": torch.rand(n, generator=g),
    }


def ready(kernel, w, latent_dim=4, num_inducing=64):
    kernel = gp.bound(gp.for_data(kernel, w, num_inducing), latent_dim)
    return kernel, gp.matrix(kernel, w)


TABLE = torch.randn(6, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
EXACT = {
    "periodic x linear": lambda: gp.On("angle", "periodic", period_length=2 * math.pi)
    * gp.On("features", "linear"),
    "gpytorch's own": lambda: gp.On("angle", ScaleKernel(PeriodicKernel()) + RBFKernel())
    * gp.On("features", LinearKernel(ard_num_dims=3)),
    "sum": lambda: gp.On("angle", "rbf") + gp.On("object", "same") * gp.On("angle", "periodic"),
    "scaled": lambda: gp.Scaled(gp.On("angle", "matern", nu=1.5), 2.5) + gp.On("object", "same"),
    "gpytorch's scale": lambda: ScaleKernel(gp.On("angle", "rbf") * gp.On("features", "linear")),
    "table": lambda: gp.On("object", "linear", features=gp.Table(6, 3, start=TABLE))
    * gp.On("angle", "cosine"),
    "of each latent": lambda: gp.On(
        "angle", RBFKernel(batch_shape=torch.Size([4]))
    ) * gp.On("features", "linear"),
    "all points": lambda: gp.On("time", "matern", nu=0.5, lengthscale=0.1),
}  # fmt: skip


def spread_hyperparameters(kernel):
    for i, p in enumerate(kernel.parameters()):
        if p.requires_grad:
            p.data.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))


@pytest.mark.parametrize("name", EXACT)
def test_low_rank_is_the_kernel_where_the_points_are_its_inputs(name):
    kernel, inputs = ready(EXACT[name](), columns())
    spread_hyperparameters(kernel)
    v, rest = gp.low_rank(kernel, inputs)
    dense = gp.covariance(kernel, inputs)
    assert v.shape[-1] == gp.rank(kernel)
    assert v.shape[:-2] == kernel.batch_shape
    assert close(v @ v.mT, dense.expand_as(v @ v.mT)) and rest.max() < 1e-8


def test_elsewhere_the_diagonal_makes_up_for_what_is_missing():
    w = {"time": torch.rand(200, dtype=torch.float64)}
    kernel, inputs = ready(gp.On("time", "rbf", lengthscale=0.05), w, num_inducing=8)
    v, rest = gp.low_rank(kernel, inputs)
    dense = gp.covariance(kernel, inputs)
    assert close(v.square().sum(-1) + rest, dense.diagonal())
    # What is missing is a covariance itself: K - V Vᵀ is positive semi-definite.
    assert torch.linalg.eigvalsh(dense - v @ v.mT).min() > -1e-8
    assert rest.max() > 0.1


def test_the_dense_product_is_gpytorchs():
    w = columns()
    kernel, inputs = ready(
        gp.On("angle", "periodic", period_length=1.3) * gp.On("features", "linear"), w
    )
    periodic, linear = PeriodicKernel(), LinearKernel()
    periodic.initialize(period_length=1.3)
    plain = periodic(w["angle"].unsqueeze(-1)).to_dense() * linear(w["features"]).to_dense()
    assert close(gp.covariance(kernel, inputs), plain)


def test_hyperparameters_and_features_have_gradients():
    w = columns()
    kernel = gp.On("angle", "rbf") * gp.On("object", "linear", features=gp.Table(6, 3))
    kernel, inputs = ready(kernel + gp.On("time", "matern", nu=1.5, learn_inducing=True), w, 4, 16)
    v, rest = gp.low_rank(kernel, inputs)
    (v.square().sum() + v.sum() + rest.log1p().sum()).backward()
    names = dict(kernel.named_parameters())
    assert any("inducing" in n for n in names) and any("features" in n for n in names)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in names.values())


def test_a_hyperparameter_stays_where_it_is_fixed():
    kernel = gp.On("angle", "periodic", period_length=2 * math.pi, fixed=("period_length",))
    learnt = [n for n, p in kernel.named_parameters() if p.requires_grad]
    assert learnt == ["base.raw_lengthscale"]
    assert float(kernel.base.period_length) == pytest.approx(2 * math.pi)


def test_kernels_are_built_again_from_their_configuration():
    w = columns()
    kernel = gp.Scaled(
        gp.On("angle", "periodic", period_length=2.0)
        * gp.On("object", "linear", features=gp.Table(6, 3, start=TABLE))
        + gp.On("time", "matern", nu=1.5, lengthscale=0.3, fixed=["lengthscale"]),
        0.5,
    )
    kernel = gp.for_data(kernel, w)
    again = build(to_config(kernel))
    first, second = gp.bound(kernel, 2), gp.bound(again, 2)
    assert close(
        gp.covariance(first, gp.matrix(first, w)), gp.covariance(second, gp.matrix(second, w))
    )
    assert [p.requires_grad for p in first.parameters()] == [
        p.requires_grad for p in second.parameters()
    ]


@pytest.mark.parametrize(("distinct", "dim", "points"), [(5, 1, 5), (50, 1, 16), (50, 2, 16)])
def test_inducing_points_are_the_distinct_rows_or_spread_over_them(distinct, dim, points):
    x = torch.rand(distinct, dim)[torch.arange(100) % distinct]
    found = gp.On("x", "rbf").for_data({"x": x}, 16).inducing
    assert found.shape == (points, dim)
    assert bool((found >= x.min(0).values - 1e-9).all() and (found <= x.max(0).values + 1e-9).all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gp.On("x", "rfb"), "unknown kernel 'rfb': did you mean 'rbf'"),
        (lambda: gp.On("x", "rbf", lenghtscale=1.0), "unknown hyperparameter of RBFKernel"),
        (lambda: gp.On("x", "rbf", fixed=["period"]), "Known: lengthscale"),
        (lambda: gp.On("x", "rbf", lengthscale=-1.0), "lengthscale=-1.0 is no value for the RBF"),
        (lambda: gp.On("x", RBFKernel(), lengthscale=1.0), "has its options already"),
        (lambda: gp.On("x", 3), "a kernel is an object of gpytorch.kernels"),
        (lambda: gp.On("x", "rbf", inducing=[1.0, 2.0]), r"\(Q, D\), a row for each"),
        (lambda: gp.Table(5, 2, start=torch.zeros(4, 2)), "5 levels and 2 features"),
        (lambda: gp.On("x", "rbf") * 2.0, "multiplied with and added to kernels"),
        (lambda: gp.bound(RBFKernel(), 2), "a RBFKernel does not say which column"),
        (lambda: gp.bound(gp.On("x", "rbf") * RBFKernel(), 2), "gp.On"),
        (
            lambda: gp.bound(gp.On("x", "rbf", batch_shape=[3]), 2),
            r"batch shape \(3,\); give batch_shape=\[2\]",
        ),
        (
            lambda: gp.bound(gp.On("x", "linear", dim=2) + gp.On("x", "linear"), 2),
            "one with dim=2 and one with dim=1",
        ),
        (lambda: gp.rank(gp.On("x", "rbf")), "has no inducing points"),
    ],
)
def test_what_makes_no_kernel_is_refused(make, message):
    with pytest.raises((ValueError, TypeError, StoryError), match=message):
        make()


def test_columns_that_do_not_fit_are_named():
    kernel = gp.bound(gp.On("x", "linear", dim=2), 1)
    with pytest.raises(ColumnError, match=r"on column 'x', which the data lack: they have 'time'"):
        gp.matrix(kernel, {"time": torch.zeros(3)})
    with pytest.raises(ColumnError, match=r"'x' has 3 entries a row, but the kernel .* for 2"):
        gp.matrix(kernel, {"x": torch.zeros(4, 3)})
    table = gp.bound(gp.On("x", "linear", features=gp.Table(5, 2)), 1)
    with pytest.raises(ColumnError, match=r"outside 0, ..., 4.* run from 2 to 7"):
        gp.low_rank(table, torch.tensor([[2.0], [7.0]]))


# --- factorisation ---


@pytest.mark.parametrize("lengthscale", [0.3, 4.0, 8.0, 100.0, 1e6])
def test_long_lengthscales_are_handled(lengthscale):
    w = {"angle": ANGLES.repeat(3)}
    kernel, inputs = ready(gp.On("angle", "rbf", lengthscale=lengthscale), w)
    v, rest = gp.low_rank(kernel, inputs)
    assert close(v @ v.mT, gp.covariance(kernel, inputs), 1e-6)
    (v.square().sum() + rest.sum() + v.sum()).backward()
    assert all(p.grad.isfinite().all() for p in kernel.parameters() if p.grad is not None)


def test_points_that_coincide_are_handled():
    points = torch.tensor([[0.0], [0.5], [0.5], [1.0]])
    kernel = gp.bound(gp.On("x", "rbf", inducing=points), 1)
    v, _ = gp.low_rank(kernel, points)
    assert close(v @ v.mT, gp.covariance(kernel, points), 1e-6)


def test_jitter_is_added_only_as_far_as_needed():
    well = torch.eye(3) + 0.5
    assert close(gp.cholesky(well) @ gp.cholesky(well).mT, well, 1e-9)
    singular = torch.ones(3, 3)
    factor = gp.cholesky(singular)
    assert close(factor @ factor.mT, singular, 1e-6)
    assert gp.cholesky(torch.eye(2).float()).dtype == torch.float64


def test_what_is_no_covariance_is_refused():
    with pytest.raises(StoryError, match="is it a valid kernel"):
        gp.cholesky(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(StoryError, match="NaN or infinity"):
        gp.cholesky(torch.full((2, 2), math.nan))
    kernel = gp.bound(gp.On("x", "rbf", inducing=[[0.0], [1.0]]), 1)
    kernel.base.raw_lengthscale.data.fill_(math.nan)
    with pytest.raises(StoryError, match="RBFKernel on column 'x' has no Cholesky factor"):
        gp.low_rank(kernel, torch.rand(4, 1))


# --- weights ---


def test_weights_given_values_predict_as_the_dense_process_does():
    v, d, k = process(n=30, h=5)
    new, rest = torch.randn(6, 5), torch.rand(6)
    mean, variance = torch.randn(30, 2), torch.rand(30, 2)
    weights = gp.weights_given(v, d, mean, variance)
    gain = new @ v.mT @ torch.linalg.inv(k)  # E[f*] = gain Z
    exact_mean = gain @ mean
    f = new @ new.mT - gain @ v @ new.mT
    exact = [f + gain @ torch.diag(variance[:, i]) @ gain.mT for i in range(2)]
    assert close(gp.values_given(weights.mean, new, rest).mean, exact_mean)
    for i in range(2):
        assert close(new @ weights.covariance[i] @ new.mT, exact[i])
    found_mean, found_sd = gp.prediction.predictive_moments(weights, new, rest)
    assert close(found_mean, exact_mean)
    assert close(found_sd.square(), torch.stack([e.diagonal() + rest for e in exact], -1))


def test_weights_of_each_latent_have_their_own_features():
    v, d, _ = process(n=20, h=3, batch=(2,))
    mean, variance = torch.randn(20, 2), torch.rand(20, 2)
    together = gp.weights_given(v, d, mean, variance)
    for i in range(2):
        alone = gp.weights_given(v[i], d[i], mean[:, i : i + 1], variance[:, i : i + 1])
        assert close(together.mean[i], alone.mean[0])
        assert close(together.covariance[i], alone.covariance[0])
    u = torch.randn(5, 2, 3)
    values = gp.values_given(u.unsqueeze(-3), v, d)
    assert values.batch_shape == (5, 20) and values.event_shape == (2,)
    assert close(values.mean[3, :, 1], v[1] @ u[3, 1])
    assert close(values.base_dist.scale[0, :, 1], d[1].sqrt())


def test_rows_may_be_added_in_parts():
    v, d, _ = process()
    mean, variance = torch.randn(30, 2), torch.rand(30, 2)
    sums = gp.WeightSums()
    for part in torch.arange(30).split(7):
        sums.add(v[part], d[part], mean[part], variance[part])
    whole = gp.weights_given(v, d, mean, variance)
    assert close(sums.weights().mean, whole.mean)
    assert close(sums.weights().covariance, whole.covariance)


def test_the_guide_of_the_weights_takes_any_normal():
    v, d, _ = process()
    weights = gp.weights_given(v, d, torch.randn(30, 2), torch.rand(30, 2))
    guide = gp.WeightsGuide(2, 5)
    start = guide().base_dist
    assert close(start.covariance_matrix, torch.eye(5).expand(2, 5, 5), 1e-4)
    guide.set(weights)
    q = guide().base_dist
    assert close(q.loc, weights.mean) and close(q.covariance_matrix, weights.covariance)
    assert guide().event_shape == gp.weights_prior(guide.loc).event_shape == (2, 5)


# --- parts ---


def test_in_parts_nothing_changes_but_the_memory():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    found = []
    for rows in (100, 7):
        x = torch.arange(200.0).reshape(50, 4).div(100).requires_grad_()
        network.zero_grad()
        y = gp.in_parts(network, rows, x)
        y.square().sum().backward()
        found.append([y, x.grad, *[p.grad.clone() for p in network.parameters()]])
    assert all(close(a, b, 1e-10) for a, b in zip(*found, strict=True))
    with torch.no_grad():
        assert close(gp.in_parts(network, 7, x), found[0][0])


def test_observations_in_parts_are_the_same_distribution():
    layer = torch.nn.Linear(2, 3)

    def observe(z):
        return dist.Normal(layer(z), 0.5).to_event(1)

    z, x = torch.randn(20, 2, requires_grad=True), torch.randn(20, 3)
    parts, whole = gp.InParts(observe, z, 6), observe(z)
    assert close(parts.log_prob(x), whole.log_prob(x)) and close(parts.mean, whole.mean)
    assert parts.sample((2,)).shape == parts.rsample((2,)).shape == (2, 20, 3)
    assert parts.has_rsample
    assert parts.support.check(x).all()
    mine = torch.autograd.grad(parts.log_prob(x).sum(), [z, layer.weight])
    exact = torch.autograd.grad(whole.log_prob(x).sum(), [z, layer.weight])
    assert all(close(a, b) for a, b in zip(mine, exact, strict=True))


@pytest.mark.parametrize(
    "gram", [torch.eye(3), torch.ones(3, 3), torch.tensor([[1.0, 1 + 1e-7], [1 + 1e-7, 1.0]])]
)
def test_the_factor_in_a_graph_has_the_same_jitter(gram):
    """What chooses it by a look, and what does so by operations alone."""
    from torch.fx.experimental.proxy_tensor import make_fx

    gram = gram.double().requires_grad_()
    graph = make_fx(lambda k: torch.autograd.grad(gp.cholesky(k).sum(), k)[0])(gram)
    eager = torch.autograd.grad(gp.cholesky(gram).sum(), gram)[0]
    assert torch.equal(graph(gram), eager)
    other = (torch.eye(len(gram)).double() + 0.5).requires_grad_()
    expected = torch.autograd.grad(gp.cholesky(other).sum(), other)[0]
    assert close(graph(other), expected, 1e-9)


def test_the_kl_of_the_weights_has_a_closed_form():
    guide = gp.WeightsGuide(3, 4)
    torch.nn.init.normal_(guide.loc)
    torch.nn.init.normal_(guide.raw)
    dense = dist.MultivariateNormal(torch.zeros(3, 4), torch.eye(4)).to_event(1)
    found = torch.distributions.kl_divergence(guide(), gp.weights_prior(guide.loc))
    assert close(found, torch.distributions.kl_divergence(guide(), dense), 1e-4)
    twice = [q.expand(torch.Size([2])) for q in (guide(), gp.weights_prior(guide.loc))]
    assert close(torch.distributions.kl_divergence(*twice), found.expand(2), 1e-4)
