"""Total correlation: exact values of known aggregates, and the bias of each estimate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaeppl.errors import ColumnError
from vaeppl.representation import total_correlation

SAMPLED = ("weighted", "stratified")


def with_moments(covariance, rows=400, seed=0):
    """Rows whose mean is 0 and whose covariance is exactly the one given."""
    z = np.random.default_rng(seed).standard_normal((rows, len(covariance)))
    z -= z.mean(0)
    z = np.linalg.solve(np.linalg.cholesky(z.T @ z / rows), z.T).T
    return z @ np.linalg.cholesky(covariance).T


@pytest.mark.parametrize("rho", [0.0, 0.5, -0.9])
def test_gaussian_of_two_correlated_codes(rho):
    z = with_moments(np.array([[1, rho], [rho, 1]]))
    assert float(total_correlation(z)) == pytest.approx(-0.5 * math.log(1 - rho**2), abs=1e-9)


def test_gaussian_adds_the_variance_of_q():
    """Means of correlation ρ and variance 1 with noise of variance 1 have correlation ρ / 2."""
    z = with_moments(np.array([[1, 0.8], [0.8, 1]]))
    found = total_correlation(z, np.ones_like(z))
    assert float(found) == pytest.approx(-0.5 * math.log(1 - 0.4**2))
    parts = found.parts
    assert float(found) == pytest.approx(parts["log q(z)"] - parts["sum log q(z_d)"])


@given(seed=st.integers(0, 2**16), dims=st.integers(1, 5))
def test_gaussian_does_not_depend_on_order_sign_scale_and_shift(seed, dims):
    chance = np.random.default_rng(seed)
    z = chance.standard_normal((50, dims)) @ chance.standard_normal((dims, dims))
    other = (z * chance.choice([-1, 1], dims) * chance.uniform(0.1, 10, dims))[:, ::-1] + 5
    value = float(total_correlation(z))
    assert value >= 0 and float(total_correlation(other)) == pytest.approx(value, abs=1e-6)


def test_gaussian_of_constant_and_of_equal_codes():
    z = with_moments(np.eye(2))
    assert float(total_correlation(np.column_stack([z, np.ones(400)]))) == pytest.approx(0)
    assert float(total_correlation(np.ones((5, 3)))) == 0
    assert float(total_correlation(z[:, [0, 1, 1]])) == math.inf


@pytest.mark.parametrize("rows", [2, 5, 64])
def test_stratified_of_values_that_each_code_tells_is_log_of_their_number(rows):
    mu = np.repeat(np.arange(float(rows))[:, None], 2, axis=1)
    found = total_correlation(mu, np.full_like(mu, 1e-3), method="stratified")
    assert float(found) == pytest.approx(math.log(rows))


def test_stratified_of_independent_codes_is_0(factors):
    found = total_correlation(factors, np.full(factors.shape, 1e-3), method="stratified")
    assert float(found) == pytest.approx(0, abs=1e-9)
    same = total_correlation(np.zeros((40, 3)), np.full((40, 3), 2.0), method="stratified")
    assert float(same) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("dims", [2, 3, 4])
def test_weighted_lies_above_by_the_log_of_the_number_of_rows(dims):
    chance = np.random.default_rng(dims)
    mu, sigma = chance.standard_normal((30, dims)), chance.uniform(0.1, 1, (30, dims))
    exact, weighted = (
        float(total_correlation(mu, sigma, method=m)) for m in ("stratified", "weighted")
    )
    assert weighted - exact == pytest.approx((dims - 1) * math.log(30))


def test_stratified_agrees_with_the_integral():
    """Of a mixture of two normals in two dimensions, by quadrature."""
    mu, sigma = np.array([[-1.0, -1.0], [1.0, 1.0]]), np.full((2, 2), 0.8)
    t = np.linspace(-8, 8, 801)
    one = np.exp(-0.5 * ((t[:, None] - mu[:, 0]) / 0.8) ** 2) / (0.8 * math.sqrt(2 * math.pi))
    joint, marginal = one @ one.T / 2, one.mean(1)
    step = t[1] - t[0]
    exact = (joint * np.log(joint / np.outer(marginal, marginal))).sum() * step**2
    many = np.tile(mu, (1000, 1)), np.tile(sigma, (1000, 1))
    found = total_correlation(*many, method="stratified", batch_size=2000)
    assert abs(float(found) - exact) < 4 * found.parts["standard error"]
    small = total_correlation(*many, method="stratified", batch_size=200)
    assert abs(float(small) - exact) < 0.05


@pytest.mark.parametrize("method", SAMPLED)
@given(seed=st.integers(0, 2**16))
def test_sampled_estimates_do_not_depend_on_scale_and_shift(method, seed):
    chance = np.random.default_rng(seed)
    mu, sigma = chance.standard_normal((20, 3)), chance.uniform(0.1, 1, (20, 3))
    scale = chance.uniform(0.1, 10, 3)
    first = total_correlation(mu, sigma, method=method)
    second = total_correlation(mu * scale + 1, sigma * scale, method=method)
    assert float(first) == pytest.approx(float(second), abs=1e-8)


def test_batches_and_seed_are_recorded_and_fix_the_value():
    mu = np.random.default_rng(0).standard_normal((50, 2))
    sigma = np.full_like(mu, 0.5)
    values = [
        total_correlation(mu, sigma, method="stratified", batch_size=20, seed=s) for s in (0, 0, 1)
    ]
    assert float(values[0]) == float(values[1]) != float(values[2])
    assert values[0].settings == {
        "rows": 50, "method": "stratified", "batch_size": 20, "seed": 0,
    }  # fmt: skip


def test_blocks_do_not_change_the_value(monkeypatch):
    mu = np.random.default_rng(0).standard_normal((50, 2))
    whole = total_correlation(mu, np.full_like(mu, 0.5), method="stratified")
    monkeypatch.setattr("vaeppl.representation.correlation.ENTRIES_AT_ONCE", 700)
    blocks = total_correlation(mu, np.full_like(mu, 0.5), method="stratified")
    assert float(whole) == pytest.approx(float(blocks), abs=1e-12)


def test_bad_arguments():
    z = np.zeros((3, 2))
    with pytest.raises(ColumnError, match="pass its standard deviations as `scales`"):
        total_correlation(z, method="weighted")
    with pytest.raises(ColumnError, match=r"scales have shape \(3, 1\), but means \(3, 2\)"):
        total_correlation(z, np.ones(3))
    with pytest.raises(ColumnError, match=r"0\.0 at row 1, dimension 0; .* above 0"):
        total_correlation(z, [[1, 1], [0, 1], [1, 1]])
    with pytest.raises(ColumnError, match="the means hold nan at row 2, dimension 1"):
        total_correlation([[0, 0], [0, 0], [0, np.nan]])
    with pytest.raises(ColumnError, match="two rows"):
        total_correlation([[0.0, 1.0]])
    with pytest.raises(ValueError, match="did you mean 'gaussian'"):
        total_correlation(z, method="gausian")
    with pytest.raises(ValueError, match="batch_size is at least 2"):
        total_correlation(z, np.ones_like(z), method="weighted", batch_size=1)
