"""Pictures of counts: each point where the table has it."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

import vaeppl
from vaeppl.models import SCVI
from vaeppl.singlecell import differential_expression, predictive_check

matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def cells():
    x = torch.poisson(4 * torch.rand(50, 8, generator=torch.Generator().manual_seed(0))) + 1
    x[:, 7] = 0
    return {"x": x}


@pytest.fixture(scope="module")
def model():
    return SCVI(8, 2, hidden=(4,))


@pytest.fixture(scope="module")
def check(model, cells):
    return predictive_check(model, cells, num_samples=5)


@pytest.mark.parametrize("over", ["genes", "cells"])
def test_zero_fractions(check, over):
    ax = vaeppl.plots.zero_fractions(check, over=over)
    points = np.concatenate([c.get_offsets() for c in ax.collections])
    table = getattr(check, over)
    theirs = table[["zeros", "zeros_rep"]].to_numpy()
    assert np.allclose(points[np.lexsort(points.T)], theirs[np.lexsort(theirs.T)])


def test_mean_variance(check):
    ax = vaeppl.plots.mean_variance(check)
    seen = check.genes[check.genes["mean"] > 0]
    assert len(seen) == 7
    assert np.allclose(ax.collections[-1].get_offsets(), seen[["mean", "variance"]])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_they_take_axes_and_a_model(model, cells):
    _, axes = plt.subplots(1, 2)
    assert vaeppl.plots.zero_fractions(model, cells, axes[0], num_samples=2) is axes[0]
    assert vaeppl.plots.mean_variance(model, cells, axes[1], num_samples=2) is axes[1]


def test_volcano(model, cells):
    table = differential_expression(model, cells, [0, 1, 2], n_samples=50)
    table["is_de_fdr"] = table["lfc_mean"].abs() > table["lfc_mean"].abs().median()
    ax = vaeppl.plots.volcano(table, delta=0.25, names=2)
    points = np.concatenate([c.get_offsets() for c in ax.collections])
    assert len(points) == 8
    largest = table[table["is_de_fdr"]]["lfc_mean"].abs().nlargest(2).index
    assert sorted(t.get_text() for t in ax.texts) == sorted(largest)
    assert len(ax.lines) == 2


def test_bad_arguments(check):
    with pytest.raises(ValueError, match="unknown over 'gene'"):
        vaeppl.plots.zero_fractions(check, over="gene")
    two = pd.DataFrame(
        {"lfc_mean": [1.0, 2.0], "proba_de": 1.0, "is_de_fdr": True, "comparison": ["A", "B"]}
    )
    with pytest.raises(ValueError, match="2 comparisons"):
        vaeppl.plots.volcano(two)
