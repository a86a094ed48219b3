"""Metrics of how well simple predictors read factors off the codes: SAP, DCI and explicitness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import unknown_name
from ._arrays import Paired, paired, split, standardised
from .information import two_best
from .scores import Score, in_words, shown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DCI", "dci", "explicitness", "sap"]

PREDICTORS = ("trees", "lasso")
SVM_PENALTY = 0.01  # C of SAP's linear machines, as published results have it


def sap(
    codes: Any,
    factors: Any,
    *,
    categorical: Sequence[Any] = (),
    test_share: float = 0.25,
    seed: int = 0,
) -> Score:
    r"""Return the separated attribute predictability of a representation.

    For each factor the gap between the two codes that predict it best, each by itself:

    .. math::
        \mathrm{SAP} = \frac1F \sum_k \bigl( S_{(1)k} - S_{(2)k} \bigr)

    where S is the squared correlation R² of a code with an ordered factor, and the balanced
    accuracy of a linear support vector machine (C = 0.01, one class against the others, on held
    out rows) for a categorical one.

    Parameters
    ----------
    codes, factors
        As in :func:`vaeppl.representation.mutual_information`.
    categorical
        Factors, by number or by name, whose values have no order.
    test_share
        Share of the rows on which support vector machines are tested; 0 tests them on those they
        were trained on.
    seed
        Fixes the choice of these rows.

    Returns
    -------
    Score
        Its ``parts`` are the gaps of the factors, its ``matrix`` is S. With one code only, the
        second best predicts nothing (S = 0). A constant code has R² = 0.

    Raises
    ------
    ColumnError
        If codes are not finite, or factors are missing or constant.

    Notes
    -----
    Codes are standardised first, so that their scale does not matter to the support vector
    machines; nor do order and sign. One line cannot cut a middle value out of several in one
    dimension, so machines read a factor of ordered values badly.

    References
    ----------
    Kumar, Sattigeri and Balakrishnan (2018), "Variational inference of disentangled latent
    concepts from unlabeled observations", section 3.

    Examples
    --------
    >>> import numpy as np
    >>> factors = np.stack(np.meshgrid(range(4), range(4)), -1).reshape(-1, 2)
    >>> float(sap(3 - factors, factors))
    1.0
    >>> round(float(sap(factors @ [[1, 1], [1, -1]], factors)), 6)
    0.0
    """
    import pandas as pd

    data = paired(codes, factors)
    z = standardised(data.codes)
    by_class = data.chosen(categorical)
    table = np.empty((z.shape[1], data.levels.shape[1]))
    for k, levels in enumerate(data.levels.T):
        if k in by_class:
            table[:, k] = [_svm_accuracy(one, levels, test_share, seed) for one in z.T]
        else:
            table[:, k] = _squared_correlations(z, data.factors[:, k])
    gaps = pd.Series(two_best(table), index=data.factor_names)
    settings: dict[str, Any] = {"rows": len(z)}
    if by_class:
        names = [data.factor_names[k] for k in by_class]
        settings |= {"categorical": names, "test_share": test_share, "seed": seed}
    matrix = pd.DataFrame(table, index=data.code_names, columns=data.factor_names)
    return Score("sap", float(gaps.mean()), gaps, matrix, settings)


def _squared_correlations(z: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return R² of each standardised code with the values of a factor."""
    y = (values - values.mean()) / values.std()
    squared: np.ndarray = np.square(z.T @ y / len(y))
    return squared


def _svm_accuracy(one: np.ndarray, levels: np.ndarray, test_share: float, seed: int) -> float:
    """Return the accuracy, balanced over levels, of a linear machine on one code."""
    from sklearn.svm import LinearSVC

    train, test = split(levels, test_share, seed)
    machine = LinearSVC(C=SVM_PENALTY, class_weight="balanced", dual=False)
    machine.fit(one[train, None], levels[train])
    right = machine.predict(one[test, None]) == levels[test]
    return float(np.mean([right[levels[test] == k].mean() for k in np.unique(levels[test])]))


@dataclass(frozen=True, eq=False)
class DCI:
    """Disentanglement, completeness and informativeness of a representation.

    Attributes
    ----------
    disentanglement : float
        How far each code serves one factor only, from 0 to 1.
    completeness : float
        How far each factor is held by one code only, from 0 to 1.
    informativeness : float
        How well the factors are predicted from all codes: the mean of ``accuracy``.
    importance : pandas.DataFrame
        Of each code for each factor, ``(D, F)``; columns sum to 1, weighted ones to their weight.
    accuracy : pandas.Series
        Of the prediction of each factor on held-out rows.
    chance : pandas.Series
        The accuracy of always predicting the commonest value.
    settings : Mapping of str to Any
        What the values depend on.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: pd.DataFrame
    accuracy: pd.Series
    chance: pd.Series
    settings: Mapping[str, Any]

    def weighted(self) -> DCI:
        """Return the same with importance weighted by accuracy above chance.

        Each column is multiplied by (accuracy - chance) / (1 - chance), or 0 if that is negative.
        What trees split on where a factor cannot be predicted then counts for nothing: the factor
        adds nothing to disentanglement, and 0 to completeness.
        """
        if self.settings["weighted"]:
            return self
        above = ((self.accuracy - self.chance) / (1 - self.chance)).clip(lower=0)
        settings = {**self.settings, "weighted": True}
        return _judged(self.importance * above, self.accuracy, self.chance, settings)

    def __repr__(self) -> str:
        return (
            f"dci disentanglement {shown(self.disentanglement)}, completeness "
            f"{shown(self.completeness)}, informativeness {shown(self.informativeness)} "
            f"({in_words(self.settings)})"
        )


def dci(
    codes: Any,
    factors: Any,
    *,
    predictor: str = "trees",
    trees: int = 100,
    ensembles: int = 1,
    weighted: bool = False,
    test_share: float = 0.25,
    seed: int = 0,
) -> DCI:
    r"""Return disentanglement, completeness and informativeness of a representation.

    Each factor is predicted from all codes. With R the importance of code d for factor k, its
    columns brought to the sum 1, and entropies H to the base of the number of entries:

    .. math::
        D = \sum_d \rho_d \,\bigl(1 - H_F(R_{d\cdot} / \textstyle\sum_k R_{dk})\bigr), \quad
        \rho_d = \frac{\sum_k R_{dk}}{\sum_{dk} R_{dk}}; \qquad
        C = \frac1F \sum_k \bigl(1 - H_D(R_{\cdot k})\bigr)

    Informativeness is the mean accuracy on held-out rows.

    Parameters
    ----------
    codes, factors
        As in :func:`vaeppl.representation.mutual_information`.
    predictor
        ``"trees"``: gradient-boosted trees of depth 3; importance is the gain at the splits.
        ``"lasso"``: linear support vector machines with an L1 penalty, one class against the
        others; importance is the size of the coefficients.
    trees
        Boosting steps; each takes a tree for each value of a factor, so that a factor of many
        values takes long (1000 rows, 10 codes and 8 values: three seconds).
    ensembles
        Ensembles of trees, of seeds that follow each other, over which importance is averaged.
        One ensemble breaks the tie between two equal codes by chance.
    weighted
        Weight each column of R by accuracy above chance (:meth:`DCI.weighted`). As published it
        is not, so that what trees split on where a factor cannot be predicted counts like a
        finding.
    test_share
        Share of the rows on which accuracy is found; 0 takes those that were trained on.
    seed
        Fixes the choice of these rows and the trees.

    Returns
    -------
    DCI
        Where no code has any importance for a factor, as where all are constant, each has 1/D.
        Weighted values are 0 where no factor is predicted better than by chance. With one code C
        is 1, with one factor D is.

    Raises
    ------
    ColumnError
        If codes are not finite, or factors are missing or constant.

    Notes
    -----
    Codes are standardised first; their order, scale and sign do not matter but for the ties that
    trees break.

    References
    ----------
    Eastwood and Williams (2018), "A framework for the quantitative evaluation of disentangled
    representations", section 2.

    Examples
    --------
    >>> import numpy as np
    >>> factors = np.stack(np.meshgrid(range(4), range(4)), -1).reshape(-1, 2)
    >>> dci(-factors, factors, trees=10, test_share=0)
    dci disentanglement 1.000, completeness 1.000, informativeness 1.000 (rows=16,
    predictor='trees', trees=10, ensembles=1, weighted=False, test_share=0, seed=0)
    """
    import pandas as pd

    data = paired(codes, factors)
    if predictor not in PREDICTORS:
        raise ValueError(unknown_name("predictor", predictor, PREDICTORS))
    for name, number in (("trees", trees), ("ensembles", ensembles)):
        if number < 1:
            raise ValueError(f"{name} is at least 1; given {number}")
    size: dict[str, Any] = {"trees": trees, "ensembles": ensembles} if predictor == "trees" else {}
    found = [_importance(data, k, test_share, seed, **size) for k in range(data.levels.shape[1])]
    names = data.factor_names
    chance = [np.bincount(levels).max() / len(levels) for levels in data.levels.T]
    settings = {"rows": len(data.codes), "predictor": predictor, **size, "weighted": False}
    plain = _judged(
        pd.DataFrame(np.stack([i for i, _ in found], 1), data.code_names, names),
        pd.Series([accuracy for _, accuracy in found], names),
        pd.Series(chance, names),
        {**settings, "test_share": test_share, "seed": seed},
    )
    return plain.weighted() if weighted else plain


def _judged(
    importance: pd.DataFrame, accuracy: pd.Series, chance: pd.Series, settings: dict[str, Any]
) -> DCI:
    """Compute the three values from the importance of codes for factors."""
    table = importance.to_numpy()
    values = (_disentanglement(table), _completeness(table), float(accuracy.mean()))
    return DCI(*values, importance, accuracy, chance, settings)


def _importance(
    data: Paired, k: int, test_share: float, seed: int, trees: int = 0, ensembles: int = 1
) -> tuple[np.ndarray, float]:
    """Return the importance of each code for a factor, and the accuracy on held-out rows."""
    z, levels = standardised(data.codes), data.levels[:, k]
    train, test = split(levels, test_share, seed)
    total, accuracy = np.zeros(z.shape[1]), 0.0
    for number in range(ensembles):
        model = _boosted(trees, seed + number) if trees else _lasso()
        # Without any gain, importance is 0 / 0.
        with np.errstate(invalid="ignore"):
            model.fit(z[train], levels[train])
            total += np.nan_to_num(_importance_of(model))
        accuracy += float((model.predict(z[test]) == levels[test]).mean()) / ensembles
    return (total / total.sum() if total.sum() else np.full(len(total), 1 / len(total))), accuracy


def _boosted(trees: int, seed: int) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(n_estimators=trees, random_state=seed)


def _lasso() -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(penalty="l1", dual=False, max_iter=10_000)


def _importance_of(model: Any) -> np.ndarray:
    if hasattr(model, "coef_"):
        return np.abs(model.coef_).sum(0)
    return np.asarray(model.feature_importances_)


def _disentanglement(importance: np.ndarray) -> float:
    mass = importance.sum(1)
    if not mass.any():
        return 0.0
    purity = np.array([1 - _relative_entropy(row) for row in importance])
    return max(0.0, float(mass / mass.sum() @ purity))


def _completeness(importance: np.ndarray) -> float:
    return max(0.0, float(np.mean([1 - _relative_entropy(column) for column in importance.T])))


def _relative_entropy(weights: np.ndarray) -> float:
    """Return the entropy of weights to the base of their number; 1 where all are 0."""
    if not weights.any():
        return 1.0
    if len(weights) == 1:
        return 0.0
    p = weights[weights > 0] / weights.sum()
    return float(-(p * np.log(p)).sum() / np.log(len(weights)))


def explicitness(
    codes: Any,
    factors: Any,
    *,
    test_share: float = 0.25,
    seed: int = 0,
) -> Score:
    r"""Return how well linear classifiers read the factors' values off all codes.

    For each value j of each factor k, logistic regression tells it from the other values; with
    AUC the area under its receiver operating characteristic on held-out rows:

    .. math::
        \mathrm{explicitness} = \operatorname{mean}_{jk} \bigl( 2\,\mathrm{AUC}_{jk} - 1 \bigr)

    Parameters
    ----------
    codes, factors
        As in :func:`vaeppl.representation.mutual_information`.
    test_share
        Share of the rows on which AUC is found; 0 takes those that were trained on.
    seed
        Fixes the choice of these rows.

    Returns
    -------
    Score
        Its ``parts`` are the means of the factors. Constant codes score 0. A value that only one
        row has is left out, unless ``test_share`` is 0.

    Raises
    ------
    ColumnError
        If codes are not finite, or factors are missing or constant.

    Notes
    -----
    Codes are standardised first, so that their scale does not matter; nor do order and sign. One
    plane cannot cut a middle value out of several along a line: a copy of a factor of three or
    more values scores below 1, unless each value has a code of its own.

    References
    ----------
    Ridgeway and Mozer (2018), "Learning deep disentangled embeddings with the F-statistic loss",
    section 3.

    Examples
    --------
    >>> import numpy as np
    >>> factors = np.tile([[0, 0], [0, 1], [1, 0], [1, 1]], (10, 1))
    >>> explicitness(factors, factors)
    explicitness 1.000 (rows=40, test_share=0.25, seed=0)
    """
    import pandas as pd

    data = paired(codes, factors)
    z = standardised(data.codes)
    means = []
    for levels in data.levels.T:
        train, test = split(levels, test_share, seed)
        told = [k for k in np.unique(levels[test]) if k in levels[train]]
        areas = [_area(z, levels == k, train, test) for k in told]
        means.append((float(np.sum(areas)), len(areas)))
    parts = pd.Series([2 * total / number - 1 for total, number in means], data.factor_names)
    value = 2 * sum(total for total, _ in means) / sum(number for _, number in means) - 1
    settings = {"rows": len(z), "test_share": test_share, "seed": seed}
    return Score("explicitness", value, parts, settings=settings)


def _area(z: np.ndarray, is_level: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """Return the AUC of a logistic regression that tells a value from the others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    model = LogisticRegression(max_iter=1000).fit(z[train], is_level[train])
    return float(roc_auc_score(is_level[test], model.decision_function(z[test])))
