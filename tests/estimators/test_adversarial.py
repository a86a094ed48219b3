"""Densities by classifiers, where the answer is known."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from vaeppl import rows
from vaeppl.errors import StoryError
from vaeppl.estimators import bounds
from vaeppl.estimators.adversarial import Adversarial, Classifier, FactorTC


def test_a_classifier_learns_the_log_ratio_of_two_normals():
    """N(1, 1) against N(0, 1): the logit is z - 1/2, its mean under the first 1/2."""
    torch.manual_seed(1)
    classifier = Classifier((16,), lr=3e-3)
    for _ in range(600):
        classifier.learn(torch.randn(256, 1) + 1, torch.randn(256, 1))
    z = torch.tensor([[-1.0], [0.0], [1.0], [2.0]])
    torch.testing.assert_close(classifier.logit(z), z.squeeze(-1) - 0.5, atol=0.2, rtol=0)


def test_the_logit_has_the_gradient_of_the_codes_alone():
    classifier = Classifier((8,))
    z = torch.randn(5, 2, requires_grad=True)
    classifier.logit(z).sum().backward()
    assert z.grad is not None and (z.grad != 0).any()
    assert all(p.grad is None for p in classifier.net.parameters())


CORRELATION = 0.8


def correlated_model(x):
    with rows(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def correlated_guide(x):
    tril = torch.tensor([[1.0, 0.0], [CORRELATION, math.sqrt(1 - CORRELATION**2)]])
    with rows(x):
        pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), scale_tril=tril))


def test_the_total_correlation_of_a_normal():
    """-1/2 log(1 - ρ²), which is 0.51."""
    torch.manual_seed(0)
    made, x = FactorTC(strength=1.0, hidden=(32,), lr=3e-3), torch.zeros(256)
    for _ in range(500):
        made.differentiable_loss(correlated_model, correlated_guide, x)
    found = []
    for _ in range(50):
        loss = made.loss(correlated_model, correlated_guide, x)
        found.append(made.penalty.item())
        assert -loss == pytest.approx(made.report["elbo"].item() - 256 * found[-1], rel=1e-4)
    exact = -math.log(1 - CORRELATION**2) / 2
    assert sum(found) / 50 == pytest.approx(exact, abs=0.08)


def test_the_elbo_of_a_guide_without_a_density(exact):
    """The draws of a normal guide, given as point masses: the classifier finds its ELBO."""
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    story = exact.OneLatent()
    x = torch.full((256,), 1.5)

    def implicit(x):
        z = story.a * x + story.c + story.log_s.exp() * torch.randn(x.shape)
        with rows(x):
            pyro.sample("z", dist.Delta(z))

    made = Adversarial(hidden=(32,), lr=3e-3, steps=2)
    for _ in range(300):
        loss = made.differentiable_loss(story.model, implicit, x=x)
    slope = exact.flat_grad(loss, story)
    assert slope.isfinite().all() and (slope != 0).all()
    found = []
    for _ in range(50):
        made.loss(story.model, implicit, x=x)
        found.append(made.report["bound"].item() / 256)
    elbo = exact.quadrature(story, torch.tensor(1.5), bounds.elbo, 1, 40).item()
    assert sum(found) / 50 == pytest.approx(elbo, abs=0.08)


@pytest.mark.parametrize("vectorize", [True, False])
def test_particles(vectorize):
    made = Adversarial(3, hidden=(4,), vectorize_particles=vectorize)
    x = torch.zeros(10)
    made.loss(correlated_model, correlated_guide, x=x)
    report = made.report
    torch.testing.assert_close(report["bound"], report["reconstruction"] - report["kl"])
    reconstruction = torch.stack(
        [made.loss(correlated_model, correlated_guide, x=x) * 0 + made.report["reconstruction"]
         for _ in range(300)]
    )  # fmt: skip
    exact = -10 * (math.log(2 * math.pi) / 2 + (2 + 2 * CORRELATION) / 2)
    assert abs(reconstruction.mean() - exact) < 4 * reconstruction.std() / 300**0.5


def test_bad_input():
    def discrete(x):
        with rows(x):
            pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))

    with pytest.raises(StoryError, match="Adversarial needs a latent of each row"):
        Adversarial().loss(lambda x: discrete(x), discrete, torch.zeros(3))
    with pytest.raises(StoryError, match="needs two rows or more"):
        FactorTC().loss(correlated_model, correlated_guide, torch.zeros(1))
    with pytest.raises(ValueError, match="lr is above 0"):
        Classifier(lr=0.0)
    with pytest.raises(ValueError, match="steps is at least 1"):
        Adversarial(steps=0)
