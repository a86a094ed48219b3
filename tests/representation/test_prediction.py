"""SAP, DCI and explicitness: exact values, what they do not depend on, and their known traps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaeppl.errors import ColumnError
from vaeppl.representation import Score, dci, explicitness, sap
from vaeppl.representation.prediction import _judged

SAP = {
    "copy": 1,
    "permuted": 1,
    "rotated": 1 / 3,
    "mirrored": 0,
    "duplicated": 0,
    "missing": 2 / 3,
    "constant": 0,
}
# Disentanglement and completeness where importance is shared as the symmetry says.
DCI = {
    "copy": (1, 1),
    "permuted": (1, 1),
    "rotated": ((1 + 2 * (1 - np.log(2) / np.log(3))) / 3,) * 2,
    "duplicated": (1, 1 - np.log(2) / np.log(6)),
    "missing": (1 - (np.log(3) - 2 / 3 * np.log(2)) / np.log(3), 2 / 3),
    "monotone": (1, 1),
    "constant": (0, 0),
}
TREES = {"trees": 20, "test_share": 0}


# --- SAP ---


@pytest.mark.parametrize("name", SAP)
def test_sap_of_constructed_representations(name, codes, factors):
    assert float(sap(codes[name], factors)) == pytest.approx(SAP[name], abs=1e-12)


def test_sap_of_a_curved_copy(codes, factors):
    """Each code has R² with its own factor only: the squared correlation of k and exp(2 z_k)."""
    assert float(sap(codes["monotone"], factors)) == pytest.approx(0.73, abs=5e-3)
    curved, own = codes["monotone"][:, 0], factors[:, 0]
    expected = np.corrcoef(curved, own)[0, 1] ** 2
    assert float(sap(codes["monotone"], factors)) == pytest.approx(expected)


@given(angle=st.floats(0, np.pi))
def test_sap_under_rotation(angle):
    factors = np.indices((4, 4, 4)).reshape(3, -1).T
    z = (factors - 1.5) / np.sqrt(1.25)
    c, s = np.cos(angle), np.sin(angle)
    turned = z @ [[c, -s, 0], [s, c, 0], [0, 0, 1]]
    assert float(sap(turned, factors)) == pytest.approx((2 * abs(2 * c**2 - 1) + 1) / 3, abs=1e-9)


def test_sap_of_noise(many):
    factors, codes = many
    assert float(sap(codes["noise"], factors)) < 0.01


@given(seed=st.integers(0, 2**16), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_sap_of_classes_does_not_depend_on_order_sign_and_scale(seed, scale):
    chance = np.random.default_rng(seed)
    factors = chance.integers(0, 2, (80, 2))
    z = chance.standard_normal((80, 3)) + factors[:, [0, 1, 1]]
    other = (z * chance.choice([-1, 1], 3) * scale)[:, chance.permutation(3)]
    first, second = (sap(each, factors, categorical=[0, 1]) for each in (z, other))
    assert float(first) == pytest.approx(float(second), abs=1e-3)


def test_sap_of_two_classes_is_their_accuracy_above_chance(many):
    """A code that tells a factor of two values scores 1, one that knows nothing 1/2."""
    factors = many[0] > 1
    score = sap(factors * [1.0, -7.0, 0.01], factors, categorical=[0, 1, 2])
    assert score.parts.tolist() == pytest.approx([0.5] * 3, abs=0.05)
    assert np.diag(score.matrix).tolist() == [1, 1, 1]


def test_sap_says_how_it_scored(codes, factors):
    assert sap(codes["copy"], factors).settings == {"rows": 64}
    score = sap(codes["copy"], factors, categorical=[1], seed=3)
    assert score.settings["categorical"] == [1] and score.settings["seed"] == 3
    with pytest.raises(ColumnError, match=r"unknown factor '5'.*Known: 0, 1, 2"):
        sap(codes["copy"], factors, categorical=[5])


# --- DCI ---


@pytest.mark.parametrize("name", DCI)
def test_dci_of_constructed_representations(name, codes, factors):
    found = dci(codes[name], factors, ensembles=10, **TREES)
    expected = DCI[name]
    assert (found.disentanglement, found.completeness) == pytest.approx(expected, abs=1e-3)


def test_dci_of_a_missing_factor_and_of_duplicates_are_the_known_numbers():
    assert DCI["missing"] == pytest.approx((0.4206, 0.6667), abs=5e-5)
    assert DCI["duplicated"][1] == pytest.approx(0.613, abs=5e-4)
    assert DCI["rotated"][0] == pytest.approx(0.58, abs=5e-3)


def test_dci_of_a_mixture_of_all_factors_is_low(codes, factors):
    found = dci(codes["mirrored"], factors, test_share=0)
    assert (found.disentanglement, found.completeness) == pytest.approx((0.01, 0.01), abs=5e-3)
    assert found.informativeness == 1


def test_dci_of_noise(many):
    factors, codes = many
    found = dci(codes["noise"], factors, trees=20)
    assert found.disentanglement < 0.02 and found.completeness < 0.02
    assert found.informativeness == pytest.approx(0.25, abs=0.05)
    assert found.weighted().importance.to_numpy().max() < 0.05


def test_weighted_by_accuracy_an_unpredictable_factor_counts_for_nothing(codes, factors):
    plain = dci(codes["missing"], factors, **TREES)
    weighted = dci(codes["missing"], factors, weighted=True, **TREES)
    assert plain.accuracy.tolist() == [1, 1, 0.25] and plain.chance.tolist() == [0.25] * 3
    assert plain.importance[2].tolist() == [0.5, 0.5]  # no code tells it
    assert weighted.importance[2].tolist() == [0, 0]
    assert (weighted.disentanglement, weighted.completeness) == pytest.approx((1, 2 / 3))
    assert weighted.settings == {**plain.settings, "weighted": True}
    assert weighted.weighted() is weighted
    none = dci(codes["constant"], factors, weighted=True, **TREES)
    assert (none.disentanglement, none.completeness) == (0, 0)


def test_importance_of_each_factor_sums_to_one(codes, factors):
    for predictor in ("trees", "lasso"):
        found = dci(codes["mirrored"], factors, predictor=predictor, **TREES)
        assert found.importance.sum().to_numpy() == pytest.approx(1)


def test_lasso_reads_linear_codes(many):
    """Of factors of two values, as one line cannot cut a middle value out."""
    factors, z = many[0] > 1, many[1]["noise"]
    found = dci(np.column_stack([factors, z]), factors, predictor="lasso")
    assert found.disentanglement > 0.99 and found.completeness > 0.98
    assert found.informativeness == 1 and "trees" not in found.settings
    turned = dci(factors @ [[1, -1, 0], [1, 1, 0], [0, 0, 1]], factors, predictor="lasso")
    assert (turned.disentanglement, turned.completeness) == pytest.approx(DCI["rotated"], abs=0.02)


def test_one_code_and_one_factor(factors):
    one = dci(factors[:, 0], factors[:, 0], **TREES)
    assert (one.disentanglement, one.completeness, one.informativeness) == (1, 1, 1)


def test_the_seed_fixes_trees_and_rows(many):
    factors, codes = (many[0][:300], many[1]["noise"][:300])
    first, again, other = (dci(codes, factors, trees=3, seed=s) for s in (0, 0, 1))
    assert first.importance.equals(again.importance)
    assert not first.importance.equals(other.importance)


def test_no_value_is_a_negative_zero():
    """Importance spread evenly: 1 less an entropy of 1, which rounding takes below 0."""
    even = pd.DataFrame(np.full((3, 3), 1 / 3))
    of_factors = pd.Series([0.5] * 3)
    settings = {"rows": 9, "weighted": False}
    found = _judged(even, of_factors, of_factors, settings)
    assert min(found.disentanglement, found.completeness) >= 0
    assert repr(found).startswith("dci disentanglement 0.000, completeness 0.000, ")
    assert repr(Score("explicitness", -1e-9, of_factors)) == "explicitness 0.000 ()"
    assert repr(Score("explicitness", -0.0006, of_factors)) == "explicitness -0.001 ()"


def test_bad_arguments_of_dci(codes, factors):
    with pytest.raises(ValueError, match="did you mean 'trees'"):
        dci(codes["copy"], factors, predictor="tree")
    with pytest.raises(ValueError, match="ensembles is at least 1"):
        dci(codes["copy"], factors, ensembles=0)
    with pytest.raises(ValueError, match="test_share is at least 0 and below 1"):
        dci(codes["copy"], factors, test_share=1.0)


# --- explicitness ---


def test_a_code_for_each_value_is_explicit(many):
    factors, _ = many
    one_hot = np.concatenate([np.eye(4)[k] for k in factors.T], axis=1)
    assert float(explicitness(one_hot, factors)) == pytest.approx(1)


def test_values_in_the_middle_of_a_line_cannot_be_cut_out(codes, factors):
    """The outer two of four have AUC 1; a line ranks an inner one above one of three others."""
    score = explicitness(codes["copy"], factors, test_share=0)
    inner = 2 * (2 / 3) - 1
    assert float(score) == pytest.approx((2 * 1 + 2 * inner) / 4)
    assert score.parts.to_numpy() == pytest.approx([2 / 3] * 3)
    # A rotation loses nothing, and a factor that is missing counts as chance.
    assert float(explicitness(codes["mirrored"], factors, test_share=0)) == pytest.approx(2 / 3)
    assert float(explicitness(codes["missing"], factors, test_share=0)) == pytest.approx(4 / 9)


def test_constant_codes_and_noise_are_not_explicit(many):
    factors, codes = many
    assert float(explicitness(codes["constant"], factors)) == 0
    assert abs(float(explicitness(codes["noise"], factors))) < 0.1


@given(seed=st.integers(0, 2**16), scale=st.sampled_from([1e-3, 1e3]))
def test_explicitness_does_not_depend_on_order_sign_and_scale(seed, scale):
    chance = np.random.default_rng(seed)
    factors = chance.integers(0, 3, (90, 2))
    z = chance.standard_normal((90, 3)) + factors[:, [0, 1, 1]]
    other = (z * chance.choice([-1, 1], 3) * scale)[:, chance.permutation(3)]
    first, second = (float(explicitness(each, factors)) for each in (z, other))
    assert first == pytest.approx(second, abs=0.02)


def test_values_of_one_row_cannot_be_held_out(factors):
    z = np.arange(6.0)
    with pytest.raises(ColumnError, match="test_share=0"):
        explicitness(z, np.arange(6))
    assert float(explicitness(z, [0, 0, 0, 1, 1, 2])) <= 1
    assert -1 <= float(explicitness(z, np.arange(6), test_share=0)) <= 1
