"""Codes and factors as the metrics take them: checked, named, standardised, split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..data import Data
from ..data.labels import HIDDEN, label_codes
from ..data.schema import schema_of
from ..errors import ColumnError, unknown_name


@dataclass(frozen=True)
class Paired:
    """Codes and factors of the same rows.

    Attributes
    ----------
    codes : ndarray
        Latents, ``(N, D)``, as float64.
    factors : ndarray
        Codes of the factors as they were given, ``(N, F)``.
    code_names, factor_names : tuple
        What tables call them: the columns of a data frame, the entries of the columns of
        :class:`vaeppl.data.Data`, or 0, 1, ...
    """

    codes: np.ndarray
    factors: np.ndarray
    code_names: tuple[Any, ...]
    factor_names: tuple[Any, ...]

    @cached_property
    def levels(self) -> np.ndarray:
        """The factors with their values numbered 0, ..., K - 1, ``(N, F)``."""
        numbered = [np.unique(values, return_inverse=True)[1] for values in self.factors.T]
        return np.stack(numbered, 1)

    @cached_property
    def varies(self) -> np.ndarray:
        """Whether a code takes two values or more, ``(D,)``."""
        return varying(self.codes)

    def chosen(self, factors: Sequence[Any]) -> list[int]:
        """Return the numbers of some factors, given by number or by name."""
        if isinstance(factors, (str, int)):
            factors = [factors]
        names = list(self.factor_names)
        for factor in factors:
            if factor not in names:
                known = [str(name) for name in names]
                raise ColumnError(unknown_name("factor", str(factor), known))
        return [names.index(factor) for factor in factors]


def paired(codes: Any, factors: Any, least_factors: int = 1) -> Paired:
    """Check codes and factors, and put them together.

    Raises
    ------
    ColumnError
        If there are no factors or too few, their rows are not those of the codes, a value is
        missing or no whole number, or a factor has one value only.
    """
    z = as_codes(codes)
    if factors is None:
        raise ColumnError(
            "no factors were given; the metrics compare the latents with known factors: pass an "
            "array (N, F) of whole numbers, a column a factor"
        )
    factors, names = _from_data(factors) if isinstance(factors, Data) else (factors, None)
    values, names = _as_factors(factors, len(z), names or _names_of(factors))
    if values.shape[1] < least_factors:
        raise ColumnError(
            f"{values.shape[1]} factor was given; this metric tells factors from each other, and "
            f"needs {least_factors} or more"
        )
    return Paired(z, values, _names_of(codes) or tuple(range(z.shape[1])), names)


def as_codes(codes: Any, what: str = "latents") -> np.ndarray:
    """Return codes as float64, ``(N, D)``."""
    z = np.asarray(off_torch(codes), dtype=np.float64)
    if z.ndim == 1:
        z = z[:, None]
    if z.ndim != 2 or 0 in z.shape:
        raise ColumnError(
            f"the {what} have shape {z.shape}; expected (N, D), a row an observation and a column "
            "a dimension"
        )
    if (bad := ~np.isfinite(z)).any():
        row, dimension = np.argwhere(bad)[0]
        raise ColumnError(
            f"the {what} hold {z[row, dimension]} at row {row}, dimension {dimension} "
            f"({int(bad.any(1).sum())} of {len(z)} rows); leave such rows out, or mend the fit"
        )
    return z


def as_labels(labels: Any, rows: int) -> np.ndarray:
    """Return labels 0, ..., K - 1 with -1 where there is none, ``(N,)``."""
    if labels is None:
        raise ColumnError("no labels were given: pass an array (N,) of whole numbers")
    given = np.asarray(off_torch(labels))
    if given.dtype.kind not in "biuf":
        raise ColumnError(
            f"labels of type {given.dtype} are no numbers; number them first: "
            "numpy.unique(labels, return_inverse=True)[1]"
        )
    plain = given if given.dtype.kind == "f" else given.astype(np.int64)
    codes: np.ndarray = label_codes(torch.as_tensor(plain)).numpy()
    if len(codes) != rows:
        raise ColumnError(f"there are {rows} rows of latents, but {len(codes)} labels")
    found = np.unique(codes[codes != HIDDEN])
    if len(found) < 2:
        raise ColumnError(
            f"{'no row has a label (-1 and NaN stand for none)' if not len(found) else ''}"
            f"{f'all labels are {found[0]}' if len(found) else ''}; two classes are needed"
        )
    return codes


def varying(codes: np.ndarray) -> np.ndarray:
    """Tell which columns take two values or more."""
    several: np.ndarray = codes.min(0) < codes.max(0)
    return several


def standardised(codes: np.ndarray) -> np.ndarray:
    """Bring each column to mean 0 and standard deviation 1; a constant one to 0."""
    scale = np.where(varying(codes), codes.std(0), 1.0)
    moved: np.ndarray = (codes - codes.mean(0)) / scale
    return np.where(varying(codes), moved, 0.0)


def split(levels: np.ndarray, test_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows to train on and rows to test on, of each level in the same shares.

    With ``test_share=0`` both are all rows. A level of one row is not tested on.
    """
    if not 0 <= test_share < 1:
        raise ValueError(f"test_share is at least 0 and below 1; given {test_share}")
    if test_share == 0:
        return np.arange(len(levels)), np.arange(len(levels))
    if (np.bincount(levels) > 1).sum() < 2:
        raise ColumnError(
            "rows can only be held out of values that two rows or more have, and there are not two "
            "such values: give more rows, or test_share=0"
        )
    chance = np.random.RandomState(seed)
    train, test = [], []
    for level in np.unique(levels):
        rows = chance.permutation(np.flatnonzero(levels == level))
        held_out = min(max(1, round(test_share * len(rows))), len(rows) - 1)
        test.append(rows[:held_out])
        train.append(rows[held_out:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def _as_factors(
    factors: Any, rows: int, names: tuple[Any, ...] | None
) -> tuple[np.ndarray, tuple[Any, ...]]:
    given = np.asarray(off_torch(factors))
    if given.ndim == 1:
        given = given[:, None]
    if given.ndim != 2 or given.shape[1] == 0:
        raise ColumnError(f"the factors have shape {given.shape}; expected (N, F)")
    if len(given) != rows:
        raise ColumnError(f"there are {rows} rows of latents, but {len(given)} of factors")
    if given.dtype.kind not in "biuf":
        raise ColumnError(
            f"factors of type {given.dtype} are no codes; number the values of each first: "
            "numpy.unique(values, return_inverse=True)[1]"
        )
    names = names or tuple(range(given.shape[1]))
    for values, name in zip(given.T, names, strict=True):
        _check_factor(values, name)
    return given.astype(np.int64), names


def _check_factor(values: np.ndarray, name: Any) -> None:
    missing = np.isnan(values)
    broken = ~missing & ~(np.isfinite(values) & (values == np.round(values)))
    if broken.any():
        row = int(np.argmax(broken))
        raise ColumnError(
            f"factor {name!r} holds {values[row]} at row {row}; factors are whole numbers: cut a "
            "continuous one into levels first, as pandas.qcut(values, 10, labels=False) does"
        )
    if missing.any():
        row = int(np.argmax(missing))
        raise ColumnError(
            f"factor {name!r} has no value at row {row} ({values[row]} there; "
            f"{int(missing.sum())} of {len(values)} rows); leave such rows out"
        )
    if (below := values < 0).any():
        row = int(np.argmax(below))
        raise ColumnError(
            f"factor {name!r} holds {int(values[row])} at row {row} ({int(below.sum())} of "
            f"{len(values)} rows are negative); codes run 0, 1, ..., and -1 means missing: leave "
            "such rows out, or, where they are values like the others, number the values first: "
            "numpy.unique(values, return_inverse=True)[1]"
        )
    if len(values) and values.min() == values.max():
        raise ColumnError(
            f"factor {name!r} has one value ({int(values[0])}) in all {len(values)} rows, so there "
            "is nothing to tell apart: leave its column out"
        )


def off_torch(values: Any) -> Any:
    """Return a tensor as an array, and anything else as it is."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values


def _from_data(factors: Data) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Return the columns of data side by side, ``(N, F)``, and what their entries are called."""
    whole, known = factors.take(torch.arange(len(factors))), schema_of(factors)
    values: list[np.ndarray] = []
    names: list[Any] = []
    for column in factors:
        part = whole[column].reshape(len(factors), -1).cpu().numpy()
        width = part.shape[1]
        given = known[column].names if column in known else ()
        plain = (column,) if width == 1 else tuple(f"{column}[{k}]" for k in range(width))
        values.append(part)
        names += given if len(given) == width else plain
    return np.concatenate(values, 1), tuple(names)


def _names_of(table: Any) -> tuple[Any, ...] | None:
    """Return the names of a data frame's columns."""
    columns = getattr(table, "columns", None)
    return None if columns is None or callable(columns) else tuple(columns)
