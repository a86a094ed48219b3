"""What the story draws: samples, reconstructions, and the manifold over a latent plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data import Data, as_data
from ..errors import StoryError
from ..pair import Pair, as_pair
from ..reading import tracing
from ..reading.predictive import reconstruct, sample
from ..reading.sites import column_means
from ._columns import compare_columns, draw_against
from ._rows import (
    drawn_column,
    given_columns,
    image_shape_of,
    rows_of,
    rows_or_none,
    some_rows,
    some_values,
    to_array,
)
from ._style import axes_for
from ._tiles import as_pictures, lay_tiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["manifold", "reconstructions", "samples"]


def samples(
    fit: Any,
    num: int = 64,
    ax: Axes | None = None,
    *,
    data: Any = None,
    column: str | None = None,
    image_shape: tuple[int, int] | None = None,
    mean: bool = True,
    seed: int = 0,
    cmap: str = "gray",
) -> Axes:
    """Draw rows from the fitted story, latents from their prior.

    Pictures are laid out as tiles. Other columns are compared with the data: one as histograms,
    two as a scatter plot, more (the first twenty) by median, quartiles and 90% interval.

    Parameters
    ----------
    fit : Fit
        Or a model.
    num
        Rows to draw; at least 1000 where they are not pictures.
    ax
        Where to draw; a new figure if ``None``.
    data
        Rows to compare with, and to take given columns from; those fitted if ``None``.
    column
        The column to show; the first that the story draws if ``None``.
    image_shape
        Height and width of a picture; those of the data if ``None``.
    mean
        Show E[x | z] of each draw of z rather than a draw of x (pictures only).
    seed
        Fixes the draws.
    cmap
        Colours of the pictures.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> ax = samples(VAE(6, 2, hidden=(4,)), 4, image_shape=(2, 3))
    >>> int(ax.get_xlim()[1])  # pictures side by side
    2
    """
    pair, rows = as_pair(fit), rows_or_none(fit, data)
    column = drawn_column(pair, rows, column)
    shape = image_shape or image_shape_of(rows, column)
    num = num if shape else max(num, 1000)
    draws, given = _prior_draws(fit, pair, rows, num, seed)
    if shape is None:
        known = rows if rows is not None and column in rows else None
        observed = None if known is None else some_values(known, column, 1000, seed)
        drawn = to_array(draws[column])
        return compare_columns(axes_for(ax, (6.0, 3.8)), drawn, observed, rows, column)
    latents = {name: value for name, value in draws.items() if name not in pair.columns}
    if mean:
        draws = column_means(pair, latents, num, given=given, seed=seed)
    width = int(np.ceil(np.sqrt(num)))
    ax = lay_tiles(ax, as_pictures(draws[column], shape), width, cmap)
    what = f"E[{column} | z], z from the prior" if mean else f"draws of {column}"
    ax.set_title(f"Samples of {pair.name}: {what}", fontsize="medium")
    return ax


def _prior_draws(
    fit: Any, pair: Pair, rows: Data | None, num: int, seed: int
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Draw rows, under given columns taken from the data where the story has some."""
    names = given_columns(pair, rows)
    if not names or rows is None:
        return sample(fit, num, seed=seed), {}
    picked = np.random.default_rng(seed).integers(len(rows), size=num)
    columns = rows.columns(*names).select(picked)
    given = tracing.resident(pair, columns, names).take(torch.arange(num))
    return sample(fit, num, given=columns, seed=seed), given


def reconstructions(
    fit: Any,
    data: Any = None,
    num: int = 10,
    ax: Axes | None = None,
    *,
    column: str | None = None,
    image_shape: tuple[int, int] | None = None,
    seed: int = 0,
    cmap: str = "gray",
) -> Axes:
    """Draw rows of the data and below them what the model makes of them, E[x | z = E_q(z)].

    Columns that are not pictures are drawn as points, reconstruction against data.

    Parameters
    ----------
    fit : Fit
        Or a model.
    data
        Rows to choose from; those fitted if ``None``.
    num
        Pictures, chosen at random.
    ax, column, image_shape, cmap
        As in :func:`samples`.
    seed
        Fixes the choice of rows.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    CheckpointError
        If the fit was loaded, so that it has no data, and none are given.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> ax = reconstructions(VAE(6, 2, hidden=(4,)), {"x": x}, num=5, image_shape=(2, 3))
    >>> int(ax.get_xlim()[1])  # pictures side by side
    5
    """
    pair, rows = as_pair(fit), rows_of(fit, data)
    column = drawn_column(pair, rows, column)
    shape = image_shape or image_shape_of(rows, column)
    chosen = some_rows(rows, num if shape else 500, seed)
    # Read once, so that data binarised anew at each reading are the same above and below.
    batch = tracing.resident(pair, chosen).take(torch.arange(len(chosen)))
    made = reconstruct(pair, batch, seed=seed)[column]
    if shape is None:
        ax = axes_for(ax, (4.6, 4.4))
        return draw_against(ax, to_array(batch[column]), to_array(made), pair, column)
    both = np.concatenate([as_pictures(batch[column], shape), as_pictures(made, shape)])
    ax = lay_tiles(ax, both, len(chosen), cmap)
    ax.set_yticks([0.5, 1.5], ["data", "model"])
    ax.tick_params(length=0)
    ax.set_title(f"Reconstructions of {column} by {pair.name}", fontsize="medium")
    return ax


def manifold(
    fit: Any,
    size: int = 20,
    ax: Axes | None = None,
    *,
    column: str | None = None,
    image_shape: tuple[int, int] | None = None,
    given: Any = None,
    data: Any = None,
    cmap: str = "gray",
) -> Axes:
    """Draw what the decoder makes of a grid over a latent plane.

    A regular grid on the unit square goes through the inverse of the normal's distribution
    function, so that equal areas of the picture have equal prior probability (Kingma and Welling
    2014, appendix A).

    Parameters
    ----------
    fit : Fit
        Or a model; its one latent is of dimension 2.
    size
        Pictures along each side.
    ax, column, image_shape, cmap
        As in :func:`samples`.
    given
        Values of the columns that the story is given, one row: ``{"y": [3]}``.
    data
        Rows from which the shape of a picture is known; those fitted if ``None``.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    StoryError
        If the latent has another dimension, or the column holds no pictures.

    Examples
    --------
    >>> from vaeppl.models import VAE
    >>> ax = manifold(VAE(6, 2, hidden=(4,)), size=3, image_shape=(2, 3))
    >>> int(ax.get_xlim()[1])  # pictures side by side
    3
    """
    pair, rows = as_pair(fit), rows_or_none(fit, data)
    column = drawn_column(pair, rows, column)
    shape = image_shape or image_shape_of(rows, column)
    if shape is None:
        raise StoryError(
            f"column {column!r} holds no pictures, so there is no manifold of them: pass "
            "image_shape=(height, width), or see vaeppl.plots.embedding and vaeppl.plots.samples"
        )
    fixed = _repeated(pair, rows, given, size * size)
    site = _plane(pair, fixed)
    latents = {site: torch.as_tensor(_quantile_grid(size), device=pair.device, dtype=pair.dtype)}
    means = column_means(pair, latents, size * size, given=fixed)
    ax = lay_tiles(ax, as_pictures(means[column], shape), size, cmap)
    _label_quantiles(ax, site)
    ax.set_title(f"Manifold of {pair.name}: E[{column} | {site}]", fontsize="medium")
    return ax


def has_manifold(fit: Any, rows: Data) -> bool:
    """Say whether :func:`manifold` can draw the fit without being told more."""
    pair = as_pair(fit)
    if given_columns(pair, rows) or not image_shape_of(rows, drawn_column(pair, rows, None)):
        return False
    try:
        return bool(_plane(pair, {}))
    except StoryError:
        return False


def _repeated(pair: Pair, rows: Data | None, given: Any, num: int) -> dict[str, torch.Tensor]:
    """Return one row of given columns, repeated."""
    lacking = [c for c in given_columns(pair, rows) if given is None or c not in given]
    if lacking:
        raise StoryError(
            f"{pair.name} is given the column {lacking[0]!r}: pass its value for the picture, "
            f"given={{{lacking[0]!r}: [...]}} with one row"
        )
    if given is None:
        return {}
    one = as_data(given)
    if len(one) != 1:
        raise ValueError(f"`given` holds one row for the whole picture; it has {len(one)}")
    return tracing.resident(pair, one, pair.required).take(torch.zeros(num, dtype=torch.long))


def _plane(pair: Pair, given: dict[str, torch.Tensor]) -> str:
    """Return the name of the latent of a row, if there is one only and it has dimension 2."""
    one_row = {name: value[:1] for name, value in given.items()}
    drawn = sample(pair, 1, given=one_row or None)
    latents = {k: tuple(v.shape[1:]) for k, v in drawn.items() if k not in pair.columns}
    if list(latents.values()) != [(2,)]:
        raise StoryError(
            "a manifold needs one latent of dimension 2; "
            f"{pair.name} has {', '.join(f'{k} of shape {s}' for k, s in latents.items())}. "
            "Fit it with latent_dim=2, or see vaeppl.plots.embedding"
        )
    return next(iter(latents))


def _quantile_grid(size: int) -> np.ndarray:
    """Return normal quantiles of a grid, row by row from the top left, ``(size², 2)``."""
    q = _normal_quantiles((np.arange(size) + 0.5) / size)
    across, up = np.meshgrid(q, q[::-1])
    grid: np.ndarray = np.stack([across.ravel(), up.ravel()], -1)
    return grid


def _normal_quantiles(shares: np.ndarray) -> np.ndarray:
    from scipy.stats import norm

    return np.asarray(norm.ppf(shares))


def _label_quantiles(ax: Axes, site: str) -> None:
    shares = np.array([0.1, 0.5, 0.9])
    labels = [f"{z:.1f}" for z in _normal_quantiles(shares)]
    size = ax.get_xlim()[1]
    ax.set_xticks(shares * size, labels)
    ax.set_yticks((1 - shares) * size, labels)
    ax.set_xlabel(f"{site}[0] (prior quantiles)")
    ax.set_ylabel(f"{site}[1] (prior quantiles)")
