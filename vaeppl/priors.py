"""Priors p(z) over a row's latent vector: small objects, given to a model by argument.

A prior is a module that is called without arguments and returns a distribution of event shape
``(latent_dim,)``. One of your own needs ``forward`` only; ``bind(latent_dim)`` sizes it.
"""

from __future__ import annotations

import copy
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from .config import Configurable
from .errors import by_name

__all__ = ["Laplace", "MixtureOfNormals", "Prior", "StandardNormal", "StudentT", "available", "get"]


class Prior(Configurable, nn.Module):
    """Base of the priors.

    Examples
    --------
    >>> import torch, pyro.distributions as dist
    >>> class Cauchy(Prior):
    ...     def forward(self):
    ...         return dist.Cauchy(self.zeros, 1.0).to_event(1)
    >>> Cauchy().bind(3)().event_shape
    torch.Size([3])
    """

    latent_dim: int = 0
    zeros: Tensor

    def bind(self, latent_dim: int) -> Prior:
        """Return a copy sized for ``latent_dim``, with parameters of its own."""
        if latent_dim < 1:
            raise ValueError(f"a latent vector has at least one dimension; given {latent_dim}")
        bound = copy.deepcopy(self)
        bound.latent_dim = latent_dim
        # A buffer, so that the prior follows the model to its device.
        bound.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)
        bound.make_parameters(latent_dim)
        return bound

    def make_parameters(self, latent_dim: int) -> None:
        """Create what is learnt about the prior, if anything."""

    def forward(self) -> TorchDistribution:
        """Return p(z); a subclass writes it."""
        raise TypeError(f"{type(self).__name__} has no method `forward()`: write p(z)")


class StandardNormal(Prior):
    """z ~ N(0, I)."""

    def forward(self) -> TorchDistribution:
        """Return N(0, I)."""
        return dist.Normal(self.zeros, torch.ones_like(self.zeros)).to_event(1)


class Laplace(Prior):
    """z_l ~ Laplace(0, 1/√2), which has variance one; the prior of independent components."""

    def forward(self) -> TorchDistribution:
        """Return the product of Laplace densities."""
        return dist.Laplace(self.zeros, torch.ones_like(self.zeros) / 2**0.5).to_event(1)


class StudentT(Prior):
    """z_l ~ t_ν(0, 1).

    Parameters
    ----------
    df
        ν, degrees of freedom, above 0.
    """

    def __init__(self, df: float = 5.0) -> None:
        super().__init__()
        if df <= 0:
            raise ValueError(f"degrees of freedom are > 0; given {df}")
        self.df = df

    def forward(self) -> TorchDistribution:
        """Return the product of Student-t densities."""
        df = torch.full_like(self.zeros, self.df)
        return dist.StudentT(df, self.zeros, torch.ones_like(self.zeros)).to_event(1)


class MixtureOfNormals(Prior):
    """z ~ Σ_k π_k N(m_k, diag s_k²), with weights, means and scales learnt.

    Parameters
    ----------
    components
        K, the number of components.
    spread
        Standard deviation with which the K means are drawn at the start.
    """

    def __init__(self, components: int = 10, spread: float = 1.0) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"a mixture has at least one component; given {components}")
        self.components, self.spread = components, spread

    def make_parameters(self, latent_dim: int) -> None:
        """Create π, m and s."""
        self.logits = nn.Parameter(torch.zeros(self.components))
        self.loc = nn.Parameter(self.spread * torch.randn(self.components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(self.components, latent_dim))

    def forward(self) -> TorchDistribution:
        """Return the mixture, its component summed out."""
        components = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)


_NAMED: dict[str, type[Prior]] = {
    "normal": StandardNormal,
    "laplace": Laplace,
    "student_t": StudentT,
    "mixture": MixtureOfNormals,
}


def available() -> list[str]:
    """List the names that :func:`get` knows."""
    return sorted(_NAMED)


def get(name: str | Prior, *args: Any, **kwargs: Any) -> Prior:
    """Return a prior by its name, as the command line does; one is returned as it is.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists them.

    Examples
    --------
    >>> get("mixture", 5).components
    5
    """
    return by_name("prior", _NAMED, Prior, name, *args, **kwargs)
