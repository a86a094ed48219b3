"""A Gaussian process in weight space: z_n = V_n u + √d_n ε, with u ~ N(0, I)."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, register_kl

from .factorise import cholesky, cholesky_of_precision

__all__ = ["Weights", "WeightsGuide", "values_given", "weights_given", "weights_prior"]

SCALE_FLOOR = 1e-5  # of q(u): a weight that many rows agree on has a posterior this narrow


class Weights(NamedTuple):
    """A normal distribution of the weights of each latent dimension.

    Attributes
    ----------
    mean : Tensor
        Shape ``(L, H)``, float64.
    covariance : Tensor
        Shape ``(L, H, H)``, float64.
    """

    mean: Tensor
    covariance: Tensor


class _StandardNormal(dist.Independent):
    """N(0, I), known as such, so that the KL of q(u) needs no system of equations."""


@register_kl(MultivariateNormal, _StandardNormal)
def _kl_standard(q: Any, p: _StandardNormal) -> Tensor:
    """KL from N(m, C Cᵀ): ½ Σ_i (Σ_j C_ij² + m_i² - 1) - Σ_i log C_ii."""
    tril = q._unbroadcasted_scale_tril
    square = tril.square().sum(-1) + q.loc.square()
    kl: Tensor = 0.5 * (square - 1).sum(-1) - tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return kl


def weights_prior(like: Tensor) -> TorchDistribution:
    """Return p(u) = N(0, I) for weights of the shape ``(L, H)`` of a tensor."""
    each = _StandardNormal(dist.Normal(torch.zeros_like(like), torch.ones_like(like)), 1)
    return dist.Independent(each, 1)  # `to_event` would merge the two


def values_given(u: Tensor, factor: Tensor, diagonal: Tensor) -> TorchDistribution:
    """Return p(z_n | u) = N(V_n u, d_n), row by row: batch ``(..., N)``, event ``(L,)``.

    Parameters
    ----------
    u
        Weights, ``(L, H)``; ``(..., 1, L, H)`` where there are several draws, the rows being at the
        place of the 1.
    factor, diagonal
        V and d: ``(N, H)`` and ``(N,)`` for all latent dimensions, or ``(L, N, H)``, ``(L, N)``.
    """
    u = u.squeeze(-3) if u.ndim > 2 else u
    if factor.ndim == 2:
        loc = factor @ u.mT
        scale = diagonal.sqrt().unsqueeze(-1)
    else:
        loc = torch.einsum("lnh,...lh->...nl", factor, u)
        scale = diagonal.sqrt().mT
    return dist.Normal(loc, scale).to_event(1)


def weights_given(factor: Tensor, diagonal: Tensor, mean: Tensor, variance: Tensor) -> Weights:
    """Return the distribution of u when Z ~ N(mean, variance), row by row, is what is known of Z.

    With S = (I + Vᵀ D⁻¹ V)⁻¹ and M = S Vᵀ D⁻¹, p(u | Z) = N(M Z, S), and so, Z being uncertain,
    u ~ N(M mean, S + M diag(variance) Mᵀ).

    Parameters
    ----------
    factor, diagonal
        V and d, as in :func:`values_given`.
    mean, variance
        Of Z, ``(N, L)``.
    """
    sums = WeightSums()
    sums.add(factor, diagonal, mean, variance)
    return sums.weights()


class WeightSums:
    """The sums over rows that :func:`weights_given` is made of, so that rows may come in parts."""

    def __init__(self) -> None:
        self.gram: Tensor | float = 0.0  # Vᵀ D⁻¹ V
        self.moment: Tensor | float = 0.0  # Vᵀ D⁻¹ mean
        self.noise: Tensor | float = 0.0  # Vᵀ D⁻¹ diag(variance) D⁻¹ V

    def add(self, factor: Tensor, diagonal: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Add rows."""
        v, d = factor.double(), diagonal.double()
        over = v / d.unsqueeze(-1)
        mean, variance = mean.double().mT, variance.double().mT
        self.gram = self.gram + over.mT @ v
        self.moment = self.moment + (mean.unsqueeze(-2) @ over).squeeze(-2)
        each = [(over if v.ndim == 2 else over[i]) for i in range(len(variance))]
        noise = [a.mT @ (s.unsqueeze(-1) * a) for a, s in zip(each, variance, strict=True)]
        self.noise = self.noise + torch.stack(noise)

    def weights(self) -> Weights:
        """Return the distribution of u."""
        gram, moment, noise = map(torch.as_tensor, (self.gram, self.moment, self.noise))
        factor = cholesky_of_precision(gram, gram)
        covariance = torch.cholesky_inverse(factor)
        mean = (covariance @ moment.unsqueeze(-1)).squeeze(-1)
        return Weights(mean, covariance + covariance @ noise @ covariance)

    def conditional(self) -> Weights:
        """Return the same with the noise of Z left out of the covariance: M mean and S.

        It is the best q(u) beside a q(Z) that does not depend on u.
        """
        mean, _ = self.weights()
        gram = torch.as_tensor(self.gram)
        covariance = torch.cholesky_inverse(cholesky_of_precision(gram, gram))
        return Weights(mean, covariance.expand(len(mean), -1, -1))


class WeightsGuide(nn.Module):
    """q(u) = Π_l N(m_l, C_l C_lᵀ), full rank in each latent dimension.

    Parameters
    ----------
    latent_dim, rank
        L and H.
    """

    def __init__(self, latent_dim: int, rank: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(latent_dim, rank))
        raw = torch.full((rank,), _inverse_softplus(torch.ones(())).item())
        self.raw = nn.Parameter(torch.diag(raw).repeat(latent_dim, 1, 1))

    def forward(self) -> TorchDistribution:
        """Return q(u), event shape ``(L, H)``."""
        diagonal = F.softplus(self.raw.diagonal(dim1=-2, dim2=-1)) + SCALE_FLOOR
        tril = self.raw.tril(-1) + torch.diag_embed(diagonal)
        return dist.MultivariateNormal(self.loc, scale_tril=tril, validate_args=False).to_event(1)

    @torch.no_grad()
    def set(self, weights: Weights) -> None:
        """Take the values of a distribution of the weights."""
        tril = cholesky(weights.covariance, "covariance of the weights")
        diagonal = (tril.diagonal(dim1=-2, dim2=-1) - SCALE_FLOOR).clamp(min=SCALE_FLOOR)
        self.loc.copy_(weights.mean)
        self.raw.copy_(tril.tril(-1) + torch.diag_embed(_inverse_softplus(diagonal)))


def _inverse_softplus(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))
