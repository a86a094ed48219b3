"""Rows of named columns, and how they are read; what can be made of them is in `Data`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .columns import Column, Field, LazyRows
from .errors import DataError, did_you_mean
from .kinds import Summary, component_fields, component_names, summarise
from .rows import row_index

__all__ = ["Table"]

# A scan of this many values is too short to notice, so `repr` may do it unasked.
_SMALL = 2_000_000


class Table:
    """N rows of named columns.

    Parameters
    ----------
    columns : mapping of str to Column
        As many rows each.
    name : str
        What reports call the data.
    dtype : torch.dtype, optional
        Floating type of the delivered values; None means torch's default.

    Raises
    ------
    DataError
        If there is no row or no column, or columns differ in length.
    """

    def __init__(self, columns: Mapping[str, Column], name: str, dtype: torch.dtype | None) -> None:
        self.name = name
        self._dtype = dtype
        self._columns = dict(columns)
        self._rows = _common_length(self._columns)
        self._summaries: dict[str, Summary] = {}

    # What is there

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __contains__(self, column: object) -> bool:
        return column in self._columns

    def keys(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self._columns)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Pairs of name and whole column, as ``data[name]`` gives it."""
        return ((name, self[name]) for name in self._columns)

    def __getitem__(self, column: str) -> Any:
        """Whole column: the delivered tensor, or the store itself when it is lazy.

        A tensor becomes an array by ``data["x"].numpy()``.
        """
        found = self._column(column)
        if found.resident:
            return found.finish(found.store, self.dtype, None)
        return found.store if found.rows is None else LazyRows(found.store, found.rows)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the delivered values."""
        return self._dtype or torch.get_default_dtype()

    @property
    def device(self) -> torch.device:
        """Where the resident columns are; the CPU if there is none."""
        places = [c.store.device for c in self._columns.values() if c.resident]
        return places[0] if places else torch.device("cpu")

    @property
    def image_shape(self) -> dict[str, tuple[int, int]]:
        """Height and width of the columns whose rows are pictures."""
        return {name: c.image for name, c in self._columns.items() if c.image is not None}

    @property
    def has_transforms(self) -> bool:
        """Whether some column is transformed anew for each batch."""
        return any(c.transforms for c in self._columns.values())

    def is_lazy(self, column: str) -> bool:
        """Whether a column is read by batch rather than held as a tensor."""
        return not self._column(column).resident

    def shape(self, column: str) -> tuple[int, ...]:
        """Event shape of a column: the shape of one row, ``()`` for a column of numbers."""
        return self._column(column).event_shape

    def kind(self, column: str) -> str:
        """Kind of the values of a column, or ``"mixed"`` if its components differ.

        Returns
        -------
        str
            One of the kinds of `Field`, given at construction or inferred from the values (with
            missing ones left out), or ``"mixed"``.
        """
        given = self._column(column).fields
        kinds = {field.kind for field in (given or self.fields(column))}
        return kinds.pop() if len(kinds) == 1 else "mixed"

    def fields(self, column: str) -> tuple[Field, ...]:
        """One field a component of a column, given or inferred from the values.

        Components of one array share the kind of all its values, except that a real-valued
        array with some discrete components has each of its own kind.
        """
        found = self._column(column)
        if found.fields is None:
            return component_fields(column, found, self._summary(column))
        if len(found.fields) == 1 and found.width > 1:
            names = component_names(column, found)
            return tuple(replace(found.fields[0], name=name) for name in names)
        return found.fields

    def levels(self, column: str) -> tuple[str, ...] | None:
        """Names of the codes of a categorical column; None if it has none or many components."""
        given = self._column(column).fields
        return given[0].levels if given is not None and len(given) == 1 else None

    def first_nonfinite(self, column: str) -> tuple[int, int, float] | None:
        """First entry that is NaN or infinite.

        Returns
        -------
        tuple (row, component, value) or None
            The component counts along the flattened row; None if all values are finite.

        Examples
        --------
        >>> from vaeppl.data import Data
        >>> Data({"x": [[1.0, 2.0], [3.0, float("nan")]]}).first_nonfinite("x")
        (1, 1, nan)
        """
        found = self._column(column)
        if found.resident and not found.store.is_floating_point():
            return None
        for first, index in found.chunks():
            part = found.stored(index).reshape(len(index), -1)
            bad = (~part.isfinite()).nonzero()
            if len(bad):
                row, component = bad[0].tolist()
                return first + row, component, float(part[row, component])
        return None

    # Reading rows

    def take(
        self,
        index: Any,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Values of some rows, dense, as a model sees them.

        Parameters
        ----------
        index : int sequence, slice, or bool mask of shape (N,)
            Rows, in the order wanted; a row may be asked for twice.
        device : torch.device or str, optional
            Where the values go; where they are kept if None.
        generator : torch.Generator, optional
            Source of the randomness of transforms such as dynamic binarisation; torch's global
            one if None.

        Returns
        -------
        dict of str to Tensor, each of shape (len(index), *event)

        Raises
        ------
        DataError
            If a row does not exist.
        """
        device = self.device if device is None else device
        return self._read(row_index(index, self._rows, "take"), device, generator)

    def _read(
        self,
        index: Tensor,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Read rows that are known to exist: the inner loop of training."""
        dtype = self.dtype
        return {
            name: column.read(index, dtype, device, generator)
            for name, column in self._columns.items()
        }

    # Plumbing

    def _column(self, name: str) -> Column:
        try:
            return self._columns[name]
        except (KeyError, TypeError):
            raise DataError(
                f"data {self.name!r} has no column {name!r}; "
                f"{did_you_mean(str(name), self._columns)}"
            ) from None

    def _summary(self, name: str) -> Summary:
        if name not in self._summaries:
            self._summaries[name] = summarise(self._column(name), self.dtype)
        return self._summaries[name]

    def _kind_is_near(self, name: str) -> bool:
        """Whether the kind of a column is had without a long scan."""
        column = self._columns[name]
        known = bool(column.fields) or name in self._summaries
        return known or len(self) * column.width <= _SMALL


def _common_length(columns: Mapping[str, Column]) -> int:
    """Count the rows, the same for every column."""
    if not columns:
        raise DataError("data without a column; give at least one, such as {'x': array}")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name!r} has {n}" for name, n in lengths.items())
        raise DataError(f"columns must have as many rows as each other, but {listed}")
    rows = next(iter(lengths.values()))
    if rows == 0:
        raise DataError(f"data without a row: columns {list(columns)} are empty")
    return rows
