"""Distributions that Pyro lacks, or computes with too few digits or too slowly."""

from __future__ import annotations

from .binary import Bernoulli, BinaryVectors, ContinuousBernoulli
from .counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial, ZeroInflatedPoisson
from .mixed import MixedColumns, centre

__all__ = [
    "Bernoulli",
    "BinaryVectors",
    "ContinuousBernoulli",
    "MixedColumns",
    "NegativeBinomial",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "centre",
]
