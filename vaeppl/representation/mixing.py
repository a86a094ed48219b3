"""Whether batches lie mixed in the latent space: entropy of batches among the neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ColumnError
from ._arrays import as_codes, as_labels
from .scores import in_words

__all__ = ["BatchMixing", "batch_mixing"]


@dataclass(frozen=True)
class BatchMixing:
    """Batches among the nearest neighbours of a row.

    Attributes
    ----------
    value : float
        Mean entropy over its value with batches drawn at random: 0 where each batch lies apart,
        about 1 where they are mixed.
    entropy, entropy_by_chance : float
        Both, in nats.
    settings : Mapping of str to Any
        What the values depend on.
    """

    value: float
    entropy: float
    entropy_by_chance: float
    settings: Mapping[str, Any]

    def __repr__(self) -> str:
        return (
            f"batch mixing {self.value:.3f}: entropy {self.entropy:.3f} of "
            f"{self.entropy_by_chance:.3f} nats ({in_words(self.settings)})"
        )


def batch_mixing(
    codes: Any,
    batch: Any,
    *,
    within: Any = None,
    neighbours: int = 50,
    most_rows: int = 5_000,
    seed: int = 0,
) -> BatchMixing:
    """Measure how mixed batches are among the nearest neighbours of each row.

    Parameters
    ----------
    codes
        Latents of the rows, ``(N, D)``.
    batch
        Whole numbers 0, ..., S - 1, ``(N,)``.
    within
        Labels, ``(N,)``: neighbours are then sought among rows with the same label, so that a
        batch with classes of its own is not taken for a batch that lies apart. Rows of -1 or NaN
        are left out.
    neighbours
        How many, the row itself not among them.
    most_rows
        Rows, drawn at random, at which the entropy is taken.
    seed
        Fixes these rows and the batches drawn at random.

    Returns
    -------
    BatchMixing
        Chance is the same measure after the batches were shuffled (within each label).

    Raises
    ------
    ColumnError
        If codes are not finite, or there is only one batch, also within every label.
    ValueError
        If there are fewer than 2 neighbours, or a label has no more rows than those.

    References
    ----------
    The entropy of batch mixing of Haghverdi et al. (2018), "Batch effects in single-cell
    RNA-sequencing data are corrected by matching mutual nearest neighbors".

    Examples
    --------
    >>> import numpy as np
    >>> codes = np.random.default_rng(0).standard_normal((200, 2))
    >>> apart = batch_mixing(codes + 9 * (np.arange(200) % 2)[:, None], np.arange(200) % 2)
    >>> round(apart.value, 2)
    0.0
    """
    z, s = as_codes(codes), as_labels(batch, len(codes))
    if neighbours < 2:
        raise ValueError(f"neighbours is at least 2; given {neighbours}")
    groups = _groups(within, s)
    for name, rows in groups.items():
        if len(rows) <= neighbours:
            where = "there are" if within is None else f"label {name} has"
            raise ValueError(f"{where} {len(rows)} rows; neighbours={neighbours} needs more")
    chance = np.random.RandomState(seed)
    total = sum(len(rows) for rows in groups.values())
    found, shuffled, weights = [], [], []
    for rows in groups.values():
        asked = chance.permutation(len(rows))[: max(1, round(most_rows * len(rows) / total))]
        near = _nearest(z[rows], asked, neighbours)
        found.append(_entropy(s[rows][near]))
        shuffled.append(_entropy(chance.permutation(s[rows])[near]))
        weights.append(len(rows) / total)
    entropy, by_chance = (float(np.dot(weights, e)) for e in (found, shuffled))
    settings = {"rows": total, "neighbours": neighbours, "within": within is not None, "seed": seed}
    return BatchMixing(entropy / by_chance, entropy, by_chance, settings)


def _groups(within: Any, batch: np.ndarray) -> dict[int, np.ndarray]:
    """Return the rows to compare, by label; of labels that one batch has alone, none."""
    if within is None:
        return {0: np.arange(len(batch))}
    labels = as_labels(within, len(batch))
    rows = {int(k): np.flatnonzero(labels == k) for k in np.unique(labels[labels >= 0])}
    several = {k: r for k, r in rows.items() if len(np.unique(batch[r])) > 1}
    if not several:
        raise ColumnError("no label is found in two batches, so none can be mixed within a label")
    return several


def _nearest(z: np.ndarray, asked: np.ndarray, neighbours: int) -> np.ndarray:
    """Return the nearest others of some rows, ``(len(asked), neighbours)``."""
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=neighbours + 1).fit(z)
    found: np.ndarray = near.kneighbors(z[asked], return_distance=False)
    own = found == asked[:, None]
    own[~own.any(1), -1] = True  # hidden behind rows at the very same place
    return found[~own].reshape(len(asked), neighbours)


def _entropy(batches: np.ndarray) -> float:
    """Return the mean entropy over rows of the batches in a row, in nats."""
    shares = np.stack([(batches == b).mean(1) for b in np.unique(batches)], 1)
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return float(np.abs(shares * logs).sum(1).mean())
