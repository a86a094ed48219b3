"""Named columns with one row an observation: what every model of the zoo is fitted to."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .binarize import bernoulli, draw_all, threshold
from .columns import Column, Field, LazyRows, Transform, make_column
from .errors import DataError, SplitError, did_you_mean
from .kinds import Summary, component_fields, component_names, summarise
from .rows import row_index

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Data"]

# A scan of this many values is too short to notice, so `repr` may do it unasked.
_SMALL = 2_000_000


class Data:
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
        self.name = name
        self._dtype = dtype
        self._columns = {
            _check_name(key): make_column(
                key,
                values,
                self.dtype,
                fields=(fields or {}).get(key),
                names=(field_names or {}).get(key),
                image=(image_shape or {}).get(key),
                scale=(scale or {}).get(key, 1.0),
            )
            for key, values in columns.items()
        }
        self._rows = _common_length(self._columns)
        self._splits = {
            key: row_index(part, self._rows, f"split {key!r}")
            for key, part in (splits or {}).items()
        }
        self._summaries: dict[str, Summary] = {}
        self._parts: dict[str, Data] = {}
        self._origin: dict[str, Any] | None = None

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
        """Whole column: the delivered tensor, or the store itself when it is lazy."""
        found = self._column(column)
        if found.resident:
            return found.finish(found.store, self.dtype, None)
        return found.store if found.rows is None else LazyRows(found.store, found.rows)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the delivered values."""
        return torch.get_default_dtype() if self._dtype is None else self._dtype

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
        label = label or str(getattr(fn, "__name__", "transform"))
        given = None if fields is None else tuple(fields)
        changed = replace(found, transforms=(*found.transforms, Transform(label, fn)), fields=given)
        sample = torch.arange(min(2, len(self)))
        before = found.read(sample, self.dtype, None, torch.Generator().manual_seed(0))
        after = _try(fn, before, label, column)
        if after.shape != before.shape:
            raise DataError(
                f"transform {label!r} turns a batch of column {column!r} from shape "
                f"{tuple(before.shape)} into {tuple(after.shape)}; it must keep the shape"
            )
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
        ways = ("dynamic", "static", "threshold")
        if how not in ways:
            raise DataError(f"how={how!r} is no way to binarize; {did_you_mean(how, ways)}")
        step = {"column": column, "how": how, "seed": seed}
        return self._binarized(column, how, seed)._came_from(self, binarize=step)

    def _binarized(self, column: str, how: str, seed: int) -> Data:
        found = self._column(column)
        self._check_unit(column)
        fields = tuple(
            replace(f, kind="binary", levels=None)
            for f in (found.fields or (Field(column, "binary"),))
        )
        if how == "dynamic":
            return self.transform(column, bernoulli, fields=fields, label="dynamic binarisation")
        if how == "threshold" and not found.resident:
            return self.transform(column, threshold, fields=fields, label="threshold")
        draw = bernoulli if how == "static" else threshold
        generator = torch.Generator().manual_seed(seed)
        drawn = draw_all(found, draw, self.dtype, generator)
        store = drawn.to(self.device)
        binary = replace(found, store=store, rows=None, scale=1.0, transforms=(), fields=fields)
        return self._with({**self._columns, column: binary})

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
        n = len(self)
        n_valid, n_test = (_part_size(p, size, n) for p, size in (("valid", valid), ("test", test)))
        if n_valid + n_test >= n:
            raise DataError(
                f"valid={valid} and test={test} take {n_valid} + {n_test} of {n} rows, which "
                "leaves none to train on"
            )
        # RandomState's stream is frozen for good, so a seed means the same split in every version.
        order = np.random.RandomState(seed).permutation(n)
        parts = {
            "train": order[n_valid + n_test :],
            "valid": order[:n_valid],
            "test": order[n_valid : n_valid + n_test],
        }
        splits = {k: torch.from_numpy(np.sort(rows)) for k, rows in parts.items() if len(rows)}
        step = {"valid": valid, "test": test, "seed": seed}
        return self._with(self._columns, splits=splits)._came_from(self, split=step)

    @property
    def origin(self) -> dict[str, Any] | None:
        """Where the data can be had again, as JSON: see `from_origin`. None if that is not known.

        Data sets by name and files have one, and keep it through `split` and `binarize`.
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

    def _part(self, name: str) -> Data:
        if name not in self._splits:
            has = f"it has {sorted(self._splits)}" if self._splits else "it was never split"
            raise SplitError(
                f"data {self.name!r} has no {name!r} split ({has}); make one with "
                "data.split(valid=0.1, test=0.1, seed=0)"
            )
        # Kept, since the rows of a part in memory are a copy.
        if name not in self._parts:
            part = self.select(self._splits[name])
            part.name = f"{self.name}.{name}"
            self._parts[name] = part
        return self._parts[name]

    # Reports

    def describe(self) -> pd.DataFrame:
        """Table of the columns: shape, dtype as delivered, kind, range, missing entries."""
        import pandas as pd

        rows = []
        for name, column in self._columns.items():
            summary = self._summary(name)
            rows.append(
                {
                    "column": name,
                    "shape": column.event_shape,
                    "dtype": str(self._read_column(name, torch.arange(1)).dtype)[6:],
                    "kind": self.kind(name),
                    "min": float(summary.minimum.min()),
                    "max": float(summary.maximum.max()),
                    "missing": summary.missing,
                }
            )
        return pd.DataFrame(rows)

    def fingerprint(self) -> str:
        """Short hash of names, shapes, types and a sample of rows.

        A resumed run compares it, to say whether it sees the same data. It is the same on every
        device, and does not depend on the random draws of transforms.

        Examples
        --------
        >>> Data({"x": [1.0, 2.0]}).fingerprint() == Data({"x": [1.0, 2.0]}).fingerprint()
        True
        """
        sample = torch.from_numpy(np.unique(np.linspace(0, len(self) - 1, 64).astype(np.int64)))
        digest = hashlib.sha256()
        for name in sorted(self._columns):
            column = self._columns[name]
            values = column.stored(sample).cpu().contiguous()
            labels = [transform.label for transform in column.transforms]
            header = (name, len(column), column.event_shape, str(values.dtype), column.scale)
            digest.update(repr((*header, labels)).encode())
            digest.update(values.numpy().tobytes())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        lines = [self._title()]
        width = max(len(name) for name in self._columns)
        for name, column in self._columns.items():
            lines.append(f"  {name:<{width}}  {column.event_shape!s:<12} {self._words(name)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{column.event_shape}</td>"
            f"<td>{html.escape(self._words(name))}</td></tr>"
            for name, column in self._columns.items()
        )
        head = "<tr><th>column</th><th>shape of a row</th><th>values</th></tr>"
        return f"<p>{html.escape(self._title())}</p><table>{head}{rows}</table>"

    def _title(self) -> str:
        parts = ", ".join(f"{name} {len(rows)}" for name, rows in self._splits.items())
        return f"Data {self.name!r}: {len(self)} rows" + (f" ({parts})" if parts else "")

    def _words(self, name: str) -> str:
        """One column in words, without a long scan."""
        column = self._columns[name]
        words = []
        if column.fields or name in self._summaries or len(self) * column.width <= _SMALL:
            words.append(self.kind(name))
        levels = self.levels(name)
        words += [f"{len(levels)} level{'s' * (len(levels) != 1)}"] if levels else []
        words += [f"image {column.image[0]}x{column.image[1]}"] if column.image else []
        words += [transform.label for transform in column.transforms]
        words.append(f"{str(column.store.dtype).removeprefix('torch.')} values")
        if not column.resident:
            words.append(f"read by batch from {type(column.store).__name__}")
        return ", ".join(words)

    # Plumbing

    def _with(self, columns: dict[str, Column], splits: dict[str, Tensor] | None = None) -> Data:
        """Copy of the data with other columns; splits are kept unless others are given."""
        other = object.__new__(Data)
        other.name, other._dtype = self.name, self._dtype
        other._columns, other._rows = dict(columns), _common_length(columns)
        other._splits = dict(self._splits if splits is None else splits)
        # What is known of a column holds as long as the column is the same object.
        same = (n for n in self._summaries if self._columns[n] is other._columns.get(n))
        other._summaries = {name: self._summaries[name] for name in same}
        other._parts = {}
        other._origin = None
        return other

    def _came_from(self, other: Data, **step: Any) -> Data:
        """Note that the rows are those of `other`, after a step that can be taken again."""
        self._origin = None if other._origin is None else {**other._origin, **step}
        return self

    def _column(self, name: str) -> Column:
        try:
            return self._columns[name]
        except (KeyError, TypeError):
            raise DataError(
                f"data {self.name!r} has no column {name!r}; "
                f"{did_you_mean(str(name), self._columns)}"
            ) from None

    def _read_column(self, name: str, index: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return self._columns[name].read(index, self.dtype, None, generator)

    def _summary(self, name: str) -> Summary:
        if name not in self._summaries:
            self._summaries[name] = summarise(self._column(name), self.dtype)
        return self._summaries[name]

    def _check_unit(self, name: str) -> None:
        summary = self._summary(name)
        low, high = float(summary.minimum.min()), float(summary.maximum.max())
        if low < 0 or high > 1:
            bad = low if low < 0 else high
            raise DataError(
                f"column {name!r} holds {bad:g}; binarize needs values in [0, 1], read as "
                "probabilities (divide images of bytes by 255: Data(..., scale={'x': 255}))"
            )


def _try(fn: Callable[..., Any], batch: Tensor, label: str, column: str) -> Tensor:
    """First call of a user's transform, on a copy so that it cannot harm the data."""
    after = fn(batch.clone(), torch.Generator(batch.device).manual_seed(0))
    if not isinstance(after, Tensor):
        raise DataError(
            f"transform {label!r} of column {column!r} returned {type(after).__name__}; "
            "expected a tensor of the batch's shape"
        )
    return after


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


def _part_size(name: str, size: float | int, n: int) -> int:
    """Count the rows of a part given as a fraction or a number."""
    if isinstance(size, bool) or size < 0 or (isinstance(size, float) and size >= 1):
        raise DataError(
            f"{name}={size!r}; expected a fraction of the rows in [0, 1) or a whole number of rows"
        )
    return round(size * n) if isinstance(size, float) else int(size)
