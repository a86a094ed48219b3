"""Particles tied together: each alone has the guide's distribution, and the mean varies less."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import AffineTransform, TransformedDistribution

from vaeppl import rows
from vaeppl.errors import StoryError
from vaeppl.estimators import bounds, draws
from vaeppl.estimators.elbo import ELBO
from vaeppl.estimators.importance import IWAE, VIMCO
from vaeppl.estimators.pathwise import STL
from vaeppl.guides import Flow
from vaeppl.models import VAE
from vaeppl.pair import as_pair

X = torch.tensor(1.5, dtype=torch.float64)
TIED = ["antithetic", "sobol"]


def tril(n):
    return torch.eye(n) + torch.tril(torch.full((n, n), 0.4), -1)


DISTRIBUTIONS = [
    lambda: dist.Normal(torch.tensor([0.5, -1.0]), 0.7),
    lambda: dist.Normal(torch.zeros(4, 3), 2.0).to_event(1),
    lambda: dist.LogNormal(torch.tensor([0.5, 0.0]), 0.3),
    lambda: dist.MultivariateNormal(torch.zeros(3), scale_tril=tril(3)),
    lambda: dist.Laplace(torch.tensor([0.0, 2.0]), 1.5),
    lambda: dist.Uniform(torch.tensor([0.0]), 4.0).to_event(1),
]


@pytest.mark.parametrize("make", DISTRIBUTIONS)
def test_a_draw_is_the_quantile_of_its_noise(exact, make):
    """Uniform noise in, the distribution out: its moments on a fine grid are the known ones."""
    fn = make()
    shape = fn.batch_shape + fn.event_shape
    points = draws._sobol(4096, 0, shape.numel()).reshape(4096, *shape)
    found = draws.from_uniform(fn.expand((4096, *fn.batch_shape)), (points + 0.37) % 1)
    spread = fn.variance.sqrt()
    assert ((found.mean(0) - fn.mean).abs() < 0.02 * spread).all()
    assert ((found.var(0) / fn.variance - 1).abs() < 0.05).all()


def test_a_median_goes_to_the_median(exact):
    half = torch.tensor([0.5])
    assert draws.from_uniform(dist.Normal(torch.tensor([2.0]), 3.0), half).item() == 2.0
    assert draws.from_uniform(dist.Delta(torch.tensor([4.0])), half).item() == 4.0
    assert draws.from_uniform(dist.Laplace(torch.tensor([1.0]), 3.0), half).item() == 1.0
    moved = TransformedDistribution(dist.Normal(torch.zeros(1), 1.0), [AffineTransform(7.0, 3.0)])
    assert draws.from_uniform(moved, half).item() == 7.0
    flow = Flow(transforms=1, hidden=(4,), bins=3).bind(1, 2)(torch.zeros(1))
    base = flow.dist.transform.inv(torch.zeros(2))
    torch.testing.assert_close(draws.from_uniform(flow, torch.full((2,), 0.5)), base)


@pytest.mark.parametrize("kind", TIED)
@pytest.mark.parametrize("name", ["OneLatent", "TwoLatents"])
def test_the_elbo_stays_unbiased(exact, kind, name):
    story = getattr(exact, name)()
    value = exact.quadrature(story, X, bounds.elbo, 1, 60)
    slope = exact.flat_grad(value, story)
    values, slopes = exact.draws_of(ELBO(8, analytic_kl=False, draws=kind), story, X)
    exact.assert_mean(values, value)
    exact.assert_mean(slopes, slope)


def test_sobol_cuts_the_variance_by_far(exact):
    story = exact.OneLatent()
    variances = [
        exact.draws_of(ELBO(16, analytic_kl=False, draws=kind), story, X)[0].var()
        for kind in ("sobol", "independent")
    ]
    assert variances[0] < variances[1] / 8


def test_antithetic_draws_are_no_cure_for_what_is_even(exact):
    """Near the posterior log w is quadratic in the noise: its pairs agree instead of cancelling."""
    story = exact.OneLatent(exact=True)
    with torch.no_grad():
        story.log_s.add_(0.3)
    pair, apart = (
        exact.draws_of(ELBO(8, analytic_kl=False, draws=kind), story, X)[0].var()
        for kind in ("antithetic", "independent")
    )
    assert pair / apart == pytest.approx(2.0, rel=0.6)


def test_antithetic_draws_cancel_what_is_linear(exact):
    """The gradient of a mean whose log-joint is quadratic has no variance left."""

    def model(x):
        with rows(x):
            pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))

    m = torch.tensor(0.7, requires_grad=True)

    def guide(x):
        with rows(x):
            pyro.sample("z", dist.Normal(m, 0.5))

    for kind, noisy in (("antithetic", False), ("independent", True)):
        loss = STL(2, draws=kind).differentiable_loss(model, guide, torch.zeros(3))
        (slope,) = torch.autograd.grad(loss, m)
        assert (abs(slope.item() - 3 * 0.7) > 1e-6) == noisy


@pytest.mark.parametrize("kind", TIED)
def test_iwae_remains_a_bound_below_the_evidence_and_above_the_elbo(exact, kind):
    story = exact.OneLatent()
    values, _ = exact.draws_of(IWAE(4, draws=kind), story, X)
    low = exact.quadrature(story, X, bounds.elbo, 1, 60)
    se = values.std() / 10
    assert low + 4 * se < values.mean() < story.log_evidence(X) - 4 * se


@pytest.mark.parametrize("kind", TIED)
@pytest.mark.parametrize("family", ["diagonal", "full_rank", "flow"])
def test_the_families_of_guides(kind, family):
    vae = VAE(6, 3, hidden=(8,), guide_family=family)
    pair, x = as_pair(vae), (torch.rand(5, 6) < 0.5).float()
    with pair.active(50):
        loss = ELBO(4, draws=kind).differentiable_loss(pair.model, pair.guide, x=x)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.q.parameters())


def test_rows_are_independent_of_each_other():
    seen = []

    def guide(x):
        with rows(x):
            seen.append(pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1)))

    def model(x):
        with rows(x):
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    ELBO(2, draws="sobol", max_plate_nesting=1).loss(model, guide, torch.zeros(5000))
    z = seen[-1]  # (2, 5000, 3)
    a, b = z[:, :-1].flatten(), z[:, 1:].flatten()
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.03
    assert z.flatten(0, 1).mean(0).abs().max() < 0.05


# --- bad input ---


def test_what_cannot_be_tied_is_refused(exact):
    with pytest.raises(ValueError, match="unknown kind of draws 'sobel': did you mean 'sobol'"):
        ELBO(2, draws="sobel")
    with pytest.raises(ValueError, match="come in pairs; num_particles is 3"):
        ELBO(3, draws="antithetic")
    with pytest.raises(ValueError, match="give num_particles >= 2, side by side"):
        ELBO(1, draws="sobol")
    with pytest.raises(ValueError, match="side by side"):
        ELBO(2, draws="sobol", vectorize_particles=False)
    with pytest.raises(StoryError, match="Gamma cannot be drawn from noise of one's own"):
        draws.from_uniform(dist.Gamma(torch.ones(1), 1.0), torch.tensor([0.5]))
    story = exact.Coins()
    with pytest.raises(ValueError, match="needs independent draws"):
        IWAE(2, draws="antithetic").differentiable_loss(story.model, story.guide, torch.zeros(3))
    with pytest.raises(ValueError, match="needs independent draws"):
        story = exact.OneLatent()
        VIMCO(2, draws="sobol").differentiable_loss(story.model, story.guide, torch.zeros(3))
