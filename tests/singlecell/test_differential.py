"""Differential expression and normalised expression, on counts of known truth."""

import numpy as np
import pytest
import torch

import vaeppl
from vaeppl.data import Data, Field
from vaeppl.errors import ColumnError
from vaeppl.models import SCVI
from vaeppl.singlecell import (
    differential_expression,
    expected_fdr,
    get_denoised_counts,
    get_latent_library_size,
    get_latent_representation,
    get_normalized_expression,
)

CELLS, GENES, CHANGED = 600, 60, 20


@pytest.fixture(scope="module")
def truth():
    """Draw negative binomial counts of two kinds of cells, in two batches of unequal depth."""
    noise = np.random.default_rng(0)
    rho = noise.dirichlet(np.full(GENES, 3.0))
    change = np.zeros(GENES)
    change[:CHANGED] = np.where(np.arange(CHANGED) % 2, 1.5, -1.5)
    shares = np.stack([rho, rho * 2**change])
    shares /= shares.sum(1, keepdims=True)
    kind, batch = np.arange(CELLS) % 2, np.arange(CELLS) // 2 % 2
    library = np.exp(noise.normal(7 + batch, 0.3))
    mean = library[:, None] * shares[kind]
    counts = noise.poisson(mean * noise.gamma(10.0, 0.1, mean.shape))
    data = Data(
        {"x": counts, "batch": batch},
        fields={
            "x": [Field(f"gene{g}", "count") for g in range(GENES)],
            "batch": [Field("donor", "categorical", ("a", "b"))],
        },
    )
    lfc = np.log2(shares[1]) - np.log2(shares[0])
    return {"data": data, "kind": kind, "library": library, "shares": shares, "lfc": lfc}


@pytest.fixture(scope="module")
def fit(truth):
    scvi = SCVI.for_data(truth["data"], latent_dim=2, hidden=(32,), likelihood="nb")
    return vaeppl.fit(scvi, truth["data"], epochs=40, lr=1e-2, lr_schedule="cosine", progress=False)


@pytest.mark.parametrize("between", ["cells", "means"])
def test_genes_that_differ_are_found(fit, truth, between):
    table = differential_expression(
        fit,
        truth["data"],
        truth["kind"] == 1,
        between=between,
        delta=0.6,
        n_samples=1000 if between == "cells" else 50,
        transform_batch=["a", "b"],
    )
    lfc = truth["lfc"][[int(name.removeprefix("gene")) for name in table.index]]
    differs = np.abs(lfc) > 0.6
    called = table["is_de_fdr"].to_numpy()
    assert called.sum() >= 0.9 * differs.sum()
    assert (called & ~differs).sum() <= 0.1 * called.sum()
    assert np.corrcoef(table["lfc_mean"], lfc)[0, 1] > 0.97
    assert np.abs(table["lfc_mean"] - lfc).mean() < 0.15
    assert (table["bayes_factor"].diff().dropna() <= 1e-9).all()
    assert (table["lfc_lower"] <= table["lfc_median"]).all()


def test_two_halves_of_the_same_cells_do_not_differ(fit, truth):
    same = np.flatnonzero(truth["kind"] == 0)
    table = differential_expression(
        fit, truth["data"], same[:150], same[150:], n_samples=50, between="means"
    )
    assert not table["is_de_fdr"].any()
    assert table["lfc_mean"].abs().max() < 0.1


def test_normalised_expression_is_that_of_the_kind(fit, truth):
    table = get_normalized_expression(fit, truth["data"])
    theirs = truth["shares"][truth["kind"]]
    assert np.allclose(table.sum(axis=1), 1, atol=1e-4)
    assert np.abs(table.to_numpy() / theirs - 1).mean() < 0.15
    per_ten_thousand = get_normalized_expression(fit, truth["data"], library_size=1e4)
    assert np.allclose(per_ten_thousand, 1e4 * table, rtol=1e-4)
    assert list(table.columns[:2]) == ["gene0", "gene1"]


def test_another_batch_and_the_mean_over_batches(fit, truth):
    a, b, both = (
        get_normalized_expression(fit, truth["data"], transform_batch=t, n_samples=3)
        for t in ("a", 1, ["a", "b"])
    )
    assert np.allclose(both, (a + b) / 2, rtol=1e-4)
    own = get_normalized_expression(fit, truth["data"], n_samples=3).to_numpy()
    batch = truth["data"]["batch"].numpy()[:, None]
    assert np.allclose(own, np.where(batch == 0, a, b), rtol=1e-4)
    with pytest.raises(ValueError, match="unknown batch 'c'"):
        get_normalized_expression(fit, truth["data"], transform_batch="c")
    with pytest.raises(ValueError, match="holds 2 at row 0"):
        get_normalized_expression(fit, truth["data"], transform_batch=2)


def test_denoised_counts_are_the_library_size_times_the_shares(fit, truth):
    denoised = get_denoised_counts(fit, truth["data"]).to_numpy()
    mean = truth["library"][:, None] * truth["shares"][truth["kind"]]
    raw = truth["data"]["x"].numpy()
    assert np.abs(denoised - mean).mean() < 0.5 * np.abs(raw - mean).mean()
    draws = get_normalized_expression(
        fit, truth["data"], library_size="latent", n_samples=4, return_mean=False
    )
    assert draws.shape == (4, CELLS, GENES)


def test_the_posterior_of_the_library_size(fit, truth):
    table = get_latent_library_size(fit, truth["data"], n_samples=100)
    inside = (table["lower"] < truth["library"]) & (truth["library"] < table["upper"])
    assert 0.75 < inside.mean() < 0.99
    assert np.corrcoef(np.log(table["mean"]), np.log(truth["library"]))[0, 1] > 0.98
    assert (table["observed"] == truth["data"]["x"].sum(1).numpy()).all()


def test_the_state_of_the_cells_tells_their_kind(fit, truth):
    z = get_latent_representation(fit, truth["data"])
    means = np.stack([z[truth["kind"] == k].mean(0) for k in (0, 1)])
    nearest = ((z[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == truth["kind"]).mean() > 0.99


def test_expected_false_discoveries():
    assert expected_fdr([1.0, 0.5, 0.9, 0.0]).tolist() == pytest.approx([0, 0.2, 0.05, 0.4])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (([], None), "group1 has no cell"),
        ((np.ones(CELLS, dtype=bool), None), "group1 holds all cells"),
        (([0, 1], [1, 2]), "1 cells are in both groups, row 1 first"),
        ((np.ones(3, dtype=bool), None), "mask of shape"),
        (([CELLS], None), f"names row {CELLS}"),
    ],
)
def test_bad_groups(fit, truth, groups, message):
    with pytest.raises(ColumnError, match=message):
        differential_expression(fit, truth["data"], *groups)


def test_bad_arguments(fit, truth):
    with pytest.raises(ValueError, match="unknown between 'cell': did you mean 'cells'"):
        differential_expression(fit, truth["data"], [0], between="cell")
    with pytest.raises(ValueError, match="n_samples is at least 2"):
        differential_expression(fit, truth["data"], [0], n_samples=1)
    with pytest.raises(ValueError, match="unknown library_size"):
        get_normalized_expression(fit, truth["data"], library_size="own")
    with pytest.raises(ValueError, match="names no batch"):
        get_normalized_expression(fit, truth["data"], transform_batch=[])


def test_a_story_without_a_library_size(truth):
    other = vaeppl.models.VAE(GENES, 2, likelihood="poisson", hidden=(4,))
    with pytest.raises(ValueError, match="no site 'log_library'"):
        get_normalized_expression(other, {"x": torch.ones(4, GENES)})
