"""Sparse coding (Olshausen & Field 1996, 1997).

The story of a row n = 1, …, N, with more atoms than columns if that is wanted::

    z_n        ~ Π_k Laplace(0, 1/√2)     how much of each atom, most of them next to nothing
    x_n | z_n  ~ N(Φ z_n + b, σ² I)       a sum of atoms, the columns of the dictionary Φ

The guide has no parameters of its own: it is the best normal one that can be had by bounding each
Laplace density from below by a normal (:func:`vaeppl.linear.linear_laplace`). So Φ climbs a bound
of the evidence, which is finite; the published algorithm climbs log p(x, z) at the best code, which
grows without end as codes shrink and atoms grow, and needs their length held fixed.

The best code itself is the solution of a lasso::

    argmax_z log p(z | x) = argmin_z |x - b - Φ z|² / (2 σ²) + √2 |z|₁

which :meth:`SparseCoding.best_codes` finds (FISTA: Beck & Teboulle 2009); most of its entries are
zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from vaeppl import linear, priors, rows

SQRT2 = 2**0.5  # rate of a Laplace density of variance one


class SparseCoding(linear.LinearModel):
    """Sparse coding with a dictionary that may be overcomplete.

    ====== ====== ================== ==========================================
    site   symbol shape of a row     what it is
    ====== ====== ================== ==========================================
    ``z``  z_n    ``(latent_dim,)``  code, no unit
    ``x``  x_n    ``(x_dim,)``       data, in the unit of the column ``x``
    ====== ====== ================== ==========================================

    Its attributes ``weights`` (Φ, ``(x_dim, latent_dim)``), ``mean`` (b) and ``noise`` (σ) are in
    the unit of the data.

    Parameters
    ----------
    x_dim
        D, the number of entries in a row of ``x``.
    latent_dim
        K, the number of atoms.
    noise
        σ in that unit: to start with, or for good.
    learn_noise
        Whether σ is learnt. It comes out small where codes are sparser than Laplace ones, and best
        codes are less sparse then.
    center, unit
        The zero (a number, or one for each column) and the unit (a number) in which the parameters
        are learnt; :meth:`for_data` takes them from the data.
    sweeps
        How often the guide sets its bounds, for each row. A sweep costs K³ for each.

    Examples
    --------
    >>> import torch, vaeppl
    >>> z = torch.randn(300, 6) * (torch.rand(300, 6) < 0.2)
    >>> data = {"x": z @ torch.randn(6, 4) + 0.05 * torch.randn(300, 4)}
    >>> story = SparseCoding.for_data(data, latent_dim=6)
    >>> fit = vaeppl.fit(story, data, epochs=20, lr=0.05, progress=False)
    >>> bool((fit.model.best_codes(data["x"]) == 0).float().mean() > 0.3)
    True
    """

    def __init__(
        self,
        x_dim: int,
        latent_dim: int = 64,
        *,
        noise: float = 0.2,
        learn_noise: bool = False,
        center: float | Sequence[float] = 0.0,
        unit: float = 1.0,
        sweeps: int = 2,
    ) -> None:
        super().__init__()
        self.sweeps = sweeps
        self.prior = priors.Laplace().bind(latent_dim)
        self.make_parameters(x_dim, latent_dim, center, unit, noise)
        self.log_noise.requires_grad_(learn_noise)

    def model(self, x: Tensor | None = None) -> None:
        """p(z) p(x | z) for each row."""
        with rows(x):
            z = pyro.sample("z", self.prior())
            x_mean = z @ self.weights.mT + self.mean
            pyro.sample("x", dist.Normal(x_mean, self.noise).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x) for each row."""
        with rows(x):
            q = linear.linear_laplace(x, self.weights, self.mean, self.noise, self.sweeps)
            pyro.sample("z", q)

    def best_codes(self, x: Any, steps: int = 500) -> Tensor:
        """Return the most probable code of each row, most entries of which are zero.

        Parameters
        ----------
        x
            Rows, ``(N, x_dim)``.
        steps
            Of the iteration, whose distance from the solution falls as 1 / steps².

        Returns
        -------
        Tensor
            ``(N, latent_dim)``.
        """
        with torch.no_grad():
            atoms, residual = self.weights, torch.as_tensor(x).to(self.weights) - self.mean
            step = 1 / torch.linalg.matrix_norm(atoms, 2).square()
            z = ahead = residual.new_zeros(len(residual), atoms.shape[1])
            momentum = 1.0
            for _ in range(steps):
                slope = (residual - ahead @ atoms.mT) @ atoms
                threshold = step * SQRT2 * self.noise.square()
                last, z = z, F.softshrink(ahead + step * slope, float(threshold))
                faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
                ahead, momentum = z + (momentum - 1) / faster * (z - last), faster
        return z
