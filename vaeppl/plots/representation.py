"""Representations: what each code stands for, ways between rows, and what labels can be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.poutine as poutine
import torch
from torch import Tensor

from ..data import Data
from ..errors import StoryError, unknown_name, whole_number
from ..pair import Batch, Pair, as_pair
from ..reading import tracing
from ..reading.predictive import AtMean, posterior_means
from ..reading.sites import column_means
from ..representation import DCI, Score, interpolate, traverse
from ._rows import drawn_column, given_columns, image_shape_of, rows_of, some_index, to_array
from ._style import COLOURS, axes_for, label_axes
from ._tiles import as_pictures, lay_tiles

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["factor_matrix", "interpolations", "label_efficiency", "traversals"]

LINES = ("-", "--", "-.", ":")  # a second sign beside the colour
TITLES = {
    "mig": "MIG",
    "sap": "SAP",
    "modularity": "Modularity",
    "factor_vae_score": "FactorVAE score",
}
MOST_NUMBERED = 150  # cells beyond which a matrix has no room for numbers
MOST_DIMENSIONS = 10  # that are traversed unless more are asked for


def label_efficiency(curves: Any, ax: Axes | None = None) -> Axes:
    """Draw accuracy against the number of labels, with the band of the draws of labels.

    Parameters
    ----------
    curves : pandas.DataFrame or mapping of str to DataFrame
        What :func:`vaeppl.representation.label_efficiency` returned; several by name.
    ax
        Where to draw; a new figure if ``None``.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import numpy as np
    >>> from vaeppl.representation import label_efficiency as efficiency
    >>> labels = np.arange(60) % 3
    >>> curve = efficiency(np.eye(3)[labels], labels, sizes=[3, 9], repeats=2)
    >>> ax = label_efficiency({"copy of the labels": curve})
    >>> ax.get_xscale(), len(ax.lines)
    ('log', 1)
    """
    named: Mapping[str, pd.DataFrame] = curves if isinstance(curves, Mapping) else {"": curves}
    if not named:
        raise ValueError("there is no curve to draw")
    ax = axes_for(ax, (5.6, 3.8))
    for number, (name, table) in enumerate(named.items()):
        colour, line = COLOURS[number % len(COLOURS)], LINES[number % len(LINES)]
        x = table["labels"].to_numpy()
        ax.plot(x, table["accuracy"], line, marker="o", ms=4, color=colour, label=name)
        ax.fill_between(x, table["low"], table["high"], color=colour, alpha=0.2, linewidth=0)
    sizes = np.unique(np.concatenate([table["labels"] for table in named.values()]))
    ax.set_xscale("log")
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()
    first = next(iter(named.values()))
    title = f"Accuracy on {first['test_rows'].iloc[0]} rows, {first['repeats'].iloc[0]} draws"
    band = f"{first['level'].iloc[0]:.0%} of them" if "level" in first else "low to high"
    title += f" of labels; band: {band}"
    label_axes(ax, "labels to learn from", "accuracy", title)
    if len(named) > 1 or "" not in named:
        ax.legend(frameon=False)
    return ax


def factor_matrix(matrix: Any, ax: Axes | None = None, *, label: str | None = None) -> Axes:
    """Draw a number for each code and factor as a heat map: what each code tells of each factor.

    Parameters
    ----------
    matrix : Score, DCI or pandas.DataFrame
        A score with a matrix, such as :func:`vaeppl.representation.mig` returns (mutual
        information); what :func:`vaeppl.representation.dci` returned (importance); or a table
        ``(D, F)`` of numbers from 0.
    ax
        Where to draw; a new figure if ``None``.
    label
        What the numbers are.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If the score has no matrix.

    Examples
    --------
    >>> import numpy as np
    >>> from vaeppl.representation import sap
    >>> factors = np.stack(np.meshgrid(range(4), range(4)), -1).reshape(-1, 2)
    >>> ax = factor_matrix(sap(factors, factors))
    >>> [text.get_text() for text in ax.texts]
    ['1.00', '0.00', '0.00', '1.00']
    """
    table, known = _matrix_of(matrix)
    values = table.to_numpy(dtype=float)
    width, height = 2.0 + 0.7 * values.shape[1], 1.6 + 0.35 * values.shape[0]
    ax = axes_for(ax, (min(width, 9.0), min(height, 9.0)))
    top = max(float(np.nanmax(values)), np.finfo(float).tiny)
    image = ax.imshow(values, cmap="Blues", vmin=0, vmax=top, aspect="auto")
    ax.figure.colorbar(image, ax=ax, label=label or known)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    upright = sum(len(str(name)) for name in table.columns) > 8 * len(table.columns)
    ax.set_xticks(range(values.shape[1]), table.columns, rotation=90 if upright else 0)
    step = -(-len(table) // 30)
    ax.set_yticks(range(0, len(table), step), table.index[::step])
    if values.size <= MOST_NUMBERED:
        for (d, k), value in np.ndenumerate(values):
            colour = "white" if value > 0.6 * top else "0.25"
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": "small"}
            ax.text(k, d, f"{value:.2f}", color=colour, **style)
    label_axes(ax, "factor", "latent dimension", _title_of(matrix))
    return ax


def _matrix_of(matrix: Any) -> tuple[pd.DataFrame, str]:
    """Return the numbers of a matrix, and what they are."""
    if isinstance(matrix, DCI):
        return matrix.importance, "importance"
    if not isinstance(matrix, Score):
        return matrix, ""
    if matrix.matrix is None:
        raise ValueError(f"{matrix.metric} is not computed from a number for each code and factor")
    names = {"sap": "score of one code", "factor_vae_score": "votes"}
    return matrix.matrix, names.get(matrix.metric, "mutual information (nats)")


def _title_of(matrix: Any) -> str:
    if isinstance(matrix, DCI):
        return f"DCI: D = {matrix.disentanglement:.2f}, C = {matrix.completeness:.2f}"
    if not isinstance(matrix, Score):
        return ""
    return f"{TITLES.get(matrix.metric, matrix.metric)}: {matrix.value:.2f}"


def traversals(
    fit: Any,
    data: Any = None,
    ax: Axes | None = None,
    *,
    row: int | None = None,
    dimensions: Sequence[int] | None = None,
    steps: int = 9,
    limits: tuple[float, float] = (-2.5, 2.5),
    site: str | None = None,
    column: str | None = None,
    image_shape: tuple[int, int] | None = None,
    seed: int = 0,
    cmap: str = "gray",
) -> Axes:
    """Draw what the decoder makes of a row as one latent dimension after the other runs through.

    Each line is E[x | z] with z at the posterior mean of the row but for one entry. Latents whose
    prior depends on the one that is changed follow it, others are held.

    Parameters
    ----------
    fit : Fit
        Or a model.
    data
        Rows to choose from; those fitted if ``None``.
    ax
        Where to draw; a new figure if ``None``.
    row
        Number of the row; one drawn at random if ``None``.
    dimensions
        Those to run through; if ``None``, those whose posterior mean varies most over (up to 500
        of) the rows, ten at most, the most varying first.
    steps
        Pictures of a line.
    limits
        The smallest and the largest value. A standard normal prior has 99% in the default.
    site
        The latent; the first of the guide with two dimensions or more if ``None``.
    column
        The column to show; the first that the story draws if ``None``.
    image_shape
        Height and width of a picture; those of the data if ``None``.
    seed
        Fixes the choice of rows.
    cmap
        Colours of the pictures.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    StoryError
        If the column holds no pictures, or the guide draws no latent of a row.
    ValueError
        If there is no picture to draw of a line.

    References
    ----------
    Higgins et al. (2017), "β-VAE", figure 1.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> ax = traversals(VAE(6, 2, hidden=(4,)), {"x": x}, steps=5, image_shape=(2, 3))
    >>> len(ax.get_yticklabels()), int(ax.get_xlim()[1])  # lines, and pictures of a line
    (2, 5)
    """
    whole_number("steps", steps, 1)
    pair, rows = as_pair(fit), rows_of(fit, data)
    column = drawn_column(pair, rows, column)
    shape = _shape_of(rows, column, image_shape)
    some = posterior_means(pair, rows.select(some_index(len(rows), 500, seed)), seed=seed)
    site = _site(some, site)
    row = int(np.random.default_rng(seed).integers(len(rows))) if row is None else row
    means, given = _read(pair, rows.select([row]), seed)
    code = to_array(means[site].reshape(-1)).astype(float)
    dimensions = _most_varying(some[site]) if dimensions is None else dimensions
    values = np.linspace(*limits, steps).tolist()
    codes = np.concatenate([traverse(code, d, values) for d in dimensions])
    made = _decode_changed(pair, means, given, site, codes, seed)[column]
    ax = lay_tiles(ax, as_pictures(made, shape), steps, cmap)
    _label_lines(ax, [f"{site}[{d}]" for d in dimensions], values)
    ax.set_title(f"Traversals of row {row} by {pair.name}: E[{column} | {site}]", fontsize="medium")
    return ax


def _most_varying(means: Tensor) -> list[int]:
    """Return the dimensions of a latent by the variance of its means, the largest first."""
    spread = to_array(means.reshape(len(means), -1)).var(0)
    order: list[int] = (-spread).argsort(kind="stable")[:MOST_DIMENSIONS].tolist()
    return order


def _label_lines(ax: Axes, names: Sequence[str], values: Sequence[float]) -> None:
    """Name the lines of tiles, and say which values the first, middle and last column have."""
    ax.set_yticks(np.arange(len(names)) + 0.5, names)
    shown = sorted({0, len(values) - 1} | ({len(values) // 2} if len(values) % 2 else set()))
    ax.set_xticks(np.array(shown) + 0.5, [f"{values[i]:g}" for i in shown])
    ax.tick_params(length=0)


def interpolations(
    fit: Any,
    data: Any = None,
    num: int = 6,
    ax: Axes | None = None,
    *,
    steps: int = 8,
    kind: str = "linear",
    column: str | None = None,
    image_shape: tuple[int, int] | None = None,
    seed: int = 0,
    cmap: str = "gray",
) -> Axes:
    """Draw what the decoder makes of the codes on the way from one row to another.

    Each line has a row of the data, E[x | z] for z from its posterior mean to that of another row,
    and this other row. Discrete latents, and columns that the story is given, change half-way.

    Parameters
    ----------
    fit : Fit
        Or a model.
    data
        Rows to choose from; those fitted if ``None``.
    num
        Lines, between rows chosen at random.
    ax
        Where to draw; a new figure if ``None``.
    steps
        Pictures of a line beside the two of the data.
    kind
        ``"linear"`` or ``"spherical"`` (:func:`vaeppl.representation.interpolate`).
    column, image_shape, cmap
        As in :func:`traversals`.
    seed
        Fixes the choice of rows.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    StoryError
        If the column holds no pictures, or the guide draws no latent of a row.
    ValueError
        If there is no picture to draw of a line.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> vae = VAE(6, 2, hidden=(4,))
    >>> ax = interpolations(vae, {"x": x}, num=2, steps=3, image_shape=(2, 3))
    >>> int(ax.get_xlim()[1])  # pictures of a line, the two of the data among them
    5
    """
    whole_number("num", num, 1)
    whole_number("steps", steps, 1)
    pair, rows = as_pair(fit), rows_of(fit, data)
    column = drawn_column(pair, rows, column)
    shape = _shape_of(rows, column, image_shape)
    if len(rows) < 2:
        raise ValueError("a way leads from one row to another; the data have one row")
    num = min(num, len(rows) // 2)
    chosen = rows.select(np.random.default_rng(seed).permutation(len(rows))[: 2 * num])
    # Read once, so that data binarised anew at each reading are the same at both places.
    batch = tracing.resident(pair, chosen).take(torch.arange(2 * num))
    means, given = _read(pair, Data(batch), seed)
    _site(means, None)
    latents = {name: _on_the_way(z, num, steps, kind) for name, z in means.items()}
    fixed = {name: _half_way(values, num, steps) for name, values in given.items()}
    made = column_means(pair, latents, num * steps, given=fixed, seed=seed)[column]
    data_rows, made = batch[column].unflatten(0, (2, num)), made.unflatten(0, (num, steps))
    lines = torch.cat([data_rows[0][:, None].to(made), made, data_rows[1][:, None].to(made)], 1)
    ax = lay_tiles(ax, as_pictures(lines.flatten(0, 1), shape), steps + 2, cmap)
    for edge in (1, steps + 1):
        ax.axvline(edge, color="white", lw=4)
    ax.set_xticks([0.5, 1 + steps / 2, steps + 1.5], ["data", "model", "data"])
    ax.tick_params(length=0)
    ax.set_title(f"{kind.capitalize()} interpolations by {pair.name}", fontsize="medium")
    return ax


def _shape_of(rows: Data, column: str, given: tuple[int, int] | None) -> tuple[int, int]:
    shape = given or image_shape_of(rows, column)
    if shape is None:
        raise StoryError(
            f"column {column!r} holds no pictures, so there are none to draw: pass "
            "image_shape=(height, width)"
        )
    return shape


def _site(means: Mapping[str, Tensor], site: str | None) -> str:
    """Return the latent asked for, or the first of two dimensions or more."""
    known = {name: z for name, z in means.items() if z.is_floating_point()}
    if not known:
        raise StoryError("the guide draws no continuous latent for each row to run through")
    if site is None:
        wide = [name for name, z in known.items() if z[0].numel() > 1]
        return (wide or list(known))[0]
    if site not in known:
        raise ValueError(unknown_name("latent of the rows", site, known))
    return site


def _read(pair: Pair, rows: Data, seed: int) -> tuple[dict[str, Tensor], Batch]:
    """Return the posterior means of rows, and the columns that the story is given for them.

    A column that is latent where it is missing is given its most probable value.
    """
    means = posterior_means(pair, rows, seed=seed)
    names = given_columns(pair, rows)
    given = tracing.resident(pair, rows, names).take(torch.arange(len(rows))) if names else {}
    given = {name: values for name, values in given.items() if name in names}
    given |= {name: means.pop(name) for name in pair.columns if name in means}
    return means, given


def _decode_changed(
    pair: Pair, means: Mapping[str, Tensor], given: Batch, site: str, codes: np.ndarray, seed: int
) -> dict[str, Tensor]:
    """Return E[columns | z] of one row, one latent of which is changed."""
    num = len(codes)
    changed = torch.as_tensor(codes).to(means[site]).reshape(num, *means[site].shape[1:])
    latents = {name: z.expand(num, *z.shape[1:]) for name, z in means.items()} | {site: changed}
    fixed = {name: values.expand(num, *values.shape[1:]) for name, values in given.items()}
    while followers := _followers(pair, latents, fixed, site, seed):
        latents = {name: z for name, z in latents.items() if name not in followers}
    return column_means(pair, latents, num, given=fixed, seed=seed)


def _followers(
    pair: Pair, latents: Mapping[str, Tensor], given: Batch, site: str, seed: int
) -> list[str]:
    """Name continuous latents whose prior changes with the one that is changed.

    They lie between it and the data.
    """
    absent = dict.fromkeys(c for c in pair.columns if c not in given)
    with tracing.quiet(pair, seed=seed, draw=len(latents[site])), AtMean():
        story = poutine.condition(pair.model, data=dict(latents))
        trace: Any = poutine.trace(story).get_trace(**given, **absent)
    found = []
    for name, z in latents.items():
        prior = tracing.site_log_prob(trace.nodes[name])
        same = torch.allclose(prior, prior[:1].expand_as(prior))
        if name != site and z.is_floating_point() and not same:
            found.append(name)
    return found


def _on_the_way(z: Tensor, num: int, steps: int, kind: str) -> Tensor:
    """Return latents of ``num`` ways, ``(num * steps, *event)``."""
    if not z.is_floating_point():
        return _half_way(z, num, steps)
    flat = to_array(z.reshape(2 * num, -1))
    way = interpolate(flat[:num], flat[num:], steps, kind=kind)
    return torch.as_tensor(way).to(z).transpose(0, 1).reshape(num * steps, *z.shape[1:])


def _half_way(values: Tensor, num: int, steps: int) -> Tensor:
    """Return values of the first end on the first half of each way, and then of the second."""
    index = torch.arange(num)[:, None] + num * (torch.arange(steps) >= steps / 2)
    return values[index.flatten().to(values.device)]
