"""Counts of simulated cells, of which the expression is known."""

from __future__ import annotations

import numpy as np

from ..columns import Field
from ..dataset import Data
from ..download import Files
from ..errors import DataError
from ..registry import DataSet, register
from .labels import labels

__all__: list[str] = []

TYPES = ("stem", "T", "B", "mono")
DONORS = ("ann", "ben", "cem")
# Shares of the types in each donor: the last one has no B cells.
MIX = np.array([[0.10, 0.40, 0.30, 0.20], [0.25, 0.35, 0.10, 0.30], [0.20, 0.50, 0.00, 0.30]])
LOG_DEPTH = np.array([6.8, 7.2, 7.6])  # mean log library size in each donor
MARKED = 0.15  # of the genes differ between a type and the others
PROGRAMME = 0.1  # of the genes follow a state that varies within each type


def _simulated_cells(files: Files, *, cells: int = 1500, genes: int = 300, seed: int = 0) -> Data:
    for name, number, least in (("cells", cells, 10), ("genes", genes, 10), ("seed", seed, 0)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise DataError(f"{name}={number!r}; expected a whole number, at least {least}")
    noise = np.random.default_rng(seed)
    donor = noise.integers(len(DONORS), size=cells)
    kind = np.array([noise.choice(len(TYPES), p=MIX[d]) for d in donor])
    state = noise.normal(size=cells)
    log_rho = (
        noise.normal(0.0, 1.2, genes)
        + _effects(noise, (len(TYPES), genes), MARKED, 1.0)[kind]
        + state[:, None] * _effects(noise, (1, genes), PROGRAMME, 0.5)
    )
    of_donor = noise.normal(0.0, 0.35, (len(DONORS), genes))[donor]
    library = np.exp(noise.normal(LOG_DEPTH[donor], 0.35))
    mean = library[:, None] * _shares(log_rho + of_donor)
    theta = np.exp(noise.normal(1.5, 0.5, genes))
    counts = noise.poisson(mean * noise.gamma(theta, 1 / theta, mean.shape))
    empty = counts.sum(1) == 0
    counts[empty, 0] = 1  # a cell without counts is no cell
    names = [f"gene{g}" for g in range(genes)]
    return Data(
        {
            "x": counts.astype(np.int32),
            "batch": donor,
            "y": kind,
            "rho": _shares(log_rho).astype(np.float32),
            "library": library.astype(np.float32),
        },
        fields={
            "x": [Field(name, "count") for name in names],
            "batch": labels(DONORS, "donor"),
            "y": labels(TYPES, "cell_type"),
            "rho": [Field(name, "unit") for name in names],
            "library": [Field("library", "positive")],
        },
    )


def _effects(
    noise: np.random.Generator, shape: tuple[int, int], share: float, size: float
) -> np.ndarray:
    """Draw effects on the log expression, most of them 0."""
    effects: np.ndarray = noise.normal(0.0, size, shape) * (noise.random(shape) < share)
    return effects


def _shares(log_rho: np.ndarray) -> np.ndarray:
    weights = np.exp(log_rho - log_rho.max(1, keepdims=True))
    shares: np.ndarray = weights / weights.sum(1, keepdims=True)
    return shares


register(
    DataSet(
        "simulated_cells",
        "Counts of simulated cells of 4 types in 3 donors, with their true expression; options "
        "cells, genes, seed",
        "1500 x 300, counts, with batch, y, library and the shares rho but for the donor's effect",
        "Apache-2.0 (made by vaeppl)",
        "drawn by vaeppl: negative binomial counts of log-linear expression",
        _simulated_cells,
    )
)
