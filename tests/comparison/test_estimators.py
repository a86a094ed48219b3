"""``compare_estimators``: what it finds on a story whose answers are known."""

from __future__ import annotations

import io

import joblib
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.distributions import Normal

import vaeppl
from vaeppl import rows
from vaeppl.comparison import Candidate
from vaeppl.comparison.candidates import candidates, reason_against
from vaeppl.comparison.trained import watching
from vaeppl.errors import ColumnError
from vaeppl.estimators import ELBO, IWAE, STL
from vaeppl.models import M2, VAE
from vaeppl.pair import Pair


def printed(found, width=80):
    """Print a comparison as on a terminal so wide."""
    console = Console(width=width, file=io.StringIO())
    console.print(found.to_rich())
    return console.file.getvalue()


FEW = {"epochs": 2, "seeds": 2, "evidence_particles": 50, "lr": 1e-2}


class Linear(vaeppl.Model):
    """z ~ N(0, 1), x ~ N(w z, 1), and a guide N(a x + c, s²) that is off."""

    def __init__(self, a: float = 0.3):
        super().__init__()
        self.w, self.a = nn.Parameter(torch.tensor(0.9)), nn.Parameter(torch.tensor(a))
        self.c, self.log_s = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(-0.2))

    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(self.w * z, 1.0), obs=x)

    def guide(self, x):
        with rows(x):
            pyro.sample("z", dist.Normal(self.a * x + self.c, self.log_s.exp()))

    def log_evidence(self, x):
        return Normal(0.0, (self.w**2 + 1).sqrt()).log_prob(x)


@pytest.fixture
def x():
    return torch.randn(300)


@pytest.fixture
def bits():
    return (torch.rand(80, 6) < 0.5).float()


# --- frozen ---


def test_frozen_values_gaps_and_biases_are_the_known_ones(x):
    story = Linear()
    found = vaeppl.compare_estimators(
        story,
        {"x": x},
        estimators=["elbo", "stl", "iwae", "dreg"],
        num_particles=4,
        repeats=200,
        rows=40,
    )
    table, first = found.table, x[:40]
    evidence = story.log_evidence(first)
    slope = torch.autograd.grad(evidence.mean(), story.w)[0]
    assert found.reference.evidence == pytest.approx(
        evidence.mean().item(), abs=4 * found.reference.evidence_se + 1e-4
    )
    # The ELBO in closed form: the likelihood at a guide that is normal, and the KL.
    mean, s = story.a * first + story.c, story.log_s.exp()
    likelihood = Normal(story.w * mean, 1.0).log_prob(first) - (story.w * s) ** 2 / 2
    kl = torch.distributions.kl_divergence(Normal(mean, s), Normal(0.0, 1.0))
    elbo = (likelihood - kl).mean()
    gap = (evidence.mean() - elbo).item()
    for name in ("elbo", "stl"):
        assert table.gap[name] == pytest.approx(gap, abs=4 * table.gap_se[name])
    assert (table.gap[["iwae", "dreg"]] < gap / 2).all() and (table.gap > 0).all()
    of_w = torch.autograd.grad(elbo, story.w)[0]
    bias = ((of_w - slope).abs() / slope.abs()).item()
    assert table.model_bias["elbo"] == pytest.approx(bias, rel=0.15)
    assert table.model_bias["iwae"] < table.model_bias["elbo"]
    assert (table.guide_bias[["elbo", "stl"]] < 4 * table.guide_bias_se[["elbo", "stl"]]).all()
    assert table.guide_cosine["stl"] > 0.99
    assert (table.ess > 1).all() and (table.ess <= 4).all()
    assert (table.milliseconds > 0).all() and (table.megabytes > 0).all()
    expected = (table.model_variance + table.guide_variance) * table.milliseconds
    np.testing.assert_allclose(table.variance_x_ms, expected)
    assert (table.reason == "").all()


def test_at_the_posterior_stl_has_no_noise_in_the_guide(x):
    story = Linear()
    with torch.no_grad():
        precision = 1 + story.w**2
        story.a.copy_(story.w / precision)
        story.c.zero_()
        story.log_s.copy_(-precision.log() / 2)
    found = vaeppl.compare_estimators(
        story, {"x": x}, estimators=["elbo_monte_carlo", "stl"], repeats=20
    )
    table = found.table
    assert table.guide_variance["stl"] < 1e-9 < table.guide_variance["elbo_monte_carlo"]
    assert table.value_se["stl"] < 1e-6 and table.gap["stl"] == pytest.approx(0, abs=1e-5)
    assert table.ess["stl"] == pytest.approx(8, abs=0.01)


def test_frozen_leaves_weights_and_random_state_alone(x):
    story = Linear()
    before = {n: p.detach().clone() for n, p in story.named_parameters()}
    state = torch.get_rng_state()
    first, again = (
        vaeppl.compare_estimators(story, {"x": x}, estimators=["iwae"], repeats=5) for _ in range(2)
    )
    assert (torch.get_rng_state() == state).all()
    assert all((p == before[n]).all() and p.grad is None for n, p in story.named_parameters())
    steady = [c for c in first.table if c not in ("milliseconds", "variance_x_ms")]
    assert first.table[steady].equals(again.table[steady])


def test_several_numbers_of_particles(x):
    found = vaeppl.compare_estimators(
        Linear(), {"x": x}, estimators=["iwae"], num_particles=[1, 4, 16], repeats=20
    )
    assert list(found.table.num_particles) == [1, 4, 16]
    assert list(found.table.index) == ["iwae, K=1", "iwae, K=4", "iwae, K=16"]
    assert found.table.gap.is_monotonic_decreasing


def test_a_fit_can_be_compared_on(bits):
    fit = vaeppl.fit(VAE(6, 2, hidden=(4,)), {"x": bits}, epochs=1, progress=False)
    found = vaeppl.compare_estimators(fit, {"x": bits}, repeats=4)
    assert len(found.table) == 8 and (found.table.reason == "").all()
    assert "FrozenComparison(8 estimators" in repr(found)


# --- what does not fit ---


def reason(name, model, data, **options):
    found = vaeppl.compare_estimators(model, data, estimators=[(name, options)], repeats=2)
    line = found.table.iloc[0]
    assert line.drop(["reason", "num_particles"]).isna().all()
    return line.reason


class Flowing(Linear):
    """A guide of which no exact KL is known."""

    def guide(self, x):
        with rows(x):
            base = dist.Normal(self.a * x + self.c, self.log_s.exp())
            bend = dist.transforms.SoftplusTransform().inv
            shifted = [dist.transforms.AffineTransform(0.0, 0.5), dist.transforms.TanhTransform()]
            assert bend is not None
            pyro.sample("z", dist.TransformedDistribution(base, shifted))


def test_an_estimator_that_does_not_fit_is_listed_with_the_reason(x):
    story, data = Linear(), {"x": x}
    assert reason("trace_enum_elbo", story, data) == "no latent is marked to be enumerated"
    assert "no exact KL is known for latent 'z'" in reason("trace_mean_field_elbo", Flowing(), data)
    for name in ("score_function", "trace_graph_elbo"):
        assert "every latent can be reparametrised" in reason(name, story, data)
    assert "at least 2; given 1" in reason("vimco", story, data, num_particles=1)
    for name in ("iwae", "trace_elbo"):
        assert "at least 1; given 0" in reason(name, story, data, num_particles=0)
    assert "BetaTC needs a guide that factorises" in reason("beta_tc", story, data)


class Discrete(Linear):
    def model(self, x=None):
        with rows(x):
            y = pyro.sample("y", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(self.w * y, 1.0), obs=x)

    def guide(self, x):
        with rows(x):
            pyro.sample("y", dist.Bernoulli(logits=self.a * x + self.c + self.log_s))


def test_latents_without_a_path(x):
    for name in ("stl", "dreg", "piwae"):
        assert "cannot be reparametrised" in reason(name, Discrete(), {"x": x})
    found = vaeppl.compare_estimators(
        Discrete(),
        {"x": x},
        estimators=["score_function", "vimco", "wake_sleep", "trace_graph_elbo", "tvo"],
        repeats=5,
    )
    assert (found.table.reason == "").all()


def test_latents_that_are_summed_out(bits):
    data = {"x": bits, "y": [0, 1, -1, -1] * 20}
    found = vaeppl.compare_estimators(
        M2(6, 2, hidden=(4,)), data, estimators=["elbo", "iwae", "stl", "trace_elbo"], repeats=4
    )
    reasons = found.table.reason
    assert reasons["elbo"] == reasons["iwae"] == ""
    assert "cannot sum out y" in reasons["stl"]


class Implicit(Linear):
    """The draws of the guide without its density."""

    def guide(self, x):
        z = self.a * x + self.c + self.log_s.exp() * torch.randn_like(x)
        with rows(x):
            pyro.sample("z", dist.Delta(z))


def test_a_guide_without_a_density(x):
    names = ["elbo", "stl", "iwae", "wake_sleep", "tvo", "trace_elbo", "adversarial", "mmd"]
    found = vaeppl.compare_estimators(
        Implicit(), {"x": x}, estimators=names, num_particles=4, repeats=4
    )
    for name in names[:-2]:
        assert "it needs the density of latent 'z'" in found.table.reason[name]
    able = found.table.loc[["adversarial", "mmd"]]
    assert (able.reason == "").all() and able.value.notna().all() and (able.model_snr > 0).all()
    assert able[["gap", "model_bias", "ess"]].isna().all(axis=None)
    assert "the guide has no density" in repr(found)


# --- trained ---


def test_trained_by_each_estimator_under_each_seed(bits):
    made = VAE(6, 2, hidden=(4,))
    before = {n: p.detach().clone() for n, p in made.named_parameters()}
    found = vaeppl.compare_estimators(
        made,
        {"x": bits},
        mode="trained",
        estimators=["elbo", "iwae", "score_function", ("mmd", {"strength": 1.0})],
        **FEW,
    )
    assert all((p == before[n]).all() for n, p in made.named_parameters())
    table = found.table
    assert list(table.seeds) == [2, 2, 0, 2]
    assert "every latent can be reparametrised" in table.reason["score_function"]
    assert table.evidence.drop("score_function").notna().all()
    assert len(found.runs) == 6 and len(found.curves) == 12
    assert list(found.pointwise.columns) == ["elbo", "iwae", "mmd(strength=1.0)"]
    np.testing.assert_allclose(found.pointwise.mean()["elbo"], table.evidence["elbo"], rtol=1e-5)
    assert (found.curves.groupby(["estimator", "seed"]).seconds.diff().dropna() > 0).all()


def test_a_seed_is_that_of_fit(bits):
    """Same initial weights, same order of rows: a seed's fit by hand is the one compared."""
    parts = vaeppl.data.as_data({"x": bits}).split(valid=0, test=0.25, seed=0)
    found = vaeppl.compare_estimators(
        VAE(6, 2, hidden=(4,)), parts, mode="trained", estimators=["dreg"], **FEW
    )
    by_hand = vaeppl.fit(
        VAE(6, 2, hidden=(4,)),
        parts,
        estimator="dreg",
        num_particles=8,
        epochs=2,
        lr=1e-2,
        seed=1,
        progress=False,
    )
    score = by_hand.evidence(parts.test, num_particles=50, seed=1).mean
    assert found.runs.evidence[1] == pytest.approx(score, rel=1e-5)


def test_curves_are_of_one_bound_whatever_the_objective(bits):
    """With no step taken, all estimators have the same held-out bound."""
    found = vaeppl.compare_estimators(
        VAE(6, 2, hidden=(4,)),
        {"x": bits},
        mode="trained",
        estimators={"one": "elbo", "many": ("iwae", {"num_particles": 16}), "tc": "factor_tc"},
        **{**FEW, "lr": 1e-12},
    )
    last = found.curves.groupby(["seed", "epoch"]).evidence
    assert (last.max() - last.min() < 1e-3).all()


def test_the_ranking_is_by_paired_differences(bits):
    found = vaeppl.compare_estimators(
        VAE(6, 2, hidden=(4,)), {"x": bits}, mode="trained", estimators=["elbo", "iwae"], **FEW
    )
    ranked, point = found.compare(), found.pointwise
    best, other = ranked.index
    difference = point[best] - point[other]
    assert ranked.elpd_diff[other] == pytest.approx(difference.mean()) and difference.mean() >= 0
    assert ranked.dse[other] == pytest.approx(difference.std(ddof=1) / len(point) ** 0.5)
    assert ranked.elpd_diff[best] == ranked.dse[best] == 0
    assert list(ranked["rank"]) == [0, 1]


class Fragile(VAE):
    """Its scale becomes NaN in training where a seed's first weight is negative."""

    def guide(self, x):
        with rows(x):
            first = next(self.decoder.parameters()).flatten()[0].detach()
            bad = (first < 0) & torch.tensor(self.training)
            scale = torch.where(bad, torch.nan, torch.ones(()))
            normal = dist.Normal(self.encoder(x)[..., :2] * scale, 1.0, validate_args=False)
            pyro.sample("z", normal.to_event(1))


def test_nan_in_one_seed_is_reported_and_the_others_kept(bits):
    made = Fragile(6, 2, hidden=(4,))
    found = vaeppl.compare_estimators(
        made,
        {"x": bits},
        mode="trained",
        estimators=["iwae"],
        **{**FEW, "seeds": [0, 1, 2, 3, 4, 5]},
    )
    line = found.table.loc["iwae"]
    assert line.seeds + line.failed == 6 and line.seeds > 0 and line.failed > 0
    assert np.isfinite(line.evidence) and "found invalid values" in line.reason
    failed = found.runs[found.runs.reason != ""]
    assert len(failed) == line.failed and failed.evidence.isna().all()
    words = f"iwae: {line.failed} of 6 fits failed: {line.reason}"
    assert words.replace(" ", "") in printed(found).replace(" ", "").replace("\n", "")


@pytest.mark.slow
def test_fits_side_by_side_are_fits_in_turn(bits):
    options = {"mode": "trained", "estimators": ["elbo", "iwae"], **FEW}
    made = VAE(6, 2, hidden=(4,))
    alone = vaeppl.compare_estimators(made, {"x": bits}, **options)
    beside = vaeppl.compare_estimators(made, {"x": bits}, jobs=2, **options)
    with joblib.parallel_config(backend="threading"):
        by_context = vaeppl.compare_estimators(made, {"x": bits}, **options)
    for other in (beside, by_context):
        assert other.table.evidence.equals(alone.table.evidence)
        assert other.pointwise.equals(alone.pointwise)


# --- the parts ---


def test_a_watched_estimator_is_the_estimator():
    pair, x = Pair(Linear()), torch.randn(20)
    watched, watch = watching(ELBO(3))
    with pair.active():
        torch.manual_seed(0)
        plain = ELBO(3).differentiable_loss(pair.model, pair.guide, x)
        torch.manual_seed(0)
        loss = watched.differentiable_loss(pair.model, pair.guide, x)
        assert torch.equal(loss, plain) and isinstance(watched, ELBO)
        torch.manual_seed(0)
        held = watched.loss(pair.model, pair.guide, x)
        torch.manual_seed(0)
        assert held == IWAE(32).loss(pair.model, pair.guide, x)
        assert watched.report["elbo"] == pytest.approx(-held)
        watched.loss(pair.model, pair.guide, x)
    assert len(watch.seconds) == 1 and watch.seconds[0] > 0


def test_candidates_from_all_that_may_be_given():
    ready = STL(3)
    found = candidates({"a": "elbo", "b": ("renyi", {"alpha": 0.2}), "c": ready}, 5)
    assert [(c.label, c.num_particles) for c in found] == [("a", 5), ("b", 5), ("c", 3)]
    assert found[2].make() is not ready and isinstance(found[2].make(), STL)
    assert candidates("elbo", 2)[0] == Candidate("elbo", "elbo", {"num_particles": 2})
    own = candidates([("iwae", {"num_particles": 50})], [1, 2])
    assert [c.num_particles for c in own] == [50]


def test_a_reason_does_not_move_the_random_state(x):
    pair = Pair(Linear())
    with pair.active():
        state = torch.get_rng_state()
        assert reason_against(candidates("iwae", 3)[0], pair, {"x": x}) is None
        torch.randn(3)
    assert state is not None


def test_tables_are_written(tmp_path, bits):
    found = vaeppl.compare_estimators(VAE(6, 2, hidden=(4,)), {"x": bits}, repeats=3)
    found.save(tmp_path)
    trained = vaeppl.compare_estimators(
        VAE(6, 2, hidden=(4,)), {"x": bits}, mode="trained", estimators=["elbo"], **FEW
    )
    trained.save(tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {
        f"{n}.csv" for n in ["frozen", "trained", "runs", "curves", "pointwise", "elpd"]
    }
    assert "best held-out evidence: elbo" in repr(trained)


def test_bad_input(x, bits):
    story, data = Linear(), {"x": x}
    with pytest.raises(ValueError, match="mode is 'frozen' or 'trained'; given 'both'"):
        vaeppl.compare_estimators(story, data, mode="both")
    with pytest.raises(ValueError, match="unknown estimator 'iwa': did you mean 'iwae'"):
        vaeppl.compare_estimators(story, data, estimators=["iwa"])
    with pytest.raises(ValueError, match="two estimators are called 'elbo'"):
        vaeppl.compare_estimators(story, data, estimators=["elbo", "elbo"])
    with pytest.raises(ValueError, match="nothing to compare"):
        vaeppl.compare_estimators(story, data, estimators=[])
    with pytest.raises(ValueError, match="repeats is a whole number, at least 2; given 1"):
        vaeppl.compare_estimators(story, data, repeats=1)
    with pytest.raises(TypeError, match="epochs: settings of a fit; give mode='trained'"):
        vaeppl.compare_estimators(story, data, epochs=3)
    with pytest.raises(ValueError, match="at least one seed"):
        vaeppl.compare_estimators(story, data, mode="trained", seeds=[])
    fit = vaeppl.fit(VAE(6, 2, hidden=(4,)), {"x": bits}, epochs=1, progress=False)
    with pytest.raises(ValueError, match="fits the model anew: give the model itself"):
        vaeppl.compare_estimators(fit, {"x": bits}, mode="trained")
    with pytest.raises(ColumnError, match="'x'"):
        vaeppl.compare_estimators(story, {"y": x})


class Marked(torch.nn.Module):
    """A mixture of two normals of learnt means; the component is marked to be summed out."""

    def __init__(self):
        super().__init__()
        self.means = torch.nn.Parameter(torch.tensor([-1.0, 2.0]))
        self.logits = torch.nn.Parameter(torch.tensor([0.5, 0.0]))  # of q, the same for all rows

    def model(self, x):
        with vaeppl.rows(x):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])))
            pyro.sample("x", dist.Normal(self.means[k], 1.0), obs=x)

    def guide(self, x):
        with vaeppl.rows(x):
            pyro.sample("k", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})

    def log_joint(self, x):
        prior = torch.tensor([0.3, 0.7]).log()
        return prior + dist.Normal(self.means, 1.0).log_prob(x.unsqueeze(-1))


def test_a_latent_that_is_summed_out_has_the_exact_gradient_as_its_reference():
    story, x = Marked(), torch.linspace(-2, 3, 16)
    (exact,) = torch.autograd.grad(story.log_joint(x).logsumexp(-1).mean(), story.means)
    q = story.logits.softmax(-1).detach()
    (of_elbo,) = torch.autograd.grad((q * story.log_joint(x)).sum(-1).mean(), story.means)
    bias = float((of_elbo - exact).norm() / exact.norm())
    found = vaeppl.compare_estimators(
        story, {"x": x}, estimators=["elbo", "iwae", "wake_sleep"], num_particles=64, repeats=20
    )
    assert found.table.loc["elbo", "model_bias"] == pytest.approx(bias, abs=0.05)
    assert found.table.loc["iwae", "model_bias"] == pytest.approx(bias, abs=0.05)  # as it says
    assert found.table.loc["wake_sleep", "model_bias"] < 0.1 < bias


def test_latents_that_rows_share_leave_no_gap(x):
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with vaeppl.rows(x):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.1))
        pyro.sample("mu", dist.Normal(loc, 0.2))
        with vaeppl.rows(x):
            pass

    found = vaeppl.compare_estimators(
        model, {"x": x}, guide=guide, estimators=["elbo", "trace_elbo"], repeats=4
    )
    assert found.table["gap"].isna().all() and found.table["value"].notna().all()
    assert "given q of mu, which rows share: no gap can be told" in repr(found)


def test_objectives_with_a_penalty_are_told_by_their_elbo(bits):
    story = vaeppl.models.VAE(6, 2, hidden=(4,))
    names = ["elbo", "capacity", "dip", "beta_tc"]
    found = vaeppl.compare_estimators(story, {"x": bits}, estimators=names, repeats=20)
    assert (found.table["value"] - found.table.loc["elbo", "value"]).abs().max() < 0.1


def test_columns_are_the_same_whatever_the_story(x):
    one = vaeppl.compare_estimators(Linear(), {"x": x}, estimators=["elbo"], repeats=2)
    none = vaeppl.compare_estimators(Linear(), {"x": x}, estimators=["trace_enum_elbo"], repeats=2)
    assert list(one.table.columns) == list(none.table.columns)


def test_estimators_that_cannot_be_compared(x):
    class Mine(pyro.infer.Trace_ELBO):
        pass

    with pytest.raises(ValueError, match=r"a class: pass an object of it, Mine\(\)"):
        vaeppl.compare_estimators(Linear(), {"x": x}, estimators={"mine": Mine})
    with pytest.raises(ValueError, match=r"RenyiELBO of Pyro.*estimator='renyi'"):
        vaeppl.fit(Linear(), {"x": x}, estimator=pyro.infer.RenyiELBO(num_particles=4))
    for number in (2.5, "8"):
        found = vaeppl.compare_estimators(
            Linear(), {"x": x}, estimators=["elbo"], num_particles=number, repeats=2
        )
        assert "num_particles is a whole number, at least 1" in found.table["reason"].iloc[0]
    story = Marked()
    found = vaeppl.compare_estimators(
        story, {"x": x}, estimators=["trace_elbo", "trace_graph_elbo"], repeats=2
    )
    assert set(found.table["reason"]) == {
        "it cannot sum out k, which the guide marks to be enumerated"
    }


# --- as text ---


@pytest.mark.parametrize("mode", ["frozen", "trained"])
def test_names_are_whole_on_a_narrow_terminal_and_reasons_stand_below(bits, mode):
    names = ["elbo", "trace_mean_field_elbo", "score_function", "trace_enum_elbo"]
    options = FEW | {"num_particles": 2} if mode == "trained" else {"repeats": 3}
    options["estimators"] = {f"a name that is long: {n}": n for n in names}
    found = vaeppl.compare_estimators(VAE(6, 2, hidden=(4,)), {"x": bits}, mode=mode, **options)
    text = printed(found)
    for label in options["estimators"]:
        assert label in text
    assert found.compared == 2
    table, _, reasons = text.partition("not compared, or not wholly:")
    assert "score_function" not in table and "trace_mean_field_elbo" in table
    flat = " ".join(reasons.split())
    assert "trace_enum_elbo: no latent is marked to be enumerated" in flat
    assert "so it has no score function to use" in flat


def test_where_nothing_can_be_compared_the_reasons_are_all_there_is(bits):
    story = VAE(6, 2, hidden=(4,))
    for options in ({"repeats": 2}, {"mode": "trained", **FEW}):
        found = vaeppl.compare_estimators(
            story, {"x": bits}, estimators=["score_function"], **options
        )
        text = printed(found)
        assert found.compared == 0
        assert text.startswith("not compared") and "reparametrised" in text


@pytest.mark.parametrize("mode", ["frozen", "trained"])
def test_a_guide_that_is_made_from_the_story(mode):
    data = {"x": torch.randn(60, 4)}
    data["x"][::7, 1] = torch.nan
    story = VAE(4, 2, likelihood="normal", hidden=(4,))
    options = FEW if mode == "trained" else {"repeats": 3}
    found = vaeppl.compare_estimators(
        story, data, guide="auto", mode=mode, estimators=["elbo", "iwae"], **options
    )
    assert (found.table["reason"] == "").all()
    told = found.table["value" if mode == "frozen" else "evidence"]
    assert told.notna().all()
