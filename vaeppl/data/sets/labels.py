"""The field of a column of labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..columns import Field

__all__ = ["labels"]


def labels(levels: Iterable[Any], name: str = "y") -> tuple[Field]:
    """Describe codes 0, 1, ... by the names of their levels.

    Examples
    --------
    >>> labels(["F", "M"], "sex")[0].levels
    ('F', 'M')
    """
    return (Field(name, "categorical", tuple(str(level) for level in levels)),)
