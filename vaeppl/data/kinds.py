"""What the values of a column look like: range, missing entries, and the kind they suggest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .columns import Column, Field

__all__ = ["Summary", "component_fields", "component_names", "kind_of_values", "summarise"]

# Beyond this many components nobody reads fields one by one, and all share one kind.
_MAX_COMPONENTS = 1000


@dataclass(frozen=True)
class Summary:
    """Range of each component, NaN left out.

    Parameters
    ----------
    minimum, maximum : Tensor, shape (D,)
        Infinite (+inf and -inf) for a component with nothing but NaN.
    integral : Tensor of bool, shape (D,)
        Whether every value is an integer.
    missing : int
        Number of NaN entries.
    """

    minimum: Tensor
    maximum: Tensor
    integral: Tensor
    missing: int


def summarise(column: Column, dtype: torch.dtype) -> Summary:
    """Scan a column, chunk by chunk, as a model would see it.

    Random transforms are drawn from a fixed seed, so that the answer does not change.

    Parameters
    ----------
    column : Column
    dtype : torch.dtype
        Floating type of the delivered values.

    Returns
    -------
    Summary

    Examples
    --------
    >>> from vaeppl.data.columns import make_column
    >>> summarise(make_column("y", [0, 3], torch.float32), torch.float32).maximum
    tensor([3.])
    """
    generator = torch.Generator().manual_seed(0)
    lows, highs, integral, missing = [], [], [], 0
    for _, index in column.chunks():
        part = column.read(index, dtype, "cpu", generator).reshape(len(index), -1).to(dtype)
        hole = part.isnan()
        holes = int(hole.sum())
        missing += holes
        lows.append((part.masked_fill(hole, torch.inf) if holes else part).amin(0))
        highs.append((part.masked_fill(hole, -torch.inf) if holes else part).amax(0))
        whole = part == part.round()
        integral.append((whole | hole).all(0))
    return Summary(
        torch.stack(lows).amin(0),
        torch.stack(highs).amax(0),
        torch.stack(integral).all(0),
        missing,
    )


def kind_of_values(minimum: float, maximum: float, integral: bool) -> str:
    """Find the first support that holds the values: binary, count, unit, positive, real.

    Parameters
    ----------
    minimum, maximum : float
        Range of the values.
    integral : bool
        Whether all are integers.

    Returns
    -------
    str

    Examples
    --------
    >>> kind_of_values(0.0, 0.5, False)
    'unit'
    """
    if minimum > maximum:  # nothing was observed, so nothing is known
        return "real"
    if integral and minimum >= 0:
        return "binary" if maximum <= 1 else "count"
    if minimum >= 0 and maximum <= 1:
        return "unit"
    return "positive" if minimum > 0 else "real"


def component_fields(name: str, column: Column, summary: Summary) -> tuple[Field, ...]:
    """One field a component, with the kind that its values suggest.

    The components of one array are taken to be of one kind, that of all values together: a pixel
    that happens to be always 0 or 1 does not make an image a mixture. The exception is an array
    of reals in which some components are discrete: then each component has its own kind.

    Parameters
    ----------
    name : str
        Name of the column.
    column : Column
    summary : Summary
        Of the column's values.

    Returns
    -------
    tuple of Field
        As many as the column has components.

    Examples
    --------
    >>> from vaeppl.data.columns import make_column
    >>> column = make_column("x", [[0.0, 1.5], [1.0, -0.5]], torch.float32)
    >>> [f.kind for f in component_fields("x", column, summarise(column, torch.float32))]
    ['binary', 'real']
    """
    names = component_names(name, column)
    pooled = kind_of_values(
        float(summary.minimum.min()), float(summary.maximum.max()), bool(summary.integral.all())
    )
    kinds = [pooled] * column.width
    if pooled in ("positive", "real") and 1 < column.width <= _MAX_COMPONENTS:
        kinds = _mixed_kinds(summary, pooled)
    return tuple(Field(n, kind) for n, kind in zip(names, kinds, strict=True))


def component_names(name: str, column: Column) -> tuple[str, ...]:
    """Names of the components of a column: those given, or ``name[0]``, ``name[1]``, ..."""
    if column.names is not None:
        return column.names
    if not column.event_shape:
        return (name,)
    return tuple(f"{name}[{i}]" for i in range(column.width))


def _mixed_kinds(summary: Summary, pooled: str) -> list[str]:
    """Kinds component by component, if some are discrete and others continuous."""
    # A constant component says nothing about its kind.
    varies = (summary.maximum > summary.minimum).tolist()
    kinds = [
        kind_of_values(low, high, whole) if moves else pooled
        for low, high, whole, moves in zip(
            summary.minimum.tolist(),
            summary.maximum.tolist(),
            summary.integral.tolist(),
            varies,
            strict=True,
        )
    ]
    discrete = [kind in ("binary", "count") for kind in kinds]
    continuous = [not d and v for d, v in zip(discrete, varies, strict=True)]
    mixed = any(discrete) and any(continuous)
    return kinds if mixed else [pooled] * len(kinds)
