"""Whether the values of the columns are those that their likelihood takes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Independent, constraints

from ..columns import entry_in_words
from ..data import Data
from ..distributions import MixedColumns
from ..pair import Pair
from ..strata import is_missing
from .findings import Finding

__all__ = ["CHUNK", "check_values", "one_column"]

CHUNK = 4096  # rows whose values are checked at a time


def check_values(
    pair: Pair, data: Data, trace: Any, *, leave_out: Collection[str] = ()
) -> Iterator[Finding]:
    """Check every value of every observed column against the support of its likelihood.

    Parameters
    ----------
    trace
        A trace of the model on some rows, with the distributions of the observed sites.
    leave_out
        Columns that were checked already.
    """
    for name, site in trace.nodes.items():
        observed = site["type"] == "sample" and site["is_observed"] and name not in leave_out
        if observed and name in data and name in pair.columns:
            for part, start, stop in _parts(site["fn"]):
                missing = pair.takes_missing or name in pair.partly_observed
                yield from _check_part(data, name, part, slice(start, stop), missing)


def _parts(fn: Any) -> Iterator[tuple[Any, int, int | None]]:
    """Yield the distributions of groups of columns, with the columns they stand for."""
    fn = one_column(fn)
    if isinstance(fn, MixedColumns):
        start = 0
        for part, size in zip(fn.parts, fn.sizes, strict=True):
            for inner, first, last in _parts(part):
                yield inner, start + first, start + (size if last is None else last)
            start += size
    else:
        yield fn, 0, None


def one_column(fn: Any) -> Any:
    """Take off what is wrapped around the distribution of an entry."""
    while isinstance(fn, (Independent, MaskedDistribution, ExpandedDistribution)):
        fn = fn.base_dist
    return fn


def _check_part(
    data: Data, column: str, fn: Any, where: slice, takes_missing: bool
) -> Iterator[Finding]:
    support = _plain_support(fn)
    if support is None:
        return
    for start in range(0, len(data), CHUNK):
        index = torch.arange(start, min(start + CHUNK, len(data)))
        values = data.columns(column).take(index)[column]
        values = values.reshape(len(index), -1)[:, where]
        bad = ~support.check(values) | values.isinf()
        if takes_missing:
            bad &= ~is_missing(values.reshape(-1)).reshape(values.shape)
        if bad.any():
            row, entry = bad.nonzero()[0].tolist()
            yield Finding(
                "error",
                "value-outside-support",
                f"column {column!r} holds {_number(values[row, entry])} at row {start + row}"
                f"{entry_in_words(data, column, where.start + entry)}; a {type(fn).__name__} "
                f"likelihood takes {_in_words(support)}",
                "such a value has no probability under the story",
                _hint(column, support, values),
                column,
                of_column=True,
            )
            return


def _plain_support(fn: Any) -> Any:
    """Return the support of one entry, where it is the same for all of them; else ``None``."""
    try:
        support = fn.support
    except NotImplementedError:
        return None
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if isinstance(support, (constraints.interval, constraints.integer_interval)):
        low, high = torch.as_tensor(support.lower_bound), torch.as_tensor(support.upper_bound)
        if (low != low.flatten()[0]).any() or (high != high.flatten()[0]).any():
            return None
        return type(support)(low.flatten()[0].item(), high.flatten()[0].item())
    return support if support.event_dim == 0 else None


def _in_words(support: Any) -> str:
    if support is constraints.boolean:
        return "0 or 1"
    if support is constraints.nonnegative_integer:
        return "counts >= 0 (integers)"
    if isinstance(support, constraints.integer_interval):
        return f"integers from {_number(support.lower_bound)} to {_number(support.upper_bound)}"
    if isinstance(support, constraints.interval):
        return f"reals from {_number(support.lower_bound)} to {_number(support.upper_bound)}"
    if support in (constraints.positive, constraints.nonnegative):
        return "positive reals"
    return "finite reals" if support is constraints.real else f"values with {support}"


def _hint(column: str, support: Any, values: Tensor) -> str:
    finite = values[values.isfinite()]
    if support is constraints.boolean and finite.numel() and finite.min() >= 0:
        if finite.max() <= 1:
            return (
                f"binarise them with data.binarize({column!r}), or use "
                "likelihoods.ContinuousBernoulli"
            )
        if (finite == finite.round()).all():
            top = int(finite.max())
            return f"use likelihoods.Binomial({top}) or likelihoods.NegativeBinomial for counts"
    return f"vaeppl.likelihood_for(data, {column!r}) chooses one that does"


def _number(value: Any) -> str:
    return f"{float(value):.6g}"
