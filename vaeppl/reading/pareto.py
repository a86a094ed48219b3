"""The Pareto k diagnostic of importance weights, for many rows at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["pareto_k"]


def pareto_k(log_weights: Tensor) -> Tensor:
    """Estimate the shape k of the tail of the weights of each row.

    The largest min(K/5, 3√K) weights of a row are fitted by a generalised Pareto distribution
    with the estimator of Zhang & Stephens (2009), and k is regularised towards 0.5 as in Vehtari
    et al. (2024). Above 0.7 an estimate that rests on the weights is not to be trusted.

    Parameters
    ----------
    log_weights
        Shape ``(K, rows)``.

    Returns
    -------
    Tensor
        Shape ``(rows,)``; NaN where there are fewer than 5 weights in the tail, and -inf where
        they are all the same.

    Examples
    --------
    >>> import torch
    >>> log_w = torch.distributions.Pareto(1.0, 2.0).sample((20000, 1)).log()  # true k is 1/2
    >>> bool((pareto_k(log_w) - 0.5).abs() < 0.15)
    True
    """
    particles = log_weights.shape[0]
    tail = min(particles // 5, math.ceil(3 * math.sqrt(particles)))
    if tail < 5:
        return torch.full_like(log_weights[0], torch.nan)
    ordered = log_weights.double().sort(0).values
    ordered = ordered - ordered[-1]
    cutoff = ordered[-tail - 1].exp()
    excess = (ordered[-tail:].exp() - cutoff).T  # (rows, tail), ascending
    flat = excess[:, -1] <= 1e-12
    safe = torch.where(flat[:, None], torch.linspace(1.0, 2.0, tail).to(excess), excess)
    k = _generalised_pareto_shape(safe.clamp(min=torch.finfo(torch.float64).tiny))
    # A prior worth 10 observations at k = 0.5 steadies short tails.
    k = (k * tail + 0.5 * 10) / (tail + 10)
    return torch.where(flat, torch.full_like(k, -torch.inf), k).to(log_weights.dtype)


def _generalised_pareto_shape(x: Tensor) -> Tensor:
    """Posterior-mean estimate of k for ascending samples ``(rows, n)`` (Zhang & Stephens 2009)."""
    n = x.shape[1]
    grid = 30 + int(math.sqrt(n))
    steps = 1 - (grid / (torch.arange(1, grid + 1).to(x) - 0.5)).sqrt()
    quartile = x[:, int(n / 4 + 0.5) - 1, None]
    b = steps / (3.0 * quartile) + 1.0 / x[:, -1:]  # (rows, grid)
    k = torch.log1p(-b[:, :, None] * x[:, None, :]).mean(2)
    length = n * (torch.log(-(b / k)) - k - 1.0)
    weights = 1.0 / (length[:, None, :] - length[:, :, None]).exp().sum(2)
    b_mean = (b * weights).sum(1) / weights.sum(1)
    return torch.log1p(-b_mean[:, None] * x).mean(1)
