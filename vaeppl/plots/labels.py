"""Labels: how sure predictions are, what is taken for what, and rows with another label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data import Data, DataError
from ..errors import ColumnError, StoryError
from ..pair import as_pair
from ..reading.analogies import with_each_label
from ..reading.prediction import score_labels
from ..reading.scoring import ClassificationReport, calibration_error
from ._rows import image_shape_of, rows_of, rows_or_none, some_rows
from ._style import BLUE, axes_for, label_axes
from ._tiles import as_pictures, lay_tiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["analogies", "calibration", "confusion"]

MOST_NUMBERED = 20  # classes beyond which a confusion matrix has no room for numbers


def calibration(
    source: Any, data: Any = None, ax: Axes | None = None, *, bins: int = 10, **options: Any
) -> Axes:
    """Draw how often predicted labels are right against how sure they are (reliability diagram).

    A point for each bin of confidence, with two binomial standard errors; its area grows with the
    number of rows. On the diagonal, predictions are as sure as they should be; below it they are
    too sure.

    Parameters
    ----------
    source : ClassificationReport or Fit
        What :func:`vaeppl.score_labels` or :func:`vaeppl.classification_report` returned; or a
        fit, for which the first is called.
    data
        Rows with labels, where ``source`` is a fit; those fitted if ``None``.
    ax
        Where to draw; a new figure if ``None``.
    bins
        Bins of equal width on [0, 1].
    **options
        Of :func:`vaeppl.score_labels`, such as ``column``, where ``source`` is a fit.

    Returns
    -------
    matplotlib.axes.Axes

    References
    ----------
    Guo, Pleiss, Sun and Weinberger (2017), "On calibration of modern neural networks".

    Examples
    --------
    >>> import vaeppl
    >>> report = vaeppl.classification_report([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]], [0, 1, 1])
    >>> calibration(report).get_ylabel()
    'accuracy'
    """
    report = _report(source, data, options)
    table = report.calibration(bins)
    ax = axes_for(ax, (4.6, 4.4))
    ax.plot([0, 1], [0, 1], color="0.4", lw=1, ls="--", label="calibrated")
    ax.errorbar(
        table["confidence"], table["accuracy"], 2 * table["accuracy_se"], fmt="none", ecolor=BLUE,
        elinewidth=1,
    )  # fmt: skip
    area = 12 + 150 * table["count"] / table["count"].sum()
    ax.scatter(table["confidence"], table["accuracy"], s=area, color=BLUE, zorder=3)
    ax.set_xlim(0, 1.02)
    ax.set_ylim(0, 1.02)
    ece = calibration_error(report.probabilities, report.labels, bins)
    title = f"Calibration over {len(report.labels)} rows: ECE {ece:.3f}"
    label_axes(ax, "confidence (probability of the predicted label)", "accuracy", title)
    ax.legend(frameon=False, loc="lower right")
    return ax


def confusion(source: Any, data: Any = None, ax: Axes | None = None, **options: Any) -> Axes:
    """Draw which labels are taken for which (confusion matrix).

    The colour is the share among the rows of a true label, the number how many there are.

    Parameters
    ----------
    source, data, ax, **options
        As in :func:`calibration`.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import vaeppl
    >>> report = vaeppl.classification_report([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]], [0, 1, 1])
    >>> [text.get_text() for text in confusion(report).texts]
    ['1', '1', '1']
    """
    report = _report(source, data, options)
    counts = report.confusion.to_numpy()
    names = _names(rows_or_none(source, data), options.get("column", "y"), range(len(counts)))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    ax = axes_for(ax, (5.2, 5.0))
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    if len(counts) <= MOST_NUMBERED:
        for true, predicted in np.argwhere(counts):
            _write_count(ax, int(true), int(predicted), counts, shares)
    _name_classes(ax, names)
    error = f"{report.error_percent:.1f} ± {report.error_percent_se:.1f} %"
    label_axes(ax, "predicted", "true", f"Error {error} of {len(report.labels)} rows")
    return ax


def _write_count(
    ax: Axes, true: int, predicted: int, counts: np.ndarray, shares: np.ndarray
) -> None:
    """Write a number into a cell, light on dark."""
    colour = "white" if shares[true, predicted] > 0.5 else "0.25"
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": "small"}
    ax.text(predicted, true, str(counts[true, predicted]), color=colour, **style)


def _name_classes(ax: Axes, names: Sequence[str]) -> None:
    step = -(-len(names) // 30)
    places = range(0, len(names), step)
    upright = max(map(len, names)) > 3
    ax.set_xticks(places, names[::step], rotation=90 if upright else 0)
    ax.set_yticks(places, names[::step])


def analogies(
    fit: Any,
    data: Any = None,
    num: int = 8,
    ax: Axes | None = None,
    *,
    labels: Sequence[int] | None = None,
    column: str = "y",
    image_shape: tuple[int, int] | None = None,
    seed: int = 0,
    cmap: str = "gray",
) -> Axes:
    """Draw rows of the data and what each would be with another label, E[x | z, y = k].

    Each line starts with the data. The latents z are those of its row, so what stays the same
    along a line is what the story does not put down to the label.

    Parameters
    ----------
    fit : Fit
        Or a model.
    data
        Rows to choose from; those fitted if ``None``.
    num
        Rows, chosen at random.
    ax
        Where to draw; a new figure if ``None``.
    labels
        The labels to run through; all if ``None``.
    column
        The column of labels, which the story draws (M2) or is given (CVAE).
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
        If the story does not take the label, or what it observes holds no pictures.

    References
    ----------
    Kingma, Rezende, Mohamed and Welling (2014), "Semi-supervised learning with deep generative
    models", figure 1.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.likelihoods import Categorical
    >>> from vaeppl.models import CVAE
    >>> cvae = CVAE(1, 6, 2, condition=Categorical(3), hidden=(8,))
    >>> data = {"x": torch.arange(5) % 3, "y": torch.ones(5, 6)}
    >>> ax = analogies(cvae, data, num=2, column="x", image_shape=(2, 3))
    >>> [tick.get_text() for tick in ax.get_xticklabels()]
    ['data', '0', '1', '2']
    """
    pair, rows = as_pair(fit), rows_of(fit, data)
    chosen = some_rows(rows, num, seed)
    shown, originals, made = with_each_label(pair, chosen, labels, column, seed)
    shape = image_shape or image_shape_of(rows, shown)
    if shape is None:
        raise StoryError(
            f"column {shown!r} holds no pictures, so there are no analogies to draw: pass "
            "image_shape=(height, width), or see vaeppl.analogies for the numbers"
        )
    codes = range(made.shape[1]) if labels is None else labels
    lines = torch.cat([originals[:, None].to(made), made], dim=1).flatten(0, 1)
    ax = lay_tiles(ax, as_pictures(lines, shape), 1 + len(codes), cmap)
    ax.axvline(1, color="white", lw=4)
    names = ["data", *_names(rows, column, codes)]
    ax.set_xticks(np.arange(len(names)) + 0.5, names)
    ax.tick_params(length=0)
    ax.set_xlabel(f"{column} = k")
    title = f"Analogies of {pair.name}: E[{shown}] had {column} been k"
    ax.set_title(title, fontsize="medium")
    return ax


def column_of_analogies(fit: Any, rows: Data) -> str | None:
    """Return the label for which :func:`analogies` can draw the fit without being told more."""
    pair, few = as_pair(fit), rows.select([0])
    for column in pair.columns:
        try:
            shown, _, made = with_each_label(pair, few, None, column, 0)
        except (ColumnError, DataError, StoryError):
            continue
        if made.shape[1] > 1 and image_shape_of(rows, shown):
            return column
    return None


def _report(source: Any, data: Any, options: dict[str, Any]) -> ClassificationReport:
    if isinstance(source, ClassificationReport):
        return source
    return score_labels(source, rows_of(source, data), **options)


def _names(rows: Data | None, column: str, labels: Sequence[int]) -> list[str]:
    """Return the names of labels, where the data know them."""
    levels = rows.levels(column) if rows is not None and column in rows else None
    known = levels is not None and max(labels) < len(levels)
    return [levels[k] if levels is not None and known else str(k) for k in labels]
