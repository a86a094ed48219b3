"""The KL of a latent site, exact where it is known and valid."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Bernoulli, Independent, kl_divergence

from .sites import Site, sample_sites

__all__ = ["exact_kl_sites", "kl_terms", "total_kl"]


def total_kl(kl: Tensor, site: Site) -> Tensor:
    """Return the KL of a site, scaled and masked, summed over its batch."""
    return scale_and_mask(kl, site["scale"], site["mask"]).sum()


def exact_kl_sites(model_trace: Any, guide_trace: Any) -> set[str]:
    """Name the latents all of whose predecessors in the model precede them in the guide too."""
    guide_order = [s["name"] for s in sample_sites(guide_trace)]
    earlier_in_model: set[str] = set()
    valid = set()
    for site in sample_sites(model_trace):
        name = site["name"]
        if name in guide_trace.nodes:
            if earlier_in_model <= set(guide_order[: guide_order.index(name)]):
                valid.add(name)
            earlier_in_model.add(name)
    return valid


def kl_terms(p_site: Site | None, q_site: Site, exact: bool) -> tuple[Tensor, Tensor | None]:
    """Return the KL of a site for each element of its batch and, if it factorises, by dimension."""
    q, value = q_site["fn"], q_site["value"]
    if p_site is None:  # an auxiliary variable of the guide
        return q.log_prob(value), None
    p = p_site["fn"]
    same_form = isinstance(q, Independent) and isinstance(p, Independent)
    if same_form and q.reinterpreted_batch_ndims == p.reinterpreted_batch_ndims == 1:
        by_dim = _kl(p.base_dist, q.base_dist, value, exact)
        return by_dim.sum(-1), by_dim
    return _kl(p, q, value, exact), None


def _kl(p: Any, q: Any, value: Tensor, exact: bool) -> Tensor:
    """KL(q || p), exactly if that is wanted and known, else log q - log p at the draw."""
    # Of a point mass the draw is exact, and Pyro's closed form forgets its log_density.
    if exact and not isinstance(getattr(q, "base_dist", q), Delta):
        if isinstance(q, Bernoulli) and isinstance(p, Bernoulli):
            # PyTorch's formula for these two alone does not broadcast.
            shape = torch.broadcast_shapes(p.batch_shape, q.batch_shape)
            p, q = p.expand(shape), q.expand(shape)
        try:
            kl: Tensor = kl_divergence(q, p)
            return kl.expand(torch.broadcast_shapes(kl.shape, q.batch_shape))
        except NotImplementedError:
            pass
    difference: Tensor = q.log_prob(value) - p.log_prob(value)
    return difference
