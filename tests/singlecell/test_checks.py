"""Posterior predictive checks of counts: statistics by hand, and stories right or wrong."""

import numpy as np
import pytest
import torch

import vaeppl
from vaeppl.data import Data
from vaeppl.models import SCVI
from vaeppl.singlecell import count_statistics, predictive_check

CELLS, GENES = 400, 30


@pytest.fixture(scope="module")
def counts():
    noise = np.random.default_rng(0)
    library = np.exp(noise.normal(5.5, 0.4, CELLS))
    mean = library[:, None] * noise.dirichlet(np.full(GENES, 1.0))
    return Data({"x": noise.poisson(mean * noise.gamma(2.0, 0.5, mean.shape)) + np.eye(1, GENES)})


def fitted(counts, likelihood):
    model = SCVI.for_data(counts, latent_dim=2, hidden=(16,), likelihood=likelihood)
    how = {"epochs": 100, "batch_size": 64, "lr": 1e-2, "lr_schedule": "cosine"}
    return vaeppl.fit(model, counts, **how, progress=False)


@pytest.fixture(scope="module")
def fit(counts):
    return fitted(counts, "nb")


def test_the_statistics_are_those_of_the_counts(fit, counts):
    check = predictive_check(fit, counts, num_samples=3)
    x = counts["x"].numpy()
    for column, theirs in (
        ("zeros", (x == 0).mean(0)),
        ("mean", x.mean(0)),
        ("variance", x.var(0)),
    ):
        assert np.allclose(check.genes[column], theirs, rtol=1e-5)
    assert np.allclose(check.cells["zeros"], (x == 0).mean(1))
    assert np.allclose(check.cells["library"], x.sum(1))


def test_the_replications_are_those_of_the_story():
    """Of a story without a latent that matters, moments are known."""
    rho, theta, total = torch.tensor([0.7, 0.2, 0.1]), 2.0, 50.0
    model = SCVI(3, 2, likelihood="nb", library="observed", hidden=(4,))
    model.f_w.weight.data.zero_()
    model.f_w.bias.data = rho.log()
    model.log_theta_units.data.fill_(np.log(theta) / 10)
    x = torch.tensor([[30.0, 15.0, 5.0]]).expand(2000, 3)
    genes = predictive_check(model, {"x": x}, num_samples=40).genes
    mean = total * rho.numpy()
    variance = mean + mean**2 / theta
    error = np.sqrt(variance / 2000 / 40)
    assert (np.abs(genes["mean_rep"] - mean) < 5 * error).all()
    assert np.allclose(genes["variance_rep"], variance, rtol=0.05)
    assert np.allclose(genes["zeros_rep"], (theta / (theta + mean)) ** theta, atol=0.003)


def test_it_is_the_same_whatever_the_size_of_a_pass(fit, counts, monkeypatch):
    whole = predictive_check(fit, counts, num_samples=30)
    monkeypatch.setattr("vaeppl.singlecell.expression.ENTRIES_AT_ONCE", 50 * GENES)
    parts = predictive_check(fit, counts, num_samples=30)
    for column in ("zeros", "mean", "variance"):
        assert np.allclose(whole.genes[column], parts.genes[column])
    assert np.allclose(whole.genes["zeros_rep"], parts.genes["zeros_rep"], atol=0.02)


def test_a_right_story_passes_and_a_wrong_one_does_not(fit, counts):
    right = predictive_check(fit, counts).table
    wrong = predictive_check(fitted(counts, "poisson"), counts).table
    for over, statistic in (("genes", "zeros"), ("genes", "variance")):
        assert right.loc[(over, statistic), "inside"] > 0.8
        assert wrong.loc[(over, statistic), "inside"] < 0.6
    assert wrong.loc[("genes", "zeros"), "replicated"] < right.loc[("genes", "zeros"), "replicated"]
    assert "posterior predictive check of counts (50 replications)" in repr(
        predictive_check(fit, counts)
    )


def test_the_statistics_of_a_check_of_new_cells(fit, counts):
    report = vaeppl.posterior_predictive_check(
        fit, counts, statistics=count_statistics(), kind="prior", num_samples=20
    )
    x = counts["x"].numpy()
    observed = report.table.set_index("statistic")["observed"]
    assert observed["share of zeros"] == pytest.approx((x == 0).mean())
    assert observed["mean library size"] == pytest.approx(x.sum(1).mean())
    assert 1 < observed["slope of log variance on log mean"] < 2
    assert len(report.table) == len(count_statistics())


def test_slopes_that_are_known():
    statistics = count_statistics()
    noise = np.random.default_rng(0)
    mean = np.geomspace(20, 2000, 40)
    gamma = noise.poisson(noise.gamma(0.5, 2 * mean, (4000, 40)))
    assert statistics["slope of log variance on log mean"](gamma) == pytest.approx(2, abs=0.05)
    assert statistics["slope of log variance on log mean"](np.zeros((5, 4))) == 0.0


def test_bad_number_of_samples(fit, counts):
    with pytest.raises(ValueError, match="num_samples is at least 1"):
        predictive_check(fit, counts, num_samples=0)
