"""Differential expression and normalised expression, on counts of known truth."""

import numpy as np
import pyro.poutine as poutine
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

import vaeppl
from vaeppl.data import Data, DataError, Field
from vaeppl.errors import ColumnError
from vaeppl.models import SCVI
from vaeppl.pair import as_pair
from vaeppl.singlecell import (
    differential_expression,
    expected_fdr,
    get_denoised_counts,
    get_latent_library_size,
    get_latent_representation,
    get_normalized_expression,
)

CELLS, GENES, CHANGED = 600, 60, 20
DELTA = 0.4


def drawn(seed):
    """Draw negative binomial counts of two kinds of cells, in two batches of unequal depth."""
    noise = np.random.default_rng(seed)
    rho = noise.dirichlet(np.full(GENES, 3.0))
    change = np.zeros(GENES)
    change[:CHANGED] = noise.choice([-1, 1], CHANGED) * noise.uniform(0.6, 2.0, CHANGED)
    shares = np.stack([rho, rho * 2**change])
    # Shares sum to 1: the others are left as they were on average, and so have a small change too.
    shares /= shares.sum(1, keepdims=True)
    kind, batch = np.arange(CELLS) % 2, np.arange(CELLS) // 2 % 2
    library = np.exp(noise.normal(7 + batch, 0.3))
    own = shares[kind] * np.exp(noise.normal(0, 0.2, (2, GENES)))[batch]
    own /= own.sum(1, keepdims=True)
    mean = library[:, None] * own
    counts = noise.poisson(mean * noise.gamma(10.0, 0.1, mean.shape))
    data = Data(
        {"x": counts, "batch": batch, "kind": kind},
        fields={
            "x": [Field(f"gene{g}", "count") for g in range(GENES)],
            "batch": [Field("donor", "categorical", ("a", "b"))],
            "kind": [Field("cell_type", "categorical", ("B", "T"))],
        },
    )
    lfc = np.log2(shares[1]) - np.log2(shares[0])
    return {"data": data, "kind": kind, "library": library, "own": own, "lfc": lfc}


def fitted(data, seed=0):
    scvi = SCVI.for_data(data, latent_dim=2, hidden=(32,), likelihood="nb")
    how = {"epochs": 60, "lr": 3e-3, "lr_schedule": "cosine", "batch_size": 64}
    how |= {"kl_weight": "linear", "progress": False}
    return vaeppl.fit(scvi, data, seed=seed, **how)


@pytest.fixture(scope="module")
def truth():
    return drawn(0)


@pytest.fixture(scope="module")
def fit(truth):
    return fitted(truth["data"])


def truth_of(table, truth):
    return truth["lfc"][[int(name.removeprefix("gene")) for name in table.index]]


@pytest.fixture(scope="module")
def tables():
    """Four draws of the counts, each with a fit of its own."""
    found = []
    for seed in range(4):
        truth = drawn(seed)
        fit = fitted(truth["data"], seed)
        table = differential_expression(
            fit, truth["data"], truth["kind"] == 1, delta=DELTA, transform_batch=["a", "b"]
        )
        found.append(table.assign(truth=truth_of(table, truth)))
    return found


class TestAgainstTheTruth:
    def test_genes_that_differ_are_the_most_probable(self, tables):
        for table in tables:
            assert roc_auc_score(table["truth"].abs() > DELTA, table["proba_de"]) > 0.98

    @pytest.mark.parametrize("level", [0.05, 0.10])
    def test_the_share_of_false_discoveries_is_as_expected(self, tables, level):
        false = power = 0
        for table in tables:
            called, differs = table["expected_fdr"] <= level, table["truth"].abs() > DELTA
            false += (called & ~differs).sum() / called.sum() / len(tables)
            power += (called & differs).sum() / differs.sum() / len(tables)
        assert false <= level + 0.02
        assert power > 0.9

    def test_the_sign_is_right_where_a_gene_is_called(self, tables):
        for table in tables:
            called = table[table["is_de_fdr"] & (table["truth"].abs() > DELTA)]
            assert (np.sign(called["lfc_mean"]) == np.sign(called["truth"])).all()

    def test_ninety_percent_intervals_hold_the_truth(self, tables):
        inside = [((t.lfc_lower < t.truth) & (t.truth < t.lfc_upper)).mean() for t in tables]
        assert 0.82 < np.mean(inside) < 0.97

    def test_fold_changes(self, tables):
        for table in tables:
            assert np.abs(table["lfc_mean"] - table["truth"]).mean() < 0.12
            assert np.corrcoef(table["lfc_mean"], table["truth"])[0, 1] > 0.98


def test_one_cell_against_another_is_less_sure_than_the_means(fit, truth):
    how = {"delta": DELTA, "transform_batch": ["a", "b"]}
    means, cells = (
        differential_expression(fit, truth["data"], truth["kind"] == 1, between=b, **how)
        for b in ("means", "cells")
    )
    assert (cells["lfc_std"] > means.loc[cells.index, "lfc_std"]).mean() > 0.9
    assert np.corrcoef(cells["lfc_mean"], truth_of(cells, truth))[0, 1] > 0.97
    for table in (means, cells):
        assert (table["bayes_factor"].diff().dropna() <= 1e-9).all()
        assert (table["lfc_lower"] <= table["lfc_median"]).all()


def test_halves_of_the_same_cells_do_not_differ(fit, truth):
    same = np.flatnonzero(truth["kind"] == 0)
    half = np.arange(len(same)) // 2 % 2 == 0  # the same batches in both
    table = differential_expression(fit, truth["data"], same[half], same[~half])
    assert not table["is_de_fdr"].any()
    assert table["lfc_mean"].abs().max() < 0.3


def test_a_fit_taken_at_its_word_is_too_sure(fit, truth):
    how = {"transform_batch": ["a", "b"], "delta": DELTA}
    bare = differential_expression(fit, truth["data"], truth["kind"] == 1, misfit=0.0, **how)
    theirs = truth_of(bare, truth)
    assert ((bare["lfc_lower"] < theirs) & (theirs < bare["lfc_upper"])).mean() < 0.5


def test_a_bias_of_the_fit_is_mended_by_the_counts(truth):
    """A story that knows nothing of the kinds: the factor is that of the counts alone."""
    data = truth["data"]
    scvi = SCVI(GENES, 2, num_batches=2, likelihood="poisson", library="observed", hidden=(4,))
    scvi.f_w.weight.data.zero_()
    rho = data["x"].sum(0) / data["x"].sum()
    scvi.f_w.bias.data = rho.log()
    mask = truth["kind"] == 1
    table = differential_expression(scvi, data, mask, misfit=10.0, pseudocount=0.0)
    x, total = data["x"].numpy(), data["x"].sum(1).numpy()
    # With mean = variance = l_n rho the quasi-likelihood estimate is Σ x / Σ l rho.
    by_hand = np.log2(x[mask].sum(0) / total[mask].sum() / (x[~mask].sum(0) / total[~mask].sum()))
    ours = table["lfc_mean"][[f"gene{g}" for g in range(GENES)]]
    assert np.abs(ours - by_hand).max() < 0.02


def test_a_gene_that_is_not_seen_is_not_called():
    truth = drawn(0)
    x = torch.cat([truth["data"]["x"], torch.zeros(CELLS, 2)], 1)
    data = {"x": x, "batch": truth["data"]["batch"]}
    table = differential_expression(fitted(data), data, truth["kind"] == 1)
    unseen = table.loc[["x[60]", "x[61]"]]
    assert (unseen["proba_de"] < 0.5).all() and not unseen["is_de_fdr"].any()


def test_what_the_counts_themselves_say(fit, truth):
    table = differential_expression(fit, truth["data"], truth["kind"] == 1, n_samples=50)
    x, mask = truth["data"]["x"].numpy(), truth["kind"] == 1
    line = table.loc["gene7"]
    assert line["raw_mean1"] == pytest.approx(x[mask, 7].mean())
    assert line["raw_mean2"] == pytest.approx(x[~mask, 7].mean())
    assert line["non_zeros_proportion1"] == pytest.approx((x[mask, 7] > 0).mean())
    assert line["non_zeros_proportion2"] == pytest.approx((x[~mask, 7] > 0).mean())


class TestGroupsByName:
    def test_a_level_against_another_and_against_the_rest(self, fit, truth):
        few = {"n_samples": 50}
        by_mask = differential_expression(fit, truth["data"], truth["kind"] == 1, **few)
        assert "comparison" not in by_mask
        for column in ("kind", "cell_type"):
            for other in (None, "B"):
                table = differential_expression(
                    fit, truth["data"], "T", other, groupby=column, **few
                )
                assert table["comparison"].unique().tolist() == [f"T vs {other or 'rest'}"]
                assert np.allclose(table["lfc_mean"], by_mask["lfc_mean"])

    def test_every_level_against_the_rest(self, fit, truth):
        table = differential_expression(fit, truth["data"], groupby="kind", n_samples=50)
        assert table["comparison"].value_counts().to_dict() == {"B vs rest": 60, "T vs rest": 60}
        one = table[table.comparison == "B vs rest"].sort_index()
        two = table[table.comparison == "T vs rest"].sort_index()
        assert np.corrcoef(one["lfc_mean"], -two["lfc_mean"])[0, 1] > 0.99

    def test_cells_without_a_level_are_in_the_rest(self, fit, truth):
        kind = np.where(np.arange(CELLS) < 100, -1, truth["kind"])
        data = truth["data"].with_column(
            "kind", kind, fields=[Field("kind", "categorical", ("B", "T"))]
        )
        table = differential_expression(fit, data, "T", groupby="kind", n_samples=50)
        x = data["x"].numpy()
        assert table.loc["gene0", "raw_mean2"] == pytest.approx(x[kind != 1, 0].mean())

    def test_levels_without_names_are_asked_for_by_their_codes(self, fit, truth):
        data = truth["data"].with_column("kind", truth["kind"], fields=[Field("kind", "count")])
        named = differential_expression(fit, truth["data"], "T", groupby="kind", n_samples=50)
        for group in (1, np.int64(1), "1", [1]):
            table = differential_expression(fit, data, group, groupby="kind", n_samples=50)
            assert table["comparison"].unique().tolist() == ["1 vs rest"]
            assert np.allclose(table["lfc_mean"], named["lfc_mean"])

    def test_each_column_is_named_once(self, fit, truth):
        one_name = truth["data"].with_column(
            "kind", truth["kind"], fields=[Field("kind", "categorical", ("B", "T"))]
        )
        with pytest.raises(DataError) as caught:
            differential_expression(fit, one_name, "T", groupby="nonsense")
        assert str(caught.value).count("'kind'") == 1

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"groupby": "kin"}, DataError, "no column 'kin'; did you mean 'kind'"),
            (
                {"groupby": "kind", "group1": "t"},
                ColumnError,
                "group 't': did you mean 'T'",
            ),
            ({}, TypeError, "say which cells to compare"),
        ],
    )
    def test_what_is_not_there(self, fit, truth, options, error, message):
        with pytest.raises(error, match=message):
            differential_expression(fit, truth["data"], **options)


def test_normalised_expression_is_that_of_the_kind(fit, truth):
    table = get_normalized_expression(fit, truth["data"])
    theirs = truth["own"]
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


class TestByHand:
    """A small story with a narrow q(z): the shares are those of the formula, with NumPy."""

    @pytest.fixture
    def model(self):
        model = SCVI(5, 2, num_batches=3, library="observed", hidden=(4,), dropout=0.0)
        for parameter in model.parameters():
            parameter.data += 0.5 * torch.randn(parameter.shape)
        narrow = [p for n, p in model.q_z.named_parameters() if n.endswith("bias")]
        narrow[-1].data[2:] = -20.0  # the scale comes after the mean
        return model

    @pytest.fixture
    def cells(self):
        x = torch.poisson(5 * torch.rand(7, 5)) + 1
        return {"x": x, "batch": torch.arange(7) % 3}

    def rho(self, model, cells, batch):
        number = {name: p.detach().numpy() for name, p in model.named_parameters()}
        z = vaeppl.encode(model, cells)["z"].numpy()
        joined = np.concatenate([z, np.eye(3)[batch]], 1)
        first = "decoder.layers.0."
        h = np.maximum(joined @ number[first + "weight"].T + number[first + "bias"], 0)
        return softmax(h @ number["f_w.weight"].T + number["f_w.bias"], axis=1)

    def test_its_own_batch(self, model, cells):
        theirs = self.rho(model, cells, cells["batch"].numpy())
        ours = get_normalized_expression(model, cells, n_samples=50)
        assert np.allclose(ours, theirs, atol=2e-3)
        scaled = get_normalized_expression(model, cells, n_samples=50, library_size=1e4)
        assert np.allclose(scaled, 1e4 * ours.to_numpy(), rtol=1e-5)

    def test_another_batch_and_the_mean_over_two(self, model, cells):
        one, two = (self.rho(model, cells, np.full(7, s)) for s in (1, 2))
        assert not np.allclose(one, two, atol=0.02)
        at = {"n_samples": 50}
        ours = get_normalized_expression(model, cells, transform_batch=1, **at)
        assert np.allclose(ours, one, atol=2e-3)
        ours = get_normalized_expression(model, cells, transform_batch=[1, 2], **at)
        assert np.allclose(ours, (one + two) / 2, atol=2e-3)

    def test_denoised_counts(self, model, cells):
        theirs = self.rho(model, cells, cells["batch"].numpy())
        theirs = theirs * cells["x"].sum(1, keepdim=True).numpy()
        assert np.allclose(get_denoised_counts(model, cells), theirs, atol=0.05)

    def test_the_mean_is_that_of_the_draws(self, cells):
        model = SCVI(5, 2, num_batches=3, hidden=(4,))
        for size in (1.0, "latent"):
            at = {"n_samples": 6, "library_size": size, "seed": 3}
            draws = get_normalized_expression(model, cells, return_mean=False, **at)
            assert draws.shape == (6, 7, 5)
            assert np.allclose(draws.mean(0), get_normalized_expression(model, cells, **at))
            assert np.ptp(draws, axis=0).max() > 1e-3  # they are draws
        assert (get_latent_representation(model, cells, n_samples=4).shape) == (4, 7, 2)


class TestIntervals:
    """Of one gene, whose share is 1, the expression is the library size."""

    @pytest.fixture
    def model(self):
        return SCVI(1, 2, hidden=(4,), dropout=0.0)

    @pytest.fixture
    def cells(self):
        return {"x": torch.poisson(50 * torch.rand(6, 1)) + 1}

    def test_they_are_those_of_the_lognormal_library(self, model, cells):
        table = get_denoised_counts(model, cells, level=0.8, n_samples=20_000)
        pair = as_pair(model)
        with pair.active(), torch.no_grad():
            q = poutine.trace(pair.guide).get_trace(**cells).nodes["log_library"]["fn"]
        q = q.base_dist if hasattr(q, "base_dist") else q
        for name, share in (("lower", 0.1), ("upper", 0.9)):
            theirs = q.icdf(torch.tensor(share)).exp().detach().numpy()
            assert np.allclose(np.ravel(table[name]), np.ravel(theirs), rtol=0.1)

    def test_shares_that_are_certain_have_no_width(self, model, cells):
        table = get_normalized_expression(model, cells, level=0.9)
        for name in ("mean", "lower", "upper"):
            assert table[name].shape == (6, 1) and np.allclose(table[name], 1)

    def test_they_are_quantiles_of_the_draws(self, fit, truth):
        few = {"n_samples": 11, "seed": 2}
        cells = truth["data"].select(range(20))
        table = get_normalized_expression(fit, cells, level=0.5, **few)
        draws = get_normalized_expression(fit, cells, return_mean=False, **few)
        assert np.allclose(table["lower"], np.quantile(draws, 0.25, axis=0))
        assert np.allclose(table["mean"], draws.mean(0))
        assert list(table["upper"].columns[:2]) == ["gene0", "gene1"]

    def test_what_cannot_be(self, model, cells):
        with pytest.raises(ValueError, match=r"between 0 and 1, such as .*; given 90"):
            get_normalized_expression(model, cells, level=90)
        with pytest.raises(ValueError, match="not both"):
            get_normalized_expression(model, cells, level=0.9, return_mean=False)


def test_denoised_counts_are_the_library_size_times_the_shares(fit, truth):
    denoised = get_denoised_counts(fit, truth["data"]).to_numpy()
    mean = truth["library"][:, None] * truth["own"]
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
