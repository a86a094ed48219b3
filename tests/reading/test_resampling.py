"""Draws by importance resampling are draws from the posterior, whatever the guide."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import vaeppl

X = torch.tensor([[-1.0], [0.3], [2.0]])
NUM = 1500


def normal_model(x=None):
    """z ~ N(0, 1), x ~ N(z, 1/2): the posterior is N(4x/5, 1/5)."""
    with vaeppl.rows(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 0.5).to_event(1), obs=x)


def wrong_guide(x):
    with vaeppl.rows(x):
        pyro.sample("z", dist.Normal(0.5 * x[:, 0], 1.0))


def test_draws_are_those_of_the_posterior():
    z = vaeppl.encode(
        normal_model, {"x": X}, guide=wrong_guide, num_samples=NUM, num_particles=5_000
    )["z"]
    assert z.shape == (NUM, 3)
    se = math.sqrt(0.2 / NUM)
    torch.testing.assert_close(z.mean(0), 0.8 * X[:, 0], atol=5 * se, rtol=0)
    torch.testing.assert_close(z.std(0), torch.full((3,), math.sqrt(0.2)), atol=0.02, rtol=0)


def test_new_data_follow_the_posterior_predictive():
    x = vaeppl.posterior_predictive(
        normal_model, {"x": X}, guide=wrong_guide, num_samples=NUM, num_particles=5_000
    )["x"]
    assert x.shape == (NUM, 3, 1)
    torch.testing.assert_close(
        x.mean(0)[:, 0], 0.8 * X[:, 0], atol=5 * math.sqrt(0.45 / NUM), rtol=0
    )
    torch.testing.assert_close(x.var(0)[:, 0], torch.full((3,), 0.45), atol=0.05, rtol=0)


def test_discrete_latents_are_drawn_with_the_others():
    means = torch.tensor([-1.0, 0.5])

    def model(x=None):
        with vaeppl.rows(x):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])))
            z = pyro.sample("z", dist.Normal(means[k.long()], 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 0.5).to_event(1), obs=x)

    def guide(x):
        with vaeppl.rows(x):
            k = pyro.sample(
                "k", dist.Categorical(torch.full((2,), 0.5)), infer={"enumerate": "parallel"}
            )
            pyro.sample("z", dist.Normal(0.5 * x[:, 0] + 0.1 * k, 1.0))

    drawn = vaeppl.encode(model, {"x": X}, guide=guide, num_samples=NUM, num_particles=5_000)
    joint = torch.tensor([0.3, 0.7]).log() + dist.Normal(means, math.sqrt(1.25)).log_prob(X)
    p = joint.softmax(-1)
    torch.testing.assert_close(drawn["k"].float().mean(0), p[:, 1], atol=0.04, rtol=0)
    mean = (p * (0.8 * X + 0.2 * means)).sum(-1)
    torch.testing.assert_close(drawn["z"].mean(0), mean, atol=0.05, rtol=0)


def test_latents_outside_the_rows_are_those_of_the_guide_and_shared_by_the_rows(monkeypatch):
    def model(x=None):
        m = pyro.sample("m", dist.Normal(0.0, 10.0))
        with vaeppl.rows(x):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 0.5).to_event(1), obs=x)

    def guide(x):
        m = pyro.sample("m", dist.Normal(3.0, 2.0))
        with vaeppl.rows(x):
            pyro.sample("z", dist.Normal(0.4 * m, 1.5))

    monkeypatch.setattr("vaeppl.reading.predictive.ROWS_AT_ONCE", 2)
    x = torch.zeros(4, 1)
    z = vaeppl.encode(model, {"x": x}, guide=guide, num_samples=600, num_particles=600)["z"]
    # Given m, z is N(m/5, 1/5), so that over m ~ N(3, 4) rows are correlated.
    assert z.mean() == pytest.approx(0.6, abs=0.08)
    assert torch.cov(z.T)[0, 3] == pytest.approx(4 / 25, abs=0.05)
    assert z.var(0).mean() == pytest.approx(0.2 + 4 / 25, abs=0.06)


def test_latents_of_the_parts_of_a_row_are_drawn_together():
    def model(x=None):
        with pyro.plate("parts", 3, dim=-2), vaeppl.rows(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            given = None if x is None else x.T
            pyro.sample("x", dist.Normal(z, 0.5), obs=given)

    def guide(x):
        with pyro.plate("parts", 3, dim=-2), vaeppl.rows(x):
            pyro.sample("z", dist.Normal(0.7 * x.T, 0.6))

    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    drawn = vaeppl.encode(model, {"x": x}, guide=guide, num_samples=500, num_particles=4000)["z"]
    assert drawn.shape == (500, 3, 5)
    torch.testing.assert_close(drawn.mean(0), 0.8 * x.T, atol=0.12, rtol=0)


def test_numbers_that_make_no_sense_are_refused():
    given = {"guide": wrong_guide, "num_samples": 3}
    with pytest.raises(ValueError, match="num_particles is a whole number, at least 2"):
        vaeppl.encode(normal_model, {"x": X}, num_particles=1, **given)
    with pytest.raises(ValueError, match="say how many by num_samples"):
        vaeppl.encode(normal_model, {"x": X}, guide=wrong_guide, num_particles=10)
