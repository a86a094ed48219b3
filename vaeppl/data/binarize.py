"""Zeros and ones from values in [0, 1]: by chance, or by threshold."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .columns import Column

__all__ = ["bernoulli", "draw_all", "threshold"]


def bernoulli(values: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw zeros and ones with the given probabilities; NaN stays NaN.

    Parameters
    ----------
    values : Tensor, any shape, in [0, 1]
    generator : torch.Generator, optional

    Examples
    --------
    >>> bernoulli(torch.tensor([0.0, 1.0]), None)
    tensor([0., 1.])
    """
    if not values.is_floating_point():  # labels 0 and 1, which are certain
        return values
    noise = torch.rand(values.shape, generator=generator, dtype=values.dtype, device=values.device)
    # In place, as this runs for every batch.
    return _keep_missing(noise.lt_(values), values)


def threshold(values: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Give one where the value exceeds 1/2, else zero; NaN stays NaN.

    Examples
    --------
    >>> threshold(torch.tensor([0.5, 0.6]))
    tensor([0., 1.])
    """
    if not values.is_floating_point():
        return values
    return _keep_missing((values > 0.5).to(values.dtype), values)


def _keep_missing(ones: Tensor, values: Tensor) -> Tensor:
    # A sum is a far cheaper test than a look at each entry; on a GPU it would be a wait instead.
    if values.device.type == "cpu" and not bool(values.sum().isnan()):
        return ones
    return ones.masked_fill_(values.isnan(), torch.nan)


def draw_all(
    column: Column,
    draw: Callable[[Tensor, torch.Generator | None], Tensor],
    dtype: torch.dtype,
    generator: torch.Generator,
) -> Tensor:
    """Draw a whole column of zeros and ones, on the CPU, as bytes if nothing is missing.

    Parameters
    ----------
    column : Column
        With values in [0, 1].
    draw : callable
        `bernoulli` or `threshold`.
    dtype : torch.dtype
        Floating type in which probabilities are read.
    generator : torch.Generator
        Source of the draws.

    Returns
    -------
    Tensor, shape (N, *event)
    """
    parts = []
    for _, index in column.chunks():
        values = column.read(index, dtype, "cpu", generator)
        part = draw(values, generator)
        parts.append(part if bool(part.isnan().any()) else part.to(torch.uint8))
    return torch.cat(parts)
