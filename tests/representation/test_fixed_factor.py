"""BetaVAE and FactorVAE scores: exact values, what they do not depend on, and chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaeppl.errors import ColumnError
from vaeppl.representation import beta_vae_score, factor_vae_score

SIZE = {"train": 3000, "test": 1500}  # a multiple of three factors
# Exact where a vote cannot be changed by the draws. "rotated": the two codes tie under two factors.
FACTOR_VAE = {
    "copy": 1,
    "permuted": 1,
    "rotated": 2 / 3,
    "duplicated": 1,
    "missing": 2 / 3,
    "monotone": 1,
    "constant": 1 / 3,
}


@pytest.mark.parametrize("name", FACTOR_VAE)
def test_factor_vae_score_of_constructed_representations(name, codes, factors):
    score = factor_vae_score(codes[name], factors, **SIZE)
    assert float(score) == pytest.approx(FACTOR_VAE[name], abs=1e-12)


def test_factor_vae_score_of_mixtures_and_noise(many):
    """Under a mirrored factor two codes vary equally little, so that one vote in two is right."""
    factors, codes = many
    assert float(factor_vae_score(codes["mirrored"], factors)) == pytest.approx(0.5, abs=0.03)
    assert float(factor_vae_score(codes["noise"], factors)) == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize(
    ("name", "value"),
    [("copy", 1), ("permuted", 1), ("duplicated", 1), ("missing", 1), ("monotone", 1)],
)
def test_beta_vae_score_saturates(name, value, codes, factors):
    assert float(beta_vae_score(codes[name], factors, **SIZE)) == value


def test_beta_vae_score_of_what_cannot_be_told(many):
    factors, codes = many
    assert float(beta_vae_score(codes["constant"], factors, **SIZE)) == pytest.approx(1 / 3)
    assert float(beta_vae_score(codes["noise"], factors)) == pytest.approx(1 / 3, abs=0.03)
    # Of two dimensions turned by 45° neither tells which of the two factors is fixed.
    assert float(beta_vae_score(codes["rotated"], factors)) == pytest.approx(2 / 3, abs=0.03)


@pytest.mark.parametrize("scale", [1, 0.01, 0.001, 1000])
def test_beta_vae_score_does_not_depend_on_scale(scale, codes, factors):
    assert float(beta_vae_score(scale * codes["copy"], factors, **SIZE)) == 1


@given(seed=st.integers(0, 2**16), scale=st.floats(1e-4, 1e4))
def test_order_sign_and_scale_do_not_matter(seed, scale):
    chance = np.random.default_rng(seed)
    factors = chance.integers(0, 3, (100, 2))
    z = chance.standard_normal((100, 3)) + 2 * factors[:, [0, 1, 1]]
    other = (z * chance.choice([-1, 1], 3) * scale)[:, chance.permutation(3)]
    for metric in (beta_vae_score, factor_vae_score):
        first, second = (metric(each, factors, train=200, test=100) for each in (z, other))
        assert float(first) == pytest.approx(float(second), abs=0.02)


def test_a_collapsed_code_has_no_vote_whatever_the_scale(codes, factors):
    noise = 1e-3 * np.random.default_rng(1).choice([-1, 1], 64)
    z = np.column_stack([noise, codes["missing"]])
    for scale in (1, 1e-3, 1e3):
        score = factor_vae_score(scale * z, factors, **SIZE)
        assert score.settings["in_use"] == 2
        assert score.matrix.to_numpy()[0].tolist() == [0, 0, 0]
        assert float(score) == pytest.approx(2 / 3)
    assert factor_vae_score(z, factors, threshold=0, **SIZE).settings["in_use"] == 3


def test_votes_and_parts(codes, factors):
    score = factor_vae_score(codes["permuted"], factors, **SIZE)
    assert score.matrix.to_numpy().tolist() == [[0, 1000, 0], [0, 0, 1000], [1000, 0, 0]]
    assert score.parts.tolist() == [1, 1, 1]
    assert score.settings == {
        "rows": 64, "train": 3000, "test": 1500, "batch": 64, "threshold": 0.05, "in_use": 3,
        "seed": 0,
    }  # fmt: skip


def test_the_seed_fixes_the_draws(many):
    factors, codes = many
    for metric in (beta_vae_score, factor_vae_score):
        values = [float(metric(codes["noise"], factors, seed=s, **SIZE)) for s in (0, 0, 1)]
        assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("metric", [beta_vae_score, factor_vae_score])
def test_what_cannot_be_held_fixed(metric, codes, factors):
    with pytest.raises(ColumnError, match=r"1 factor was given; .* needs 2 or more"):
        metric(codes["copy"], factors[:, 0])
    unique = np.column_stack([factors[:, 0], np.arange(64)])
    with pytest.raises(ColumnError, match="no two rows agree in factor 1"):
        metric(codes["copy"], unique)
    with pytest.raises(ValueError, match="train is at least 1"):
        metric(codes["copy"], factors, train=0)


def test_values_that_one_row_has_are_left_out(codes, factors):
    """That row compared with itself would tell the factor."""
    once = np.column_stack([factors[:, 0], np.r_[np.zeros(61), 1, 2, 3].astype(int)])
    score = factor_vae_score(np.random.default_rng(0).standard_normal((64, 2)), once, **SIZE)
    assert float(score) < 0.8
