"""What the pictures share: colours, axes and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Ten colours that stay apart for colour-blind readers (Petroff 2021, arXiv:2107.02270).
COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
BLUE, ORANGE, RED, PURPLE, GREY = (COLOURS[i] for i in (0, 1, 2, 4, 8))
MOST_POINTS = 5000  # points of a scatter plot


def axes_for(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the axes given, or those of a new figure; without a frame above and at the right."""
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def label_axes(ax: Axes, x: str, y: str, title: str) -> None:
    """Name both axes and the picture."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_title(title, fontsize="medium")


def write_beside(ax: Axes, height: float, text: str, colour: str) -> None:
    """Write at a height to the right of the axes."""
    ax.annotate(
        text, (1.01, height), xycoords=("axes fraction", "data"), va="center", color=colour,
        fontsize="small",
    )  # fmt: skip


def tick_names(ax: Axes, names: Sequence[str], most: int = 30) -> None:
    """Label positions 0, 1, ... on the x axis, or every so many of them."""
    step = -(-len(names) // most)
    crowded = sum(map(len, names[::step])) > 70
    ax.set_xticks(range(0, len(names), step), names[::step])
    if crowded:
        ax.tick_params(axis="x", labelrotation=90)
