"""A classifier of scikit-learn on the latents of a fit (M1; Kingma et al. 2014, section 3.1)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import Data, as_data
from ..data.labels import HIDDEN, labels_of
from ..errors import ColumnError, StoryError, unknown_name
from ..pair import as_pair
from .cross_validated import LogisticRegression, SupportVectorMachine
from .labels import withheld
from .predictive import posterior_means

__all__ = ["CLASSIFIERS", "LatentClassifier", "check_classifier"]

CLASSIFIERS: dict[str, type] = {
    "svm": SupportVectorMachine,
    "logistic": LogisticRegression,
}
LEAST_SD = 0.1  # of a latent that is in use: active units vary by 0.01 or more (Burda et al. 2016)


class LatentClassifier:
    """A classifier that learns labels from the posterior means of the latents, E_q[z_n | x_n].

    The label stands outside the story, so the fit may be of any model. The features are the means
    of all latents of a row, centred and brought to one common scale over all rows given to
    :meth:`fit`, labelled or not: a latent whose mean varies more knows more of the data. Latents in
    disuse are left out: those whose mean varies by a standard deviation below 0.1
    (:func:`vaeppl.active_units`).

    Parameters
    ----------
    source
        A :class:`~vaeppl.Fit`, a model, or a model function with its ``guide``. Its guide must
        not need the labels.
    classifier
        ``"svm"``: a support vector machine with radial basis functions for each class against
        the others; its decision values become probabilities by a softmax at a temperature chosen
        by cross-validation (Guo et al. 2017). ``"logistic"``: logistic regression. The penalty of
        both is chosen by cross-validation where each class has two labels or more, and is
        C = 1 otherwise (the temperature then is 1). Or a classifier object of scikit-learn with
        ``predict_proba``, of which a copy is trained: one of ``sklearn.semi_supervised`` gets the
        rows without a label too.
    guide
        The guide, where ``source`` is a model function.
    column
        The column of labels: 0, ..., K - 1, and -1 or NaN where there is none.
    standardise
        Bring each latent to a standard deviation of 1 instead, as the paper does.
    seed
        Fixes the folds, and the ``random_state`` of a classifier that has none.

    References
    ----------
    Kingma, Rezende, Mohamed and Welling (2014), "Semi-supervised learning with deep generative
    models"; Guo, Pleiss, Sun and Weinberger (2017), "On calibration of modern neural networks".

    Examples
    --------
    >>> import vaeppl
    >>> from vaeppl.likelihoods import Binomial
    >>> from vaeppl.models import VAE
    >>> digits = vaeppl.data.load("digits").few_labels(per_class=10)
    >>> vae = VAE(64, 8, likelihood=Binomial(16), hidden=(32,))
    >>> fit = vaeppl.fit(vae, digits, epochs=1, progress=False)
    >>> LatentClassifier(fit, "logistic").fit(digits).predict_proba(digits).shape
    torch.Size([1797, 10])
    """

    def __init__(
        self,
        source: Any,
        classifier: Any = "svm",
        *,
        guide: Any = None,
        column: str = "y",
        standardise: bool = False,
        seed: int = 0,
    ) -> None:
        self.pair = as_pair(source, guide)
        self.column, self.standardise, self.seed = column, standardise, seed
        self.classifier = _made(check_classifier(classifier), seed)
        self._in_use = np.empty(0, bool)
        self._centre = self._scale = np.empty(0)

    def fit(self, data: Any) -> LatentClassifier:
        """Train the classifier on the labelled rows; of data with splits, on the train split.

        Returns
        -------
        LatentClassifier
            This object.

        Raises
        ------
        ColumnError
            If there are no labels, or none of some class 0, ..., K - 1.
        StoryError
            If the guide draws no latent for each row, needs the labels, or no latent varies.

        Warns
        -----
        UserWarning
            If no latent is in use (posterior collapse): all that vary at all are taken.
        """
        rows = as_data(data).train
        labels = self._labels(rows)
        features = self._features(rows)
        self._centre, self._scale = features.mean(0), features.std(0)
        self._in_use = _in_use(self._scale, self.pair.name)
        if not self.standardise:
            common = np.sqrt(np.square(self._scale[self._in_use]).mean())
            self._scale = np.full_like(self._scale, common)
        takes_all = _is_semi_supervised(self.classifier)
        known = np.ones(len(rows), bool) if takes_all else labels != HIDDEN
        self.classifier.fit(self._scaled(features)[known], labels[known])
        return self

    def predict_proba(self, data: Any) -> Tensor:
        """Return the probability of each class for each row, ``(N, K)``."""
        if not len(self._in_use):
            raise ValueError("the classifier has not been trained yet: call .fit(data) first")
        features = self._scaled(self._features(as_data(data)))
        with np.errstate(invalid="ignore"):  # 0 / 0, which the next lines tell in words
            probabilities = np.asarray(self.classifier.predict_proba(features))
        if lost := int((~np.isfinite(probabilities)).any(1).sum()):
            raise ValueError(
                f"{type(self.classifier).__name__} gives {lost} of {len(probabilities)} rows no "
                "probability; a kernel may reach no label from there (kernel='knn' does, or a "
                "smaller gamma)"
            )
        return torch.as_tensor(probabilities, dtype=torch.get_default_dtype())

    def predict(self, data: Any) -> Tensor:
        """Return the most probable class of each row, ``(N,)``, as int64."""
        return self.predict_proba(data).argmax(-1)

    def _labels(self, rows: Data) -> np.ndarray:
        if self.column not in rows:
            raise ColumnError(
                f"there is no column {self.column!r} of labels in data {rows.name!r}, but "
                f"{', '.join(map(repr, rows.keys()))}: give column="
            )
        labels: np.ndarray = labels_of(rows, self.column).numpy()
        counts = np.bincount(labels[labels != HIDDEN])
        if not len(counts):
            raise ColumnError(
                f"column {self.column!r} has no label in {len(labels)} rows (-1 and NaN stand for "
                "none), so there is nothing to learn from"
            )
        if len(counts) < 2 or not counts.all():
            lacking = 1 if len(counts) < 2 else int(np.argmin(counts))
            raise ColumnError(
                f"class {lacking} of column {self.column!r} has no labelled row; each class "
                f"0, ..., K - 1 needs one (the largest label is {len(counts) - 1})"
            )
        return labels

    def _features(self, data: Data) -> np.ndarray:
        """Return the posterior means of all latents of the rows, ``(N, D)``."""
        name = self.pair.name
        if self.column in self.pair.required_to_fit:
            raise StoryError(
                f"the guide of {name} needs the column {self.column!r}, so its latents know the "
                "label; a classifier on them would be told what it is to predict"
            )
        rows = withheld(self.pair, data, self.column)
        means = posterior_means(self.pair, rows, seed=self.seed)
        means.pop(self.column, None)
        if not means:
            raise StoryError(f"the guide of {name} draws no latent for each row to learn from")
        flat = [m.double().reshape(len(m), -1) for m in means.values()]
        features: np.ndarray = torch.cat(flat, 1).cpu().numpy()
        return features

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        chosen = self._in_use
        scaled: np.ndarray = (features[:, chosen] - self._centre[chosen]) / self._scale[chosen]
        return scaled


def _in_use(sd: np.ndarray, name: str) -> np.ndarray:
    """Return which latents vary enough to tell something, or at all."""
    in_use: np.ndarray = sd >= LEAST_SD
    if in_use.any():
        return in_use
    varies: np.ndarray = sd > 0
    if not varies.any():
        raise StoryError(f"no latent of {name} varies over the rows, so there is nothing to learn")
    warnings.warn(
        f"no latent of {name} is in use: the posterior means vary by a standard deviation of "
        f"{sd.max():.2g} at most (posterior collapse, or too short a fit), so labels are guessed "
        "from next to nothing",
        stacklevel=3,
    )
    return varies


def check_classifier(classifier: Any) -> Any:
    """Return a classifier as it was given, or say what is wrong with it.

    Examples
    --------
    >>> check_classifier("svn")
    Traceback (most recent call last):
        ...
    ValueError: unknown classifier 'svn': did you mean 'svm'? Known: logistic, svm
    """
    if isinstance(classifier, str):
        if classifier not in CLASSIFIERS:
            raise ValueError(unknown_name("classifier", classifier, CLASSIFIERS))
        return classifier
    if isinstance(classifier, type) or not hasattr(classifier, "get_params"):
        raise TypeError(
            f"a classifier is {' or '.join(map(repr, CLASSIFIERS))}, or an object of scikit-learn "
            f"such as KNeighborsClassifier(5); given {classifier!r}"
        )
    if not hasattr(classifier, "predict_proba"):
        raise TypeError(
            f"{type(classifier).__name__} has no predict_proba; wrap it: "
            f"CalibratedClassifierCV({type(classifier).__name__}(...))"
        )
    return classifier


def _made(classifier: Any, seed: int) -> Any:
    """Return an untrained classifier of its own, by name or as a copy."""
    if isinstance(classifier, str):
        return CLASSIFIERS[classifier](seed)
    from sklearn.base import clone

    own = clone(classifier)
    unset = [k for k, v in own.get_params().items() if k.endswith("random_state") and v is None]
    return own.set_params(**dict.fromkeys(unset, seed))


def _is_semi_supervised(classifier: Any) -> bool:
    """Tell whether a classifier, or the last one of a pipeline, learns from -1 too."""
    last = classifier.steps[-1][1] if hasattr(classifier, "steps") else classifier
    return any(c.__module__.startswith("sklearn.semi_supervised") for c in type(last).__mro__)
