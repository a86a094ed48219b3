"""Importance-weighted bounds and their gradients, against quadrature and enumeration."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing.fakes import NonreparameterizedNormal

from vaeppl import row_count, rows
from vaeppl.errors import StoryError
from vaeppl.estimators import STL, TVO, WakeSleep, bounds
from vaeppl.estimators.elbo import ELBO
from vaeppl.estimators.importance import CIWAE, IWAE, MIWAE, VIMCO, Renyi, VRMax

X = torch.tensor(1.5, dtype=torch.float64)
BOUNDS = [
    (IWAE, {}, bounds.iwae),
    (Renyi, {"alpha": 0.5}, partial(bounds.renyi, alpha=0.5)),
    (Renyi, {"alpha": -0.5}, partial(bounds.renyi, alpha=-0.5)),
    (Renyi, {"alpha": 1.0}, bounds.elbo),
    (MIWAE, {"groups": 2}, bounds.elbo),
    (CIWAE, {"beta": 0.3}, lambda w, d: 0.3 * bounds.elbo(w, d) + 0.7 * bounds.iwae(w, d)),
    (VRMax, {}, bounds.vr_max),
]
cases = pytest.mark.parametrize(("estimator", "options", "bound"), BOUNDS, ids=range(len(BOUNDS)))


@cases
def test_value_and_gradient_agree_with_quadrature(exact, estimator, options, bound):
    """Two particles; VR-max has a kink, which quadrature resolves to fewer digits only."""
    story = exact.OneLatent()
    nodes = 1201 if estimator is VRMax else 60
    value = exact.quadrature(story, X, bound, 2, nodes)
    values, slopes = exact.draws_of(estimator(2, **options), story, X)
    slack = 2e-4 if estimator is VRMax else 0.0
    se = values.std() / 10
    assert (values.mean() - value).abs() <= 4 * se + slack
    error = (slopes.mean(0) - exact.flat_grad(value, story)).abs()
    assert (error <= 4 * slopes.std(0) / 10 + slack).all()


@pytest.mark.parametrize("particles", [2, 3])
def test_two_latents_where_one_hangs_on_the_other(exact, particles):
    story = exact.TwoLatents()
    value = exact.quadrature(story, X, bounds.iwae, particles, 16 if particles == 2 else 7)
    values, slopes = exact.draws_of(IWAE(particles), story, X, rows_each=500)
    slack = 1e-4 if particles == 2 else 2e-2
    assert (values.mean() - value).abs() <= 4 * values.std() / 10 + slack
    error = (slopes.mean(0) - exact.flat_grad(value, story)).abs()
    assert (error <= 4 * slopes.std(0) / 10 + slack).all()


def test_miwae_in_groups_of_two(exact):
    story = exact.OneLatent()
    value = exact.quadrature(story, X, bounds.iwae, 2, 60)
    values, slopes = exact.draws_of(MIWAE(6, groups=3), story, X, rows_each=500)
    exact.assert_mean(values, value)
    exact.assert_mean(slopes, exact.flat_grad(value, story))


def test_one_particle_is_the_elbo(exact):
    story, x = exact.OneLatent(), torch.randn(7)
    found = []
    for estimator in (ELBO(analytic_kl=False), IWAE(), Renyi(alpha=0.3), VRMax(), CIWAE()):
        pyro.set_rng_seed(0)
        loss = estimator.differentiable_loss(story.model, story.guide, x)
        found.append(torch.cat([loss.detach()[None], exact.flat_grad(loss, story)]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


@pytest.mark.parametrize("estimator", [IWAE, Renyi, VRMax, CIWAE, MIWAE, VIMCO])
def test_at_the_posterior_every_bound_is_the_evidence(exact, estimator):
    story, x = exact.OneLatent(exact=True), torch.randn(7)
    loss = estimator(4).loss(story.model, story.guide, x)
    assert -loss == pytest.approx(story.log_evidence(x).sum().item())


def test_the_bias_of_iwae_is_var_w_over_2_k_p_squared(exact):
    """Quadrature for the variance of the weights, draws for the bound at k = 16, 32, 64."""
    story = exact.OneLatent()
    evidence = story.log_evidence(X)
    second = exact.quadrature(story, X, lambda w, d: (2 * (w - evidence)).exp(), 1, 120)
    constant = (second - 1) / 2
    assert 0.02 < constant < 1
    for k in (16, 32, 64):
        with torch.no_grad():
            log_w = story.log_w(X, torch.randn(64, 2**16 // k, k, 1))
            found = bounds.iwae(log_w, -1).mean((1, 2))
            control = (log_w - evidence).exp().mean((1, 2)) - 1
        gap = evidence - (found - control)  # the mean weight minus one has mean zero
        se = gap.std() / len(gap) ** 0.5
        assert (gap.mean() * k - constant).abs() < 4 * se * k + 3 * constant / k


def test_the_bounds_rise_with_the_particles_and_fall_with_alpha(exact):
    story = exact.OneLatent()
    evidence = story.log_evidence(X)
    rising = [exact.quadrature(story, X, bounds.iwae, k, n) for k, n in ((1, 60), (2, 60), (3, 40))]
    assert rising[0] < rising[1] < rising[2] < evidence
    falling = [
        exact.quadrature(story, X, partial(bounds.renyi, alpha=a), 2, 60) for a in (-1, 0, 0.5, 1)
    ]
    assert falling[0] > falling[1] > falling[2] > falling[3]


# --- latents that cannot be reparametrised ---


@pytest.mark.parametrize("estimator", [IWAE, VIMCO, partial(Renyi, alpha=0.5), CIWAE])
@pytest.mark.parametrize("particles", [2, 3])
def test_a_discrete_latent_agrees_with_enumeration(exact, estimator, particles):
    story, made = exact.Coins(), estimator(particles)
    value = story.exact(X, made.bound, particles)
    values, slopes = exact.draws_of(made, story, X, batches=200)
    exact.assert_mean(values, value)
    exact.assert_mean(slopes, exact.flat_grad(value, story))
    assert slopes[:, -2:].abs().max() > 0


def test_vimco_needs_no_path_and_varies_less_than_without_a_baseline(exact, monkeypatch):
    story = exact.OneLatent()
    value = exact.quadrature(story, X, bounds.iwae, 2, 60)
    values, slopes = exact.draws_of(VIMCO(2), story, X, batches=200)
    slope = exact.flat_grad(value, story)
    exact.assert_mean(values, value)
    exact.assert_mean(slopes, slope)
    monkeypatch.setattr(bounds, "leave_one_out", lambda w, d, b: torch.zeros_like(w))
    _, plain = exact.draws_of(VIMCO(2), story, X, batches=200)
    exact.assert_mean(plain, slope)
    assert (slopes[:, 3:].var(0) < plain[:, 3:].var(0) / 2).all()


class Mixed:
    """A discrete latent above one that can be reparametrised, or the other way round."""

    def __init__(self, exact, first):
        self.net = exact.OneLatent()
        self.first = first
        self.parameters = self.net.parameters

    def model(self, x=None):
        with rows(x):
            y = pyro.sample("y", dist.Bernoulli(torch.tensor(0.4)))
            z = pyro.sample("z", dist.Normal(y, 1.0))
            pyro.sample("x", dist.Normal(self.net.w * z + self.net.b, 0.8), obs=x)

    def guide(self, x, normal=dist.Normal):
        net = self.net
        with rows(x):
            if self.first == "y":
                y = pyro.sample("y", dist.Bernoulli(logits=net.a * x))
                pyro.sample("z", normal(net.c * x + y / 2, net.log_s.exp()))
            else:
                z = pyro.sample("z", normal(net.c * x, net.log_s.exp()))
                pyro.sample("y", dist.Bernoulli(logits=net.a * z))


@pytest.mark.parametrize("first", ["y", "z"])
def test_paths_and_scores_together_agree_with_scores_alone(exact, first):
    story = Mixed(exact, first)
    _, both = exact.draws_of(IWAE(3), story, X, batches=150)
    _, scores = exact.draws_of(VIMCO(3), story, X, batches=150)
    se = (both.var(0) / len(both) + scores.var(0) / len(scores)).sqrt()
    assert ((both.mean(0) - scores.mean(0)).abs() <= 4 * se + 1e-9).all()
    story.guide = partial(story.guide, normal=NonreparameterizedNormal)
    _, faked = exact.draws_of(IWAE(3), story, X, batches=150)
    assert ((faked.mean(0) - both.mean(0)).abs() <= 4 * 2**0.5 * se + 1e-9).all()


# --- latents that are summed out ---


class Summed(Mixed):
    """The discrete latent marked to be summed out."""

    def __init__(self, exact):
        super().__init__(exact, "y")

    def guide(self, x):
        net = self.net
        with rows(x):
            q_y = dist.Bernoulli(logits=net.a * x)
            y = pyro.sample("y", q_y, infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(net.c * x + y / 2, net.log_s.exp()))

    def exact(self, tools, x):
        """Σ_y q(y) (IWAE of log p(x, y) - log q(y)), two particles."""
        net, total = self.net, 0.0
        q_y = dist.Bernoulli(logits=net.a * x)
        for value in (0.0, 1.0):
            y = torch.tensor(value)

            class Given:
                latents = 1

                @staticmethod
                def log_w(x, e, y=y):
                    mean = net.c * x + y / 2
                    z = mean + net.log_s.exp() * e[..., 0]
                    joint = dist.Bernoulli(torch.tensor(0.4)).log_prob(y)
                    joint = joint + dist.Normal(y, 1.0).log_prob(z)
                    joint = joint + dist.Normal(net.w * z + net.b, 0.8).log_prob(x)
                    return joint - dist.Normal(mean, net.log_s.exp()).log_prob(z)

            bound = tools.quadrature(Given, x, bounds.iwae, 2, 50)
            log_q = q_y.log_prob(y)
            total = total + log_q.exp() * (bound - log_q)
        return total


def test_a_latent_that_is_summed_out_is_bounded_exactly(exact):
    story = Summed(exact)
    value = story.exact(exact, X)
    values, slopes = exact.draws_of(IWAE(2), story, X)
    exact.assert_mean(values, value)
    exact.assert_mean(slopes, exact.flat_grad(value, story))
    with pytest.raises(StoryError, match="'y' is summed out after others were drawn"):

        def late(x):
            with rows(x):
                z = pyro.sample("z", dist.Normal(x, 1.0))
                y = dist.Bernoulli(logits=z)
                pyro.sample("y", y, infer={"enumerate": "parallel"})

        IWAE(2).loss(story.model, late, x=torch.zeros(3))


# --- plates, minibatches, masks, scales ---


def test_a_minibatch_is_scaled_outside_the_logarithm(exact):
    """At the posterior, a batch of 4 of 400 rows gives 100 times its evidence exactly."""
    story, x = exact.OneLatent(exact=True), torch.randn(4)
    with row_count(400):
        loss = IWAE(3).loss(story.model, story.guide, x)
    assert -loss == pytest.approx(100 * story.log_evidence(x).sum().item())


@pytest.mark.parametrize("estimator", [IWAE, partial(MIWAE, groups=2), VIMCO])
def test_particles_in_turn_are_particles_side_by_side(exact, estimator):
    story = exact.OneLatent()
    value = exact.quadrature(story, X, estimator(2).bound, 2, 60)
    made = estimator(2, vectorize_particles=False)
    values, slopes = exact.draws_of(made, story, X)
    exact.assert_mean(values, value)
    exact.assert_mean(slopes, exact.flat_grad(value, story))


def nested_model(x):
    with pyro.plate("rows", 3, dim=-1):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        with pyro.plate("columns", 4, dim=-2):
            u = pyro.sample("u", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(u, 1.0), obs=x)


def nested_guide(x):
    with pyro.plate("rows", 3, dim=-1):
        z = pyro.sample("z", dist.Normal(x.mean(0), 0.5))
        with pyro.plate("columns", 4, dim=-2):
            pyro.sample("u", dist.Normal((x + z) / 2, 0.5**0.5))


def test_a_plate_inside_the_rows_is_part_of_their_weight(exact):
    """u's guide is its posterior given z, so the weight of a row is that of z alone."""
    x = torch.randn(4, 3)
    pyro.set_rng_seed(0)
    loss = IWAE(5).loss(nested_model, nested_guide, x)
    pyro.set_rng_seed(0)
    z = dist.Normal(x.mean(0).expand(5, 1, 3), 0.5).sample()
    log_w = dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(x.mean(0), 0.5).log_prob(z)
    log_w = log_w + dist.Normal(z, 2**0.5).log_prob(x).sum(-2, keepdim=True)
    assert -loss == pytest.approx(bounds.iwae(log_w, 0).sum().item())


def test_what_is_masked_counts_nothing(exact):
    story, x = exact.OneLatent(exact=True), torch.tensor([0.3, float("nan"), -1.0])
    seen = ~x.isnan()

    def masked(part):
        def run(x):
            with rows(x), pyro.poutine.mask(mask=seen):
                part(x)

        return run

    def model(x):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        mean = story.w * z + story.b
        pyro.sample("x", dist.Normal(mean, story.log_sigma.exp()), obs=x.nan_to_num())

    def guide(x):
        mean = story.a * x.nan_to_num() + story.c
        pyro.sample("z", dist.Normal(mean, story.log_s.exp()))

    for estimator in (IWAE(3), VIMCO(3)):
        loss = estimator.differentiable_loss(masked(model), masked(guide), x)
        assert -loss.item() == pytest.approx(story.log_evidence(x[seen]).sum().item())
        assert exact.flat_grad(loss, story).isfinite().all()


def test_a_story_without_plates_has_one_weight(exact):
    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", 3):
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=torch.ones(3))

    def guide():
        pyro.sample("z", dist.Normal(torch.full((2,), 0.4), 0.5).to_event(1))

    def joint(z):
        log_p = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        log_p = log_p + 3 * dist.Normal(z.sum(-1), 1.0).log_prob(torch.ones(()))
        return log_p - dist.Normal(0.4, 0.5).log_prob(z).sum(-1)

    # z is drawn outside the plate, whose rows are all there: one weight for all.
    pyro.set_rng_seed(1)
    loss = IWAE(4, max_plate_nesting=1).loss(model, guide)
    pyro.set_rng_seed(1)
    z = dist.Normal(torch.full((4, 1, 2), 0.4), 0.5).to_event(1).sample().squeeze(1)
    assert -loss == pytest.approx(bounds.iwae(joint(z), 0).item())


# --- bad input ---


def test_global_latents_are_refused(exact):
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with rows(x):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("mu", dist.Normal(0.0, 1.0))
        with rows(x):
            pyro.sample("z", dist.Normal(x, 1.0))

    with pytest.raises(StoryError, match="'z' stands in plate 'rows', but 'mu' does not"):
        IWAE(3).loss(model, guide, torch.zeros(4))


def test_a_global_latent_with_a_minibatch_is_refused():
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with rows(x):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def guide(x):
        pyro.sample("mu", dist.Normal(0.0, 1.0))

    with row_count(100), pytest.raises(StoryError, match="'mu' and 'x' are scaled differently"):
        IWAE(3).loss(model, guide, torch.zeros(4))


def test_rows_observed_together_are_refused():
    def model(x):
        with pyro.plate("rows", 4):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", 4):
            pyro.sample("z", dist.Normal(x, 1.0))

    with pytest.raises(StoryError, match="'x' is observed outside the plate of the latents"):
        IWAE().loss(model, guide, torch.zeros(4))


def test_a_guide_without_a_density_is_refused(exact):
    story = exact.OneLatent()

    def points(x):
        with rows(x):
            pyro.sample("z", dist.Delta(story.a * x + torch.randn_like(x)))

    for estimator in (IWAE(3), VIMCO(3), STL(3), TVO(3), WakeSleep(3)):
        with pytest.raises(StoryError, match="gives latent 'z' a value and no density"):
            estimator.loss(story.model, points, x=torch.zeros(4))

    def with_density(x):
        """The posterior, its density handed on as that of a Delta."""
        q = dist.Normal(story.a * x + story.c, story.log_s.exp())
        z = q.rsample()
        with rows(x):
            pyro.sample("z", dist.Delta(z, log_density=q.log_prob(z)))

    story, x = exact.OneLatent(exact=True), torch.randn(4)
    loss = IWAE(3, vectorize_particles=False).loss(story.model, with_density, x)
    assert -loss == pytest.approx(story.log_evidence(x).sum().item())


def test_options_out_of_range_are_refused():
    for estimator in (IWAE, Renyi, CIWAE, VRMax, MIWAE, VIMCO):
        with pytest.raises(ValueError, match="num_particles is a whole number, at least"):
            estimator(0)
    with pytest.raises(ValueError, match="at least 2; given 1"):
        VIMCO(1)
    with pytest.raises(ValueError, match="groups divide the particles evenly; given 3 groups of 4"):
        MIWAE(4, groups=3)
    with pytest.raises(ValueError, match="beta is a share"):
        CIWAE(4, beta=1.5)
    with pytest.raises(ValueError, match="alpha is a finite number"):
        Renyi(4, alpha=float("-inf"))
