"""MIG and modularity: exact values, what they do not depend on, and their known traps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaeppl.errors import ColumnError
from vaeppl.representation import mig, modularity, mutual_information

# Exact values. "mirrored": mutual information of a sum of three, whose 16 values all differ.
MIG = {
    "copy": 1,
    "permuted": 1,
    "rotated": 1 / 3,
    "duplicated": 0,
    "missing": 2 / 3,
    "monotone": 3 / 4,
    "mirrored": 0.2971804688852165,
    "constant": 0,
}
MODULARITY = {
    "copy": 1,
    "permuted": 1,
    "rotated": 2 / 3,
    "duplicated": 1,
    "missing": 1,
    "monotone": 1,
    "mirrored": 0.7917076843108579,
}


@pytest.mark.parametrize("name", MIG)
def test_mig_of_constructed_representations(name, codes, factors):
    assert float(mig(codes[name], factors)) == pytest.approx(MIG[name], abs=1e-12)


@pytest.mark.parametrize("name", MODULARITY)
def test_modularity_of_constructed_representations(name, codes, factors):
    assert float(modularity(codes[name], factors)) == pytest.approx(MODULARITY[name], abs=1e-12)


def test_the_mirrored_values_are_those_of_the_exact_distribution(codes, factors):
    """Of one coordinate a - 2b - 2c, up to scale, and its joint distribution with a and with b."""
    a, b, c = factors.T
    value = a - 2 * b - 2 * c
    of_a, of_b = (_exact_information(value, k) for k in (a, b))
    m = np.where(np.eye(3, dtype=bool), of_a, of_b)
    assert mutual_information(codes["mirrored"], factors).to_numpy() == pytest.approx(m)
    assert MIG["mirrored"] == pytest.approx((of_a - of_b) / np.log(4))
    assert MODULARITY["mirrored"] == pytest.approx(1 - (of_b / of_a) ** 2)


def _exact_information(x, y):
    joint = pd.crosstab(x, y, normalize=True).to_numpy()
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / outer[there])).sum())


def test_noise_tells_nothing_but_modularity_does_not_see_it(many):
    factors, codes = many
    assert float(mig(codes["noise"], factors)) < 0.01
    assert 0.2 < float(modularity(codes["noise"], factors)) < 0.5
    information = mutual_information(codes["noise"], factors).to_numpy()
    assert 0 < information.mean() < 3 * 19 * 3 / (2 * len(factors))  # of the order of its bias


@pytest.mark.parametrize(("bins", "value"), [(5, 0.6469), (10, 0.7897), (20, 0.9024), (40, 1.0)])
def test_bins_merge_values_of_a_perfect_copy_of_the_factors_of_dsprites(bins, value):
    factors = np.indices((3, 6, 40, 32, 32), dtype=np.int64).reshape(5, -1).T
    assert float(mig(factors, factors, bins=bins)) == pytest.approx(value, abs=5e-5)


def test_an_outlier_ruins_bins_of_equal_width_and_not_those_of_equal_counts(factors):
    outlier = factors.astype(float)
    outlier[0] = 100
    assert float(mig(outlier, factors)) < 0.05
    assert float(mig(outlier, factors, binning="quantile")) > 0.9


def test_monotone_maps_do_not_change_bins_of_equal_counts(codes, factors):
    assert float(mig(codes["monotone"], factors, binning="quantile")) == pytest.approx(1)


@given(seed=st.integers(0, 2**16), scale=st.floats(1e-6, 1e6), shift=st.floats(-10, 10))
def test_order_sign_scale_and_shift_do_not_matter(seed, scale, shift):
    chance = np.random.default_rng(seed)
    factors = chance.integers(0, 3, (200, 2))
    z = chance.standard_normal((200, 4)) + factors[:, [0, 1, 1, 0]]
    other = (z * chance.choice([-1, 1], 4) * scale + shift)[:, chance.permutation(4)]
    for metric in (mig, modularity):
        assert float(metric(other, factors)) == pytest.approx(float(metric(z, factors)), abs=1e-9)


@given(seed=st.integers(0, 2**16))
def test_information_is_between_0_and_the_entropies(seed):
    chance = np.random.default_rng(seed)
    factors = chance.integers(0, 4, (60, 2))
    factors[:2] = [[0, 0], [1, 1]]
    table = mutual_information(chance.standard_normal((60, 3)), factors, bins=6).to_numpy()
    assert (table >= 0).all() and (table <= np.log(4) + 1e-12).all()
    assert 0 <= float(mig(factors, factors, bins=6)) <= 1 + 1e-12


def test_of_one_code_the_second_best_knows_nothing(factors):
    score = mig(factors[:, 0], factors)
    assert score.parts.tolist() == pytest.approx([1, 0, 0])


@pytest.mark.parametrize("binning", ["width", "quantile"])
def test_codes_of_few_values_need_no_more_bins_than_those(binning):
    """Of 12 rows: factor 0 has log 3 nats, which code 0 tells, and factor 1 is independent."""
    factors = np.indices((3, 2)).reshape(2, -1).T.repeat(2, axis=0)
    codes = np.column_stack([factors[:, 0], 10.0 * factors[:, 1] ** 2])
    table = mutual_information(codes, factors, binning=binning).to_numpy()
    assert table == pytest.approx(np.diag(np.log([3, 2])))
    assert float(mig(codes, factors, binning=binning)) == pytest.approx(1)
    assert float(modularity(codes, factors, binning=binning)) == pytest.approx(1)


def test_constant_codes_are_left_out_of_modularity(codes, factors):
    z = np.column_stack([codes["copy"], np.ones(64)])
    score = modularity(z, factors)
    assert float(score) == 1 and score.parts.isna().tolist() == [False, False, False, True]
    assert np.isnan(float(modularity(codes["constant"], factors)))


def test_what_it_was_computed_with_is_recorded(codes, factors):
    named = pd.DataFrame(factors, columns=["shape", "x", "y"])
    z = pd.DataFrame(codes["copy"], columns=["u", "v", "w"])
    score = mig(z, named, bins=16)
    assert score.settings == {"rows": 64, "bins": 16, "binning": "width"}
    assert list(score.parts.index) == ["shape", "x", "y"]
    assert list(score.matrix.index) == ["u", "v", "w"]
    assert np.diag(score.matrix) == pytest.approx(np.log(4))
    assert repr(score) == "mig 1.000 (rows=64, bins=16, binning='width')"


@pytest.mark.parametrize("metric", [mig, modularity, mutual_information])
def test_bad_bins(metric, codes, factors):
    with pytest.raises(ColumnError, match="64 rows are fewer than 65 bins, and code 0 has 64 val"):
        metric(codes["noise"], factors, bins=65)
    with pytest.raises(ValueError, match="at least 2"):
        metric(codes["copy"], factors, bins=1)
    with pytest.raises(ValueError, match="did you mean 'width'"):
        metric(codes["copy"], factors, binning="widht")
