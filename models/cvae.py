"""The conditional variational auto-encoder (Sohn, Lee & Yan 2015).

The story of a row n: its condition x_n is given, and y_n is to be predicted::

    z_n | x_n        ~ p(z | x_n)                 latent, N(m(x_n), diag s(x_n)²) or N(0, I)
    y_n | x_n, z_n   ~ p(y | h = f(x_n, z_n))     likelihood, its parameters put out by f

so that p(y | x) = ∫ p(y | x, z) p(z | x) dz may have several modes. The guide sees both::

    q(z_n | x_n, y_n)
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from vaeppl import Model, guides, likelihoods, rows
from vaeppl.nets import MLP, feature_net, output_dim
from vaeppl.priors import StandardNormal


class CVAE(Model):
    """Conditional variational auto-encoder: p(y | x) through a latent z.

    ====== ====== ================== ==========================================
    site   symbol shape of a row     what it is
    ====== ====== ================== ==========================================
    ``z``  z_n    ``(latent_dim,)``  latent vector, no unit
    ``y``  y_n    ``(y_dim,)``       what is predicted, in the unit of its column
    ====== ====== ================== ==========================================

    The column ``x`` is the condition; it is never drawn.

    Parameters
    ----------
    x_dim, y_dim
        Number of entries in a row of ``x`` and of ``y``.
    latent_dim
        Number of entries of z.
    likelihood
        p(y | h), from :mod:`vaeppl.likelihoods`, or its name.
    condition
        A likelihood that says what ``x`` holds, and so how it enters the networks: Normal for
        measurements, Categorical(K) for labels, Mixed for a table. It is never scored.
    learnt_prior
        Whether p(z | x) is learnt (the default) or N(0, I).
    guide_family
        Family of q(z | x, y), as in :class:`~vaeppl.models.VAE`.
    hidden, activation
        Hidden layers of the networks.

    Examples
    --------
    >>> import torch, vaeppl
    >>> data = {"x": torch.randn(50, 3), "y": (torch.rand(50, 6) < 0.4).float()}
    >>> fit = vaeppl.fit(CVAE(3, 6, latent_dim=2, hidden=(8,)), data, epochs=1, progress=False)
    >>> fit.sample(4, given={"x": torch.zeros(4, 3)})["y"].shape
    torch.Size([4, 6])
    """

    likelihood_columns = MappingProxyType({"likelihood": "y", "condition": "x"})

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        latent_dim: int = 10,
        *,
        likelihood: str | likelihoods.Likelihood = "bernoulli",
        condition: str | likelihoods.Likelihood = "normal",
        learnt_prior: bool = True,
        guide_family: str | guides.Family = "diagonal",
        hidden: Sequence[int] = (400,),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.likelihood = likelihoods.get(likelihood).bind(y_dim)
        self.condition = likelihoods.get(condition).as_condition(x_dim)
        given = self.condition.num_features
        both = given + self.likelihood.num_features
        self.encoder = feature_net(both, hidden, activation)
        self.q = guides.get(guide_family).bind(output_dim(self.encoder, both), latent_dim)
        self.standard_prior = StandardNormal().bind(latent_dim)
        if learnt_prior:
            self.prior_encoder = feature_net(given, hidden, activation)
            features = output_dim(self.prior_encoder, given)
            self.learnt_prior = guides.DiagonalNormal().bind(features, latent_dim)
        else:
            self.learnt_prior = None
        self.decoder = MLP(
            given + latent_dim,
            self.likelihood.num_params,
            hidden=tuple(hidden)[::-1],
            activation=activation,
        )

    def prior(self, c: Tensor) -> TorchDistribution:
        """p(z | x), from the features c of the condition."""
        if self.learnt_prior is None:
            return self.standard_prior()
        return self.learnt_prior(self.prior_encoder(c))

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """p(z | x) p(y | x, z) for each row."""
        c = self.condition.features(as_matrix(x))
        with rows(x, y):
            z = pyro.sample("z", self.prior(c))
            h = self.decoder(torch.cat([c.expand(*z.shape[:-1], -1), z], dim=-1))
            pyro.sample("y", self.likelihood(h), obs=None if y is None else as_matrix(y))

    def guide(self, x: Tensor, y: Tensor) -> None:
        """q(z | x, y) for each row."""
        c = self.condition.features(as_matrix(x))
        with rows(x, y):
            h = self.encoder(torch.cat([c, self.likelihood.features(as_matrix(y))], dim=-1))
            pyro.sample("z", self.q(h))


class Regression(Model):
    """The baseline without a latent: y_n | x_n ~ p(y | h = f(x_n)), a network from x to y.

    The "NN" of Sohn et al. 2015: given x, the entries of y are independent.

    Parameters
    ----------
    x_dim, y_dim, likelihood, condition, hidden, activation
        As in :class:`CVAE`.

    Examples
    --------
    >>> import torch, vaeppl
    >>> data = {"x": torch.randn(50, 3), "y": (torch.rand(50, 6) < 0.4).float()}
    >>> fit = vaeppl.fit(Regression(3, 6, hidden=(8,)), data, epochs=1, progress=False)
    >>> fit.reconstruct(data)["y"].shape
    torch.Size([50, 6])
    """

    likelihood_columns = MappingProxyType({"likelihood": "y", "condition": "x"})

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        *,
        likelihood: str | likelihoods.Likelihood = "bernoulli",
        condition: str | likelihoods.Likelihood = "normal",
        hidden: Sequence[int] = (400,),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.likelihood = likelihoods.get(likelihood).bind(y_dim)
        self.condition = likelihoods.get(condition).as_condition(x_dim)
        self.network = MLP(
            self.condition.num_features,
            self.likelihood.num_params,
            hidden=hidden,
            activation=activation,
        )

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """p(y | x) for each row."""
        with rows(x, y):
            h = self.network(self.condition.features(as_matrix(x)))
            pyro.sample("y", self.likelihood(h), obs=None if y is None else as_matrix(y))

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """Nothing: there is no latent."""


def as_matrix(x: Tensor) -> Tensor:
    """Return a column of single numbers or labels, (N,), as one of vectors, (N, 1)."""
    return x.unsqueeze(-1) if x.ndim == 1 else x
