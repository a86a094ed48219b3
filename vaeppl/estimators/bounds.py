"""Bounds of the log-evidence as functions of log-weights, for one unit at a time.

Each function takes log-weights and the dimension of the K particles, and returns the bound with a
dimension of one in its place. With w_k = p(x, z_k) / q(z_k | x), so that E[w_k] = p(x)::

    ELBO     mean_k log w_k
    IWAE     log mean_k w_k                          Burda, Grosse & Salakhutdinov 2016, eq. 8
    Rényi α  log mean_k w_k^(1-α) / (1-α)            Li & Turner 2016, eq. 7
    VR-max   max_k log w_k                           the same, α -> -∞ of K particles
    MIWAE    mean over m groups of IWAE              Rainforth et al. 2018, eq. 6
    CIWAE    β ELBO + (1-β) IWAE                     Rainforth et al. 2018, eq. 7
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "Bound",
    "elbo",
    "iwae",
    "leave_one_out",
    "miwae",
    "normalised",
    "renyi",
    "vr_max",
]

Bound = Callable[[Tensor, int], Tensor]


def elbo(log_w: Tensor, dim: int) -> Tensor:
    """Return the mean of the log-weights."""
    return log_w.mean(dim, keepdim=True)


def iwae(log_w: Tensor, dim: int) -> Tensor:
    """Return the log of the mean weight.

    Examples
    --------
    >>> iwae(torch.tensor([[1.0, 3.0]]).log(), -1).exp()
    tensor([[2.]])
    """
    return log_w.logsumexp(dim, keepdim=True) - math.log(log_w.shape[dim])


def renyi(log_w: Tensor, dim: int, alpha: float) -> Tensor:
    """Return the variational Rényi bound of order α; α = 1 is the ELBO, α = 0 IWAE."""
    if alpha == 1:
        return elbo(log_w, dim)
    return iwae((1 - alpha) * log_w, dim) / (1 - alpha)


def vr_max(log_w: Tensor, dim: int) -> Tensor:
    """Return the largest log-weight."""
    return log_w.amax(dim, keepdim=True)


def miwae(log_w: Tensor, dim: int, groups: int) -> Tensor:
    """Return the mean over groups of particles of their IWAE bounds."""
    apart = log_w.unflatten(dim, (groups, log_w.shape[dim] // groups))
    return iwae(apart, dim).mean(dim - 1, keepdim=True).squeeze(dim)


def normalised(log_w: Tensor, dim: int) -> Tensor:
    """Return the weights that sum to one, without a gradient."""
    return log_w.detach().softmax(dim)


def leave_one_out(log_w: Tensor, dim: int, bound: Bound) -> Tensor:
    """Return the bound with each particle's weight replaced by the geometric mean of the others'.

    The baseline of VIMCO (Mnih & Rezende 2016, eq. 10): it does not depend on the particle whose
    score it is subtracted from. It is 0 for a single particle.

    Returns
    -------
    Tensor
        Shape of ``log_w``.
    """
    particles = log_w.shape[dim]
    if particles == 1:
        return torch.zeros_like(log_w)
    diagonal = torch.eye(particles, dtype=torch.bool, device=log_w.device)
    diagonal = diagonal.reshape(particles, particles, *(1,) * (-dim - 1))
    each = log_w.unsqueeze(dim - 1)
    others = torch.where(diagonal, 0.0, each).sum(dim, keepdim=True) / (particles - 1)
    return bound(torch.where(diagonal, others, each), dim).squeeze(dim)
