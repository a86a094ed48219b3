"""The distributions of vaeppl where Pyro's own lose digits: against quadrature and 50 digits."""

from __future__ import annotations

import math
from itertools import pairwise, product

import mpmath
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from vaeppl import distributions
from vaeppl.distributions import ContinuousBernoulli as CB
from vaeppl.distributions import NegativeBinomial as NB
from vaeppl.distributions import Poisson
from vaeppl.distributions import ZeroInflatedNegativeBinomial as ZINB
from vaeppl.distributions import ZeroInflatedPoisson as ZIP

pytestmark = pytest.mark.usefixtures("double")


def cb_logpdf(x, h):
    return h * x - (math.log(math.expm1(h) / h) if h else 0.0)


# --- the continuous Bernoulli ---


def integral(p, weight=lambda u: 1.0):
    """Integrate over [0, 1] with the density of p, in pieces since it may be very steep."""
    cuts = [0.0, 1e-3, 0.1, 0.5, 0.9, 0.999, 1.0]

    def height(u):
        return weight(u) * p.log_prob(torch.tensor(u)).exp().item()

    return sum(quad(height, a, b)[0] for a, b in pairwise(cuts))


LOGITS = [-300.0, -50.0, -3.0, -1e-2, -1e-9, 0.0, 1e-4, 0.0999, 0.1001, 17.0, 80.0]


@pytest.mark.parametrize("h", LOGITS)
def test_continuous_bernoulli_integrates_to_one(h):
    p = CB(logits=torch.tensor(h))
    assert integral(p) == pytest.approx(1, abs=1e-7)
    assert p.mean.item() == pytest.approx(integral(p, lambda u: u), abs=1e-7)


@given(st.floats(-60, 60), st.floats(0, 1))
def test_continuous_bernoulli_in_single_precision(h, x):
    """Pyro's own errs by a nat at |h| = 50, where sigmoid(h) rounds to 0 or 1."""
    h, x = np.float32(h).item(), np.float32(x).item()
    found = CB(logits=torch.tensor(h, dtype=torch.float32)).log_prob(torch.tensor(x).float())
    assert found.item() == pytest.approx(cb_logpdf(x, h), abs=2e-5)


@pytest.mark.parametrize("h", [-0.1, 0.1, -1e-3, 1e-3, 0.0])
def test_continuous_bernoulli_is_smooth_where_its_formulas_meet(h):
    logits = torch.tensor([h - 1e-7, h + 1e-7], requires_grad=True)
    p = CB(logits=logits)
    for f in (p.log_prob(torch.tensor(0.3)), p.mean, p.icdf(torch.tensor(0.3))):
        slope = torch.autograd.grad(f.sum(), logits, retain_graph=True)[0]
        torch.testing.assert_close(f[0], f[1], atol=1e-6, rtol=0)
        torch.testing.assert_close(slope[0], slope[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("h", [-40.0, -2.0, 0.0, 0.05, 40.0])
def test_continuous_bernoulli_quantiles(h):
    p = CB(logits=torch.tensor(h))
    u = torch.linspace(0, 1, 11)
    x = p.icdf(u)
    mass = [quad(lambda v: p.log_prob(torch.tensor(v)).exp().item(), 0, b)[0] for b in x.tolist()]
    np.testing.assert_allclose(mass, u.numpy(), atol=1e-6)
    assert x[0] == 0 and x[-1] == 1
    assert p.expand((4, 1)).sample().shape == (4, 1)


# --- counts: against the closed form in 50 digits ---

COUNTS = [0.0, 1.0, 2.0, 7.0, 33.0, 1000.0, 3e4, 1e6]
LOG_MEANS = [math.log(10.0) * k for k in range(-8, 9)] + [0.3, 45.0, 90.0, 100.0, -100.0, -300.0]
DISPERSIONS = [10.0**k for k in range(-4, 9)] + [0.37, 3.3, 49.9]
# Counts within three standard deviations of a Poisson mean, where log p is a small difference.
NEAR_THE_MEAN = [
    (x, math.log(x) + z / math.sqrt(x), theta)
    for x in COUNTS[1:]
    for z in (-3.0, -0.1, 0.0, 1.0)
    for theta in (0.37, 1e3, 1e8)
]
EVERYWHERE = list(product(COUNTS, LOG_MEANS, DISPERSIONS)) + NEAR_THE_MEAN
GATES = [-500.0, -50.0, -2.0, 0.3, 50.0, 500.0]
DTYPES = [torch.float32, torch.float64]


def columns(grid, dtype):
    """Return a tensor of each parameter, and the numbers that the tensors hold, for mpmath."""
    tensors = [torch.tensor(column, dtype=dtype) for column in zip(*grid, strict=True)]
    return tensors, [
        tuple(map(mpmath.mpf, row)) for row in zip(*(t.tolist() for t in tensors), strict=True)
    ]


def with_gradients(make, x, *parameters):
    """Return log p(x) and its derivative by each parameter."""
    parameters = [p.clone().requires_grad_() for p in parameters]
    log_prob = make(*parameters).log_prob(x)
    return log_prob.detach(), *torch.autograd.grad(log_prob.sum(), parameters)


def error(found, exact):
    """Return |found - exact|, subtracted in 50 digits, where both are finite."""
    assert torch.isfinite(found).all()
    pairs = zip(found.tolist(), exact, strict=True)
    return np.array([float(abs(mpmath.mpf(f) - e)) for f, e in pairs])


def at_least_one(*sizes):
    return np.max([np.ones(len(sizes[0])), *(np.abs(np.array(s, float)) for s in sizes)], axis=0)


@pytest.fixture
def fifty_digits():
    with mpmath.workdps(50):
        yield


def nb_mp(x, log_mean, theta):
    """Return log p, its derivatives by log μ and log θ, and the size of the former's terms."""
    mean, g = mpmath.exp(log_mean), mpmath.loggamma
    log_prob = (
        g(x + theta) - g(theta) - g(x + 1)
        - theta * mpmath.log1p(mean / theta) - x * mpmath.log1p(theta / mean)
    )  # fmt: skip
    psi = mpmath.digamma
    by_theta = (
        psi(x + theta) - psi(theta) - mpmath.log1p(mean / theta) + (mean - x) / (theta + mean)
    )
    share = theta / (theta + mean)
    return log_prob, share * (x - mean), theta * by_theta, share * (x + mean)


def poisson_mp(x, log_mean):
    mean = mpmath.exp(log_mean)
    return x * log_mean - mean - mpmath.loggamma(x + 1), x - mean


def zero_inflated_mp(x, log_prob, gate):
    """Return log p and its derivatives by the log-probability of the counts and by the gate."""
    taken = 1 / (1 + mpmath.exp(-gate))
    if x > 0:
        return log_prob - mpmath.log1p(mpmath.exp(gate)), mpmath.mpf(1), -taken
    zero = mpmath.exp(log_prob)
    odds = mpmath.exp(gate)
    both = mpmath.log((odds + zero) / (odds + 1))
    return both, zero / (odds + zero), odds / (odds + zero) - taken


@pytest.mark.usefixtures("fifty_digits")
@pytest.mark.parametrize("dtype", DTYPES)
def test_negative_binomial_in_fifty_digits(dtype):
    """From μ = exp(-300) to exp(100) and θ = 1e-4 to 1e8, counts up to a million.

    In units of ε = 1.2e-7 (2.2e-16) the error is below 3 (20) times the largest of 1, |log p| and
    |∂ log p / ∂ log μ|; the last is what rounding log μ alone makes, and matters for counts of
    which the standard deviation is over a hundred. The double's is of its polynomial.
    """
    eps = torch.finfo(dtype).eps
    units = 3 if dtype is torch.float32 else 20
    (x, log_mean, theta), rows = columns(EVERYWHERE, dtype)
    log_prob, by_log_mean, by_theta = with_gradients(
        lambda m, t: NB(t, log_mean=m), x, log_mean, theta
    )
    exact, slope, theta_slope, terms = zip(*(nb_mp(*row) for row in rows), strict=True)
    off = error(log_prob, exact)
    assert (off <= units * eps * at_least_one(exact, slope)).all()
    assert (off <= 300 * eps * at_least_one(exact)).all()
    usual = (x <= 1000).numpy()
    assert (off <= 20 * eps * at_least_one(exact))[usual].all()
    # The derivatives are differences too: x - μ, of which μ = exp(log μ) was rounded.
    assert (error(by_log_mean, slope) <= 3 * eps * at_least_one(terms)).all()
    wide = 8 if dtype is torch.float32 else 1e4
    off = error(by_theta.double() * theta.double(), theta_slope)
    assert (off <= wide * eps * at_least_one(theta_slope, terms)).all()


@pytest.mark.usefixtures("fifty_digits")
@pytest.mark.parametrize("dtype", DTYPES)
def test_poisson_in_fifty_digits(dtype):
    eps, units = torch.finfo(dtype).eps, 3 if dtype is torch.float32 else 20
    grid = [(x, m) for x, m in product(COUNTS, LOG_MEANS) if m < 80]
    grid += [(x, m) for x, m, _ in NEAR_THE_MEAN]
    (x, log_mean), rows = columns(grid, dtype)
    log_prob, by_log_mean = with_gradients(lambda m: Poisson(log_mean=m), x, log_mean)
    exact, slope = zip(*(poisson_mp(*row) for row in rows), strict=True)
    assert (error(log_prob, exact) <= units * eps * at_least_one(exact, slope)).all()
    terms = (x + log_mean.exp()).tolist()
    assert (error(by_log_mean, slope) <= 3 * eps * at_least_one(terms)).all()


@pytest.mark.usefixtures("fifty_digits")
@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_inflated_negative_binomial_in_fifty_digits(dtype):
    eps = torch.finfo(dtype).eps
    units = 4 if dtype is torch.float32 else 20
    grid = list(product([0.0, 1.0, 33.0], LOG_MEANS, [1e-4, 0.37, 3.3, 1e4, 1e8], GATES))
    (x, log_mean, theta, gate), rows = columns(grid, dtype)
    log_prob, by_log_mean, by_theta, by_gate = with_gradients(
        lambda m, t, g: ZINB(t, log_mean=m, gate_logits=g), x, log_mean, theta, gate
    )
    counted = [nb_mp(*row[:3]) for row in rows]
    mixed = [zero_inflated_mp(r[0], c[0], r[3]) for r, c in zip(rows, counted, strict=True)]
    exact, by_counted, gate_slope = zip(*mixed, strict=True)
    counts, slope, theta_slope, terms = zip(*counted, strict=True)
    # Where the gate makes nearly all zeros, log p(0) is near zero but comes of log NB(0).
    assert (error(log_prob, exact) <= units * eps * at_least_one(exact, counts, slope)).all()
    size = at_least_one(terms, counts, theta_slope)
    slope = [a * b for a, b in zip(by_counted, slope, strict=True)]
    theta_slope = [a * b for a, b in zip(by_counted, theta_slope, strict=True)]
    wide = 8 if dtype is torch.float32 else 1e4
    assert (error(by_log_mean, slope) <= 8 * eps * size).all()
    assert (error(by_theta.double() * theta.double(), theta_slope) <= wide * eps * size).all()
    assert (error(by_gate, gate_slope) <= 4 * eps * at_least_one(counts)).all()


@pytest.mark.parametrize("theta", [0.05, 1.0, 30.0, 2e3])
def test_negative_binomial_is_scipys(theta):
    x, mean = torch.arange(300.0), torch.tensor([0.02, 1.0, 40.0, 900.0])[:, None]
    found = NB(theta, mean=mean).log_prob(x).numpy()
    expected = scipy.stats.nbinom.logpmf(x.numpy(), theta, (theta / (theta + mean)).numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-9)
    pyros = dist.NegativeBinomial(theta, logits=(mean / theta).log()).log_prob(x).numpy()
    np.testing.assert_allclose(found, pyros, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: NB(0.4, mean=20.0),
        lambda: Poisson(mean=8.0),
        lambda: ZIP(mean=8.0, gate_logits=-1.0),
        lambda: ZINB(0.4, mean=20.0, gate_logits=1.5),
    ],
)
def test_counts_sum_to_one_with_the_moments_they_name(make):
    p, x = make(), torch.arange(3000.0)
    mass = p.log_prob(x).exp()
    mean = (mass * x).sum()
    assert mass.sum().item() == pytest.approx(1, abs=1e-7)
    assert p.mean.item() == pytest.approx(mean.item(), rel=1e-6)
    assert p.variance.item() == pytest.approx((mass * (x - mean).square()).sum().item(), rel=1e-6)


def test_zero_inflated_poisson_is_pyros():
    x, log_mean, gate = torch.arange(9.0), torch.randn(4, 1), torch.randn(4, 1)
    ours = ZIP(log_mean=log_mean, gate_logits=gate).log_prob(x)
    theirs = dist.ZeroInflatedPoisson(log_mean.exp(), gate_logits=gate).log_prob(x)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("theta", [1e14, 1e20, 1e30])
def test_negative_binomial_of_large_dispersion_is_a_poisson(dtype, theta):
    x = torch.tensor(COUNTS, dtype=dtype)
    log_mean = torch.tensor([[-20.0], [0.0], [6.0], [13.8]], dtype=dtype)
    found = with_gradients(lambda m: NB(torch.tensor(theta, dtype=dtype), log_mean=m), x, log_mean)
    expected = with_gradients(lambda m: Poisson(log_mean=m), x, log_mean)
    loose = 1e-5 if dtype is torch.float32 else 1e-8
    torch.testing.assert_close(found, expected, rtol=loose, atol=loose)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_log_mean_may_be_any_number(dtype):
    """Beyond exp(±60) log p is θ (log θ - log μ) or x log μ, and a constant: a straight line."""
    log_mean = torch.tensor([-1e4, -1e3, -61.0, 61.0, 1e3, 1e4], dtype=dtype)
    x = torch.tensor([[0.0], [5.0]], dtype=dtype)
    theta = torch.tensor(2.0, dtype=dtype)
    log_prob, slope, by_theta = with_gradients(lambda m, t: NB(t, log_mean=m), x, log_mean, theta)
    low = log_mean < 0
    five = math.log(math.comb(6, 5)) - 5 * math.log(2.0) + 5 * log_mean
    above = 2 * math.log(2.0) - 2 * log_mean
    expected = torch.stack(
        [torch.where(low, 0.0, above), torch.where(low, five, above + math.log(6.0))]
    )
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(slope, torch.where(low, 5.0, -4.0).to(dtype))  # of both counts
    assert torch.isfinite(by_theta)
    _, slope = with_gradients(lambda m: Poisson(log_mean=m), x, log_mean[low])
    torch.testing.assert_close(slope, torch.full((3,), 5.0, dtype=dtype))
    limits = torch.tensor([-math.inf, math.inf], dtype=dtype)
    mass = NB(theta, log_mean=limits).log_prob(x).exp()
    assert mass.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    for make in (lambda m: ZINB(theta, log_mean=m, gate_logits=0.0),
                 lambda m: ZIP(log_mean=m, gate_logits=0.0)):  # fmt: skip
        log_prob, slope = with_gradients(make, x, limits)
        assert log_prob.exp().tolist() == [[1.0, 0.5], [0.0, 0.0]]
        assert torch.isfinite(slope).all()


def test_a_library_of_any_size_in_single_precision():
    """In linear space the library is infinite from log ℓ = 89 on."""
    log_library = torch.linspace(0.0, 100.0, 101, dtype=torch.float32)[:, None]
    log_share = torch.linspace(-120.0, 0.0, 50, dtype=torch.float32).requires_grad_()
    theta = torch.logspace(-4, 8, 50, dtype=torch.float32).requires_grad_()
    gate = torch.linspace(-90.0, 90.0, 50, dtype=torch.float32).requires_grad_()
    p = ZINB(theta, log_mean=log_library + log_share, gate_logits=gate)
    for x in (0.0, 1.0, 1e6):
        log_prob = p.log_prob(torch.tensor(x, dtype=torch.float32))
        gradients = torch.autograd.grad(log_prob.sum(), [log_share, theta, gate])
        assert all(torch.isfinite(each).all() for each in (log_prob, *gradients))
    assert torch.isfinite(p.sample()).all()


def test_gradients_are_right_to_second_order():
    x = torch.tensor([0.0, 3.0, 40.0])
    parameters = [
        torch.tensor(v, requires_grad=True) for v in ([-0.4, 1.1, 3.7], [0.3, 2.0, 90.0], [-1.0])
    ]

    def log_prob(m, t, g):
        return ZINB(t, log_mean=m, gate_logits=g).log_prob(x)

    def poisson(m):
        return Poisson(log_mean=m).log_prob(x)

    for function, inputs in ((log_prob, parameters), (poisson, parameters[:1])):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("fifty_digits")
def test_the_table_of_stirlings_remainder(dtype):
    """Its numbers interpolate z S(z) in 1/z at the Chebyshev nodes of [0, 1]."""

    def remainder(z):
        z = mpmath.mpf(z)
        return mpmath.loggamma(z) - (z - 0.5) * mpmath.log(z) + z - mpmath.log(2 * mpmath.pi) / 2

    table = distributions.counts.STIRLING[dtype]
    n = len(table)
    nodes = [(1 + mpmath.cos(mpmath.pi * (2 * k + 1) / (2 * n))) / 2 for k in range(n)]
    powers = mpmath.matrix([[w**j for j in range(n)] for w in nodes])
    values = mpmath.matrix([remainder(1 / w) / w for w in nodes])
    assert [float(c) for c in mpmath.lu_solve(powers, values)] == list(table)
    z = torch.tensor([1e-4, 0.3, 0.999, 1.0, 1.001, 2.0, 9.0, 1e3, 1e8], dtype=dtype)
    values = [remainder(v) for v in z.tolist()]
    off = error(distributions.counts._stirling_anywhere(z), values)
    assert (off <= (3e-7 if dtype is torch.float32 else 5e-15) * at_least_one(values)).all()
    slopes = [mpmath.digamma(v) - mpmath.log(v) + 0.5 / mpmath.mpf(v) for v in z.tolist()]
    off = error(distributions.counts._stirling_anywhere(z, derivative=True), slopes)
    assert (off <= (6e-7 if dtype is torch.float32 else 3e-12) * at_least_one(slopes)).all()


# --- counts: draws, shapes and what is refused ---


@pytest.mark.parametrize(
    "make",
    [
        lambda: NB(0.3, mean=5.0),
        lambda: NB(1e6, log_mean=2.0),
        lambda: Poisson(log_mean=-1.0),
        lambda: ZIP(mean=6.0, gate_logits=0.5),
        lambda: ZINB(2.0, mean=30.0, gate_logits=-0.5),
        lambda: ZINB(0.05, log_mean=1.0, gate_logits=-3.0),
    ],
)
def test_draws_have_the_moments_and_the_zeros(make):
    p, n = make(), 200_000
    x = p.sample((n,))
    deviation = x - p.mean
    se = (p.variance / n).sqrt()
    se_variance = ((deviation**4).mean() - p.variance**2).div(n).sqrt()
    zero = p.log_prob(torch.tensor(0.0)).exp()
    assert abs(deviation.mean()) < 4 * se
    assert abs(deviation.square().mean() - p.variance) < 4 * se_variance
    assert abs((x == 0).double().mean() - zero) < 4 * (zero * (1 - zero) / n).sqrt()


def test_draws_of_extreme_parameters_are_counts():
    theta = torch.tensor([1e-20, 1e-4, 1.0, 1e20], dtype=torch.float32)[:, None]
    log_mean = torch.tensor([-1e4, 0.0, 100.0, 1e4], dtype=torch.float32)
    x = ZINB(theta, log_mean=log_mean, gate_logits=-500.0).sample((100,))
    assert x.dtype is torch.float32 and torch.isfinite(x).all()
    assert (x[..., 0] == 0).all() and (x >= 0).all() and (x == x.floor()).all()
    assert (ZINB(theta, log_mean=log_mean, gate_logits=500.0).sample((100,)) == 0).all()
    assert torch.isfinite(Poisson(log_mean=log_mean).sample()).all()


ALL = [Poisson, ZIP, NB, ZINB]


def six_by_five(kind):
    """Return one of batch shape (6, 5), with one parameter of shape (5,) where it has several."""
    parameters = {"log_mean": torch.randn(6, 5)}
    if kind in (NB, ZINB):
        parameters["dispersion"] = torch.rand(5) + 0.5
    if kind in (ZIP, ZINB):
        parameters["gate_logits"] = torch.randn(5)
    return kind(**parameters)


@pytest.mark.parametrize("kind", ALL)
def test_expanding_changes_shapes_only(kind):
    """Pyro's own raises once its mean was asked for."""
    p = six_by_five(kind)
    assert p.batch_shape == (6, 5) and p.event_shape == ()
    assert p.mean.shape == p.variance.shape == (6, 5)
    larger = p.expand((3, 6, 5))
    assert type(larger) is type(p)
    assert larger.batch_shape == (3, 6, 5) and larger.mean.shape == (3, 6, 5)
    assert p.batch_shape == (6, 5)
    assert larger.sample((2,)).shape == (2, 3, 6, 5)
    x = p.sample()
    torch.testing.assert_close(larger.log_prob(x), p.log_prob(x).expand(3, 6, 5))
    torch.testing.assert_close(larger.mean, p.mean.expand(3, 6, 5))
    assert larger.log_prob(torch.tensor(2.0)).shape == (3, 6, 5)
    rows = larger.to_event(1)
    assert rows.batch_shape == (3, 6) and rows.event_shape == (5,)
    assert rows.log_prob(x).shape == (3, 6)
    assert not p.has_enumerate_support and not p.has_rsample
    assert p.support is torch.distributions.constraints.nonnegative_integer
    for shape in [(5,), (6, 4), (3, 6, 1), ()]:
        with pytest.raises(ValueError, match=r"\(6, 5\) cannot be expanded to"):
            p.expand(shape)


def test_a_parameter_of_the_genes_is_computed_once_a_gene(monkeypatch):
    """Under Pyro's plate, which expands the distribution to the cells."""
    seen = []
    anywhere = distributions.counts._stirling_anywhere

    def noting(z, derivative=False):
        seen.append((tuple(z.shape), derivative))
        return anywhere(z, derivative)

    monkeypatch.setattr(distributions.counts, "_stirling_anywhere", noting)
    theta = torch.ones(7, requires_grad=True)

    def model(x):
        with pyro.plate("cells", 4):
            p = ZINB(theta, log_mean=torch.zeros(7), gate_logits=torch.zeros(7)).to_event(1)
            pyro.sample("x", p, obs=x)

    trace = pyro.poutine.trace(model).get_trace(torch.ones(4, 7))
    assert trace.nodes["x"]["fn"].batch_shape == (4,)
    trace.log_prob_sum().backward()
    assert seen == [((7,), False), ((7,), True)]
    # The gradient is summed over the cells.
    one = torch.tensor(1.0, requires_grad=True)
    ZINB(one, log_mean=0.0, gate_logits=0.0).log_prob(torch.tensor(1.0)).backward()
    torch.testing.assert_close(theta.grad, 4 * one.grad.expand(7))


@given(st.sampled_from([(), (1,), (3,), (2, 1), (2, 3)]), st.data())
def test_parameters_and_counts_broadcast(shape, data):
    """Every gradient has its parameter's shape, and the parts of the batch do not mix."""
    shapes = st.sampled_from([(), (1,), (3,), (2, 1), (2, 3)])
    m, t, g = (torch.rand(data.draw(shapes), requires_grad=True) for _ in range(3))
    x = torch.poisson(torch.rand(shape))
    p = ZINB(t, log_mean=m, gate_logits=g)
    log_prob = p.log_prob(x)
    assert p.batch_shape == torch.broadcast_shapes(m.shape, t.shape, g.shape)
    assert log_prob.shape == torch.broadcast_shapes(p.batch_shape, shape)
    full = [v.expand(log_prob.shape) for v in (m, t, g)]
    theirs = dist.ZeroInflatedNegativeBinomial(
        full[1], logits=full[0] - full[1].log(), gate_logits=full[2]
    ).log_prob(x)
    torch.testing.assert_close(log_prob, theirs)
    ours = torch.autograd.grad(log_prob.sum(), [m, t, g])
    for a, b in zip(ours, torch.autograd.grad(theirs.sum(), [m, t, g]), strict=True):
        torch.testing.assert_close(a, b)


def test_the_mean_is_given_in_one_of_three_ways():
    mean, theta, x = torch.tensor([0.5, 20.0]), torch.tensor([3.0, 0.2]), torch.tensor([2.0, 0.0])
    ways = [{"mean": mean}, {"log_mean": mean.log()}, {"logits": (mean / theta).log()}]
    found = [NB(theta, **way).log_prob(x) for way in ways]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
    for wrong in ({}, {"mean": mean, "logits": mean}):
        with pytest.raises(ValueError, match="exactly one of mean, log_mean, logits"):
            NB(theta, **wrong)
    with pytest.raises(ValueError, match="exactly one of mean, log_mean; given none"):
        Poisson()
    assert Poisson(mean=0.0).log_prob(x).exp().tolist() == [0.0, 1.0]


def test_numbers_and_types_are_taken_as_they_come():
    """A number takes the type of the tensors beside it; half precision is computed in single."""
    p = NB(0.1, log_mean=torch.zeros(2, dtype=torch.float32))
    assert p.dispersion.dtype is torch.float32 and p.sample().dtype is torch.float32
    assert p.log_prob(torch.tensor([1, 2])).dtype is torch.float32
    half = NB(torch.tensor(0.1).bfloat16(), log_mean=torch.zeros(2).bfloat16())
    assert half.log_prob(torch.tensor([1.0, 2.0]).bfloat16()).dtype is torch.float32
    mixed = NB(torch.tensor(0.1), log_mean=torch.zeros(2, dtype=torch.float32))
    assert mixed.log_prob(torch.tensor([1.0, 2.0])).dtype is torch.float64


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("x", [-1.0, 0.5, math.nan, math.inf])
def test_what_is_no_count_is_refused(kind, x):
    with pytest.raises(ValueError, match="to be within the support"):
        six_by_five(kind).log_prob(torch.full((6, 5), x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NB(0.0, mean=1.0), "dispersion .* GreaterThan"),
        (lambda: NB(torch.tensor([1.0, -2.0]), log_mean=1.0), "dispersion .* GreaterThan"),
        (lambda: NB(1.0, log_mean=math.nan), "log_mean .* Real"),
        (lambda: ZINB(1.0, log_mean=0.0, gate_logits=math.nan), "gate_logits .* Real"),
        (lambda: Poisson(mean=-3.0), "a mean of counts is >= 0; given -3.0"),
        (
            lambda: NB(torch.ones(3), log_mean=torch.ones(4)),
            r"do not broadcast: .*'dispersion': \(3,\).*'log_mean': \(4,\)",
        ),
    ],
)
def test_parameters_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_vectors_of_zeros_and_ones_have_the_probabilities_given():
    probs = torch.rand(5, 8, dtype=torch.double)
    probs = probs / probs.sum(1, keepdim=True)
    q = distributions.BinaryVectors(probs.log())
    every = q.enumerate_support()
    assert every.shape == (8, 5, 3) and torch.equal(every[5, 0], torch.tensor([1.0, 0, 1]).double())
    assert torch.allclose(q.log_prob(every).exp().T, probs)
    assert torch.allclose(q.mean, (probs.T[..., None] * every).sum(0))
    draws = q.sample((20_000,))
    assert torch.allclose(draws.mean(0), q.mean, atol=0.02)
    assert torch.allclose(draws.var(0), q.variance, atol=0.02)
    assert torch.allclose(q.expand((2, 5)).log_prob(every[:, None]).exp()[:, 0].T, probs)
    with pytest.raises(ValueError, match="6 logits are none for each"):
        distributions.BinaryVectors(torch.zeros(6))
