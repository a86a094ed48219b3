"""Whether entries lie where the story says, and what the posteriors hang on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..reading.sensitivity import THRESHOLD
from ._style import BLUE, GREY, ORANGE, RED, axes_for, label_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["prior_sensitivity", "quantile_residuals"]


def quantile_residuals(report: Any, ax: Axes | None = None, *, most: int = 6) -> Axes:
    """Draw how far the pit of each entry is from uniform: its distribution less that of U(0, 1).

    A line for each entry, those that stray farthest in colour. Where the story is true, a line
    keeps within the band with probability 0.95 (Kolmogorov-Smirnov). Above the band on the left
    and below it on the right: the story is too sure; the other way round: too vague; on one side
    throughout: off.

    Parameters
    ----------
    report : PITReport
        From :func:`vaeppl.quantile_residuals`.
    ax
        Where to draw; a new figure if ``None``.
    most
        Entries in colour, with their names.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> data = {"x": torch.randn(50, 4)}
    >>> story = VAE(4, 2, likelihood="normal", hidden=(4,))
    >>> ax = quantile_residuals(vaeppl.quantile_residuals(story, data, num_particles=50))
    >>> ax.get_xlabel()
    'pit'
    """
    from scipy.stats import kstwo

    pit = report.pit.reshape(len(report.pit), -1)
    lines = {}
    for name, values in zip(map(str, report.table.index), pit.T, strict=True):
        seen = np.sort(values[np.isfinite(values)])
        if len(seen):
            lines[name] = seen, np.arange(1, len(seen) + 1) / len(seen) - seen
    ax = axes_for(ax, (5.6, 3.6))
    fewest = min((len(seen) for seen, _ in lines.values()), default=1)
    reach = float(kstwo.ppf(0.95, fewest))
    ax.axhspan(-reach, reach, color=GREY, alpha=0.25, lw=0)
    farthest = sorted(lines, key=lambda name: -np.abs(lines[name][1]).max())
    for name in farthest[most:]:
        ax.step(*lines[name], where="post", color="0.7", lw=0.6)
    for name in farthest[:most][::-1]:
        ax.step(*lines[name], where="post", lw=1.3, label=name)
    ax.axhline(0, color="black", lw=0.8)
    ax.set_xlim(0, 1)
    out = sum(np.abs(away).max() > reach for _, away in lines.values())
    title = f"Quantile residuals: {out} of {len(lines)} entries leave the 95 % band"
    label_axes(ax, "pit", "share below, less pit", title)
    handles, labels = ax.get_legend_handles_labels()
    if labels:
        ax.legend(handles[::-1], labels[::-1], frameon=False, fontsize=8)
    return ax


def prior_sensitivity(table: Any, ax: Axes | None = None) -> Axes:
    """Draw the sensitivity of each latent dimension to the prior and to the likelihood.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`vaeppl.prior_sensitivity`.
    ax
        Where to draw; a new figure if ``None``.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> data = {"x": (torch.rand(20, 6) < 0.5).float()}
    >>> story = VAE(6, 2, hidden=(4,))
    >>> ax = prior_sensitivity(vaeppl.prior_sensitivity(story, data, num_particles=50))
    >>> len(ax.get_yticks())
    2
    """
    ax = axes_for(ax, (5.6, 1.2 + 0.28 * len(table)))
    heights = np.arange(len(table))[::-1]
    prior, likelihood = (table[name].to_numpy(dtype=float) for name in ("prior", "likelihood"))
    conflict = (prior >= THRESHOLD) & (likelihood >= THRESHOLD)
    ax.hlines(heights, np.fmin(prior, likelihood), np.fmax(prior, likelihood), color="0.85")
    ax.plot(prior, heights, "o", color=ORANGE, label="to the prior")
    ax.plot(likelihood, heights, "s", color=BLUE, label="to the likelihood")
    if conflict.any():
        ax.plot(
            *(prior[conflict], heights[conflict], "o"),
            mfc="none",
            color=RED,
            ms=11,
            label="both: prior and data in conflict",
        )
    ax.axvline(THRESHOLD, color="black", lw=1, ls="--")
    ax.set_yticks(heights, [_named(index) for index in table.index])
    ax.set_ylim(-0.6, len(table) - 0.4)
    ax.set_xlim(left=0)
    label_axes(ax, "sensitivity to a power of the density", "", "Power-scaling")
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def _named(index: Any) -> str:
    if isinstance(index, tuple):
        return f"{index[0]}[{', '.join(map(str, index[1:]))}]"
    return str(index)
