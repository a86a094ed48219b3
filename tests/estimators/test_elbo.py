"""The ELBO against exact answers: a linear-Gaussian model, enumeration, and sums by hand."""

from __future__ import annotations

import math
import warnings

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.poutine.util import prune_subsample_sites
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from vaeppl import row_count, rows
from vaeppl.errors import StoryError
from vaeppl.estimators import ELBO
from vaeppl.estimators.elbo import exact_kl_sites
from vaeppl.guides import Flow
from vaeppl.models import VAE
from vaeppl.priors import MixtureOfNormals

pytestmark = pytest.mark.usefixtures("double")

LATENT, COLUMNS, ROWS = 2, 4, 6


class LinearGaussian(nn.Module):
    """z ~ N(0, I), x ~ N(W z + b, σ² I), with a guide N(A x + c, C Cᵀ) that may be diagonal."""

    def __init__(self, family="diagonal"):
        super().__init__()
        self.family = family
        self.W, self.b = (
            nn.Parameter(torch.randn(COLUMNS, LATENT)),
            nn.Parameter(torch.randn(COLUMNS)),
        )
        self.log_sigma = nn.Parameter(torch.tensor(-0.3))
        self.A, self.c = (
            nn.Parameter(torch.randn(LATENT, COLUMNS) / 3),
            nn.Parameter(torch.randn(LATENT)),
        )
        self.tril = nn.Parameter(torch.tensor([[0.7, 0.0], [0.2, 0.5]]))
        self.x = torch.randn(ROWS, COLUMNS)

    def parts(self):
        return [self.W, self.b, self.log_sigma, self.A, self.c, self.tril]

    def model(self, x):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            mean = z @ self.W.T + self.b
            pyro.sample("x", dist.Normal(mean, self.log_sigma.exp()).to_event(1), obs=x)

    def guide(self, x):
        with rows(x):
            pyro.sample("z", self.q(x))

    def q(self, x):
        mean = x @ self.A.T + self.c
        if self.family == "diagonal":
            return dist.Normal(mean, self.tril.diagonal()).to_event(1)
        return dist.MultivariateNormal(mean, scale_tril=self.tril.tril())

    def be_exact(self):
        """Put the guide on the posterior."""
        with torch.no_grad():
            noise = (2 * self.log_sigma).exp()
            covariance = torch.linalg.inv(torch.eye(LATENT) + self.W.T @ self.W / noise)
            self.A.copy_(covariance @ self.W.T / noise)
            self.c.copy_(-self.A @ self.b)
            self.tril.copy_(torch.linalg.cholesky(covariance))
        return self

    def log_evidence(self):
        noise = (2 * self.log_sigma).exp()
        covariance = self.W @ self.W.T + noise * torch.eye(COLUMNS)
        return MultivariateNormal(self.b, covariance).log_prob(self.x).sum()

    def terms(self):
        """E_q[log p(x | z)] and the KL of each row and dimension, in closed form."""
        noise = (2 * self.log_sigma).exp()
        factor = self.tril.diagonal().diag() if self.family == "diagonal" else self.tril.tril()
        mean = self.x @ self.A.T + self.c
        at_mean = Normal(mean @ self.W.T + self.b, noise.sqrt()).log_prob(self.x).sum()
        spread = (self.W @ factor).square().sum() / (2 * noise) * len(self.x)
        variance = (factor @ factor.T).diagonal()
        log_det = factor.diagonal().log()
        kl = (variance + mean.square() - 1) / 2 - log_det
        return at_mean - spread, kl


def estimates(elbo, story, number, *args, **kwargs):
    """Values and flat gradients of independent estimates."""
    values, slopes = [], []
    with pyro.validation_enabled(False):
        for _ in range(number):
            loss = elbo.differentiable_loss(story.model, story.guide, *args, **kwargs)
            values.append(loss.detach())
            slopes.append(flat_grad(loss, story.parts()))
    return torch.stack(values)[:, None], torch.stack(slopes)


def assert_mean(draws, exact):
    """The mean of independent draws lies within four standard errors of the exact value."""
    error = (draws.mean(0) - exact).abs()
    se = draws.std(0) / len(draws) ** 0.5
    assert (error <= 4 * se + 1e-9).all(), (error / se.clamp(min=1e-12)).max()


def flat_grad(value, parameters):
    grads = torch.autograd.grad(value, parameters, allow_unused=True)
    pairs = zip(parameters, grads, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs])


# --- the linear-Gaussian model ---


@pytest.mark.parametrize("particles", [1, 3])
def test_at_the_posterior_every_draw_gives_the_evidence(particles):
    story = LinearGaussian("full").be_exact()
    elbo = ELBO(particles, analytic_kl=False)
    for _ in range(5):
        loss = elbo.loss(story.model, story.guide, story.x)
        assert -loss == pytest.approx(story.log_evidence().item(), abs=1e-8)


@pytest.mark.parametrize("particles", [1, 4])
def test_analytic_kl_is_the_closed_form_at_every_draw(particles):
    story, elbo = LinearGaussian(), ELBO(particles)
    _, kl = story.terms()
    for _ in range(3):
        elbo.loss(story.model, story.guide, story.x)
        torch.testing.assert_close(elbo.report["kl"], kl.sum().detach())
        torch.testing.assert_close(elbo.site_kl["z"], kl.sum().detach())


@pytest.mark.parametrize("family", ["diagonal", "full"])
@pytest.mark.parametrize("analytic", [True, False])
@pytest.mark.parametrize("options", [{}, {"num_particles": 3}, {"kl_weight": 0.3}])
def test_value_and_gradient_agree_with_closed_form(family, analytic, options):
    story = LinearGaussian(family)
    reconstruction, kl = story.terms()
    exact = -(reconstruction - options.get("kl_weight", 1.0) * kl.sum())
    values, slopes = estimates(ELBO(analytic_kl=analytic, **options), story, 150, story.x)
    assert_mean(values, exact.detach())
    assert_mean(slopes, flat_grad(exact, story.parts()))


@pytest.mark.parametrize("family", ["diagonal", "full"])
def test_at_the_posterior_analytic_and_monte_carlo_agree(family):
    story = LinearGaussian(family).be_exact()
    values, _ = estimates(ELBO(), story, 100, story.x)
    reconstruction, kl = story.terms()
    assert_mean(values, -(reconstruction - kl.sum()).detach())


# --- Pyro's estimator ---


def seeded_loss(elbo, story, *args, seed=3):
    pyro.set_rng_seed(seed)
    loss = elbo.differentiable_loss(story.model, story.guide, *args)
    return loss.detach(), flat_grad(loss, story.parts())


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("vectorize", [True, False])
def test_monte_carlo_mode_is_pyros_trace_elbo(particles, vectorize):
    story = LinearGaussian()
    options = {"vectorize_particles": vectorize, "max_plate_nesting": 1}
    ours = seeded_loss(ELBO(particles, analytic_kl=False, **options), story, story.x)
    theirs = seeded_loss(Trace_ELBO(particles, **options), story, story.x)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("analytic", [True, False])
def test_particles_side_by_side_are_particles_in_turn(analytic):
    story = LinearGaussian()
    sides = [
        estimates(ELBO(4, analytic_kl=analytic, vectorize_particles=v), story, 80, story.x)
        for v in (True, False)
    ]
    for a, b in zip(*sides, strict=True):
        se = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() <= 4 * se + 1e-9).all()
        assert (a.std(0) < 2 * b.std(0) + 1e-9).all() and (b.std(0) < 2 * a.std(0) + 1e-9).all()


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("analytic", [True, False])
def test_the_report_adds_up_to_the_loss(particles, vectorize, analytic):
    story = LinearGaussian()
    elbo = ELBO(particles, vectorize_particles=vectorize, analytic_kl=analytic)
    loss = elbo.differentiable_loss(story.model, story.guide, story.x)
    report = elbo.report
    torch.testing.assert_close(report["elbo"], -loss.detach())
    torch.testing.assert_close(report["elbo"], report["reconstruction"] - report["kl"])
    torch.testing.assert_close(report["kl"], sum(elbo.site_kl.values()))
    assert report["global"] == 0 and not any(t.requires_grad for t in report.values())


def test_validation_finds_what_pyros_would():
    def model(x):
        with pyro.plate("rows", 3):
            pyro.sample("x", dist.Normal(torch.zeros(2, 3), 1.0), obs=x)

    with pytest.raises(ValueError, match='at site "x", invalid log_prob shape'):
        ELBO().loss(model, lambda x: None, torch.zeros(2, 3))


# --- minibatches ---


class Points(nn.Module):
    """A global mean and row effects, with point masses as guides: the ELBO has no noise."""

    def __init__(self):
        super().__init__()
        self.mu, self.slope = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(0.6))
        self.log_sigma = nn.Parameter(torch.tensor(0.1))

    def parts(self):
        return [self.mu, self.slope, self.log_sigma]

    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with rows(x):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, self.log_sigma.exp()), obs=x)

    def guide(self, x):
        mu = pyro.sample("mu", dist.Delta(self.mu))
        with rows(x):
            pyro.sample("z", dist.Delta(mu + self.slope * (x - mu)))


@pytest.mark.parametrize("options", [{}, {"kl_weight": 0.4}, {"num_particles": 2}])
def test_minibatches_of_a_partition_average_to_the_full_data(options):
    story, x, elbo = Points(), torch.randn(12), ELBO(**options)
    whole = elbo.differentiable_loss(story.model, story.guide, x)
    report = dict(elbo.report)
    with row_count(12):
        parts, reports = [], []
        for batch in x.split(3):
            parts.append(elbo.differentiable_loss(story.model, story.guide, batch))
            reports.append(dict(elbo.report))
    mean = torch.stack(parts).mean()
    torch.testing.assert_close(mean, whole)
    torch.testing.assert_close(flat_grad(mean, story.parts()), flat_grad(whole, story.parts()))
    for term in report:
        torch.testing.assert_close(torch.stack([r[term] for r in reports]).mean(), report[term])
    prior = Normal(0.0, 2.0).log_prob(story.mu)
    torch.testing.assert_close(report["global"], prior.detach())


def test_the_elbo_of_points_by_hand():
    story, x, elbo = Points(), torch.randn(5), ELBO(kl_weight=0.4)
    loss = elbo.loss(story.model, story.guide, x)
    z = story.mu + story.slope * (x - story.mu)
    log_prior = Normal(0.0, 2.0).log_prob(story.mu) + Normal(story.mu, 1.0).log_prob(z).sum()
    reconstruction = Normal(z, story.log_sigma.exp()).log_prob(x).sum()
    assert -loss == pytest.approx((reconstruction + 0.4 * log_prior).item())
    assert elbo.report["elbo"].item() == pytest.approx((reconstruction + log_prior).item())


def test_a_random_minibatch_is_unbiased_with_a_global_latent():
    """Also where the guide is not a point mass, over all batches of two of four rows."""
    x = torch.randn(4)

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with rows(x):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def guide(x):
        pyro.sample("mu", dist.Normal(0.4, 0.5))

    def exact(x):
        kl = kl_divergence(Normal(0.4, 0.5), Normal(0.0, 1.0))
        return Normal(0.4, 1.0).log_prob(x).sum() - len(x) * 0.25 / 2 - kl

    elbo = ELBO()
    pairs = torch.combinations(torch.arange(4))
    with row_count(4):
        draws = torch.tensor(
            [[-elbo.loss(model, guide, x[p]) for p in pairs] for _ in range(60)]
        ).mean(1)
    assert_mean(draws, exact(x))


# --- the weight of the KL ---


@pytest.mark.parametrize("analytic", [True, False])
@pytest.mark.parametrize("weight", [0.0, 0.3, 4.0, torch.tensor(0.3)])
def test_kl_weight_changes_the_objective_and_never_the_report(analytic, weight):
    """On model and guide alike: the objective is reconstruction - β KL of the same draws."""
    story = LinearGaussian()
    pyro.set_rng_seed(1)
    plain = ELBO(analytic_kl=analytic)
    plain.loss(story.model, story.guide, story.x)
    pyro.set_rng_seed(1)
    weighted = ELBO(analytic_kl=analytic, kl_weight=weight)
    loss = weighted.loss(story.model, story.guide, story.x)
    for term, value in plain.report.items():
        torch.testing.assert_close(weighted.report[term], value)
    by_hand = plain.report["reconstruction"] - weight * plain.report["kl"]
    assert -loss == pytest.approx(by_hand.item())


def test_kl_weight_is_pyros_scale_on_both_sides():
    story = LinearGaussian()

    class Scaled(LinearGaussian):
        def model(self, x):
            with rows(x):
                with poutine.scale(scale=0.3):
                    z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
                mean = z @ self.W.T + self.b
                pyro.sample("x", dist.Normal(mean, self.log_sigma.exp()).to_event(1), obs=x)

        def guide(self, x):
            with rows(x), poutine.scale(scale=0.3):
                pyro.sample("z", self.q(x))

    scaled = Scaled()
    scaled.load_state_dict(story.state_dict())
    ours = seeded_loss(ELBO(analytic_kl=False, kl_weight=0.3), story, story.x)
    theirs = seeded_loss(Trace_ELBO(), scaled, story.x)
    torch.testing.assert_close(ours, theirs)


# --- free bits ---


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("floor", [0.1, 0.6, 1.5, 100.0])
def test_free_bits_are_counted_by_dimension(particles, floor):
    story = LinearGaussian()
    _, kl = story.terms()
    means = kl.mean(0).detach()
    assert means.min() < 1.5 and means.max() > 0.1
    elbo = ELBO(particles, free_bits=floor, kl_weight=0.5)
    loss = elbo.differentiable_loss(story.model, story.guide, story.x)
    counted = ROWS * means.clamp(min=floor).sum()
    assert -loss.item() == pytest.approx((elbo.report["reconstruction"] - 0.5 * counted).item())
    torch.testing.assert_close(elbo.report["kl"], kl.sum().detach())


def test_below_the_free_bits_the_kl_has_no_gradient():
    """One dimension costs less than λ, the other more; the data do not depend on z."""
    loc, log_scale = torch.tensor([0.1, 2.0]).requires_grad_(), torch.zeros(2).requires_grad_()

    def model():
        with pyro.plate("rows", 5):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def guide():
        with pyro.plate("rows", 5):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    loss = ELBO(free_bits=0.5).differentiable_loss(model, guide)
    assert loss.item() == pytest.approx(5 * (0.5 + 2.0))
    slope = torch.autograd.grad(loss, [loc, log_scale])
    assert slope[0].tolist() == [0.0, 10.0] and slope[1][0] == 0


def test_free_bits_with_masks_scales_and_minibatches():
    """Masked rows count neither in the mean nor in the sum, even where they are NaN."""
    loc = torch.tensor([[1.0, 0.1], [2.0, 0.2], [float("nan"), 0.3]])
    mask = torch.tensor([True, True, False])

    def both(loc, scale=1.0):
        def story(x):
            with rows(x), poutine.mask(mask=mask), poutine.scale(scale=scale):
                pyro.sample("z", dist.Normal(loc, 1.0, validate_args=False).to_event(1))

        return story

    model, guide = both(torch.zeros(2)), both(loc)
    kl = loc[:2].square() / 2
    x = torch.zeros(3)
    with row_count(30), pyro.validation_enabled(False):
        loss = ELBO(free_bits=0.5).loss(model, guide, x)
        assert loss == pytest.approx(10 * 2 * kl.mean(0).clamp(min=0.5).sum().item())
        # Scales by row are weights of the mean.
        weights = torch.tensor([3.0, 1.0, 1.0])
        model, guide = both(torch.zeros(2), weights), both(loc, weights)
        loss = ELBO(free_bits=0.5).loss(model, guide, x)
    mean = (kl * weights[:2, None]).sum(0) / 4
    assert loss == pytest.approx(10 * 4 * mean.clamp(min=0.5).sum().item())


def test_free_bits_of_a_joint_posterior_are_counted_for_the_site():
    story = LinearGaussian("full")
    _, kl = story.terms()
    elbo = ELBO(free_bits=100.0)
    loss = elbo.loss(story.model, story.guide, story.x)
    assert -loss == pytest.approx((elbo.report["reconstruction"] - 100.0 * ROWS).item())
    assert kl.sum() > 0


def test_free_bits_leave_global_latents_alone():
    story, x = Points(), torch.randn(5)
    spared, plain = ELBO(free_bits=1e-9), ELBO()
    assert spared.loss(story.model, story.guide, x) == pytest.approx(
        plain.loss(story.model, story.guide, x)
    )


# --- more than one latent ---


class Chain(nn.Module):
    """z2 -> z1 -> x, with a guide that goes bottom-up (x -> z1 -> z2) or top-down."""

    def __init__(self, bottom_up=True):
        super().__init__()
        self.bottom_up = bottom_up
        self.a, self.r, self.s = (nn.Parameter(torch.tensor(v)) for v in (1.3, 0.6, -0.4))

    def parts(self):
        return [self.a, self.r, self.s]

    def model(self, x):
        with rows(x):
            z2 = pyro.sample("z2", dist.Normal(torch.tensor(0.0), 1.0))
            z1 = pyro.sample("z1", dist.Normal(self.a * z2, 0.5))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(self, x):
        with rows(x):
            if self.bottom_up:
                z1 = pyro.sample("z1", dist.Normal(self.r * x, 0.6))
                pyro.sample("z2", dist.Normal(self.s * z1, self.r.exp()))
            else:
                z2 = pyro.sample("z2", dist.Normal(self.s * x, self.r.exp()))
                pyro.sample("z1", dist.Normal(self.r * x + z2, 0.6))

    def exact(self, x):
        """The bottom-up ELBO: every moment of the guide is known."""
        m1, v1, v2 = self.r * x, torch.tensor(0.36), (2 * self.r).exp()
        reconstruction = Normal(m1, 1.0).log_prob(x) - v1 / 2
        m2, s2 = self.s * m1, self.s**2 * v1 + v2
        log_z2 = Normal(0.0, 1.0).log_prob(m2) - s2 / 2
        gap_mean, gap_var = (1 - self.a * self.s) * m1, (1 - self.a * self.s) ** 2 * v1
        gap_var = gap_var + self.a**2 * v2
        log_z1 = Normal(0.0, 0.5).log_prob(gap_mean) - gap_var / 0.5
        entropy = Normal(0.0, 0.6).entropy() + Normal(0.0, self.r.exp()).entropy()
        return (reconstruction + log_z2 + log_z1 + entropy).sum()


def test_a_bottom_up_guide_of_a_top_down_model():
    story, x = Chain(), torch.randn(5)
    exact = -story.exact(x)
    slope = flat_grad(exact, story.parts())
    for analytic in (True, False):
        values, slopes = estimates(ELBO(40, analytic_kl=analytic), story, 80, x)
        assert_mean(values, exact.detach())
        assert_mean(slopes, slope)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = TraceMeanField_ELBO(4000, vectorize_particles=True, max_plate_nesting=1)
        wrong = theirs.loss(story.model, story.guide, x)
    assert abs(wrong - exact.item()) > 1.0


@pytest.mark.parametrize("bottom_up", [True, False])
def test_the_kls_of_sites_have_the_order_of_the_model(bottom_up):
    story, elbo = Chain(bottom_up), ELBO(3)
    elbo.loss(story.model, story.guide, torch.randn(5))
    assert list(elbo.site_kl) == ["z2", "z1"]


def test_which_kls_are_exact():
    def sites(story):
        x = torch.randn(5)
        traces = (poutine.trace(story.model).get_trace(x), poutine.trace(story.guide).get_trace(x))
        return exact_kl_sites(*map(prune_subsample_sites, traces))

    assert sites(Chain(bottom_up=True)) == {"z2"}
    assert sites(Chain(bottom_up=False)) == {"z1", "z2"}


def test_a_top_down_guide_has_both_kls_exact_given_what_is_above():
    story, x = Chain(bottom_up=False), torch.randn(5)
    elbo = ELBO()
    elbo.loss(story.model, story.guide, x)
    kl = kl_divergence(Normal(story.s * x, story.r.exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(elbo.site_kl["z2"], kl.sum().detach())
    theirs = TraceMeanField_ELBO(num_particles=1)
    pyro.set_rng_seed(0)
    wanted = theirs.loss(story.model, story.guide, x)
    pyro.set_rng_seed(0)
    assert elbo.loss(story.model, story.guide, x) == pytest.approx(wanted)


# --- masks and scales ---


class Weighted(Chain):
    """Rows with masks and weights, on both sides or on one."""

    def __init__(self, sides=("model", "guide"), scale=2.5, mask=None):
        super().__init__(bottom_up=False)
        self.sides = sides
        self.scale = scale
        self.mask = torch.tensor([True, False, True, True, False]) if mask is None else mask

    def model(self, x):
        self.weigh("model", super().model, x)

    def guide(self, x):
        self.weigh("guide", super().guide, x)

    def weigh(self, side, story, x):
        if side in self.sides:
            with poutine.scale(scale=self.scale), poutine.mask(mask=self.mask):
                story(x)
        else:
            story(x)


@pytest.mark.parametrize("scale", [2.5, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])])
@pytest.mark.parametrize("sides", [("model", "guide"), ("model",), ("guide",)])
def test_masks_and_scales_are_those_of_pyro(sides, scale):
    story, x = Weighted(sides, scale), torch.randn(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = seeded_loss(ELBO(analytic_kl=False), story, x)
        theirs = seeded_loss(Trace_ELBO(), story, x)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("scale", [2.5, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])])
def test_exact_kls_are_masked_and_scaled(scale):
    story, x = Weighted(scale=scale), torch.randn(5)
    elbo = ELBO()
    elbo.loss(story.model, story.guide, x)
    kl = kl_divergence(Normal(story.s * x, story.r.exp()), Normal(0.0, 1.0))
    by_hand = (kl * scale)[story.mask].sum()
    torch.testing.assert_close(elbo.site_kl["z2"], by_hand.detach())


@pytest.mark.parametrize("sides", [("model",), ("guide",)])
@pytest.mark.parametrize("mask", [True, None])
def test_a_weight_on_one_side_only_is_not_put_on_the_other(sides, mask):
    """TraceMeanField_ELBO takes the guide's for both."""
    story, x = Weighted(sides, mask=mask), torch.randn(5)
    ours = seeded_loss(ELBO(), story, x)
    theirs = seeded_loss(Trace_ELBO(), story, x)
    torch.testing.assert_close(ours, theirs)


def test_masked_distributions():
    mask = torch.tensor([True, False, True])
    x = torch.randn(3)

    def model(x):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0).mask(mask))
            pyro.sample("x", dist.Normal(z, 1.0).mask(mask), obs=x)

    def guide(x):
        with rows(x):
            pyro.sample("z", dist.Normal(x / 2, 0.7).mask(mask))

    elbo = ELBO()
    elbo.loss(model, guide, x)
    kl = kl_divergence(Normal(x / 2, 0.7), Normal(0.0, 1.0))[mask].sum()
    torch.testing.assert_close(elbo.report["kl"], kl)


def test_a_q_that_is_the_same_for_all_rows():
    """It stands in the plate, so its KL counts once a row."""

    def model():
        with pyro.plate("rows", 7):
            pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))

    def guide():
        with pyro.plate("rows", 7):
            pyro.sample("z", dist.Normal(torch.tensor(0.5), 2.0))

    kl = kl_divergence(Normal(0.5, 2.0), Normal(0.0, 1.0))
    for particles in (1, 3):
        assert ELBO(particles).loss(model, guide) == pytest.approx(7 * kl.item())


# --- latents that cannot be reparametrised ---


class Discrete(nn.Module):
    """z ~ Categorical, x ~ N(m_z, 1): three classes, so that sums are exact."""

    def __init__(self, extra=False):
        super().__init__()
        self.extra = extra
        self.logits, self.loc = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))
        self.q_logits = nn.Parameter(torch.randn(4, 3))
        self.a_logits = nn.Parameter(torch.randn(4))
        self.x = torch.randn(4)

    def parts(self):
        return [self.logits, self.loc, self.q_logits, self.a_logits]

    def model(self, x):
        with rows(x):
            z = pyro.sample("z", dist.Categorical(logits=self.logits))
            pyro.sample("x", dist.Normal(self.loc[z], 1.0), obs=x)

    def guide(self, x):
        with rows(x):
            if self.extra:  # a coin that shifts the logits of q
                auxiliary = {"is_auxiliary": True}
                coin = dist.Bernoulli(logits=self.a_logits)
                a = pyro.sample("a", coin, infer=auxiliary)
                q = dist.Categorical(logits=self.q_logits * (1 + a.unsqueeze(-1)))
            else:
                q = dist.Categorical(logits=self.q_logits)
            pyro.sample("z", q)

    def exact(self, weight=1.0):
        """Return reconstruction and KL by summing over what is drawn."""
        log_p = self.logits.log_softmax(-1)
        score = Normal(self.loc, 1.0).log_prob(self.x[:, None])
        coin = torch.sigmoid(self.a_logits)
        branches = [(1 - coin, 1.0), (coin, 2.0)] if self.extra else [(torch.ones(4), 1.0)]
        reconstruction = kl = 0.0
        for p_branch, factor in branches:
            log_q = (self.q_logits * factor).log_softmax(-1)
            log_branch = p_branch.log()[:, None]
            q = p_branch[:, None] * log_q.exp()
            reconstruction = reconstruction + (q * score).sum()
            kl = kl + (q * (log_branch + log_q - log_p)).sum()
        return reconstruction, kl


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("weight", [1.0, 0.3, 3.0])
def test_score_function_gradient_is_that_of_the_exact_sum(weight, extra):
    story = Discrete(extra)
    reconstruction, kl = story.exact()
    exact = -(reconstruction - weight * kl)
    elbo = ELBO(150, kl_weight=weight)
    values, slopes = estimates(elbo, story, 60, story.x)
    assert_mean(values, exact.detach())
    assert_mean(slopes, flat_grad(exact, story.parts()))


def test_score_function_report():
    story, elbo, seen = Discrete(), ELBO(50, kl_weight=0.3), []
    reconstruction, kl = story.exact()
    for _ in range(40):
        elbo.loss(story.model, story.guide, story.x)
        seen.append(torch.stack([elbo.report[t] for t in ("reconstruction", "kl", "elbo")]))
        assert elbo.site_kl.keys() == {"z"}
    assert_mean(torch.stack(seen), torch.stack([reconstruction, kl, reconstruction - kl]).detach())


def test_score_function_loss_is_pyros_trace_elbo():
    """One after another the particles know nothing of each other, and there is no baseline."""
    story = Discrete()
    options = {"vectorize_particles": False, "max_plate_nesting": 1}
    ours = seeded_loss(ELBO(3, **options), story, story.x)
    theirs = seeded_loss(Trace_ELBO(3, **options), story, story.x)
    torch.testing.assert_close(ours, theirs)


def test_the_baseline_lowers_the_variance_of_the_score_function():
    """Side by side their value is Pyro's; the gradient has the same mean and varies less."""
    story = Discrete()
    story.x = story.x + 5  # a level that all labels share, which a baseline takes away
    options = {"vectorize_particles": True, "max_plate_nesting": 1}
    ours, theirs = ELBO(4, **options), Trace_ELBO(4, **options)
    values = [seeded_loss(elbo, story, story.x)[0] for elbo in (ours, theirs)]
    torch.testing.assert_close(*values)
    _, slopes = estimates(ours, story, 400, story.x)
    _, without = estimates(theirs, story, 400, story.x)
    reconstruction, kl = story.exact()
    assert_mean(slopes, flat_grad(kl - reconstruction, story.parts()))
    q = slice(6, 18)  # the logits of q
    assert slopes[:, q].var(0).sum() < 0.2 * without[:, q].var(0).sum()


def test_score_function_of_a_normal_and_of_a_mixed_guide():
    """A guide with one latent of each sort; the exact gradient is the reparametrised one."""

    class Half(Chain):
        def guide(self, x):
            with rows(x):
                z1 = pyro.sample("z1", dist.Normal(self.r * x, 0.6))
                q = NonreparameterizedNormal(self.s * z1, self.r.exp())
                pyro.sample("z2", q)

    story, x = Half(), torch.randn(5)
    exact = -story.exact(x)
    values, slopes = estimates(ELBO(200), story, 60, x)
    assert_mean(values, exact.detach())
    assert_mean(slopes, flat_grad(exact, story.parts()))


def test_free_bits_need_latents_that_can_be_reparametrised():
    story = Discrete()
    with pytest.raises(StoryError, match="free bits need latents"):
        ELBO(free_bits=0.1).loss(story.model, story.guide, story.x)


# --- what else a guide may hold ---


def test_an_auxiliary_variable_belongs_to_the_kl():
    """q(a) q(z | a): the ELBO is E[log p(x, z) - log q(a) - log q(z | a)]."""

    class Auxiliary(Chain):
        def guide(self, x):
            with rows(x):
                auxiliary = {"is_auxiliary": True}
                a = pyro.sample("a", dist.Normal(self.r * x, 0.6), infer=auxiliary)
                pyro.sample("z1", dist.Normal(a + self.s, 0.5))
                pyro.sample("z2", dist.Normal(a, 0.8))

    story, x = Auxiliary(), torch.randn(5)
    ours = seeded_loss(ELBO(analytic_kl=False), story, x)
    torch.testing.assert_close(ours, seeded_loss(Trace_ELBO(), story, x))
    elbo = ELBO(kl_weight=0.5)
    loss = elbo.loss(story.model, story.guide, x)
    assert elbo.site_kl.keys() == {"a", "z1", "z2"}
    assert -loss == pytest.approx((elbo.report["reconstruction"] - 0.5 * elbo.report["kl"]).item())


def test_a_factor_in_the_guide_is_a_part_of_log_q():
    class Factored(Chain):
        def guide(self, x):
            with rows(x):
                pyro.sample("z2", dist.Normal(self.s * x, self.r.exp()))
                pyro.sample("z1", dist.Normal(self.r * x, 0.6))
                pyro.factor("volume", self.r * x + self.s, has_rsample=True)

    story, x = Factored(), torch.randn(5)
    elbo = ELBO(analytic_kl=False)
    torch.testing.assert_close(seeded_loss(elbo, story, x), seeded_loss(Trace_ELBO(), story, x))
    report = elbo.report
    torch.testing.assert_close(report["elbo"], report["reconstruction"] - report["kl"])
    torch.testing.assert_close(elbo.site_kl["volume"], (story.r * x + story.s).sum().detach())


def test_a_factor_that_stands_for_a_draw_gets_a_score_function():
    """The guide draws a class by hand, and tells its log-probability by a factor."""

    class ByHand(Discrete):
        def guide(self, x):
            with rows(x):
                q = torch.distributions.Categorical(logits=self.q_logits)
                z = q.sample()
                pyro.factor("q", q.log_prob(z), has_rsample=False)
                pyro.sample("z", dist.Delta(z))

    story = ByHand()
    reconstruction, kl = story.exact()
    exact = -(reconstruction - kl)
    slope = flat_grad(exact, story.parts())
    values, slopes = estimates(ELBO(), story, 500, story.x)
    assert_mean(values, exact.detach())
    assert_mean(slopes, slope)


def test_a_factor_and_a_deterministic_site_of_the_model():
    def model(x):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.deterministic("twice", 2 * z)
            pyro.factor("penalty", -z.square())
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with rows(x):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    x = torch.randn(4)
    pyro.set_rng_seed(0)
    ours = ELBO(analytic_kl=False).loss(model, guide, x)
    pyro.set_rng_seed(0)
    assert ours == pytest.approx(Trace_ELBO().loss(model, guide, x))


@pytest.mark.parametrize("family", [AutoNormal, AutoMultivariateNormal])
def test_autoguides_of_constrained_latents(family):
    """Their point masses carry a log-density, which Pyro's exact KL of a Delta forgets."""

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        sigma = pyro.sample("sigma", dist.LogNormal(0.0, 1.0))
        with rows(x):
            pyro.sample("x", dist.Normal(mu, sigma), obs=x)

    x = torch.randn(10)
    guide = family(model)
    with pyro.get_param_store().scope():
        guide(x)
        losses = []
        for elbo in (ELBO(), ELBO(analytic_kl=False), Trace_ELBO(), TraceMeanField_ELBO()):
            pyro.set_rng_seed(1)
            losses.append(elbo.loss(model, guide, x))
    assert losses[0] == pytest.approx(losses[2]) and losses[1] == pytest.approx(losses[2])
    assert abs(losses[3] - losses[2]) > 1e-3


@pytest.mark.parametrize("particles", [1, 3])
def test_flows_and_mixtures_fall_back_on_draws(particles):
    vae = VAE(4, 2, prior=MixtureOfNormals(3), guide_family=Flow(hidden=(4,)), hidden=(5,))
    x = (torch.rand(6, 4) < 0.5).to(torch.float64)
    with pyro.get_param_store().scope():
        losses = []
        for elbo in (ELBO, Trace_ELBO):
            pyro.set_rng_seed(1)
            options = {"vectorize_particles": True, "max_plate_nesting": 1}
            losses.append(elbo(num_particles=particles, **options).loss(vae.model, vae.guide, x))
    assert losses[0] == pytest.approx(losses[1])


def test_a_latent_that_the_guide_does_not_draw_is_refused():
    def model(x):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with (
        pyro.validation_enabled(False),
        pytest.raises(StoryError, match="'z' is latent in the model"),
    ):
        ELBO().loss(model, lambda x: None, torch.zeros(3))


def test_a_model_without_latents_is_scored_by_its_likelihood():
    def model(x):
        with rows(x):
            pyro.sample("x", dist.Normal(torch.tensor(0.0), 1.0), obs=x)

    x = torch.randn(4)
    assert -ELBO().loss(model, lambda x: None, x) == pytest.approx(
        Normal(0.0, 1.0).log_prob(x).sum().item()
    )


# --- as a pyro.infer.ELBO ---


def test_svi_finds_the_posterior():
    """Back from a guide that was moved off it."""
    story = LinearGaussian("full").be_exact()
    for p in (story.W, story.b, story.log_sigma):
        p.requires_grad_(False)
    guide_parameters = [story.A, story.c, story.tril]
    with torch.no_grad():
        story.c.add_(0.5)
        story.A.mul_(0.7)

    def guide(x):
        for name, p in zip("Act", guide_parameters, strict=True):
            pyro.param(name, p)
        story.guide(x)

    def gap():
        loss = ELBO(200, analytic_kl=False).loss(story.model, story.guide, story.x)
        return loss + story.log_evidence().item()

    assert gap() > 3
    with pyro.get_param_store().scope():
        optim = pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.97})
        svi = SVI(story.model, guide, optim, ELBO(analytic_kl=False))
        for _ in range(150):
            svi.step(story.x)
    assert gap() == pytest.approx(0, abs=0.1)


def test_elbo_module_holds_the_parameters():
    story = LinearGaussian()

    class Side(nn.Module):
        def __init__(self, method, *parameters):
            super().__init__()
            self.method, self.held = method, nn.ParameterList(parameters)

        def forward(self, x):
            return self.method(x)

    loss = ELBO()(
        Side(story.model, story.W, story.b, story.log_sigma),
        Side(story.guide, story.A, story.c, story.tril),
    )
    assert len(list(loss.parameters())) == 6
    value = loss(story.x)
    value.backward()
    assert all(p.grad is not None for p in loss.parameters())
    exact = -(story.terms()[0] - story.terms()[1].sum())
    assert value.item() == pytest.approx(exact.item(), abs=40)


def test_loss_leaves_no_gradient_and_loss_and_grads_does():
    story, elbo = LinearGaussian(), ELBO()
    elbo.loss(story.model, story.guide, story.x)
    assert all(p.grad is None for p in story.parameters())
    value = elbo.loss_and_grads(story.model, story.guide, story.x)
    assert isinstance(value, float) and all(p.grad is not None for p in story.parameters())
    assert math.isfinite(value)


def test_one_estimator_may_serve_two_models():
    elbo = ELBO(2)
    story, points = LinearGaussian(), Points()
    for _ in range(2):
        elbo.loss(points.model, points.guide, torch.randn(5))
        elbo.loss(story.model, story.guide, story.x)
        assert elbo.site_kl.keys() == {"z"}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_particles": 0}, "at least 1; given 0"), ({"free_bits": -0.1}, "nats >= 0; given -0.1")],
)
def test_constructor_says_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        ELBO(**options)


def test_independent_is_known_to_pyro():
    """The exact KL by dimension rests on Pyro's distributions being torch's Independent."""
    assert isinstance(dist.Normal(torch.zeros(2), 1.0).to_event(1), Independent)
