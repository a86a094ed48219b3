"""Metrics that hold one factor fixed and ask which: the scores of BetaVAE and FactorVAE."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ColumnError
from ._arrays import Paired, paired, standardised
from .scores import Score

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["beta_vae_score", "factor_vae_score"]

VARIANCE_DIGITS = 9  # of standardised codes, so that rounding does not break ties between equals


def beta_vae_score(
    codes: Any,
    factors: Any,
    *,
    train: int = 10_000,
    test: int = 5_000,
    pairs: int = 64,
    seed: int = 0,
) -> Score:
    r"""Return how well a linear classifier tells which factor two rows have in common.

    For a point, factor k is fixed: with L pairs of rows that agree in it, its features are

    .. math::
        \bar z = \frac1L \sum_{l=1}^{L} \bigl| z_l - z'_l \bigr|,

    and logistic regression predicts k from them. The score is its accuracy on other points.

    Parameters
    ----------
    codes, factors
        As in :func:`vaeppl.representation.mutual_information`; two factors or more.
    train, test
        Points to train and to test on; each factor is fixed in the same number of them.
    pairs
        Pairs of rows averaged over in a point, L.
    seed
        Fixes the draws of rows (with replacement).

    Returns
    -------
    Score
        Its ``parts`` are the accuracies where each factor was fixed. Chance is one over the number
        of factors, which constant codes score.

    Raises
    ------
    ColumnError
        If codes are not finite, factors are missing, constant or one only, or no two rows agree in
        a factor.

    Notes
    -----
    Codes are standardised first, since the penalty of the regression would else let their scale
    decide; nor do order and sign matter. It saturates: most rotations of a perfect copy score
    above 0.9 too, and a copy that lacks one factor scores 1. Rows are drawn again and again, so
    with few of them even codes of noise score above chance (64 rows and three factors: 0.4).

    References
    ----------
    Higgins et al. (2017), "β-VAE: learning basic visual concepts with a constrained variational
    framework", section 3.

    Examples
    --------
    >>> import numpy as np
    >>> factors = np.stack(np.meshgrid(range(4), range(4)), -1).reshape(-1, 2)
    >>> float(beta_vae_score(factors, factors, train=200, test=100))
    1.0
    """
    from sklearn.linear_model import LogisticRegression

    data = paired(codes, factors, least_factors=2)
    _check_counts(train=train, test=test, pairs=pairs)
    z, groups = standardised(data.codes), _groups(data)
    chance = np.random.RandomState(seed)

    def draw(points: int) -> tuple[np.ndarray, np.ndarray]:
        return _points(groups, points, lambda g, n: _mean_distances(z, g, n, pairs, chance))

    features, fixed = draw(train)
    classifier = LogisticRegression(max_iter=1000).fit(features, fixed)
    features, fixed = draw(test)
    settings = {"rows": len(z), "train": train, "test": test, "pairs": pairs, "seed": seed}
    return _scored("beta_vae_score", classifier.predict(features), fixed, data, settings)


def factor_vae_score(
    codes: Any,
    factors: Any,
    *,
    train: int = 10_000,
    test: int = 5_000,
    batch: int = 64,
    threshold: float = 0.05,
    seed: int = 0,
) -> Score:
    r"""Return how well the code that varies least tells which factor is fixed.

    For a vote, factor k is fixed: in a batch of rows that agree in it, the code of least variance,
    each in units of its variance over all rows, votes for k,

    .. math::
        d^* = \arg\min_d \widehat{\mathrm{Var}}(z_d \mid v_k) / \mathrm{Var}(z_d).

    Each code predicts the factor that it got most votes for. The score is the accuracy of this on
    other votes.

    Parameters
    ----------
    codes, factors
        As in :func:`vaeppl.representation.mutual_information`; two factors or more.
    train, test
        Votes to learn from and to test on; each factor is fixed in the same number of them.
    batch
        Rows of a vote.
    threshold
        Codes of a standard deviation below this share of the largest are collapsed, and have no
        vote. (Published code drops those below 0.05 itself, so that it depends on the scale.)
    seed
        Fixes the draws of rows (with replacement).

    Returns
    -------
    Score
        Its ``parts`` are the accuracies where each factor was fixed, its ``matrix`` the votes that
        were learnt from. Chance is one over the number of factors, which constant codes score.

    Raises
    ------
    ColumnError
        As :func:`beta_vae_score`.

    Notes
    -----
    Order and sign of the codes do not matter, nor does one scale of all. The scale of a single
    code does where it moves a code over the threshold. Of equal variances the first has the vote.
    With few rows codes of noise score above chance, as in :func:`beta_vae_score`.

    References
    ----------
    Kim and Mnih (2018), "Disentangling by factorising", section 4.

    Examples
    --------
    >>> import numpy as np
    >>> factors = np.stack(np.meshgrid(range(4), range(4)), -1).reshape(-1, 2)
    >>> float(factor_vae_score(factors, factors, train=200, test=100))
    1.0
    """
    import pandas as pd

    data = paired(codes, factors, least_factors=2)
    _check_counts(train=train, test=test, batch=batch)
    in_use = data.varies & (data.codes.std(0) >= threshold * data.codes.std(0).max())
    # Constant codes: one that is 0 everywhere gets all votes, and guesses.
    z = standardised(data.codes)[:, in_use] if in_use.any() else np.zeros((len(data.codes), 1))
    groups, chance = _groups(data), np.random.RandomState(seed)

    def draw(votes: int) -> tuple[np.ndarray, np.ndarray]:
        return _points(groups, votes, lambda g, n: _least_variable(z, g, n, batch, chance))

    voters, fixed = draw(train)
    votes = np.zeros((z.shape[1], len(groups)), dtype=np.int64)
    np.add.at(votes, (voters, fixed), 1)
    voters, fixed = draw(test)
    settings: dict[str, Any] = {"rows": len(z), "train": train, "test": test, "batch": batch}
    settings |= {"threshold": threshold, "in_use": int(in_use.sum()), "seed": seed}
    all_votes = np.zeros((len(in_use), len(groups)), dtype=np.int64)
    all_votes[in_use] = votes if in_use.any() else 0
    matrix = pd.DataFrame(all_votes, index=data.code_names, columns=data.factor_names)
    predicted = votes.argmax(1)[voters]
    return _scored("factor_vae_score", predicted, fixed, data, settings, matrix)


class _Groups:
    """Rows by their value of one factor, to draw others of the same value.

    Values that one row has are left out, as it would be compared with itself.
    """

    def __init__(self, levels: np.ndarray, name: Any) -> None:
        counts = np.bincount(levels)
        self.levels = levels
        self.counts = counts
        self.starts = np.cumsum(counts) - counts
        self.order = np.argsort(levels, kind="stable")
        self.anchors = np.flatnonzero(counts[levels] > 1)
        if not len(self.anchors):
            raise ColumnError(f"no two rows agree in factor {name!r}, so it cannot be held fixed")

    def anchor(self, number: int, chance: np.random.RandomState) -> np.ndarray:
        """Draw rows."""
        return self.anchors[chance.randint(len(self.anchors), size=number)]

    def partner(self, rows: np.ndarray, chance: np.random.RandomState) -> np.ndarray:
        """Draw for each row one of the same value."""
        level = self.levels[rows]
        place = (chance.random_sample(len(rows)) * self.counts[level]).astype(np.int64)
        partners: np.ndarray = self.order[self.starts[level] + place]
        return partners


def _groups(data: Paired) -> list[_Groups]:
    return [_Groups(k, name) for k, name in zip(data.levels.T, data.factor_names, strict=True)]


def _points(
    groups: list[_Groups], number: int, make: Callable[[_Groups, int], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return points made with each factor fixed in turn, and which one it was."""
    fixed = np.arange(number) % len(groups)
    parts = [make(group, int((fixed == k).sum())) for k, group in enumerate(groups)]
    return np.concatenate(parts), np.sort(fixed)


def _mean_distances(
    z: np.ndarray, group: _Groups, points: int, pairs: int, chance: np.random.RandomState
) -> np.ndarray:
    """Return the mean absolute difference of pairs that agree in a factor, ``(points, D)``."""
    total = np.zeros((points, z.shape[1]))
    for _ in range(pairs):
        rows = group.anchor(points, chance)
        total += np.abs(z[rows] - z[group.partner(rows, chance)])
    return total / pairs


def _least_variable(
    z: np.ndarray, group: _Groups, votes: int, batch: int, chance: np.random.RandomState
) -> np.ndarray:
    """Return the code of least variance in each of several batches that agree in a factor."""
    rows = group.anchor(votes, chance)
    first = z[group.partner(rows, chance)]
    total, squares = np.zeros_like(first), np.zeros_like(first)
    for _ in range(batch - 1):
        # Relative to the first row, so that a code that does not vary has variance 0 exactly.
        moved = z[group.partner(rows, chance)] - first
        total += moved
        squares += np.square(moved)
    variance = squares / batch - np.square(total / batch)
    least: np.ndarray = np.round(variance, VARIANCE_DIGITS).argmin(1)
    return least


def _scored(
    metric: str,
    predicted: np.ndarray,
    fixed: np.ndarray,
    data: Paired,
    settings: dict[str, Any],
    matrix: pd.DataFrame | None = None,
) -> Score:
    import pandas as pd

    right = predicted == fixed
    parts = pd.Series([right[fixed == k].mean() for k in np.unique(fixed)], data.factor_names)
    return Score(metric, float(right.mean()), parts, matrix, settings)


def _check_counts(**counts: int) -> None:
    for name, number in counts.items():
        least = 2 if name == "batch" else 1
        if number < least:
            raise ValueError(f"{name} is at least {least}; given {number}")
