"""The Pareto k of many rows at once: against ArviZ, known tails, and degenerate weights."""

from __future__ import annotations

import arviz
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vaeppl.reading.pareto import pareto_k

# ArviZ regularises as we do, (n k + 10 · 0.5) / (n + 10), but rounds the length of the tail up:
# ceil(min(K/5, 3√K)) for our min(⌊K/5⌋, ⌈3√K⌉). They agree where K is a multiple of five.


def by_arviz(log_weights):
    return np.array([float(arviz.psislw(row)[1]) for row in np.asarray(log_weights.T)])


def weights(kind, particles, rows, seed):
    rng = np.random.default_rng(seed)
    if kind == "normal":
        return rng.normal(size=(particles, rows)) * rng.uniform(0.05, 6, rows)
    if kind == "pareto":
        return rng.pareto(rng.uniform(0.3, 9, rows), (particles, rows)) / 10
    if kind == "bounded":
        return np.log(rng.beta(2, rng.uniform(1, 5, rows), (particles, rows)))
    return -rng.gamma(3.0, rng.uniform(0.1, 5, rows), (particles, rows))


@pytest.mark.parametrize("kind", ["normal", "pareto", "bounded", "gamma"])
@pytest.mark.parametrize("particles", [25, 50, 200, 1000, 4000])
def test_agrees_with_arviz(kind, particles):
    log_weights = weights(kind, particles, 10, particles)
    found = pareto_k(torch.tensor(log_weights)).numpy()
    np.testing.assert_allclose(found, by_arviz(log_weights), rtol=1e-8, atol=1e-8)


def test_agrees_with_arviz_where_most_weights_are_zero():
    log_weights = weights("normal", 1000, 6, 0)
    log_weights[:500] = -np.inf
    found = pareto_k(torch.tensor(log_weights)).numpy()
    np.testing.assert_allclose(found, by_arviz(log_weights), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("values", [12, 20, 60])
def test_agrees_with_arviz_where_weights_are_tied(values):
    """As those of discrete latents are: of equal weights only what stands above the cut counts."""
    rng = np.random.default_rng(values)
    log_weights = rng.normal(size=values)[rng.integers(0, values, (1000, 5))]
    found = pareto_k(torch.tensor(log_weights)).numpy()
    differ = found > -np.inf  # ArviZ says inf where the whole tail has one value
    assert differ.any()
    np.testing.assert_allclose(found[differ], by_arviz(log_weights[:, differ]), rtol=1e-8)


@pytest.mark.parametrize("k", [0.1, 0.5, 0.7, 1.0, 1.5])
def test_finds_the_shape_of_a_known_tail(k):
    torch.manual_seed(1)
    log_weights = k * torch.empty(20_000, 40, dtype=torch.float64).exponential_()
    found = pareto_k(log_weights)
    se = (1 + k) / 424**0.5
    assert (found.mean() - k).abs() < 4 * se / 40**0.5 + 0.03
    assert ((found - k).abs() < 4.5 * se + 0.03).all()


def test_a_longer_tail_has_a_larger_k():
    base = torch.empty(2000, 1, dtype=torch.float64).exponential_()
    ks = pareto_k(base * torch.tensor([0.1, 0.4, 0.8, 1.6]))
    assert (ks.diff() > 0).all()


@given(st.floats(-1e4, 1e4), st.integers(0, 1000))
def test_a_constant_factor_of_the_weights_does_not_matter(shift, seed):
    log_weights = torch.tensor(weights("normal", 100, 4, seed))
    torch.testing.assert_close(
        pareto_k(log_weights + shift), pareto_k(log_weights), rtol=1e-4, atol=1e-6
    )


def test_even_absurd_tails_have_an_estimate():
    """One that is above any threshold, where a NaN would be below it."""
    log_weights = torch.tensor(weights("normal", 1000, 20, 5)) * 10 ** torch.linspace(0, 8, 20)
    k = pareto_k(log_weights)
    assert not k.isnan().any() and k[-1] > 10


def test_rows_and_the_order_of_particles_do_not_matter():
    log_weights = torch.tensor(weights("normal", 500, 6, 3))
    k = pareto_k(log_weights)
    shuffled = log_weights[torch.randperm(500)]
    torch.testing.assert_close(pareto_k(shuffled[:, [5, 0, 3]]), k[[5, 0, 3]])
    singles = torch.cat([pareto_k(c[:, None]) for c in log_weights.T])
    torch.testing.assert_close(singles, k)


def test_equal_weights_are_the_best_there_can_be():
    """q is the posterior: k is -inf, not NaN."""
    log_weights = torch.full((1000, 2), -3.0)
    log_weights[:, 1] = torch.randn(1000)
    k = pareto_k(log_weights)
    assert k[0] == -torch.inf and k[1].isfinite()
    few_values = torch.tensor([0.0, -1.0]).repeat(500)[:, None]
    assert pareto_k(few_values) == -torch.inf


def test_a_few_weights_that_carry_all_the_rest_are_the_worst():
    log_weights = torch.full((1000, 1), -50.0)
    log_weights[:3] = torch.randn(3, 1)
    assert pareto_k(log_weights) == torch.inf
    log_weights[:] = -torch.inf
    log_weights[0] = 0.0
    assert pareto_k(log_weights) == torch.inf


def test_too_few_weights_give_no_estimate():
    assert pareto_k(torch.randn(24, 3)).isnan().all()
    assert pareto_k(torch.randn(25, 3)).isfinite().all()


def test_single_precision_is_kept_and_is_enough():
    log_weights = torch.tensor(weights("normal", 1000, 5, 9))
    k = pareto_k(log_weights.float())
    assert k.dtype == torch.float32
    torch.testing.assert_close(k.double(), pareto_k(log_weights), atol=1e-3, rtol=1e-3)
