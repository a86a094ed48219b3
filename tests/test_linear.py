"""Posteriors of linear stories against brute force, and the bound under Laplace latents."""

import math

import pytest
import torch
from torch.distributions import Laplace, MultivariateNormal, Normal

import vaeppl
from vaeppl import linear
from vaeppl.errors import ColumnError
from vaeppl.models import ICA, PPCA, FactorAnalysis


def story(n=7, d=5, k=3):
    return torch.randn(n, d), torch.randn(d, k), torch.randn(d), torch.rand(d) + 0.3


@pytest.mark.parametrize("per_column", [False, True])
def test_the_normal_posterior_is_that_of_the_joint_normal(per_column, double):
    x, w, b, s = story()
    s = s if per_column else s[0]
    q = linear.linear_normal(x, w, b, s)
    covariance = w @ w.T + torch.diag(s.expand(5) ** 2)
    gain = w.T @ torch.linalg.inv(covariance)
    assert torch.allclose(q.mean, (x - b) @ gain.T)
    assert torch.allclose(q.covariance_matrix, torch.eye(3) - gain @ w)
    z = torch.randn(7, 3)  # Bayes' rule, for any z
    joint = Normal(0.0, 1.0).log_prob(z).sum(-1) + Normal(z @ w.T + b, s).log_prob(x).sum(-1)
    assert torch.allclose(joint - q.log_prob(z), MultivariateNormal(b, covariance).log_prob(x))


def test_a_variance_for_each_row_and_latent(double):
    x, w, b, s = story()
    v = torch.rand(7, 3) + 0.1
    q = linear.linear_normal(x, w, b, s, v)
    for n in range(7):
        scaled = linear.linear_normal(x[n], w * v[n].sqrt(), b, s)  # of z / √v
        assert torch.allclose(q.mean[n], scaled.mean * v[n].sqrt())
        assert torch.allclose(q.variance[n], scaled.variance * v[n])


def test_little_noise_and_latents_next_to_zero_do_no_harm():
    x, w, b, _ = story(d=3)
    q = linear.linear_normal(x, w, b, torch.tensor(1e-4))
    assert torch.allclose(q.mean @ w.T + b, x, atol=1e-3)
    tiny = torch.tensor([1e-12, 1.0, 1e-12]).expand(7, 3)
    q = linear.linear_normal(x, w, b, torch.tensor(1e-2), tiny)
    assert q.mean.isfinite().all() and q.log_prob(q.mean).isfinite().all()
    assert (q.variance[:, 0] <= 1.0001e-12).all()


def bound(x, w, s, variances):
    """Girolami's bound of log p(x) in one dimension, for ξ = √2 times the variances."""
    xi = 2**0.5 * variances
    touching = math.log(2**0.5 / 2) - xi / 2**0.5 + 0.5 * (2 * math.pi * variances).log()
    return touching + Normal(0.0, (w**2 * variances + s**2).sqrt()).log_prob(x)


@pytest.mark.parametrize(("w", "s"), [(1.3, 0.2), (0.8, 1.0)])
def test_each_sweep_raises_the_bound_under_laplace_latents(w, s, double):
    x, weights = torch.tensor([[-2.0], [0.1], [1.0], [4.0]]), torch.tensor([[w]])
    w, s, prior = torch.tensor(w), torch.tensor(s), Laplace(0.0, 2**-0.5)
    z = torch.linspace(-15, 15, 60_001)
    joint = prior.log_prob(z) + Normal(w * z, s).log_prob(x)
    evidence = torch.trapezoid(joint.exp(), z).log()
    last = torch.full((4,), -torch.inf)
    for sweeps in range(1, 30):
        q = linear.linear_laplace(x, weights, torch.zeros(1), s, sweeps - 1)
        variances = (q.mean**2 + q.variance).sqrt() / 2**0.5  # of the next sweep
        now = bound(x[:, 0], w, s, variances[:, 0])
        assert (now >= last - 1e-12).all()
        assert (now <= evidence + 1e-9).all()
        last = now
    assert torch.allclose(last, evidence, atol=0.35)


def test_without_a_sweep_latents_are_taken_for_normal_ones():
    x, w, b, s = story()
    plain, swept = linear.linear_normal(x, w, b, s), linear.linear_laplace(x, w, b, s, 0)
    assert torch.equal(plain.mean, swept.mean)


def test_as_noise_goes_to_zero_the_latents_are_told_exactly(double):
    x, w, b, _ = story(d=3)
    q = linear.linear_laplace(x, w, b, torch.tensor(1e-5), 3)
    assert torch.allclose(q.mean, torch.linalg.solve(w, (x - b).T).T, atol=1e-5)


def test_particles_stand_in_front():
    x, w, b, s = story()
    for q in (linear.linear_normal(x, w, b, s), linear.linear_laplace(x, w, b, s)):
        assert q.expand([4, 7]).rsample().shape == (4, 7, 3)


@pytest.mark.parametrize("start", [PPCA.closed_form, ICA.for_data])
def test_principal_axes_need_every_entry(start):
    x = torch.randn(50, 4)
    for value in (math.nan, math.inf):
        x[7, 2] = value
        message = rf"column 'x' holds {value} at row 7, entry 2 .* drop the row or fill the entry"
        with pytest.raises(ColumnError, match=message):
            start({"x": x})


@pytest.mark.parametrize("story", [PPCA, FactorAnalysis])
def test_the_unit_is_that_of_the_entries_that_are_there(story):
    x = 3.0 + 2.0 * torch.randn(50, 4)
    whole = story.for_data({"x": x})
    assert torch.allclose(whole.center, x.mean(0))
    sd = x.var(0, correction=0) if story is FactorAnalysis else x.var(0, correction=0).mean()
    assert torch.allclose(whole.unit, sd.sqrt())
    gaps = x.clone()
    gaps[7, 2] = math.nan
    found = story.for_data({"x": gaps})
    others = torch.arange(50) != 7
    expected = x.mean(0).where(torch.arange(4) != 2, x[others].mean(0))
    assert torch.allclose(found.center, expected) and found.unit.isfinite().all()
    fit = vaeppl.fit(found, {"x": gaps}, guide="auto", epochs=1, progress=False)
    assert fit.history["elbo"].notna().all()
