"""What the latents hold: where the rows lie in them, and which dimensions are in use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import torch
from matplotlib import patheffects

from ..data import Data
from ..errors import StoryError, unknown_name
from ..pair import as_pair
from ..reading.predictive import encode
from ._rows import rows_of, some_index, to_array
from ._style import BLUE, COLOURS, MOST_POINTS, RED, axes_for, label_axes, tick_names, write_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["active_units", "embedding"]

MARKERS = "os^Dv"  # a second sign beside the colour
METHODS = ("pca", "tsne", "umap")
MOST_GROUPS = 20  # labels that a legend can hold
MOST_LETTERS = 12  # of a label that is written among the points


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
        ``"pca"`` (principal components), ``"tsne"`` or ``"umap"`` (needs the package umap-learn)
        for latents of more than two dimensions; ``None`` shows the first two. Latents of two
        dimensions are shown as they are.
    site
        The latent; the first of the guide with two dimensions or more if ``None``.
    max_rows
        Rows to show, drawn at random.
    seed
        Fixes the choice of rows, t-SNE and UMAP.

    Returns
    -------
    matplotlib.axes.Axes

    References
    ----------
    van der Maaten and Hinton (2008), "Visualizing data using t-SNE", JMLR 9; McInnes, Healy and
    Melville (2018), "UMAP: uniform manifold approximation and projection for dimension reduction".

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> ax = embedding(VAE(6, 2, hidden=(4,)), {"x": x, "y": torch.arange(20) % 2})
    >>> ax.get_xlabel(), len(ax.collections)
    ('z[0]', 2)
    """
    if method is not None and method not in METHODS:
        raise ValueError(unknown_name("method", method, METHODS))
    pair, rows = as_pair(fit), rows_of(fit, data)
    index = some_index(len(rows), max_rows, seed)
    chosen = rows.select(index)
    values, names = _labels(rows, labels, index)
    means = encode(pair, chosen, seed=seed)
    site = _embedded_site(means, site)
    z = to_array(means[site].reshape(len(chosen), -1))
    points, axis_names = _in_two_dimensions(z, site, method, seed)
    ax = axes_for(ax, (6.2, 4.8))
    _scatter(ax, points, values, names, labels if isinstance(labels, str) else "label")
    label_axes(ax, *axis_names, f"Posterior means of {site} under {pair.name} ({len(chosen)} rows)")
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
    if method == "umap":
        return _umap(z, seed), ("UMAP 1", "UMAP 2")
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


def _umap(z: np.ndarray, seed: int) -> np.ndarray:
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError(
            "method='umap' needs the package umap-learn: pip install umap-learn, or take "
            "method='tsne'"
        ) from error
    neighbours = min(15, max(2, len(z) - 1))
    # One thread, without which the same seed does not give the same points.
    reduce = UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1)
    points: np.ndarray = reduce.fit_transform(z)
    return points


def _has_labels(rows: Data) -> bool:
    """Tell whether there is a column ``y`` with one number a row."""
    return "y" in rows and rows.shape("y") == ()


def _labels(
    rows: Data, labels: Any, index: np.ndarray
) -> tuple[np.ndarray | None, Sequence[str] | None]:
    """Return the labels of the chosen rows, and the names of their codes if they have some."""
    if labels is None or (isinstance(labels, str) and labels == "y" and not _has_labels(rows)):
        return None, None
    if isinstance(labels, str):
        values = to_array(rows.columns(labels).take(index)[labels])
        return _one_a_row(values, labels), rows.levels(labels)
    values = to_array(labels) if isinstance(labels, torch.Tensor) else np.asarray(labels)
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
        if _is_apart(points, here):
            _name_group(ax, np.median(points[here], 0), name)
    if (lost := _missing(values)).any():
        ax.scatter(
            points[lost, 0], points[lost, 1], color="0.8", label="missing", zorder=0, **style
        )
    if len(levels) <= MOST_GROUPS:
        place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
        ax.legend(title=title, markerscale=max(1.0, (30 / size) ** 0.5), frameon=False, **place)


def _is_apart(points: np.ndarray, here: np.ndarray) -> bool:
    """Tell whether most of the points about the middle of a group are its own."""
    distance = ((points - np.median(points[here], 0)) ** 2).sum(1)
    return bool(here[np.argsort(distance)[: max(1, min(20, here.sum()))]].mean() > 0.5)


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
    ax = axes_for(ax, (6.0, 3.4))
    positive = variance[variance > 0]
    floor = min([threshold / 10, *(positive / 2)])
    colours = np.where(table["active"], BLUE, "0.75")
    width = min(0.8, 0.15 * len(table))
    ax.bar(np.arange(len(table)), np.maximum(variance, floor), color=colours, width=width)
    ax.set_xlim(-0.6, len(table) - 0.4)
    ax.set_yscale("log")
    ax.set_ylim(floor, 1.5 * max(threshold, *variance))
    ax.axhline(threshold, color=RED, lw=1, ls="--")
    write_beside(ax, threshold, f"threshold\n{threshold:g}", RED)
    tick_names(ax, names)
    site = "latent dimension" if several else f"dimension of {table['site'].iloc[0]}"
    title = f"{int(table['active'].sum())} of {len(table)} latent dimensions are active"
    label_axes(ax, site, "variance of posterior mean", title)
    return ax
