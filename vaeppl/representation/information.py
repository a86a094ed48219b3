"""Metrics of mutual information between single codes and factors: MIG and modularity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ColumnError, unknown_name
from ._arrays import Paired, paired
from .scores import Score

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["mig", "modularity", "mutual_information"]

BINNINGS = ("width", "quantile")
LEAST_NATS = 1e-12  # what rounding leaves of the mutual information of independent counts
EDGE_DIGITS = 9  # of a place among the bins, so that rounding moves no value over an edge


def mutual_information(
    codes: Any, factors: Any, *, bins: int = 20, binning: str = "width"
) -> pd.DataFrame:
    """Return the mutual information of each code with each factor, in nats.

    The plug-in estimate from counts, I = Σ p(b, k) log p(b, k) / p(b) p(k) over bins b of the code
    and values k of the factor. Where the two are independent it is not 0 but about
    (B - 1)(K - 1) / 2N for B bins in use, K values and N rows.

    Parameters
    ----------
    codes
        Latents of the rows, ``(N, D)``: an array, a tensor or a data frame.
    factors
        Known factors of the rows, ``(N, F)``: whole numbers, none negative. The columns of a data
        frame give them their names, and so do those of :class:`vaeppl.data.Data`:
        ``data.columns("factors")``.
    bins
        Bins of each code; a code of more values loses what its bins merge, and one of fewer values
        fills as many bins as it has values at most.
    binning
        ``"width"``: bins of equal width from the smallest to the largest value, as published. One
        outlier then puts all other rows into few bins. ``"quantile"``: bins of equal numbers of
        rows, which monotone maps of a code do not change.

    Returns
    -------
    pandas.DataFrame
        ``(D, F)``.

    Raises
    ------
    ColumnError
        If codes are not finite, factors are missing or constant, or rows are fewer than bins,
        but for codes each value of which has two rows on average.

    Notes
    -----
    Neither the order of the codes nor their scale or shift matters, nor their sign, but for values
    on the very edge of a bin, which go into the upper one.

    Examples
    --------
    >>> z, k = [[0.0, 0.3], [0.0, 0.1], [1.0, 0.1], [1.0, 0.3]], [0, 0, 1, 1]
    >>> mutual_information(z, k, bins=2).round(3)[0].tolist()
    [0.693, 0.0]
    """
    return _table(paired(codes, factors), bins, binning)


def mig(codes: Any, factors: Any, *, bins: int = 20, binning: str = "width") -> Score:
    r"""Return the mutual information gap of a representation.

    For each factor v_k the gap between the two codes that know most of it, in units of its
    entropy:

    .. math::
        \mathrm{MIG} = \frac1F \sum_k \frac{I(z_{(1)}; v_k) - I(z_{(2)}; v_k)}{H(v_k)}

    1 where each factor is told by one code, and by that alone. 0 where two codes tell each factor
    equally well, as any rotation that mixes them tends to do.

    Parameters
    ----------
    codes, factors, bins, binning
        As in :func:`mutual_information`. The paper took 20 bins and 10 000 rows; a factor of more
        than 20 values cannot reach 1 then.

    Returns
    -------
    Score
        Its ``parts`` are the gaps of the factors, its ``matrix`` the mutual information in nats.
        With one code only, the second best knows nothing. Constant codes score 0.

    Raises
    ------
    ColumnError
        As :func:`mutual_information`.

    References
    ----------
    Chen, Li, Grosse and Duvenaud (2018), "Isolating sources of disentanglement in variational
    autoencoders", section 4.

    Examples
    --------
    >>> import numpy as np
    >>> factors = np.stack(np.meshgrid(range(4), range(4)), -1).reshape(-1, 2)
    >>> mig(factors * [1.0, -2.0], factors, bins=10)
    mig 1.000 (rows=16, bins=10, binning='width')
    >>> float(mig(factors @ [[1, 1], [1, -1]], factors, bins=10))
    0.0
    """
    import pandas as pd

    data = paired(codes, factors)
    table = _table(data, bins, binning)
    entropy = np.array([_entropy(np.bincount(levels)) for levels in data.levels.T])
    gaps = pd.Series(two_best(table.to_numpy()) / entropy, index=table.columns)
    settings = {"rows": len(data.codes), "bins": bins, "binning": binning}
    return Score("mig", float(gaps.mean()), gaps, table, settings)


def modularity(codes: Any, factors: Any, *, bins: int = 20, binning: str = "width") -> Score:
    r"""Return how far each code depends on one factor only.

    With m the mutual information of a code with each of the F factors, and θ the largest entry:

    .. math::
        \mathrm{modularity} = 1 - \frac{\sum_{k \ne k^*} m_k^2}{\theta^2 (F - 1)},

    the mean over codes; k* is the factor of the largest entry.

    Parameters
    ----------
    codes, factors, bins, binning
        As in :func:`mutual_information`.

    Returns
    -------
    Score
        Its ``parts`` are the terms of the codes, its ``matrix`` the mutual information in nats.
        Codes that depend on no factor, constant ones among them, have the term NaN, and the mean
        leaves them out (it is NaN if there are no others).

    Raises
    ------
    ColumnError
        As :func:`mutual_information`, and if there is one factor only.

    Notes
    -----
    It says nothing about how much a code knows: codes of pure noise score about 0.3 with three
    factors, by the chance differences of their estimated mutual information. Read it beside
    :func:`explicitness`.

    References
    ----------
    Ridgeway and Mozer (2018), "Learning deep disentangled embeddings with the F-statistic loss",
    section 3.

    Examples
    --------
    >>> import numpy as np
    >>> factors = np.stack(np.meshgrid(range(4), range(4)), -1).reshape(-1, 2)
    >>> float(modularity(factors, factors, bins=10))
    1.0
    >>> float(modularity(factors @ [[1, 1], [1, -1]], factors, bins=10))
    0.0
    """
    import pandas as pd

    data = paired(codes, factors, least_factors=2)
    table = _table(data, bins, binning)
    m = table.to_numpy()
    largest = np.where(m.max(1) > LEAST_NATS, m.max(1), np.nan)
    others = np.square(m).sum(1) - np.square(m.max(1))
    terms = pd.Series(1 - others / (np.square(largest) * (m.shape[1] - 1)), index=table.index)
    settings = {"rows": len(data.codes), "bins": bins, "binning": binning}
    return Score("modularity", float(terms.mean()), terms, table, settings)


def two_best(matrix: np.ndarray) -> np.ndarray:
    """Return the largest less the second largest entry of each column; of one row, the entry."""
    ordered = np.sort(matrix, axis=0)
    gap: np.ndarray = ordered[-1] - (ordered[-2] if len(ordered) > 1 else 0.0)
    return gap


def _table(data: Paired, bins: int, binning: str) -> pd.DataFrame:
    import pandas as pd

    _check_bins(data, bins, binning)
    places = [_binned(z, bins, binning) for z in data.codes.T]
    entries = [[_information(b, k) for k in data.levels.T] for b in places]
    return pd.DataFrame(entries, index=data.code_names, columns=data.factor_names)


def _check_bins(data: Paired, bins: int, binning: str) -> None:
    if binning not in BINNINGS:
        raise ValueError(unknown_name("binning", binning, BINNINGS))
    if bins < 2:
        raise ValueError(f"bins is at least 2; given {bins}")
    rows = len(data.codes)
    if rows >= bins:
        return
    for name, values in zip(data.code_names, data.codes.T, strict=True):
        # A code of few values fills no more bins than those, however many there are.
        if 2 * (distinct := len(np.unique(values))) > rows:
            raise ColumnError(
                f"{rows} rows are fewer than {bins} bins, and code {name!r} has {distinct} values "
                "in them, so no mutual information can be estimated; give more rows or fewer bins"
            )


def _binned(values: np.ndarray, bins: int, binning: str) -> np.ndarray:
    """Return the number of the bin of each value."""
    span = np.ptp(values)
    if span == 0:
        return np.zeros(len(values), dtype=np.int64)
    if binning == "quantile":
        shares = np.arange(1, bins) / bins
        edges = np.unique(np.quantile(values, shares, method="inverted_cdf"))
        return np.searchsorted(edges, values, side="right")
    place = np.round((values - values.min()) / span * bins, EDGE_DIGITS)
    return np.minimum(place.astype(np.int64), bins - 1)


def _information(places: np.ndarray, levels: np.ndarray) -> float:
    """Return the plug-in mutual information of two numberings, in nats."""
    number = int(levels.max()) + 1
    joint = np.bincount(places * number + levels, minlength=(int(places.max()) + 1) * number)
    table = joint.reshape(-1, number)
    information = _entropy(table.sum(0)) + _entropy(table.sum(1)) - _entropy(joint)
    return max(0.0, information)


def _entropy(counts: np.ndarray) -> float:
    """Return the entropy of relative frequencies, in nats."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())
