"""Estimators in one picture: a colour each, a second sign for the particles, a legend beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from ._style import COLOURS, GREY

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = [
    "MARKERS",
    "Series",
    "handles_of",
    "legend_beside",
    "log_scale",
    "series_of",
    "words_of_legend",
]

MARKERS = "osD^vP*Xphd<>"
# From the fewest particles to the most, which are drawn through.
LINES: Sequence[Any] = ((0, (1, 4)), (0, (4, 1, 1, 1, 1, 1)), ":", "-.", "--", "-")
LEAST_SPAN = 5.0  # a range that always has two numbers of 1, 2 and 5 times a power of ten


@dataclass(frozen=True)
class Series:
    """How an estimator with so many particles is drawn.

    Attributes
    ----------
    name, particles : str
        The estimator, and ``"K = 8"``; the latter is empty where all have one number.
    colour : str
        Of the estimator.
    number, of_particles : int
        Which estimator it is, and which number of particles, the fewest first.
    line : object
        Line style of the number of particles.
    """

    name: str
    particles: str
    colour: str
    number: int
    of_particles: int
    line: Any


def series_of(labels: Iterable[Any]) -> dict[str, Series]:
    """Return how each line of a comparison is drawn, by its label.

    Examples
    --------
    >>> found = series_of(["elbo, K=1", "elbo, K=8", "iwae, K=8"])
    >>> [(s.number, s.particles, s.line) for s in found.values()]
    [(0, 'K = 1', '--'), (0, 'K = 8', '-'), (1, 'K = 8', '-')]
    """
    split = {str(label): _split(str(label)) for label in labels}
    names = list(dict.fromkeys(name for name, _ in split.values()))
    counts = sorted({count for _, count in split.values()})
    lines = LINES[-len(counts) :] if len(counts) <= len(LINES) else ["-"] * len(counts)
    found = {}
    for label, (name, count) in split.items():
        number, place = names.index(name), counts.index(count)
        particles = f"K = {count}" if count else ""
        colour = COLOURS[number % len(COLOURS)]
        found[label] = Series(name, particles, colour, number, place, lines[place])
    return found


def _split(label: str) -> tuple[str, int]:
    """Return estimator and particles of a label; 0 where it does not say."""
    name, _, count = label.rpartition(", K=")
    return (name, int(count)) if name and count.isdigit() else (label, 0)


def handles_of(drawn: Iterable[Series], *, points: bool) -> list[Line2D]:
    """Return the lines of a legend: one for each estimator, and one for each number of particles.

    Parameters
    ----------
    drawn
        What is in the picture.
    points
        Whether points are drawn, or lines.
    """
    drawn = list(drawn)
    several = any(s.particles for s in drawn)

    def handle(s: Series, colour: str, label: str, marker: str) -> Line2D:
        if points:
            return Line2D([], [], ls="none", marker=marker, color=colour, label=label)
        return Line2D([], [], ls=s.line if colour == GREY else "-", color=colour, label=label)

    by_name = {s.name: s for s in reversed(drawn)}
    found = [
        handle(s, s.colour, name, "o" if several else MARKERS[s.number % len(MARKERS)])
        for name, s in sorted(by_name.items(), key=lambda item: item[1].number)
    ]
    by_count = {s.particles: s for s in drawn if s.particles}
    found += [
        handle(s, GREY, particles, MARKERS[s.of_particles % len(MARKERS)])
        for particles, s in sorted(by_count.items(), key=lambda item: item[1].of_particles)
    ]
    return found


def legend_beside(ax: Axes, handles: Sequence[Artist]) -> None:
    """Put a legend to the right of the axes, so that no sign of it lies among the points."""
    ax.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
        frameon=False,
        fontsize="small",
    )


def words_of_legend(text: str) -> Line2D:
    """Return a line of a legend that has words and no sign."""
    return Line2D([], [], linestyle="none", label=text)


def log_scale(ax: Axes, which: str, values: Any) -> None:
    """Make an axis logarithmic about positive values, with ticks that are few and plain numbers.

    Two ticks at least, also where all values are the same; and no more than have room.

    Parameters
    ----------
    ax
        Where.
    which
        ``"x"`` or ``"y"``.
    values
        What it has to hold; those that are not finite, or not above 0, are left out.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> ax = plt.figure().add_subplot()
    >>> log_scale(ax, "y", [0.3, 0.3])
    >>> [float(t) for t in ax.get_yticks() if ax.get_ylim()[0] < t < ax.get_ylim()[1]]
    [0.2, 0.5]
    """
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values) & (values > 0)]
    low, high = (values.min(), values.max()) if len(values) else (1.0, 1.0)
    span = max(1.15 * float(np.log10(high) - np.log10(low)), float(np.log10(LEAST_SPAN)))
    middle = (np.log10(low) + np.log10(high)) / 2
    ax.set(**{f"{which}scale": "log"})
    ax.set(**{f"{which}lim": (10 ** (middle - span / 2), 10 ** (middle + span / 2))})
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if span < 2 else (1.0,), numticks=7))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
