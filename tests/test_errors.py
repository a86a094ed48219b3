"""The sentence about unknown names, and what the errors are."""

from __future__ import annotations

import pickle

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaeppl import errors
from vaeppl.errors import unknown_name

NAMES = ["bernoulli", "binomial", "normal"]


def test_the_nearest_name_comes_first():
    message = unknown_name("likelihood", "Bernouli", NAMES)
    assert message == (
        "unknown likelihood 'Bernouli': did you mean 'bernoulli' or 'binomial'? "
        "Known: bernoulli, binomial, normal"
    )


def test_no_guess_where_nothing_is_near():
    assert unknown_name("prior", "xyz", NAMES) == "unknown prior 'xyz': Known: " + ", ".join(NAMES)
    assert unknown_name("column", "x", []) == "unknown column 'x': Known: none"


def test_case_does_not_matter():
    assert "did you mean 'X'?" in unknown_name("column", "x", ["X", "label"])


@given(st.text(max_size=8), st.lists(st.text(max_size=8), max_size=5))
def test_any_text_gives_one_message_with_all_names(name, known):
    message = unknown_name("thing", name, known)
    assert message.startswith(f"unknown thing {name!r}: ")
    assert all(k in message for k in known)


@pytest.mark.parametrize("name", ["StoryError", "ColumnError", "CheckpointError"])
def test_wrong_input_is_a_value_error(name):
    assert issubclass(getattr(errors, name), ValueError)


def test_divergence_is_an_arithmetic_error():
    assert issubclass(errors.NonFiniteELBO, ArithmeticError)


@pytest.mark.parametrize("name", ["StoryError", "ColumnError", "CheckpointError"])
def test_the_shapes_that_pyro_writes_below_an_error_are_left_out(name):
    kind = getattr(errors, name)

    def story():
        pyro.sample("z", dist.Normal(0.0, 1.0))
        raise kind("no such code; give another\nor none")

    with pytest.raises(kind) as found:
        poutine.trace(story).get_trace()
    assert str(found.value) == "no such code; give another\nor none"
    assert str(pickle.loads(pickle.dumps(found.value))) == str(found.value)
    assert str(kind()) == ""
