"""The distributions of vaeppl where Pyro's own lose digits: against quadrature and exact sums."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from vaeppl.distributions import ContinuousBernoulli as CB
from vaeppl.distributions import NegativeBinomial as NB

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


# --- the negative binomial ---


@given(st.floats(-3, 15), st.floats(-8, 8), st.integers(0, 2000))
def test_negative_binomial_in_single_precision(log_theta, log_mean, x):
    """Pyro's own errs by 5 nats at θ = exp(15) in float32."""
    theta, logits = (
        torch.tensor(log_theta).exp().float(),
        torch.tensor(log_mean - log_theta).float(),
    )
    exact_theta, exact_logits = theta.item(), logits.item()
    log_mean = math.log(exact_theta) + exact_logits
    expected = nb_exact(x, exact_theta, math.exp(log_mean))
    found = NB(theta, logits=logits).log_prob(torch.tensor(float(x)).float()).item()
    assert found == pytest.approx(expected, abs=2e-4 + 1e-6 * (x + math.exp(log_mean)) * 8)


def nb_exact(x, theta, mean):
    """Sum of logarithms, in which nothing cancels."""
    rising = np.log1p(np.arange(x) / theta).sum()
    counts = x * math.log(mean) - math.lgamma(1 + x)
    return rising + counts - (x + theta) * math.log1p(mean / theta)


@pytest.mark.parametrize("theta", [49.9, 50.1])
def test_negative_binomial_formulas_meet(theta):
    x = torch.tensor([0.0, 1.0, 30.0, 4000.0])
    logits = torch.tensor(-0.4, requires_grad=True)
    size = torch.tensor(theta, requires_grad=True)
    ours = NB(size, logits=logits).log_prob(x)
    theirs = dist.NegativeBinomial(size, logits=logits).log_prob(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for a, b in zip(
        *(torch.autograd.grad(f.sum(), [size, logits]) for f in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
