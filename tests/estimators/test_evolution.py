"""The gradient from values alone."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from vaeppl import rows
from vaeppl.errors import StoryError
from vaeppl.estimators import bounds
from vaeppl.estimators.elbo import ELBO
from vaeppl.estimators.evolution import EvolutionStrategies, leaves
from vaeppl.estimators.importance import IWAE

X = torch.tensor(1.5, dtype=torch.float64)


def test_its_mean_is_the_gradient_of_the_elbo(exact):
    story = exact.OneLatent()
    value = exact.quadrature(story, X, bounds.elbo, 1, 60)
    made = EvolutionStrategies(pairs=4, sigma=0.01)
    values, slopes = exact.draws_of(made, story, X, batches=300, rows_each=100)
    exact.assert_mean(values, value)
    exact.assert_mean(slopes, exact.flat_grad(value, story))


def test_it_smooths_any_estimator(exact):
    story = exact.OneLatent()
    value = exact.quadrature(story, X, bounds.iwae, 2, 60)
    made = EvolutionStrategies(pairs=8, of=IWAE(2))
    values, slopes = exact.draws_of(made, story, X, batches=150, rows_each=100)
    exact.assert_mean(values, value)
    exact.assert_mean(slopes, exact.flat_grad(value, story))


def test_parameters_are_left_as_they_were(exact):
    story = exact.OneLatent()
    before = [p.detach().clone() for p in story.parameters()]
    made = EvolutionStrategies(sigma=0.5)
    made.differentiable_loss(story.model, story.guide, torch.randn(5)).backward()
    for p, old in zip(story.parameters(), before, strict=True):
        assert (p == old).all()


def test_a_story_that_cannot_be_differentiated(exact):
    """A step function in the model: named parameters have a gradient all the same."""
    shift = torch.tensor(0.4, requires_grad=True)

    def model(x):
        with rows(x):
            pyro.sample("x", dist.Normal((shift * 1e3).round().detach() / 1e3, 1.0), obs=x)

    made = EvolutionStrategies(pairs=400, sigma=0.1, parameters=[shift])
    loss = made.differentiable_loss(model, lambda x: None, torch.full((10,), 1.0))
    (slope,) = torch.autograd.grad(loss, shift)
    assert slope.item() == pytest.approx(-6.0, rel=0.3)
    with pytest.raises(StoryError, match="name them"):
        EvolutionStrategies().differentiable_loss(model, lambda x: None, torch.zeros(3))


def test_the_parameters_of_a_loss_are_found_in_its_graph(exact):
    story = exact.TwoLatents()
    loss = ELBO().differentiable_loss(story.model, story.guide, torch.zeros(3))
    assert {id(p) for p in leaves(loss)} == {id(p) for p in story.parameters()}


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="pairs is at least 1 and sigma above 0"):
        EvolutionStrategies(pairs=0)
    with pytest.raises(ValueError, match="pairs is at least 1 and sigma above 0"):
        EvolutionStrategies(sigma=0.0)
