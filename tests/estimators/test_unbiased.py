"""Every estimator that claims to be unbiased, by name: value and gradient at 100,000 draws."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import config_enumerate

from vaeppl import estimators, rows
from vaeppl.estimators import bounds

X = torch.tensor(1.5, dtype=torch.float64)
PATHS = ["elbo", "elbo_monte_carlo", "stl", "trace_elbo", "trace_mean_field_elbo"]
SCORES = ["score_function", "trace_elbo", "trace_graph_elbo"]
SUMS = ["elbo", "trace_enum_elbo"]


@pytest.mark.parametrize("name", PATHS)
def test_on_a_linear_gaussian_story(exact, name):
    """The ELBO and its gradient by quadrature, which is exact for a polynomial."""
    story = exact.OneLatent()
    value = exact.quadrature(story, X, bounds.elbo, 1, 40)
    values, slopes = exact.draws_of(estimators.get(name), story, X)
    exact.assert_mean(values, value)
    exact.assert_mean(slopes, exact.flat_grad(value, story))


@pytest.mark.parametrize("name", SCORES)
def test_scores_on_a_discrete_story(exact, name):
    story = exact.Coins()
    value = story.exact(X, bounds.elbo, 1)
    values, slopes = exact.draws_of(estimators.get(name), story, X)
    exact.assert_mean(values, value)
    exact.assert_mean(slopes, exact.flat_grad(value, story))
    assert slopes[:, -2:].abs().max() > 0


@pytest.mark.parametrize("name", SUMS)
def test_sums_on_a_discrete_story(exact, name):
    """Nothing is drawn, so one step is exact."""
    story = exact.Coins()
    value = story.exact(X, bounds.elbo, 1)
    story.guide = config_enumerate(story.guide)
    values, slopes = exact.draws_of(estimators.get(name), story, X, batches=2, rows_each=3)
    torch.testing.assert_close(values, value.expand(2, 1))
    torch.testing.assert_close(slopes, exact.flat_grad(value, story).expand(2, -1))


@pytest.mark.parametrize("name", SCORES)
def test_scores_of_a_normal(exact, name):
    """The linear-Gaussian story, its latent drawn without a path: the same gradient."""
    story = exact.OneLatent()
    value = exact.quadrature(story, X, bounds.elbo, 1, 40)

    def guide(x):
        with rows(x):
            q = NonreparameterizedNormal(story.a * x + story.c, story.log_s.exp())
            pyro.sample("z", q)

    story.guide = guide
    values, slopes = exact.draws_of(estimators.get(name), story, X)
    exact.assert_mean(values, value)
    exact.assert_mean(slopes, exact.flat_grad(value, story))


# BetaTC takes the latents of a row as a vector: test_registry.py fits by it.
@pytest.mark.parametrize("name", [n for n in estimators.available() if n != "beta_tc"])
def test_every_estimator_stands_in_an_elbo_module(exact, name):
    """A module of the story's parameters, whose call is minus the objective."""
    story = exact.OneLatent()

    class Part(torch.nn.Module):
        def __init__(self, run):
            super().__init__()
            self.story, self.run = story, run

        def forward(self, x):
            return self.run(x)

    options = {"strict_enumeration_warning": False} if name == "trace_enum_elbo" else {}
    made = estimators.get(name, num_particles=4, max_plate_nesting=1, **options)
    module = made(Part(story.model), Part(story.guide))
    assert len(list(module.parameters())) == 6
    loss = module(torch.randn(8))
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in story.parameters())
