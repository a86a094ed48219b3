"""Factor analysis (Spearman 1904; Rubin & Thayer 1982).

The story of a row n = 1, …, N::

    z_n        ~ N(0, I)                      factors
    x_n | z_n  ~ N(W z_n + b, diag σ²)        loadings W, and a noise for each column

so that x_n ~ N(b, W Wᵀ + diag σ²): what columns share is in W, and σ_d² is what column d has of its
own. The guide is the posterior itself::

    q(z_n | x_n) = N(P⁻¹ Wᵀ S⁻¹ (x_n - b), P⁻¹),    P = I + Wᵀ S⁻¹ W,   S = diag σ²

and so log p(x, z) - log q(z | x) is log p(x) for every z: the ELBO is the evidence, without noise,
and :func:`vaeppl.fit` maximises the likelihood, which has no closed form. With one σ for all
columns it is :class:`~vaeppl.models.PPCA`; unlike there, the unit of a column does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from vaeppl import linear, rows


class FactorAnalysis(linear.LinearModel):
    """Factor analysis.

    ====== ====== ================== ==========================================
    site   symbol shape of a row     what it is
    ====== ====== ================== ==========================================
    ``z``  z_n    ``(latent_dim,)``  factors, no unit
    ``x``  x_n    ``(x_dim,)``       data, each column in a unit of its own
    ====== ====== ================== ==========================================

    Its attributes ``weights`` (W, ``(x_dim, latent_dim)``), ``mean`` (b) and ``noise`` (σ,
    ``(x_dim,)``) are in the units of the data. Of W, no more is determined than W Wᵀ.

    Parameters
    ----------
    x_dim
        D, the number of entries in a row of ``x``.
    latent_dim
        K, the number of factors, below D.
    center, unit
        The zero and the unit in which the parameters are learnt, a number or one for each column;
        :meth:`for_data` takes them from the data.

    Examples
    --------
    >>> import torch, vaeppl
    >>> units = torch.tensor([1.0, 10.0, 0.1, 1.0, 5.0])
    >>> x = (torch.randn(200, 1) + torch.randn(200, 5)) * units
    >>> story = FactorAnalysis.for_data({"x": x}, latent_dim=1)
    >>> fit = vaeppl.fit(story, {"x": x}, epochs=200, lr=0.05, progress=False)
    >>> (fit.model.noise / units).round(decimals=0)  # 1 in each column
    tensor([1., 1., 1., 1., 1.], grad_fn=<RoundBackward1>)
    """

    unit_per_column = True

    def __init__(
        self,
        x_dim: int,
        latent_dim: int = 2,
        *,
        center: float | Sequence[float] = 0.0,
        unit: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        if not 1 <= latent_dim < x_dim:
            raise ValueError(
                f"latent_dim is from 1 to x_dim - 1, so that noise is left; given {latent_dim} "
                f"for {x_dim} columns"
            )
        self.make_parameters(x_dim, latent_dim, center, unit)

    def model(self, x: Tensor | None = None) -> None:
        """p(z) p(x | z) for each row."""
        with rows(x):
            zero = torch.zeros_like(self.weights[0])
            z = pyro.sample("z", dist.Normal(zero, torch.ones_like(zero)).to_event(1))
            x_mean = z @ self.weights.mT + self.mean
            pyro.sample("x", dist.Normal(x_mean, self.noise).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """p(z | x) for each row."""
        with rows(x):
            pyro.sample("z", linear.linear_normal(x, self.weights, self.mean, self.noise))
