"""What a metric returns: its value, what it is made of, and how it was computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Score"]


@dataclass(frozen=True, eq=False)
class Score:
    """A metric of a representation.

    Attributes
    ----------
    metric : str
        Its name.
    value : float
        The metric; ``float(score)`` gives it too.
    parts : pandas.Series
        The terms of which it is the mean or the sum, such as one a factor.
    matrix : pandas.DataFrame or None
        What it was computed from where that is one number for each code and factor, ``(D, F)``.
    settings : Mapping of str to Any
        Number of rows, bins, seed, and all else that the value depends on.

    Examples
    --------
    >>> import pandas as pd
    >>> Score("mig", 0.25, pd.Series([0.1, 0.4]), settings={"rows": 1000, "bins": 20})
    mig 0.250 (rows=1000, bins=20)
    """

    metric: str
    value: float
    parts: pd.Series
    matrix: pd.DataFrame | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return f"{self.metric} {shown(self.value)} ({in_words(self.settings)})"


def shown(value: float) -> str:
    """Write a value with three digits; what rounds to zero has no sign."""
    return f"{round(value, 3) + 0.0:.3f}"


def in_words(settings: Mapping[str, Any]) -> str:
    """Write settings as arguments are written."""
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())
