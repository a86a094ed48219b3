"""How good a guide is: the gaps of its bound, and the ranks of its calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._style import BLUE, GREY, ORANGE, axes_for, label_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["inference_gaps", "rank_histogram"]


def inference_gaps(report: Any, ax: Axes | None = None, *, most: int = 100) -> Axes:
    """Draw the gap between evidence and ELBO of each row, in its two parts, the largest first.

    Parameters
    ----------
    report : GapReport
        From :func:`vaeppl.inference_gaps`.
    ax
        Where to draw; a new figure if ``None``.
    most
        Rows to draw; evenly spaced among all if there are more.

    Returns
    -------
    matplotlib.axes.Axes
    """
    rows = report.rows.sort_values("inference", ascending=False)
    rows = rows.iloc[np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)]
    ax = axes_for(ax, (6.4, 3.6))
    places = np.arange(len(rows))
    low = rows["approximation"].to_numpy()
    ax.bar(places, low, width=1.0, color=BLUE, label="approximation: the family of q")
    ax.bar(
        places,
        rows["amortisation"].to_numpy(),
        width=1.0,
        bottom=low,
        color=ORANGE,
        label="amortisation: the encoder",
    )
    ax.axhline(0, color=GREY, lw=1)
    label_axes(ax, "rows, largest gap first", "nats", "log p(x) less the ELBO")
    ax.legend(frameon=False)
    return ax


def rank_histogram(
    report: Any, site: str | None = None, dimension: int = 0, ax: Axes | None = None
) -> Axes:
    """Draw the ranks of a latent dimension, with the range that uniform ones would have.

    The band holds 95% of the counts of each bin, were the ranks uniform. A heap at both ends: q is
    too narrow; in the middle: too wide; on one side: off.

    Parameters
    ----------
    report : CalibrationReport
        From :func:`vaeppl.calibrate_guide`.
    site
        Which latent; the first if ``None``.
    dimension
        Which of its entries.
    ax
        Where to draw; a new figure if ``None``.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If there is no such latent, or no such dimension of it.
    """
    from scipy.stats import binom

    site = next(iter(report.ranks)) if site is None else site
    if site not in report.ranks:
        raise ValueError(f"there is no latent {site!r}; known: {', '.join(report.ranks)}")
    there = report.ranks[site].shape[1]
    if not 0 <= dimension < there:
        known = f"{there} dimensions, 0 to {there - 1}" if there > 1 else "1 dimension, 0"
        raise ValueError(f"latent {site!r} has {known}; given {dimension!r}")
    ranks = report.ranks[site][:, dimension]
    counts = report.histogram(ranks)
    ax = axes_for(ax, (5.0, 3.2))
    low, high = binom.interval(0.95, len(ranks), 1 / len(counts))
    edges = np.linspace(0, report.num_draws + 1, len(counts) + 1)
    words = "where 95% of counts lie if ranks are uniform"
    ax.axhspan(low, high, color=GREY, alpha=0.25, lw=0, label=words)
    ax.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=BLUE, edgecolor="white")
    label_axes(ax, f"rank among {report.num_draws} draws", "rows", "")
    ax.set_title(f"{site}[{dimension}]", fontsize="medium", loc="left")
    ax.legend(
        frameon=False,
        fontsize="small",
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        borderpad=0.1,
    )
    return ax
