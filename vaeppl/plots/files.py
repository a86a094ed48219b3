"""The pictures that suit a fit, written into a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt

from ..data import Data
from ..data.labels import HIDDEN, labels_of
from ..files import write_whole
from ..reading import evidence as _evidence
from ..reading.prediction import can_predict, score_labels
from ..reading.predictive import encode
from ..reading.weights import has_evidence, has_prior_draws
from ._rows import rows_or_none, some_rows
from .chains import chain, has_chain
from .checks import evidence, posterior_predictive_check
from .curves import learning_curve
from .images import has_manifold, manifold, reconstructions, samples
from .labels import analogies, calibration, column_of_analogies, confusion
from .latent import active_units, embedding

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["save_all"]


def save_all(fit: Any, folder: str | Path, data: Any = None) -> list[Path]:
    """Write the pictures that suit a fit into a folder, as PNG.

    Pictures that need data use up to 1000 of the rows, those of predicted labels up to 10 000, and
    the evidence up to 300 with 100 particles each.

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
    for name, draw in _pictures_that_suit(fit, rows_or_none(fit, data)).items():
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
    if rows is None or has_prior_draws(fit.pair, rows):
        pictures["samples"] = lambda: samples(fit, data=rows)
    if rows is None or fit.pair.couples_rows:  # nothing can be read of such rows one by one
        return pictures
    some, few = some_rows(rows, 1000, 0), some_rows(rows, 300, 0)
    pictures["reconstructions"] = lambda: reconstructions(fit, rows)
    if has_manifold(fit, rows):
        pictures["manifold"] = lambda: manifold(fit, data=rows)
    if encode(fit, some_rows(rows, 8, 0)):
        pictures["embedding"] = lambda: embedding(fit, some)
        pictures["active_units"] = lambda: active_units(_evidence.active_units(fit, some))
    pictures["posterior_predictive_check"] = lambda: posterior_predictive_check(fit, some)
    if has_evidence(fit.pair, few):
        pictures["evidence"] = lambda: evidence(_evidence.evidence(fit, few, num_particles=100))
    if has_chain(fit, rows):
        pictures["chain"] = lambda: chain(fit, rows)
    return pictures | _pictures_of_labels(fit, rows)


def _pictures_of_labels(fit: Any, rows: Data) -> dict[str, Callable[[], Axes]]:
    """Return the pictures of predicted labels, and of the rows with other labels."""
    pictures: dict[str, Callable[[], Axes]] = {}
    if can_predict(fit, rows):
        labelled = rows.select(labels_of(rows, "y") != HIDDEN)
        report = score_labels(fit, some_rows(labelled, 10_000, 0))
        pictures["confusion"] = lambda: confusion(report, rows)
        pictures["calibration"] = lambda: calibration(report)
    if (column := column_of_analogies(fit, rows)) is not None:
        pictures["analogies"] = lambda: analogies(fit, rows, column=column)
    return pictures
