"""Named columns with one row an observation: what every model of the zoo is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import reports
from .binarize import WAYS, binarized, check_unit
from .columns import Column, Field, make_column, transformed
from .errors import DataError, SplitError, did_you_mean
from .labels import few_labels
from .rows import row_index
from .splits import random_parts
from .table import Table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Data"]


class Data(Table):
    """N rows of named columns.

    A column is a tensor in memory, or stays where it is (a memory map, a sparse matrix, an HDF5
    or AnnData-backed array) and is read by batch. Arrays in memory are not copied where torch can
    share them, so do not change the source afterwards.

    A model receives floats as `dtype`; integers with two or more dimensions as floats too; and
    integers with one dimension, which are labels, as int64.

    Parameters
    ----------
    columns : mapping of str to array-like, each of shape (N, *event)
        Torch tensors, NumPy arrays, lists, pandas Series, or lazy arrays.
    name : str
        What reports call the data.
    fields : mapping of str to sequence of Field, optional
        What the components of a column are: one a component, or a single one for all. Inferred
        from the values where not given.
    field_names : mapping of str to sequence of str, optional
        Names of the components, one each, when their kinds are to be inferred.
    splits : mapping of str to array of int, optional
        Row numbers of named parts, such as ``"train"``, ``"valid"`` and ``"test"``.
    dtype : torch.dtype, optional
        Floating type of the delivered values; None means torch's default, float32 as a rule.
    image_shape : mapping of str to (int, int), optional
        Height and width of columns whose rows are pictures.
    scale : mapping of str to float, optional
        Delivered values are the stored ones divided by this: 255 for pictures kept as bytes.

    Raises
    ------
    DataError
        If there is no row or no column, columns differ in length, or values are not real numbers.
        NaN is allowed: it means missing.

    Examples
    --------
    >>> data = Data({"x": [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], "y": [0, 1, 1]}, name="toy")
    >>> len(data), data.shape("x"), data.kind("y")
    (3, (2,), 'binary')
    >>> data.take([2, 0])["y"]
    tensor([1, 0])
    """

    def __init__(
        self,
        columns: Mapping[str, Any],
        *,
        name: str = "data",
        fields: Mapping[str, Sequence[Field]] | None = None,
        field_names: Mapping[str, Sequence[str]] | None = None,
        splits: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        image_shape: Mapping[str, tuple[int, int]] | None = None,
        scale: Mapping[str, float] | None = None,
    ) -> None:
        if not isinstance(columns, Mapping):
            raise DataError(
                f"Data takes a mapping of column names to arrays, not {type(columns).__name__}; "
                "for tables, files and data sets by name there is vaeppl.data.as_data"
            )
        if dtype is not None and not dtype.is_floating_point:
            raise DataError(f"dtype must be a floating type such as torch.float64, not {dtype}")
        _check_known("fields", fields, columns)
        _check_known("field_names", field_names, columns)
        _check_known("image_shape", image_shape, columns)
        _check_known("scale", scale, columns)
        made = {
            _check_name(key): make_column(
                key,
                values,
                dtype or torch.get_default_dtype(),
                fields=(fields or {}).get(key),
                names=(field_names or {}).get(key),
                image=(image_shape or {}).get(key),
                scale=(scale or {}).get(key, 1.0),
            )
            for key, values in columns.items()
        }
        super().__init__(made, name, dtype)
        self._splits = {
            key: row_index(part, self._rows, f"split {key!r}")
            for key, part in (splits or {}).items()
        }
        self._parts: dict[str, Data] = {}
        self._origin: dict[str, Any] | None = None

    # Other views of the data

    def select(self, index: Any) -> Data:
        """Only some rows; lazy columns are looked at through the index, not copied.

        Splits are left behind, as their row numbers no longer hold.

        Parameters
        ----------
        index : int sequence, slice, or bool mask of shape (N,)

        Raises
        ------
        DataError
            If a row does not exist, or no row is left.
        """
        rows = row_index(index, self._rows, "select")
        if not len(rows):
            raise DataError("select leaves no row; give at least one")
        return self._with({name: c.select(rows) for name, c in self._columns.items()}, splits={})

    def columns(self, *names: str) -> Data:
        """Only some columns, in the order given."""
        if not names:
            raise DataError(f"name at least one column of {list(self._columns)}")
        return self._with({name: self._column(name) for name in names})

    def rename(self, names: Mapping[str, str]) -> Data:
        """Other names for some columns: ``{"old": "new"}``."""
        for old in names:
            self._column(old)
        renamed = [names.get(name, name) for name in self._columns]
        if len(set(renamed)) < len(renamed):
            raise DataError(f"rename would give two columns one name: {renamed}")
        return self._with(
            {_check_name(n): c for n, c in zip(renamed, self._columns.values(), strict=True)}
        )

    def with_column(
        self,
        name: str,
        values: Any,
        *,
        fields: Sequence[Field] | None = None,
        image_shape: tuple[int, int] | None = None,
    ) -> Data:
        """Add a column, or replace it."""
        column = make_column(
            _check_name(name), values, self.dtype, fields=fields, image=image_shape
        )
        return self._with({**self._columns, name: column})

    def transform(
        self,
        column: str,
        fn: Callable[[Tensor, torch.Generator | None], Tensor],
        *,
        fields: Sequence[Field] | None = None,
        label: str | None = None,
    ) -> Data:
        """Apply a function to every batch of a column, whenever one is read.

        Parameters
        ----------
        column : str
            Name of the column.
        fn : callable
            ``fn(batch, generator)`` with a batch of shape (B, *event), and a generator on the
            batch's device or None; it returns the same shape and leaves its argument as it is.
        fields : sequence of Field, optional
            What the transformed components are; inferred if None.
        label : str, optional
            What `repr` calls the transform; the function's name if None.

        Raises
        ------
        DataError
            If `fn` changes the shape of a batch.

        Examples
        --------
        >>> data = Data({"x": [[1.0], [4.0]]}).transform("x", lambda x, generator: x.sqrt())
        >>> data["x"]
        tensor([[1.],
                [2.]])
        """
        found = self._column(column)
        changed = transformed(column, found, fn, self.dtype, fields=fields, label=label)
        return self._with({**self._columns, column: changed})

    def binarize(self, column: str = "x", how: str = "dynamic", seed: int = 0) -> Data:
        """Turn a column of values in [0, 1] into zeros and ones.

        Parameters
        ----------
        column : str
            Name of the column.
        how : str
            ``"dynamic"``: drawn as Bernoulli(value) anew each time that a batch is read;
            ``"static"``: drawn once, with `seed`; ``"threshold"``: one where the value
            exceeds 1/2. Missing values stay missing. What is not drawn anew is kept in memory,
            one byte a value, except for the threshold of a lazy column.
        seed : int
            Seed of the static draw.

        Raises
        ------
        DataError
            If a value lies outside [0, 1], or `how` is none of the above.

        References
        ----------
        Salakhutdinov and Murray (2008), "On the quantitative analysis of deep belief networks",
        for the use of intensities as probabilities.

        Examples
        --------
        >>> Data({"x": [[0.0, 0.3], [1.0, 0.8]]}).binarize(how="threshold")["x"]
        tensor([[0., 0.],
                [1., 1.]])
        """
        if how not in WAYS:
            raise DataError(f"how={how!r} is no way to binarize; {did_you_mean(how, WAYS)}")
        found = self._column(column)
        check_unit(column, self._summary(column))
        binary = binarized(column, found, how, self.dtype, device=self.device, seed=seed)
        step = {"column": column, "how": how, "seed": seed}
        return self._with({**self._columns, column: binary})._came_from(self, binarize=step)

    def few_labels(
        self,
        column: str = "y",
        *,
        per_class: int | None = None,
        total: int | None = None,
        seed: int = 0,
    ) -> Data:
        """Hide the labels of a column but a random draw, balanced over the classes.

        Of data with splits, only the labels of the train part are drawn or hidden: the others are
        there to report on. A label that is hidden already (-1 or NaN) stays so.

        Parameters
        ----------
        column : str
            Labels 0, ..., K - 1, one a row.
        per_class : int, optional
            Labels to leave in each class. With one seed, the rows of a smaller number are among
            those of a larger one.
        total : int, optional
            Labels to leave in all, instead. What K does not divide is spread: some classes, drawn
            at random, have one label more than the others.
        seed : int
            The same seed gives the same rows.

        Returns
        -------
        Data
            With the column as int64 of shape (N,), -1 where the label is hidden.

        Raises
        ------
        DataError
            If the column is not there or holds no labels, or a class has too few rows.

        Examples
        --------
        >>> few = Data({"y": [0, 1, 0, 1, 0, 1]}).few_labels(per_class=1, seed=0)
        >>> sorted(few["y"].tolist())
        [-1, -1, -1, -1, 0, 1]
        """
        rows = torch.arange(len(self)) if not self._splits else self._rows_of("train")
        chosen: dict[str, Any] = {"per_class": per_class, "total": total, "seed": seed}
        few = few_labels(self, column, rows, **chosen)
        step = {"column": column, **chosen}
        return self._with({**self._columns, column: few})._came_from(self, few_labels=step)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Data:
        """Copy with the resident columns on a device, or in another floating type."""
        kept = self._dtype if dtype is None else dtype
        other = self._with({n: c.to(device, dtype) for n, c in self._columns.items()})
        other._dtype = kept
        return other

    # Splits

    def split(self, valid: float | int = 0.1, test: float | int = 0.1, seed: int = 0) -> Data:
        """Name a random train, valid and test part, fixed by a seed.

        Parameters
        ----------
        valid, test : float or int
            A fraction of the rows below 1, or a number of rows; 0 for no such part.
        seed : int
            The same seed gives the same parts.

        Raises
        ------
        DataError
            If no row is left to train on.

        Examples
        --------
        >>> parts = Data({"x": range(10)}).split(valid=0.2, test=3)
        >>> len(parts.train), len(parts.valid), len(parts.test)
        (5, 2, 3)
        """
        splits = random_parts(len(self), valid, test, seed)
        step = {"valid": valid, "test": test, "seed": seed}
        return self._with(self._columns, splits=splits)._came_from(self, split=step)

    @property
    def origin(self) -> dict[str, Any] | None:
        """Where the data can be had again, as JSON: see `from_origin`. None if that is not known.

        Data sets by name and files have one, and keep it through `split`, `binarize` and
        `few_labels`.
        """
        return None if self._origin is None else dict(self._origin)

    @property
    def splits(self) -> Mapping[str, Tensor]:
        """Row numbers of the named parts."""
        return dict(self._splits)

    def has_split(self, name: str) -> bool:
        """Whether there is a part of that name."""
        return name in self._splits

    @property
    def train(self) -> Data:
        """The rows to train on: all of them if the data were never split."""
        return self._part("train") if self._splits else self

    @property
    def valid(self) -> Data:
        """The rows held out for choices made during training."""
        return self._part("valid")

    @property
    def test(self) -> Data:
        """The rows held out for the final report."""
        return self._part("test")

    def _rows_of(self, name: str) -> Tensor:
        """Row numbers of a part."""
        if name not in self._splits:
            has = f"it has {sorted(self._splits)}" if self._splits else "it was never split"
            raise SplitError(
                f"data {self.name!r} has no {name!r} split ({has}); make one with "
                "data.split(valid=0.1, test=0.1, seed=0)"
            )
        return self._splits[name]

    def _part(self, name: str) -> Data:
        rows = self._rows_of(name)
        # Kept, since the rows of a part in memory are a copy.
        if name not in self._parts:
            part = self.select(rows)
            part.name = f"{self.name}.{name}"
            self._parts[name] = part
        return self._parts[name]

    # Reports

    def describe(self) -> pd.DataFrame:
        """Table of the columns: shape, dtype as delivered, kind, range, missing entries."""
        return reports.describe(self)

    def fingerprint(self) -> str:
        """Short hash of names, shapes, types and a sample of rows.

        A resumed run compares it, to say whether it sees the same data. It is the same on every
        device, and does not depend on the random draws of transforms.

        Examples
        --------
        >>> Data({"x": [1.0, 2.0]}).fingerprint() == Data({"x": [1.0, 2.0]}).fingerprint()
        True
        """
        return reports.fingerprint(self)

    def __repr__(self) -> str:
        return reports.text(self, self._splits)

    def _repr_html_(self) -> str:
        return reports.html_table(self, self._splits)

    # Plumbing

    def _with(self, columns: dict[str, Column], splits: dict[str, Tensor] | None = None) -> Data:
        """Copy of the data with other columns; splits are kept unless others are given."""
        other = object.__new__(Data)
        Table.__init__(other, columns, self.name, self._dtype)
        other._splits = dict(self._splits if splits is None else splits)
        # What is known of a column holds as long as the column is the same object.
        same = (n for n in self._summaries if self._columns[n] is other._columns.get(n))
        other._summaries = {name: self._summaries[name] for name in same}
        other._parts = {}
        other._origin = None
        return other

    def _came_from(self, other: Data, **step: Any) -> Data:
        """Note that the rows are those of `other`, after a step that can be taken again."""
        origin = other._origin
        if origin is not None and step.keys() & origin.keys():
            # Taken before, so the source of this step is what the first ones made.
            origin = {"source": origin, "columns": None, "options": {}}
        self._origin = None if origin is None else {**origin, **step}
        return self


def _check_name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise DataError(f"a column name must be a non-empty string, not {name!r}")
    return name


def _check_known(option: str, given: Mapping[str, Any] | None, columns: Mapping[str, Any]) -> None:
    for name in given or {}:
        if name not in columns:
            raise DataError(
                f"{option} names column {name!r}, which is not there; {did_you_mean(name, columns)}"
            )
