"""Amortised posteriors: families of q(z | h), and guides made from a story alone."""

from __future__ import annotations

from .auto import AutoAmortizedGuide, guide_for
from .families import (
    SCALE_FLOOR,
    DiagonalNormal,
    Family,
    Flow,
    FullRankNormal,
    GumbelSoftmax,
    LowRankNormal,
    available,
    get,
)

__all__ = [
    "SCALE_FLOOR",
    "AutoAmortizedGuide",
    "DiagonalNormal",
    "Family",
    "Flow",
    "FullRankNormal",
    "GumbelSoftmax",
    "LowRankNormal",
    "available",
    "get",
    "guide_for",
]
