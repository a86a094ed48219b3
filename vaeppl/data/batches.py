"""Minibatches of rows, as training reads them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .columns import generator_on
from .dataset import Data
from .errors import DataError

__all__ = ["Batch", "minibatches"]

_VALUES_AT_ONCE = 1 << 16


class Batch(NamedTuple):
    """Some rows of the data.

    Parameters
    ----------
    index : Tensor of int64, shape (B,)
        Their row numbers, on the CPU: the subsample of the model's plate.
    columns : dict of str to Tensor, each of shape (B, *event)
        Their values.
    """

    index: Tensor  # type: ignore[assignment]  # shadows tuple.index, which nobody needs
    columns: dict[str, Tensor]


def minibatches(
    data: Data,
    batch_size: int,
    *,
    shuffle: bool = True,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    drop_last: bool = False,
) -> Iterator[Batch]:
    """Go through the rows once, some at a time.

    Parameters
    ----------
    data : Data
        The rows to go through.
    batch_size : int
        Rows a batch; the last one holds what is left.
    shuffle : bool
        Whether to go in random order.
    generator : torch.Generator, optional
        Source of the order and of random transforms; torch's global one if None.
    device : torch.device or str, optional
        Where the values go; where they are kept if None.
    drop_last : bool
        Whether to leave out a last batch that is smaller than the others.

    Returns
    -------
    iterator of Batch

    Raises
    ------
    DataError
        If `batch_size` is not between 1 and the number of rows.

    Examples
    --------
    >>> data = Data({"x": [1.0, 2.0, 3.0]})
    >>> [batch.columns["x"].tolist() for batch in minibatches(data, 2, shuffle=False)]
    [[1.0, 2.0], [3.0]]
    """
    n = len(data)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise DataError(f"batch_size={batch_size!r}; expected an integer between 1 and {n}")
    if not 1 <= batch_size <= n:
        raise DataError(
            f"batch_size={batch_size}, but data {data.name!r} has {n} rows; "
            f"expected an integer between 1 and {n}"
        )
    return _batches(data, batch_size, shuffle, generator, device, drop_last)


def _batches(
    data: Data,
    batch_size: int,
    shuffle: bool,
    generator: torch.Generator | None,
    device: torch.device | str | None,
    drop_last: bool,
) -> Iterator[Batch]:
    """Do the work of `minibatches`, which checks its arguments when called, not when read."""
    n = len(data)
    order = _order(n, shuffle, generator)
    if drop_last:
        order = order[: n - n % batch_size]
    place = data.device if device is None else torch.device(device)
    # One generator for all batches: making one a batch costs more than reading it.
    noise = generator_on(place, generator) if data.has_transforms else None
    # Rows are looked up where the columns are, so the index is there in one piece beforehand.
    near = order.to(data.device)
    several = 1 if data.has_transforms else _batches_at_once(data, batch_size)
    for first in range(0, len(order), several * batch_size):
        last = first + several * batch_size
        values = data._read(near[first:last], place, noise)
        parts = {name: v.split(batch_size) for name, v in values.items()}
        for number, index in enumerate(order[first:last].split(batch_size)):
            yield Batch(index, {name: part[number] for name, part in parts.items()})


def _batches_at_once(data: Data, batch_size: int) -> int:
    """Return how many small batches are read in one go, as each reading has a cost of its own."""
    width = sum(math.prod(data.shape(name)) for name in data)
    return max(1, _VALUES_AT_ONCE // max(1, batch_size * width))


def _order(n: int, shuffle: bool, generator: torch.Generator | None) -> Tensor:
    if not shuffle:
        return torch.arange(n)
    if generator is not None and generator.device.type != "cpu":
        return torch.randperm(n, generator=generator, device=generator.device).cpu()
    return torch.randperm(n, generator=generator)
