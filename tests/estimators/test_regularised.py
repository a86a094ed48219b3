"""Penalties on the codes, by hand and against closed forms."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from vaeppl import row_count, rows
from vaeppl.errors import StoryError
from vaeppl.estimators.capacity import Capacity
from vaeppl.estimators.discrepancy import MMD, mmd
from vaeppl.estimators.elbo import ELBO
from vaeppl.estimators.regularised import DIP, BetaTC

ROWS = 6


class Story(nn.Module):
    """z ~ N(0, I₂), x | z ~ N(W z, 1), with a guide N(A x, diag s²)."""

    def __init__(self):
        super().__init__()
        self.W, self.A = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(2, 3) / 2)
        self.log_s = nn.Parameter(torch.tensor([-0.4, 0.1]))
        self.x = torch.randn(ROWS, 3)

    def model(self, x):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.W.T, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with rows(x):
            pyro.sample("z", self.q(x).to_event(1))

    def q(self, x):
        return dist.Normal(x @ self.A.T, self.log_s.exp().expand(len(x), 2))

    def kl(self):
        return kl_divergence(self.q(self.x), Normal(0.0, 1.0)).sum(-1)


@pytest.fixture
def story(double):
    return Story()


def paired(estimator, story, x=None, seed=3):
    """Minus the loss, and the ELBO of the same draws."""
    pyro.set_rng_seed(seed)
    x = story.x if x is None else x
    return -estimator.loss(story.model, story.guide, x), float(estimator.report["elbo"])


# --- capacity ---


def test_capacity_by_hand(story):
    kl = story.kl().sum().item()
    for capacity in (0.5, 3.0):
        made = Capacity(capacity=capacity, strength=7.0)
        made.taken.fill_(1)
        value, elbo = paired(made, story)
        assert value == pytest.approx(elbo + kl - 7.0 * ROWS * abs(kl / ROWS - capacity))


def test_capacity_grows_with_the_gradients_taken(story):
    made = Capacity(3, capacity=8.0, steps=4)
    found = []
    for _ in range(6):
        found.append(made.current.item())
        made.differentiable_loss(story.model, story.guide, story.x).backward()
        made.loss(story.model, story.guide, story.x)
    assert found == [0.0, 2.0, 4.0, 6.0, 8.0, 8.0]


def test_capacity_in_minibatches(story):
    made = Capacity(capacity=1.0, strength=2.0)
    whole = made.loss(story.model, story.guide, story.x)
    with row_count(10 * ROWS):
        pyro.set_rng_seed(3)
        scaled = made.loss(story.model, story.guide, story.x)
    pyro.set_rng_seed(3)
    assert whole
    assert scaled == pytest.approx(10 * made.loss(story.model, story.guide, story.x))


# --- total correlation ---


def mixture_terms(story, z):
    """The three terms for codes z, q(z) being the mixture over all rows."""
    q = story.q(story.x)
    each = q.log_prob(z[:, None])  # (i, j, D)
    whole = each.sum(-1).logsumexp(1) - math.log(ROWS)
    product = (each.logsumexp(1) - math.log(ROWS)).sum(-1)
    joint = q.log_prob(z).sum(-1)
    prior = Normal(0.0, 1.0).log_prob(z).sum(-1)
    return [(joint - whole).mean(), (whole - product).mean(), (product - prior).mean()]


def test_a_batch_that_is_the_whole_data_gives_the_terms_of_the_mixture(story):
    made = BetaTC(beta=5.0, mutual_information=2.0, by_dimension=0.5)
    value, elbo = paired(made, story)
    pyro.set_rng_seed(3)
    z = story.q(story.x).rsample()
    information, correlation, by_dimension = mixture_terms(story, z)
    for name, term in zip(made.terms, (information, correlation, by_dimension), strict=True):
        torch.testing.assert_close(made.terms[name], term.detach())
    penalty = 1 * information + 4 * correlation - 0.5 * by_dimension
    assert value == pytest.approx(elbo - ROWS * penalty.item())


def test_weights_of_one_are_the_elbo(story):
    value, elbo = paired(BetaTC(beta=1.0), story)
    assert value == pytest.approx(elbo)


def test_the_stratified_density_is_unbiased(story):
    """The mean over all batches with the row in them is the density of the whole."""
    z = torch.tensor([0.3, -0.2])
    q = story.q(story.x).log_prob(z).sum(-1).exp().detach()
    found = []
    for others in itertools.combinations(range(1, ROWS), 2):
        batch = [0, *others]
        log_w = BetaTC()._log_weights(3, torch.tensor(float(ROWS)))
        found.append((log_w[0].exp() * q[batch]).sum())
    torch.testing.assert_close(torch.stack(found).mean(), q.mean())
    weighted = BetaTC(sampling="weighted")._log_weights(3, torch.tensor(6.0))
    torch.testing.assert_close(weighted.exp(), torch.full((3, 3), 1 / 18))


# --- moments ---


@pytest.mark.parametrize("kind", ["i", "ii"])
@pytest.mark.parametrize("particles", [1, 3])
def test_dip_by_hand(story, kind, particles):
    made = DIP(particles, off_diagonal=2.0, diagonal=3.0, kind=kind)
    value, elbo = paired(made, story)
    means = story.q(story.x).mean
    covariance = torch.cov(means.T, correction=0)
    if kind == "ii":
        covariance = covariance + torch.diag((2 * story.log_s).exp())
    penalty = 2.0 * 2 * covariance[0, 1] ** 2 + 3.0 * ((covariance.diagonal() - 1) ** 2).sum()
    assert value == pytest.approx(elbo - ROWS * penalty.item())


# --- discrepancy ---


def folded(mean, variance):
    """E|N(mean, variance)|."""
    s = variance**0.5
    cdf = Normal(0.0, 1.0).cdf(torch.tensor(-mean / s)).item()
    spread = s * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * variance))
    return spread + mean * (1 - 2 * cdf)


def test_mmd_is_unbiased_for_the_distances_of_normals(double):
    """N(1, 4) and N(0, 1): in closed form for the energy distance and the Gaussian kernel."""
    samples = [(torch.randn(8, 1) * 2 + 1, torch.randn(6, 1)) for _ in range(4000)]
    energy = torch.stack([mmd(a, b, "energy") for a, b in samples])
    exact = 2 * folded(1.0, 5.0) - folded(0.0, 8.0) - folded(0.0, 2.0)
    assert abs(energy.mean() - exact) < 4 * energy.std() / 4000**0.5
    rbf = torch.stack([mmd(a, b, "rbf") for a, b in samples])

    def kernel(mean, variance):
        """E exp(-d²/2), d ~ N(mean, variance)."""
        return math.exp(-(mean**2) / (2 * (1 + variance))) / math.sqrt(1 + variance)

    exact = kernel(0.0, 8.0) + kernel(0.0, 2.0) - 2 * kernel(1.0, 5.0)
    assert abs(rbf.mean() - exact) < 4 * rbf.std() / 4000**0.5


@pytest.mark.parametrize("kernel", ["imq", "rbf", "energy"])
def test_mmd_is_nought_for_one_distribution(double, kernel):
    found = torch.stack([mmd(torch.randn(10, 2), torch.randn(7, 2), kernel) for _ in range(1500)])
    assert abs(found.mean()) < 4 * found.std() / 1500**0.5


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_mmd_takes_the_place_of_the_kl(story, weight):
    made = MMD(2, strength=3.0, kl_weight=weight)
    value, _ = paired(made, story)
    report = made.report
    assert value == pytest.approx(
        (report["reconstruction"] - weight * report["kl"] - ROWS * made.penalty).item()
    )
    loss = made.differentiable_loss(story.model, story.guide, story.x)
    (slope,) = torch.autograd.grad(loss, story.log_s)
    assert slope.isfinite().all() and (slope != 0).all()


# --- all of them ---

MAKERS = [Capacity, BetaTC, DIP, MMD]


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_reported_is_the_elbo(story, make):
    _, elbo = paired(make(), story)
    reference = ELBO()
    x = story.x
    found = [-reference.loss(story.model, story.guide, x) for _ in range(400)]
    assert abs(elbo - sum(found) / 400) < 6 * torch.tensor(found).std()
    assert paired(make(2, vectorize_particles=False), story)[0] < 0


@pytest.mark.parametrize("make", MAKERS)
def test_gradients_reach_every_parameter(story, make):
    loss = make().differentiable_loss(story.model, story.guide, story.x)
    slopes = torch.autograd.grad(loss, list(story.parameters()))
    assert all(s.isfinite().all() and (s != 0).any() for s in slopes)


def test_bad_input(story):
    def full_rank(x):
        with rows(x):
            tril = torch.eye(2)
            pyro.sample("z", dist.MultivariateNormal(x @ story.A.T, scale_tril=tril))

    with pytest.raises(StoryError, match="BetaTC needs a guide that factorises over dimensions"):
        BetaTC().loss(story.model, full_rank, story.x)
    with pytest.raises(StoryError, match="a batch: 2 rows or more"):
        BetaTC().loss(story.model, story.guide, story.x[:1])
    with pytest.raises(StoryError, match="two rows or more"):
        MMD().loss(story.model, story.guide, story.x[:1])

    def without(x):
        with rows(x):
            pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=x)

    for make in (BetaTC, DIP, MMD):
        with pytest.raises(StoryError, match="needs a latent of each row"):
            make().loss(without, lambda x: None, story.x)
    with pytest.raises(StoryError, match="Capacity needs a latent of each row"):
        Capacity().loss(without, lambda x: None, story.x)
    with pytest.raises(ValueError, match="sampling is 'weighted' or 'stratified'"):
        BetaTC(sampling="other")
    with pytest.raises(ValueError, match="kernel is one of imq, rbf, energy"):
        MMD(kernel="linear")
    with pytest.raises(ValueError, match="kind is 'i' or 'ii'"):
        DIP(kind="iii")
    with pytest.raises(ValueError, match="steps at least 1"):
        Capacity(steps=0)
