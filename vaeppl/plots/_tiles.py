"""Pictures laid out as tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import torch

from ._rows import to_array
from ._style import axes_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALLEST_TILE = 32  # pixels along the longer side of a picture among others


def as_pictures(values: torch.Tensor, shape: tuple[int, int]) -> np.ndarray:
    """Return values as pictures ``(N, height, width)``."""
    flat = to_array(values).reshape(len(values), -1)
    if flat.shape[1] != shape[0] * shape[1]:
        raise ValueError(
            f"a row has {flat.shape[1]} entries, which are no picture of {shape[0]} × {shape[1]}"
        )
    return flat.reshape(-1, *shape)


def lay_tiles(ax: Axes | None, pictures: np.ndarray, across: int, cmap: str) -> Axes:
    """Lay pictures out as tiles, row by row, on one scale of grey; a tile is 1 × 1 on the axes."""
    zoom = -(-SMALLEST_TILE // max(pictures.shape[1:]))  # small pictures get thin seams too
    pictures = pictures.repeat(zoom, axis=1).repeat(zoom, axis=2)
    count, height, width = pictures.shape
    down = -(-count // across)
    canvas = np.full((down * (height + 1), across * (width + 1)), np.nan)
    for number, picture in enumerate(pictures):
        top, left = (number // across) * (height + 1), (number % across) * (width + 1)
        canvas[top : top + height, left : left + width] = picture
    if ax is None:
        ax = axes_for(None, _size_of(canvas.shape))
    ax.spines[:].set_visible(False)
    colours = matplotlib.colormaps[cmap].with_extremes(bad="white")
    shape: dict[str, Any] = {"extent": (0, across, down, 0), "aspect": height / width}
    ax.imshow(canvas, cmap=colours, interpolation="nearest", **shape)
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def _size_of(canvas: tuple[int, ...]) -> tuple[float, float]:
    """Return a figure size for a picture: at most 7 inches wide and high."""
    height, width = canvas
    inch = 6.0 / max(height, width)
    return max(2.0, width * inch) + 0.6, max(1.0, height * inch) + 0.6
