"""Gradients through the path of the draws alone: STL, DReG, tail-adaptive, and PIWAE.

For reparametrised latents, z_k = T(ε_k, φ), the gradient of a bound L(w_1, …, w_K) with respect to
the guide's φ has two parts: through the draws z_k, and through φ in log q(z_k | x; φ) with z_k
held fixed. The second is a score, of mean zero in the ELBO, and only adds noise; for functions of
several weights it can be turned into a part of the first. All estimators here have the form ::

    θ (model)    Σ_k a_k  ∇_θ log p(x, z_k)
    φ (guide)    Σ_k c_k  (∂/∂z_k) [ log p(x, z_k) - log q(z_k | x) ]  ∂z_k/∂φ

and differ in a_k and c_k alone. With normalised weights v_k = w_k / Σ_j w_j:

======================  =======  ===============  =========================================
STL                     1/K      1/K              Roeder, Wu & Duvenaud 2017
DReG                    v_k      v_k²             Tucker et al. 2019, eq. 8
DReG wake-sleep         v_k      v_k - v_k²       Tucker et al. 2019, section 4
tail-adaptive           1/K      ranks of w_k     Wang, Liu & Liu 2018, algorithm 1
======================  =======  ===============  =========================================

c_k = v_k would be "STL for IWAE": biased, and in none of these.

log q is differentiated by z with φ held fixed by handing the guide's density draws that are cut
from their path; with several latents the guide is run once more for it, so that the density of a
latent keeps its dependence on those above it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import pyro.poutine as poutine
import torch
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from ..errors import StoryError
from ..structure import base_of
from . import bounds
from .importance import check_groups
from .particles import ParticleEstimator
from .sites import Site, is_beside_the_story, is_enumerated, sample_sites
from .weights import log_density, particle_dim, total, unit_dims, weigh

__all__ = ["DReG", "DReGWakeSleep", "PIWAE", "STL", "Pathwise", "TailAdaptive"]


class Factors(NamedTuple):
    """What a gradient is made of, of each unit and particle, without a gradient itself.

    Attributes
    ----------
    value : Tensor
        The bound, with a dimension of one for the particles.
    model : Tensor
        a_k.
    ratio : Tensor
        c_k / a_k, finite also where a_k is 0.
    """

    value: Tensor
    model: Tensor
    ratio: Tensor


class _Cut:
    """The draws of one trace: with their path, and cut from it."""

    def __init__(self, guide_trace: Any) -> None:
        self.sites: list[Site] = _latents(guide_trace)
        self.drawn = {s["name"]: s["value"] for s in self.sites}
        self.leaves = {n: z.detach().requires_grad_() for n, z in self.drawn.items()}
        self.ratio: Tensor | None = None  # by which gradients that come back are multiplied
        self.trace: Any = None  # of the guide at the leaves

    def handed(self) -> dict[str, Tensor]:
        """Return the draws for the model: their gradients are multiplied by the ratio."""
        values = {}
        for site in self.sites:
            value = site["value"].clone()
            if value.requires_grad:
                batch = value.ndim - site["fn"].event_dim
                value.register_hook(lambda g, b=batch: g * self._ratio_for(g, b))
            values[site["name"]] = value
        return values

    def _ratio_for(self, gradient: Tensor, batch: int) -> Tensor:
        assert self.ratio is not None
        shape = self.ratio.shape[self.ratio.ndim - batch :]  # what is cut off has size 1
        return self.ratio.reshape(*shape, *(1,) * (gradient.ndim - batch))


class _WithCuts(ParticleEstimator):
    """Base of the estimators that need the draws cut from their path."""

    takes_marked = False

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)
        self._cuts: list[_Cut] = []
        self._seen_twice = False

    def _trace_model(self, model: Any, guide: Any, guide_trace: Any, args: Any, kwargs: Any) -> Any:
        _check_paths(guide_trace, type(self).__name__)
        cut = _Cut(guide_trace)
        self._cuts.append(cut)
        at_leaves = with_values(guide_trace, cut.leaves)
        if len(cut.sites) > 1 and torch.is_grad_enabled():
            at_leaves = poutine.trace(poutine.replay(guide, trace=at_leaves)).get_trace(
                *args, **kwargs
            )
            self._check_again(guide_trace, at_leaves)
        cut.trace = prune_subsample_sites(at_leaves)  # their log-probability is on the CPU
        handed = with_values(guide_trace, self._handed(cut))
        return poutine.trace(poutine.replay(model, trace=handed)).get_trace(*args, **kwargs)

    def _handed(self, cut: _Cut) -> dict[str, Tensor]:
        """Return the draws that the model is given."""
        return cut.handed()

    def _check_again(self, guide_trace: Any, again: Any) -> None:
        """Refuse, at the first run, a guide that is not the same when it is run again."""
        if self._seen_twice:
            return
        self._seen_twice = True
        for site in _latents(guide_trace):
            with torch.no_grad():
                before = site["fn"].log_prob(site["value"])
                after = again.nodes[site["name"]]["fn"].log_prob(site["value"])
            if not torch.allclose(before, after, rtol=1e-3, atol=1e-3, equal_nan=True):
                raise StoryError(
                    f"the guide gives latent {site['name']!r} another density when it is run again "
                    f"on the same draws, so {type(self).__name__} would be biased: leave out "
                    "dropout, or use estimator='elbo' or 'iwae'"
                )

    def _grads_at_leaves(self, cut: _Cut, value: Tensor, **options: Any) -> Tensor:
        """Return Σ_z z · ∂value/∂z: its gradient is that of the value along the draws' paths."""
        if not value.requires_grad:
            return value.new_zeros(())
        names = list(cut.leaves)
        leaves = [cut.leaves[n] for n in names]
        slopes = torch.autograd.grad(value, leaves, allow_unused=True, **options)
        terms = [
            (slope * cut.drawn[name]).sum()
            for name, slope in zip(names, slopes, strict=True)
            if slope is not None
        ]
        return sum(terms[1:], terms[0]) if terms else value.new_zeros(())


class Pathwise(_WithCuts):
    """Base: an estimator that is given by its factors a_k and c_k (see the module)."""

    @abstractmethod
    def factors(self, log_w: Tensor, dim: int) -> Factors:
        """Return bound, a_k and c_k / a_k from log-weights without a gradient."""

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound; its gradient is the estimator's."""
        self._cuts = []
        traces = list(self._get_traces(model, guide, args, kwargs))
        cuts, self._cuts = self._cuts, []
        weights = weigh(traces, self.plate_depth)
        dim = particle_dim(self.plate_depth)
        log_w = weights.log_w.detach()
        factors = self.factors(log_w, dim)
        value = total(factors.value, weights)
        self.report = {
            "bound": (value - weights.beside).detach(),
            "elbo": (weights.scale * bounds.elbo(log_w, dim)).sum(),
        }
        if not torch.is_grad_enabled():
            return -value
        self._check_beside(traces)
        surrogate = (weights.scale * factors.model * weights.log_p).sum() + weights.beside
        at = 0
        for cut, (model_trace, guide_trace) in zip(cuts, traces, strict=True):
            units = unit_dims(model_trace, guide_trace)
            log_q = log_density(cut.trace, units, self.plate_depth, lambda s: True)
            size = log_w.shape[dim] // len(traces)
            cut.ratio = factors.ratio.narrow(dim, at, size)
            path = cut.ratio * factors.model.narrow(dim, at, size) * weights.scale
            surrogate = surrogate - self._grads_at_leaves(cut, (path * log_q).sum())
            at += size
        return -(value.detach() + surrogate - surrogate.detach())

    def _check_beside(self, traces: Any) -> None:
        """Refuse terms beside the story: their path would get the factors of the weights."""
        for site in sample_sites(traces[0][0]):
            if is_beside_the_story(site) and not isinstance(self, STL):
                raise StoryError(
                    f"site {site['name']!r} is a term of the objective alone, for which "
                    f"{type(self).__name__} has no gradient: use estimator='elbo', 'stl' or 'iwae'"
                )


def with_values(trace: Any, values: dict[str, Tensor]) -> Any:
    """Return a copy of a trace with other values at some sites."""
    copy = poutine.Trace()
    for name, node in trace.nodes.items():
        new = {"value": values[name]} if name in values else {}
        copy.add_node(name, **{**node, **new})
    return copy


def _latents(guide_trace: Any) -> list[Site]:
    return [
        s
        for s in sample_sites(guide_trace)
        if not s["is_observed"] and type(s["fn"]).__name__ != "_Subsample"
    ]


def _check_paths(guide_trace: Any, name: str) -> None:
    for site in _latents(guide_trace):
        if is_enumerated(site) or not site["fn"].has_rsample:
            kind = type(base_of(site["fn"])).__name__
            raise StoryError(
                f"latent {site['name']!r} ({kind}) cannot be reparametrised, and {name} knows "
                "gradients along the paths of draws only: use estimator='elbo', 'iwae', 'vimco' or "
                "'wake_sleep'"
            )


class STL(Pathwise):
    """The ELBO with the gradient of the draws' path alone: "sticking the landing".

    Unbiased (Roeder, Wu & Duvenaud 2017); at the exact posterior the variance of the guide's
    gradient is zero, which that of the usual gradient is not. That of the model's gradient is not
    zero there, so neither is that of parameters which guide and model share.

    Examples
    --------
    >>> STL(num_particles=4).num_particles
    4
    """

    def factors(self, log_w: Tensor, dim: int) -> Factors:
        """Return the ELBO, 1/K and 1."""
        share = torch.full_like(log_w, 1 / log_w.shape[dim])
        return Factors(bounds.elbo(log_w, dim), share, torch.ones_like(log_w))


class _Independent(Pathwise):
    """Base of what is derived for particles that are independent of each other."""

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)
        if self.draws != "independent":
            raise ValueError(
                f"{type(self).__name__} is derived for independent particles; given "
                f"draws={self.draws!r}"
            )


class DReG(_Independent):
    """IWAE with doubly reparametrised gradients (Tucker et al. 2019, eq. 8).

    Unbiased for the gradient of IWAE. The guide's signal-to-noise ratio grows as √K, where that
    of IWAE's usual gradient falls as 1/√K.

    Examples
    --------
    >>> DReG(num_particles=64).num_particles
    64
    """

    def factors(self, log_w: Tensor, dim: int) -> Factors:
        """Return the IWAE bound, v and v."""
        v = log_w.softmax(dim)
        return Factors(bounds.iwae(log_w, dim), v, v)


class DReGWakeSleep(_Independent):
    """Reweighted wake-sleep with doubly reparametrised gradients of the guide.

    The model ascends IWAE; the guide descends KL(p(z | x) || q), its gradient estimated by
    Σ_k (v_k - v_k²) along the path (Tucker et al. 2019, section 4): the mean of that of
    :class:`~vaeppl.estimators.WakeSleep`, with less variance.
    """

    fewest = 2

    def __init__(self, num_particles: int = 2, **options: Any) -> None:
        super().__init__(num_particles, **options)

    def factors(self, log_w: Tensor, dim: int) -> Factors:
        """Return the IWAE bound, v and 1 - v."""
        v = log_w.softmax(dim)
        return Factors(bounds.iwae(log_w, dim), v, 1 - v)


class TailAdaptive(Pathwise):
    """The guide descends an f-divergence that adapts to the tail of the weights.

    The model ascends the ELBO. In the guide's path, particle k of a row weighs as its rank among
    the row's weights, γ_k ∝ (r_k / K)^β with r_k = 1 for the largest (Wang, Liu & Liu 2018,
    algorithm 1): finite whatever the tail. What is reported is the ELBO.

    Parameters
    ----------
    num_particles
        K >= 2.
    exponent
        β in [-1, 0]; 0 is STL.
    """

    fewest = 2

    def __init__(self, num_particles: int = 2, *, exponent: float = -1.0, **options: Any) -> None:
        super().__init__(num_particles, **options)
        if not -1 <= exponent <= 0:
            raise ValueError(f"exponent is from -1 to 0; given {exponent}")
        self.exponent = exponent

    def factors(self, log_w: Tensor, dim: int) -> Factors:
        """Return the ELBO, 1/K and K γ_k."""
        particles = log_w.shape[dim]
        rank = log_w.argsort(dim, descending=True).argsort(dim) + 1
        gamma = (rank / particles).to(log_w) ** self.exponent
        gamma = gamma / gamma.sum(dim, keepdim=True)
        share = torch.full_like(log_w, 1 / particles)
        return Factors(bounds.elbo(log_w, dim), share, particles * gamma)


class PIWAE(_WithCuts):
    """The model ascends IWAE, the guide MIWAE, from the same particles.

    Rainforth et al. 2018, section 4: a tighter bound for the model, a better signal for the
    guide. What is reported is IWAE.

    Parameters
    ----------
    num_particles
        K, draws for each row in all.
    groups
        m, of the guide's MIWAE bound; it divides K.
    """

    def __init__(self, num_particles: int = 2, *, groups: int = 2, **options: Any) -> None:
        super().__init__(num_particles, **options)
        check_groups(num_particles, groups)
        self.groups = groups

    def _handed(self, cut: _Cut) -> dict[str, Tensor]:
        return cut.leaves

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the IWAE bound; its gradient is that of the two objectives."""
        self._cuts = []
        traces = list(self._get_traces(model, guide, args, kwargs))
        cuts, self._cuts = self._cuts, []
        weights = weigh(traces, self.plate_depth)
        dim = particle_dim(self.plate_depth)
        log_w = weights.log_w.detach()
        value = total(bounds.iwae(log_w, dim), weights).detach()
        self.report = {
            "bound": value - weights.beside.detach(),
            "elbo": (weights.scale * bounds.elbo(log_w, dim)).sum(),
        }
        if not torch.is_grad_enabled():
            return -value
        of_model = weights.scale * log_w.softmax(dim)
        grouped = log_w.unflatten(dim, (self.groups, -1)).softmax(dim)
        of_guide = weights.scale * grouped.flatten(dim - 1, dim) / self.groups
        surrogate = (of_model * weights.log_p).sum() - (of_guide * weights.log_q).sum()
        surrogate = surrogate + weights.beside
        along = (of_guide * weights.log_p).sum() + weights.beside
        for cut in cuts:
            surrogate = surrogate + self._grads_at_leaves(cut, along, retain_graph=True)
        return -(value + surrogate - surrogate.detach())
