"""STL, DReG, tail-adaptive and PIWAE: gradients along the paths, against quadrature."""

from __future__ import annotations

from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from vaeppl import row_count, rows
from vaeppl.errors import StoryError
from vaeppl.estimators import bounds
from vaeppl.estimators.elbo import ELBO
from vaeppl.estimators.importance import IWAE, MIWAE
from vaeppl.estimators.pathwise import (
    PIWAE,
    STL,
    DReG,
    DReGWakeSleep,
    Factors,
    Pathwise,
    TailAdaptive,
)
from vaeppl.estimators.wake_sleep import WakeSleep
from vaeppl.guides import Flow

X = torch.tensor(1.5, dtype=torch.float64)
OF_THE_GUIDE = slice(3, None)  # both stories have three parameters of the model first


class NaiveSTL(Pathwise):
    """The wrong one: STL's path with the weights of IWAE."""

    def factors(self, log_w, dim):
        v = log_w.softmax(dim)
        return Factors(bounds.iwae(log_w, dim), v, torch.ones_like(v))


def story_of(exact, name):
    return getattr(exact, name)()


@pytest.mark.parametrize("name", ["OneLatent", "TwoLatents"])
@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize(("estimator", "bound"), [(STL, bounds.elbo), (DReG, bounds.iwae)])
def test_value_and_gradient_agree_with_quadrature(exact, name, vectorize, estimator, bound):
    story = story_of(exact, name)
    value = exact.quadrature(story, X, bound, 2, 60 if name == "OneLatent" else 18)
    made = estimator(2, vectorize_particles=vectorize)
    values, slopes = exact.draws_of(made, story, X)
    slack = 0.0 if name == "OneLatent" else 1e-4
    assert (values.mean() - value).abs() <= 4 * values.std() / 10 + slack
    error = (slopes.mean(0) - exact.flat_grad(value, story)).abs()
    assert (error <= 4 * slopes.std(0) / 10 + slack).all()


@pytest.mark.parametrize("estimator", [STL, DReG, TailAdaptive, DReGWakeSleep, PIWAE])
def test_at_the_posterior_the_guide_has_no_gradient_left(exact, estimator):
    """But for PIWAE, which has that of IWAE: zero on average, and not at every draw."""
    story, x = exact.OneLatent(exact=True), torch.randn(7)
    loss = estimator(4).differentiable_loss(story.model, story.guide, x)
    assert -loss.item() == pytest.approx(story.log_evidence(x).sum().item())
    slope = exact.flat_grad(loss, story)[OF_THE_GUIDE].abs().max()
    assert slope > 0.01 if estimator is PIWAE else slope < 1e-9


def test_the_usual_gradient_still_varies_at_the_posterior(exact):
    story = exact.OneLatent(exact=True)
    _, slopes = exact.draws_of(ELBO(analytic_kl=False), story, X, rows_each=1)
    assert slopes[:, OF_THE_GUIDE].std(0).max() > 0.3


def shifted(exact):
    """A guide with the posterior's spread and a mean that is off."""
    story = exact.OneLatent(exact=True)
    with torch.no_grad():
        story.c.add_(0.7)
    return story


def test_stl_with_the_weights_of_iwae_is_wrong_and_dreg_is_right(exact):
    """Spread kept and mean shifted: log w is linear in the noise, its slope the same for all.

    So weights that sum to one, whatever K, give the gradient of one particle.
    """
    story = shifted(exact)
    one, two = (
        exact.flat_grad(exact.quadrature(story, X, bounds.iwae, k, 60), story) for k in (1, 2)
    )
    place = 4  # of c
    assert (one - two)[place].abs() > 0.1
    _, naive = exact.draws_of(NaiveSTL(2), story, X)
    _, right = exact.draws_of(DReG(2), story, X)
    exact.assert_mean(naive[:, place], one[place])
    exact.assert_mean(right[:, place], two[place])


def snr(exact, estimator, story, rows_each):
    """Signal-to-noise ratio of the gradient of one row, for the guide's shift."""
    _, slopes = exact.draws_of(estimator, story, X, batches=200, rows_each=rows_each)
    return (slopes.mean(0).abs() / slopes.std(0))[4] / rows_each**0.5


def test_signal_to_noise_falls_for_iwae_and_grows_for_dreg(exact):
    """As 1/√K and √K (Rainforth et al. 2018; Tucker et al. 2019): by two for each four times."""
    story = shifted(exact)
    with torch.no_grad():
        story.log_s.add_(0.35)  # wide enough that the weights have all their moments
    particles = (4, 16, 64)
    iwae = [snr(exact, IWAE(k), story, 32768 // k) for k in particles]
    dreg = [snr(exact, DReG(k), story, 4096 // k) for k in particles]
    assert [a / b for a, b in pairwise(iwae)] == pytest.approx([2.0, 2.0], rel=0.2)
    assert [b / a for a, b in pairwise(dreg)] == pytest.approx([2.0, 2.0], rel=0.2)


def test_piwae_is_iwae_for_the_model_and_miwae_for_the_guide(exact):
    """Of the same draws: the gradients are those of the two bounds."""
    for name in ("OneLatent", "TwoLatents"):
        story, x = story_of(exact, name), torch.randn(6)
        found = []
        for estimator in (PIWAE(6, groups=3), IWAE(6), MIWAE(6, groups=3)):
            pyro.set_rng_seed(0)
            loss = estimator.differentiable_loss(story.model, story.guide, x)
            found.append((loss.detach(), exact.flat_grad(loss, story)))
        (value, slope), (iwae, of_model), (_, of_guide) = found
        torch.testing.assert_close(value, iwae)
        torch.testing.assert_close(slope[:3], of_model[:3])
        torch.testing.assert_close(slope[OF_THE_GUIDE], of_guide[OF_THE_GUIDE])


def test_piwae_in_turn(exact):
    story, x = exact.OneLatent(), torch.randn(6)
    made = PIWAE(4, groups=2, vectorize_particles=False)
    loss = made.differentiable_loss(story.model, story.guide, x)
    assert exact.flat_grad(loss, story).isfinite().all()


def test_wake_sleep_along_the_path_has_the_mean_of_wake_sleep(exact):
    for name in ("OneLatent", "TwoLatents"):
        story = story_of(exact, name)
        _, plain = exact.draws_of(WakeSleep(2), story, X, batches=200)
        _, along = exact.draws_of(DReGWakeSleep(2), story, X, batches=200)
        se = (plain.var(0) / len(plain) + along.var(0) / len(along)).sqrt()
        assert ((plain.mean(0) - along.mean(0)).abs() <= 4 * se + 1e-9).all()


def test_tail_adaptive_weighs_paths_by_rank(exact):
    """γ = (1, 1/2, 1/3) over their sum from the largest weight on, whatever their order."""
    log_w = torch.tensor([[-1.0, 5.0], [0.3, -80.0], [0.2, 6.0]])
    factors = TailAdaptive(3).factors(log_w, -2)
    gamma = factors.model * factors.ratio
    expected = torch.tensor([[2, 3], [6, 2], [3, 6]]) / 11.0
    torch.testing.assert_close(gamma, expected)
    torch.testing.assert_close(factors.model, torch.full((3, 2), 1 / 3))
    flat = TailAdaptive(3, exponent=0.0).factors(log_w, -2)
    torch.testing.assert_close(flat.ratio, torch.ones(3, 2))


def test_without_a_tail_exponent_it_is_stl(exact):
    story, x = exact.TwoLatents(), torch.randn(5)
    found = []
    for estimator in (STL(3), TailAdaptive(3, exponent=0.0)):
        pyro.set_rng_seed(0)
        loss = estimator.differentiable_loss(story.model, story.guide, x)
        found.append(exact.flat_grad(loss, story))
    torch.testing.assert_close(found[0], found[1])


class FlowGuide(nn.Module):
    """A guide whose density has networks of its own."""

    latents = 2

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.8, -0.3]))
        self.q = Flow(transforms=1, hidden=(4,), bins=3).bind(1, 2)

    def model(self, x):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.w, 0.5), obs=x)

    def guide(self, x):
        with rows(x):
            pyro.sample("z", self.q(x[:, None]))


def test_a_flow_as_guide(exact):
    """Its STL and usual gradients have the same mean, as far as draws tell."""
    story = FlowGuide()
    _, stl = exact.draws_of(STL(), story, X, batches=60, rows_each=300)
    _, usual = exact.draws_of(ELBO(analytic_kl=False), story, X, batches=60, rows_each=300)
    se = (stl.var(0) / len(stl) + usual.var(0) / len(usual)).sqrt()
    assert ((stl.mean(0) - usual.mean(0)).abs() <= 4.5 * se + 1e-9).all()


def test_a_minibatch_is_scaled(exact):
    story, x = exact.OneLatent(), torch.randn(4)
    for estimator in (STL(3), DReG(3), PIWAE(4), DReGWakeSleep(3), TailAdaptive(3)):
        found = []
        for full in (4, 400):
            pyro.set_rng_seed(0)
            with row_count(full):
                loss = estimator.differentiable_loss(story.model, story.guide, x)
            found.append(torch.cat([loss.detach()[None], exact.flat_grad(loss, story)]))
        torch.testing.assert_close(found[1], 100 * found[0])


# --- bad input ---


def test_latents_without_a_path_are_refused(exact):
    story = exact.Coins()
    for estimator in (STL(), DReG(3), PIWAE(4), DReGWakeSleep(3), TailAdaptive(3)):
        with pytest.raises(StoryError, match=r"'y' \(Bernoulli\) cannot be reparametrised"):
            estimator.loss(story.model, story.guide, torch.zeros(3))


def test_a_latent_without_a_path_is_named_by_its_innermost_distribution():
    def model(x):
        with rows(x):
            y = pyro.sample("y", dist.Bernoulli(torch.full((2,), 0.5)).to_event(1))
            pyro.sample("x", dist.Normal(y.sum(-1), 1.0), obs=x)

    def guide(x):
        with rows(x):
            q = dist.Bernoulli(torch.full((2,), 0.4)).expand([len(x), 2]).to_event(1).mask(True)
            pyro.sample("y", q)

    with pytest.raises(StoryError, match=r"'y' \(Bernoulli\) cannot be reparametrised"):
        STL().loss(model, guide, torch.zeros(3))


def test_a_guide_that_changes_from_run_to_run_is_refused(exact):
    story, drop = exact.TwoLatents(), nn.Dropout(0.5)

    def guide(x):
        with rows(x):
            z2 = pyro.sample("z2", dist.Normal(drop(x), 1.0))
            pyro.sample("z1", dist.Normal(z2, 1.0))

    with pytest.raises(StoryError, match="another density when it is run again"):
        STL().differentiable_loss(story.model, guide, torch.randn(50))


def test_terms_beside_the_story(exact):
    """STL takes them as they are; for others their gradient is not known."""
    story, x = exact.OneLatent(), torch.randn(5)

    def model(x):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(story.w * z, 1.0), obs=x)
            beside = {"objective_only": True}
            pyro.sample("t", dist.Normal(z, 1.0), obs=x, infer=beside)

    found = []
    for estimator in (STL(2), ELBO(2, analytic_kl=False)):
        pyro.set_rng_seed(0)
        found.append(estimator.loss(model, story.guide, x))
    assert found[0] == pytest.approx(found[1])
    with pytest.raises(StoryError, match="'t' is a term of the objective alone"):
        DReG(2).differentiable_loss(model, story.guide, x)


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="derived for independent particles"):
        DReG(4, draws="antithetic")
    with pytest.raises(ValueError, match="exponent is from -1 to 0"):
        TailAdaptive(4, exponent=0.5)
    with pytest.raises(ValueError, match="at least 2; given 1"):
        TailAdaptive(1)
