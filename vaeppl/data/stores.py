"""Where the values of a column lie: a tensor in memory, or an array that is read by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import DataError

__all__ = ["LazyRows", "check_dtype", "make_store", "read_rows", "to_tensor"]

# Torch has few operations for these, so they widen when they enter.
_WIDER = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64, "float128": np.float64}


class LazyRows:
    """Some rows of an array that stays where it is (on disk, or sparse in memory).

    Parameters
    ----------
    store : array-like
        Anything with ``shape`` and row slicing.
    rows : ndarray of int, shape (N,)
        Row i of this view is row ``rows[i]`` of `store`.

    Examples
    --------
    >>> LazyRows(np.arange(8).reshape(4, 2), np.array([3, 1]))[[0]]
    array([[6, 7]])
    """

    def __init__(self, store: Any, rows: np.ndarray) -> None:
        self.store, self.rows = store, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the view, rows first."""
        return (len(self.rows), *self.store.shape[1:])

    @property
    def dtype(self) -> Any:
        """Type of the stored values."""
        return self.store.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        return read_rows(self.store, np.atleast_1d(self.rows[index]))

    def __repr__(self) -> str:
        return f"LazyRows(shape={self.shape}, of={type(self.store).__name__})"


def read_rows(store: Any, rows: np.ndarray) -> np.ndarray:
    """Dense rows of a lazy store, in the order asked for.

    The store is asked in increasing order and for each row once, since HDF5 takes nothing else
    and a disk likes it.
    """
    unique, inverse = np.unique(rows, return_inverse=True)
    first, size = int(unique[0]) if len(unique) else 0, len(unique)
    run = size == 0 or int(unique[-1]) - first + 1 == size
    block = store[first : first + size] if run else store[unique]
    dense = block.toarray() if hasattr(block, "toarray") else np.asarray(block)
    ordered = size == len(rows) and bool(np.all(inverse == np.arange(size)))
    return dense if ordered else dense[inverse]


def to_tensor(array: np.ndarray) -> Tensor:
    """Tensor of a numeric array, sharing memory where torch can."""
    array = np.asarray(array)
    if array.dtype.name in _WIDER:
        array = array.astype(_WIDER[array.dtype.name])
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    # Not ascontiguousarray, which would turn a 0-d array into a row.
    return torch.from_numpy(array)


def make_store(name: str, values: Any, dtype: torch.dtype) -> Any:
    """Tensor for arrays in memory; the array itself for lazy ones.

    Parameters
    ----------
    name : str
        Name of the column, for messages.
    values : array-like, shape (N, *event)
    dtype : torch.dtype
        Precision in which floats are kept.

    Raises
    ------
    DataError
        If the values are not real numbers, or not a rectangular array.

    Examples
    --------
    >>> make_store("x", [[0.5], [1.5]], torch.float64).dtype
    torch.float64
    """
    if isinstance(values, Tensor):
        return _check_tensor(name, values, dtype)
    if _is_lazy(values):
        check_dtype(name, np.dtype(values.dtype))
        # Only compressed rows can be sliced by row at a fair price.
        return values.tocsr() if hasattr(values, "tocsr") else values
    array = _to_array(name, values)
    return _check_tensor(name, to_tensor(array), dtype)


def _is_lazy(values: Any) -> bool:
    if isinstance(values, (np.memmap, LazyRows)):
        return True
    if isinstance(values, (np.ndarray, np.generic)) or type(values).__module__.startswith("pandas"):
        return False
    return all(hasattr(values, part) for part in ("shape", "dtype", "__getitem__"))


def _check_tensor(name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
    values = values.detach()
    if values.layout is not torch.strided:
        raise DataError(
            f"column {name!r} is a sparse torch tensor; pass a scipy.sparse.csr_array, which "
            "stays sparse until a batch is read, or call .to_dense()"
        )
    if values.is_complex():
        raise _complex(name, values.dtype)
    return values.to(dtype) if values.is_floating_point() else values


def check_dtype(name: str, dtype: Any) -> None:
    """Refuse what is not made of real numbers.

    Parameters
    ----------
    name : str
        Name of the column, for messages.
    dtype : numpy.dtype or a pandas one

    Raises
    ------
    DataError
        If the type is complex, of dates, or of anything else but numbers.

    Examples
    --------
    >>> check_dtype("x", np.dtype("uint8"))
    """
    if dtype.kind == "c":
        raise _complex(name, dtype)
    if dtype.kind in "Mm":
        raise DataError(
            f"column {name!r} holds dates ({dtype}); convert them to numbers, such as days "
            "since a start"
        )
    if dtype.kind not in "biuf":
        raise DataError(f"column {name!r} has dtype {dtype}; expected numbers")


def _complex(name: str, dtype: Any) -> DataError:
    return DataError(
        f"column {name!r} is complex ({dtype}); pass real and imaginary parts as two columns"
    )


def _to_array(name: str, values: Any) -> np.ndarray:
    """Numeric array of a list, array, Series or frame."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(
            f"column {name!r} is not a rectangular array ({error}); every row needs the same shape"
        ) from error
    if array.dtype.kind in "OUST":
        array = _numbers_of_objects(name, array)
    check_dtype(name, array.dtype)
    return array


def _numbers_of_objects(name: str, array: np.ndarray) -> np.ndarray:
    """Floats of an object array that holds only numbers; otherwise say what it holds."""
    for position, value in np.ndenumerate(array):
        if not isinstance(value, (int, float, np.number, np.bool_)):
            row = position[0] if position else 0
            raise DataError(
                f"column {name!r} (dtype {array.dtype}) holds {_shown(value)} at row {row}; "
                "expected numbers (NaN for missing values). Encode it, or let "
                "vaeppl.data.from_frame(df) turn text into integer codes with levels"
            )
    return array.astype(np.float64)


def _shown(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else text[:57] + "..."
