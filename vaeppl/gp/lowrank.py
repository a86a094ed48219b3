"""A multivariate normal over rows whose covariance has low rank plus a diagonal."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent, Normal, constraints, register_kl

from .factorise import cholesky_of_precision

__all__ = ["LowRankNormal"]

LOG_2PI = 1.8378770664093453


class LowRankNormal(TorchDistribution):
    """N(0, V Vᵀ + diag d): the values of a Gaussian process at N rows, in O(N H²).

    What :class:`pyro.distributions.LowRankMultivariateNormal` is, with three differences: it is
    factorised in float64; in a plate (over latent dimensions) one H × H factor serves all; and its
    KL from a diagonal normal is known in closed form. With U = D^(-1/2) V and B = I + Uᵀ U::

        K⁻¹ = D^(-1/2) (I - U B⁻¹ Uᵀ) D^(-1/2),    log |K| = Σ_n log d_n + log |B|

    Parameters
    ----------
    factor
        V, shape ``(..., N, H)``.
    diagonal
        d > 0, shape ``(..., N)``.

    Examples
    --------
    >>> import torch
    >>> process = LowRankNormal(torch.randn(50, 3), torch.full((50,), 0.1))
    >>> process.rsample((4,)).shape
    torch.Size([4, 50])
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        factor: Tensor,
        diagonal: Tensor,
        *,
        batch_shape: Any = None,
        validate_args: Any = None,
    ) -> None:
        if factor.shape[-2] != diagonal.shape[-1]:
            raise ValueError(
                f"the factor has {factor.shape[-2]} rows and the diagonal {diagonal.shape[-1]}"
            )
        self.factor, self.diagonal = factor, diagonal
        own = torch.broadcast_shapes(factor.shape[:-2], diagonal.shape[:-1])
        shape = own if batch_shape is None else torch.Size(batch_shape)
        super().__init__(shape, factor.shape[-2:-1], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LowRankNormal:
        """Expand to a batch shape; the factors stay as they are."""
        new = LowRankNormal(self.factor, self.diagonal, batch_shape=batch_shape)
        for name in ("_scaled", "_tril"):
            if name in self.__dict__:
                new.__dict__[name] = self.__dict__[name]
        return new

    @property
    def mean(self) -> Tensor:
        """Zero."""
        return self.factor.new_zeros(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        """Diagonal of V Vᵀ + D."""
        own = self.factor.square().sum(-1) + self.diagonal
        return own.expand(self._extended_shape())

    @cached_property
    def _scaled(self) -> tuple[Tensor, Tensor]:
        """Return U and the square root of d, in float64."""
        root = self.diagonal.double().sqrt()
        return self.factor.double() / root.unsqueeze(-1), root

    @cached_property
    def _tril(self) -> Tensor:
        return cholesky_of_precision(self._scaled[0])

    def _log_det(self) -> Tensor:
        _, root = self._scaled
        pivots = self._tril.diagonal(dim1=-2, dim2=-1)
        return 2 * (root.log().sum(-1) + pivots.log().sum(-1))

    def _mahalanobis(self, value: Tensor) -> Tensor:
        u, root = self._scaled
        r = value.double() / root
        a = torch.einsum("...n,...nh->...h", r, u)
        if self._tril.ndim == 2:
            b = torch.linalg.solve_triangular(
                self._tril, a.reshape(-1, a.shape[-1]).mT, upper=False
            )
            return r.square().sum(-1) - b.square().sum(0).reshape(a.shape[:-1])
        b = torch.linalg.solve_triangular(self._tril, a.unsqueeze(-1), upper=False).squeeze(-1)
        return r.square().sum(-1) - b.square().sum(-1)

    def _precisions(self) -> Tensor:
        """Return the diagonal of K⁻¹."""
        u, root = self._scaled
        t = torch.linalg.solve_triangular(self._tril, u.mT, upper=False)
        return (1 - t.square().sum(-2)) / root.square()

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of ``(..., N)``."""
        n = self.event_shape[0]
        log_p = -0.5 * (n * LOG_2PI + self._log_det() + self._mahalanobis(value))
        return log_p.expand(torch.broadcast_shapes(log_p.shape, self.batch_shape)).to(value.dtype)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw V u + √d ε."""
        shape = self._extended_shape(sample_shape)
        like = self.factor
        u = torch.randn(*shape[:-1], like.shape[-1], dtype=like.dtype, device=like.device)
        noise = torch.randn(shape, dtype=like.dtype, device=like.device)
        return torch.einsum("...nh,...h->...n", like, u) + self.diagonal.sqrt() * noise


@register_kl(Independent, LowRankNormal)
def _kl_diagonal_low_rank(q: Any, p: LowRankNormal) -> Tensor:
    """KL from N(m, diag s²): ½ (Σ s² (K⁻¹)_nn + mᵀ K⁻¹ m + log |K| - N - Σ log s²)."""
    base = q.base_dist
    if not isinstance(base, Normal) or q.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    variance = base.variance.double()
    spread = (variance * p._precisions()).sum(-1) - variance.log().sum(-1)
    kl = 0.5 * (spread + p._mahalanobis(base.loc) + p._log_det() - p.event_shape[0])
    return kl.expand(torch.broadcast_shapes(kl.shape, p.batch_shape)).to(base.loc.dtype)
