"""Classifiers of features of about one scale whose penalty is chosen by cross-validation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["LogisticRegression", "SupportVectorMachine"]

PENALTIES = (0.1, 1.0, 10.0, 100.0)  # C of scikit-learn, for features with sd 1
FOLDS = 5
ROWS_TO_CHOOSE_BY = 3000  # of which penalty and temperature are chosen, as an SVM is slow
TEMPERATURES = (1e-2, 1e2)  # where the best one is looked for; decision values are about 1


class LogisticRegression:
    """Multinomial logistic regression with a quadratic penalty.

    The penalty minimises the log loss of the rows left out; C = 1 if some class has one row only.

    Parameters
    ----------
    seed
        Fixes the folds.

    Examples
    --------
    >>> x, y = np.array([[-1.0], [-2.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    >>> LogisticRegression(0).fit(x, y).predict_proba(x).round().tolist()
    [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def fit(self, features: np.ndarray, labels: np.ndarray) -> LogisticRegression:
        """Choose the penalty, and train on all rows."""
        from sklearn.linear_model import LogisticRegression

        logistic = LogisticRegression(max_iter=10_000)
        some = _some(labels, self.seed)
        penalty = _penalty(logistic, "C", "neg_log_loss", features[some], labels[some], self.seed)
        self.trained = logistic.set_params(C=penalty).fit(features, labels)
        return self

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Return the probabilities of the classes, ``(N, K)``."""
        probabilities: np.ndarray = self.trained.predict_proba(features)
        return probabilities


class SupportVectorMachine:
    """Support vector machines with radial basis functions, each class against the others.

    Probabilities are a softmax of the decision values at one temperature (Guo et al. 2017), which
    minimises the log loss of rows left out. The penalty maximises their accuracy. If some class
    has one row only, nothing can be left out: C = 1, at temperature 1.

    Parameters
    ----------
    seed
        Fixes the folds.

    Examples
    --------
    >>> x, y = np.array([[-1.0], [-2.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    >>> SupportVectorMachine(0).fit(x, y).predict_proba(x).argmax(1).tolist()
    [0, 0, 1, 1]
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def fit(self, features: np.ndarray, labels: np.ndarray) -> SupportVectorMachine:
        """Choose penalty and temperature, and train on all rows."""
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.svm import SVC

        machines = OneVsRestClassifier(SVC())
        some = _some(labels, self.seed)
        x, y = features[some], labels[some]
        penalty = _penalty(machines, "estimator__C", "accuracy", x, y, self.seed)
        machines.set_params(estimator__C=penalty)
        self.temperature = _temperature(machines, x, y, self.seed)
        self.trained = machines.fit(features, labels)
        return self

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Return the probabilities of the classes, ``(N, K)``."""
        from scipy.special import softmax

        values = _one_a_class(self.trained.decision_function(features))
        probabilities: np.ndarray = softmax(values / self.temperature, axis=1)
        return probabilities


def _some(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return the rows to choose by: all, or the same share of each class."""
    share = min(1.0, ROWS_TO_CHOOSE_BY / len(labels))
    chance = np.random.RandomState(seed)
    members = [chance.permutation(np.flatnonzero(labels == k)) for k in np.unique(labels)]
    return np.sort(np.concatenate([rows[: math.ceil(share * len(rows))] for rows in members]))


def _folds(labels: np.ndarray, seed: int) -> Any:
    """Return folds that each hold rows of all classes; ``None`` if a class has one row only."""
    from sklearn.model_selection import StratifiedKFold

    number = min(FOLDS, int(np.unique(labels, return_counts=True)[1].min()))
    return StratifiedKFold(number, shuffle=True, random_state=seed) if number > 1 else None


def _penalty(
    classifier: Any, name: str, scoring: str, features: np.ndarray, labels: np.ndarray, seed: int
) -> float:
    """Return the penalty that does best on rows left out."""
    from sklearn.model_selection import GridSearchCV

    if (folds := _folds(labels, seed)) is None:
        return 1.0
    search = GridSearchCV(
        classifier, {name: list(PENALTIES)}, scoring=scoring, cv=folds, refit=False
    ).fit(features, labels)
    return float(search.best_params_[name])


def _temperature(classifier: Any, features: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Return T at which softmax(decision values / T) has the least log loss on rows left out."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax
    from sklearn.model_selection import cross_val_predict

    if (folds := _folds(labels, seed)) is None:
        return 1.0
    values = cross_val_predict(classifier, features, labels, cv=folds, method="decision_function")
    values = _one_a_class(values)
    truth = labels[:, None] == np.unique(labels)
    # One row more, of all classes in equal parts: few rows told apart without an error would make
    # the probabilities 0 and 1 (Platt 2000 does the same for two classes).
    truth = (len(labels) * truth + 1 / truth.shape[1]) / (len(labels) + 1)

    def log_loss(log_temperature: float) -> float:
        scores = log_softmax(values / math.exp(log_temperature), axis=1)
        return -float((truth * scores).sum(1).mean())

    bounds = tuple(math.log(t) for t in TEMPERATURES)
    return math.exp(minimize_scalar(log_loss, bounds=bounds, method="bounded").x)


def _one_a_class(values: np.ndarray) -> np.ndarray:
    """Return a decision value for each class, where two classes share one."""
    return np.stack([-values, values], axis=1) if values.ndim == 1 else values
