"""The thermodynamic variational objective (Masrani, Le & Wood 2019).

Along the path π_β(z) ∝ q(z | x)^(1-β) p(x, z)^β from the guide to the posterior ::

    log p(x) = ∫_0^1 E_{π_β}[ log w(z) ] dβ,     w = p(x, z) / q(z | x)

The integrand rises with β. So its Riemann sum over 0 = β_0 < … < β_T = 1 is a lower bound of the
evidence if each piece takes its value on the left, and an upper bound if on the right; with T = 1
the left sum is the ELBO. Expectations are estimated with weights w_k^β, normalised row by row, of
K draws from the guide; the gradient of one with respect to any parameter is ::

    ∇ E_π[f] = E_π[∇f] + Cov_π[ ∇ log π̃_β, f ],      log π̃_β = log q + β log w

so no latent need be reparametrised.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from . import bounds
from .particles import ParticleEstimator
from .weights import particle_dim, total, weigh

__all__ = ["TVO", "partition", "riemann"]

RULES = ("left", "right", "trapezoid")


def partition(pieces: int, first: float = 0.025) -> list[float]:
    """Return 0 = β_0 < … < β_T = 1, evenly spaced in log β from β_1 on.

    Examples
    --------
    >>> partition(1), [round(b, 3) for b in partition(3, 0.01)]
    ([0.0, 1.0], [0.0, 0.01, 0.1, 1.0])
    """
    if pieces == 1:
        return [0.0, 1.0]
    return [0.0, *(first ** (1 - t / (pieces - 1)) for t in range(pieces - 1)), 1.0]


def riemann(points: list[float], rule: str) -> list[float]:
    """Return the weight of the integrand at each point of a partition.

    Examples
    --------
    >>> riemann([0.0, 0.25, 1.0], "left"), riemann([0.0, 0.25, 1.0], "right")
    ([0.25, 0.75, 0.0], [0.0, 0.25, 0.75])
    """
    gaps = [b - a for a, b in pairwise(points)]
    left, right = [*gaps, 0.0], [0.0, *gaps]
    if rule == "trapezoid":
        return [(a + b) / 2 for a, b in zip(left, right, strict=True)]
    return left if rule == "left" else right


class TVO(ParticleEstimator):
    """The thermodynamic variational objective.

    Biased for finite K where β > 0, as the weights are normalised by their sum; consistent.

    Parameters
    ----------
    num_particles
        K >= 2 draws for each row.
    pieces
        T, pieces of the path.
    first
        β_1, where there are several pieces.
    rule
        ``"left"``: the lower bound; ``"right"``: the upper bound; ``"trapezoid"``: their mean,
        nearest the evidence and no bound.

    Examples
    --------
    >>> TVO(10, pieces=5, rule="right").rule
    'right'
    """

    fewest = 2
    detached = True

    def __init__(
        self,
        num_particles: int = 2,
        *,
        pieces: int = 2,
        first: float = 0.025,
        rule: str = "left",
        **options: Any,
    ) -> None:
        if options.pop("enumerate", False):
            raise ValueError("TVO draws every latent: it cannot enumerate")
        super().__init__(num_particles, enumerate=False, **options)
        if pieces < 1 or not 0 < first < 1:
            raise ValueError(
                f"pieces is at least 1 and first between 0 and 1; given {pieces} and {first}"
            )
        if rule not in RULES:
            raise ValueError(f"rule is one of {', '.join(RULES)}; given {rule!r}")
        self.points, self.rule = partition(pieces, first), rule

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the objective; its gradient is that of the covariances."""
        traces = list(self._get_traces(model, guide, args, kwargs))
        weights = weigh(traces, self.plate_depth)
        dim = particle_dim(self.plate_depth)
        f = weights.log_w
        value: Any = 0.0
        surrogate: Any = 0.0
        for beta, share in zip(self.points, riemann(self.points, self.rule), strict=True):
            if share:
                v = bounds.normalised(beta * f, dim)
                mean = (v * f.detach()).sum(dim, keepdim=True)
                value = value + share * mean
                # As a sample covariance has K - 1 for K; exact where the weights are equal.
                spare = 1 - v.square().sum(dim, keepdim=True)
                centred = (f.detach() - mean) / spare.clamp(min=torch.finfo(f.dtype).eps)
                inner = f + centred * (weights.log_q + beta * f)
                surrogate = surrogate + share * (v * inner).sum(dim, keepdim=True)
        self.report = {
            "bound": (weights.scale * value).sum(),
            "elbo": (weights.scale * bounds.elbo(f.detach(), dim)).sum(),
        }
        if not torch.is_grad_enabled():
            return -total(value, weights)
        return -total(value + surrogate - surrogate.detach(), weights)
