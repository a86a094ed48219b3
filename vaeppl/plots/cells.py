"""Counts of single cells: zeros, mean and variance against the story, and differential genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import unknown_name
from ..singlecell.checks import CountsCheck, predictive_check
from ._style import BLUE, GREY, ORANGE, RED, axes_for, label_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["mean_variance", "volcano", "zero_fractions"]

NAME_ROOM = 0.035  # of the width, between the names of two genes
MOST_NAMES = 10  # genes that are named in a picture


def zero_fractions(
    source: Any, data: Any = None, ax: Axes | None = None, *, over: str = "genes", **options: Any
) -> Axes:
    """Draw the share of zeros of each gene, or cell, against that of replicated counts.

    Points on the diagonal are as the story has them; those outside the 90% interval of the
    replications are orange.

    Parameters
    ----------
    source : CountsCheck or Fit
        What :func:`vaeppl.singlecell.predictive_check` returned, or a fit, for which it is called.
    data
        Cells, where ``source`` is a fit; those that were fitted if ``None``.
    ax
        Where to draw; a new figure if ``None``.
    over
        ``"genes"`` or ``"cells"``.
    **options
        Of :func:`vaeppl.singlecell.predictive_check`.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import SCVI
    >>> ax = zero_fractions(SCVI(6, 2, hidden=(4,)), {"x": torch.eye(6)}, num_samples=5)
    >>> ax.get_xlabel()
    'share of zeros, data'
    """
    if over not in ("genes", "cells"):
        raise ValueError(unknown_name("over", over, ["genes", "cells"]))
    table = getattr(_check_of(source, data, options), over)
    ax = axes_for(ax, (4.6, 4.4))
    outside = ((table.zeros < table.zeros_lower) | (table.zeros > table.zeros_upper)).to_numpy()
    for rows, colour, name in ((~outside, BLUE, "inside"), (outside, ORANGE, "outside")):
        label = f"{name} the 90% interval: {rows.sum()}"
        part = table[rows]
        ax.scatter(part.zeros, part.zeros_rep, s=9, alpha=0.7, color=colour, lw=0, label=label)
    ax.plot([0, 1], [0, 1], color="0.4", lw=1, ls="--")
    label_axes(ax, "share of zeros, data", "replicated", f"Zeros of {len(table)} {over}")
    ax.legend(frameon=False, loc="upper left", fontsize="small")
    return ax


def mean_variance(source: Any, data: Any = None, ax: Axes | None = None, **options: Any) -> Axes:
    """Draw variance against mean of each gene, those of the data and of replicated counts.

    Parameters
    ----------
    source, data, ax, **options
        As in :func:`zero_fractions`.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import SCVI
    >>> ax = mean_variance(SCVI(6, 2, hidden=(4,)), {"x": 3 * torch.eye(6)}, num_samples=5)
    >>> ax.get_xscale()
    'log'
    """
    genes = _check_of(source, data, options).genes
    ax = axes_for(ax, (5.0, 4.4))
    seen = genes[(genes["mean"] > 0) & (genes["variance"] > 0)]
    bars: dict[str, Any] = {"color": BLUE, "alpha": 0.45, "lw": 1.2}
    there = (seen.mean_rep > 0) & (seen.variance_upper > 0)
    drawn = seen[there]
    floor = float(seen["variance"].min()) / 10
    ax.vlines(
        drawn.mean_rep, np.maximum(drawn.variance_lower, floor), drawn.variance_upper, **bars,
        label="replicated, 90% interval",
    )  # fmt: skip
    ax.scatter(seen["mean"], seen["variance"], s=7, color="black", lw=0, label="data", zorder=3)
    ends = np.array([seen["mean"].min(), seen["mean"].max()])
    ax.plot(ends, ends, color="0.4", lw=1, ls="--", label="Poisson")
    ax.set_xscale("log")
    ax.set_yscale("log")
    label_axes(ax, "mean count", "variance", f"Mean and variance of {len(seen)} genes")
    ax.legend(frameon=False, loc="upper left", fontsize="small")
    return ax


def volcano(
    table: Any, ax: Axes | None = None, *, names: int = MOST_NAMES, delta: float | None = None
) -> Axes:
    """Draw how sure it is that each gene differs, against by how much.

    Parameters
    ----------
    table : pandas.DataFrame
        What :func:`vaeppl.singlecell.differential_expression` returned, for one comparison.
    ax
        Where to draw; a new figure if ``None``.
    names
        So many of the genes that are called, those of the largest fold change, are named.
    delta
        The δ of the table, for two lines at ± δ.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"lfc_mean": [2.0, 0.1], "proba_de": [1.0, 0.2]}, ["A", "B"])
    >>> table["is_de_fdr"] = table["proba_de"] > 0.9
    >>> [text.get_text() for text in volcano(table).texts]
    ['A']
    """
    comparisons = table["comparison"].unique() if "comparison" in table else []
    if len(comparisons) > 1:
        raise ValueError(
            f"the table has {len(comparisons)} comparisons ({', '.join(comparisons[:3])}, ...): "
            f"give one, table[table.comparison == {comparisons[0]!r}]"
        )
    ax = axes_for(ax, (5.6, 4.2))
    called = table["is_de_fdr"].to_numpy(dtype=bool)
    for rows, colour, name in ((~called, "0.7", "not called"), (called, RED, "called")):
        part = table[rows]
        label = f"{name}: {len(part)}"
        ax.scatter(part.lfc_mean, part.proba_de, s=12, color=colour, lw=0, alpha=0.8, label=label)
    for gene, place in _apart(table[called], names):
        how: dict[str, Any] = {"rotation": 60, "rotation_mode": "anchor", "fontsize": "x-small"}
        ax.annotate(gene, place, xytext=(2, 4), textcoords="offset points", **how)
    for line in () if delta is None else (-delta, delta):
        ax.axvline(line, color=GREY, lw=0.8, ls=":")
    title = "Differential expression" + (f": {comparisons[0]}" if len(comparisons) else "")
    label_axes(ax, "log₂ fold change", "probability that the gene differs", title)
    ax.set_ylim(-0.03, 1.2)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.legend(frameon=False, loc="lower right", fontsize="small")
    return ax


def _apart(table: Any, most: int) -> list[tuple[str, tuple[float, float]]]:
    """Return the genes of the largest fold change with their places, none over another's name."""
    order = table["lfc_mean"].abs().sort_values(ascending=False).index
    named: list[tuple[str, tuple[float, float]]] = []
    room = NAME_ROOM * max(1e-9, float(np.ptp(table["lfc_mean"]))) if len(table) else 0.0
    for gene in order:
        x, y = float(table.loc[gene, "lfc_mean"]), float(table.loc[gene, "proba_de"])
        if all(abs(x - u) >= room for _, (u, _) in named):
            named.append((str(gene), (x, y)))
    return named[:most]


def _check_of(source: Any, data: Any, options: dict[str, Any]) -> CountsCheck:
    if isinstance(source, CountsCheck):
        return source
    return predictive_check(source, data, **options)
