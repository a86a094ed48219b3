"""Pictures of a Gaussian-process prior: covariances, paths of the latents, predicted pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import gp
from ..data import as_data
from ..errors import StoryError
from ..pair import as_pair
from ._rows import rows_of, to_array
from ._style import BLUE, COLOURS, RED, axes_for, label_axes
from ._tiles import as_pictures, lay_tiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bands", "covariance", "latent_paths", "predictions"]


def covariance(
    fit: Any,
    given: Any,
    ax: Axes | None = None,
    *,
    labels: Sequence[Any] | None = None,
    latent: int = 0,
    column: str | None = None,
    correlation: bool = True,
) -> Axes:
    """Draw the learnt kernel between some rows.

    Parameters
    ----------
    fit : Fit
        Of a story with a kernel, :class:`~vaeppl.models.GPVAE` say, or the story.
    given
        The columns of the kernel: the views of one object, or some objects at one view.
    ax
        Where to draw; a new figure if ``None``.
    labels
        What to write beside the rows.
    latent
        Latent dimension whose kernel is drawn, where each has its own.
    column
        Draw the part of the kernel that is on this column alone, if it has one such part.
    correlation
        Draw correlations, rather than covariances.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import torch
    >>> from vaeppl import gp
    >>> from vaeppl.models import GPVAE
    >>> data = {"x": torch.randn(9, 2), "time": torch.linspace(0, 1, 9)}
    >>> story = GPVAE.for_data(data, kernel=gp.On("time", "rbf"), latent_dim=2, hidden=(3,))
    >>> covariance(story, data).get_title()
    'Correlation of the latents of GPVAE'
    """
    pair, kernel = as_pair(fit), _kernel(fit)
    rows = as_data(given)
    columns = rows.take(torch.arange(len(rows)))
    if column is not None:
        kernel = gp.bound(_part(kernel, column), kernel.batch_shape.numel())
    with torch.no_grad():
        dense = gp.covariance(kernel, gp.matrix(kernel, columns))
    dense = dense[latent] if dense.ndim == 3 else dense
    if correlation:
        sd = dense.diagonal().sqrt()
        dense = dense / sd / sd.unsqueeze(-1)
    ax = axes_for(ax, (4.6, 3.8))
    top = 1.0 if correlation else float(dense.abs().max())
    image = ax.imshow(to_array(dense), cmap="RdBu_r", vmin=-top, vmax=top)
    ax.figure.colorbar(image, ax=ax, shrink=0.8)
    if labels is not None:
        ax.set_xticks(range(len(labels)), [str(n) for n in labels], rotation=90)
        ax.set_yticks(range(len(labels)), [str(n) for n in labels])
    what = "Correlation" if correlation else "Covariance"
    on = "" if column is None else f", part on {column}"
    ax.set_title(f"{what} of the latents of {pair.name}{on}", fontsize="medium")
    return ax


def latent_paths(
    fit: Any,
    given: Any,
    along: str,
    data: Any = None,
    ax: Axes | None = None,
    *,
    dimensions: Sequence[int] = (0, 1, 2),
    own: Tensor | None = None,
) -> Axes:
    """Draw latents against a column, as the process has them given all encoded rows.

    The line is the posterior mean, the band two standard deviations to either side (α included).

    Parameters
    ----------
    fit : Fit
        Of :class:`~vaeppl.models.GPVAE` or :class:`~vaeppl.models.ExactGPVAE`.
    given
        Rows to predict, in the order of ``along``: one object at many angles, say.
    along
        Column on the horizontal axis.
    data
        Rows to learn from; those that were fitted if ``None``.
    ax
        Where to draw; a new figure if ``None``.
    dimensions
        Latent dimensions to draw.
    own
        Numbers of the rows of ``data`` that belong to this object: their encodings are drawn as
        points.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import torch
    >>> from vaeppl import gp
    >>> from vaeppl.models import GPVAE
    >>> data = {"x": torch.randn(9, 2), "time": torch.linspace(0, 1, 9)}
    >>> story = GPVAE.for_data(data, kernel=gp.On("time", "rbf"), latent_dim=2, hidden=(3,))
    >>> latent_paths(story, {"time": torch.linspace(0, 2, 20)}, "time", data, dimensions=[1]).get_xlabel()
    'time'
    """  # noqa: E501
    pair, rows = as_pair(fit), as_data(given)
    known = rows_of(fit, data)
    found = gp.predict(pair, rows, data=known)
    at = to_array(rows[along])
    ax = axes_for(ax, (6.0, 3.8))
    for number, dim in enumerate(dimensions):
        colour = COLOURS[number % len(COLOURS)]
        mean, sd = to_array(found.z_mean[:, dim]), to_array(found.z_sd[:, dim])
        ax.plot(at, mean, color=colour, label=f"z[{dim}]")
        ax.fill_between(at, mean - 2 * sd, mean + 2 * sd, color=colour, alpha=0.2, lw=0)
        if own is not None:
            some = known.select(own)
            story: Any = pair.source[0]
            with torch.no_grad():
                z = story.q_z(some["x"].to(pair.device, pair.dtype)).mean[:, dim]
            ax.plot(to_array(some[along]), to_array(z), "o", ms=4, color=colour)
    label_axes(ax, along, "latent, no unit", f"Latents of {pair.name} given all encoded rows")
    ax.legend(frameon=False)
    return ax


def bands(
    fit: Any,
    given: Any,
    along: str,
    data: Any = None,
    ax: Axes | None = None,
    *,
    entry: int = 0,
    own: Tensor | None = None,
    held_out: Any = None,
    level: float = 0.9,
    num_samples: int = 300,
    seed: int = 0,
) -> Axes:
    """Draw an entry of ``x`` against a column, as the story predicts it given all encoded rows.

    The line is the mean of the draws, the band holds a share ``level`` of the draws of a new value
    at each place: noise included.

    Parameters
    ----------
    fit, given, along, data, ax
        As in :func:`latent_paths`.
    entry
        Which entry of ``x`` is drawn.
    own
        Numbers of the rows of ``data`` that belong to this object: filled points.
    held_out
        Rows of this object that were not fitted, with ``x``: hollow points.
    level
        Probability of the band.
    num_samples, seed
        Of the draws.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import torch
    >>> from vaeppl import gp
    >>> from vaeppl.models import GPVAE
    >>> data = {"x": torch.randn(9, 2), "time": torch.linspace(0, 1, 9)}
    >>> story = GPVAE.for_data(data, kernel=gp.On("time", "rbf"), latent_dim=2, hidden=(3,))
    >>> bands(story, {"time": torch.linspace(0, 2, 20)}, "time", data, entry=1).get_ylabel()
    'x[1]'
    """
    pair, rows, known = as_pair(fit), as_data(given), rows_of(fit, data)
    found = gp.predict(pair, rows, data=known, num_samples=num_samples, seed=seed)
    lower, upper = (to_array(end[:, entry]) for end in found.interval(level))
    assert found.x_given_z is not None
    ax = axes_for(ax, (6.0, 3.8))
    at = to_array(rows[along])
    ax.fill_between(at, lower, upper, color=BLUE, alpha=0.2, lw=0, label=f"{level:.0%} band")
    ax.plot(at, to_array(found.x_given_z.mean(0)[:, entry]), color=BLUE)
    if own is not None:
        some = known.select(own)
        ax.plot(
            to_array(some[along]), to_array(some["x"][:, entry]), "o", color=BLUE, label="fitted"
        )
    if held_out is not None:
        some = as_data(held_out)
        points = to_array(some[along]), to_array(some["x"][:, entry])
        ax.plot(*points, "o", mfc="white", mec=RED, label="held out")
    label_axes(ax, along, f"x[{entry}]", f"What {pair.name} predicts given all encoded rows")
    ax.legend(frameon=False, fontsize="small")
    return ax


def predictions(
    pictures: Mapping[str, Any],
    image_shape: tuple[int, int],
    ax: Axes | None = None,
    *,
    cmap: str = "gray",
) -> Axes:
    """Lay pictures of several methods below each other, a line for each and a column for each row.

    Parameters
    ----------
    pictures
        Name of a line, and its pictures, ``(N, height * width)``: the truth first, say.
    image_shape
        Height and width.
    ax
        Where to draw; a new figure if ``None``.
    cmap
        Colours.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If the lines have unequal numbers of pictures.

    Examples
    --------
    >>> import torch
    >>> ax = predictions({"truth": torch.rand(4, 6), "mean": torch.rand(4, 6)}, (2, 3))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['truth', 'mean']
    """
    lines = {name: torch.as_tensor(v) for name, v in pictures.items()}
    counts = {name: len(v) for name, v in lines.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"every line has as many pictures as the others; given {counts}")
    across = next(iter(counts.values()))
    tiles = np.concatenate([as_pictures(v, image_shape) for v in lines.values()])
    ax = lay_tiles(ax, tiles, across, cmap)
    ax.set_yticks(np.arange(len(lines)) + 0.5, list(lines))
    ax.tick_params(length=0)
    return ax


def _kernel(fit: Any) -> Any:
    story: Any = as_pair(fit).source[0]
    kernel = getattr(story, "kernel", None)
    if kernel is None:
        raise StoryError(f"{as_pair(fit).name} has no kernel to draw")
    return kernel


def _part(kernel: Any, column: str) -> Any:
    parts = [leaf for leaf in gp.leaves(kernel) if leaf.column == column]
    if not parts:
        raise StoryError(
            f"the kernel has no part on column {column!r}; it is on "
            f"{', '.join(map(repr, gp.columns_of(kernel)))}"
        )
    return parts[-1]
