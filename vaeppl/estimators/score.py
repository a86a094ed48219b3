"""The score-function surrogate of the ELBO, for latents that cannot be reparametrised."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer.trace_elbo import _compute_log_r
from pyro.infer.util import get_plate_stacks
from torch import Tensor

from .sites import PARTICLES, Site, counterpart, sample_sites

__all__ = ["surrogate_loss", "weigh"]


def _baseline(weight: Tensor, site: Site) -> Tensor | float:
    """Return the mean of the weight over the other particles; 0 where there is one only."""
    frame = next((f for f in site["cond_indep_stack"] if f.name == PARTICLES), None)
    if frame is None or weight.ndim < -frame.dim or (count := weight.shape[frame.dim]) < 2:
        return 0.0
    return (weight.sum(frame.dim, keepdim=True) - weight) / (count - 1)


def weigh(site: Site, weight: float | Tensor) -> None:
    """Multiply the log-probability of a latent site, and what its gradient is made of, by β."""
    site["log_prob"] = site["log_prob"] * weight
    site["log_prob_sum"] = site["log_prob_sum"] * weight
    if "score_parts" in site:
        parts = site["score_parts"]
        site["score_parts"] = parts._replace(
            log_prob=parts.log_prob * weight, entropy_term=parts.entropy_term * weight
        )


def surrogate_loss(model_trace: Any, guide_trace: Any) -> Tensor:
    """Return minus the ELBO, with the gradient of the score-function surrogate."""
    value: Any = 0.0
    surrogate: Any = 0.0
    log_r = _compute_log_r(model_trace, guide_trace)
    stacks = get_plate_stacks(guide_trace)
    for site in sample_sites(guide_trace):
        if counterpart(site, model_trace) is None:  # Pyro leaves these out of the weights
            log_r.add((stacks[site["name"]], -site["log_prob"].detach()))
    for site in sample_sites(model_trace):
        value = value + site["log_prob_sum"].detach()
        surrogate = surrogate + site["log_prob_sum"]
    for site in sample_sites(guide_trace):
        _, score, entropy = site["score_parts"]
        value = value - site["log_prob_sum"].detach()
        surrogate = surrogate - torch.as_tensor(entropy).sum()
        if isinstance(score, Tensor):
            weight = log_r.sum_to(site["cond_indep_stack"])
            weight = weight - _baseline(weight, site)
            surrogate = surrogate + (weight * score).sum()
    return -(value + surrogate - surrogate.detach())
