"""Zeros and ones from values in [0, 1]: by chance, or by threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .columns import Column, Field, transformed
from .errors import DataError
from .kinds import Summary

__all__ = ["WAYS", "bernoulli", "binarized", "check_unit", "draw_all", "threshold"]

WAYS = ("dynamic", "static", "threshold")


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


def binarized(
    name: str,
    column: Column,
    how: str,
    dtype: torch.dtype,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Column:
    """Make a column of zeros and ones: drawn once and kept, or drawn anew for each batch.

    Parameters
    ----------
    name : str
        Name of the column.
    column : Column
        With values in [0, 1]; see `check_unit`.
    how : str
        One of `WAYS`; see `Data.binarize`.
    dtype : torch.dtype
        Floating type in which probabilities are read.
    device : torch.device or str
        Where what is drawn once is kept.
    seed : int
        Of the static draw.

    Examples
    --------
    >>> from vaeppl.data.columns import make_column
    >>> column = make_column("x", [0.2, 0.8], torch.float32)
    >>> binarized("x", column, "threshold", torch.float32).store
    tensor([0, 1], dtype=torch.uint8)
    """
    given = column.fields or (Field(name, "binary"),)
    fields = tuple(replace(field, kind="binary", levels=None) for field in given)
    if how == "dynamic":
        label = "dynamic binarisation"
        return transformed(name, column, bernoulli, dtype, fields=fields, label=label)
    if how == "threshold" and not column.resident:
        return transformed(name, column, threshold, dtype, fields=fields, label="threshold")
    draw = bernoulli if how == "static" else threshold
    drawn = draw_all(column, draw, dtype, torch.Generator().manual_seed(seed))
    return replace(
        column, store=drawn.to(device), rows=None, scale=1.0, transforms=(), fields=fields
    )


def check_unit(name: str, summary: Summary) -> None:
    """Refuse values that are no probabilities.

    Parameters
    ----------
    name : str
        Name of the column, for messages.
    summary : Summary
        Of the column's values.

    Raises
    ------
    DataError
        If one lies outside [0, 1].
    """
    low, high = float(summary.minimum.min()), float(summary.maximum.max())
    if low < 0 or high > 1:
        bad = low if low < 0 else high
        raise DataError(
            f"column {name!r} holds {bad:g}; binarize needs values in [0, 1], read as "
            "probabilities (divide images of bytes by 255: Data(..., scale={'x': 255}))"
        )
