"""Reweighted wake-sleep, against enumeration and closed forms."""

from __future__ import annotations

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal

from vaeppl import row_count, rows
from vaeppl.errors import StoryError
from vaeppl.estimators import bounds
from vaeppl.estimators.wake_sleep import WakeSleep

X = torch.tensor(1.5, dtype=torch.float64)


def exact_gradients(story, x, particles):
    """Expected gradients of the wake phases over all values of all particles, by hand."""
    y = torch.tensor([0.0, 1.0])
    log_q = dist.Bernoulli(logits=story.a * x + story.c).log_prob(y)
    joint = dist.Bernoulli(logits=story.logit).log_prob(y) + Normal(story.m, 1.0).log_prob(x)
    total = 0.0
    for values in itertools.product((0, 1), repeat=particles):
        index = torch.tensor(values)
        log_w = (joint - log_q)[index].detach()
        v = log_w.softmax(-1)
        chance = log_q[index].sum().exp().detach()
        total = total + chance * (v * (joint + log_q)[index]).sum()
    return total


@pytest.mark.parametrize("particles", [2, 4])
def test_a_discrete_story_agrees_with_enumeration(exact, particles):
    story = exact.Coins()
    value = story.exact(X, bounds.iwae, particles)
    values, slopes = exact.draws_of(WakeSleep(particles), story, X)
    exact.assert_mean(values, value)
    exact.assert_mean(slopes, exact.flat_grad(exact_gradients(story, X, particles), story))


def test_with_many_particles_both_gradients_are_those_of_the_posterior(exact):
    """∇ log p(x) for the model, and E_{p(y | x)}[∇ log q(y | x)] for the guide."""
    story = exact.Coins()
    y = torch.tensor([0.0, 1.0])
    joint = dist.Bernoulli(logits=story.logit).log_prob(y) + Normal(story.m, 1.0).log_prob(X)
    log_q = dist.Bernoulli(logits=story.a * X + story.c).log_prob(y)
    aim = joint.logsumexp(0) + (joint.softmax(0).detach() * log_q).sum()
    _, slopes = exact.draws_of(WakeSleep(512), story, X, batches=60, rows_each=40)
    assert ((slopes.mean(0) - exact.flat_grad(aim, story)).abs() < 0.01).all()


def test_at_the_posterior_the_guide_has_no_gradient_on_average(exact):
    story = exact.OneLatent(exact=True)
    _, slopes = exact.draws_of(WakeSleep(4), story, X)
    exact.assert_mean(slopes[:, 3:], torch.zeros(3))


def test_the_sleep_phase_learns_from_dreams(exact):
    """The gradient is that of E_{p(z, x)}[log q(z | x)], here in closed form."""
    story = exact.OneLatent()
    w, b, noise = story.w.detach(), story.b.detach(), (2 * story.log_sigma.detach()).exp()
    variance = w**2 + noise
    # z - (a x + c) has mean -(a b + c) and variance 1 - 2 a w + a² var(x).
    squared = (story.a * b + story.c) ** 2 + 1 - 2 * story.a * w + story.a**2 * variance
    aim = -story.log_s - squared / (2 * (2 * story.log_s).exp())
    _, slopes = exact.draws_of(WakeSleep(2, sleep=1.0), story, X)
    exact.assert_mean(slopes[:, 3:], exact.flat_grad(aim, story)[3:])
    _, several = exact.draws_of(WakeSleep(2, sleep=1.0, num_dreams=4), story, X)
    exact.assert_mean(several[:, 3:], exact.flat_grad(aim_again(story), story)[3:])
    assert (several[:, 3:].var(0) < slopes[:, 3:].var(0) / 2).all()


def aim_again(story):
    w, b, noise = story.w.detach(), story.b.detach(), (2 * story.log_sigma.detach()).exp()
    squared = (story.a * b + story.c) ** 2 + 1 - 2 * story.a * w + story.a**2 * (w**2 + noise)
    return -story.log_s - squared / (2 * (2 * story.log_s).exp())


def test_wake_and_sleep_are_mixed(exact):
    story = exact.OneLatent()
    means = []
    for share in (0.0, 1.0, 0.3):
        _, slopes = exact.draws_of(WakeSleep(3, sleep=share), story, X)
        means.append((slopes.mean(0), slopes.var(0) / len(slopes)))
    (wake, a), (sleep, b), (both, c) = means
    se = (a + b + c).sqrt()
    assert ((both - 0.7 * wake - 0.3 * sleep)[3:].abs() <= 4 * se[3:]).all()
    assert ((both - wake)[:3].abs() <= 4 * se[:3]).all()


def test_a_minibatch_is_scaled(exact):
    story, x = exact.OneLatent(), torch.randn(4)
    found = []
    for full in (4, 400):
        pyro.set_rng_seed(0)
        with row_count(full):
            loss = WakeSleep(3, sleep=0.5).differentiable_loss(story.model, story.guide, x)
        found.append(torch.cat([loss.detach()[None], exact.flat_grad(loss, story)]))
    torch.testing.assert_close(found[1], 100 * found[0])


def test_a_dream_needs_the_column_by_name(exact):
    def model(column):
        with rows(column):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=column)

    def guide(column):
        with rows(column):
            pyro.sample("z", dist.Normal(column, torch.ones(()).requires_grad_()))

    with pytest.raises(StoryError, match="'x' is observed, but the guide has no argument of that"):
        WakeSleep(2, sleep=0.5).differentiable_loss(model, guide, torch.zeros(3))
    assert WakeSleep(2).loss(model, guide, torch.zeros(3))


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="at least 2; given 1"):
        WakeSleep(1)
    with pytest.raises(ValueError, match="sleep is a share"):
        WakeSleep(2, sleep=-0.1)
    with pytest.raises(ValueError, match="num_dreams is at least 1"):
        WakeSleep(2, num_dreams=0)
    with pytest.raises(ValueError, match="cannot enumerate"):
        WakeSleep(2, enumerate=True)
