"""Interpolation and traversal: the ends, the angle, the norm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vaeppl.errors import ColumnError
from vaeppl.representation import interpolate, traverse


@given(seed=st.integers(0, 2**16), dims=st.integers(2, 6), steps=st.integers(2, 9))
def test_a_great_circle_keeps_the_norm_and_turns_evenly(seed, dims, steps):
    z0, z1 = np.random.default_rng(seed).standard_normal((2, dims))
    z1 *= np.linalg.norm(z0) / np.linalg.norm(z1)
    way = interpolate(z0, z1, steps, kind="spherical")
    assert (way[0] == z0).all() and (way[-1] == z1).all()
    assert np.linalg.norm(way, axis=1) == pytest.approx(np.linalg.norm(z0))
    cosines = (way[1:] * way[:-1]).sum(1) / (z0 @ z0)
    assert cosines == pytest.approx(cosines[0])


@given(seed=st.integers(0, 2**16), steps=st.integers(2, 9))
def test_a_straight_line_has_equal_steps(seed, steps):
    z0, z1 = np.random.default_rng(seed).standard_normal((2, 3))
    way = interpolate(z0, z1, steps)
    assert (way[0] == z0).all() and (way[-1] == z1).all()
    assert np.diff(way, axis=0) == pytest.approx(np.tile((z1 - z0) / (steps - 1), (steps - 1, 1)))


def test_the_middle_of_a_line_lies_inside_the_sphere():
    z0, z1 = np.random.default_rng(0).standard_normal((2, 200))
    straight, circle = (interpolate(z0, z1, 3, kind=k)[1] for k in ("linear", "spherical"))
    assert np.linalg.norm(straight) == pytest.approx(np.sqrt(200 / 2), rel=0.1)
    assert np.linalg.norm(circle) == pytest.approx(np.sqrt(200), rel=0.1)


def test_codes_of_one_direction_have_a_straight_line():
    z = np.array([1.0, 2.0])
    for end in (3 * z, z, z * (1 + 1e-12)):
        assert interpolate(z, end, 5, kind="spherical") == pytest.approx(interpolate(z, end, 5))


def test_several_ways_at_once():
    z0, z1 = np.random.default_rng(0).standard_normal((2, 4, 3))
    for kind in ("linear", "spherical"):
        ways = interpolate(torch.tensor(z0), torch.tensor(z1), 5, kind=kind)
        assert ways.shape == (5, 4, 3)
        for n in range(4):
            assert ways[:, n] == pytest.approx(interpolate(z0[n], z1[n], 5, kind=kind))


def test_where_there_is_no_way():
    with pytest.raises(ValueError, match=r'0 has no direction.*take kind="linear"'):
        interpolate([0.0, 0.0], [1.0, 0.0], kind="spherical")
    with pytest.raises(ValueError, match="opposite codes have no one great circle"):
        interpolate([1.0, 0.0], [-2.0, 0.0], kind="spherical")
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        interpolate([1.0, 0.0], [1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="did you mean 'spherical'"):
        interpolate([1.0], [2.0], kind="sperical")
    with pytest.raises(ValueError, match="steps is at least 2"):
        interpolate([1.0], [2.0], 1)
    with pytest.raises(ColumnError, match="codes hold nan at row 0, dimension 1"):
        interpolate([1.0, np.nan], [2.0, 0.0])


def test_a_traversal_changes_one_entry():
    code = np.array([0.1, 0.2, 0.3])
    way = traverse(code, 1, [-1, 0, 1])
    assert way[:, 1].tolist() == [-1, 0, 1]
    assert (way[:, [0, 2]] == code[[0, 2]]).all()
    assert code.tolist() == [0.1, 0.2, 0.3]
    assert traverse(torch.tensor(code), -1, [5]).tolist() == [[0.1, 0.2, 5]]
    with pytest.raises(ValueError, match="no dimension 3 in a code of 3"):
        traverse(code, 3, [0])
    with pytest.raises(ValueError, match="one code is traversed"):
        traverse(np.zeros((2, 3)), 0, [0])
