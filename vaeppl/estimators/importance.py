"""Importance-weighted bounds: IWAE, Rényi, VR-max, MIWAE, CIWAE, and VIMCO for their gradient.

With K draws z_k ~ q(z | x) of a row and w_k = p(x, z_k) / q(z_k | x), the objective is a function
of the weights alone (:mod:`vaeppl.estimators.bounds`); for IWAE ::

    L_K = E[ log 1/K Σ_k w_k ] <= log p(x),    log p(x) - L_K ≈ Var(w) / (2 K p(x)²)

It is taken row by row, and the scale of a minibatch stands outside the logarithm; Pyro's
``RenyiELBO`` has both inside it.

Gradients are pathwise where a latent can be reparametrised. Where it cannot, they are those of
VIMCO (Mnih & Rezende 2016): the score of each draw, times what the bound owes to that draw ::

    Σ_k ( L_K - L_K without w_k ) ∇ log q(z_k | x)

A latent that the guide marks to be summed out, y, is bounded exactly, Σ_y q(y) (L_K(x, y) - log
q(y)): the bound is that of an ELBO in y, and of K particles in the rest.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from . import bounds
from .particles import ParticleEstimator
from .sites import is_enumerated, sample_sites
from .weights import expected, log_density, particle_dim, total, unit_dims, weigh

__all__ = ["CIWAE", "IWAE", "MIWAE", "VIMCO", "ImportanceWeighted", "Renyi", "VRMax"]


class ImportanceWeighted(ParticleEstimator):
    """Base: the objective is a function of the log-weights of each row.

    Attributes
    ----------
    report : dict of str to 0-dim Tensor
        ``"bound"``, the objective; ``"elbo"``, the mean log-weight; both of the full data.
    """

    @abstractmethod
    def bound(self, log_w: Tensor, dim: int) -> Tensor:
        """Return the bound of each unit, with a dimension of one for the particles."""

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the objective; its gradient is an estimate of the objective's."""
        traces = list(self._get_traces(model, guide, args, kwargs))
        weights = weigh(traces, self.plate_depth)
        dim = particle_dim(self.plate_depth)
        log_w = weights.log_w
        value = self.bound(log_w, dim)
        if torch.is_grad_enabled() and (score := self._score(traces, dim)) is not None:
            if self.draws != "independent":
                raise ValueError(
                    "the score function of several particles needs independent draws; "
                    f"given draws={self.draws!r}"
                )
            learnt = (value - bounds.leave_one_out(log_w, dim, self.bound)).detach()
            term = (learnt * score).sum(dim, keepdim=True)
            value = value + (term - term.detach())
        with torch.no_grad():
            mean = bounds.elbo(log_w, dim)
            self.report = {
                "bound": total(expected(value, weights), weights) - weights.beside,
                "elbo": total(expected(mean, weights), weights) - weights.beside,
            }
        return -total(expected(value, weights), weights)

    def _score(self, traces: Any, dim: int) -> Tensor | None:
        """Return log q of the draws that have no path, of each particle; ``None`` if all have."""

        def has_no_path(site: Any) -> bool:
            if site["is_observed"] or is_enumerated(site):
                return False
            return self.detached or not site["fn"].has_rsample

        if not any(has_no_path(s) for s in sample_sites(traces[0][1])):
            return None
        depth = -dim - 1
        parts = [log_density(q, unit_dims(p, q), depth, has_no_path) for p, q in traces]
        return torch.cat(parts, dim)


class IWAE(ImportanceWeighted):
    """The importance-weighted bound log 1/K Σ_k w_k (Burda et al. 2016).

    Parameters
    ----------
    num_particles, **options
        As in :class:`~vaeppl.estimators.ParticleEstimator`.

    Examples
    --------
    >>> import pyro, torch, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("rows", 3):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("rows", 3):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
    >>> iwae = IWAE(num_particles=5)
    >>> loss = iwae.loss(model, guide, torch.zeros(3))
    >>> round(float(iwae.report["bound"]), 3)  # the guide is the posterior: log p(x) itself
    -3.797
    """

    def bound(self, log_w: Tensor, dim: int) -> Tensor:
        """Return log 1/K Σ_k w_k."""
        return bounds.iwae(log_w, dim)


class Renyi(ImportanceWeighted):
    """The variational Rényi bound of order α (Li & Turner 2016).

    ::

        1 / (1-α)  log 1/K Σ_k w_k^(1-α)

    It falls with α: IWAE at 0, the ELBO at 1; below 0 it may lie above log p(x).

    Parameters
    ----------
    num_particles
        Draws for each row.
    alpha
        α, any real number.

    Examples
    --------
    >>> Renyi(10, alpha=0.5).alpha
    0.5
    """

    def __init__(self, num_particles: int = 1, *, alpha: float = 0.5, **options: Any) -> None:
        super().__init__(num_particles, **options)
        self.alpha = float(alpha)
        if not -float("inf") < self.alpha < float("inf"):
            raise ValueError(
                f"alpha is a finite number; given {alpha} (VRMax is its limit at -infinity)"
            )

    def bound(self, log_w: Tensor, dim: int) -> Tensor:
        """Return the Rényi bound."""
        return bounds.renyi(log_w, dim, self.alpha)


class VRMax(ImportanceWeighted):
    """The largest log-weight of each row: only its particle is learnt from (Li & Turner 2016)."""

    def bound(self, log_w: Tensor, dim: int) -> Tensor:
        """Return max_k log w_k."""
        return bounds.vr_max(log_w, dim)


class MIWAE(ImportanceWeighted):
    """The mean of m IWAE bounds of K/m particles each (Rainforth et al. 2018, eq. 6).

    Parameters
    ----------
    num_particles
        K, draws for each row in all.
    groups
        m; it divides K. 1 is IWAE, K is the ELBO.

    Examples
    --------
    >>> MIWAE(12, groups=4).groups
    4
    """

    def __init__(self, num_particles: int = 2, *, groups: int = 2, **options: Any) -> None:
        super().__init__(num_particles, **options)
        check_groups(num_particles, groups)
        self.groups = groups

    def bound(self, log_w: Tensor, dim: int) -> Tensor:
        """Return the mean over groups."""
        return bounds.miwae(log_w, dim, self.groups)


def check_groups(num_particles: int, groups: int) -> None:
    """Refuse groups that do not divide the particles."""
    if groups < 1 or num_particles % groups:
        raise ValueError(
            f"groups divide the particles evenly; given {groups} groups of {num_particles}"
        )


class CIWAE(ImportanceWeighted):
    """β ELBO + (1-β) IWAE, of the same particles (Rainforth et al. 2018, eq. 7).

    Parameters
    ----------
    num_particles
        Draws for each row.
    beta
        β in [0, 1].

    Examples
    --------
    >>> CIWAE(8, beta=0.25).beta
    0.25
    """

    def __init__(self, num_particles: int = 1, *, beta: float = 0.5, **options: Any) -> None:
        super().__init__(num_particles, **options)
        if not 0 <= beta <= 1:
            raise ValueError(f"beta is a share from 0 to 1; given {beta}")
        self.beta = beta

    def bound(self, log_w: Tensor, dim: int) -> Tensor:
        """Return the mixture."""
        mean = bounds.elbo(log_w, dim)
        return self.beta * mean + (1 - self.beta) * bounds.iwae(log_w, dim)


class VIMCO(IWAE):
    """IWAE with the score function for every latent (Mnih & Rezende 2016).

    No latent need be reparametrised: the gradient of the guide is that of the module's docstring.
    With fewer than two particles there is no baseline, hence at least two.
    """

    fewest = 2
    detached = True

    def __init__(self, num_particles: int = 2, **options: Any) -> None:
        super().__init__(num_particles, **options)
