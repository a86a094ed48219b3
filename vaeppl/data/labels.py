"""Labels: a column of codes 0, ..., K - 1, of which some, or all but a few, are hidden."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .columns import Column, Field
from .errors import DataError
from .table import Table

__all__ = ["HIDDEN", "few_labels", "label_codes", "labels_of"]

HIDDEN = -1  # stands where a row has no label, as in scikit-learn


def label_codes(values: Tensor, name: str = "labels") -> Tensor:
    """Check labels, and return them as int64 with -1 where they are hidden.

    Parameters
    ----------
    values : Tensor, shape (N,) or (N, 1), or indicators of the class, (N, K)
        Whole numbers 0, ..., K - 1; -1 or NaN where there is no label.
    name : str
        What messages call them.

    Returns
    -------
    Tensor of int64, shape (N,), on the CPU

    Raises
    ------
    DataError
        If a value is no label.

    Examples
    --------
    >>> label_codes(torch.tensor([2.0, float("nan"), -1.0]))
    tensor([ 2, -1, -1])
    >>> label_codes(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    tensor([1, 0])
    """
    flat = values.detach().cpu().reshape(len(values), -1)
    if flat.shape[1] > 1:
        return _codes_of_indicators(flat, tuple(values.shape[1:]), name)
    single = flat[:, 0]
    if single.is_floating_point():
        single = single.masked_fill(single.isnan(), HIDDEN)
    bad = (single != single.round()) | (single < HIDDEN) | single.isinf()
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise DataError(
            f"{name} has {single[row].item():g} at row {row}; labels are whole numbers "
            "0, ..., K - 1, and -1 or NaN where there is none"
        )
    return single.to(torch.int64)


def _codes_of_indicators(flat: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    hidden = flat.isnan().all(1)
    of_a_class = ((flat == 0) | (flat == 1)).all(1) & (flat.sum(1) == 1)
    if not bool((of_a_class | hidden).all()):
        raise DataError(
            f"{name} has shape {shape} a row; labels are one number a row, or indicators of a "
            "class, a single 1 a row"
        )
    return flat.argmax(1).masked_fill(hidden, HIDDEN)


def labels_of(data: Table, column: str) -> Tensor:
    """Read the labels of a column as :func:`label_codes` gives them.

    Raises
    ------
    DataError
        If there is no such column, or it holds no labels.

    Examples
    --------
    >>> from vaeppl.data import Data
    >>> labels_of(Data({"y": [1.0, float("nan")]}), "y")
    tensor([ 1, -1])
    """
    found = data._column(column)
    noise = torch.Generator().manual_seed(0)
    parts = [found.read(index, data.dtype, "cpu", noise) for _, index in found.chunks()]
    return label_codes(torch.cat(parts), f"column {column!r}")


def few_labels(
    data: Table,
    column: str,
    rows: Tensor,
    *,
    per_class: int | None,
    total: int | None,
    seed: int,
) -> Column:
    """Hide the labels of some rows but a random draw, balanced over the classes.

    Parameters
    ----------
    data : Table
    column : str
        Name of the column of labels.
    rows : Tensor of int64
        Those whose labels are drawn or hidden; the others keep theirs.
    per_class, total, seed
        As in `Data.few_labels`.

    Returns
    -------
    Column
        In memory, of int64.
    """
    if data.shape(column) not in ((), (1,)):
        raise DataError(
            f"column {column!r} has shape {data.shape(column)} a row; few_labels needs one label "
            "a row, a whole number 0, ..., K - 1"
        )
    codes = labels_of(data, column)
    kept = _drawn(codes[rows], f"column {column!r}", per_class, total, seed)
    few = codes.clone()
    few[rows] = HIDDEN
    few[rows[kept]] = codes[rows[kept]]
    found = data._column(column)
    return replace(
        found,
        store=few.to(data.device),
        rows=None,
        scale=1.0,
        transforms=(),
        fields=found.fields or (Field(column, "categorical"),),
    )


def _drawn(codes: Tensor, name: str, per_class: int | None, total: int | None, seed: int) -> Tensor:
    """Draw rows of each class."""
    num_classes = int(codes.max()) + 1
    if num_classes < 1:
        raise DataError(f"{name} has no label left to draw from: all are hidden")
    # RandomState's stream is frozen for good, so a seed means the same rows in every version.
    chance = np.random.RandomState(seed)
    of_class = [np.flatnonzero(codes.numpy() == k) for k in range(num_classes)]
    members = [chance.permutation(rows) for rows in of_class]
    wanted = _wanted(num_classes, per_class, total, chance)
    for label, (rows, number) in enumerate(zip(members, wanted, strict=True)):
        if len(rows) < number:
            raise DataError(
                f"class {label} of {name} has {len(rows)} labelled rows, but {number} were "
                f"asked for; labels are 0, ..., {num_classes - 1}, and each class needs as many"
            )
    chosen = [rows[:number] for rows, number in zip(members, wanted, strict=True)]
    return torch.from_numpy(np.concatenate(chosen))


def _wanted(
    num_classes: int, per_class: Any, total: Any, chance: np.random.RandomState
) -> list[int]:
    """Count the labels of each class."""
    if (per_class is None) == (total is None):
        raise DataError("give one of per_class (labels of each class) and total (of all classes)")
    option, number = ("per_class", per_class) if total is None else ("total", total)
    least = 1 if total is None else num_classes
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        why = "" if total is None else f", as many as there are classes ({num_classes})"
        raise DataError(f"{option}={number!r}; expected a whole number, at least {least}{why}")
    if total is None:
        return [number] * num_classes
    share, rest = divmod(number, num_classes)
    one_more = set(chance.permutation(num_classes)[:rest].tolist())
    return [share + (k in one_more) for k in range(num_classes)]
