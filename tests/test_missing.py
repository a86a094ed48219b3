"""Entries that are missing: left out of the likelihood exactly, and filled in as they should be."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch

import vaeppl
from vaeppl import likelihoods, rows
from vaeppl.errors import ColumnError, StoryError
from vaeppl.guides import AutoAmortizedGuide
from vaeppl.missing import leaving_out_missing
from vaeppl.models import VAE

torch.manual_seed(0)
N, W = 300, torch.tensor([[1.5], [-1.0], [0.8]])
SIGMA = 0.5
TRUTH = torch.randn(N, 1) @ W.T + SIGMA * torch.randn(N, 3)
COVARIANCE = W @ W.T + SIGMA**2 * torch.eye(3)


def linear(x=None):
    """z ~ N(0, 1), x | z ~ N(W z, σ²): any entries given any others are normal."""
    with rows(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ W.T, SIGMA).to_event(1), obs=x)


HIDDEN = vaeppl.hide_entries({"x": TRUTH}, 0.3, seed=1)


@pytest.fixture(scope="module")
def fit():
    torch.manual_seed(0)
    guide = AutoAmortizedGuide(linear, HIDDEN, hidden=(32,))
    return vaeppl.fit(
        linear, HIDDEN, guide=guide, epochs=400, lr=0.01, lr_schedule="cosine", progress=False
    )


def exact_evidence(x):
    """log p(x_there) of a row."""
    there = ~x.isnan()
    if not there.any():
        return 0.0
    normal = dist.MultivariateNormal(torch.zeros(int(there.sum())), COVARIANCE[there][:, there])
    return float(normal.log_prob(x[there]))


def exact_conditional(x):
    """Mean and variance of the missing entries given the others."""
    gap = x.isnan()
    b, a = COVARIANCE[gap][:, ~gap], COVARIANCE[~gap][:, ~gap]
    gain = b @ torch.linalg.inv(a)
    return gain @ x[~gap], (COVARIANCE[gap][:, gap] - gain @ b.T).diagonal()


def test_the_evidence_is_that_of_the_entries_that_are_there(fit):
    report = fit.evidence(HIDDEN, num_particles=2000)
    exact = np.array([exact_evidence(x) for x in HIDDEN["x"]])
    assert np.abs(report.rows["log_evidence"] - exact).max() < 0.15
    assert report.mean == pytest.approx(exact.mean(), abs=0.01)


@pytest.mark.parametrize("method", ["importance", "draws", "gibbs"])
def test_imputed_entries_have_the_exact_conditional_moments(fit, method):
    few = HIDDEN.select(torch.arange(100))
    drawn = vaeppl.impute(fit, few, method=method, num_samples=300, num_particles=5000, steps=5)[
        "x"
    ]
    gap = few["x"].isnan()
    assert (drawn[:, ~gap] == few["x"][~gap]).all() and drawn.isfinite().all()
    exact = [exact_conditional(x) for x in few["x"]]
    mean, variance = (torch.cat([e[i] for e in exact]) for i in (0, 1))
    ours = drawn[:, gap]
    slack = 0.0 if method == "importance" else 0.2  # the guide is an approximation
    z = (ours.mean(0) - mean) / (variance / 300).sqrt()
    assert z.square().mean() < 1.4 + 300 * slack**2
    assert (ours.var(0) / variance).mean() == pytest.approx(1, abs=0.06 + slack)


def test_the_mean_and_its_score(fit):
    filled = vaeppl.impute(fit, HIDDEN, method="mean", num_samples=100)["x"]
    assert filled.shape == TRUTH.shape
    table = vaeppl.score_imputation(fit, HIDDEN, {"x": TRUTH}, num_samples=200, num_particles=1000)
    assert table["hidden"].sum() == int(HIDDEN["x"].isnan().sum())
    assert (table["error"] < 0.8 * table["baseline"]).all()
    assert table["coverage"].mean() == pytest.approx(0.9, abs=0.06)


def test_the_summary_has_the_exact_conditional_moments(fit):
    few = {"x": HIDDEN["x"][:20]}
    filled = fit.impute(few, num_samples=1000, num_particles=5000)
    table = filled.summary(level=0.8)
    exact = [exact_conditional(x) for x in few["x"] if x.isnan().any()]
    mean, sd = torch.cat([m for m, _ in exact]), torch.cat([v for _, v in exact]).sqrt()
    assert len(table) == len(mean) == int(few["x"].isnan().sum())
    z80 = 1.2816
    for name, theirs in (("mean", mean), ("lower", mean - z80 * sd), ("upper", mean + z80 * sd)):
        assert torch.allclose(torch.tensor(table[name].to_numpy()).float(), theirs, atol=0.25)
    row, column, entry = table.index[0]
    assert column == "x" and torch.isnan(few["x"][row, int(entry[2])])
    with pytest.raises(ValueError, match="another method than 'mean'"):
        fit.impute(few, method="mean").summary()
    with pytest.raises(ValueError, match="given 90"):
        filled.summary(90)


def test_the_rows_that_were_fitted_are_filled_in_where_none_are_given(fit):
    assert torch.equal(
        fit.impute(num_samples=2, seed=1)["x"],
        vaeppl.impute(fit, HIDDEN, num_samples=2, seed=1)["x"],
    )
    assert len(fit.latent_report()) == 1


def test_a_table_of_mixed_types_with_gaps():
    torch.manual_seed(1)
    z = torch.randn(N, 1)
    x = torch.cat([z + 0.1 * torch.randn(N, 1), (z > 0).float(), torch.poisson(z.exp())], 1)
    parts = [(1, likelihoods.Normal()), (1, likelihoods.Categorical(2)), (1, likelihoods.Poisson())]
    hidden = vaeppl.hide_entries({"x": x}, 0.2)
    story = VAE(3, 2, likelihood=likelihoods.Mixed(parts), hidden=(32,))
    run = vaeppl.fit(story, hidden, guide="auto", epochs=60, lr=0.01, progress=False)
    assert vaeppl.check(story, hidden, guide="auto").ok
    table = vaeppl.score_imputation(run, hidden, {"x": x})
    assert (table["error"] < table["baseline"]).all(), table
    filled = vaeppl.impute(run, hidden, method="mean")["x"]
    assert filled[:, 1].unique().tolist() == [0, 1]
    told = run.impute().summary().xs("x[1]", level="entry")
    assert told["mean"].isna().all() and told["probability"].between(0.5, 1).all()


def test_an_image_with_holes():
    digits = vaeppl.data.load("digits").columns("x").select(torch.arange(300))
    x = digits["x"].clone().float().reshape(-1, 8, 8)
    x[:, :4, :4] = torch.nan
    holes = digits.with_column("x", x.reshape(-1, 64))
    story = VAE(64, 4, likelihood=likelihoods.Binomial(16), hidden=(32,))
    run = vaeppl.fit(story, holes, guide="auto", epochs=2, progress=False)
    filled = vaeppl.impute(run, holes, method="draws", num_samples=2)["x"].reshape(2, -1, 8, 8)
    assert filled.min() >= 0 and filled.max() <= 16
    assert torch.equal(filled[0, :, 4:], x[:, 4:])


@pytest.mark.parametrize(
    "fn",
    [
        dist.Normal(torch.zeros(2), 1.0).to_event(1),
        dist.Gamma(torch.ones(2), 1.0).to_event(1),
        dist.Beta(torch.full((2,), 2.0), 2.0).to_event(1),
        dist.Bernoulli(torch.full((2,), 0.3)).to_event(1),
        dist.Categorical(torch.ones(2, 3)).to_event(1),
        dist.LogNormal(torch.zeros(2), 1.0).to_event(1),
    ],
    ids=lambda f: type(f.base_dist).__name__,
)
def test_each_likelihood_leaves_out_what_is_missing_with_finite_gradients(fn):
    def model(x=None):
        with pyro.plate("rows", 3):
            pyro.sample("x", fn, obs=x)

    x = fn.sample((3,)).float()
    whole = fn.base_dist.log_prob(x)
    holes = x.clone()
    holes[0, 1] = holes[2] = torch.nan
    trace = poutine.trace(leaving_out_missing(model, ["x"])).get_trace(x=holes)
    trace.compute_log_prob()
    expected = [whole[0, 0], whole[1].sum(), torch.tensor(0.0)]
    assert torch.allclose(trace.nodes["x"]["log_prob"], torch.stack(expected))


def test_what_cannot_be_is_said(fit):
    with pytest.raises(ColumnError, match="nothing is missing in 'x'"):
        vaeppl.impute(fit, {"x": TRUTH})
    complete = VAE(3, 2, likelihood="normal", hidden=(4,))
    with pytest.raises(ColumnError, match=r"fitted to complete rows.*guide='auto'"):
        vaeppl.impute(complete, HIDDEN)
    with pytest.raises(ValueError, match="did you mean 'gibbs'"):
        vaeppl.impute(fit, HIDDEN, method="gibs")
    with pytest.raises(ValueError, match="between 0 and 1"):
        vaeppl.hide_entries({"x": TRUTH}, 1.5)
    with pytest.raises(ColumnError, match="guide='auto'"):
        vaeppl.fit(VAE(3, 2, likelihood="normal"), HIDDEN, epochs=1)

    def joint(x=None):
        with rows(x):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.MultivariateNormal(torch.zeros(3), torch.eye(3)), obs=x)

    with pytest.raises(StoryError, match="depend on each other"):
        vaeppl.fit(joint, HIDDEN, guide="auto", epochs=1, progress=False)
    assert math.isfinite(fit.elbo(HIDDEN).mean)
