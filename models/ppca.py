"""Probabilistic principal component analysis (Tipping & Bishop 1999).

The story of a row n = 1, …, N::

    z_n        ~ N(0, I)                 scores
    x_n | z_n  ~ N(W z_n + b, σ² I)      one noise for all columns

so that x_n ~ N(b, W Wᵀ + σ² I). The guide is the posterior itself::

    q(z_n | x_n) = N(P⁻¹ Wᵀ (x_n - b) / σ², P⁻¹),    P = I + Wᵀ W / σ²

and so log p(x, z) - log q(z | x) is log p(x) for every z: the ELBO is the evidence, without noise,
and :func:`vaeppl.fit` maximises the likelihood. The maximum is known (equations 7 and 8)::

    σ² = mean of λ_K+1, …, λ_D,     W = U_K (Λ_K - σ² I)^½

from eigenvalues λ_1 ≥ λ_2 ≥ … and eigenvectors U of the covariance of the rows:
:meth:`PPCA.closed_form`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from vaeppl import Fit, as_fit, linear, rows
from vaeppl.errors import ColumnError


class PPCA(linear.LinearModel):
    """Probabilistic PCA.

    ====== ====== ================== ==========================================
    site   symbol shape of a row     what it is
    ====== ====== ================== ==========================================
    ``z``  z_n    ``(latent_dim,)``  scores, no unit
    ``x``  x_n    ``(x_dim,)``       data, in the unit of the column ``x``
    ====== ====== ================== ==========================================

    Its attributes ``weights`` (W, ``(x_dim, latent_dim)``), ``mean`` (b) and ``noise`` (σ) are in
    the unit of the data. Of W, no more is determined than W Wᵀ.

    Parameters
    ----------
    x_dim
        D, the number of entries in a row of ``x``.
    latent_dim
        K, the number of scores, below D.
    center, unit
        The zero (a number, or one for each column) and the unit (a number) in which the parameters
        are learnt; :meth:`for_data` takes them from the data.

    Examples
    --------
    >>> import torch, vaeppl
    >>> x = torch.randn(200, 2) @ torch.randn(2, 5) + 0.1 * torch.randn(200, 5)
    >>> exact = PPCA.closed_form({"x": x}, latent_dim=2)
    >>> options = {"epochs": 400, "lr": 0.05, "lr_schedule": "cosine", "batch_size": 200}
    >>> fit = vaeppl.fit(PPCA.for_data({"x": x}), {"x": x}, progress=False, **options)
    >>> abs(fit.evidence().mean - exact.evidence().mean) < 0.05
    True
    """

    def __init__(
        self,
        x_dim: int,
        latent_dim: int = 2,
        *,
        center: float | Sequence[float] = 0.0,
        unit: float = 1.0,
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

    @classmethod
    def closed_form(cls, data: Any, latent_dim: int = 2) -> Fit:
        """Return the story with maximum likelihood, as a fit.

        The columns of W are orthogonal, the longest first.

        Parameters
        ----------
        data
            Rows, as in :func:`vaeppl.fit`.
        latent_dim
            K.

        Raises
        ------
        ColumnError
            If the rows lie in a space of K dimensions, so that no noise is left; or an entry is
            missing or infinite.
        """
        x = linear.matrix(data)
        story = cls.for_data(data, latent_dim=latent_dim)
        _, s, axes = torch.linalg.svd((x - x.mean(0)) / story.unit, full_matrices=False)
        eigenvalues = s.square() / len(x)
        variance = eigenvalues[latent_dim:].sum() / (x.shape[1] - latent_dim)
        if not variance > torch.finfo(torch.float32).eps * eigenvalues[0]:
            raise ColumnError(
                f"column 'x' has {len(x)} rows in a space of {latent_dim} dimensions or fewer, so "
                "no noise is left and the likelihood has no maximum: take a smaller latent_dim"
            )
        length = (eigenvalues[:latent_dim] - variance).sqrt()
        with torch.no_grad():
            story.raw_weights.copy_(axes[:latent_dim].mT * length)
            story.log_noise.copy_(variance.log() / 2)
        return as_fit(story, data)
