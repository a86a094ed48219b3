"""Pictures of compared estimators show the numbers of the tables."""

from __future__ import annotations

import dataclasses
import itertools

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
    bars = ax.containers[0].lines[2][0].get_segments()
    widths = [segment[1, 0] - segment[0, 0] for segment in bars]
    np.testing.assert_allclose(widths, 4 * table.gap_se)
    assert "bars: two standard errors each way" in ax.get_title()


def test_signal_against_particles(frozen):
    lines = lines_of(vaeppl.plots.signal_to_noise(frozen))
    assert {"elbo", "iwae", "dreg"} <= set(lines)
    assert list(lines["dreg"].get_xdata()) == [2, 8]
    expected = frozen.table.loc[["dreg, K=2", "dreg, K=8"], "guide_snr"]
    np.testing.assert_allclose(lines["dreg"].get_ydata(), expected)


@pytest.mark.parametrize("against", ["step", "epoch", "seconds"])
def test_curves(trained, against):
    ax = vaeppl.plots.estimator_curves(trained, against=against)
    lines = lines_of(ax)
    mine = trained.curves[trained.curves.estimator == "iwae"].groupby("epoch")
    np.testing.assert_allclose(lines["iwae"].get_ydata(), mine.evidence.mean())
    np.testing.assert_allclose(lines["iwae"].get_xdata(), mine[against].mean())
    assert ax.get_title() == "Mean over seeds; band: their range"


def outside(ax):
    """Tell whether the legend lies outside the axes."""
    ax.figure.canvas.draw()
    legend = ax.get_legend().get_window_extent()
    return legend.x0 >= ax.get_window_extent().x1 - 1


def with_ratios(frozen, **ratios):
    table = frozen.table.copy()
    for label, value in ratios.items():
        table.loc[label.replace("_K", ", K="), "guide_snr"] = value
    return dataclasses.replace(frozen, table=table)


def test_a_ratio_of_zero_lies_at_the_lower_edge_and_one_that_is_infinite_nowhere(frozen):
    odd = with_ratios(frozen, elbo_K2=0.0, iwae_K2=np.inf, iwae_K8=np.nan, dreg_K8=np.inf)
    ax = vaeppl.plots.signal_to_noise(odd)
    lines, low = lines_of(ax), ax.get_ylim()[0]
    edge = lines["elbo: 0"]
    assert list(edge.get_xdata()) == [2] and edge.get_markerfacecolor() == "white"
    at = edge.get_transform().transform((2.0, 0.0))
    assert at[1] == pytest.approx(ax.transData.transform((2.0, low))[1])
    drawn = lines["elbo"].get_ydata()
    assert np.isnan(drawn[0]) and drawn[1] == frozen.table.loc["elbo, K=8", "guide_snr"]
    words = [t.get_text() for t in ax.get_legend().get_texts()]
    assert words == [
        "elbo",
        "dreg",
        "hollow, at the edge: 0",
        "no finite ratio:",
        "iwae",
        "dreg, K = 8",
    ]
    assert outside(ax)


def test_guide_lines_leave_the_scale_to_the_points(frozen):
    """Points over a factor of five at most; the dotted lines run over one of 2 about their mean."""
    same = frozen.table.assign(guide_snr=3.0)
    ax = vaeppl.plots.signal_to_noise(dataclasses.replace(frozen, table=same))
    low, high = ax.get_ylim()
    assert high / low == pytest.approx(5.0) and np.sqrt(low * high) == pytest.approx(3.0)
    zero = frozen.table.assign(guide_snr=0.0)
    ax = vaeppl.plots.signal_to_noise(dataclasses.replace(frozen, table=zero))
    assert np.isfinite(ax.get_ylim()).all()
    assert not any(line.get_linestyle() == ":" for line in ax.lines)


def test_points_that_agree_have_ticks_all_the_same(frozen):
    table = frozen.table.assign(model_variance=0.0123, model_bias=0.3, model_bias_se=0.1)
    ax = vaeppl.plots.bias_variance(dataclasses.replace(frozen, table=table))
    for ticks, (low, high) in ((ax.get_xticks(), ax.get_xlim()), (ax.get_yticks(), ax.get_ylim())):
        shown = [f"{t:g}" for t in ticks if low <= t <= high]
        assert shown in (["0.01", "0.02"], ["0.2", "0.5"])


@pytest.mark.parametrize("decades", [0, 1, 2, 5, 11])
def test_ticks_do_not_collide(frozen, decades):
    table = frozen.table.copy()
    table["model_variance"] = np.logspace(-decades, 0, len(table))
    ax = vaeppl.plots.bias_variance(dataclasses.replace(frozen, table=table))
    ax.figure.canvas.draw()
    low, high = ax.get_xlim()
    ticks = [t for t in ax.xaxis.get_major_ticks() if low <= t.get_loc() <= high]
    boxes = [t.label1.get_window_extent() for t in ticks]
    assert len(boxes) >= 2 and all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_colour_says_the_estimator_and_the_line_the_particles(frozen, bits):
    curves = vaeppl.compare_estimators(
        VAE(6, 2, hidden=(4,)),
        bits,
        mode="trained",
        estimators=["elbo", "iwae"],
        num_particles=[1, 8],
        epochs=2,
        seeds=1,
    )
    ax = vaeppl.plots.estimator_curves(curves)
    lines = lines_of(ax)
    assert set(lines) == {"elbo, K=1", "elbo, K=8", "iwae, K=1", "iwae, K=8"}
    for name in ("elbo", "iwae"):
        few, many = lines[f"{name}, K=1"], lines[f"{name}, K=8"]
        assert few.get_color() == many.get_color()
        assert (few.get_linestyle(), many.get_linestyle()) == ("--", "-")
    assert lines["elbo, K=1"].get_color() != lines["iwae, K=1"].get_color()
    words = [t.get_text() for t in ax.get_legend().get_texts()]
    assert words == ["elbo", "iwae", "K = 1", "K = 8"] and outside(ax)
    assert ax.get_title() == "One seed of each estimator"
    ax = vaeppl.plots.bias_variance(frozen)
    signs = {label: line.get_marker() for label, line in lines_of(ax).items()}
    assert signs["iwae, K=2"] == signs["elbo, K=2"] != signs["elbo, K=8"] and outside(ax)


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
