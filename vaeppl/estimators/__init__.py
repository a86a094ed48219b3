"""Estimators of the evidence bound, by name: each a ``pyro.infer.ELBO``."""

from __future__ import annotations

from .elbo import ELBO
from .registry import Estimator, about, available, enumerates, get

__all__ = ["ELBO", "Estimator", "about", "available", "enumerates", "get"]
