"""Schedules: a weight (of the KL, of the learning rate) as a function of how far the fit is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..config import Configurable
from ..errors import unknown_name

__all__ = ["Constant", "Cosine", "Cyclical", "Function", "Linear", "Schedule", "get"]


class Schedule(Configurable):
    """A function of progress, from 0 at the first step to 1 after the last."""

    def __call__(self, progress: float) -> float:
        """Return the weight at ``progress`` in [0, 1]; a subclass writes it."""
        raise TypeError(f"{type(self).__name__} has no method `__call__(progress)`: write it")


class Constant(Schedule):
    """The same weight throughout."""

    def __init__(self, value: float = 1.0) -> None:
        self.value = value

    def __call__(self, progress: float) -> float:
        """Return the weight."""
        return self.value


class Linear(Schedule):
    """From ``start`` to ``end`` over the first ``share`` of the run, then constant.

    Examples
    --------
    >>> warm_up = Linear(0.0, 1.0, share=0.5)
    >>> warm_up(0.25), warm_up(0.75)
    (0.5, 1.0)
    """

    def __init__(self, start: float = 0.0, end: float = 1.0, share: float = 1.0) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share is a part of the run, above 0 and at most 1; given {share}")
        self.start, self.end, self.share = start, end, share

    def __call__(self, progress: float) -> float:
        """Return the weight."""
        return self.start + (self.end - self.start) * min(progress / self.share, 1.0)


class Cosine(Schedule):
    """From ``start`` to ``end`` along half a cosine wave (Loshchilov & Hutter 2017).

    ``warm_up`` is the share of the run over which the weight first rises linearly to ``start``.
    """

    def __init__(self, start: float = 1.0, end: float = 0.0, warm_up: float = 0.0) -> None:
        if not 0 <= warm_up < 1:
            raise ValueError(f"warm_up is a part of the run, in [0, 1); given {warm_up}")
        self.start, self.end, self.warm_up = start, end, warm_up

    def __call__(self, progress: float) -> float:
        """Return the weight."""
        if progress < self.warm_up:
            return self.start * progress / self.warm_up
        along = (progress - self.warm_up) / (1.0 - self.warm_up)
        return self.end + (self.start - self.end) * (1.0 + math.cos(math.pi * along)) / 2


class Cyclical(Schedule):
    """``cycles`` ramps from 0 to 1, each flat after ``share`` of its cycle (Fu et al. 2019)."""

    def __init__(self, cycles: int = 4, share: float = 0.5) -> None:
        if cycles < 1 or not 0 < share <= 1:
            raise ValueError(f"cycles >= 1 and 0 < share <= 1; given {cycles} and {share}")
        self.cycles, self.share = cycles, share

    def __call__(self, progress: float) -> float:
        """Return the weight."""
        within = (progress * self.cycles) % 1.0 if progress < 1 else 1.0
        return min(within / self.share, 1.0)


class Function(Schedule):
    """A function of the user's own, from progress in [0, 1] to the weight."""

    def __init__(self, function: Callable[[float], float]) -> None:
        self.function = function

    def __call__(self, progress: float) -> float:
        """Return the weight."""
        return float(self.function(progress))


_NAMED: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "cyclical": Cyclical,
}


def get(schedule: Any) -> Schedule:
    """Return a schedule: one is returned as it is, a number is constant, a name is looked up."""
    if isinstance(schedule, Schedule):
        return schedule
    if isinstance(schedule, str):
        if schedule not in _NAMED:
            raise ValueError(unknown_name("schedule", schedule, _NAMED))
        return _NAMED[schedule]()
    if isinstance(schedule, (int, float)) and not isinstance(schedule, bool):
        return Constant(float(schedule))
    if callable(schedule):
        return Function(schedule)
    raise TypeError(
        f"a schedule is a number, a name, a function of progress in [0, 1] or a Schedule; "
        f"given {schedule!r}"
    )
