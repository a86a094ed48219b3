"""How good predicted labels are: error, log loss, Brier score, calibration, confusion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..data.labels import HIDDEN, label_codes
from ..errors import ColumnError, whole_number

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ClassificationReport",
    "calibration",
    "calibration_error",
    "classification_report",
    "confusion",
]

LEAST_PROBABILITY = torch.finfo(torch.float32).tiny  # what float32 rounds to zero is not zero


@dataclass(frozen=True, eq=False)
class ClassificationReport:
    """Predicted labels against true ones.

    Attributes
    ----------
    probabilities : Tensor
        Predicted probability of each class, ``(N, K)``.
    labels : Tensor
        True classes, ``(N,)``.
    """

    probabilities: Tensor
    labels: Tensor

    @property
    def wrong(self) -> Tensor:
        """Whether the most probable class of each row is another than the true one, ``(N,)``."""
        return self.probabilities.argmax(-1) != self.labels

    @property
    def error_percent(self) -> float:
        """Share of rows whose most probable class is wrong, in per cent."""
        return 100 * float(self.wrong.double().mean())

    @property
    def error_percent_se(self) -> float:
        """Binomial standard error of ``error_percent`` (sampling of the rows)."""
        share = self.error_percent / 100
        return 100 * math.sqrt(share * (1 - share) / len(self.labels))

    @property
    def log_loss(self) -> float:
        """Mean of -log p(true class), in nats; what float32 rounds to zero counts 87 nats."""
        true = self.probabilities.double().gather(-1, self.labels[:, None])
        return -float(true.clamp_min(LEAST_PROBABILITY).log().mean())

    @property
    def brier(self) -> float:
        """Brier score: mean of Σ_k (p_k - 1[k is the true class])², from 0 to 2 (Brier 1950)."""
        truth = torch.nn.functional.one_hot(self.labels, self.probabilities.shape[-1])
        return float((self.probabilities.double() - truth).square().sum(-1).mean())

    @property
    def ece(self) -> float:
        """Expected calibration error in ten bins; see :func:`calibration_error`."""
        return calibration_error(self.probabilities, self.labels)

    @property
    def confusion(self) -> pd.DataFrame:
        """Counts by true (rows) and predicted (columns) class."""
        return confusion(self.probabilities, self.labels)

    def calibration(self, bins: int = 10) -> pd.DataFrame:
        """Confidence and accuracy by bins of confidence; see :func:`calibration`."""
        return calibration(self.probabilities, self.labels, bins)

    def __repr__(self) -> str:
        return (
            f"error {self.error_percent:.1f} ± {self.error_percent_se:.1f} % "
            f"({len(self.labels)} rows), log loss {self.log_loss:.2f}, ECE {self.ece:.2f}"
        )


def classification_report(probabilities: Any, labels: Any) -> ClassificationReport:
    """Compare predicted probabilities with labels; rows whose label is hidden are left out.

    Parameters
    ----------
    probabilities
        ``(N, K)``.
    labels
        ``(N,)``, whole numbers 0, ..., K - 1; -1 or NaN where there is none.

    Raises
    ------
    ColumnError
        If numbers of rows differ, a label is no class, or no row has a label.

    Examples
    --------
    >>> classification_report([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [0, 1, 1])
    error 33.3 ± 27.2 % (3 rows), log loss 0.41, ECE 0.30
    """
    return ClassificationReport(*_labelled(probabilities, labels))


def calibration(probabilities: Any, labels: Any, bins: int = 10) -> pd.DataFrame:
    """Compare how sure predictions are with how often they are right (reliability diagram).

    Parameters
    ----------
    probabilities, labels
        As in :func:`classification_report`.
    bins
        Bins of equal width on [0, 1], for the confidence: the probability of the most probable
        class.

    Returns
    -------
    pandas.DataFrame
        A line for each bin that holds rows: its ends ``lower`` (excluded) and ``upper``, the mean
        ``confidence``, the ``accuracy`` (share of rows whose most probable class is true) with its
        binomial standard error ``accuracy_se``, and the ``count`` of rows.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger (2017), "On calibration of modern neural networks", section 2.

    Examples
    --------
    >>> calibration([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], [0, 1, 1], bins=2)
       lower  upper  confidence  accuracy  accuracy_se  count
    0    0.5    1.0         0.8  0.666667     0.272166      3
    """
    import pandas as pd

    whole_number("bins", bins, 1)
    probabilities, labels = _labelled(probabilities, labels)
    confidence, predicted = (t.numpy() for t in probabilities.double().max(-1))
    number = np.ceil(confidence * bins).clip(1, bins) - 1
    rows = pd.DataFrame(
        {"bin": number, "confidence": confidence, "accuracy": predicted == labels.numpy()}
    )
    groups = rows.groupby("bin")
    table = groups.mean()
    table["count"] = groups.size()
    table["accuracy_se"] = np.sqrt(table.accuracy * (1 - table.accuracy) / table["count"])
    table["lower"], table["upper"] = table.index / bins, (table.index + 1) / bins
    order = ["lower", "upper", "confidence", "accuracy", "accuracy_se", "count"]
    return table[order].reset_index(drop=True)


def calibration_error(probabilities: Any, labels: Any, bins: int = 10) -> float:
    """Return the expected calibration error: mean over rows of |accuracy - confidence| by bins.

    Parameters
    ----------
    probabilities, labels, bins
        As in :func:`calibration`.

    Examples
    --------
    >>> round(calibration_error([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], [0, 1, 1], bins=2), 3)
    0.133
    """
    table = calibration(probabilities, labels, bins)
    gaps = (table["accuracy"] - table["confidence"]).abs()
    return float((gaps * table["count"]).sum() / table["count"].sum())


def confusion(predictions: Any, labels: Any) -> pd.DataFrame:
    """Count rows by their true and their predicted class (confusion matrix).

    Parameters
    ----------
    predictions
        Probabilities ``(N, K)``, or predicted classes ``(N,)``.
    labels
        As in :func:`classification_report`.

    Returns
    -------
    pandas.DataFrame
        A line for each true class, a column for each predicted one.

    Examples
    --------
    >>> confusion([0, 1, 1], [0, 1, 0])
    predicted  0  1
    true
    0          1  1
    1          0  1
    """
    import pandas as pd

    predictions = torch.as_tensor(predictions).detach().cpu()
    if predictions.ndim == 1:
        codes = label_codes(predictions, "predictions")
        most = max(int(codes.max()), int(label_codes(torch.as_tensor(labels)).max()))
        predictions = torch.nn.functional.one_hot(codes, most + 1).double()
    probabilities, codes = _labelled(predictions, labels)
    size = probabilities.shape[-1]
    counts = torch.bincount(codes * size + probabilities.argmax(-1), minlength=size**2)
    return (
        pd.DataFrame(counts.reshape(size, size).numpy())
        .rename_axis("true")
        .rename_axis("predicted", axis=1)
    )


def _labelled(probabilities: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Return both, checked, for the rows that have a label."""
    probabilities = torch.as_tensor(probabilities).detach().cpu()
    codes = label_codes(torch.as_tensor(labels))
    if probabilities.ndim != 2 or len(probabilities) != len(codes):
        raise ColumnError(
            f"probabilities have shape {tuple(probabilities.shape)}; for {len(codes)} labels "
            f"({len(codes)}, K) is expected, with a column for each class"
        )
    known = codes != HIDDEN
    if not bool(known.any()):
        raise ColumnError("no row has a label (-1 and NaN stand for none): nothing to compare with")
    if int(codes.max()) >= probabilities.shape[-1]:
        row = int(codes.argmax())
        raise ColumnError(
            f"label {int(codes[row])} at row {row}, but probabilities are of "
            f"{probabilities.shape[-1]} classes, 0, ..., {probabilities.shape[-1] - 1}"
        )
    return probabilities[known], codes[known]
