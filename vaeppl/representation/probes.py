"""What labels can be read off the codes, and from how few: linear probe and label efficiency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.labels import HIDDEN
from ..errors import ColumnError
from ..reading.cross_validated import LogisticRegression
from ._arrays import as_codes, as_labels, split, standardised, varying
from .scores import Score

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["label_efficiency", "linear_probe"]

Classifier = Callable[[int], Any]
PER_CLASS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def linear_probe(
    codes: Any,
    labels: Any,
    *,
    test_share: float = 0.25,
    repeats: int = 1,
    standardise: bool = False,
    classifier: Classifier = LogisticRegression,
    seed: int = 0,
) -> Score:
    """Return the accuracy with which a linear classifier reads the labels off the codes.

    Logistic regression, its quadratic penalty chosen by cross-validation within the training rows,
    tested on rows held out of each class in the same share.

    Codes are centred, and scaled by all rows, with a label or without.

    Parameters
    ----------
    codes
        Latents, or any other features, of the rows, ``(N, D)``.
    labels
        Whole numbers 0, ..., K - 1, ``(N,)``; rows of -1 or NaN have no label and are left out.
    test_share
        Share of the rows to test on; 0 tests on those that were trained on.
    repeats
        Times that rows are held out anew, with seeds that follow each other.
    standardise
        Bring each code to a standard deviation of 1, rather than all to one common scale. The
        penalty makes a code of small variance count less unless they are.
    classifier
        ``classifier(seed)`` makes an object with ``fit`` and ``predict_proba``, as those of
        scikit-learn have: ``lambda seed: KNeighborsClassifier(5)``.
    seed
        Fixes the choice of rows, and what the classifier does at random.

    Returns
    -------
    Score
        The mean accuracy; its ``parts`` are those of the seeds. Constant codes score the share of
        the commonest label.

    Raises
    ------
    ColumnError
        If codes are not finite, or there are no labels, or of one class only.

    Notes
    -----
    Order, sign, common scale and shift of the codes do not matter; nor do rotations, unless codes
    are standardised.

    References
    ----------
    Alain and Bengio (2016), "Understanding intermediate layers using linear classifier probes".

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.arange(60) % 3
    >>> linear_probe(np.eye(3)[labels], labels)
    linear_probe 1.000 (rows=60, test_share=0.25, repeats=1, classifier='LogisticRegression',
    standardise=False, seed=0)
    """
    import pandas as pd

    z, y = labelled(codes, labels, standardise)
    _check_repeats(repeats)
    accuracies = {}
    for number in range(seed, seed + repeats):
        train, test = split(y, test_share, number)
        accuracies[number] = _accuracy(classifier(number), z, y, train, test)
    parts = pd.Series(accuracies).rename_axis("seed")
    settings: dict[str, Any] = {"rows": len(z), "test_share": test_share, "repeats": repeats}
    name = getattr(classifier, "__name__", str(classifier))
    settings |= {"classifier": name, "standardise": standardise, "seed": seed}
    return Score("linear_probe", float(parts.mean()), parts, settings=settings)


def label_efficiency(
    codes: Any,
    labels: Any,
    sizes: Sequence[int] | None = None,
    *,
    test_share: float = 0.25,
    repeats: int = 5,
    level: float = 0.9,
    standardise: bool = False,
    classifier: Classifier = LogisticRegression,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the accuracy of a linear classifier against the number of labels it has learnt from.

    Rows to test on are held out once. From the others labels are drawn, the same number of each
    class (of what is left over, one more of some), and more of them as the number grows: the few
    of a seed are among its many.

    Parameters
    ----------
    codes, labels, standardise, classifier
        As in :func:`linear_probe`.
    sizes
        Numbers of labels; 1, 2, 5, 10, 20, 50, ... of each class, as far as there are rows, if
        ``None``.
    test_share
        Share of the rows to test on.
    repeats
        Draws of the labels.
    level
        Share of the draws that a band holds.
    seed
        Fixes all choices.

    Returns
    -------
    pandas.DataFrame
        A line for each size: ``labels``, mean ``accuracy``, ``low`` and ``high`` (quantiles over
        the draws), ``level``, ``repeats``, ``test_rows``.

    Raises
    ------
    ColumnError
        As :func:`linear_probe`, and if a class has fewer rows than a size needs.

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.arange(60) % 3
    >>> table = label_efficiency(np.eye(3)[labels], labels, sizes=[3, 9], repeats=2)
    >>> table[["labels", "accuracy"]].to_numpy().tolist()
    [[3.0, 1.0], [9.0, 1.0]]
    """
    import pandas as pd

    z, y = labelled(codes, labels, standardise)
    _check_repeats(repeats)
    train, test = split(y, test_share, seed)
    sizes = _sizes(sizes, y[train])
    rows = []
    for number in range(seed, seed + repeats):
        order = _in_turns(y[train], number)
        for size in sizes:
            accuracy = _accuracy(classifier(number), z, y, train[order[:size]], test)
            rows.append((size, accuracy))
    table = pd.DataFrame(rows, columns=["labels", "accuracy"]).groupby("labels")["accuracy"]
    low, high = table.quantile((1 - level) / 2), table.quantile((1 + level) / 2)
    bands = pd.DataFrame({"accuracy": table.mean(), "low": low, "high": high})
    return bands.assign(level=level, repeats=repeats, test_rows=len(test)).reset_index()


def labelled(codes: Any, labels: Any, standardise: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return codes and labels of the rows that have one; the scale is that of all rows."""
    z = as_codes(codes)
    y = as_labels(labels, len(z))
    return scaled(z, standardise)[y != HIDDEN], y[y != HIDDEN]


def scaled(z: np.ndarray, standardise: bool) -> np.ndarray:
    """Return codes centred, each of standard deviation 1, or all on one scale."""
    if standardise:
        return standardised(z)
    varies = varying(z)
    common = np.sqrt(z.var(0)[varies].mean()) if varies.any() else 1.0
    return np.where(varies, (z - z.mean(0)) / common, 0.0)


def _accuracy(
    classifier: Any, z: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray
) -> float:
    classifier.fit(z[train], y[train])
    classes = np.unique(y[train])
    predicted = classes[np.asarray(classifier.predict_proba(z[test])).argmax(1)]
    return float((predicted == y[test]).mean())


def _sizes(sizes: Sequence[int] | None, y: np.ndarray) -> list[int]:
    """Return the numbers of labels, in order, after a check that there are so many."""
    classes, counts = np.unique(y, return_counts=True)
    if sizes is None:
        return [len(classes) * n for n in PER_CLASS if n <= counts.min()]
    for size in sizes:
        if size < len(classes):
            raise ColumnError(f"{size} labels are fewer than the {len(classes)} classes")
        if -(-size // len(classes)) > counts.min():
            scarce = classes[counts.argmin()]
            raise ColumnError(
                f"{size} labels take {-(-size // len(classes))} of each class, but class {scarce} "
                f"has {counts.min()} rows to learn from: ask for {len(classes) * counts.min()} at "
                "most, or hold out less"
            )
    return sorted(set(sizes))


def _in_turns(y: np.ndarray, seed: int) -> np.ndarray:
    """Return row numbers, drawn at random from each class in turn."""
    chance = np.random.RandomState(seed)
    members = [chance.permutation(np.flatnonzero(y == k)) for k in np.unique(y)]
    turn = np.concatenate([np.arange(len(rows)) for rows in members])
    tie = np.concatenate([np.full(len(rows), chance.random_sample()) for rows in members])
    order: np.ndarray = np.concatenate(members)[np.lexsort((tie, turn))]
    return order


def _check_repeats(repeats: int) -> None:
    if repeats < 1:
        raise ValueError(f"repeats is at least 1; given {repeats}")
