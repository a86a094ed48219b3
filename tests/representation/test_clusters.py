"""Clusterability: known values of clusters that are the classes, halves of them, or chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaeppl.errors import ColumnError
from vaeppl.representation import clusterability

LABELS = np.arange(120) % 4
CORNERS = np.array([[0, 0], [0, 9], [9, 0], [9, 9]])[LABELS]
NOISE = np.random.default_rng(0).standard_normal((120, 2))


def test_clusters_that_are_the_classes():
    found = clusterability(CORNERS, LABELS)
    assert (found.ari, found.nmi, found.purity) == (1, pytest.approx(1), 1)
    assert (found.silhouette, found.silhouette_of_labels) == (1, 1)


def test_clusters_of_two_classes_each():
    """Of K = 4 classes in 2 clusters: half of each cluster is right, and NMI 2 log 2 / log 8."""
    found = clusterability(CORNERS + 0.01 * NOISE, LABELS, clusters=2)
    assert found.purity == 0.5
    assert found.nmi == pytest.approx(2 * math.log(2) / (math.log(2) + math.log(4)))
    assert 0 < found.ari < 1


def test_noise_has_no_clusters_of_the_labels():
    found = clusterability(NOISE, LABELS)
    assert abs(found.ari) < 0.1 and found.nmi < 0.15 and found.purity < 0.5
    assert found.silhouette_of_labels < 0.05 < found.silhouette  # k-means cuts any cloud


@pytest.mark.parametrize("standardise", [False, True])
def test_constant_codes_are_one_cluster(standardise):
    labels = np.repeat([0, 1, 2], [60, 40, 20])
    found = clusterability(np.full((120, 3), 0.1), labels, standardise=standardise)
    assert (found.ari, found.nmi, found.purity) == (0, 0, 0.5)
    assert (found.silhouette, found.silhouette_of_labels) == (0, 0)


@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10))
def test_order_sign_common_scale_and_shift_do_not_matter(scale, shift):
    codes = CORNERS + NOISE
    first = clusterability(codes, LABELS, starts=3)
    second = clusterability(-scale * codes[:, ::-1] + shift, LABELS, starts=3)
    for value in ("ari", "nmi", "purity", "silhouette", "silhouette_of_labels"):
        assert getattr(first, value) == pytest.approx(getattr(second, value), abs=1e-3)


def test_standardised_codes_weigh_the_same():
    codes = np.column_stack([NOISE[:, 0] * 1e4, CORNERS])
    assert clusterability(codes, LABELS).ari < 0.5
    mixed = np.column_stack([CORNERS[:, 0] * 1e4, CORNERS[:, 1]]) + 0.01 * NOISE
    assert clusterability(mixed, LABELS, standardise=True).ari == 1


def test_rows_without_a_label_are_left_out_and_silhouettes_take_some_rows():
    hidden = np.where(np.arange(120) < 80, LABELS, -1)
    found = clusterability(CORNERS, hidden, most_rows=30, seed=2)
    assert found.settings == {
        "rows": 80, "clusters": 4, "starts": 10, "standardise": False, "silhouette_rows": 30,
        "seed": 2,
    }  # fmt: skip
    assert found.ari == 1 and found.silhouette == 1


def test_without_labels_the_silhouette_is_that_of_the_clusters():
    """The same clusters as with labels; of two pairs of points 9 apart it is 1 - a / b by hand."""
    found = clusterability(CORNERS + NOISE, clusters=4)
    assert found.silhouette == clusterability(CORNERS + NOISE, LABELS).silhouette
    assert all(math.isnan(v) for v in (found.ari, found.nmi, found.purity))
    assert math.isnan(found.silhouette_of_labels)
    assert repr(found).startswith(f"clusterability silhouette {found.silhouette:.3f} (rows=120")
    line = clusterability(np.array([0.0, 1.0, 9.0, 10.0]), clusters=2)
    assert line.silhouette == pytest.approx(np.mean([1 - 1 / 9.5, 1 - 1 / 8.5]))


def test_bad_input():
    with pytest.raises(ValueError, match="from 2 to the number of rows, 120; given 121"):
        clusterability(CORNERS, LABELS, clusters=121)
    with pytest.raises(ColumnError, match=r"no labels were given, .*: pass clusters="):
        clusterability(CORNERS)
    with pytest.raises(ColumnError, match="hold inf at row 0"):
        clusterability(np.full((120, 2), np.inf), LABELS)
