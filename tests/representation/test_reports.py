"""The report of all metrics, and what every metric refuses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import vaeppl
from vaeppl import representation
from vaeppl.data import Data, from_frame
from vaeppl.errors import ColumnError
from vaeppl.representation import reports
from vaeppl.representation.reports import METRICS, report

OF_FACTORS = [m for m in METRICS if m != "total_correlation"]


@pytest.fixture(scope="module")
def table(factors, codes):
    return report(codes["copy"], factors, repeats=2, trees=10)


def test_a_perfect_copy(table):
    ones = ["mig", "sap", "modularity", "beta_vae_score", "factor_vae_score"]
    ones += ["dci_disentanglement", "dci_completeness", "dci_informativeness"]
    assert table["value"][ones].tolist() == pytest.approx([1] * len(ones))
    assert table["value"]["total_correlation"] == pytest.approx(0, abs=1e-9)
    assert set(table.index) - set(ones) == {
        "explicitness", "dci_disentanglement_weighted", "total_correlation",
    }  # fmt: skip


def test_bands_seeds_rows_and_settings(table):
    assert list(table.columns) == ["value", "low", "high", "seeds", "rows", "settings"]
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    assert (table["seeds"] == 2).all() and (table["rows"] == 64).all()
    assert table["settings"]["mig"] == "bins=20, binning='width'"
    assert "trees=10" in table["settings"]["dci_informativeness"]


def test_each_value_is_that_of_its_function(factors, codes):
    names = ["sap", "explicitness", "factor_vae_score"]
    found = report(codes["noise"], factors, metrics=names, repeats=3, seed=7)
    for name in names:
        seeds = [{} if name == "sap" else {"seed": s} for s in (7, 8, 9)]
        values = [float(getattr(representation, name)(codes["noise"], factors, **s)) for s in seeds]
        assert found["value"][name] == pytest.approx(np.mean(values))
        assert found["low"][name] == pytest.approx(np.quantile(values, 0.05))


def test_rows_are_drawn_where_there_are_more_than_enough(many):
    factors, codes = many
    found = report(
        codes["noise"], factors, metrics=["mig", "dci"], most_rows=500, most_rows_dci=100, trees=2,
        repeats=2,
    )  # fmt: skip
    assert found["rows"].tolist() == [500, 100, 100, 100, 100]
    assert found["low"]["mig"] < found["high"]["mig"]


def test_scales_make_the_total_correlation_that_of_q(factors, codes):
    found = report(
        codes["copy"], factors, scales=np.full((64, 3), 0.01), metrics="total_correlation"
    )
    assert "stratified" in found["settings"].iloc[0]
    assert found["value"].iloc[0] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ColumnError, match="scales have shape"):
        report(codes["copy"], factors, scales=np.ones((2, 3)))


def test_names_of_a_data_frame_are_known(factors, codes):
    named = pd.DataFrame(factors, columns=["shape", "x", "y"])
    found = report(codes["copy"], named, metrics=["sap"], categorical=["shape"], repeats=1)
    assert "'shape'" in found["settings"]["sap"]


def test_one_factor_has_the_metrics_that_take_one(factors, codes):
    found = report(codes["copy"], factors[:, 0], repeats=1, trees=2)
    assert "mig" in found.index and not set(reports.OF_TWO_FACTORS) & set(found.index)
    with pytest.raises(ColumnError, match="needs 2 or more"):
        report(codes["copy"], factors[:, 0], metrics=["modularity"])


def test_a_metric_that_cannot_be_had_says_why_beside_the_others():
    """Rows that are fewer than bins: MIG and modularity have no counts, SAP needs none."""
    factors = np.indices((3, 4)).reshape(2, -1).T
    codes = np.random.default_rng(0).standard_normal((12, 2))
    names = ["mig", "sap", "modularity"]
    found = report(codes, factors, metrics=names, repeats=2)
    assert list(found.index) == names
    assert found["value"].isna().tolist() == [True, False, True]
    assert found["seeds"].tolist() == [0, 2, 0] and found["rows"].tolist() == [12, 12, 12]
    assert found["settings"]["mig"].startswith("not to be had: 12 rows are fewer than 20 bins")
    with pytest.raises(ColumnError, match="12 rows are fewer than 20 bins"):
        report(codes, factors, metrics=["mig", "modularity"])


def test_a_value_that_is_nan_is_none_that_cannot_be_had(factors, codes):
    found = report(codes["constant"], factors, metrics=["modularity"], repeats=2)
    assert found["value"].isna().all() and found["seeds"].tolist() == [2]


def test_entries_of_data_are_the_names_of_the_factors(factors, codes):
    table = pd.DataFrame(factors, columns=["u", "v", "w"])
    named = from_frame(table.astype("category"), {"k": ["u", "v", "w"]})
    score = representation.mig(codes["copy"], named.columns("k"))
    assert list(score.matrix.columns) == ["u", "v", "w"] and float(score) == 1
    plain = Data({"k": factors, "l": factors[:, 0]})
    columns = representation.mutual_information(codes["copy"], plain).columns
    assert list(columns) == ["k[0]", "k[1]", "k[2]", "l"]
    found = report(codes["copy"], named, metrics=["sap"], categorical=["u"], repeats=1)
    assert "'u'" in found["settings"]["sap"]


def test_unknown_metrics(factors, codes):
    with pytest.raises(ColumnError, match="unknown factor 'shape'"):
        report(codes["copy"], factors, metrics=["mig", "sap"], categorical=["shape"])
    with pytest.raises(ValueError, match="did you mean 'mig'"):
        report(codes["copy"], factors, metrics=["migg"])


# --- What every metric refuses, and takes ---


@pytest.mark.parametrize("name", OF_FACTORS)
def test_every_metric_refuses_bad_input(name, factors, codes):
    metric, z = getattr(representation, name), codes["copy"]
    with pytest.raises(ColumnError, match="no factors were given"):
        metric(z, None)
    with pytest.raises(ColumnError, match=r"factor 1 has one value \(2\) in all 64 rows"):
        metric(z, np.column_stack([factors[:, 0], np.full(64, 2)]))
    with pytest.raises(ColumnError, match=r"factor 0 has no value at row 5 \(nan there; 1 of 64"):
        metric(z, np.where((np.arange(64) == 5)[:, None], [np.nan, 0, 0], factors))
    with pytest.raises(ColumnError, match=r"factor 2 holds -1 at row 0 \(16 of 64 rows are neg"):
        metric(z, factors - [0, 0, 1])
    with pytest.raises(ColumnError, match=r"-1 means missing: .* numpy\.unique\(values, return_"):
        metric(z, factors - [0, 2, 0])
    with pytest.raises(ColumnError, match=r"factor 0 holds -1\.5 at row 0; .* pandas\.qcut"):
        metric(z, factors - 1.5)
    with pytest.raises(ColumnError, match=r"factor 0 holds 0\.5 at row 16; .* whole numbers"):
        metric(z, factors / 2)
    with pytest.raises(ColumnError, match="64 rows of latents, but 10 of factors"):
        metric(z, factors[:10])
    with pytest.raises(ColumnError, match=r"factors of type .* are no codes"):
        metric(z, factors.astype(str))
    with pytest.raises(ColumnError, match="hold nan at row 3, dimension 1"):
        metric(np.where((np.arange(64) == 3)[:, None], [0, np.nan, 0], z), factors)
    with pytest.raises(ColumnError, match=r"latents have shape \(64, 0\)"):
        metric(z[:, :0], factors)
    with pytest.raises(ColumnError, match=r"latents have shape \(1, 64, 3\)"):
        metric(z[None], factors)
    with pytest.raises(ColumnError, match=r"factors have shape \(1, 64, 3\)"):
        metric(z, factors[None])


@pytest.mark.parametrize("name", ["mig", "sap", "modularity"])
def test_tensors_frames_and_floats_are_arrays(name, factors, codes):
    metric, z = getattr(representation, name), codes["mirrored"]
    value = float(metric(z, factors))
    grad = torch.tensor(z, requires_grad=True)
    assert float(metric(grad, torch.tensor(factors))) == value
    assert float(metric(pd.DataFrame(z), pd.DataFrame(factors))) == value
    assert float(metric(z.tolist(), factors.astype(float).tolist())) == value


def test_numbers_of_the_values_do_not_matter_but_for_their_spacing(factors, codes):
    renamed = np.array([3, 10, 0, 7])[factors]
    for metric in (representation.mig, representation.modularity):
        assert float(metric(codes["mirrored"], renamed)) == float(
            metric(codes["mirrored"], factors)
        )


def test_the_package_is_found_by_name():
    assert vaeppl.representation is representation
    assert "representation" in dir(vaeppl)
    assert set(METRICS) < set(representation.__all__)
