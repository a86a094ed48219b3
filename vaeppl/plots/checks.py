"""Where a fit fails: the evidence of the rows, and predictive checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..reading import criticism
from ._rows import rows_of
from ._style import BLUE, ORANGE, RED, axes_for, label_axes, write_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["evidence", "posterior_predictive_check"]

FARTHEST = 5.0  # standard deviations that a predictive check shows


def evidence(report: Any, ax: Axes | None = None, *, bins: int = 40) -> Axes:
    """Draw the evidence of the rows, log p(x_n) in nats, and how far the estimates can be trusted.

    Parameters
    ----------
    report : EvidenceReport or Fit
        What :func:`vaeppl.evidence` returned, or a fit that holds its data.
    ax
        Where to draw; a new figure if ``None``.
    bins
        Bars of the histogram.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> report = vaeppl.evidence(VAE(6, 2, hidden=(4,)), {"x": x}, num_particles=50)
    >>> evidence(report).get_xlabel()
    'log p(x) of a row (nats)'
    """
    report = report.evidence() if hasattr(report, "pair") else report
    finite = report.rows[np.isfinite(report.rows["log_evidence"])]
    values, k = (finite[name].to_numpy(dtype=float) for name in ("log_evidence", "pareto_k"))
    groups = {"Pareto k ≤ 0.7": k <= 0.7, "Pareto k > 0.7, unreliable": k > 0.7}
    groups["Pareto k unknown"] = np.isnan(k)
    ax = axes_for(ax, (6.0, 3.8))
    there = {f"{name}: {in_it.sum()} rows": values[in_it] for name, in_it in groups.items()}
    colours = [c for c, g in zip((BLUE, ORANGE, "0.75"), there.values(), strict=True) if len(g)]
    there = {name: group for name, group in there.items() if len(group)}
    ax.hist(list(there.values()), bins, stacked=True, color=colours, label=list(there))
    mean = f"mean {report.mean:.2f} ± {report.se:.2f}"
    ax.axvline(report.mean, color="black", lw=1, ls="--", label=mean)
    title = f"Evidence of {len(report.rows)} rows, {report.num_particles} particles each"
    label_axes(ax, "log p(x) of a row (nats)", "rows", title)
    ax.legend(frameon=False)
    return ax


def posterior_predictive_check(
    source: Any, data: Any = None, ax: Axes | None = None, **options: Any
) -> Axes:
    """Draw statistics of replicated data sets, and where the data stand among them.

    Each statistic has a line: the histogram of T(x̃), centred and scaled by its own mean and
    standard deviation over replications; T(x) as a point; and the p-value Pr(T(x̃) >= T(x)).

    Parameters
    ----------
    source : PPCReport or Fit
        What :func:`vaeppl.posterior_predictive_check` returned; or a fit, for which it is called.
    data
        Rows to compare with; those fitted if ``None``.
    ax
        Where to draw; a new figure if ``None``.
    **options
        Of :func:`vaeppl.posterior_predictive_check`, where ``source`` is a fit.

    Returns
    -------
    matplotlib.axes.Axes

    References
    ----------
    Gelman, Meng and Stern (1996), "Posterior predictive assessment of model fitness via realized
    discrepancies", Statistica Sinica 6.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> ax = posterior_predictive_check(VAE(6, 2, hidden=(4,)), {"x": x}, num_samples=20)
    >>> len(ax.get_yticks()) == 4
    True
    """
    report = source
    if not isinstance(source, criticism.PPCReport):
        rows = rows_of(source, data)
        report = criticism.posterior_predictive_check(source, rows, **options)
    table = report.table
    ax = axes_for(ax, (6.8, 0.8 + 0.55 * len(table)))
    for height, (_, line) in enumerate(table.iloc[::-1].iterrows()):
        _draw_statistic(ax, height, report.draws[line.statistic], line)
    ax.set_yticks(range(len(table)), [_with_value(line) for _, line in table[::-1].iterrows()])
    ax.set_xlim(-FARTHEST - 0.4, FARTHEST + 0.4)
    ax.set_ylim(-0.4, len(table) + 0.1)
    ax.tick_params(axis="y", length=0)
    title = f"{report.kind.capitalize()} predictive check of {report.column!r}"
    label_axes(ax, "standard deviations from the mean of replications", "", title)
    ax.grid(axis="x", color="0.92")
    ax.set_axisbelow(True)
    return ax


def _draw_statistic(ax: Axes, height: int, draws: np.ndarray, line: Any) -> None:
    """Draw one line of a predictive check: histogram, the data's point, p-value."""
    place = _place(line)
    spread = line.sd if line.sd > 0 else 1.0
    scaled = np.clip((draws - line["mean"]) / spread, -FARTHEST, FARTHEST)
    counts, edges = np.histogram(scaled, bins=np.linspace(-FARTHEST, FARTHEST, 42))
    top = 0.75 * counts / counts.max()
    ax.stairs(height + top, edges, baseline=height, fill=True, color=BLUE, alpha=0.5, lw=0)
    ax.axhline(height, color="0.8", lw=0.8, zorder=0)
    beyond = abs(place) > FARTHEST
    marker = (">" if place > 0 else "<") if beyond else "o"
    colour = RED if min(line.p_value, 1 - line.p_value) < 0.05 else "black"
    x = float(np.clip(place, -FARTHEST, FARTHEST))
    ax.plot([x], [height], marker=marker, ms=7, color=colour, clip_on=False, zorder=3)
    far = f", {place:+.0f} sd" if beyond and np.isfinite(place) else ""
    write_beside(ax, height + 0.15, f"p = {line.p_value:.2f}{far}", colour)


def _place(line: Any) -> float:
    """Return how many standard deviations of the replications the data are from their mean."""
    distance = float(line.observed - line["mean"])
    if line.sd > 0:
        return distance / float(line.sd)
    return float(np.sign(distance)) * np.inf if distance else 0.0


def _with_value(line: Any) -> str:
    return f"{line.statistic}\ndata: {line.observed:.4g}"
