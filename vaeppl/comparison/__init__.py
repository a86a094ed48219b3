"""Comparing estimators of the evidence bound on one model and guide, with error bars."""

from .candidates import Candidate
from .estimators import DEFAULT, compare_estimators
from .results import FrozenComparison, TrainedComparison

__all__ = ["DEFAULT", "Candidate", "FrozenComparison", "TrainedComparison", "compare_estimators"]
