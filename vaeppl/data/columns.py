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
from .stores import LazyRows, make_store, read_rows, to_tensor

__all__ = ["KINDS", "Column", "Field", "LazyRows", "Transform", "make_column", "transformed"]

KINDS = ("binary", "categorical", "count", "unit", "positive", "real")

# Values held at once while a column is scanned: 4 million float32 are 16 MB.
_CHUNK_VALUES = 4_000_000


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
    layer : str, optional
        The layer of an AnnData from which it was read.
    note : str
        What a message should add where the values are not of the kind that is asked for.
    """

    store: Any
    rows: np.ndarray | None = None
    scale: float = 1.0
    transforms: tuple[Transform, ...] = ()
    fields: tuple[Field, ...] | None = None
    names: tuple[str, ...] | None = None
    image: tuple[int, int] | None = None
    layer: str | None = None
    note: str = ""

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
    column = Column(make_store(name, values, dtype), scale=float(scale))
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


def transformed(
    name: str,
    column: Column,
    fn: Callable[[Tensor, torch.Generator | None], Tensor],
    dtype: torch.dtype,
    *,
    fields: Sequence[Field] | None = None,
    label: str | None = None,
) -> Column:
    """Add a transform to a column, after a trial on two rows.

    Parameters
    ----------
    name : str
        Name of the column, for messages.
    column : Column
    fn : callable
        ``fn(batch, generator)``; see `Data.transform`.
    dtype : torch.dtype
        Floating type of the delivered values.
    fields : sequence of Field, optional
        What the transformed components are.
    label : str, optional
        What reports call the transform; the function's name if None.

    Raises
    ------
    DataError
        If `fn` returns no tensor, or changes the shape of a batch.

    Examples
    --------
    >>> column = make_column("x", [1.0, 4.0], torch.float32)
    >>> root = transformed("x", column, lambda x, generator: x.sqrt(), torch.float32)
    >>> root.read(torch.tensor([1]), torch.float32)
    tensor([2.])
    """
    label = label or str(getattr(fn, "__name__", "transform"))
    sample = torch.arange(min(2, len(column)))
    before = column.read(sample, dtype, None, torch.Generator().manual_seed(0))
    # A copy, so that a function that changes its argument cannot harm the data.
    after = fn(before.clone(), torch.Generator(before.device).manual_seed(0))
    if not isinstance(after, Tensor):
        raise DataError(
            f"transform {label!r} of column {name!r} returned {type(after).__name__}; "
            "expected a tensor of the batch's shape"
        )
    if after.shape != before.shape:
        raise DataError(
            f"transform {label!r} turns a batch of column {name!r} from shape "
            f"{tuple(before.shape)} into {tuple(after.shape)}; it must keep the shape"
        )
    given = None if fields is None else tuple(fields)
    return replace(column, transforms=(*column.transforms, Transform(label, fn)), fields=given)
