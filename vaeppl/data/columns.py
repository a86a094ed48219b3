"""One named column: how its values are stored, read by batch, and handed to a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import DataError

__all__ = ["KINDS", "Column", "Field", "LazyRows", "Transform", "make_column"]

KINDS = ("binary", "categorical", "count", "unit", "positive", "real")

# Values held at once while a column is scanned: 4 million float32 are 16 MB.
_CHUNK_VALUES = 4_000_000

# Torch has few operations for these, so they widen when they enter.
_WIDER = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64, "float128": np.float64}


@dataclass(frozen=True)
class Field:
    """One scalar component of a column.

    Parameters
    ----------
    name : str
        What a reader calls it, such as a gene or a column of a table.
    kind : str
        ``"binary"`` (0 or 1), ``"categorical"`` (integer codes), ``"count"`` (integers >= 0),
        ``"unit"`` (reals in [0, 1]), ``"positive"`` (reals > 0) or ``"real"``.
    levels : tuple of str, optional
        Names of the codes 0, 1, ... of a categorical field.
    total : int, optional
        Largest possible count, where counts are out of a known total.

    Raises
    ------
    DataError
        If `kind` is none of the above.

    Examples
    --------
    >>> Field("sex", "categorical", ("F", "M")).levels
    ('F', 'M')
    """

    name: str
    kind: str
    levels: tuple[str, ...] | None = None
    total: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(
                f"field {self.name!r} has kind {self.kind!r}; expected one of {', '.join(KINDS)}"
            )


@dataclass(frozen=True)
class Transform:
    """A function of a batch and a random generator, applied whenever a batch is read."""

    label: str
    apply: Callable[[Tensor, torch.Generator | None], Tensor]


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


@dataclass(frozen=True)
class Column:
    """Storage of one column and the way from it to the values that a model sees.

    The values are ``store[rows] / scale``, converted to the type that models expect (see
    `deliver`), then passed through `transforms` in order.

    Parameters
    ----------
    store : Tensor or lazy array, shape (M, *event)
        A tensor in memory, or anything with ``shape`` and row slicing.
    rows : ndarray of int, shape (N,), optional
        The rows of a lazy store that belong to the column; all when None.
    scale : float
        Stored values are divided by it (255 for images kept as bytes).
    transforms : tuple of Transform
        Applied to every batch.
    fields : tuple of Field, optional
        One a component, or a single one that describes every component.
    names : tuple of str, optional
        One a component, when their kinds are to be inferred.
    image : tuple of int, optional
        Height and width, when a row is a picture.
    """

    store: Any
    rows: np.ndarray | None = None
    scale: float = 1.0
    transforms: tuple[Transform, ...] = ()
    fields: tuple[Field, ...] | None = None
    names: tuple[str, ...] | None = None
    image: tuple[int, int] | None = None

    @property
    def resident(self) -> bool:
        """Whether the values are held in memory as a tensor."""
        return isinstance(self.store, Tensor)

    @property
    def plain(self) -> bool:
        """Whether the stored values are the delivered ones but for their type."""
        return self.scale == 1.0 and not self.transforms

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(int(size) for size in self.store.shape[1:])

    @property
    def width(self) -> int:
        """Number of scalar components of a row."""
        return math.prod(self.event_shape)

    def __len__(self) -> int:
        return int(self.store.shape[0]) if self.rows is None else len(self.rows)

    def select(self, index: Tensor) -> Column:
        """Keep the rows `index`: a lazy store is only looked at through other rows."""
        if not self.resident:
            chosen = index.cpu().numpy()
            return replace(self, rows=chosen if self.rows is None else self.rows[chosen])
        first, size = int(index[0]), len(index)
        # A run of neighbours is a view, so the usual train part of a file costs no memory.
        run = torch.arange(first, first + size)
        if torch.equal(index.cpu(), run):
            return replace(self, store=self.store.narrow(0, first, size))
        return replace(self, store=self.store.index_select(0, index.to(self.store.device)))

    def to(self, device: torch.device | str | None, dtype: torch.dtype | None) -> Column:
        """Move a resident store, and change the precision of stored floats."""
        if not self.resident:
            return self
        wanted = dtype if self.store.is_floating_point() else None
        return replace(self, store=self.store.to(device=device, dtype=wanted))

    def stored(self, index: Tensor) -> Tensor:
        """Read stored values of some rows, dense, unconverted: shape (len(index), *event)."""
        if isinstance(self.store, Tensor):
            if index.device != self.store.device:
                index = index.to(self.store.device)
            return self.store.index_select(0, index)
        rows = index.cpu().numpy()
        return to_tensor(read_rows(self.store, rows if self.rows is None else self.rows[rows]))

    def read(
        self,
        index: Tensor,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Read some rows as a model sees them: shape (len(index), *event)."""
        values = self.stored(index)
        if device is not None:
            values = values.to(device)  # moved while still compact
        if self.plain and values.dtype == dtype:
            return values
        return self.finish(values, dtype, generator)

    def finish(
        self, values: Tensor, dtype: torch.dtype, generator: torch.Generator | None
    ) -> Tensor:
        """From stored values to delivered ones: type, scale, transforms."""
        stored, values = values, deliver(values, dtype, scaled=self.scale != 1.0)
        if self.scale != 1.0:
            # A conversion has made a copy, which may be changed in place.
            values = values / self.scale if values is stored else values.div_(self.scale)
        if self.transforms:
            generator = generator_on(values.device, generator)
        for transform in self.transforms:
            values = transform.apply(values, generator)
        return values

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """Index ranges that cover all rows: (first row, index) pairs of bounded size."""
        size = max(1, _CHUNK_VALUES // max(1, self.width))
        for first in range(0, len(self), size):
            yield first, torch.arange(first, min(first + size, len(self)))


def deliver(values: Tensor, dtype: torch.dtype, scaled: bool = False) -> Tensor:
    """Give values the type that models expect.

    Floats arrive as `dtype`; so do integers and booleans with two or more dimensions, which a
    network multiplies. Integers and booleans with one dimension are labels, and arrive as int64.

    Parameters
    ----------
    values : Tensor, shape (n, *event)
    dtype : torch.dtype
        A floating type.
    scaled : bool
        Whether a scale follows, so that integers become floats whatever their shape.

    Returns
    -------
    Tensor, shape (n, *event)

    Examples
    --------
    >>> deliver(torch.tensor([1, 2], dtype=torch.uint8), torch.float32).dtype
    torch.int64
    """
    label = values.dim() == 1 and not values.is_floating_point() and not scaled
    return values.to(torch.int64 if label else dtype)


def generator_on(device: torch.device, generator: torch.Generator | None) -> torch.Generator | None:
    """Get a generator for `device`, seeded from the given one when that lives elsewhere."""
    if generator is None or generator.device.type == device.type:
        return generator
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return torch.Generator(device).manual_seed(int(seed))


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


def make_column(
    name: str,
    values: Any,
    dtype: torch.dtype,
    *,
    fields: Sequence[Field] | None = None,
    names: Sequence[str] | None = None,
    scale: float = 1.0,
    image: tuple[int, int] | None = None,
) -> Column:
    """Check what a user gave for a column, and choose how to store it.

    Parameters
    ----------
    name : str
        Name of the column, for messages.
    values : array-like, shape (N, *event)
        In memory, or lazy: a memory map, a sparse matrix, an HDF5 or AnnData-backed array.
    dtype : torch.dtype
        Precision in which floats are kept.
    fields, names, scale, image
        As in `Column`.

    Raises
    ------
    DataError
        If the values are not numbers, complex, scalar, or have no component, or if `fields` or
        `image` do not fit them.

    Examples
    --------
    >>> make_column("y", [0, 1, 1], torch.float32).store.dtype
    torch.int64
    """
    column = Column(_store(name, values, dtype), scale=float(scale))
    if len(column.store.shape) == 0:
        raise DataError(f"column {name!r} is a single number; expected one row per observation")
    if column.width == 0:
        raise DataError(f"column {name!r} has shape {tuple(column.store.shape)}: no component")
    return replace(
        column,
        fields=_check_fields(name, column, fields),
        names=_check_names(name, column, names),
        image=_check_image(name, column, image),
    )


def _store(name: str, values: Any, dtype: torch.dtype) -> Any:
    """Tensor for arrays in memory; the array itself for lazy ones."""
    if isinstance(values, Tensor):
        return _check_tensor(name, values, dtype)
    if _is_lazy(values):
        _check_dtype(name, np.dtype(values.dtype))
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
        raise DataError(
            f"column {name!r} is complex ({values.dtype}); pass real and imaginary parts as two "
            "columns"
        )
    return values.to(dtype) if values.is_floating_point() else values


def _check_dtype(name: str, dtype: np.dtype) -> None:
    if dtype.kind == "c":
        raise DataError(
            f"column {name!r} is complex ({dtype}); pass real and imaginary parts as two columns"
        )
    if dtype.kind in "Mm":
        raise DataError(
            f"column {name!r} holds dates ({dtype}); convert them to numbers, such as days "
            "since a start"
        )
    if dtype.kind not in "biuf":
        raise DataError(f"column {name!r} has dtype {dtype}; expected numbers")


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
    _check_dtype(name, array.dtype)
    return array


def _numbers_of_objects(name: str, array: np.ndarray) -> np.ndarray:
    """Floats of an object array that holds only numbers; otherwise say what it holds."""
    for position, value in np.ndenumerate(array):
        number = isinstance(value, (bool, int, float, np.number, np.bool_))
        if not number or isinstance(value, str):
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


def _check_fields(
    name: str, column: Column, fields: Sequence[Field] | None
) -> tuple[Field, ...] | None:
    if fields is None:
        return None
    given = tuple(fields)
    if len(given) not in (1, column.width):
        raise DataError(
            f"column {name!r} has {column.width} components but {len(given)} fields were given; "
            "give one a component, or a single one for all"
        )
    return given


def _check_names(name: str, column: Column, names: Sequence[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    given = tuple(str(each) for each in names)
    if len(given) != column.width:
        raise DataError(
            f"column {name!r} has {column.width} components but {len(given)} names were given"
        )
    return given


def _check_image(
    name: str, column: Column, image: tuple[int, int] | None
) -> tuple[int, int] | None:
    if image is None:
        return None
    height, width = image
    if column.width % (height * width):
        raise DataError(
            f"column {name!r} has {column.width} components, which is no image of "
            f"{height} x {width}"
        )
    return int(height), int(width)
