"""Facts about inferred kinds: the smallest support that holds the values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vaeppl.data import Data, Field

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1, 1], "binary"),
        ([0.0, NAN, 1.0], "binary"),
        ([True, False], "binary"),
        ([0, 3], "count"),
        ([2.0, 5.0], "count"),
        ([0.0, 0.3], "unit"),
        ([0.1, 7.2], "positive"),
        ([0.0, 7.2], "real"),
        ([-1, 2], "real"),
        ([NAN, NAN], "real"),
    ],
)
def test_kind_of_a_column(values, kind):
    assert Data({"x": values}).kind("x") == kind


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float32, (6, 2), elements=st.floats(-8, 8, width=32)))
def test_values_lie_in_the_support_of_their_kind(x):
    data = Data({"x": x})
    for j, field in enumerate(data.fields("x")):
        column, whole = x[:, j], np.all(x[:, j] == np.round(x[:, j]))
        holds = {
            "binary": np.isin(column, [0, 1]).all(),
            "count": whole and (column >= 0).all(),
            "unit": ((column >= 0) & (column <= 1)).all(),
            "positive": (column > 0).all(),
            "real": True,
        }
        assert holds[field.kind]
    assert (data.kind("x") == "mixed") == (len({f.kind for f in data.fields("x")}) > 1)


def test_a_pixel_that_is_always_off_does_not_make_an_image_mixed():
    x = np.array([[0.0, 0.25, 1.0], [0.0, 0.5, 0.0]])
    assert Data({"x": x}).kind("x") == "unit"


def test_a_gene_that_is_rarely_seen_does_not_make_counts_mixed():
    assert Data({"x": [[0, 12], [1, 3]]}).kind("x") == "count"


def test_a_table_of_discrete_and_real_components_is_mixed():
    data = Data({"x": [[0.0, -1.5, 4.0], [1.0, 2.5, 4.0]]})
    assert data.kind("x") == "mixed"
    assert [f.kind for f in data.fields("x")] == ["binary", "real", "real"]
    assert [f.name for f in data.fields("x")] == ["x[0]", "x[1]", "x[2]"]


def test_real_components_that_happen_to_be_positive_stay_real():
    assert Data({"x": [[0.5, -1.5], [1.7, 2.5]]}).kind("x") == "real"


def test_given_fields_win_and_one_field_speaks_for_all():
    x = np.array([[0, 1], [1, 0]])
    data = Data({"x": x}, fields={"x": [Field("x", "count")]})
    assert data.kind("x") == "count"
    assert data.fields("x") == (Field("x[0]", "count"), Field("x[1]", "count"))
    mixed = Data({"x": x}, fields={"x": [Field("a", "count"), Field("b", "real")]})
    assert mixed.kind("x") == "mixed" and mixed.fields("x")[1].name == "b"
    assert mixed.select([0]).kind("x") == "mixed"


def test_given_names_go_with_inferred_kinds():
    data = Data({"x": [[0, 5], [1, 2]]}, field_names={"x": ["Npy", "Sst"]})
    assert data.fields("x") == (Field("Npy", "count"), Field("Sst", "count"))
    assert data.columns("x").fields("x")[0].name == "Npy"
