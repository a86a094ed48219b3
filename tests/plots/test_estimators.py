"""Pictures of compared estimators show the numbers of the tables."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch

import vaeppl
from vaeppl.models import VAE
from vaeppl.plots.estimators import save_comparison

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def bits():
    return {"x": (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()}


@pytest.fixture(scope="module")
def frozen(bits):
    return vaeppl.compare_estimators(
        VAE(6, 2, hidden=(4,)),
        bits,
        estimators=["elbo", "iwae", "dreg", "score_function"],
        num_particles=[2, 8],
        repeats=10,
    )


@pytest.fixture(scope="module")
def trained(bits):
    return vaeppl.compare_estimators(
        VAE(6, 2, hidden=(4,)), bits, mode="trained", estimators=["elbo", "iwae"], epochs=3, seeds=2
    )


def lines_of(ax):
    return {line.get_label(): line for line in ax.lines}


@pytest.mark.parametrize("group", ["model", "guide"])
def test_bias_against_variance(frozen, group):
    lines = lines_of(vaeppl.plots.bias_variance(frozen, group=group))
    table = frozen.table[frozen.table.reason == ""]
    assert set(lines) == set(table.index)
    for label, line in lines.items():
        assert line.get_xdata()[0] == pytest.approx(table.loc[label, f"{group}_variance"])
        bias, noise = table.loc[label, [f"{group}_bias", f"{group}_bias_se"]]
        assert line.get_ydata()[0] == pytest.approx(max(bias, noise))
        assert (line.get_markerfacecolor() == "none") == (bias <= noise)


def test_gaps(frozen):
    ax = vaeppl.plots.evidence_gaps(frozen)
    table = frozen.table[frozen.table.reason == ""]
    assert [t.get_text() for t in ax.get_yticklabels()] == list(table.index)
    drawn = ax.containers[0].lines[0].get_xdata().astype(float)
    np.testing.assert_allclose(drawn, table.gap)


def test_signal_against_particles(frozen):
    lines = lines_of(vaeppl.plots.signal_to_noise(frozen))
    assert {"elbo", "iwae", "dreg"} <= set(lines)
    assert list(lines["dreg"].get_xdata()) == [2, 8]
    expected = frozen.table.loc[["dreg, K=2", "dreg, K=8"], "guide_snr"]
    np.testing.assert_allclose(lines["dreg"].get_ydata(), expected)


@pytest.mark.parametrize("against", ["step", "epoch", "seconds"])
def test_curves(trained, against):
    lines = lines_of(vaeppl.plots.estimator_curves(trained, against=against))
    mine = trained.curves[trained.curves.estimator == "iwae"].groupby("epoch")
    np.testing.assert_allclose(lines["iwae"].get_ydata(), mine.evidence.mean())
    np.testing.assert_allclose(lines["iwae"].get_xdata(), mine[against].mean())


def test_all_pictures_into_a_folder(frozen, trained, tmp_path):
    names = {
        p.name for p in [*save_comparison(frozen, tmp_path), *save_comparison(trained, tmp_path)]
    }
    assert names == {p.name for p in tmp_path.iterdir()}
    assert {"gaps.png", "bias_variance_guide.png", "curves_by_seconds.png"} <= names
    assert "signal_to_noise_model.png" in names


def test_bad_input(frozen, trained, bits):
    one = vaeppl.compare_estimators(VAE(6, 2, hidden=(4,)), bits, estimators=["elbo"], repeats=2)
    with pytest.raises(ValueError, match="one number of particles only"):
        vaeppl.plots.signal_to_noise(one)
    with pytest.raises(ValueError, match="gradients of model, guide; given 'prior'"):
        vaeppl.plots.bias_variance(frozen, group="prior")
    with pytest.raises(ValueError, match="against is 'step', 'epoch' or 'seconds'"):
        vaeppl.plots.estimator_curves(trained, against="minutes")
