"""Pictures of a fit: how it went, what the story draws, what the latents hold, where it fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.ticker import MaxNLocator

from .data import Data, as_data
from .errors import CheckpointError, StoryError, unknown_name
from .files import write_whole
from .pair import Pair, as_pair
from .reading import criticism, tracing
from .reading import evidence as _evidence
from .reading.predictive import encode, reconstruct, sample
from .reading.sites import column_means, observed_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "active_units",
    "embedding",
    "evidence",
    "learning_curve",
    "manifold",
    "posterior_predictive_check",
    "reconstructions",
    "samples",
    "save_all",
]

# Ten colours that stay apart for colour-blind readers (Petroff 2021, arXiv:2107.02270).
COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
BLUE, ORANGE, RED, GREY = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[8]
MARKERS = "os^Dv"  # a second sign beside the colour
MOST_GROUPS = 20  # labels that a legend can hold
MOST_LETTERS = 12  # of a label that is written among the points
MOST_COLUMNS = 20  # columns that stand side by side in one picture
MOST_POINTS = 5000  # points of a scatter plot
SMALLEST_TILE = 32  # pixels along the longer side of a picture among others
WILD_SHARE = 0.1  # epochs at the start that do not set the limits of a learning curve
FARTHEST = 5.0  # standard deviations that a predictive check shows


# --- how it went ---


def learning_curve(fit: Any, ax: Axes | None = None, *, split: bool = False) -> Axes:
    """Draw the ELBO per row of each epoch, in nats.

    The limits leave out the first tenth of the epochs where they would flatten the rest.

    Parameters
    ----------
    fit : Fit
        Its ``history`` is drawn.
    ax
        Where to draw; a new figure if ``None``.
    split
        Draw the two terms of the ELBO too: reconstruction and -KL.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If the fit has no epoch yet.

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(50, 6) < 0.5).float()
    >>> fit = vaeppl.fit(VAE(6, 2, hidden=(4,)), {"x": x}, epochs=2, progress=False)
    >>> learning_curve(fit).get_ylabel()
    'nats per row'
    """
    history = fit.history
    if not len(history):
        raise ValueError("the fit has no epoch to draw: its history is empty")
    ax = _axes(ax, (6.0, 3.8))
    curves = _curves(history, split)
    for label, values, style in curves:
        marker = "o" if len(history) == 1 else None
        ax.plot(history.index, values, label=label, marker=marker, **style)
    _limit_to_the_settled(ax, [values for _, values, _ in curves])
    if 0 < fit.best_epoch < len(history):
        ax.axvline(fit.best_epoch, color=GREY, lw=1, ls=":", label=f"best, {fit.best_epoch}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label(ax, "epoch", "nats per row", f"ELBO of {fit.pair.name} per epoch")
    ax.legend(frameon=False)
    return ax


def _curves(history: Any, split: bool) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
    """Return label, values and style of each curve that the history holds."""
    wanted: list[tuple[str, str, float, dict[str, Any]]] = [
        ("elbo", "ELBO, training rows", 1.0, {"color": BLUE}),
        ("valid_elbo", "ELBO, held-out rows", 1.0, {"color": ORANGE, "ls": "--"}),
    ]
    if split:
        wanted += [
            ("reconstruction", "reconstruction", 1.0, {"color": RED, "ls": "-."}),
            ("kl", "−KL", -1.0, {"color": COLOURS[4], "ls": ":"}),
        ]
    there = [w for w in wanted if w[0] in history and history[w[0]].notna().any()]
    return [(label, sign * history[key].to_numpy(), style) for key, label, sign, style in there]


def _limit_to_the_settled(ax: Axes, curves: Sequence[np.ndarray]) -> None:
    """Set the lower limit by the epochs after the first tenth."""
    settled = np.concatenate([c[int(np.ceil(WILD_SHARE * len(c))) % len(c) :] for c in curves])
    settled = settled[np.isfinite(settled)]
    if not len(settled):
        return
    top = max(float(np.nanmax(c)) for c in curves)
    bottom = float(settled.min())
    margin = 0.05 * (top - bottom) or 1.0
    ax.set_ylim(bottom - margin, top + margin)


# --- what the story draws ---


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
    pair, rows = as_pair(fit), _rows_or_none(fit, data)
    column = _drawn_column(pair, rows, column)
    shape = image_shape or _image_shape(rows, column)
    num = num if shape else max(num, 1000)
    draws, given = _prior_draws(fit, pair, rows, num, seed)
    if shape is None:
        observed = None if rows is None or column not in rows else _flat(rows, column, 1000, seed)
        return _compare_columns(
            _axes(ax, (6.0, 3.8)), _array(draws[column]), observed, rows, column
        )
    latents = {name: value for name, value in draws.items() if name not in pair.columns}
    if mean:
        draws = column_means(pair, latents, num, given=given, seed=seed)
    width = int(np.ceil(np.sqrt(num)))
    ax = _tiles(ax, _pictures(draws[column], shape), width, cmap)
    what = f"E[{column} | z], z from the prior" if mean else f"draws of {column}"
    ax.set_title(f"Samples of {pair.name}: {what}", fontsize="medium")
    return ax


def _prior_draws(
    fit: Any, pair: Pair, rows: Data | None, num: int, seed: int
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Draw rows, under given columns taken from the data where the story has some."""
    names = _given_columns(pair, rows)
    if not names or rows is None:
        return sample(fit, num, seed=seed), {}
    picked = np.random.default_rng(seed).integers(len(rows), size=num)
    columns = rows.columns(*names).select(picked)
    given = tracing.resident(pair, columns).take(torch.arange(num))
    return sample(fit, num, given=columns, seed=seed), given


def _given_columns(pair: Pair, rows: Data | None) -> list[str]:
    """Name the columns that the story is given: it takes them and does not observe them."""
    if rows is None:
        return []
    observed = observed_columns(pair, rows)
    return [c for c in pair.columns if c in rows and c not in observed]


def _drawn_column(pair: Pair, rows: Data | None, column: str | None) -> str:
    known = pair.columns if rows is None else observed_columns(pair, rows)
    if column is None:
        return known[0]
    if column not in known:
        raise ValueError(unknown_name(f"column of {pair.name}", column, known))
    return column


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
    pair, rows = as_pair(fit), _rows(fit, data)
    column = _drawn_column(pair, rows, column)
    shape = image_shape or _image_shape(rows, column)
    chosen = _some_rows(rows, num if shape else 500, seed)
    # Read once, so that data binarised anew at each reading are the same above and below.
    batch = tracing.resident(pair, chosen).take(torch.arange(len(chosen)))
    made = reconstruct(pair, batch, seed=seed)[column]
    if shape is None:
        return _against(_axes(ax, (4.6, 4.4)), _array(batch[column]), _array(made), pair, column)
    both = np.concatenate([_pictures(batch[column], shape), _pictures(made, shape)])
    ax = _tiles(ax, both, len(chosen), cmap)
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
    pair, rows = as_pair(fit), _rows_or_none(fit, data)
    column = _drawn_column(pair, rows, column)
    shape = image_shape or _image_shape(rows, column)
    if shape is None:
        raise StoryError(
            f"column {column!r} holds no pictures, so there is no manifold of them: pass "
            "image_shape=(height, width), or see vaeppl.plots.embedding and vaeppl.plots.samples"
        )
    fixed = _repeated(pair, rows, given, size * size)
    site = _plane(pair, fixed)
    latents = {site: torch.as_tensor(_quantile_grid(size), device=pair.device, dtype=pair.dtype)}
    means = column_means(pair, latents, size * size, given=fixed)
    ax = _tiles(ax, _pictures(means[column], shape), size, cmap)
    _label_quantiles(ax, site)
    ax.set_title(f"Manifold of {pair.name}: E[{column} | {site}]", fontsize="medium")
    return ax


def _repeated(pair: Pair, rows: Data | None, given: Any, num: int) -> dict[str, torch.Tensor]:
    """Return one row of given columns, repeated."""
    lacking = [c for c in _given_columns(pair, rows) if given is None or c not in given]
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
    return tracing.resident(pair, one).take(torch.zeros(num, dtype=torch.long))


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
    from scipy.stats import norm

    q = norm.ppf((np.arange(size) + 0.5) / size)
    across, up = np.meshgrid(q, q[::-1])
    grid: np.ndarray = np.stack([across.ravel(), up.ravel()], -1)
    return grid


def _label_quantiles(ax: Axes, site: str) -> None:
    from scipy.stats import norm

    shares = np.array([0.1, 0.5, 0.9])
    labels = [f"{z:.1f}" for z in norm.ppf(shares)]
    size = ax.get_xlim()[1]
    ax.set_xticks(shares * size, labels)
    ax.set_yticks((1 - shares) * size, labels)
    ax.set_xlabel(f"{site}[0] (prior quantiles)")
    ax.set_ylabel(f"{site}[1] (prior quantiles)")


# --- what the latents hold ---


def embedding(
    fit: Any,
    data: Any = None,
    labels: Any = "y",
    ax: Axes | None = None,
    *,
    method: str | None = "pca",
    site: str | None = None,
    max_rows: int = MOST_POINTS,
    seed: int = 0,
) -> Axes:
    """Draw the posterior means of the rows in two dimensions, coloured by a label.

    Parameters
    ----------
    fit : Fit
        Or a model.
    data
        Rows to embed; those fitted if ``None``.
    labels
        The name of a column (the model need not take it), an array of N labels, or ``None``. The
        default, ``"y"``, is left out where the data have no such column.
    ax
        Where to draw; a new figure if ``None``.
    method
        ``"pca"`` (principal components) or ``"tsne"`` for latents of more than two dimensions;
        ``None`` shows the first two. Latents of two dimensions are shown as they are.
    site
        The latent; the first of the guide with two dimensions or more if ``None``.
    max_rows
        Rows to show, drawn at random.
    seed
        Fixes the choice of rows and t-SNE.

    Returns
    -------
    matplotlib.axes.Axes

    References
    ----------
    van der Maaten and Hinton (2008), "Visualizing data using t-SNE", JMLR 9.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> ax = embedding(VAE(6, 2, hidden=(4,)), {"x": x, "y": torch.arange(20) % 2})
    >>> ax.get_xlabel(), len(ax.collections)
    ('z[0]', 2)
    """
    if method not in ("pca", "tsne", None):
        raise ValueError(unknown_name("method", str(method), ["pca", "tsne"]))
    pair, rows = as_pair(fit), _rows(fit, data)
    index = _some_index(len(rows), max_rows, seed)
    chosen = rows.select(index)
    values, names = _labels(rows, labels, index)
    means = encode(pair, chosen, seed=seed)
    site = _embedded_site(means, site)
    z = _array(means[site].reshape(len(chosen), -1))
    points, axis_names = _in_two_dimensions(z, site, method, seed)
    ax = _axes(ax, (6.2, 4.8))
    _scatter(ax, points, values, names, labels if isinstance(labels, str) else "label")
    _label(ax, *axis_names, f"Posterior means of {site} under {pair.name} ({len(chosen)} rows)")
    return ax


def _embedded_site(means: dict[str, torch.Tensor], site: str | None) -> str:
    if not means:
        raise StoryError("the guide draws no latent for each row, so there is nothing to embed")
    if site is None:
        wide = [k for k, v in means.items() if v[0].numel() > 1]
        return (wide or list(means))[0]
    if site not in means:
        raise ValueError(unknown_name("latent of the rows", site, means))
    return site


def _in_two_dimensions(
    z: np.ndarray, site: str, method: str | None, seed: int
) -> tuple[np.ndarray, tuple[str, str]]:
    """Return points ``(N, 2)`` and what their axes are."""
    if z.shape[1] == 1:
        jitter = np.random.default_rng(seed).uniform(-1, 1, len(z))
        return np.stack([z[:, 0], jitter], -1), (site, "random height")
    if z.shape[1] == 2 or method is None:
        return z[:, :2], (f"{site}[0]", f"{site}[1]")
    if method == "tsne":
        return _tsne(z, seed), ("t-SNE 1", "t-SNE 2")
    centred = z - z.mean(0)
    _, scale, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2].sum(1, keepdims=True))  # a sign that does not vary by chance
    share = scale[:2] ** 2 / max(float((scale**2).sum()), np.finfo(float).tiny)
    names = (f"PC 1 of {site} ({share[0]:.0%})", f"PC 2 of {site} ({share[1]:.0%})")
    return centred @ axes.T, names


def _tsne(z: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, max(1.0, (len(z) - 1) / 3))
    points: np.ndarray = TSNE(random_state=seed, perplexity=perplexity).fit_transform(z)
    return points


def _labels(
    rows: Data, labels: Any, index: np.ndarray
) -> tuple[np.ndarray | None, Sequence[str] | None]:
    """Return the labels of the chosen rows, and the names of their codes if they have some."""
    if labels is None or (isinstance(labels, str) and labels == "y" and "y" not in rows):
        return None, None
    if isinstance(labels, str):
        values = _array(rows.columns(labels).take(index)[labels])
        return _one_a_row(values, labels), rows.levels(labels)
    values = _array(labels) if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if len(values) != len(rows):
        raise ValueError(f"{len(values)} labels were given for {len(rows)} rows")
    return _one_a_row(values[index], "labels"), None


def _one_a_row(values: np.ndarray, name: str) -> np.ndarray:
    """Return one label a row; indicators of a class become its number."""
    if values.ndim == 1:
        return values
    flat = values.reshape(len(values), -1)
    if flat.shape[1] == 1:
        return flat[:, 0]
    if np.isin(flat, (0, 1)).all() and (flat.sum(1) == 1).all():
        return flat.argmax(1)
    raise ValueError(
        f"{name} has {flat.shape[1]} entries a row; colours need one number or one name a row"
    )


def _scatter(
    ax: Axes, points: np.ndarray, values: np.ndarray | None, names: Any, title: str
) -> None:
    size = float(np.clip(12000 / len(points), 5, 28))
    style: dict[str, Any] = {"s": size, "linewidths": 0, "alpha": 0.8}
    if values is None:
        ax.scatter(points[:, 0], points[:, 1], color=BLUE, **style)
        return
    levels = np.unique(values[~_missing(values)])
    if names is None and len(levels) > MOST_GROUPS:
        shown = ax.scatter(points[:, 0], points[:, 1], c=values, cmap="viridis", **style)
        ax.figure.colorbar(shown, ax=ax, label=title)
        return
    for number, level in enumerate(levels):
        here = values == level
        colour, marker = _sign(number, len(levels))
        name = _level_name(level, names)
        ax.scatter(
            points[here, 0], points[here, 1], color=colour, marker=marker, label=name, **style
        )
        _name_group(ax, np.median(points[here], 0), name)
    if (lost := _missing(values)).any():
        ax.scatter(
            points[lost, 0], points[lost, 1], color="0.8", label="missing", zorder=0, **style
        )
    if len(levels) <= MOST_GROUPS:
        place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
        ax.legend(title=title, markerscale=max(1.0, (30 / size) ** 0.5), frameon=False, **place)


def _name_group(ax: Axes, place: np.ndarray, name: str) -> None:
    """Write a short name in the middle of a group, with a halo so that points do not hide it."""
    if len(name) <= MOST_LETTERS:
        halo = [patheffects.withStroke(linewidth=3, foreground="white")]
        style: dict[str, Any] = {"ha": "center", "va": "center", "weight": "bold"}
        ax.text(float(place[0]), float(place[1]), name, path_effects=halo, **style)


def _missing(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        return np.isnan(values)
    return np.zeros(len(values), dtype=bool)


def _sign(number: int, count: int) -> tuple[Any, str]:
    """Return colour and marker of a group, so that each pair of them differs from the others."""
    if count <= len(COLOURS):
        return COLOURS[number], MARKERS[number % len(MARKERS)]
    return matplotlib.colormaps["viridis"](number / (count - 1)), MARKERS[number % len(MARKERS)]


def _level_name(level: Any, names: Sequence[str] | None) -> str:
    if names is not None and 0 <= int(level) < len(names):
        return names[int(level)]
    return f"{level:g}" if isinstance(level, np.floating) else str(level)


def active_units(table: Any, ax: Axes | None = None, *, threshold: float = 0.01) -> Axes:
    """Draw the variance over rows of each latent dimension's posterior mean, largest first.

    Parameters
    ----------
    table : pandas.DataFrame or Fit
        What :func:`vaeppl.active_units` returned, or a fit that holds its data.
    ax
        Where to draw; a new figure if ``None``.
    threshold
        The line above which a unit is active (Burda, Grosse and Salakhutdinov 2016).

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"site": "z", "dimension": [0, 1], "variance": [0.9, 1e-5]})
    >>> len(active_units(table.assign(active=[True, False])).patches)
    2
    """
    if hasattr(table, "active_units"):
        table = table.active_units(threshold=threshold)
    table = table.sort_values("variance", ascending=False, kind="stable")
    several = table["site"].nunique() > 1
    names = [
        f"{s}[{d}]" if several else str(d) for s, d in zip(table.site, table.dimension, strict=True)
    ]
    variance = table["variance"].to_numpy(dtype=float)
    ax = _axes(ax, (6.0, 3.4))
    positive = variance[variance > 0]
    floor = min([threshold / 10, *(positive / 2)])
    colours = np.where(table["active"], BLUE, "0.75")
    width = min(0.8, 0.15 * len(table))
    ax.bar(np.arange(len(table)), np.maximum(variance, floor), color=colours, width=width)
    ax.set_xlim(-0.6, len(table) - 0.4)
    ax.set_yscale("log")
    ax.set_ylim(bottom=floor)
    ax.axhline(threshold, color=RED, lw=1, ls="--")
    _beside(ax, threshold, f"threshold\n{threshold:g}", RED)
    _ticks(ax, names)
    site = "latent dimension" if several else f"dimension of {table['site'].iloc[0]}"
    title = f"{int(table['active'].sum())} of {len(table)} latent dimensions are active"
    _label(ax, site, "variance of posterior mean", title)
    return ax


def _beside(ax: Axes, height: float, text: str, colour: str) -> None:
    """Write at a height to the right of the axes."""
    ax.annotate(
        text, (1.01, height), xycoords=("axes fraction", "data"), va="center", color=colour,
        fontsize="small",
    )  # fmt: skip


def _ticks(ax: Axes, names: Sequence[str], most: int = 30) -> None:
    """Label positions 0, 1, ... on the x axis, or every so many of them."""
    step = -(-len(names) // most)
    crowded = sum(map(len, names[::step])) > 70
    ax.set_xticks(range(0, len(names), step), names[::step])
    if crowded:
        ax.tick_params(axis="x", labelrotation=90)


# --- where it fails ---


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
    values = report.rows["log_evidence"].to_numpy(dtype=float)
    values, k = values[np.isfinite(values)], report.rows["pareto_k"].to_numpy(dtype=float)
    k = k[np.isfinite(report.rows["log_evidence"].to_numpy(dtype=float))]
    groups = {"Pareto k ≤ 0.7": k <= 0.7, "Pareto k > 0.7, unreliable": k > 0.7}
    groups["Pareto k unknown"] = np.isnan(k)
    ax = _axes(ax, (6.0, 3.8))
    there = {f"{name}: {in_it.sum()} rows": values[in_it] for name, in_it in groups.items()}
    colours = [c for c, g in zip((BLUE, ORANGE, "0.75"), there.values(), strict=True) if len(g)]
    there = {name: group for name, group in there.items() if len(group)}
    ax.hist(list(there.values()), bins, stacked=True, color=colours, label=list(there))
    mean = f"mean {report.mean:.2f} ± {report.se:.2f}"
    ax.axvline(report.mean, color="black", lw=1, ls="--", label=mean)
    title = f"Evidence of {len(report.rows)} rows, {report.num_particles} particles each"
    _label(ax, "log p(x) of a row (nats)", "rows", title)
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
        rows = _rows(source, data)
        report = criticism.posterior_predictive_check(source, rows, **options)
    table = report.table
    ax = _axes(ax, (6.8, 0.8 + 0.55 * len(table)))
    for height, (_, line) in enumerate(table.iloc[::-1].iterrows()):
        _draw_statistic(ax, height, report.draws[line.statistic], line)
    ax.set_yticks(range(len(table)), [_with_value(line) for _, line in table[::-1].iterrows()])
    ax.set_xlim(-FARTHEST - 0.4, FARTHEST + 0.4)
    ax.set_ylim(-0.4, len(table) + 0.1)
    ax.tick_params(axis="y", length=0)
    title = f"{report.kind.capitalize()} predictive check of {report.column!r}"
    _label(ax, "standard deviations from the mean of replications", "", title)
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
    _beside(ax, height + 0.15, f"p = {line.p_value:.2f}{far}", colour)


def _place(line: Any) -> float:
    """Return how many standard deviations of the replications the data are from their mean."""
    distance = float(line.observed - line["mean"])
    if line.sd > 0:
        return distance / float(line.sd)
    return float(np.sign(distance)) * np.inf if distance else 0.0


def _with_value(line: Any) -> str:
    return f"{line.statistic}\ndata: {line.observed:.4g}"


# --- all of them ---


def save_all(fit: Any, folder: str | Path, data: Any = None) -> list[Path]:
    """Write the pictures that suit a fit into a folder, as PNG.

    Pictures that need data use up to 1000 of the rows, and the evidence up to 300 of them with 100
    particles each.

    Parameters
    ----------
    fit : Fit
        The fit.
    folder
        Where to write; made if it is not there. Each file is written whole or not at all.
    data
        Rows to use; those fitted if ``None``. Without any (a loaded fit), pictures that need
        data are left out.

    Returns
    -------
    list of Path
        The files, in the order in which they are best read.

    Examples
    --------
    >>> import tempfile, torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(50, 6) < 0.5).float()
    >>> fit = vaeppl.fit(VAE(6, 2, hidden=(4,)), {"x": x}, epochs=1, progress=False)
    >>> [path.stem for path in save_all(fit, tempfile.mkdtemp())][:3]
    ['learning_curve', 'samples', 'reconstructions']
    """
    paths = []
    for name, draw in _pictures_that_suit(fit, _rows_or_none(fit, data)).items():
        path = Path(folder) / f"{name}.png"
        _save(draw, path)
        paths.append(path)
    return paths


def _save(draw: Callable[[], Axes], path: Path) -> None:
    """Draw a figure of its own, write it whole, and close it."""
    before = set(plt.get_fignums())
    try:
        draw()
        write_whole(path, lambda p: plt.savefig(p, format="png", dpi=150))
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)


def _pictures_that_suit(fit: Any, rows: Data | None) -> dict[str, Callable[[], Axes]]:
    """Return the pictures by name, as functions that draw them."""
    pictures: dict[str, Callable[[], Axes]] = {}
    if len(fit.history):
        pictures["learning_curve"] = lambda: learning_curve(fit)
    pictures["samples"] = lambda: samples(fit, data=rows)
    if rows is None:
        return pictures
    some, few = _some_rows(rows, 1000, 0), _some_rows(rows, 300, 0)
    pictures["reconstructions"] = lambda: reconstructions(fit, rows)
    if _has_manifold(fit, rows):
        pictures["manifold"] = lambda: manifold(fit, data=rows)
    if encode(fit, _some_rows(rows, 8, 0)):
        pictures["embedding"] = lambda: embedding(fit, some)
        pictures["active_units"] = lambda: active_units(_evidence.active_units(fit, some))
    pictures["posterior_predictive_check"] = lambda: posterior_predictive_check(fit, some)
    pictures["evidence"] = lambda: evidence(_evidence.evidence(fit, few, num_particles=100))
    return pictures


def _has_manifold(fit: Any, rows: Data) -> bool:
    pair = as_pair(fit)
    if _given_columns(pair, rows) or not _image_shape(rows, _drawn_column(pair, rows, None)):
        return False
    try:
        return bool(_plane(pair, {}))
    except StoryError:
        return False


# --- shared parts ---


def _rows(fit: Any, data: Any) -> Data:
    """Return the rows given, or those that were fitted."""
    rows = _rows_or_none(fit, data)
    if rows is None:
        raise CheckpointError(
            "this picture needs data, and a model or a fit that was loaded holds none: pass data="
        )
    return rows


def _rows_or_none(fit: Any, data: Any) -> Data | None:
    if data is not None:
        return as_data(data)
    rows = getattr(fit, "train", None)  # of a bare module it is a method
    return rows if isinstance(rows, Data) else None


def _some_index(rows: int, most: int, seed: int) -> np.ndarray:
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _some_rows(rows: Data, most: int, seed: int) -> Data:
    return rows.select(_some_index(len(rows), most, seed))


def _flat(rows: Data, column: str, most: int, seed: int) -> np.ndarray:
    """Return some rows of a column, a row's entries laid out flat."""
    some = _some_rows(rows.columns(column), most, seed)
    return _array(some.take(range(len(some)))[column])


def _array(values: torch.Tensor) -> np.ndarray:
    array: np.ndarray = values.detach().cpu().numpy()
    return array


def _image_shape(rows: Data | None, column: str) -> tuple[int, int] | None:
    return None if rows is None else rows.image_shape.get(column)


def _pictures(values: torch.Tensor, shape: tuple[int, int]) -> np.ndarray:
    """Return values as pictures ``(N, height, width)``."""
    flat = _array(values).reshape(len(values), -1)
    if flat.shape[1] != shape[0] * shape[1]:
        raise ValueError(
            f"a row has {flat.shape[1]} entries, which are no picture of {shape[0]} × {shape[1]}"
        )
    return flat.reshape(-1, *shape)


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the axes given, or those of a new figure; without a frame above and at the right."""
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _label(ax: Axes, x: str, y: str, title: str) -> None:
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_title(title, fontsize="medium")


def _tiles(ax: Axes | None, pictures: np.ndarray, across: int, cmap: str) -> Axes:
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
        ax = _axes(None, _size_of(canvas.shape))
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


def _compare_columns(
    ax: Axes, draws: np.ndarray, observed: np.ndarray | None, rows: Data | None, column: str
) -> Axes:
    """Compare columns of draws with those of the data, in the form that their number suggests."""
    draws = draws.reshape(len(draws), -1)
    sets = {"story": (draws, BLUE)}
    if observed is not None:
        sets = {"data": (observed.reshape(len(observed), -1), "0.55"), **sets}
    fields = [f.name for f in rows.fields(column)] if rows is not None else []
    names = fields or [f"{column}[{i}]" for i in range(draws.shape[1])]
    if draws.shape[1] == 1:
        _histograms(ax, sets, names[0])
    elif draws.shape[1] == 2:
        _clouds(ax, sets, names)
    else:
        _strips(ax, sets, names)
    ax.set_title(f"Samples of {column}", fontsize="medium", loc="left")
    above: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderpad": 0.1}
    ax.legend(frameon=False, ncols=2, markerscale=2 if draws.shape[1] == 2 else 1, **above)
    return ax


def _histograms(ax: Axes, sets: dict[str, tuple[np.ndarray, str]], name: str) -> None:
    pooled = np.concatenate([values for values, _ in sets.values()])
    edges = np.histogram_bin_edges(pooled[np.isfinite(pooled)], bins=40).tolist()
    for label, (values, colour) in sets.items():
        ax.hist(
            values[np.isfinite(values)], edges, density=True, color=colour, alpha=0.5, label=label
        )
    ax.set_xlabel(name)
    ax.set_ylabel("density")


def _clouds(ax: Axes, sets: dict[str, tuple[np.ndarray, str]], names: Sequence[str]) -> None:
    for label, (values, colour) in sets.items():
        ax.scatter(
            values[:, 0], values[:, 1], s=6, color=colour, alpha=0.6, linewidths=0, label=label
        )
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])


def _strips(ax: Axes, sets: dict[str, tuple[np.ndarray, str]], names: Sequence[str]) -> None:
    """Draw median, quartiles and 90% interval of each column, in units of the first set's sd."""
    first = next(iter(sets.values()))[0][:, :MOST_COLUMNS]
    centre, sd = np.nanmean(first, 0), np.nanstd(first, 0)
    sd = np.where(sd > 0, sd, 1.0)
    for number, (label, (values, colour)) in enumerate(sets.items()):
        scaled = (values[:, :MOST_COLUMNS] - centre) / sd
        low, lower, middle, upper, high = np.nanquantile(scaled, [0.05, 0.25, 0.5, 0.75, 0.95], 0)
        at = np.arange(len(centre)) + 0.24 * (number - (len(sets) - 1) / 2)
        ax.vlines(at, low, high, color=colour, lw=1)
        ax.vlines(at, lower, upper, color=colour, lw=4)
        ax.plot(at, middle, "o", ms=5, color="white", mec=colour, label=label)
    _ticks(ax, names[:MOST_COLUMNS])
    ax.set_ylabel("sd from the mean of the data" if len(sets) > 1 else "sd from the mean")
    if len(names) > MOST_COLUMNS:
        ax.set_xlabel(f"first {MOST_COLUMNS} of {len(names)} columns")


def _against(ax: Axes, data: np.ndarray, made: np.ndarray, pair: Pair, column: str) -> Axes:
    """Draw reconstructed against observed entries, several columns in units of their own sd."""
    x, y = data.reshape(len(data), -1), made.reshape(len(made), -1)
    unit = ""
    if x.shape[1] > 1:
        centre, sd = np.nanmean(x, 0), np.nanstd(x, 0)
        sd = np.where(sd > 0, sd, 1.0)
        x, y, unit = (x - centre) / sd, (y - centre) / sd, " (sd from the mean of the data)"
    there = np.isfinite(x) & np.isfinite(y)
    index = _some_index(int(there.sum()), MOST_POINTS, 0)
    x, y = x[there][index], y[there][index]
    ax.scatter(x, y, s=6, alpha=0.4, color=BLUE, linewidths=0)
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    ax.plot(ends, ends, color="0.4", lw=1, ls="--", label="data = model")
    title = f"Reconstructions of {column} by {pair.name}"
    _label(ax, f"data{unit}", f"model{unit}", title)
    ax.legend(frameon=False, loc="upper left")
    return ax
