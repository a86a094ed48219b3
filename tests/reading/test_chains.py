"""Chains between data and latents: exact Gibbs sampling where the guide is exact."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import vaeppl
from vaeppl.models import CVAE, PPCA, VAE


def test_with_the_exact_posterior_the_chain_has_the_law_of_the_story():
    torch.manual_seed(0)
    ppca = PPCA(3, 1)
    with torch.no_grad():
        ppca.raw_weights.copy_(torch.tensor([[1.0], [-0.5], [0.3]]))
        ppca.raw_mean.copy_(torch.tensor([0.0, 1.0, 2.0]))
    found = vaeppl.chain(ppca, {"x": torch.full((8000, 3), 5.0)}, steps=40)
    w, b = ppca.raw_weights.detach(), ppca.raw_mean.detach()
    covariance = w @ w.T + torch.eye(3)
    assert torch.allclose(torch.cov(found.states[-1].T), covariance, atol=0.1)
    assert torch.allclose(found.states[-1].mean(0), b, atol=0.08)
    assert torch.equal(found.seen, found.states[:-1])
    noise = found.states[1:] - found.means
    assert noise.std().item() == pytest.approx(1.0, abs=0.01)


def test_the_same_seed_gives_the_same_chain():
    data = {"x": (torch.rand(9, 6) < 0.5).float()}
    vae = VAE(6, 2, hidden=(4,))
    first, same, other = (vaeppl.chain(vae, data, steps=4, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.states, same.states)
    assert not torch.equal(first.states, other.states)
    assert first.states.shape == (5, 9, 6) and torch.equal(first.states[0], data["x"])
    assert first.means.shape == (4, 9, 6)


def test_given_columns_stay_as_they_are():
    data = {"x": torch.randn(9, 3), "y": (torch.rand(9, 6) < 0.5).float()}
    found = vaeppl.chain(CVAE(3, 6, 2, hidden=(4,)), data, steps=2)
    assert repr(found) == "Chain(CVAE: 9 chains of 2 steps, column 'y' of shape (6,))"
    assert found.column == "y" and found.states.shape == (3, 9, 6)


def two_columns(x=None, y=None):
    with vaeppl.rows(x, y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def of_two_columns(x=None, y=None):
    with vaeppl.rows(x, y):
        pyro.sample("z", dist.Normal((x + y) / 3, 3**-0.5))


def test_of_several_columns_one_is_asked_for():
    data = {"x": torch.randn(5), "y": torch.randn(5)}
    with pytest.raises(ValueError, match="draws 'x', 'y': say which"):
        vaeppl.chain(two_columns, data, guide=of_two_columns)
    with pytest.raises(ValueError, match=r"did you mean 'x'|unknown column"):
        vaeppl.chain(two_columns, data, guide=of_two_columns, column="w")
    found = vaeppl.chain(two_columns, data, guide=of_two_columns, column="y", steps=3)
    assert found.states.shape == (4, 5)


def test_bad_input():
    with pytest.raises(ValueError, match="steps is a whole number, at least 1"):
        vaeppl.chain(VAE(6, 2), {"x": torch.zeros(3, 6)}, steps=0)
    with pytest.raises(vaeppl.errors.ColumnError):
        vaeppl.chain(VAE(6, 2), {"y": torch.zeros(3, 6)})
