"""Evidence, ELBO and active units against exact answers."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats

import vaeppl
from vaeppl.errors import StoryError
from vaeppl.models import VAE
from vaeppl.reading import evidence as module


def toy(scale_q=1.0):
    """z ~ N(0, 1), x ~ N(z, 1): p(x) = N(0, 2) and the posterior is N(x/2, 1/2)."""

    def model(x=None):
        with vaeppl.rows(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with vaeppl.rows(x):
            pyro.sample("z", dist.Normal(x / 2, scale_q * 0.5**0.5))

    return model, guide


X = torch.linspace(-3, 3, 25)
EXACT = stats.norm(0, math.sqrt(2)).logpdf(X)


def test_evidence_is_exact_when_the_guide_is_the_posterior():
    model, guide = toy()
    rows = vaeppl.evidence(model, {"x": X}, guide=guide, num_particles=10).rows
    assert np.allclose(rows["log_evidence"], EXACT, atol=1e-5)
    assert np.allclose(rows["ess"], 10, atol=1e-3)


def test_the_monte_carlo_error_covers_the_truth():
    model, guide = toy(1.5)
    rows = vaeppl.evidence(model, {"x": X}, guide=guide, num_particles=2000, seed=3).rows
    z = (rows["log_evidence"] - EXACT) / rows["mc_se"]
    assert z.abs().max() < 4
    assert z.std() == pytest.approx(1.0, abs=0.4)


def test_the_bias_shrinks_as_one_over_k():
    # E[log mean w] - log p = -Var(w) / (2 k p²) + O(1/k²), Var(w)/p² being known by quadrature.
    model, guide = toy(1.3)
    x = torch.full((20_000,), 1.0)
    log_p = stats.norm(0, math.sqrt(2)).logpdf(1.0)
    q = stats.norm(0.5, 1.3 * 0.5**0.5)

    def squared_weight(z):
        w = stats.norm.pdf(z) * stats.norm(z, 1).pdf(1.0) / q.pdf(z)
        return (w / math.exp(log_p)) ** 2 * q.pdf(z)

    variance = integrate.quad(squared_weight, -8, 9)[0] - 1
    for k in (8, 32):
        estimate = vaeppl.evidence(model, {"x": x}, guide=guide, num_particles=k).mean
        assert estimate - log_p == pytest.approx(-variance / (2 * k), rel=0.25, abs=2e-4)


def test_elbo_falls_short_by_the_kl_to_the_posterior():
    model, guide = toy(1.5)
    report = vaeppl.elbo(model, {"x": X}, guide=guide, num_particles=20_000)
    kl = -math.log(1.5) + (1.5**2 - 1) / 2
    assert np.allclose(report.rows["elbo"], EXACT - kl, atol=0.05)
    exact_kl = (0.5 * 1.5**2 + X**2 / 4 - 1 - math.log(0.5 * 1.5**2)) / 2
    assert np.allclose(report.rows["kl"], exact_kl, atol=1e-5)
    assert np.allclose(report.rows["kl[z]"], report.rows["kl"])


def test_a_latent_that_is_set_to_a_value_has_an_objective_and_no_elbo():
    """At z = x / 2 it is log N(x; x/2, 1) + log N(x/2; 0, 1), above log p(x) near 0."""
    model, _ = toy()

    def guide(x):
        with vaeppl.rows(x):
            pyro.sample("z", dist.Delta(x / 2))

    report = vaeppl.elbo(model, {"x": X}, guide=guide)
    exact = stats.norm(X / 2, 1).logpdf(X) + stats.norm(0, 1).logpdf(X / 2)
    assert np.allclose(report.rows["elbo"], exact, atol=1e-5)
    assert report.called == "objective" and report.points == ("z",)
    assert repr(report) == (
        f"objective = {exact.mean():.2f} ± {exact.std(ddof=1) / 5:.2f} nats/row (reconstruction "
        f"{report.reconstruction:.2f}, KL {report.kl:.2f}; 25 rows) (latent 'z' is set to a value: "
        "log p(x, z) there, no bound of log p(x))"
    )
    model, guide = toy()
    plain = vaeppl.elbo(model, {"x": X}, guide=guide)
    assert plain.points == () and repr(plain).startswith("ELBO = ") and "bound" not in repr(plain)


def test_the_split_has_the_order_of_the_story():
    def model(x=None):
        with vaeppl.rows(x):
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
            a = pyro.sample("a", dist.Normal(b, 1.0))
            pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    def guide(x):
        with vaeppl.rows(x):
            pyro.sample("a", dist.Normal(x / 2, 1.0))
            pyro.sample("b", dist.Normal(x / 3, 1.0))

    report = vaeppl.elbo(model, {"x": X}, guide=guide)
    assert list(report.rows.columns) == ["elbo", "reconstruction", "kl", "kl[b]", "kl[a]"]
    assert list(report.site_kl) == ["b", "a"]


def test_memory_is_bounded_and_chunks_do_not_change_the_estimate(monkeypatch):
    model, guide = toy(1.5)
    whole = vaeppl.evidence(model, {"x": X}, guide=guide, num_particles=1000)
    monkeypatch.setattr(module, "ENTRIES_AT_ONCE", 64)
    monkeypatch.setattr(module, "PARTICLES_AT_ONCE", 16)
    pieces = vaeppl.evidence(model, {"x": X}, guide=guide, num_particles=1000)
    assert len(pieces.rows) == len(whole.rows)
    assert pieces.mean == pytest.approx(whole.mean, abs=4 * (pieces.mc_se + whole.mc_se))


def test_a_global_latent_gives_the_predictive_density():
    # mu ~ q = N(0.3, 0.2²), x ~ N(mu, 1): the predictive density is N(0.3, 1 + 0.2²).
    def model(x=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with vaeppl.rows(x):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def guide(x):
        pyro.sample("mu", dist.Normal(0.3, 0.2))

    rows = vaeppl.evidence(model, {"x": X}, guide=guide, num_particles=5000).rows
    exact = stats.norm(0.3, math.sqrt(1.04)).logpdf(X)
    assert np.allclose(rows["log_evidence"], exact, atol=0.05)


def test_two_latents_masks_and_inner_plates():
    def model(x=None):
        with vaeppl.rows(x):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            with pyro.plate("repeats", 3, dim=-2):
                value = None if x is None else x.T
                pyro.sample("x", dist.Normal(b, 1.0), obs=value)

    def guide(x):
        with vaeppl.rows(x):
            a = pyro.sample("a", dist.Normal(x.mean(-1) / 3, 0.8))
            pyro.sample("b", dist.Normal((a + x.sum(-1)) / 4, 0.5))

    x = torch.randn(6, 3)
    # b ~ N(0, 2), three conditionally independent looks at it.
    exact = stats.multivariate_normal(np.zeros(3), np.eye(3) + 2).logpdf(x.numpy())
    rows = vaeppl.evidence(model, {"x": x}, guide=guide, num_particles=5000).rows
    assert np.allclose(rows["log_evidence"], exact, atol=0.1)


def test_the_seed_fixes_the_draws_and_leaves_the_callers_state():
    model, guide = toy(1.5)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b = (vaeppl.evidence(model, {"x": X}, guide=guide, seed=1) for _ in range(2))
    assert a.rows.equals(b.rows)
    assert torch.equal(state, torch.get_rng_state())


def test_active_units_are_those_that_vary():
    class Half(VAE):
        def guide(self, x):
            with vaeppl.rows(x):
                loc = torch.stack([x[:, 0], torch.full((len(x),), 0.7)], -1)
                pyro.sample("z", dist.Normal(loc, 0.1).to_event(1))

    x = (torch.rand(200, 6) < 0.5).float()
    table = vaeppl.active_units(Half(6, 2, hidden=(4,)), {"x": x})
    assert table["active"].tolist() == [True, False]
    assert table["variance"][0] == pytest.approx(float(x[:, 0].var()), rel=1e-5)


def test_a_story_that_cannot_be_vectorised_is_run_draw_by_draw():
    def model(x=None):
        with vaeppl.rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.view(len(x)), 1.0), obs=x)

    def guide(x):
        with vaeppl.rows(x):
            pyro.sample("z", dist.Normal(x[:, None] / 2, 0.5**0.5).to_event(1))

    with pytest.warns(UserWarning, match="one after another"):
        rows = vaeppl.evidence(model, {"x": X}, guide=guide, num_particles=10).rows
    assert np.allclose(rows["log_evidence"], EXACT, atol=1e-5)


def test_reports_read_well():
    model, guide = toy(1.5)
    assert "nats/row" in repr(vaeppl.evidence(model, {"x": X}, guide=guide))
    assert "KL" in repr(vaeppl.elbo(model, {"x": X}, guide=guide))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, g: vaeppl.evidence(m, {"x": X}, guide=g, num_particles=1), "at least 2"),
        (lambda m, g: vaeppl.elbo(m, {"x": X}, guide=g, num_particles=0), "at least 1"),
        (lambda m, g: vaeppl.evidence(m, {"y": X}, guide=g), "takes the columns 'x'"),
        (lambda m, g: vaeppl.evidence(m, {"x": X}), "has no guide"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(*toy())


def test_an_observed_site_outside_the_rows_is_refused():
    def model(x=None):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([5]).to_event(1), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(StoryError, match="outside the plate of rows"):
        vaeppl.evidence(model, {"x": torch.zeros(5)}, guide=guide)


def test_rounding_is_not_taken_for_a_heavy_tail():
    def model(x=None):
        with vaeppl.rows(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with vaeppl.rows(x):
            pyro.sample("z", dist.Normal(0.8 * x, 0.2**0.5))

    report = vaeppl.evidence(model, {"x": torch.randn(200)}, guide=guide, num_particles=500)
    assert report.share_unreliable == 0.0


def test_too_few_particles_to_tell_are_said_to_be():
    model, guide = toy(1.5)
    report = vaeppl.evidence(model, {"x": X[:1]}, guide=guide, num_particles=10)
    assert math.isnan(report.share_unreliable)
    assert "Pareto k unknown" in repr(report) and "± ?" in repr(report)


def test_the_report_says_of_which_columns_it_is():
    x, y = torch.randn(12, 3), (torch.rand(12, 6) < 0.4).float()
    few = {"num_particles": 2}
    plain = VAE(6, 2, hidden=(4,))
    assert str(vaeppl.evidence(plain, {"x": y}, **few)).startswith("log p(x) = ")
    conditional = vaeppl.models.CVAE(3, 6, 2, hidden=(4,))
    report = vaeppl.evidence(conditional, {"x": x, "y": y}, **few)
    assert report.density == "p(y | x)" and str(report).startswith("log p(y | x) = ")
    m2, label = vaeppl.models.M2(6, 3, 2, hidden=(4,)), torch.arange(12) % 4 - 1
    assert vaeppl.evidence(m2, {"x": y, "y": label}, **few).density == "p(x, y)"
    assert vaeppl.evidence(m2, {"x": y}, **few).density == "p(x)"

    def renamed(y=None):
        with vaeppl.rows(y):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    fit = vaeppl.fit(renamed, {"y": x[:, 0]}, guide="auto", epochs=1, progress=False)
    assert fit.evidence(**few).density == "p(y)"


def test_where_rows_share_a_latent_it_is_a_predictive_density():
    def model(x=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with vaeppl.rows(x):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def guide(x):
        pyro.sample("mu", dist.Normal(torch.tensor(0.1), 0.2))
        with vaeppl.rows(x):
            pass

    x = torch.linspace(-1, 1, 5)
    report = vaeppl.evidence(model, {"x": x}, guide=guide, num_particles=20_000)
    exact = dist.Normal(0.1, 1.04**0.5).log_prob(x).mean()
    assert repr(report).startswith("log ∫ p(x | mu) q(mu) = ")
    assert report.mean == pytest.approx(float(exact), abs=0.01)
