"""The sites of a trace: which there are, how they are weighed, what belongs to the story."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ..errors import StoryError

__all__ = [
    "PARTICLES",
    "WITHOUT_DENSITY",
    "Site",
    "alike",
    "check_drawn",
    "counterpart",
    "is_beside_the_story",
    "is_enumerated",
    "is_local",
    "is_point",
    "log_prob_sum",
    "model_order",
    "points",
    "same_weights",
    "sample_sites",
    "symbols",
    "weighted_log_prob",
    "without_log",
]

Site = Any  # a node of a Pyro trace: a dictionary
WITHOUT_DENSITY = ("adversarial", "mmd")  # estimators that need the draws of the guide alone
PARTICLES = "num_particles_vectorized"  # the name Pyro gives to the plate of particles


@contextmanager
def without_log(name: str) -> Iterator[None]:
    """Leave out what a logger would say below a warning."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def sample_sites(trace: Any) -> Iterator[Site]:
    """Yield the sample sites of a trace in the order in which they were drawn."""
    return (s for s in trace.nodes.values() if s["type"] == "sample")


def is_enumerated(site: Site) -> bool:
    """Tell whether a site's value holds all its values, side by side."""
    return site["infer"].get("_enumerate_dim") is not None


def is_beside_the_story(site: Site) -> bool:
    """Tell whether an observed site is a term of the objective alone, and not of p(x, z)."""
    return bool(site["is_observed"] and site["infer"].get("objective_only"))


def weighted_log_prob(site: Site) -> Tensor:
    """Return log p of a site, scaled and masked, for each element of its batch."""
    log_p = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_p, site["scale"], site["mask"])


def log_prob_sum(site: Site) -> Tensor:
    """Return log p of a site, scaled and masked, summed over the batch."""
    return weighted_log_prob(site).sum()


def model_order(names: Iterable[str], model_trace: Any) -> list[str]:
    """Return names of sites in the order of the model; those that the guide alone has come last."""
    place = {name: number for number, name in enumerate(model_trace.nodes)}
    return sorted(names, key=lambda name: place.get(name, len(place)))


def symbols(site: Site, model_trace: Any, guide_trace: Any) -> dict[int, str]:
    """Return the symbols of the dimensions that a term of a site may have, those of p and of q."""
    return {
        dim: symbol
        for trace in (model_trace, guide_trace)
        if site["name"] in trace.nodes
        for dim, symbol in trace.nodes[site["name"]]["infer"]["_dim_to_symbol"].items()
    }


def counterpart(q_site: Site, model_trace: Any) -> Site | None:
    """Return the model's site of a latent; ``None`` for what the guide alone has."""
    return None if q_site["is_observed"] else model_trace.nodes.get(q_site["name"])


def check_drawn(model_trace: Any, guide_trace: Any) -> None:
    """Refuse a latent of the model that the guide does not draw: its ELBO would have no meaning."""
    for site in sample_sites(model_trace):
        if not site["is_observed"] and site["name"] not in guide_trace.nodes:
            raise StoryError(
                f"site {site['name']!r} is latent in the model, but the guide does not draw it; "
                "draw it there, or sum it out with pyro.infer.config_enumerate and "
                "estimator='trace_enum_elbo'"
            )


def same_weights(p_site: Site, q_site: Site) -> bool:
    """Tell whether model and guide scale and mask a latent alike."""
    return all(alike(p_site[what], q_site[what]) for what in ("scale", "mask"))


def alike(p: Any, q: Any) -> bool:
    """Tell whether two scales, or two masks, are the same."""
    if isinstance(p, Tensor) and isinstance(q, Tensor):
        # Values are compared only where time does not matter: on a GPU a comparison waits.
        same = p.shape == q.shape
        return p is q or (same and (not is_validation_enabled() or torch.equal(p, q)))
    return not isinstance(p, Tensor) and not isinstance(q, Tensor) and p == q


def is_local(site: Site) -> bool:
    """Tell whether a site stands in a plate other than that of the particles."""
    return any(frame.name != PARTICLES for frame in site["cond_indep_stack"])


def is_point(site: Site) -> bool:
    """Tell whether a guide sets a latent that counts to a value, without a density."""
    q = getattr(site["fn"], "base_dist", site["fn"])
    if site["is_observed"] or not isinstance(q, Delta) or bool(q.log_density.any()):
        return False
    return site["mask"] is None or bool(torch.as_tensor(site["mask"]).any())


def points(guide_trace: Any) -> list[str]:
    """Name the latents that a guide sets to a value, where none is set by an auxiliary draw.

    Pyro's own guides draw all latents as one auxiliary site, which has the density of all of them.
    """
    drawn = [s for s in sample_sites(guide_trace) if not s["is_observed"]]
    if any(s["infer"].get("is_auxiliary") for s in drawn):
        return []
    return [s["name"] for s in drawn if is_point(s)]
