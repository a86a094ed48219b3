"""From a table, a pandas DataFrame, to `Data`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .columns import Field
from .dataset import Data
from .errors import DataError, did_you_mean
from .kinds import kind_of_values
from .stores import check_dtype

__all__ = ["frame_column", "from_frame"]


def from_frame(
    df: Any,
    columns: Mapping[str, str | Sequence[str]] | None = None,
    name: str = "frame",
    *,
    dtype: torch.dtype | None = None,
) -> Data:
    """Make `Data` of a pandas DataFrame.

    Text and categories become integer codes with levels, booleans become 0 and 1, and missing
    entries become NaN.

    Parameters
    ----------
    df : pandas.DataFrame
        The table, one row an observation.
    columns : mapping, optional
        From column name, as the model knows it, to one column of the table (values of shape
        (N,)) or a list of them (values of shape (N, D), one field each). All columns of the
        table go into ``"x"`` if None.
    name : str
        What reports call the data.
    dtype : torch.dtype, optional
        Floating type of the values, as in `Data`.

    Returns
    -------
    Data

    Raises
    ------
    DataError
        If a column is not in the table, or holds dates or other things that are no numbers.

    Examples
    --------
    >>> import pandas as pd
    >>> df = pd.DataFrame({"mass": [1.5, 2.0, 3.1], "sex": ["f", "m", "f"]})
    >>> data = from_frame(df, {"x": ["mass", "sex"], "y": "sex"})
    >>> data.shape("x"), data.kind("x"), data.levels("y")
    ((2,), 'mixed', ('f', 'm'))
    """
    wanted = {"x": list(df.columns)} if columns is None else columns
    if not isinstance(wanted, Mapping):
        raise DataError(
            "columns must map names that the model knows to columns of the table, such as "
            f"{{'x': ['length', 'mass'], 'y': 'rings'}}; not {wanted!r}"
        )
    arrays, fields = {}, {}
    for key, chosen in wanted.items():
        single = isinstance(chosen, str) or not isinstance(chosen, Sequence)
        parts = [frame_column(df, part) for part in ([chosen] if single else chosen)]
        if not parts:
            raise DataError(f"column {key!r} is made of no column of the table; name at least one")
        fields[key] = tuple(field for _, field in parts)
        arrays[key] = (
            parts[0][0] if single else np.stack([v.astype(np.float64) for v, _ in parts], axis=1)
        )
    return Data(arrays, name=name, fields=fields, dtype=dtype)


def frame_column(df: Any, column: Any) -> tuple[np.ndarray, Field]:
    """Numbers of one column of a table, and what they are.

    Parameters
    ----------
    df : pandas.DataFrame
    column : hashable
        Its name in the table.

    Returns
    -------
    values : ndarray, shape (N,)
        Codes, where the column holds text or categories; NaN where an entry is missing.
    field : Field

    Raises
    ------
    DataError
        If there is no such column, or several, or it holds what cannot be made numbers.

    Examples
    --------
    >>> import pandas as pd
    >>> frame_column(pd.DataFrame({"sex": ["m", "f", "m"]}), "sex")[0]
    array([1, 0, 1])
    """
    import pandas as pd

    if column not in df.columns:
        raise DataError(
            f"the table has no column {column!r}; {did_you_mean(str(column), df.columns)}"
        )
    series = df[column]
    if getattr(series, "ndim", 1) != 1:
        raise DataError(f"the table has several columns called {column!r}; rename them")
    if series.dtype == object:
        series = _inferred(series)
    name = str(column)
    if series.dtype.kind in "cmM":
        check_dtype(name, series.dtype)  # which refuses it
    if pd.api.types.is_bool_dtype(series):
        return _plain_numbers(series), Field(name, "binary")
    if pd.api.types.is_numeric_dtype(series):
        return _numeric(name, series)
    return _categorical(name, series)


def _inferred(series: Any) -> Any:
    """Give an object column the type of what it holds: numbers, booleans, or text."""
    seen = series.dropna()
    if not len(seen):
        return series.astype("float64")  # nothing was observed
    if all(isinstance(value, (bool, np.bool_)) for value in seen):
        return series.astype("boolean")
    return series.infer_objects()


def _plain_numbers(series: Any) -> np.ndarray:
    """Integers where nothing is missing, otherwise floats with NaN."""
    if series.isna().any():
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    whole = series.dtype.kind in "biu"
    return np.asarray(series.to_numpy(dtype=np.int64 if whole else np.float64))


def _numeric(name: str, series: Any) -> tuple[np.ndarray, Field]:
    values = _plain_numbers(series)
    seen = values[np.isfinite(values)]
    kind = "real"
    if seen.size:
        whole = bool(np.all(seen == np.round(seen)))
        kind = kind_of_values(float(seen.min()), float(seen.max()), whole)
    return values, Field(name, kind)


def _categorical(name: str, series: Any) -> tuple[np.ndarray, Field]:
    """Codes of text or categories; NaN where an entry is missing."""
    for row, value in enumerate(series):
        if not (isinstance(value, (str, int, float, bool, np.generic)) or _is_missing(value)):
            raise DataError(
                f"column {name!r} holds {value!r} at row {row}; expected numbers, text or "
                "categories"
            )
    # Mixed types cannot be sorted, text can.
    category = series if series.dtype.name == "category" else _as_text(series).astype("category")
    codes = category.cat.codes.to_numpy()
    levels = tuple(str(level) for level in category.cat.categories)
    values = codes.astype(np.int64)
    if (codes < 0).any():
        values = np.where(codes < 0, np.nan, codes.astype(np.float64))
    return values, Field(name, "categorical", levels)


def _as_text(series: Any) -> Any:
    return series.astype(object).map(str, na_action="ignore")


def _is_missing(value: Any) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_scalar(value) and pd.isna(value))
