"""A multivariate normal over rows whose covariance has low rank plus a diagonal."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent, Normal, constraints, register_kl

from .chunks import again
from .factorise import cholesky_of_precision

__all__ = ["LowRankNormal"]

LOG_2PI = 1.8378770664093453
PART = 8192  # rows that are scaled together: above, nothing else of the size of V is kept


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
        if "_tril" in self.__dict__:
            new.__dict__["_tril"] = self.__dict__["_tril"]
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

    def _in_parts(self, function: Callable[..., Tensor], *more: Tensor) -> list[Tensor]:
        """Apply a function to V and d of some rows, and what is given of them beside, in turn."""
        parts = zip(
            self.factor.split(PART, dim=-2),
            self.diagonal.split(PART, dim=-1),
            *(values.split(PART, dim=-1) for values in more),
            strict=True,
        )
        if self.event_shape[0] <= PART or not torch.is_grad_enabled():
            return [function(*part) for part in parts]
        return [again(function, *part) for part in parts]

    @cached_property
    def _tril(self) -> Tensor:
        gram = sum(self._in_parts(_gram))
        assert isinstance(gram, Tensor)
        return cholesky_of_precision(gram, gram)

    def _log_det(self) -> Tensor:
        pivots = self._tril.diagonal(dim1=-2, dim2=-1)
        return self.diagonal.double().log().sum(-1) + 2 * pivots.log().sum(-1)

    def _mahalanobis(self, value: Tensor) -> Tensor:
        square = (value.double().square() / self.diagonal.double()).sum(-1)
        a = torch.as_tensor(sum(self._in_parts(_moment, value)))
        if self._tril.ndim == 2:
            b = torch.linalg.solve_triangular(
                self._tril, a.reshape(-1, a.shape[-1]).mT, upper=False
            )
            return square - b.square().sum(0).reshape(a.shape[:-1])
        b = torch.linalg.solve_triangular(self._tril, a.unsqueeze(-1), upper=False).squeeze(-1)
        return square - b.square().sum(-1)

    def _precisions(self) -> Tensor:
        """Return the diagonal of K⁻¹."""
        tril = self._tril

        def of_part(v: Tensor, d: Tensor) -> Tensor:
            t = torch.linalg.solve_triangular(tril, _scaled(v, d).mT, upper=False)
            return (1 - t.square().sum(-2)) / d.double()

        return torch.cat(self._in_parts(of_part), dim=-1)

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


def _scaled(v: Tensor, d: Tensor) -> Tensor:
    """Return U, in float64."""
    return v.double() / d.double().sqrt().unsqueeze(-1)


def _gram(v: Tensor, d: Tensor) -> Tensor:
    """Return Uᵀ U."""
    u = _scaled(v, d)
    return u.mT @ u


def _moment(v: Tensor, d: Tensor, value: Tensor) -> Tensor:
    """Return Uᵀ D^(-1/2) z."""
    return torch.einsum("...n,...nh->...h", value.double() / d.double().sqrt(), _scaled(v, d))


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
