"""Estimators compared: bias against variance, signal-to-noise against particles, curves."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from ._series import MARKERS, handles_of, legend_beside, log_scale, series_of, words_of_legend
from ._style import COLOURS, GREY, axes_for, label_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "bias_variance",
    "estimator_curves",
    "evidence_gaps",
    "save_comparison",
    "signal_to_noise",
]


def bias_variance(comparison: Any, ax: Axes | None = None, *, group: str = "model") -> Axes:
    """Draw each estimator's gradient: variance across, bias up, both on a log scale.

    A colour is an estimator, and a sign a number of particles where there are several. What lies
    below the noise of the repeats is drawn at it, hollow. For the guide the bias is the distance
    from the ELBO's gradient, which another objective is not meant to follow.

    Parameters
    ----------
    comparison : FrozenComparison
        From ``vaeppl.compare_estimators(..., mode="frozen")``.
    ax
        Where to draw; a new figure if ``None``.
    group
        ``"model"`` or ``"guide"``: whose parameters.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(50, 6) < 0.5).float()
    >>> found = vaeppl.compare_estimators(VAE(6, 2, hidden=(4,)), {"x": x}, repeats=5)
    >>> bias_variance(found).get_xscale()
    'log'
    """
    table = _of_group(comparison, group)
    ax = axes_for(ax, (7.2, 4.2))
    series = series_of(table.index)
    several = any(s.particles for s in series.values())
    # Those that lie on each other are all to be seen: the later, the smaller.
    sizes = np.linspace(11.0, max(4.0, 12.0 - len(table)), len(table))
    at = []
    for size, (label, line) in zip(sizes, table.iterrows(), strict=True):
        variance, bias, noise = (line[f"{group}_{c}"] for c in ("variance", "bias", "bias_se"))
        seen, one = bias > noise, series[str(label)]
        at.append((max(variance, 1e-12), bias if seen else noise))
        sign = one.of_particles if several else one.number
        ax.plot(
            *at[-1],
            MARKERS[sign % len(MARKERS)],
            color=one.colour,
            mfc=one.colour if seen else "none",
            ms=size,
            label=label,
        )
    for which, values in zip("xy", zip(*at, strict=True), strict=False):
        log_scale(ax, which, values)
    aim = "log p(x)" if group == "model" else "the ELBO"
    label_axes(
        ax,
        f"variance of a gradient, {group}",
        f"distance from the gradient of {aim}, relative",
        f"Gradients of the {group}: hollow, within the noise of the repeats",
    )
    legend_beside(ax, handles_of(series.values(), points=True))
    return ax


def evidence_gaps(comparison: Any, ax: Axes | None = None) -> Axes:
    """Draw how far each estimator's value lies below the evidence, with two standard errors.

    Parameters
    ----------
    comparison : FrozenComparison
        From ``vaeppl.compare_estimators(..., mode="frozen")``.
    ax
        Where to draw; a new figure if ``None``.

    Returns
    -------
    matplotlib.axes.Axes
    """
    table = comparison.table[comparison.table["reason"] == ""]
    ax = axes_for(ax, (6.0, 0.32 * len(table) + 1.2))
    places = np.arange(len(table))[::-1]
    ax.errorbar(table["gap"], places, xerr=2 * table["gap_se"], fmt="o", color=COLOURS[0])
    ax.axvline(0, color=GREY, lw=1)
    ax.set_yticks(places, table.index)
    title = "Gap to the evidence; bars: two standard errors each way"
    label_axes(ax, "log p(x) less the value (nats per row)", "", title)
    return ax


def signal_to_noise(comparison: Any, ax: Axes | None = None, *, group: str = "guide") -> Axes:
    """Draw the signal-to-noise ratio of gradients against the number of particles.

    Dotted lines rise as √K and fall as 1/√K, as theory has it for DReG and for the guide of IWAE
    (Rainforth et al. 2018, figure 2; Tucker et al. 2019). A ratio of 0 is a hollow mark at the
    lower edge; where there is none that is finite, the legend says so.

    Parameters
    ----------
    comparison : FrozenComparison
        Of several numbers of particles: ``compare_estimators(..., num_particles=[1, 4, 16])``.
    ax
        Where to draw; a new figure if ``None``.
    group
        ``"model"`` or ``"guide"``.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If there is one number of particles only.
    """
    table = _of_group(comparison, group)
    names = [str(label).rsplit(", K=", 1)[0] for label in table.index]
    counts = sorted(table["num_particles"].unique())
    if len(counts) < 2:
        raise ValueError(
            "there is one number of particles only: compare_estimators(..., num_particles=[1, 8])"
        )
    ax = axes_for(ax, (7.2, 4.2))
    ratios = table[f"{group}_snr"].to_numpy(dtype=float)
    _guide_lines(ax, np.array(counts, dtype=float), ratios)
    handles, without, zero = [], [], False
    for number, name in enumerate(dict.fromkeys(names)):
        mine = table[[n == name for n in names]].sort_values("num_particles")
        k, ratio = mine["num_particles"].to_numpy(), mine[f"{group}_snr"].to_numpy(dtype=float)
        sign: dict[str, Any] = {"marker": MARKERS[number % len(MARKERS)]}
        sign["color"] = COLOURS[number % len(COLOURS)]
        above = np.where(np.isfinite(ratio) & (ratio > 0), ratio, np.nan)
        (line,) = ax.plot(k, above, label=name, **sign)
        if (ratio == 0).any():
            zero = True
            edge: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "clip_on": False}
            edge |= {"ls": "none", "mfc": "white", "zorder": 3}
            ax.plot(k[ratio == 0], 0 * k[ratio == 0], label=f"{name}: 0", **sign, **edge)
        if not np.isfinite(ratio).any():
            without.append(name)
            continue
        handles.append(line)
        without += [f"{name}, K = {n}" for n in k[~np.isfinite(ratio)]]
    if zero:
        handles.append(Line2D([], [], ls="none", marker="o", mfc="white", color=GREY))
        handles[-1].set_label("hollow, at the edge: 0")
    if without:
        handles += [words_of_legend(text) for text in ("no finite ratio:", *without)]
    ax.set_xscale("log", base=2)
    ax.set_xticks(counts, [f"{k:g}" for k in counts])
    ax.minorticks_off()
    label_axes(ax, "particles K", f"signal-to-noise, {group}", "Dotted: as √K, and as 1/√K")
    legend_beside(ax, handles)
    return ax


def _guide_lines(ax: Axes, k: np.ndarray, ratios: np.ndarray) -> None:
    """Draw √K and 1/√K through the middle of the points, within the range of the points."""
    log_scale(ax, "y", ratios)
    there = ratios[np.isfinite(ratios) & (ratios > 0)]
    if not len(there):
        return
    middle = float(np.exp(np.log(there).mean()))
    for power in (0.5, -0.5):
        heights = middle * (k / np.sqrt(k[0] * k[-1])) ** power
        ax.plot(k, heights, ":", color=GREY, lw=1, scaley=False)


def estimator_curves(comparison: Any, ax: Axes | None = None, *, against: str = "step") -> Axes:
    """Draw the held-out evidence of each estimator's fits, with a band over the seeds.

    A colour is an estimator, and a line style a number of particles where there are several.

    Parameters
    ----------
    comparison : TrainedComparison
        From ``vaeppl.compare_estimators(..., mode="trained")``.
    ax
        Where to draw; a new figure if ``None``.
    against
        ``"step"``, ``"epoch"`` or ``"seconds"`` (of training, the mean over the seeds).

    Returns
    -------
    matplotlib.axes.Axes
    """
    if against not in ("step", "epoch", "seconds"):
        raise ValueError(f"against is 'step', 'epoch' or 'seconds'; given {against!r}")
    curves = comparison.curves
    if not len(curves):
        raise ValueError("no fit came through, so there is no curve to draw")
    ax = axes_for(ax, (7.6, 4.2))
    heights, bands = [], False
    there = [label for label in comparison.table.index if (curves["estimator"] == label).any()]
    series = series_of(there)
    for label, one in series.items():
        mine = curves[curves["estimator"] == label].groupby("epoch")
        x, y = mine[against].mean(), mine["evidence"]
        ax.plot(x, y.mean(), color=one.colour, ls=one.line, label=label, lw=1.5)
        if y.count().max() > 1:
            bands = True
            faint = min(0.15, 0.6 / len(series))  # many bands on each other hide the lines
            ax.fill_between(x, y.min(), y.max(), color=one.colour, alpha=faint, lw=0)
        heights.append(y.mean().to_numpy())
    settled = np.concatenate([h[len(h) // 4 :] for h in heights])
    top = max(float(np.nanmax(h)) for h in heights)
    bottom = float(np.nanmin(settled))
    margin = 0.05 * (top - bottom) or 1.0
    ax.set_ylim(bottom - margin, top + margin)
    label_axes(
        ax,
        "seconds of training" if against == "seconds" else against,
        "held-out bound, nats per row",
        "Mean over seeds; band: their range" if bands else "One seed of each estimator",
    )
    legend_beside(ax, handles_of(series.values(), points=False))
    return ax


def save_comparison(comparison: Any, folder: str | Path) -> list[Path]:
    """Draw all pictures of a comparison into a folder.

    Returns
    -------
    list of Path
        The files.
    """
    if hasattr(comparison, "curves"):
        if not len(comparison.curves):
            return []
        drawn = {
            "curves_by_step": lambda: estimator_curves(comparison),
            "curves_by_seconds": lambda: estimator_curves(comparison, against="seconds"),
        }
    else:
        groups = [g for g in ("model", "guide") if comparison.table[f"{g}_snr"].notna().any()]
        known = comparison.table["gap"].notna().any()
        drawn = {"gaps": lambda: evidence_gaps(comparison)} if known else {}
        drawn |= {f"bias_variance_{g}": partial(bias_variance, comparison, group=g) for g in groups}
        if comparison.table["num_particles"].nunique() > 1:
            of = partial(signal_to_noise, comparison)
            drawn |= {f"signal_to_noise_{g}": partial(of, group=g) for g in groups}
    paths = []
    for name, draw in drawn.items():
        figure: Any = draw().figure
        path = Path(folder) / f"{name}.png"
        figure.savefig(path, dpi=150)
        plt.close(figure)
        paths.append(path)
    return paths


def _of_group(comparison: Any, group: str) -> Any:
    """Return the lines that have gradients of a group."""
    table = comparison.table
    if f"{group}_snr" not in table or table[f"{group}_snr"].isna().all():
        told = [c for c in table.columns if c.endswith("_snr") and table[c].notna().any()]
        known = [c[: -len("_snr")] for c in told]
        raise ValueError(f"there are gradients of {', '.join(known) or 'none'}; given {group!r}")
    return table[table["reason"] == ""]
