"""Log-weights of particles row by row: log p(x_n, z_k) - log q(z_k | x_n).

Importance weights belong to a *unit*: what the latents of a story are drawn for independently of
each other. It is a row wherever all latents stand in the plate of rows. The joint of a unit is the
product over its sites; units are added up *outside* of any function of the weights, and there the
scale of a minibatch stands too. So a weight never depends on the size of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ..errors import StoryError
from .sites import (
    PARTICLES,
    Site,
    alike,
    is_beside_the_story,
    is_enumerated,
    is_point,
    sample_sites,
    weighted_log_prob,
)

__all__ = ["Weights", "expected", "log_density", "particle_dim", "total", "unit_dims", "weigh"]

Traces = Sequence[tuple[Any, Any]]


class Weights(NamedTuple):
    """What K particles of each unit give.

    Shapes are ``(*values, K, *plates)``: a dimension of one for each plate inside a unit, and
    ``values`` the dimensions of the latents that are summed out.

    Attributes
    ----------
    log_p, log_q : Tensor
        Log joint of the story, and log-density of the draws under the guide.
    log_values : Tensor or None
        Log-probability under the guide of the values that are summed out, ``(*values, 1, ...)``.
    scale : float or Tensor
        Units for which each one stands.
    beside : Tensor
        Terms of the objective that belong to no story, 0-dim, scaled.
    """

    log_p: Tensor
    log_q: Tensor
    log_values: Tensor | None
    scale: float | Tensor
    beside: Tensor

    @property
    def log_w(self) -> Tensor:
        """Return log p - log q."""
        return self.log_p - self.log_q


def particle_dim(depth: int) -> int:
    """Return the dimension of the particles, for a story whose plates take ``depth``."""
    return -depth - 1


def weigh(traces: Traces, depth: int) -> Weights:
    """Return the log-weights of particles.

    Parameters
    ----------
    traces
        Of model and guide: one pair of all particles side by side, or a pair of each.
    depth
        Dimensions that the plates of the story take.

    Raises
    ------
    StoryError
        If the story has no units whose weights mean something (see :func:`unit_dims`), or the
        guide has no density.
    """
    if is_validation_enabled():
        _check_density(traces[0][1])
    parts = [_weigh_one(model_trace, guide_trace, depth) for model_trace, guide_trace in traces]
    if len(parts) == 1:
        return parts[0]
    dim = particle_dim(depth)
    return Weights(
        torch.cat([p.log_p for p in parts], dim),
        torch.cat([p.log_q for p in parts], dim),
        parts[0].log_values,
        parts[0].scale,
        torch.stack([p.beside for p in parts]).mean(),
    )


def _weigh_one(model_trace: Any, guide_trace: Any, depth: int) -> Weights:
    units = unit_dims(model_trace, guide_trace)
    log_p = log_density(model_trace, units, depth, _in_story)
    # Where all latents are summed out nothing is drawn, and log q = 0 stands on the CPU.
    log_q = log_density(guide_trace, units, depth, lambda s: not is_enumerated(s)).to(log_p)
    beside = [weighted_log_prob(s) for s in sample_sites(model_trace) if is_beside_the_story(s)]
    particles = max((f.size for f in _all_frames(guide_trace) if f.name == PARTICLES), default=1)
    extra = sum((b.sum() for b in beside), log_p.new_zeros(())) / particles
    log_values = None
    if any(is_enumerated(s) for s in sample_sites(guide_trace)):
        log_values = _log_values(guide_trace, units, depth)
    return Weights(log_p, log_q, log_values, _unit_scale(model_trace, guide_trace), extra)


def _check_density(guide_trace: Any) -> None:
    """Refuse a latent that the guide sets to a value: its weight would leave log q out."""
    for site in sample_sites(guide_trace):
        if is_point(site):
            raise StoryError(
                f"the guide gives latent {site['name']!r} a value and no density (a Delta), and "
                "importance weights need log q: give it a distribution, or use "
                "estimator='adversarial', which needs draws alone"
            )


def _in_story(site: Site) -> bool:
    return not is_beside_the_story(site)


def _all_frames(trace: Any) -> list[Any]:
    return [f for s in sample_sites(trace) for f in s["cond_indep_stack"]]


def _plates(site: Site) -> dict[int, str]:
    """Return the plates of a site by dimension, that of the particles left out."""
    return {
        f.dim: f.name
        for f in site["cond_indep_stack"]
        if f.vectorized and f.dim is not None and f.name != PARTICLES
    }


def unit_dims(model_trace: Any, guide_trace: Any) -> frozenset[int]:
    """Return the dimensions of the plates over which the units stand.

    They are the plates that all latents share: the joint of the story is a product over them.

    Raises
    ------
    StoryError
        If some latents stand in a plate and others outside it: weights would be joint over its
        rows, and hopeless. Or something is observed outside the plates of the latents, and so
        ties the units together.
    """
    latents = [s for s in sample_sites(guide_trace) if not s["is_observed"]]
    observed = [s for s in sample_sites(model_trace) if s["is_observed"] and _in_story(s)]
    stacks = [_plates(s) for s in latents or observed]
    if not stacks:
        return frozenset()
    common = frozenset.intersection(*[frozenset(stack) for stack in stacks])
    if not common and any(stacks):
        inside = next(s for s in latents or observed if _plates(s))
        outside = next((s for s in latents or observed if not _plates(s)), inside)
        raise StoryError(
            f"latent {inside['name']!r} stands in plate {next(iter(_plates(inside).values()))!r}, "
            f"but {outside['name']!r} does not: log p - log q would be joint over all rows, and "
            "this estimator takes it (importance weights, say) row by row. Give every latent the "
            "same plate, or use estimator='elbo', whose terms add up"
        )
    for site in observed:
        if not common <= _plates(site).keys():
            raise StoryError(
                f"site {site['name']!r} is observed outside the plate of the latents, so its rows "
                "have no importance weights of their own: write `with vaeppl.rows(x):` around it"
            )
    return common


def log_density(
    trace: Any, units: frozenset[int], depth: int, wanted: Callable[[Site], bool]
) -> Tensor:
    """Sum the log-densities of sites over all that is inside a unit: masked, not scaled.

    Returns
    -------
    Tensor
        Shape ``(*values, K, *plates)``, the plates inside a unit summed to one.
    """
    total: Any = 0.0
    for site in sample_sites(trace):
        if wanted(site):
            log_p = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
            total = total + _by_unit(scale_and_mask(log_p, 1.0, site["mask"]), units, depth)
    if not isinstance(total, Tensor):
        return torch.zeros((1,) * (depth + 1))
    return total


def _by_unit(term: Tensor, units: frozenset[int], depth: int) -> Tensor:
    """Sum over the plates inside a unit, keeping a dimension of one for each."""
    term = term.reshape((1,) * (depth + 1 - term.ndim) + term.shape)
    inside = [d for d in range(-depth, 0) if d not in units]
    return term.sum(inside, keepdim=True) if inside else term


def _log_values(guide_trace: Any, units: frozenset[int], depth: int) -> Tensor:
    """Return log q of the values that are summed out: the same for all particles."""
    drawn = False
    for site in sample_sites(guide_trace):
        if is_enumerated(site):
            name = site["name"]
            if drawn:
                raise StoryError(
                    f"latent {name!r} is summed out after others were drawn, so its probabilities "
                    "may differ from particle to particle; draw it first in the guide, or use "
                    "estimator='elbo'"
                )
            if site["mask"] is not None:
                raise StoryError(
                    f"latent {name!r} is summed out and masked; importance weights need it "
                    "unmasked: leave the rows out, or use estimator='elbo'"
                )
        elif not site["is_observed"]:
            drawn = True
    return log_density(guide_trace, units, depth, is_enumerated).narrow(particle_dim(depth), 0, 1)


def _unit_scale(model_trace: Any, guide_trace: Any) -> float | Tensor:
    """Return the scale that all sites share; refuse a weight on some of them."""
    first: Site | None = None
    for trace in (guide_trace, model_trace):
        for site in sample_sites(trace):
            if not _in_story(site):
                continue
            if first is None:
                first = site
            elif not alike(first["scale"], site["scale"]):
                raise StoryError(
                    f"sites {first['name']!r} and {site['name']!r} are scaled differently "
                    f"({first['scale']} and {site['scale']}), and a function of importance weights "
                    "has no place for it: scale the whole story alike (plates, poutine.scale), or "
                    "use estimator='elbo'"
                )
    return 1.0 if first is None else first["scale"]


def expected(bound: Tensor, weights: Weights) -> Tensor:
    """Weigh bounds of log p(x, y) by q of the values y that are summed out.

    The terms of Σ_y q(y) (bound_y - log q(y)), a bound of log p(x); :func:`total` adds them up.
    The bound itself where nothing is summed out.
    """
    log_q = weights.log_values
    if log_q is None:
        return bound
    # What has no probability adds nothing, whatever its own bound.
    return torch.where(log_q > -torch.inf, log_q.exp() * (bound - log_q), 0.0)


def total(bound: Tensor, weights: Weights) -> Tensor:
    """Add up the units, each as often as it stands for others; 0-dim."""
    return (weights.scale * bound).sum() + weights.beside
