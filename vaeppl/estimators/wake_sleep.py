"""Reweighted wake-sleep: the guide descends KL(p || q), not KL(q || p).

With K draws of a row from the guide, w_k = p(x, z_k) / q(z_k | x) and v_k = w_k / Σ_j w_j
(Bornschein & Bengio 2015; Le et al. 2019)::

    wake, model   Σ_k v_k ∇_θ log p(x, z_k)                 ascends IWAE
    wake, guide   Σ_k v_k ∇_φ log q(z_k | x)                descends KL(p(z | x) || q(z | x))
    sleep, guide  ∇_φ log q(z | x),  (z, x) ~ p             the same, averaged over the story's x

No latent need be reparametrised and there is no score-function term. The weights are normalised
row by row; Pyro's ``ReweightedWakeSleep`` normalises them over the batch, and takes no minibatches.
"""

from __future__ import annotations

import inspect
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from ..errors import StoryError
from . import bounds
from .particles import ParticleEstimator
from .sites import sample_sites, weighted_log_prob
from .weights import particle_dim, total, weigh

__all__ = ["WakeSleep"]


class WakeSleep(ParticleEstimator):
    """Reweighted wake-sleep, as one loss: its gradient is right for model and guide alike.

    What is reported is the IWAE bound. Biased for finite K, as the weights are normalised by
    their sum; consistent.

    Parameters
    ----------
    num_particles
        K >= 2 draws from the guide for each row.
    sleep
        Share of the guide's gradient that comes from the sleep phase, from 0 to 1.
    num_dreams
        Draws of the story for each row of the batch, where ``sleep`` is above 0. A column is
        replaced by what the site of its name draws.

    Examples
    --------
    >>> WakeSleep(10, sleep=0.5).sleep
    0.5
    """

    fewest = 2
    detached = True

    def __init__(
        self,
        num_particles: int = 2,
        *,
        sleep: float = 0.0,
        num_dreams: int = 1,
        **options: Any,
    ) -> None:
        if options.pop("enumerate", False):
            raise ValueError("WakeSleep draws every latent: it cannot enumerate")
        super().__init__(num_particles, enumerate=False, **options)
        if not 0 <= sleep <= 1:
            raise ValueError(f"sleep is a share from 0 to 1; given {sleep}")
        if num_dreams < 1:
            raise ValueError(f"num_dreams is at least 1; given {num_dreams}")
        self.sleep, self.num_dreams = sleep, num_dreams

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the IWAE bound; its gradient is that of wake and sleep."""
        traces = list(self._get_traces(model, guide, args, kwargs))
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
        v = weights.scale * log_w.softmax(dim)
        surrogate = (v * weights.log_p).sum() + weights.beside
        if self.sleep < 1:
            surrogate = surrogate + (1 - self.sleep) * (v * weights.log_q).sum()
        if self.sleep > 0:
            dreams = [_dream(model, guide, args, kwargs) for _ in range(self.num_dreams)]
            surrogate = surrogate + self.sleep * torch.stack(dreams).mean()
        return -(value + surrogate - surrogate.detach())


def _dream(model: Any, guide: Any, args: Any, kwargs: Any) -> Tensor:
    """Draw latents and columns from the story, and return log q of these latents, scaled."""
    with torch.no_grad():
        story = poutine.trace(poutine.uncondition(model)).get_trace(*args, **kwargs)
    dreamt = {
        s["name"]: s["value"]
        for s in sample_sites(story)
        if s["infer"].get("was_observed") and not s["infer"].get("objective_only")
    }
    args, kwargs = _replaced(model, dreamt, args, kwargs)
    replayed = poutine.replay(guide, trace=_as_latents(story))
    trace = poutine.trace(replayed).get_trace(*args, **kwargs)
    terms = [
        weighted_log_prob(s).sum()
        for s in sample_sites(trace)
        if not s["is_observed"] and type(s["fn"]).__name__ != "_Subsample"
    ]
    return torch.stack(terms).sum()


def _as_latents(story: Any) -> Any:
    """Return the latents of a trace of the story, with the rows that its plates chose."""
    latents = poutine.Trace()
    for name, node in story.nodes.items():
        if node["type"] == "sample" and not node["infer"].get("was_observed"):
            latents.add_node(name, **{**node, "is_observed": False})
    return latents


def _replaced(
    model: Any, values: dict[str, Tensor], args: Any, kwargs: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Put dreamt columns in the place of those given."""
    names = list(inspect.signature(model).parameters)[: len(args)] if args else []
    unknown = [n for n in values if n not in kwargs and n not in names]
    if unknown:
        raise StoryError(
            f"site {unknown[0]!r} is observed, but the guide has no argument of that name through "
            "which it could be told what was dreamt: name the argument as the site, or sleep=0"
        )
    new = tuple(values.get(n, a) for n, a in zip(names, args, strict=False))
    return new, {k: values.get(k, v) for k, v in kwargs.items()}
