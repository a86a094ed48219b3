"""Which rows and columns a picture shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..data import Data, as_data
from ..data.annotated import is_anndata
from ..errors import CheckpointError, unknown_name
from ..pair import Pair
from ..reading.sites import observed_columns


def rows_of(fit: Any, data: Any) -> Data:
    """Return the rows given, or those that were fitted."""
    rows = rows_or_none(fit, data)
    if rows is None:
        raise CheckpointError(
            "this picture needs data, and a model or a fit that was loaded holds none: pass data="
        )
    return rows


def rows_or_none(fit: Any, data: Any) -> Data | None:
    """Return the rows given, or those that were fitted, or None: a loaded fit holds none."""
    if is_anndata(data) and hasattr(fit, "schema"):
        rows = fit._rows(data)  # in the form in which the fit had its own
        return as_data(rows)
    if data is not None:
        return as_data(data)
    rows = getattr(fit, "train", None)  # of a bare module it is a method
    return rows if isinstance(rows, Data) else None


def some_index(rows: int, most: int, seed: int) -> np.ndarray:
    """Return row numbers in order: all, or so many drawn at random."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def some_rows(rows: Data, most: int, seed: int) -> Data:
    """Return all rows, or so many drawn at random."""
    return rows.select(some_index(len(rows), most, seed))


def given_columns(pair: Pair, rows: Data | None) -> list[str]:
    """Name the columns that the story is given: it takes them and does not observe them."""
    if rows is None:
        return []
    known = {*observed_columns(pair, rows), *pair.partly_observed}
    return [c for c in pair.columns if c in rows and c not in known]


def drawn_column(pair: Pair, rows: Data | None, column: str | None) -> str:
    """Return the column asked for, checked, or the first that the story draws."""
    known = pair.columns if rows is None else observed_columns(pair, rows)
    if column is None:
        return known[0]
    if column not in known:
        raise ValueError(unknown_name(f"column of {pair.name}", column, known))
    return column


def image_shape_of(rows: Data | None, column: str) -> tuple[int, int] | None:
    """Return height and width of a column's pictures, if it is known to hold some."""
    return None if rows is None else rows.image_shape.get(column)


def some_values(rows: Data, column: str, most: int, seed: int) -> np.ndarray:
    """Return the values of a column in some rows."""
    some = some_rows(rows.columns(column), most, seed)
    return to_array(some.take(range(len(some)))[column])


def to_array(values: torch.Tensor) -> np.ndarray:
    """Return a tensor as an array on the CPU, without its gradient."""
    array: np.ndarray = values.detach().cpu().numpy()
    return array
