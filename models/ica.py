"""Independent component analysis (Comon 1994; with noise: Girolami 2001).

The story of a row n = 1, …, N::

    s_n        ~ Π_k Laplace(0, 1/√2)     independent sources of variance 1, with heavy tails
    x_n | s_n  ~ N(A s_n + b, σ² I)       they are mixed

Under normal sources A would be determined but for a rotation (:class:`~vaeppl.models.PPCA`); as
these are not normal, it is determined but for the order and the signs of its columns. The guide
has no parameters of its own: it is the best normal one that can be had by bounding each Laplace
density from below by a normal (:func:`vaeppl.linear.linear_laplace`), and exact as σ goes to 0,
where s = A⁻¹ (x - b) and the ELBO becomes the likelihood of ICA without noise,
log p(s) - log |det A|.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from vaeppl import linear, priors, rows


class ICA(linear.LinearModel):
    """Independent component analysis, linear, with noise.

    ====== ====== ================== ==========================================
    site   symbol shape of a row     what it is
    ====== ====== ================== ==========================================
    ``s``  s_n    ``(latent_dim,)``  sources, no unit
    ``x``  x_n    ``(x_dim,)``       data, in the unit of the column ``x``
    ====== ====== ================== ==========================================

    Its attributes ``weights`` (A, ``(x_dim, latent_dim)``), ``mean`` (b) and ``noise`` (σ) are in
    the unit of the data.

    Parameters
    ----------
    x_dim
        D, the number of entries in a row of ``x``.
    latent_dim
        K, the number of sources, D at most; D if ``None``. For more, see
        :class:`~vaeppl.models.SparseCoding`.
    center, unit
        The zero (a number, or one for each column) and the unit (a number) in which the parameters
        are learnt; :meth:`for_data` takes them from the data.
    sweeps
        How often the guide sets its bounds, for each row.

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.representation import amari_distance
    >>> s = torch.distributions.Laplace(0.0, 1.0).sample((500, 2))
    >>> mixing = torch.tensor([[1.0, 0.5], [-0.3, 1.0]])
    >>> data = {"x": s @ mixing.T}
    >>> fit = vaeppl.fit(ICA.for_data(data), data, epochs=100, lr=0.05, progress=False)
    >>> amari_distance(fit.model.unmixing, mixing) < 0.1
    True
    """

    def __init__(
        self,
        x_dim: int,
        latent_dim: int | None = None,
        *,
        center: float | Sequence[float] = 0.0,
        unit: float = 1.0,
        sweeps: int = 2,
    ) -> None:
        super().__init__()
        latent_dim = x_dim if latent_dim is None else latent_dim
        if not 1 <= latent_dim <= x_dim:
            raise ValueError(
                f"there are 1 to {x_dim} sources in {x_dim} columns; given latent_dim={latent_dim}"
            )
        self.sweeps = sweeps
        self.prior = priors.Laplace().bind(latent_dim)
        self.make_parameters(x_dim, latent_dim, center, unit)

    def model(self, x: Tensor | None = None) -> None:
        """p(s) p(x | s) for each row."""
        with rows(x):
            s = pyro.sample("s", self.prior())
            x_mean = s @ self.weights.mT + self.mean
            pyro.sample("x", dist.Normal(x_mean, self.noise).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(s | x) for each row."""
        with rows(x):
            q = linear.linear_laplace(x, self.weights, self.mean, self.noise, self.sweeps)
            pyro.sample("s", q)

    @property
    def unmixing(self) -> Tensor:
        """A⁻¹ (of more columns than sources, the pseudo-inverse), ``(latent_dim, x_dim)``."""
        return torch.linalg.pinv(self.weights.detach())

    @classmethod
    def for_data(cls, data: Any, **options: Any) -> Any:
        """Build the story in the unit of some data, A at their principal axes.

        So the first thing learnt is the rotation which makes the scores independent.

        Raises
        ------
        ColumnError
            If an entry is missing or infinite, so that there are no principal axes.
        """
        x = linear.matrix(data)
        story = super().for_data(data, **options)
        _, s, axes = torch.linalg.svd((x - x.mean(0)) / story.unit, full_matrices=False)
        number = min(story.raw_weights.shape[1], len(s))
        with torch.no_grad():
            scaled = axes[:number].mT * s[:number] / len(x) ** 0.5
            story.raw_weights[:, :number] = scaled.to(story.raw_weights)
        return story
