"""Moments of gradients, against NumPy and known signals."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from vaeppl import rows
from vaeppl.comparison.gradients import Moments, gradient, groups, saved_bytes, signal
from vaeppl.pair import Pair


def moments_of(draws):
    found = Moments()
    for row in draws:
        found.add([torch.as_tensor(row[:2]), torch.as_tensor(row[2:]).reshape(1, -1)])
    return found


def test_running_moments_are_those_of_numpy():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (50, 5))
    found = moments_of(draws)
    np.testing.assert_allclose(found.of([0, 1]).numpy(), draws.mean(0))
    assert found.variance([0]).item() == pytest.approx(draws[:, :2].var(0, ddof=1).sum())
    assert found.variance([0, 1]).item() == pytest.approx(draws.var(0, ddof=1).sum())


def test_what_a_signal_is():
    """N(m, s² I) in five dimensions against a reference that is off by a known vector."""
    rng = np.random.default_rng(1)
    m, off = np.array([1.0, -1.0, 2.0, 0.0, 0.0]), np.array([0.0, 0.0, 0.0, 3.0, 4.0])
    found = moments_of(m + 0.5 * rng.normal(size=(4000, 5)))
    aim = moments_of(m + off + 0.1 * rng.normal(size=(4000, 5)))
    got = signal(found, aim, [0, 1])
    length = np.linalg.norm(m + off)
    assert got.variance == pytest.approx(5 * 0.25, rel=0.05)
    assert got.snr == pytest.approx(np.linalg.norm(m) / math.sqrt(1.25), rel=0.05)
    assert got.bias == pytest.approx(5 / length, rel=0.02)
    assert got.cosine == pytest.approx(m @ (m + off) / np.linalg.norm(m) / length, rel=0.02)
    assert got.bias_se == pytest.approx(math.sqrt(5 * 0.26 / 4000) / length, rel=0.05)


def test_noise_is_not_taken_for_signal_or_bias():
    """Mean zero: ‖mean‖ of few repeats is large, and all of it noise."""
    rng = np.random.default_rng(2)
    none = [
        signal(moments_of(rng.normal(size=(10, 50))), moments_of(rng.normal(size=(10, 50))), [0, 1])
        for _ in range(200)
    ]
    assert np.mean([s.snr**2 for s in none]) < 0.02
    far = moments_of(5 + np.zeros((3, 50)))
    assert signal(far, far, [0, 1]).snr == float("inf")


class Story(nn.Module):
    def __init__(self):
        super().__init__()
        self.of_model, self.of_guide = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
        self.of_both, self.of_none = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))

    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(self.of_both, 1.0))
            pyro.sample("x", dist.Normal(z * self.of_model, 1.0), obs=x)

    def guide(self, x=None):
        with rows(x):
            pyro.sample("z", dist.Normal(x * self.of_guide, self.of_both.exp()))


def test_parameters_belong_to_model_guide_or_both():
    pair = Pair(Story())
    named = [n.rsplit(".", 1)[-1] for n, _ in pair.named_parameters()]
    with pair.active():
        found = groups(pair, {"x": torch.randn(4)}, list(pair.parameters()))
    of = {name: {named[i] for i in places} for name, places in found.items()}
    assert of == {"model": {"of_model", "of_both"}, "guide": {"of_guide", "of_both"}}


def test_the_gradient_is_per_row_and_of_minus_the_loss():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    found = gradient((6 * a).sum(), [a, b], rows=3)
    assert [g.tolist() for g in found] == [[-2.0, -2.0], [0.0, 0.0, 0.0]]


def test_what_a_step_keeps_in_memory():
    """One layer of 10 x 20 on 50 rows and a square: input, output; not the weights."""
    layer, x = nn.Linear(10, 20), torch.randn(50, 10)
    kept = saved_bytes(lambda: layer(x).square().sum(), list(layer.parameters()))
    assert kept == 4 * (50 * 10 + 50 * 20)
