"""The explanation of an ELBO that is not finite names the planted fault."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from vaeppl import Model, likelihoods, rows
from vaeppl.models import VAE
from vaeppl.pair import Pair
from vaeppl.training.nonfinite import explain

WHERE = "epoch 3, batch 7"


class Story(Model):
    """z ~ N(0, 1) and an observed site that each test plants."""

    def __init__(self, likelihood, q=None):
        super().__init__()
        self.likelihood, self.q = likelihood, q
        self.shift = nn.Parameter(torch.zeros(()))

    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", self.likelihood(z + self.shift, x), obs=x)

    def guide(self, x=None):
        with rows(x):
            loc = x[..., :1]
            q = dist.Normal(loc, 1.0).to_event(1) if self.q is None else self.q(loc)
            pyro.sample("z", q)


def explained(story, x):
    return explain(Pair(story), {"x": x}, len(x), WHERE)


def test_a_parameter_that_holds_nan():
    vae = VAE(4, 2, hidden=(5,))
    with torch.no_grad():
        vae.decoder.layers[0].weight[2, 1] = math.nan
    message = explained(vae, torch.zeros(3, 4))
    assert message.startswith(f"the ELBO is not finite at {WHERE}: ")
    assert "parameter 'story.decoder.layers.0.weight' holds NaN or infinity" in message


def at(row, value, columns=2):
    """A tensor of ones with one row spoilt."""

    def made(x):
        ones = torch.ones(len(x), columns)
        ones[row] = value
        return ones

    return made


@pytest.mark.parametrize(
    ("likelihood", "fragments"),
    [
        (
            lambda z, x: dist.Poisson(at(2, math.inf)(x), validate_args=False).to_event(1),
            ["site 'x' of the model", "a Poisson, has rate = inf at row 2", "too large a number"],
        ),
        (
            lambda z, x: dist.Normal(at(1, math.nan)(x), 1.0, validate_args=False).to_event(1),
            ["a Normal, has loc = nan at row 1 of the batch"],
        ),
        (
            lambda z, x: dist.Normal(x, at(3, 0.0)(x), validate_args=False).to_event(1),
            ["a Normal, has log-probability", "at row 3", "smallest scale is 0: the likelihood "
             "collapses onto the data"],
        ),
        (
            lambda z, x: dist.Normal(x + 1, at(0, 1e-30)(x), validate_args=False).to_event(1),
            ["log-probability -inf at row 0", "smallest scale is 1e-30"],
        ),
        (
            lambda z, x: dist.Uniform(at(1, 3.0)(x) - 2, 5.0, validate_args=False).to_event(1),
            ["a Uniform, has log-probability -inf at row 1", "probability zero there"],
        ),
        (
            lambda z, x: likelihoods.MixedColumns(
                [
                    dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1),
                    dist.Poisson(at(2, math.inf, 1)(x), validate_args=False).to_event(1),
                ]
            ),
            ["site 'x' of the model", "a Poisson, has rate = inf at row 2"],
        ),
        (
            lambda z, x: likelihoods.MixedColumns(
                [
                    dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1),
                    dist.Normal(x[:, 1:], at(1, 0.0, 1)(x), validate_args=False).to_event(1),
                ]
            ),
            ["a MixedColumns, has log-probability nan at row 1", "smallest scale is 0"],
        ),
    ],
)  # fmt: skip
def test_a_planted_fault_is_named(likelihood, fragments):
    message = explained(Story(likelihood), torch.zeros(5, 2))
    for fragment in fragments:
        assert fragment in message


def unit(z, x):
    return dist.Normal(z.expand(len(x), 2), 1.0).to_event(1)


def test_a_fault_of_the_guide_is_found_first():
    def q(loc):
        scale = torch.ones_like(loc)
        scale[4] = math.inf
        return dist.Normal(loc, scale, validate_args=False).to_event(1)

    message = explained(Story(unit, q), torch.zeros(5, 2))
    assert "site 'z' of the guide, a Normal, has scale = inf at row 4" in message


def test_a_value_that_is_not_finite_is_named():
    class Wild(dist.Normal):
        def rsample(self, sample_shape=()):
            return super().rsample(sample_shape) * math.inf

    message = explained(Story(unit, lambda loc: Wild(loc, 1.0).to_event(1)), torch.ones(5, 2))
    assert "site 'z' of the guide" in message and "Check what it is drawn from" in message


def test_what_cannot_be_seen_again_is_said_to_be_rare():
    message = explained(Story(unit), torch.zeros(5, 2))
    assert "no site is, when the batch is run again" in message and "clip_norm" in message


def test_a_large_decoder_output_of_a_vae():
    vae = VAE(2, 1, likelihood=likelihoods.Normal("predicted"), hidden=())
    with torch.no_grad():
        vae.decoder.layers[0].weight.fill_(3e38)
    message = explained(vae, torch.ones(6, 2))
    assert "site 'x' of the model" in message and "at row" in message


def test_the_explanation_leaves_the_store_and_the_gradients_alone():
    vae = VAE(4, 2)
    explained(vae, torch.zeros(3, 4))
    assert all(p.grad is None for p in vae.parameters())
