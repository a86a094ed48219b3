"""All metrics of a representation in one table, with bands over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ColumnError, unknown_name
from ._arrays import paired
from .correlation import as_scales, total_correlation
from .fixed_factor import beta_vae_score, factor_vae_score
from .information import mig, modularity
from .prediction import DCI, dci, explicitness, sap
from .scores import Score, in_words

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["METRICS", "report"]

METRICS = (
    "mig",
    "sap",
    "modularity",
    "explicitness",
    "dci",
    "beta_vae_score",
    "factor_vae_score",
    "total_correlation",
)
OF_TWO_FACTORS = ("modularity", "beta_vae_score", "factor_vae_score")

Metric = Callable[[Any, Any, Any, int], Any]


def report(
    codes: Any,
    factors: Any,
    *,
    scales: Any = None,
    metrics: Iterable[str] | None = None,
    categorical: Sequence[Any] = (),
    bins: int = 20,
    trees: int = 100,
    most_rows: int = 10_000,
    most_rows_dci: int = 2_000,
    repeats: int = 5,
    level: float = 0.9,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the metrics of a representation, with bands over seeds.

    A seed chooses rows where there are more than enough, rows held out, rows compared, and trees.
    Where all rows are used, MIG, modularity, SAP of ordered factors and the Gaussian total
    correlation do not depend on it, so their bands have no width: a band does not hold the
    variation of data or of fits. For that, report several fits.

    Parameters
    ----------
    codes, factors
        As in :func:`vaeppl.representation.mutual_information`. Say whether means or draws of
        q(z | x) are judged; published tables take means.
    scales
        Standard deviations of q(z | x), ``(N, D)``, to judge the total correlation of q(z) with
        by stratified sampling; ``None``: the Gaussian one of the codes.
    metrics
        Names of the functions wanted; all if ``None`` (with one factor, those that take one).
    categorical
        Factors, by number or by name, whose values have no order (:func:`sap`).
    bins
        Of mutual information (:func:`mig`, :func:`modularity`).
    trees
        Boosting steps (:func:`dci`).
    most_rows
        Rows of a seed, drawn without replacement; all if there are no more.
    most_rows_dci
        The same for :func:`dci`, which takes by far the longest.
    repeats
        Seeds, which follow each other.
    level
        Share of the seeds that a band holds.
    seed
        The first seed.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``metric``: the mean ``value`` over seeds, ``low`` and ``high`` (quantiles),
        ``seeds``, ``rows`` of a seed, and ``settings`` in words. DCI has four lines: the last
        is the disentanglement weighted by accuracy above chance (:meth:`DCI.weighted`).
        A metric that cannot be had of these rows has no value, 0 seeds, and the reason among its
        settings.

    Raises
    ------
    ColumnError
        As the functions of the metrics, if none of them can be had.
    ValueError
        If there is no such metric.

    References
    ----------
    Locatello et al. (2019), "Challenging common assumptions in the unsupervised learning of
    disentangled representations", compare the metrics: most correlate mildly, and seeds matter
    more than models.

    Examples
    --------
    >>> import numpy as np
    >>> factors = np.stack(np.meshgrid(range(4), range(4)), -1).reshape(-1, 2)
    >>> table = report(factors, factors, metrics=["mig", "sap"], bins=10, repeats=2)
    >>> table["value"].round(3).to_dict()
    {'mig': 1.0, 'sap': 1.0}
    """
    import pandas as pd

    data = paired(codes, factors)
    data.chosen(categorical)  # a name that is none is a fault of the call, not of one metric
    sigma = None if scales is None else as_scales(scales, data.codes)
    z = pd.DataFrame(data.codes, columns=data.code_names)
    v = pd.DataFrame(data.factors, columns=data.factor_names)
    functions = _functions(categorical, bins, trees)
    wanted = _wanted(metrics, len(data.factor_names))

    def of_seeds(name: str) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        most = most_rows_dci if name == "dci" else most_rows
        for number in range(seed, seed + repeats):
            rows = _some_rows(len(z), most, number)
            part = None if sigma is None else sigma[rows]
            lines += _lines(functions[name](z.iloc[rows], v.iloc[rows], part, number))
        return lines

    return _summary(pd.DataFrame(_all(of_seeds, wanted, len(z))), level)


def _all(
    lines_of: Callable[[str], list[dict[str, Any]]], metrics: Sequence[str], rows: int
) -> list[dict[str, Any]]:
    """Return the lines of all metrics; the reason for one that cannot be had, if others can."""
    lines: list[dict[str, Any]] = []
    refused: list[ColumnError] = []
    for name in metrics:
        try:
            lines += lines_of(name)
        except ColumnError as error:
            refused.append(error)
            reason = f"not to be had: {error}"
            line = {"metric": name, "value": np.nan, "seeds": 0, "rows": rows}
            lines.append({**line, "settings": reason})
    if refused and len(refused) == len(metrics):
        raise refused[0]
    return lines


def _wanted(metrics: Iterable[str] | None, num_factors: int) -> list[str]:
    """Return the metrics asked for, in the order of a report."""
    if metrics is None:
        return [m for m in METRICS if num_factors > 1 or m not in OF_TWO_FACTORS]
    asked = [metrics] if isinstance(metrics, str) else list(metrics)
    for name in asked:
        if name not in METRICS:
            raise ValueError(unknown_name("metric", name, METRICS))
    return [m for m in METRICS if m in asked]


def _functions(categorical: Sequence[Any], bins: int, trees: int) -> dict[str, Metric]:
    """Return the metrics as functions of codes, factors, scales and a seed."""
    return {
        "mig": lambda z, v, s, seed: mig(z, v, bins=bins),
        "sap": lambda z, v, s, seed: sap(z, v, categorical=categorical, seed=seed),
        "modularity": lambda z, v, s, seed: modularity(z, v, bins=bins),
        "explicitness": lambda z, v, s, seed: explicitness(z, v, seed=seed),
        "dci": lambda z, v, s, seed: dci(z, v, trees=trees, seed=seed),
        "beta_vae_score": lambda z, v, s, seed: beta_vae_score(z, v, seed=seed),
        "factor_vae_score": lambda z, v, s, seed: factor_vae_score(z, v, seed=seed),
        "total_correlation": lambda z, v, s, seed: (
            total_correlation(z)
            if s is None
            else total_correlation(z, s, method="stratified", seed=seed)
        ),
    }


def _some_rows(rows: int, most: int, seed: int) -> np.ndarray:
    """Return all rows, or so many drawn at random."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.RandomState(seed).permutation(rows)[:most])


def _lines(found: Score | DCI) -> list[dict[str, Any]]:
    """Return the values of a metric with what they depend on beside the seed."""
    settings = {k: v for k, v in found.settings.items() if k not in ("rows", "seed", "weighted")}
    values = {found.metric: found.value} if isinstance(found, Score) else _values_of_dci(found)
    same = {"seeds": 1, "rows": found.settings["rows"], "settings": in_words(settings)}
    return [{"metric": name, "value": value, **same} for name, value in values.items()]


def _values_of_dci(found: DCI) -> dict[str, float]:
    return {
        "dci_disentanglement": found.disentanglement,
        "dci_completeness": found.completeness,
        "dci_informativeness": found.informativeness,
        "dci_disentanglement_weighted": found.weighted().disentanglement,
    }


def _summary(lines: pd.DataFrame, level: float) -> pd.DataFrame:
    import pandas as pd

    groups = lines.groupby("metric", sort=False)
    value = groups["value"]
    bands = {
        "value": value.mean(),
        "low": value.quantile((1 - level) / 2),
        "high": value.quantile((1 + level) / 2),
        "seeds": groups["seeds"].sum(),
    }
    return pd.DataFrame(bands).join(groups[["rows", "settings"]].first())
