"""Priors against scipy, by quadrature, and the mixture by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from vaeppl import priors
from vaeppl.priors import Laplace, MixtureOfNormals, Prior, StandardNormal, StudentT

pytestmark = pytest.mark.usefixtures("double")


@pytest.mark.parametrize(
    ("prior", "exact"),
    [
        (StandardNormal(), scipy.stats.norm(0, 1)),
        (Laplace(), scipy.stats.laplace(0, 1 / math.sqrt(2))),
        (StudentT(5.0), scipy.stats.t(5)),
        (StudentT(0.5), scipy.stats.t(0.5)),
    ],
)
def test_density_is_that_of_independent_components(prior, exact):
    p = prior.bind(3)()
    z = 3 * torch.randn(50, 3)
    assert p.batch_shape == () and p.event_shape == (3,)
    np.testing.assert_allclose(p.log_prob(z).numpy(), exact.logpdf(z.numpy()).sum(-1))


def test_laplace_has_variance_one():
    torch.testing.assert_close(Laplace().bind(2)().variance, torch.ones(2))


def mixture(latent_dim, components=3):
    prior = MixtureOfNormals(components, spread=2.0).bind(latent_dim)
    with torch.no_grad():
        prior.logits.copy_(torch.randn(components))
        prior.log_scale.copy_(torch.randn(components, latent_dim) / 2)
    return prior


def test_mixture_density_by_hand():
    prior = mixture(2)
    z = torch.randn(30, 2)
    logits, loc, log_scale = (p.detach().numpy() for p in prior.parameters())
    terms = scipy.stats.norm.logpdf(z.numpy()[:, None], loc, np.exp(log_scale)).sum(-1)
    by_hand = scipy.special.logsumexp(terms + scipy.special.log_softmax(logits), -1)
    np.testing.assert_allclose(prior().log_prob(z).detach().numpy(), by_hand)


def test_mixture_integrates_to_one():
    line = torch.linspace(-30, 30, 6001)
    total = torch.trapezoid(mixture(1)().log_prob(line[:, None]).exp(), line)
    assert total.item() == pytest.approx(1, abs=1e-9)
    side = torch.linspace(-20, 20, 801)
    grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
    height = mixture(2)().log_prob(grid).exp()
    assert torch.trapezoid(torch.trapezoid(height, side), side).item() == pytest.approx(1, abs=1e-6)


def test_mixture_draws_follow_its_density():
    p = mixture(1)()
    draws = p.sample((20_000,))[:, 0].sort().values
    line = torch.linspace(-30, 30, 6001)
    height = p.log_prob(line[:, None]).exp().detach()
    cdf = np.interp(draws.numpy(), line.numpy(), height.cumsum(0).numpy() * 0.01)
    ranks = np.arange(1, len(draws) + 1) / len(draws)
    assert np.abs(cdf - ranks).max() < 1.95 / len(draws) ** 0.5 + 0.01  # Kolmogorov, level 0.001


def test_gradients_reach_every_parameter_of_the_mixture():
    prior = mixture(2)
    prior().log_prob(torch.randn(5, 2)).sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in prior.parameters())


@pytest.mark.parametrize("name", priors.available())
def test_two_models_of_one_prior_share_no_parameter(name):
    prior = priors.get(name)
    a, b = prior.bind(2), prior.bind(4)
    assert (a.latent_dim, b.latent_dim, prior.latent_dim) == (2, 4, 0)
    assert not {id(p) for p in a.parameters()} & {id(p) for p in b.parameters()}
    assert not list(prior.parameters())
    assert a().expand((3, 5)).sample().shape == (3, 5, 2)


@pytest.mark.parametrize("name", priors.available())
def test_the_prior_follows_the_precision_of_the_model(name):
    prior = priors.get(name).bind(2).float()
    assert prior().sample().dtype == torch.float32
    # What is not learnt is not saved.
    assert "zeros" not in prior.state_dict()


def test_a_prior_of_ones_own():
    class Cauchy(Prior):
        def forward(self):
            return torch.distributions.Independent(torch.distributions.Cauchy(self.zeros, 1.0), 1)

    z = torch.tensor([0.5, -3.0])
    assert Cauchy().bind(2)().log_prob(z).item() == pytest.approx(
        scipy.stats.cauchy.logpdf(z.numpy()).sum()
    )
    with pytest.raises(TypeError, match="write p"):
        Prior().bind(2)()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StandardNormal().bind(0), "at least one dimension; given 0"),
        (lambda: StudentT(-1.0), "degrees of freedom are > 0"),
        (lambda: MixtureOfNormals(0), "at least one component"),
        (lambda: priors.get("laplac"), "did you mean 'laplace'"),
    ],
)
def test_constructors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()
