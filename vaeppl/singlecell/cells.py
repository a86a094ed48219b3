"""What is asked of cells before a fit, and what a story is told of them: sizes and log totals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..columns import entry_in_words
from ..data import Data
from ..errors import ColumnError

__all__ = ["check_cells", "check_counts", "sizes_for", "unknown_level"]

VALUES_AT_ONCE = 4_000_000
NARROWEST = 0.01  # sd of log totals: cells that were all brought to one total have none


def sizes_for(data: Data, labels: Sequence[str] = ()) -> dict[str, Any]:
    """Return what the constructor of SCVI is told of some cells, by the names of its arguments.

    Parameters
    ----------
    data
        Columns ``x`` and, if there, ``batch``, ``categorical`` and ``continuous``.
    labels
        Column of labels whose number is wanted too; none if empty.

    Returns
    -------
    dict
        ``x_dim``, ``num_batches``, ``categories``, ``continuous_dim``; ``library_mean`` and
        ``library_sd``, the mean and standard deviation of the log totals of each batch; and
        ``num_labels``, if wanted.

    Raises
    ------
    ColumnError
        If ``x`` does not hold counts, or a cell has none.

    Examples
    --------
    >>> sizes_for(Data({"x": [[1, 2], [0, 3], [4, 4]], "batch": [0, 0, 1]}))["num_batches"]
    2
    """
    check_counts(data)
    batch = data["batch"].long() if "batch" in data else torch.zeros(len(data), dtype=torch.long)
    num_batches = num_levels(data, "batch")
    log_totals = totals(data).double().log()
    moments = [_mean_sd(log_totals[batch == s], log_totals) for s in range(num_batches)]
    found = {
        "x_dim": math.prod(data.shape("x")),
        "num_batches": num_batches,
        "categories": _levels_of_factors(data),
        "continuous_dim": math.prod(data.shape("continuous")) if "continuous" in data else 0,
        "library_mean": [mean for mean, _ in moments],
        "library_sd": [sd for _, sd in moments],
    }
    for column in labels:
        found["num_labels"] = num_levels(data, column)
    return found


def _mean_sd(log_totals: Tensor, of_all: Tensor) -> tuple[float, float]:
    """Return mean and sd; a batch of fewer than two cells has those of all cells."""
    some = log_totals if len(log_totals) > 1 else of_all
    sd = float(some.std()) if len(some) > 1 else 1.0
    return round(float(some.mean()), 6), round(max(sd, NARROWEST), 6)


def num_levels(data: Data, column: str) -> int:
    """Return how many levels a column of codes has: those that are named, or that are there."""
    if column not in data:
        return 1
    codes = data[column]
    seen = int(codes[codes == codes].max()) + 1
    return max(1, seen, len(data.levels(column) or ()))


def _levels_of_factors(data: Data) -> list[int]:
    if "categorical" not in data:
        return []
    fields = data.fields("categorical")
    codes = data["categorical"].reshape(len(data), -1)
    seen = (codes.max(0).values.long() + 1).tolist()
    return [max(1, n, len(f.levels or ())) for n, f in zip(seen, fields, strict=True)]


def chunks(data: Data, column: str = "x") -> Iterator[tuple[int, Tensor]]:
    """Yield the rows of a column some at a time, with the number of the first."""
    part = data.columns(column)
    size = max(1, VALUES_AT_ONCE // max(1, math.prod(data.shape(column))))
    for first in range(0, len(data), size):
        index = torch.arange(first, min(first + size, len(data)))
        yield first, part.take(index)[column].reshape(len(index), -1)


def totals(data: Data) -> Tensor:
    """Return the number of counts of each cell, ``(N,)``."""
    return torch.cat([values.sum(-1) for _, values in chunks(data)])


def check_counts(data: Data) -> None:
    """Check that ``x`` holds counts, and each cell some.

    Raises
    ------
    ColumnError
        The message says which entry is no count, or how many cells have none.
    """
    if "x" not in data:
        raise ColumnError(
            f"the data have no column 'x' of counts, but {', '.join(map(repr, data.keys()))}"
        )
    empty: list[int] = []
    for first, values in chunks(data):
        bad = ~((values >= 0) & (values == values.floor()) & values.isfinite())
        if bad.any():
            row, gene = bad.nonzero()[0].tolist()
            raise ColumnError(
                f"column 'x' holds {float(values[row, gene]):g} at row {first + row}"
                f"{entry_in_words(data, 'x', gene)}, which is no count{_why(values)}"
                f"{data._column('x').note}"
            )
        empty += (first + (values.sum(-1) == 0).nonzero().squeeze(1)).tolist()
    if empty:
        annotated = bool(data._column("x").note)
        keep = "scanpy.pp.filter_cells(adata, min_counts=1)" if annotated else "data.select(rows)"
        raise ColumnError(
            f"{len(empty)} of {len(data)} cells have no count at all, the first at row {empty[0]}: "
            f"they have no library size; leave them out, {keep}"
        )


def _why(values: Tensor) -> str:
    """Guess what was done to values that are no counts."""
    finite = values[values.isfinite()]
    if finite.numel() and finite.min() < 0:
        return ": these look scaled or centred; give the raw counts"
    if finite.numel() and finite.max() < 30:
        return ": these look normalised and logged, log(1 + x); give the raw counts"
    return ": these look normalised; give the raw counts"


def check_cells(data: Data, num_batches: int, categories: Sequence[int]) -> None:
    """Check counts, and that every factor holds codes of the levels that are known.

    Raises
    ------
    ColumnError
        The message says in which row what is wrong.
    """
    check_counts(data)
    if "batch" in data:
        _check_codes("batch", data["batch"], num_batches)
    elif num_batches > 1:
        raise ColumnError(f"the story was built for {num_batches} batches: give a column 'batch'")
    if "categorical" in data:
        codes = data["categorical"].reshape(len(data), -1)
        if codes.shape[1] != len(categories):
            raise ColumnError(
                f"column 'categorical' has {codes.shape[1]} factors, but the story was built for "
                f"{len(categories)}"
            )
        for values, levels in zip(codes.unbind(1), categories, strict=True):
            _check_codes("categorical", values, levels)


def _check_codes(column: str, codes: Tensor, levels: int) -> None:
    if not bool(((codes >= 0) & (codes < levels) & (codes == codes.floor())).all()):
        raise ColumnError(unknown_level(column, codes, levels))


def unknown_level(column: str, codes: Tensor, levels: int) -> str:
    """Say which code of a factor is none of those that a story was built for.

    Examples
    --------
    >>> unknown_level("batch", torch.tensor([0, 3]), 2)[:40]
    "column 'batch' holds 3 at row 1, but the"
    """
    known = (codes >= 0) & (codes < levels) & (codes == codes.floor())
    row = int((~known).nonzero()[0])
    return (
        f"column {column!r} holds {float(codes[row]):g} at row {row}, but the story was built for "
        f"the codes 0 to {levels - 1}, and knows nothing of a level that was not fitted: fit again "
        "with such cells, or give the code of a level that is known"
    )
