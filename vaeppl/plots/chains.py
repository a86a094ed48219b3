"""Markov chains between data and latents, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data import Data
from ..errors import StoryError
from ..pair import as_pair
from ..reading.chains import Chain
from ..reading.chains import chain as draw_chain
from ._rows import drawn_column, image_shape_of, rows_of, some_rows
from ._tiles import as_pictures, lay_tiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["chain"]


def chain(
    fit: Any,
    data: Any = None,
    num: int = 3,
    ax: Axes | None = None,
    *,
    steps: int = 10,
    every: int = 1,
    mean: bool = True,
    column: str | None = None,
    image_shape: tuple[int, int] | None = None,
    seed: int = 0,
    cmap: str = "gray",
) -> Axes:
    """Draw chains that start at rows of the data: what was seen, and what was made of it.

    The lines of a chain are read together, column by column: x_t above, and below it x̃_t, what
    the guide saw of it, from which the next x above was drawn. Without corruption a chain has one
    line.

    Parameters
    ----------
    fit : Fit
        Or a model.
    data
        Rows to choose from; those fitted if ``None``.
    num
        Chains, from rows chosen at random.
    ax
        Where to draw; a new figure if ``None``.
    steps
        Steps of a chain (:func:`vaeppl.chain`).
    every
        Show one state of so many; the first is the row itself.
    mean
        Show E[x_t | z_t-1] rather than the draw of x_t, from which the chain goes on.
    column
        The column to show; the first that the story draws if ``None``.
    image_shape
        Height and width of a picture; those of the data if ``None``.
    seed
        Fixes the choice of rows, and the draws.
    cmap
        Colours of the pictures.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    StoryError
        If the column holds no pictures.

    References
    ----------
    Bengio, Yao, Alain and Vincent (2013), "Generalized denoising auto-encoders as generative
    models", figure 3.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import AutoEncoder
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> ae = AutoEncoder(6, 3, corruption="masking", hidden=(4,))
    >>> ax = chain(ae, {"x": x}, num=2, steps=4, image_shape=(2, 3))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['x', 'x̃', 'x', 'x̃']
    """
    if every < 1:
        raise ValueError(f"every is at least 1; given {every}")
    pair, rows = as_pair(fit), rows_of(fit, data)
    column = drawn_column(pair, rows, column)
    shape = image_shape or image_shape_of(rows, column)
    if shape is None:
        raise StoryError(
            f"column {column!r} holds no pictures, so a chain of it cannot be drawn: pass "
            "image_shape=(height, width), or read vaeppl.chain(...).states"
        )
    found = draw_chain(fit, some_rows(rows, num, seed), steps=steps, column=column, seed=seed)
    lines, names = _lines(found, every, mean)
    across = lines.shape[2]
    ax = lay_tiles(ax, as_pictures(lines.flatten(0, 2), shape), across, cmap)
    ax.set_yticks(np.arange(len(names) * len(lines)) + 0.5, names * len(lines))
    shown = range(0, across, max(1, across // 6))
    ax.set_xticks([t + 0.5 for t in shown], [str(t * every) for t in shown])
    ax.tick_params(length=0)
    ax.set_xlabel("step")
    what = f"E[{column} | z]" if mean else column
    ax.set_title(f"Chains of {pair.name}: {what}, from rows of the data", fontsize="medium")
    return ax


def has_chain(fit: Any, rows: Data) -> bool:
    """Tell whether a fit has a corruption to draw a chain with, and rows that are pictures."""
    pair = as_pair(fit)
    denoises = getattr(pair.source[0], "corruption", None) is not None
    return denoises and image_shape_of(rows, drawn_column(pair, rows, None)) is not None


def _lines(found: Chain, every: int, mean: bool) -> tuple[torch.Tensor, list[str]]:
    """Return what is shown, ``(chains, lines of a chain, steps shown, *event)``, and its names."""
    shown = torch.cat([found.states[:1], found.means]) if mean else found.states
    corrupted = not torch.equal(found.seen, found.states[:-1])
    # The last state was not seen any more.
    unseen = torch.full_like(shown[:1], torch.nan)
    parts = [shown, torch.cat([found.seen.to(shown), unseen])] if corrupted else [shown]
    lines = torch.stack([part[::every] for part in parts])
    return lines.movedim(2, 0), [found.column, f"{found.column}\u0303"][: len(parts)]
