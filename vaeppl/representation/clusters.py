"""Whether rows lie in clusters, and those of a class together: k-means against the labels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ColumnError
from ._arrays import as_codes
from .probes import labelled, scaled
from .scores import in_words, shown

__all__ = ["Clusterability", "clusterability"]


@dataclass(frozen=True)
class Clusterability:
    """Clusters of the codes against the labels; NaN for what takes labels where there are none.

    Attributes
    ----------
    ari : float
        Adjusted Rand index of clusters and labels: 1 if they are the same, 0 by chance.
    nmi : float
        Their mutual information over the mean of their entropies, from 0 to 1.
    purity : float
        Share of the rows whose label is the commonest of their cluster.
    silhouette : float
        Mean over rows of (b - a) / max(a, b), with a the mean distance to rows of the same
        cluster, and b that to the nearest other one; from -1 to 1. It takes no labels.
    silhouette_of_labels : float
        The same with the classes in place of the clusters.
    settings : Mapping of str to Any
        What the values depend on.
    """

    ari: float
    nmi: float
    purity: float
    silhouette: float
    silhouette_of_labels: float
    settings: Mapping[str, Any]

    def __repr__(self) -> str:
        against = {"ARI": self.ari, "NMI": self.nmi, "purity": self.purity}
        values = {**({} if math.isnan(self.ari) else against), "silhouette": self.silhouette}
        words = [f"{name} {shown(value)}" for name, value in values.items()]
        return f"clusterability {', '.join(words)} ({in_words(self.settings)})"


def clusterability(
    codes: Any,
    labels: Any = None,
    *,
    clusters: int | None = None,
    starts: int = 10,
    standardise: bool = False,
    most_rows: int = 5_000,
    seed: int = 0,
) -> Clusterability:
    """Compare clusters that k-means finds in the codes with labels, if there are any.

    Parameters
    ----------
    codes
        Latents of the rows, ``(N, D)``.
    labels
        Whole numbers 0, ..., K - 1, ``(N,)``; rows of -1 or NaN have no label and are left out.
        ``None``: only the silhouette of the clusters is computed, which takes no labels.
    clusters
        How many to find; as many as there are classes if ``None``.
    starts
        Starts of k-means, of which the tightest clusters are kept.
    standardise
        Bring each code to a standard deviation of 1 first, rather than all to one common scale,
        which changes no result.
    most_rows
        Rows, drawn at random, on which silhouettes are computed: their cost grows as the square.
    seed
        Fixes k-means and these rows.

    Returns
    -------
    Clusterability
        Constant codes are one cluster: ARI and NMI are 0, purity is the share of the commonest
        class, silhouettes are 0.

    Raises
    ------
    ColumnError
        If codes are not finite, labels are of one class only, or neither labels nor the number of
        clusters are given.
    ValueError
        If there are to be more clusters than rows.

    References
    ----------
    Hubert and Arabie (1985), "Comparing partitions"; Rousseeuw (1987), "Silhouettes: a graphical
    aid to the interpretation and validation of cluster analysis".

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.arange(60) % 3
    >>> clusterability(np.eye(3)[labels], labels)
    clusterability ARI 1.000, NMI 1.000, purity 1.000, silhouette 1.000 (rows=60, clusters=3,
    starts=10, standardise=False, silhouette_rows=60, seed=0)
    >>> clusterability(np.eye(3)[labels], clusters=3)
    clusterability silhouette 1.000 (rows=60, clusters=3, starts=10, standardise=False,
    silhouette_rows=60, seed=0)
    """
    z, y = _codes_and_labels(codes, labels, standardise)
    number = _number_of(y) if clusters is None else clusters
    if not 2 <= number <= len(z):
        raise ValueError(f"clusters is from 2 to the number of rows, {len(z)}; given {number}")
    found = _k_means(z, number, starts, seed)
    some = np.random.RandomState(seed).permutation(len(z))[:most_rows]
    settings = {"rows": len(z), "clusters": number, "starts": starts, "standardise": standardise}
    settings |= {"silhouette_rows": len(some), "seed": seed}
    silhouette = _silhouette(z[some], found[some])
    if y is None:
        return Clusterability(math.nan, math.nan, math.nan, silhouette, math.nan, settings)
    of_labels = _silhouette(z[some], y[some])
    return Clusterability(*_agreement(y, found), silhouette, of_labels, settings)


def _codes_and_labels(
    codes: Any, labels: Any, standardise: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return codes on their scale, and labels if there are any."""
    if labels is None:
        return scaled(as_codes(codes), standardise), None
    return labelled(codes, labels, standardise)


def _number_of(y: np.ndarray | None) -> int:
    """Return how many classes there are, if there are any."""
    if y is None:
        raise ColumnError(
            "no labels were given, so it is not known how many clusters to find: pass clusters=, "
            "or labels, an array (N,) of whole numbers"
        )
    return len(np.unique(y))


def _agreement(y: np.ndarray, found: np.ndarray) -> tuple[float, float, float]:
    """Return ARI, NMI and purity of clusters."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    same = float(normalized_mutual_info_score(y, found))
    return float(adjusted_rand_score(y, found)), same, _purity(y, found)


def _k_means(z: np.ndarray, number: int, starts: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Fewer distinct rows than clusters: some clusters stay empty, as the result shows.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found: np.ndarray = KMeans(number, n_init=starts, random_state=seed).fit_predict(z)
    return found


def _purity(y: np.ndarray, found: np.ndarray) -> float:
    table = np.zeros((found.max() + 1, y.max() + 1), dtype=np.int64)
    np.add.at(table, (found, y), 1)
    return float(table.max(1).sum() / len(y))


def _silhouette(z: np.ndarray, groups: np.ndarray) -> float:
    """Return the mean silhouette; 0 for one group, or groups of one row each."""
    from sklearn.metrics import silhouette_score

    if not 1 < len(np.unique(groups)) < len(z) or not np.ptp(z, axis=0).any():
        return 0.0
    return float(silhouette_score(z, groups))
