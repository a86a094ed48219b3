"""Row numbers, however a user writes them: slices, masks, lists, negative numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import DataError

__all__ = ["row_index"]


def row_index(index: Any, n: int, what: str) -> Tensor:
    """Turn a slice, mask or sequence into row numbers 0..n-1; negative ones count from the end.

    Parameters
    ----------
    index : slice, bool mask of shape (n,), or sequence of int
    n : int
        Number of rows.
    what : str
        What messages start with.

    Returns
    -------
    Tensor of int64, shape (k,)

    Raises
    ------
    DataError
        If a row does not exist, or the index is none of the above.

    Examples
    --------
    >>> row_index([-1, 0], 5, "take")
    tensor([4, 0])
    """
    if isinstance(index, slice):
        # By way of NumPy, since torch takes no negative step.
        return torch.from_numpy(np.arange(n)[index].copy())
    rows = torch.as_tensor(index if isinstance(index, Tensor) else _array(index, what))
    if rows.dim() != 1 or (rows.numel() and (rows.is_floating_point() or rows.is_complex())):
        raise DataError(
            f"{what}: rows must be a 1-D sequence of integers or booleans, not shape "
            f"{tuple(rows.shape)} of {rows.dtype}"
        )
    if rows.dtype == torch.bool:
        if len(rows) != n:
            raise DataError(f"{what}: mask has {len(rows)} entries, but there are {n} rows")
        return rows.nonzero().squeeze(1)
    return _in_range(rows.to(torch.int64), n, what)


def _array(index: Any, what: str) -> np.ndarray:
    array = np.asarray(index)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what}: rows must be integers or booleans, not {array.dtype}")
    return array if array.dtype.kind in "bf" else array.astype(np.int64)


def _in_range(rows: Tensor, n: int, what: str) -> Tensor:
    if not len(rows):
        return rows
    low, high = int(rows.min()), int(rows.max())
    if low < -n or high >= n:
        bad = high if high >= n else low
        raise DataError(f"{what}: there is no row {bad}; rows are numbered 0 to {n - 1}")
    return rows if low >= 0 else torch.where(rows < 0, rows + n, rows)
