"""Rows apart by which of their columns are there: the labelled from those without a label."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from .data import Data
from .errors import ColumnError
from .pair import Pair
from .random_state import forked

__all__ = [
    "Stratum",
    "check_labels",
    "globals_shared",
    "is_missing",
    "strata",
]


class Stratum(NamedTuple):
    """Rows of which the same columns are there.

    Attributes
    ----------
    rows : Tensor of int64, shape (n,)
        Their numbers, on the CPU, in order.
    columns : tuple of str
        The pair's columns that they have.
    """

    rows: Tensor
    columns: tuple[str, ...]


def strata(pair: Pair, data: Data) -> list[Stratum]:
    """Split the rows by which of the partly observed columns they have.

    Parameters
    ----------
    pair
        Model and guide; ``Model.partly_observed`` names the columns.
    data
        The rows.

    Returns
    -------
    list of Stratum
        One that holds all rows where no column is partly observed. Rows that lack a column come
        before those that have it.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import M2
    >>> data = Data({"x": torch.zeros(3, 6), "y": [1, -1, 0]})
    >>> [(s.rows.tolist(), s.columns) for s in strata(Pair(M2(6, 2, hidden=(4,))), data)]
    [([1], ('x',)), ([0, 2], ('x', 'y'))]
    """
    there = tuple(c for c in pair.columns if c in data)
    partly = [c for c in pair.partly_observed if c in there]
    pattern = torch.zeros(len(data), dtype=torch.int64)
    for place, column in enumerate(partly):
        pattern += (~is_missing(data[column])).cpu().long() << place
    found = []
    for code in pattern.unique().tolist():
        absent = {c for place, c in enumerate(partly) if not code >> place & 1}
        rows = (pattern == code).nonzero().squeeze(1)
        found.append(Stratum(rows, tuple(c for c in there if c not in absent)))
    return found


def is_missing(values: Tensor) -> Tensor:
    """Tell which rows of a column are missing: NaN, or a negative code; shape ``(N,)``.

    Examples
    --------
    >>> is_missing(torch.tensor([0, -1])), is_missing(torch.tensor([-1.0, torch.nan]))
    (tensor([False,  True]), tensor([False,  True]))
    """
    missing = values.isnan() if values.is_floating_point() else values < 0
    return missing.flatten(1).any(1) if missing.ndim > 1 else missing


@contextmanager
def globals_shared(share: float) -> Iterator[None]:
    """Weigh what stands outside the plate of rows by a share, as each stratum sees it once."""
    with _Shared(share):
        yield


class _Shared(poutine.messenger.Messenger):
    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not any(frame.name == "rows" for frame in msg["cond_indep_stack"]):
            msg["scale"] = msg["scale"] * self.share


# --- labels ---


def check_labels(pair: Pair, data: Data, *, to_fit: bool = False) -> None:
    """Check the partly observed columns: labels 0, …, K-1, of which some are missing.

    Parameters
    ----------
    pair
        Model and guide.
    data
        The rows.
    to_fit
        Whether some row must have a value, and every label a row.

    Raises
    ------
    ColumnError
        A value is no label; or, to fit, no row has a label, or a label has no row.
    """
    for column in pair.partly_observed:
        if column not in data:
            if to_fit:
                raise _no_label(pair, column)
            continue
        values = data[column].cpu()
        there = ~is_missing(values)
        if to_fit and not there.any():
            raise _no_label(pair, column)
        if (count := _label_counts(pair, data).get(column)) is not None:
            if values.ndim > 1:
                raise ColumnError(
                    f"column {column!r} has {tuple(values.shape[1:])} entries a row; {pair.name} "
                    f"takes one label a row: data.with_column({column!r}, vaeppl.data.labels."
                    f"labels_of(data, {column!r}))"
                )
            _check_range(pair, column, values, there, count)
            if to_fit:
                _check_all_there(pair, column, values[there].long(), count)


def _label_counts(pair: Pair, data: Data) -> dict[str, int]:
    """Return K of each partly observed column that holds labels, by running the story once."""
    few = pair.batch(data.take(torch.arange(min(2, len(data))), device=pair.device))
    batch = {c: v.to(pair.dtype) if v.is_floating_point() else v for c, v in few.items()}
    there = [c for c in pair.partly_observed if c in batch]
    for column in there:
        batch[column] = torch.zeros_like(batch[column])
    store = pyro.get_param_store()
    with (
        forked(),
        torch.no_grad(),
        pair.active(),
        store.scope(store.get_state()),
    ):
        trace = poutine.trace(pair.model).get_trace(**batch)
    counts = {c: _num_labels(trace.nodes[c]["fn"]) for c in there}
    return {column: count for column, count in counts.items() if count is not None}


def _num_labels(fn: Any) -> int | None:
    """Return K of a distribution over K labels; ``None`` for any other."""
    while not hasattr(fn, "probs") and hasattr(fn, "base_dist"):
        fn = fn.base_dist
    kinds = (torch.distributions.Categorical, torch.distributions.OneHotCategorical)
    return int(fn.probs.shape[-1]) if isinstance(fn, kinds) else None


def _check_range(pair: Pair, column: str, values: Tensor, there: Tensor, count: int) -> None:
    bad = there & ~((values >= 0) & (values < count) & (values == values.floor()))
    bad |= values < -1
    if bad.any():
        row = int(bad.nonzero()[0])
        none = "NaN" if values.is_floating_point() else "-1"
        raise ColumnError(
            f"column {column!r} holds {float(values[row]):g} at row {row}; {pair.name} takes the "
            f"labels 0 to {count - 1}, and {none} where there is none"
        )


def _check_all_there(pair: Pair, column: str, labels: Tensor, count: int) -> None:
    absent = (torch.bincount(labels, minlength=count) == 0).nonzero().squeeze(1).tolist()
    if absent:
        raise ColumnError(
            f"no row of column {column!r} has the label {', '.join(map(str, absent))}, but "
            f"{pair.name} was built for {count} labels, 0 to {count - 1}: label a row with each, "
            "or build the model for those there are"
        )


def _no_label(pair: Pair, column: str) -> ColumnError:
    return ColumnError(
        f"no row has a value of column {column!r}, which {pair.name} observes in some rows: give "
        f"labels 0, 1, … in a column {column!r}, with -1 or NaN where there is none"
    )
