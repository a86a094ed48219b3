"""The closed form of a KL that torch lacks."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, register_kl

__all__: list[str] = []


@register_kl(MultivariateNormal, Independent)
def _kl_full_rank_diagonal(q: MultivariateNormal, p: Any) -> Tensor:
    """KL from N(m, C Cᵀ) to Π_i N(μ_i, σ_i²): no system of equations is to be solved.

    ½ Σ_i ((Σ_j C_ij² + (m_i - μ_i)²) / σ_i² - 1) + Σ_i log σ_i - Σ_i log C_ii
    """
    base = p.base_dist
    if not isinstance(base, Normal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    tril = q._unbroadcasted_scale_tril
    square = (tril.square().sum(-1) + (q.loc - base.loc).square()) / base.scale.square()
    apart = 0.5 * (square - 1).sum(-1) + base.scale.log().sum(-1)
    kl: Tensor = apart - tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return kl
