"""Annealed importance sampling against known evidences."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal

import vaeppl
from vaeppl import rows
from vaeppl.errors import StoryError
from vaeppl.models import M2, VAE, AutoEncoder
from vaeppl.pair import as_pair
from vaeppl.reading.ais import Target, annealed_evidence, hamiltonian
from vaeppl.reading.tracing import quiet

pytestmark = pytest.mark.usefixtures("double")


class Linear(vaeppl.Model):
    """z ~ N(0, I₂), x ~ N(W z, σ² I₃), and a guide that is far too wide, and off."""

    def __init__(self, sigma: float = 0.5):
        super().__init__()
        self.W = nn.Parameter(torch.tensor([[1.0, 0.2], [-0.4, 0.8], [0.3, 0.9]]))
        self.sigma = sigma

    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.W.T, self.sigma).to_event(1), obs=x)

    def guide(self, x):
        with rows(x):
            pyro.sample("z", dist.Normal(x[:, :2] + 0.8, 1.5).to_event(1))

    def log_evidence(self, x):
        covariance = self.W @ self.W.T + self.sigma**2 * torch.eye(3)
        return MultivariateNormal(torch.zeros(3), covariance).log_prob(x).detach()


class Scales(vaeppl.Model):
    """s ~ LogNormal(0, 1), t | s ~ N(0, s), x ~ N(t, 1): a constrained latent above another."""

    def __init__(self):
        super().__init__()
        self.c = nn.Parameter(torch.tensor(0.2))

    def model(self, x=None):
        with rows(x):
            s = pyro.sample("s", dist.LogNormal(torch.tensor(0.0), 1.0))
            t = pyro.sample("t", dist.Normal(0.0, s))
            pyro.sample("x", dist.Normal(t, 1.0), obs=x)

    def guide(self, x):
        with rows(x):
            s = pyro.sample("s", dist.LogNormal(self.c.expand(len(x)), 0.8))
            pyro.sample("t", dist.Normal(x * s / (1 + s), 1.2))

    def log_evidence(self, x):
        grid = torch.linspace(-9, 9, 4001)
        mass = Normal(0.0, 1.0).log_prob(grid) + (grid[1] - grid[0]).log()
        scale = (1 + (2 * grid).exp()).sqrt()
        return (Normal(0.0, scale).log_prob(x[:, None]) + mass).logsumexp(1)


@pytest.mark.parametrize("start", ["guide", "prior"])
@pytest.mark.parametrize("make", [Linear, Scales])
def test_it_finds_the_evidence(start, make):
    story = make()
    x = torch.randn(40, 3) if make is Linear else 2 * torch.randn(40)
    report = annealed_evidence(story, {"x": x}, num_temperatures=60, start=start)
    error = torch.tensor(report.rows["log_evidence"].to_numpy()) - story.log_evidence(x)
    assert error.mean().abs() < 4 * report.mc_se + 0.01
    assert error.abs().max() < 0.6
    assert 0.4 < report.rows["acceptance"].mean() < 0.9
    assert report.rows["elbo"].mean() < report.mean


class Pointed(Scales):
    """The same story, with a guide that sets the latents to points."""

    def guide(self, x):
        with rows(x):
            s = pyro.sample("s", dist.Delta((0.1 * x + self.c).exp()))
            pyro.sample("t", dist.Delta(x * s / (1 + s)))


def test_from_the_prior_the_guide_may_set_latents_to_points():
    """The scale is positive in the story; the point that the guide sets it to does not say so."""
    story, x = Pointed(), 2 * torch.randn(40)
    report = annealed_evidence(story, {"x": x}, num_temperatures=60, start="prior")
    error = torch.tensor(report.rows["log_evidence"].to_numpy()) - story.log_evidence(x)
    assert error.mean().abs() < 4 * report.mc_se + 0.01 and error.abs().max() < 0.6


def test_no_chain_starts_where_there_is_no_density():
    x = {"x": torch.randn(5)}
    with pytest.raises(StoryError, match=r"Pointed sets 's' to a point.*no bound.*start='prior'"):
        annealed_evidence(Pointed(), x)
    x = {"x": torch.randn(5, 4)}
    proper, flat = (AutoEncoder(4, 2, hidden=(3,), prior=p) for p in ("normal", None))
    with pytest.raises(StoryError, match=r"sets 'z' to a point.*no bound of it.*start='prior'"):
        annealed_evidence(proper, x)
    with pytest.raises(StoryError, match=r"sets 'z' to a point.*no bound of it; nor from the pri"):
        annealed_evidence(flat, x)
    with pytest.raises(StoryError, match=r"AutoEncoder has a flat prior, which is no density"):
        annealed_evidence(flat, x, start="prior")


def test_a_density_that_is_known_at_the_draw_alone_is_no_start():
    class Carried(Linear):
        def guide(self, x):
            with rows(x):
                q = dist.Normal(x[:, :2], 1.5)
                z = q.sample()
                log_q = q.log_prob(z).sum(-1)
                pyro.sample("z", dist.Delta(z, log_density=log_q, event_dim=1))

    with pytest.raises(StoryError, match="by annealing from it; start from the prior instead"):
        annealed_evidence(Carried(), {"x": torch.randn(4, 3)})


def test_weights_are_unbiased_even_with_few_temperatures():
    """E[w] = p(x), also where transitions have no time to settle."""
    story, x = Linear(sigma=1.0), torch.randn(1, 3).expand(1500, 3)
    report = annealed_evidence(story, {"x": x}, num_temperatures=4, num_chains=4)
    ratio = torch.tensor(report.rows["log_evidence"].to_numpy()) - story.log_evidence(x)
    w = ratio.exp()
    assert abs(w.mean() - 1) < 4 * w.std() / len(w) ** 0.5


def test_more_temperatures_bring_the_bound_closer():
    story, x = Linear(), torch.randn(60, 3)
    gaps = []
    for number in (1, 5, 40):
        report = annealed_evidence(story, {"x": x}, num_temperatures=number, num_chains=8)
        gaps.append(float(story.log_evidence(x).mean()) - report.rows["elbo"].mean())
    assert gaps[0] > 3 * gaps[1] > 6 * gaps[2] > 0


def test_one_temperature_from_the_guide_is_importance_sampling():
    story, x = Linear(), torch.randn(30, 3)
    annealed = annealed_evidence(story, {"x": x}, num_temperatures=1, num_chains=2000)
    plain = vaeppl.evidence(story, {"x": x}, num_particles=2000)
    assert annealed.rows["elbo"].mean() == pytest.approx(plain.rows["elbo"].mean(), abs=0.1)


def test_a_transition_leaves_its_target_as_it_is():
    """N(1, diag(1, 9)) in, and out; with steps so long that many are refused."""
    torch.manual_seed(0)
    mean, sd = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 3.0])
    state = {"z": mean + sd * torch.randn(50, 400, 2)}

    def log_density(at):
        return Normal(mean, sd).log_prob(at["z"]).sum(-1)

    scale = {"z": torch.ones(1, 1, 2)}
    step = torch.tensor([[1.7]])
    for _ in range(5):
        state, chance = hamiltonian(log_density, state, step, scale, 3)
    z = state["z"].flatten(0, 1)
    assert 0.1 < chance.mean() < 0.97
    assert ((z.mean(0) - mean).abs() < 4 * sd / len(z) ** 0.5 * 2).all()
    assert ((z.std(0) / sd - 1).abs() < 0.03).all()


def test_the_density_in_unconstrained_latents_is_that_of_the_story():
    story, x = Scales(), torch.tensor([0.5, -1.0])
    pair = as_pair(story)
    with quiet(pair):
        for start in ("guide", "prior"):
            target = Target(pair, {"x": x}, 3, start)
            u = {"s": torch.randn(3, 2), "t": torch.randn(3, 2)}
            log_p, log_q = target(u)
            s, t = u["s"].exp(), u["t"]
            prior = dist.LogNormal(0.0, 1.0).log_prob(s) + dist.Normal(0.0, s).log_prob(t)
            torch.testing.assert_close(log_p, prior + dist.Normal(t, 1.0).log_prob(x) + u["s"])
            if start == "guide":
                prior = dist.LogNormal(story.c, 0.8).log_prob(s)
                prior = prior + dist.Normal(x * s / (1 + s), 1.2).log_prob(t)
            torch.testing.assert_close(log_q, prior + u["s"])


def test_weights_and_random_state_are_left_alone():
    story, x = Linear(), torch.randn(5, 3)
    state, before = torch.get_rng_state(), story.W.detach().clone()
    annealed_evidence(story, {"x": x}, num_temperatures=3)
    assert (torch.get_rng_state() == state).all()
    assert (before == story.W).all() and story.W.grad is None


def test_bad_input():
    x = (torch.rand(6, 6) < 0.5).to(torch.get_default_dtype())
    with pytest.raises(StoryError, match="'y' is discrete, and Hamiltonian moves need"):
        annealed_evidence(M2(6, 2, hidden=(4,)), {"x": x})
    vae = VAE(6, 2, hidden=(4,))
    with pytest.raises(ValueError, match="start is 'guide' or 'prior'; given 'data'"):
        annealed_evidence(vae, {"x": x}, start="data")
    with pytest.raises(ValueError, match="num_chains is a whole number, at least 2; given 1"):
        annealed_evidence(vae, {"x": x}, num_chains=1)
    with pytest.raises(ValueError, match="leapfrogs is a whole number, at least 1"):
        annealed_evidence(vae, {"x": x}, leapfrogs=0)
    with pytest.raises(ValueError, match=r"num_temperatures is a whole number.*given 2.5"):
        annealed_evidence(vae, {"x": x}, num_temperatures=2.5)

    class Shared(Linear):
        def model(self, x=None):
            mu = pyro.sample("mu", dist.Normal(torch.tensor(0.0), 1.0))
            with rows(x):
                pyro.sample("x", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=x)

        def guide(self, x):
            pyro.sample("mu", dist.Normal(self.W[0, 0], 1.0))

    with pytest.raises(StoryError, match="'mu' stands outside the plate of rows"):
        annealed_evidence(Shared(), {"x": torch.randn(4, 3)})
