"""Pictures of quantile residuals and of power-scaling."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from vaeppl import plots
from vaeppl.reading.pit import PITReport


def report(pit):
    names = pd.Index([f"x[{i}]" for i in range(pit.shape[1])], name="entry")
    return PITReport(pit, norm.ppf(pit), pd.DataFrame({"mean": 0.0}, index=names))


def test_quantile_residuals_count_the_entries_that_leave_the_band():
    rng = np.random.default_rng(0)
    uniform, wide = rng.random((500, 3)), norm.cdf(3 * rng.normal(size=(500, 1)))
    pit = np.hstack([uniform, wide])
    pit[::7, 0] = np.nan  # missing entries are left out
    ax = plots.quantile_residuals(report(pit), most=2)
    assert ax.get_title() == "Quantile residuals: 1 of 4 entries leave the 95 % band"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(labels) == 2 and labels[0] == "x[3]"
    heights = [line.get_ydata() for line in ax.get_lines()]
    assert max(np.abs(h).max() for h in heights) > 0.1


def test_quantile_residuals_of_entries_that_are_all_missing():
    ax = plots.quantile_residuals(report(np.full((10, 2), np.nan)))
    assert "0 of 0 entries" in ax.get_title()


def test_prior_sensitivity_marks_a_conflict():
    index = pd.MultiIndex.from_tuples([("z", 0), ("z", 1)], names=["site", "dimension"])
    table = pd.DataFrame({"prior": [0.2, 0.01], "likelihood": [0.3, np.nan]}, index=index)
    ax = plots.prior_sensitivity(table)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["z[0]", "z[1]"]
    ring = next(line for line in ax.get_lines() if "conflict" in line.get_label())
    assert ring.get_xdata() == pytest.approx([0.2])
    assert plots.prior_sensitivity(table, ax=ax) is ax
