"""Stories of which every bound and its gradient are known to many digits, by quadrature."""

from __future__ import annotations

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import Normal

from vaeppl import rows


def parameter(value):
    return nn.Parameter(torch.tensor(value, dtype=torch.get_default_dtype()))


class OneLatent(nn.Module):
    """z ~ N(0, 1), x ~ N(w z + b, σ²), with a guide N(a x + c, s²)."""

    latents = 1

    def __init__(self, exact=False):
        super().__init__()
        self.w, self.b, self.log_sigma = parameter(0.8), parameter(0.2), parameter(-0.2)
        self.a, self.c, self.log_s = parameter(0.3), parameter(0.3), parameter(-0.5)
        if exact:
            precision = 1 + self.w**2 * (-2 * self.log_sigma).exp()
            with torch.no_grad():
                self.a.copy_(self.w * (-2 * self.log_sigma).exp() / precision)
                self.c.copy_(-self.a * self.b)
                self.log_s.copy_(-precision.log() / 2)

    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(self.w * z + self.b, self.log_sigma.exp()), obs=x)

    def guide(self, x):
        with rows(x):
            pyro.sample("z", dist.Normal(self.a * x + self.c, self.log_s.exp()))

    def log_w(self, x, e):
        """Log-weights by hand, of noise ``(..., 1)``."""
        mean, s = self.a * x + self.c, self.log_s.exp()
        z = mean + s * e[..., 0]
        joint = Normal(0.0, 1.0).log_prob(z)
        joint = joint + Normal(self.w * z + self.b, self.log_sigma.exp()).log_prob(x)
        return joint - Normal(mean, s).log_prob(z)

    def log_evidence(self, x):
        scale = (self.w**2 + (2 * self.log_sigma).exp()).sqrt()
        return Normal(self.b, scale).log_prob(x)


class TwoLatents(nn.Module):
    """z1 ~ N(0, 1), z2 ~ N(g z1, 1), x ~ N(w z2, σ²); the guide draws z2, and z1 given z2."""

    latents = 2

    def __init__(self):
        super().__init__()
        self.g, self.w, self.log_sigma = parameter(0.7), parameter(0.9), parameter(-0.1)
        self.a, self.c, self.log_s2 = parameter(0.4), parameter(0.2), parameter(-0.3)
        self.d, self.log_s1 = parameter(0.6), parameter(-0.4)

    def model(self, x=None):
        with rows(x):
            z1 = pyro.sample("z1", dist.Normal(torch.tensor(0.0), 1.0))
            z2 = pyro.sample("z2", dist.Normal(self.g * z1, 1.0))
            pyro.sample("x", dist.Normal(self.w * z2, self.log_sigma.exp()), obs=x)

    def guide(self, x):
        with rows(x):
            z2 = pyro.sample("z2", dist.Normal(self.a * x + self.c, self.log_s2.exp()))
            pyro.sample("z1", dist.Normal(self.d * z2, self.log_s1.exp()))

    def log_w(self, x, e):
        z2 = self.a * x + self.c + self.log_s2.exp() * e[..., 0]
        z1 = self.d * z2 + self.log_s1.exp() * e[..., 1]
        joint = Normal(0.0, 1.0).log_prob(z1) + Normal(self.g * z1, 1.0).log_prob(z2)
        joint = joint + Normal(self.w * z2, self.log_sigma.exp()).log_prob(x)
        log_q = Normal(self.a * x + self.c, self.log_s2.exp()).log_prob(z2)
        return joint - log_q - Normal(self.d * z2, self.log_s1.exp()).log_prob(z1)


class Coins(nn.Module):
    """y ~ Bernoulli(π), x ~ N(m_y, 1); the guide draws y from a logistic regression on x."""

    def __init__(self):
        super().__init__()
        self.logit, self.m = parameter(0.4), parameter([-0.5, 1.0])
        self.a, self.c = parameter(0.5), parameter(-0.2)

    def model(self, x=None):
        with rows(x):
            y = pyro.sample("y", dist.Bernoulli(logits=self.logit))
            pyro.sample("x", dist.Normal(self.m[y.long()], 1.0), obs=x)

    def guide(self, x):
        with rows(x):
            pyro.sample("y", dist.Bernoulli(logits=self.a * x + self.c))

    def exact(self, x, bound, particles):
        """The expected bound of one row, over all values of all particles."""
        y = torch.tensor([0.0, 1.0])
        q = dist.Bernoulli(logits=self.a * x + self.c).log_prob(y)
        joint = dist.Bernoulli(logits=self.logit).log_prob(y) + Normal(self.m, 1.0).log_prob(x)
        log_w = joint - q
        total = 0.0
        for values in itertools.product((0, 1), repeat=particles):
            index = torch.tensor(values)
            total = total + q[index].sum().exp() * bound(log_w[index], -1).squeeze()
        return total


def quadrature(story, x, bound, particles, nodes):
    """E[bound(log w)] over the noise of all particles, by quadrature.

    It can be differentiated: the gradient is that of the expectation.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(min(nodes, 120))
    if nodes > 120:  # for integrands with a kink
        points = np.linspace(-8.0, 8.0, nodes)
        weights = np.exp(-(points**2) / 2)
    weights = torch.tensor(weights / weights.sum())
    points = torch.tensor(points)
    size = particles * story.latents
    grid = torch.cartesian_prod(*[points] * size).reshape(-1, particles, story.latents)
    mass = torch.cartesian_prod(*[weights] * size).reshape(-1, size).prod(-1)
    return (mass * bound(story.log_w(x, grid), -1).squeeze(-1)).sum()


def flat_grad(value, story, **options):
    parameters = list(story.parameters())
    grads = torch.autograd.grad(value, parameters, allow_unused=True, **options)
    pairs = zip(parameters, grads, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs])


def draws_of(estimator, story, x, *, batches=100, rows_each=1000):
    """Values and gradients of minus the loss, per row: the means of batches of equal rows."""
    column = torch.full((rows_each,), float(x))
    values, slopes = [], []
    with pyro.validation_enabled(False):
        for _ in range(batches):
            loss = estimator.differentiable_loss(story.model, story.guide, x=column)
            values.append(-loss.detach() / rows_each)
            slopes.append(-flat_grad(loss, story) / rows_each)
    return torch.stack(values)[:, None], torch.stack(slopes)


def assert_mean(draws, exact, width=4.0):
    """The mean of independent draws lies within so many standard errors of the exact value."""
    error = (draws.mean(0) - exact.detach()).abs()
    se = draws.std(0) / len(draws) ** 0.5
    assert (error <= width * se + 1e-9).all(), (error / se.clamp(min=1e-12)).max()


class Tools:
    """What the tests of this folder share."""

    OneLatent, TwoLatents, Coins = OneLatent, TwoLatents, Coins
    quadrature = staticmethod(quadrature)
    flat_grad = staticmethod(flat_grad)
    draws_of = staticmethod(draws_of)
    assert_mean = staticmethod(assert_mean)


@pytest.fixture
def exact(double):
    """Stories and quadrature, in double precision."""
    return Tools
