"""Estimators of the evidence bound, by name: each a ``pyro.infer.ELBO``."""

from __future__ import annotations

from .adversarial import Adversarial, FactorTC
from .capacity import Capacity
from .discrepancy import MMD
from .elbo import ELBO
from .evolution import EvolutionStrategies
from .graph import TraceGraph
from .importance import CIWAE, IWAE, MIWAE, VIMCO, Renyi, VRMax
from .particles import ParticleEstimator
from .pathwise import PIWAE, STL, DReG, DReGWakeSleep, TailAdaptive
from .registry import Estimator, about, available, bounds_evidence, enumerates, get, options
from .regularised import DIP, BetaTC
from .tvo import TVO
from .wake_sleep import WakeSleep

__all__ = [
    "CIWAE",
    "DIP",
    "ELBO",
    "IWAE",
    "MIWAE",
    "MMD",
    "PIWAE",
    "STL",
    "TVO",
    "VIMCO",
    "Adversarial",
    "BetaTC",
    "Capacity",
    "DReG",
    "DReGWakeSleep",
    "Estimator",
    "EvolutionStrategies",
    "FactorTC",
    "ParticleEstimator",
    "Renyi",
    "TailAdaptive",
    "TraceGraph",
    "VRMax",
    "WakeSleep",
    "about",
    "available",
    "bounds_evidence",
    "enumerates",
    "get",
    "options",
]
