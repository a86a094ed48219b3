"""Rows that are no pictures, drawn against the data: histograms, points, or strips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data import Data
from ..pair import Pair
from ._rows import some_index
from ._style import BLUE, MOST_POINTS, label_axes, tick_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_COLUMNS = 20  # columns that stand side by side in one picture


def compare_columns(
    ax: Axes, draws: np.ndarray, observed: np.ndarray | None, rows: Data | None, column: str
) -> Axes:
    """Compare columns of draws with those of the data, in the form that their number suggests."""
    draws = draws.reshape(len(draws), -1)
    sets = {"story": (draws, BLUE)}
    if observed is not None:
        sets = {"data": (observed.reshape(len(observed), -1), "0.55"), **sets}
    fields = [f.name for f in rows.fields(column)] if rows is not None else []
    names = fields or [f"{column}[{i}]" for i in range(draws.shape[1])]
    if draws.shape[1] == 1:
        _histograms(ax, sets, names[0])
    elif draws.shape[1] == 2:
        _clouds(ax, sets, names)
    else:
        _strips(ax, sets, names)
    ax.set_title(f"Samples of {column}", fontsize="medium", loc="left")
    above: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderpad": 0.1}
    ax.legend(frameon=False, ncols=2, markerscale=2 if draws.shape[1] == 2 else 1, **above)
    return ax


def _histograms(ax: Axes, sets: dict[str, tuple[np.ndarray, str]], name: str) -> None:
    pooled = np.concatenate([values for values, _ in sets.values()])
    edges = np.histogram_bin_edges(pooled[np.isfinite(pooled)], bins=40).tolist()
    for label, (values, colour) in sets.items():
        ax.hist(
            values[np.isfinite(values)], edges, density=True, color=colour, alpha=0.5, label=label
        )
    ax.set_xlabel(name)
    ax.set_ylabel("density")


def _clouds(ax: Axes, sets: dict[str, tuple[np.ndarray, str]], names: Sequence[str]) -> None:
    for label, (values, colour) in sets.items():
        ax.scatter(
            values[:, 0], values[:, 1], s=6, color=colour, alpha=0.6, linewidths=0, label=label
        )
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])


def _strips(ax: Axes, sets: dict[str, tuple[np.ndarray, str]], names: Sequence[str]) -> None:
    """Draw median, quartiles and 90% interval of each column, in units of the first set's sd."""
    first = next(iter(sets.values()))[0][:, :MOST_COLUMNS]
    centre, sd = _centre_and_sd(first)
    for number, (label, (values, colour)) in enumerate(sets.items()):
        scaled = (values[:, :MOST_COLUMNS] - centre) / sd
        low, lower, middle, upper, high = np.nanquantile(scaled, [0.05, 0.25, 0.5, 0.75, 0.95], 0)
        at = np.arange(len(centre)) + 0.24 * (number - (len(sets) - 1) / 2)
        ax.vlines(at, low, high, color=colour, lw=1)
        ax.vlines(at, lower, upper, color=colour, lw=4)
        ax.plot(at, middle, "o", ms=5, color="white", mec=colour, label=label)
    tick_names(ax, names[:MOST_COLUMNS])
    ax.set_ylabel("sd from the mean of the data" if len(sets) > 1 else "sd from the mean")
    if len(names) > MOST_COLUMNS:
        ax.set_xlabel(f"first {MOST_COLUMNS} of {len(names)} columns")


def draw_against(ax: Axes, data: np.ndarray, made: np.ndarray, pair: Pair, column: str) -> Axes:
    """Draw reconstructed against observed entries, several columns in units of their own sd."""
    x, y = data.reshape(len(data), -1), made.reshape(len(made), -1)
    unit = ""
    if x.shape[1] > 1:
        centre, sd = _centre_and_sd(x)
        x, y, unit = (x - centre) / sd, (y - centre) / sd, " (sd from the mean of the data)"
    there = np.isfinite(x) & np.isfinite(y)
    index = some_index(int(there.sum()), MOST_POINTS, 0)
    x, y = x[there][index], y[there][index]
    ax.scatter(x, y, s=6, alpha=0.4, color=BLUE, linewidths=0)
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    ax.plot(ends, ends, color="0.4", lw=1, ls="--", label="data = model")
    title = f"Reconstructions of {column} by {pair.name}"
    label_axes(ax, f"data{unit}", f"model{unit}", title)
    ax.legend(frameon=False, loc="upper left")
    return ax


def _centre_and_sd(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each column, which is 1 where nothing varies."""
    sd = np.nanstd(values, 0)
    return np.nanmean(values, 0), np.where(sd > 0, sd, 1.0)
