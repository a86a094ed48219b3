"""Linear stories, x = W z + b + noise: their parameters, and guides that have none of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from .columns import check_finite
from .data import Data, as_data
from .model import Model

__all__ = ["LinearModel", "linear_laplace", "linear_normal", "matrix"]

LEAST_SQUARE = 1e-12  # of a latent: that it is 0 for certain would make its variance vanish


class LinearModel(Model):
    """Base of the linear stories: W, b and σ, learnt in a unit and read in that of the data.

    A subclass calls ``make_parameters`` in its constructor, whose arguments ``center`` and ``unit``
    :meth:`for_data` takes from the data; and it writes the story.

    Attributes
    ----------
    unit_per_column : bool
        Whether each column has a unit of its own, and a σ.
    """

    unit_per_column = False
    center: Tensor
    unit: Tensor

    def make_parameters(
        self,
        x_dim: int,
        latent_dim: int,
        center: float | Sequence[float],
        unit: float | Sequence[float],
        noise: float = 1.0,
    ) -> None:
        """Create W, b and σ; the last starts at ``noise`` units."""
        if min(x_dim, latent_dim) < 1:
            raise ValueError(f"x_dim and latent_dim are at least 1; given {x_dim} and {latent_dim}")
        if not torch.as_tensor(unit).min() > 0:
            raise ValueError(f"a unit is > 0; given {unit}")
        if noise <= 0:
            raise ValueError(f"noise is > 0; given {noise}")
        kind = torch.get_default_dtype()
        columns = (x_dim,) if self.unit_per_column else ()
        self.register_buffer("center", torch.as_tensor(center, dtype=kind).expand(x_dim).clone())
        self.register_buffer("unit", torch.as_tensor(unit, dtype=kind).expand(columns).clone())
        self.raw_weights = nn.Parameter(torch.randn(x_dim, latent_dim) / latent_dim**0.5)
        self.raw_mean = nn.Parameter(torch.zeros(x_dim))
        self.log_noise = nn.Parameter(torch.full(columns, noise).log())

    @property
    def weights(self) -> Tensor:
        """W, ``(x_dim, latent_dim)``, in the unit of the data."""
        return self.unit.unsqueeze(-1) * self.raw_weights

    @property
    def mean(self) -> Tensor:
        """b, ``(x_dim,)``, in the unit of the data."""
        return self.center + self.unit * self.raw_mean

    @property
    def noise(self) -> Tensor:
        """σ in the unit of the data, one number or ``(x_dim,)``."""
        return self.unit * self.log_noise.exp()

    @classmethod
    def for_data(cls, data: Any, **options: Any) -> Any:
        """Build the story in the unit of some data: their mean, and their standard deviation.

        Entries that are missing (NaN) are left out of both.
        """
        x = _column(as_data(data).train)
        center = x.nanmean(0).nan_to_num()
        there = (~x.isnan()).sum(0).clamp(min=1)
        variance = (x - center).square().nansum(0) / there
        sd = (variance if cls.unit_per_column else variance.mean()).sqrt()
        unit = torch.where(sd > 0, sd, torch.ones_like(sd)).tolist()
        return cls(**{"x_dim": x.shape[1], "center": center.tolist(), "unit": unit, **options})


def matrix(data: Any) -> Tensor:
    """Return the column ``x`` of the rows that are fitted, ``(N, D)``, in float64.

    Raises
    ------
    ColumnError
        If an entry is missing or infinite, so that the rows have no principal axes.
    """
    rows = as_data(data).train
    x = _column(rows)
    if not x.isfinite().all():
        check_finite(rows, "x", "vaeppl.fit with guide='auto' leaves out what is missing (NaN)")
    return x


def _column(rows: Data) -> Tensor:
    columns = rows.columns("x")
    return columns.take(torch.arange(len(columns)))["x"].double().flatten(1)


def linear_normal(
    x: Tensor,
    weights: Tensor,
    mean: Tensor,
    scale: Tensor,
    variances: Tensor | None = None,
) -> TorchDistribution:
    """Return the posterior of a linear story with normal latents: exact, and in closed form.

    ::

        z ~ N(0, V),  x | z ~ N(W z + b, S)
        z | x ~ N(P⁻¹ Wᵀ S⁻¹ (x - b), P⁻¹),   P = V⁻¹ + Wᵀ S⁻¹ W,  S = diag s²

    Parameters
    ----------
    x
        Rows, ``(..., x_dim)``.
    weights
        W, ``(x_dim, latent_dim)``.
    mean
        b, ``(x_dim,)``.
    scale
        s, one number or ``(x_dim,)``.
    variances
        The diagonal of V, ``(..., latent_dim)``; 1 if ``None``.

    Returns
    -------
    TorchDistribution
        Batch shape ``(...)``, event shape ``(latent_dim,)``.

    Examples
    --------
    >>> import torch
    >>> w = torch.ones(3, 1)
    >>> linear_normal(torch.ones(5, 3), w, torch.zeros(3), torch.tensor(1.0)).mean[0]
    tensor([0.7500])
    """
    whitened = weights / scale.expand(len(weights))[:, None]
    # P = V^-½ (I + V^½ Wᵀ S⁻¹ W V^½) V^-½: what is factorised has no eigenvalue below one.
    sd = torch.ones_like(weights[0]) if variances is None else variances.sqrt()
    scaled = whitened * sd.unsqueeze(-2)
    identity = torch.eye(weights.shape[1], dtype=weights.dtype, device=weights.device)
    root = sd.unsqueeze(-1) * _inverse_root(identity + scaled.mT @ scaled)
    along = ((x - mean) / scale) @ whitened
    loc = (root @ (root.mT @ along.unsqueeze(-1))).squeeze(-1)
    return dist.MultivariateNormal(loc, scale_tril=root, validate_args=False)


def _inverse_root(matrix: Tensor) -> Tensor:
    """Return the lower triangular T with T Tᵀ = M⁻¹, without M⁻¹."""
    flipped = torch.linalg.cholesky(matrix.flip(-2, -1))
    upside_down = flipped.flip(-2, -1).mT
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve_triangular(upside_down, identity, upper=False)


def linear_laplace(
    x: Tensor, weights: Tensor, mean: Tensor, scale: Tensor, sweeps: int = 2
) -> TorchDistribution:
    """Return a normal close to the posterior of a linear story with Laplace latents.

    ::

        z_k ~ Laplace(0, 1/√2),  x | z ~ N(W z + b, S)

    Each Laplace density is bounded from below by a normal one that touches it at ± ξ_k, of variance
    ξ_k / √2. Given these, the posterior is that of :func:`linear_normal`; given it, the best bound
    has ξ_k² = E[z_k²], which is repeated for each row (Girolami 2001). With no sweep the latents
    are taken for normal ones of variance 1, which is right in the limit where x determines z.

    Parameters
    ----------
    x, weights, mean, scale
        As in :func:`linear_normal`.
    sweeps
        How often ξ is set.

    Returns
    -------
    TorchDistribution
        A normal of full rank: batch shape ``(...)``, event shape ``(latent_dim,)``.

    References
    ----------
    Girolami (2001), "A variational method for learning sparse and overcomplete representations".

    Examples
    --------
    >>> import torch
    >>> w = torch.ones(3, 1)
    >>> q = linear_laplace(torch.ones(5, 3), w, torch.zeros(3), torch.tensor(1.0), sweeps=9)
    >>> q.mean[0], q.variance[0]
    (tensor([0.6199]), tensor([0.2066]))
    """
    q = linear_normal(x, weights, mean, scale)
    for _ in range(sweeps):
        touching = (q.mean.square() + q.variance).clamp(min=LEAST_SQUARE).sqrt()
        q = linear_normal(x, weights, mean, scale, touching / 2**0.5)
    return q
