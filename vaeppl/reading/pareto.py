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
        Shape ``(rows,)``; NaN where there are too few weights (fewer than 25), -inf where those
        of the tail are all the same, and inf where fewer than 5 of them stand above the rest.

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
    smallest = torch.finfo(torch.float64).tiny  # below it there are no digits to fit
    cutoff = ordered[-tail - 1].exp().clamp(min=smallest)
    excess = (ordered[-tail:].exp() - cutoff).T  # (rows, tail), ascending
    # Weights that differ by the rounding of their logarithms alone are all the same.
    largest = log_weights.amax(0).double().abs().nan_to_num(posinf=1.0).clamp(min=1.0)
    rounding = torch.finfo(log_weights.dtype).eps * largest
    flat = excess[:, -1] <= 20 * rounding
    tied = (excess[:, 0] <= 0) & ~flat  # weights of discrete latents are; each row by itself, then
    safe = torch.where((flat | tied)[:, None], torch.linspace(1.0, 2.0, tail).to(excess), excess)
    k = _generalised_pareto_shape(safe)
    for row in tied.nonzero().flatten().tolist():
        above = excess[row, excess[row] > 0]
        k[row] = _generalised_pareto_shape(above[None])[0] if len(above) >= 5 else torch.inf
    return torch.where(flat, torch.full_like(k, -torch.inf), k).to(log_weights.dtype)


def _generalised_pareto_shape(x: Tensor) -> Tensor:
    """Estimate k from ascending samples ``(rows, n)`` (Zhang & Stephens 2009), regularised."""
    n = x.shape[1]
    grid = 30 + int(math.sqrt(n))
    steps = 1 - (grid / (torch.arange(1, grid + 1).to(x) - 0.5)).sqrt()
    quartile = x[:, int(n / 4 + 0.5) - 1, None]
    b = steps / (3.0 * quartile) + 1.0 / x[:, -1:]  # (rows, grid)
    shapes = torch.log1p(-b[:, :, None] * x[:, None, :]).mean(2)
    length = n * (torch.log(-(b / shapes)) - shapes - 1.0)
    weights = 1.0 / (length[:, None, :] - length[:, :, None]).exp().sum(2)
    b_mean = (b * weights).sum(1) / weights.sum(1)
    k = torch.log1p(-b_mean[:, None] * x).mean(1)
    # A prior worth 10 observations at k = 0.5 steadies short tails.
    return (n * k + 10 * 0.5) / (n + 10)
