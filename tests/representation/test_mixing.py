"""Batch mixing: known entropies of batches that are mixed, apart, or confounded with a label."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vaeppl.errors import ColumnError
from vaeppl.representation import batch_mixing

NOISE = np.random.default_rng(0).standard_normal((600, 2))
BATCH = np.arange(600) % 3


def test_batches_drawn_at_random_are_mixed():
    found = batch_mixing(NOISE, BATCH)
    assert found.value == pytest.approx(1, abs=0.02)
    # The mean entropy of 50 draws lies (S - 1) / (2 * 50) below log S, to first order.
    assert found.entropy == pytest.approx(math.log(3) - 2 / 100, abs=0.01)


def test_batches_that_lie_apart_are_not():
    assert batch_mixing(NOISE + 100 * BATCH[:, None], BATCH).value == 0


def test_the_row_itself_is_no_neighbour():
    """Three rows at each place, one of each batch: a row sees the two other batches."""
    found = batch_mixing(np.repeat(np.arange(50.0), 3)[:, None], np.arange(150) % 3, neighbours=2)
    assert found.entropy == pytest.approx(math.log(2))


def test_within_labels_a_batch_with_a_class_of_its_own_is_mixed():
    label = np.repeat([0, 1, 2], 200)
    batch = np.where(label == 2, 1, np.arange(600) % 2)
    codes = NOISE + 100 * label[:, None]
    assert batch_mixing(codes, batch).value < 0.8
    assert batch_mixing(codes, batch, within=label).value == pytest.approx(1, abs=0.02)
    assert (
        batch_mixing(codes, batch, within=np.where(label == 2, -1, label)).settings["rows"] == 400
    )


def test_bad_input():
    with pytest.raises(ValueError, match="at least 2"):
        batch_mixing(NOISE, BATCH, neighbours=1)
    with pytest.raises(ValueError, match="there are 40 rows"):
        batch_mixing(NOISE[:40], BATCH[:40])
    with pytest.raises(ColumnError, match="two classes"):
        batch_mixing(NOISE, np.zeros(600))
    with pytest.raises(ColumnError, match="no label is found in two batches"):
        batch_mixing(NOISE, BATCH, within=BATCH)
