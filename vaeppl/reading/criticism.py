"""Criticism of a story: statistics of the data beside those of data drawn from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data import Data, as_data
from ..errors import StoryError, unknown_name, whole_number
from ..pair import Pair, as_pair
from ..training.seeds import derived_seed
from . import tracing
from .predictive import ROWS_AT_ONCE, posterior_predictive, sample
from .sites import observed_columns

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PPCReport", "Statistic", "default_statistics", "posterior_predictive_check"]

Statistic = Callable[[np.ndarray], Any]

MOST_LEVELS = 10  # categories whose shares are told one by one
ROWS_TO_SEE_CODES = 1000
MOST_FIELDS = 10  # components of a mixed table that are told one by one


@dataclass(frozen=True)
class PPCReport:
    """A posterior (or prior) predictive check.

    Attributes
    ----------
    table : pandas.DataFrame
        For each statistic T: ``statistic``, ``observed`` T(x), ``mean``, ``sd``, ``lower`` (5%)
        and ``upper`` (95%) of T(x̃) over the replications, in the unit of the statistic, and
        ``p_value``, Pr(T(x̃) >= T(x)) with ties counted half. Near 0 or 1 the story misses the
        statistic.
    draws : dict of str to ndarray
        T(x̃) of each replication, ``(num_samples,)``.
    column : str
        The column that was replicated.
    kind : str
        ``"posterior"`` or ``"prior"``.
    """

    table: pd.DataFrame
    draws: dict[str, np.ndarray]
    column: str
    kind: str

    def __repr__(self) -> str:
        count = len(next(iter(self.draws.values())))
        head = f"{self.kind} predictive check of column {self.column!r} ({count} replications)"
        return f"{head}\n{self.table.to_string(index=False, float_format='{:.4g}'.format)}"


def posterior_predictive_check(
    source: Any,
    data: Any,
    *,
    guide: Any = None,
    statistics: Mapping[str, Statistic] | None = None,
    num_samples: int = 100,
    column: str | None = None,
    seed: int = 0,
    kind: str = "posterior",
) -> PPCReport:
    """Compare statistics of the data with those of data sets replicated from the story.

    ::

        p = Pr(T(x̃) >= T(x)) + 1/2 Pr(T(x̃) = T(x)),   x̃ ~ p(x̃ | z), z ~ q(z | x)

    With ``kind="posterior"`` each replicated row has its own row's latents, so the check is mild:
    it asks whether the likelihood fits around the reconstructions. With ``kind="prior"`` the
    latents of the rows are drawn anew from the story, so it also asks whether prior and decoder
    together make data like these; p is then uniform if the story is true.

    Parameters
    ----------
    source
        A :class:`~vaeppl.Fit`, a model, or a model function with its ``guide``.
    data
        Rows to compare with, as in :func:`vaeppl.fit`.
    statistics
        Names and functions of one array ``(N, D)`` (a row's entries laid out flat, missing ones
        NaN) that return a number. ``None``: see :func:`default_statistics`.
    num_samples
        Replicated data sets. One is held in memory at a time.
    column
        The column to replicate; the first that the story observes if ``None``.
    seed
        Fixes the draws.
    kind
        ``"posterior"`` or ``"prior"``. Latents outside the plate of rows are treated in the
        latter as in :func:`vaeppl.sample`: a fit draws them from its guide, a bare model from
        their prior.

    Returns
    -------
    PPCReport

    Raises
    ------
    ValueError
        If a statistic does not return one number, or returns NaN.
    StoryError
        If the story does not observe the column.

    References
    ----------
    Gelman, Meng and Stern (1996), "Posterior predictive assessment of model fitness via realized
    discrepancies", Statistica Sinica 6.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> ones = {"most ones in a row": lambda x: x.sum(1).max()}
    >>> report = posterior_predictive_check(VAE(6, 2, hidden=(4,)), {"x": x}, statistics=ones)
    >>> report.draws["most ones in a row"].shape
    (100,)
    """
    if kind not in ("posterior", "prior"):
        raise ValueError(unknown_name("kind of check", kind, ["posterior", "prior"]))
    whole_number("num_samples", num_samples, 1)
    pair, data = as_pair(source, guide), as_data(data)
    rows = tracing.resident(pair, data)
    column = _column(pair, rows, column)
    if statistics is None:
        statistics = default_statistics(data, column)
    x = _observed(pair, rows, column)
    observed = _evaluate(statistics, x, "the data")
    replicate = _replicator(kind, source, pair, rows)
    lines = []
    for number in range(num_samples):
        rep = replicate(rows, column, derived_seed(seed, number)).reshape(x.shape)
        rep = np.where(np.isnan(x), np.nan, rep) if np.isnan(x).any() else rep
        lines.append(_evaluate(statistics, rep, "a replication"))
    draws = {name: np.array([line[name] for line in lines]) for name in statistics}
    return PPCReport(_table(observed, draws), draws, column, kind)


def _column(pair: Pair, rows: Data, column: str | None) -> str:
    observed = observed_columns(pair, rows)
    if not observed:
        raise StoryError(f"{pair.name} observes none of the columns {', '.join(rows.keys())}")
    if column is not None and column not in observed:
        raise StoryError(
            f"{pair.name} does not observe column {column!r}; it observes {', '.join(observed)}"
        )
    return column or observed[0]


def _observed(pair: Pair, rows: Data, column: str) -> np.ndarray:
    """Return the column as the story sees it, a row's entries laid out flat."""
    batches = tracing.batches(pair, rows, ROWS_AT_ONCE)
    values = batches.joined([{column: b[column].cpu()} for b in batches])[column]
    x: np.ndarray = values.reshape(len(rows), -1).numpy()
    return x


def _replicator(kind: str, source: Any, pair: Pair, rows: Data) -> Callable[..., np.ndarray]:
    """Return a function of rows, column and seed that draws the column anew."""
    if kind == "posterior":
        return partial(_posterior, pair)
    observed = observed_columns(pair, rows)
    inputs = [c for c in rows if c not in observed and c not in pair.partly_observed]
    # A fit goes as it is: it knows the data from which its guide draws what rows share.
    holder = source if hasattr(source, "pair") else pair
    return partial(_prior, holder, given=rows.columns(*inputs) if inputs else None)


def _posterior(pair: Pair, rows: Data, column: str, seed: int) -> np.ndarray:
    drawn = posterior_predictive(pair, rows, num_samples=1, seed=seed)[column]
    replicated: np.ndarray = drawn[0].cpu().numpy()
    return replicated


def _prior(source: Any, rows: Data, column: str, seed: int, *, given: Data | None) -> np.ndarray:
    drawn = sample(source, len(rows), given=given, seed=seed)[column]
    replicated: np.ndarray = drawn.cpu().numpy()
    return replicated


def _table(observed: Mapping[str, float], draws: Mapping[str, np.ndarray]) -> pd.DataFrame:
    import pandas as pd

    lines = []
    for name, t in observed.items():
        rep = draws[name]
        lower, upper = np.quantile(rep, [0.05, 0.95])
        sd = rep.std(ddof=1) if len(rep) > 1 else np.nan
        p = (rep > t).mean() + 0.5 * (rep == t).mean()
        lines.append((name, t, rep.mean(), sd, lower, upper, p))
    columns = ["statistic", "observed", "mean", "sd", "lower", "upper", "p_value"]
    return pd.DataFrame(lines, columns=columns)


# --- statistics ---


def _evaluate(statistics: Mapping[str, Statistic], x: np.ndarray, of_what: str) -> dict[str, float]:
    return {name: _number(name, statistic, x, of_what) for name, statistic in statistics.items()}


def _number(name: str, statistic: Statistic, x: np.ndarray, of_what: str) -> float:
    value = np.asarray(statistic(x))
    if value.size != 1 or value.dtype.kind not in "biuf":
        what = f"shape {value.shape}" if value.size != 1 else f"type {value.dtype}"
        raise ValueError(
            f"statistic {name!r} returned an array of {what} for {of_what}; it must turn an array "
            f"(N, D), here {x.shape}, into one number"
        )
    number = float(value.reshape(()))
    if np.isnan(number):
        holes = int(np.isnan(x).sum())
        hint = "; take np.nanmean and its sisters for missing entries" if holes else ""
        raise ValueError(
            f"statistic {name!r} is NaN for {of_what} (array {x.shape}, {holes} of its entries "
            f"NaN){hint}"
        )
    return number


def default_statistics(data: Data, column: str) -> dict[str, Statistic]:
    """Return the statistics that suit the kind of a column's values.

    All entries of a column are pooled: mean, sd, quantiles, the largest, the share of zeros. The
    sd over rows of the row's mean tells whether the entries of a row hang together as they do in
    the data. Categories have the share of each level. Tables of up to ten real components, and
    mixed ones, have the mean (and sd) of each component, the first ten of them: their units
    differ.

    Parameters
    ----------
    data, column
        The data and the name of the column.

    Returns
    -------
    dict of str to callable
        Functions of an array ``(N, D)``; entries that are NaN are left out.

    Examples
    --------
    >>> from vaeppl.data import Data
    >>> list(default_statistics(Data({"x": [[1.0, 0.0], [4.0, 2.0]]}), "x"))
    ['mean', 'sd', 'sd of row means', 'share of zeros', '95% quantile', 'max']
    """
    kind = data.kind(column)
    width = math.prod(data.shape(column))
    table = kind in ("positive", "real") and 1 < width <= MOST_FIELDS
    if kind == "mixed" or (table and column not in data.image_shape):
        return dict(_of_components(data, column))
    if kind == "categorical":
        return dict(_of_levels(data, column))
    wide = width > 1
    named = {
        "binary": ["mean"],
        "count": ["mean", "sd", "share of zeros", "95% quantile", "max"],
        "unit": ["mean", "sd", "share of zeros", "5% quantile", "95% quantile"],
    }.get(kind, ["mean", "sd", "5% quantile", "95% quantile", "min", "max"])
    if wide:
        named.insert(1 if kind == "binary" else 2, "sd of row means")
    if wide and kind == "binary":
        named += ["lowest column mean", "highest column mean"]
    return {name: _STATISTICS[name] for name in named}


def _of_levels(data: Data, column: str) -> Iterator[tuple[str, Statistic]]:
    """Yield the share of each level, over all components of a column."""
    levels = data.levels(column)
    some = data.take(range(min(ROWS_TO_SEE_CODES, len(data))))[column].flatten().double()
    codes = range(len(levels)) if levels else some[some.isfinite()].unique().int().tolist()
    for code in codes[:MOST_LEVELS]:
        yield f"share of {levels[code] if levels else code}", partial(_share, code=code)


def _of_components(data: Data, column: str) -> Iterator[tuple[str, Statistic]]:
    for number, field in enumerate(data.fields(column)[:MOST_FIELDS]):
        yield f"mean of {field.name}", partial(_component_mean, number=number)
        if field.kind not in ("binary", "categorical"):
            yield f"sd of {field.name}", partial(_component_sd, number=number)


def _mean(x: np.ndarray) -> float:
    return float(np.nanmean(x, dtype=np.float64))


def _sd(x: np.ndarray) -> float:
    return float(np.nanstd(x, dtype=np.float64))


def _share(x: np.ndarray, code: float = 0.0) -> float:
    return float((x == code).sum() / np.isfinite(x).sum())


def _quantile(x: np.ndarray, q: float) -> float:
    return float(np.nanquantile(x, q))


def _axis_means(x: np.ndarray, axis: int) -> np.ndarray:
    """Means along an axis, leaving out lines in which every entry is missing."""
    count = np.isfinite(x).sum(axis)
    total = np.asarray(np.nansum(x, axis=axis, dtype=np.float64))
    means: np.ndarray = total[count > 0] / count[count > 0]
    return means


def _component_mean(x: np.ndarray, number: int) -> float:
    return _mean(x[:, number])


def _component_sd(x: np.ndarray, number: int) -> float:
    return _sd(x[:, number])


_STATISTICS: dict[str, Statistic] = {
    "mean": _mean,
    "sd": _sd,
    "sd of row means": lambda x: float(_axis_means(x, 1).std()),
    "share of zeros": _share,
    "5% quantile": partial(_quantile, q=0.05),
    "95% quantile": partial(_quantile, q=0.95),
    "min": np.nanmin,
    "max": np.nanmax,
    "lowest column mean": lambda x: float(_axis_means(x, 0).min()),
    "highest column mean": lambda x: float(_axis_means(x, 0).max()),
}
