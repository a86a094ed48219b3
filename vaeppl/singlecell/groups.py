"""Groups of cells that are compared: by a mask, by row numbers, or by the levels of a column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data import Data, DataError
from ..data.annotated import is_anndata
from ..data.errors import did_you_mean
from ..errors import ColumnError, unknown_name
from .cells import chunks

__all__ = ["Comparison", "comparisons", "raw_means"]

REST = "rest"


class Comparison(NamedTuple):
    """Two groups of cells, by row numbers, and what they are called."""

    name: str
    first: Tensor
    second: Tensor


def comparisons(
    given: Any, cells: Data, groupby: str | None, group1: Any, group2: Any
) -> list[Comparison]:
    """Return the groups to compare: those asked for, or each level of a column with the rest.

    Parameters
    ----------
    given
        What the user gave as cells.
    cells
        The same as columns.
    groupby, group1, group2
        As in :func:`differential_expression`.

    Raises
    ------
    ColumnError
        If a group has no cell, or a cell is in both.
    """
    if groupby is None:
        if group1 is None:
            raise TypeError("say which cells to compare: group1=, or groupby= a column of labels")
        return [_pair_of("", cells, _rows(cells, group1, "group1"), group2)]
    levels = _levels_of(given, cells, groupby)
    if group1 is None:
        names = sorted({str(name) for name in levels if name})
        return [_by_levels(cells, levels, [name], group2) for name in names]
    return [_by_levels(cells, levels, _listed(group1), group2)]


def _by_levels(cells: Data, levels: np.ndarray, names: Sequence[str], group2: Any) -> Comparison:
    others = None if group2 is None else _listed(group2)
    for name in [*names, *(others or [])]:
        if name not in levels:
            known = {str(each) for each in levels if each}
            raise ColumnError(unknown_name("group", name, known))
    first = torch.from_numpy(np.flatnonzero(np.isin(levels, names)))
    second = None if others is None else np.flatnonzero(np.isin(levels, others))
    label = f"{' + '.join(names)} vs {REST if others is None else ' + '.join(others)}"
    return _pair_of(label, cells, first, second)


def _pair_of(name: str, cells: Data, first: Tensor, group2: Any) -> Comparison:
    if group2 is None:
        rest = torch.ones(len(cells), dtype=torch.bool)
        rest[first] = False
        second = rest.nonzero().squeeze(1)
        if not len(second):
            raise ColumnError("group1 holds all cells, so there is no other group")
        return Comparison(name, first, second)
    second = _rows(cells, group2, "group2")
    if common := set(first.tolist()) & set(second.tolist()):
        raise ColumnError(f"{len(common)} cells are in both groups, row {min(common)} first")
    return Comparison(name, first, second)


def _listed(names: Any) -> list[str]:
    """Return the names of levels: of one, by its name or its code, or of several."""
    one = isinstance(names, (str, int, np.generic))
    return [str(name) for name in ([names] if one else names)]


def _levels_of(given: Any, cells: Data, groupby: str) -> np.ndarray:
    """Return the name of each cell's level in a column, empty where it is missing."""
    if is_anndata(given):
        if groupby not in given.obs.columns:
            raise DataError(
                f"adata.obs has no column {groupby!r}; {did_you_mean(groupby, given.obs.columns)}"
            )
        series = given.obs[groupby]
        return np.where(series.isna(), "", series.astype(str)).astype(str)
    named = [c for c in cells if cells.shape(c) == () and cells.columns(c).fields(c)[0].name]
    column = groupby
    if groupby not in cells:  # a column of adata.obs, by the name that it has there
        called = {cells.fields(c)[0].name: c for c in named}
        if groupby not in called:
            known = dict.fromkeys([*named, *called])
            raise DataError(f"no column {groupby!r}; {did_you_mean(groupby, known)}")
        column = called[groupby]
    codes, levels = cells[column], cells.levels(column)
    names = [_name_of(code, levels) for code in codes.tolist()]
    return np.array(names)


def _name_of(code: float, levels: Sequence[str] | None) -> str:
    if not code >= 0:  # -1 or NaN
        return ""
    return levels[int(code)] if levels else str(int(code))


def _rows(data: Data, group: Any, name: str) -> Tensor:
    given = torch.as_tensor(np.asarray(group))
    if given.dtype == torch.bool:
        if given.shape != (len(data),):
            raise ColumnError(
                f"{name} is a mask of shape {tuple(given.shape)}, but there are {len(data)} cells"
            )
        given = given.nonzero().squeeze(1)
    given = given.long().unique()
    if not len(given):
        raise ColumnError(f"{name} has no cell")
    if given.min() < 0 or given.max() >= len(data):
        raise ColumnError(f"{name} names row {int(given.max())}, but there are {len(data)} cells")
    return given


def raw_means(data: Data, rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return mean count, and share of cells in which it is not 0, of each gene in some cells."""
    total: Any = 0.0
    positive: Any = 0.0
    for _, values in chunks(data.select(rows)):
        total = total + values.double().sum(0)
        positive = positive + (values > 0).double().sum(0)
    return np.asarray(total) / len(rows), np.asarray(positive) / len(rows)
