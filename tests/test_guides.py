"""Families of q(z | h): densities against scipy and quadrature, draws, particles and gradients."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from vaeppl import guides
from vaeppl.guides import (
    SCALE_FLOOR,
    DiagonalNormal,
    Family,
    Flow,
    FullRankNormal,
    LowRankNormal,
)

pytestmark = pytest.mark.usefixtures("double")

FAMILIES = [DiagonalNormal(), FullRankNormal(), LowRankNormal(), Flow(hidden=(8,))]
ids = ["diagonal", "full_rank", "low_rank", "flow"]


def bound(family, latent_dim, in_dim=3, spread=0.7):
    """A family with weights large enough to bend it."""
    q = family.bind(in_dim, latent_dim)
    with torch.no_grad():
        for p in q.parameters():
            p.copy_(spread * torch.randn_like(p))
    return q


def test_diagonal_normal_against_scipy():
    q, h = bound(DiagonalNormal(), 2), torch.randn(3)
    loc, raw = (t.detach().numpy() for t in q.head(h).chunk(2))
    scale = F.softplus(torch.tensor(raw)).numpy() + SCALE_FLOOR
    z = np.random.randn(20, 2)
    exact = scipy.stats.multivariate_normal(loc, np.diag(scale**2)).logpdf(z)
    np.testing.assert_allclose(q(h).log_prob(torch.tensor(z)).detach().numpy(), exact)


def test_full_rank_normal_against_scipy():
    q, h = bound(FullRankNormal(), 3), torch.randn(3)
    loc, entries = (t.detach().numpy() for t in q.head(h).split([3, 6]))
    factor = np.zeros((3, 3))
    factor[np.tril_indices(3)] = entries
    diagonal = F.softplus(torch.tensor(np.diag(factor).copy())).numpy() + SCALE_FLOOR
    factor[np.diag_indices(3)] = diagonal
    z = np.random.randn(20, 3)
    exact = scipy.stats.multivariate_normal(loc, factor @ factor.T).logpdf(z)
    np.testing.assert_allclose(q(h).log_prob(torch.tensor(z)).detach().numpy(), exact)


def test_low_rank_normal_against_scipy():
    q, h = bound(LowRankNormal(2), 4), torch.randn(3)
    loc, raw, entries = (t.detach() for t in q.head(h).split([4, 4, 8]))
    factor = entries.reshape(4, 2) / math.sqrt(2)
    covariance = factor @ factor.T + torch.diag((F.softplus(raw) + SCALE_FLOOR).square())
    z = np.random.randn(20, 4)
    exact = scipy.stats.multivariate_normal(loc.numpy(), covariance.numpy()).logpdf(z)
    np.testing.assert_allclose(q(h).log_prob(torch.tensor(z)).detach().numpy(), exact)


def test_a_flow_of_identity_splines_is_the_diagonal_normal():
    """Where the networks are zero the splines are straight, and m and s are the head's."""
    q = Flow(hidden=(4,)).bind(3, 2)
    with torch.no_grad():
        for p in q.parameters():
            p.zero_()
        q.head.bias.copy_(torch.tensor([1.0, -2.0, -4.0, 3.0]))
    p = q(torch.zeros(3))
    scale = F.softplus(torch.tensor([-4.0, 3.0])) + SCALE_FLOOR
    z = torch.tensor([1.0, -2.0]) + scale * torch.randn(50, 2)
    exact = torch.distributions.Normal(torch.tensor([1.0, -2.0]), scale).log_prob(z).sum(-1)
    torch.testing.assert_close(p.log_prob(z), exact, atol=0.02, rtol=0)
    draws = p.sample((20_000,))
    torch.testing.assert_close(draws.mean(0), torch.tensor([1.0, -2.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(draws.std(0), scale, rtol=0.05, atol=0)


@pytest.mark.parametrize("family", FAMILIES, ids=ids)
def test_density_integrates_to_one(family):
    with torch.no_grad():
        line = torch.linspace(-25, 25, 20_001)
        one = bound(family, 1)(torch.randn(3))
        total = torch.trapezoid(one.log_prob(line[:, None]).exp(), line)
        assert total.item() == pytest.approx(1, abs=1e-4)
        side = torch.linspace(-8, 8, 301)
        grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
        height = bound(family, 2, spread=0.2)(torch.randn(3)).log_prob(grid).exp()
        total = torch.trapezoid(torch.trapezoid(height, side), side)
        assert total.item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
@pytest.mark.parametrize("family", FAMILIES, ids=ids)
def test_draws_follow_the_density(family, latent_dim):
    """The mean of f(z) p(z) / q(z) over draws from q is that over p, for a narrow p."""
    q = bound(family, latent_dim, spread=0.3)(torch.randn(3))
    with torch.no_grad():
        z = q.sample((20_000,))
        p = torch.distributions.Normal(z.mean(0), 0.5 * z.std(0))
        weight = (p.log_prob(z).sum(-1) - q.log_prob(z)).exp()
        error = (weight.mean() - 1).abs()
        assert error < 5 * weight.std() / len(z) ** 0.5


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_flow_scores_its_own_draws_consistently(latent_dim):
    q = bound(Flow(hidden=(8,)), latent_dim)(torch.randn(4, 3))
    z = q.rsample((6,))
    kept, computed = q.log_prob(z), q.log_prob(z.clone())
    assert kept.shape == (6, 4)
    torch.testing.assert_close(kept, computed, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("latent_dim", [1, 2])
@pytest.mark.parametrize("family", FAMILIES, ids=ids)
def test_particles(family, latent_dim):
    """Expanded to (K, B), every row keeps its own q, and draws differ between particles."""
    q = bound(family, latent_dim)(torch.randn(4, 3))
    with pyro.poutine.trace() as tr, pyro.plate("k", 5, dim=-2), pyro.plate("rows", 4, dim=-1):
        z = pyro.sample("z", q)
    assert z.shape == (5, 4, latent_dim) and len(z.unique()) == z.numel()
    site = tr.trace.nodes["z"]
    by_row = torch.stack([q.log_prob(each.clone()) for each in z])
    torch.testing.assert_close(site["fn"].log_prob(z), by_row, rtol=1e-6, atol=1e-6)
    assert site["fn"].has_rsample and site["fn"].event_dim == 1


@pytest.mark.parametrize("family", FAMILIES, ids=ids)
def test_gradients_reach_every_parameter(family):
    q = bound(family, 3)
    p = q(torch.randn(50, 3))
    z = p.rsample()
    (z.square().sum() + p.log_prob(z).sum()).backward()
    for name, parameter in q.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("extreme", [-200.0, 200.0])
@pytest.mark.parametrize("family", FAMILIES, ids=ids)
def test_extreme_features_leave_the_density_finite(family, extreme):
    q = family.bind(3, 2).float()
    with torch.no_grad():
        q.head.weight.fill_(1.0)
    p = q(torch.full((2, 3), extreme, dtype=torch.float32))
    z = p.rsample()
    loss = p.log_prob(z).sum()
    assert z.isfinite().all() and loss.isfinite()
    grads = torch.autograd.grad(loss, list(q.parameters()), allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in grads)


@pytest.mark.parametrize("family", FAMILIES, ids=ids)
@given(lead=st.lists(st.integers(1, 3), max_size=3), latent_dim=st.integers(1, 3))
def test_leading_dimensions(family, lead, latent_dim):
    q = family.bind(4, latent_dim)
    h = torch.randn(*lead, 4)
    p = q(h)
    z = p.rsample()
    assert z.shape == (*lead, latent_dim) and p.batch_shape == tuple(lead)
    flat = q(h.reshape(-1, 4)).log_prob(z.reshape(-1, latent_dim))
    torch.testing.assert_close(p.log_prob(z.clone()).reshape(-1), flat, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES, ids=ids)
def test_two_models_of_one_family_share_no_parameter(family):
    a, b = family.bind(3, 2), family.bind(3, 2)
    assert not {id(p) for p in a.parameters()} & {id(p) for p in b.parameters()}
    assert not list(family.parameters())


def test_the_flows_library_does_not_switch_validation_off():
    """It does so for all of torch when it is imported, and wrong values would pass in silence."""
    with pytest.raises(ValueError, match="within the support"):
        dist.Bernoulli(0.5).log_prob(torch.tensor(0.3))


def test_families_by_name():
    assert [type(guides.get(n)) for n in guides.available()] == [
        DiagonalNormal, FullRankNormal, LowRankNormal, Flow,
    ]  # fmt: skip
    own = Flow(3, hidden=(5,))
    assert guides.get(own) is own
    with pytest.raises(ValueError, match="did you mean 'full_rank'"):
        guides.get("fullrank")
    with pytest.raises(ValueError, match="at least one transform"):
        Flow(0)
    with pytest.raises(TypeError, match="write q"):
        Family().bind(1, 1)(torch.zeros(1))


def test_gumbel_softmax_draws_categories_with_a_gradient():
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, -1.0], requires_grad=True)
    q = guides.GumbelSoftmax(0.5, logits)
    draws = q.rsample(torch.Size((20_000,)))
    assert ((draws == 0) | (draws == 1)).all() and (draws.sum(-1) == 1).all()
    p = logits.softmax(-1)
    se = (p * (1 - p) / 20_000).sqrt()
    assert ((draws.mean(0) - p).abs() < 4 * se).all()
    # The more probable a category, the larger a linear payoff: its slope has the right sign.
    payoff = (draws * torch.tensor([0.0, 1.0, 0.0])).sum(-1).mean()
    assert torch.autograd.grad(payoff, logits)[0][1] > 0
    other = dist.OneHotCategorical(logits=torch.zeros(3))
    exact = (p * (p.log() + math.log(3))).sum()
    torch.testing.assert_close(torch.distributions.kl_divergence(q, other), exact)
    assert q.expand([4]).rsample().shape == (4, 3)
