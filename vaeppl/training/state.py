"""Where a fit stands."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["State"]


@dataclass
class State:
    """Where a fit stands: all of it is in a checkpoint, beside parameters and optimiser."""

    epoch: int = 0
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_elbo: float = -float("inf")
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    stopped: str = ""
