"""Schedules at their ends, their corners and in between."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaeppl.training import schedules
from vaeppl.training.schedules import Constant, Cosine, Cyclical, Linear, Schedule

progress = st.floats(0, 1)


@given(progress, st.floats(-5, 5))
def test_constant(p, value):
    assert Constant(value)(p) == value


@given(progress, st.floats(-5, 5), st.floats(-5, 5), st.floats(0.01, 1))
def test_linear_is_a_line_and_then_flat(p, start, end, share):
    weight = Linear(start, end, share)
    assert weight(0.0) == start and weight(1.0) == pytest.approx(end, abs=1e-12)
    expected = start + (end - start) * p / share if p < share else end
    assert weight(p) == pytest.approx(expected, abs=1e-9)


@given(progress)
def test_cosine_is_half_a_wave(p):
    assert Cosine(2.0, 1.0)(p) == pytest.approx(1.5 + math.cos(math.pi * p) / 2)
    assert Cosine()(0.0) == 1 and Cosine()(1.0) == pytest.approx(0)


@given(st.floats(0.01, 0.99), st.floats(0.1, 5))
def test_cosine_warms_up_without_a_jump(warm_up, start):
    weight = Cosine(start, 0.0, warm_up)
    assert weight(0.0) == 0
    assert weight(warm_up / 2) == pytest.approx(start / 2)
    assert weight(warm_up * (1 - 1e-9)) == pytest.approx(start) == weight(warm_up)
    assert weight(1.0) == pytest.approx(0, abs=1e-12)


@given(st.integers(1, 6), st.floats(0.1, 1), st.integers(0, 5), st.floats(0, 0.999))
def test_cycles_repeat(cycles, share, cycle, within):
    """In each of the cycles the weight rises from 0 to 1 over its share, then stays."""
    weight = Cyclical(cycles, share)
    p = (cycle % cycles + within) / cycles
    if 1e-6 < within < 0.999 and abs(within - share) > 1e-6:
        assert weight(p) == pytest.approx(min(within / share, 1.0), abs=1e-6)
    assert weight(0.0) == 0 and weight(1.0) == 1
    assert 0 <= weight(p) <= 1


def test_schedules_by_name_number_or_as_they_are():
    for name, cls in [("constant", Constant), ("linear", Linear), ("cosine", Cosine)]:
        assert isinstance(schedules.get(name), cls)
    assert schedules.get("cyclical")(0.125) == 1
    assert schedules.get(3)(0.7) == 3.0
    own = Linear(share=0.2)
    assert schedules.get(own) is own


def test_a_schedule_of_ones_own():
    class Steps(Schedule):
        def __call__(self, progress):
            return float(progress >= 0.5)

    assert schedules.get(Steps())(0.6) == 1
    with pytest.raises(TypeError, match="write it"):
        Schedule()(0.5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Linear(share=0.0), ValueError, "above 0 and at most 1; given 0.0"),
        (lambda: Linear(share=1.5), ValueError, "given 1.5"),
        (lambda: Cosine(warm_up=1.0), ValueError, r"in \[0, 1\); given 1.0"),
        (lambda: Cyclical(0), ValueError, "given 0 and 0.5"),
        (lambda: schedules.get("cosin"), ValueError, "did you mean 'cosine'"),
        (lambda: schedules.get(True), TypeError, "a function of progress .* given True"),
        (lambda: schedules.get(None), TypeError, "given None"),
    ],
)
def test_what_is_wrong_is_said(make, error, message):
    with pytest.raises(error, match=message):
        make()
