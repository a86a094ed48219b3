"""Representations of three independent factors whose metrics are known."""

from __future__ import annotations

import numpy as np
import pytest


def all_combinations(*levels):
    return np.indices(levels).reshape(len(levels), -1).T


def standardised(values):
    return (values - values.mean(0)) / values.std(0)


@pytest.fixture(scope="session")
def factors():
    """Each combination of three factors of four values, once."""
    return all_combinations(4, 4, 4)


def representations(factors):
    z = standardised(factors.astype(float))
    half = np.sqrt(0.5)
    turn = np.array([[half, -half, 0], [half, half, 0], [0, 0, 1]])
    mirror = np.eye(3) - 2 / 3  # I - 2 v vᵀ with v = (1, 1, 1) / √3
    return {
        "copy": z,
        "permuted": -z[:, [1, 2, 0]],
        "rotated": z @ turn,
        "mirrored": z @ mirror,
        "duplicated": np.hstack([z, z]),
        "missing": z[:, :2],
        "monotone": np.exp(2 * z),
        "constant": np.full_like(z, 2.0),
        "noise": np.random.default_rng(0).standard_normal(z.shape),
    }


@pytest.fixture(scope="session")
def codes(factors):
    return representations(factors)


@pytest.fixture(scope="session")
def many(factors):
    """The same with each combination forty times, and noise that differs: (factors, codes)."""
    repeated = np.tile(factors, (40, 1))
    return repeated, representations(repeated)
