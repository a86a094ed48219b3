"""The thermodynamic objective: it brackets the evidence, and its gradient is a covariance."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vaeppl.estimators import bounds
from vaeppl.estimators.tvo import RULES, TVO, partition, riemann

X = torch.tensor(1.5, dtype=torch.float64)


def integral(points, rule):
    """The Riemann sum with exact expectations, as a function of the weights of a quadrature."""

    def value(story, tools):
        total = 0.0
        for beta, share in zip(points, riemann(points, rule), strict=True):
            if share:
                mass = tools.quadrature(story, X, lambda w, d, b=beta: (b * w).exp(), 1, 80)
                mean = tools.quadrature(story, X, lambda w, d, b=beta: (b * w).exp() * w, 1, 80)
                total = total + share * mean / mass
        return total

    return value


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_left_and_right_sums_bracket_the_evidence(exact, pieces):
    story = exact.OneLatent()
    points = partition(pieces)
    low, middle, high = (integral(points, r)(story, exact) for r in ("left", "trapezoid", "right"))
    evidence = story.log_evidence(X)
    assert low < evidence < high
    assert abs(middle - evidence) < max(high - evidence, evidence - low)


def test_one_piece_on_the_left_is_the_elbo(exact):
    """Value and gradient, without bias: the mean of the score function with its baseline."""
    story = exact.OneLatent()
    value = exact.quadrature(story, X, bounds.elbo, 1, 60)
    for particles in (2, 5):
        values, slopes = exact.draws_of(TVO(particles, pieces=1), story, X, batches=200)
        exact.assert_mean(values, value)
        exact.assert_mean(slopes, exact.flat_grad(value, story, retain_graph=True))


@pytest.mark.parametrize("rule", RULES)
def test_with_many_particles_value_and_gradient_are_the_exact_ones(exact, rule):
    """The bias of weights normalised by their sum falls as 1/K."""
    story = exact.OneLatent()
    value = integral(partition(3), rule)(story, exact)
    made = TVO(1000, pieces=3, rule=rule)
    values, slopes = exact.draws_of(made, story, X, batches=60, rows_each=100)
    se = values.std() / 60**0.5
    assert (values.mean() - value).abs() < 4 * se + 1e-2
    error = (slopes.mean(0) - exact.flat_grad(value, story)).abs()
    assert (error <= 4 * slopes.std(0) / 60**0.5 + 1e-2).all()


def test_a_discrete_story(exact):
    """The path from guide to posterior over two values, by hand."""
    story = exact.Coins()
    y = torch.tensor([0.0, 1.0])
    log_q = torch.distributions.Bernoulli(logits=story.a * X + story.c).log_prob(y)
    joint = torch.distributions.Bernoulli(logits=story.logit).log_prob(y)
    joint = joint + torch.distributions.Normal(story.m, 1.0).log_prob(X)
    log_w, value = joint - log_q, 0.0
    for beta, share in zip(points := partition(2), riemann(points, "left"), strict=True):
        value = value + share * ((log_q + beta * log_w).softmax(0) * log_w).sum()
    values, slopes = exact.draws_of(TVO(1000, pieces=2), story, X, batches=60, rows_each=100)
    assert (values.mean() - value).abs() < 4 * values.std() / 60**0.5 + 1e-2
    error = (slopes.mean(0) - exact.flat_grad(value, story)).abs()
    assert (error <= 4 * slopes.std(0) / 60**0.5 + 1e-2).all()


@pytest.mark.parametrize("rule", RULES)
def test_at_the_posterior_it_is_the_evidence(exact, rule):
    story, x = exact.OneLatent(exact=True), torch.randn(6)
    loss = TVO(3, pieces=4, rule=rule).differentiable_loss(story.model, story.guide, x)
    assert -loss.item() == pytest.approx(story.log_evidence(x).sum().item())


def test_one_weight_that_is_all_gives_finite_gradients(exact):
    story = exact.OneLatent()
    with torch.no_grad():
        story.log_sigma.fill_(-6.0)
    loss = TVO(4, pieces=3).differentiable_loss(story.model, story.guide, torch.randn(50))
    assert exact.flat_grad(loss, story).isfinite().all()


@given(st.integers(1, 20), st.floats(1e-4, 0.9))
def test_a_partition_goes_from_nought_to_one(pieces, first):
    points = partition(pieces, first)
    assert len(points) == pieces + 1 and points[0] == 0 and points[-1] == 1
    assert all(a < b for a, b in pairwise(points))
    for rule in RULES:
        assert sum(riemann(points, rule)) == pytest.approx(1)


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="at least 2; given 1"):
        TVO(1)
    with pytest.raises(ValueError, match="pieces is at least 1"):
        TVO(2, pieces=0)
    with pytest.raises(ValueError, match="rule is one of left, right, trapezoid; given 'middle'"):
        TVO(2, rule="middle")
    with pytest.raises(ValueError, match="cannot enumerate"):
        TVO(2, enumerate=True)
