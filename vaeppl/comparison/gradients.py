"""Moments of gradients over repeats, by groups of parameters, without keeping the gradients."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor, nn

from ..estimators.evolution import leaves
from ..estimators.sites import log_prob_sum, sample_sites
from ..pair import Batch, Pair

__all__ = ["Moments", "Signal", "gradient", "groups", "saved_bytes", "signal"]

Groups = Mapping[str, Sequence[int]]  # names of groups to positions among the parameters


@dataclass
class Moments:
    """Running mean and sum of squared deviations of a list of gradients (Welford 1962).

    Examples
    --------
    >>> moments = Moments()
    >>> for value in (1.0, 3.0):
    ...     moments.add([torch.tensor([value])])
    >>> moments.mean[0].item(), moments.variance([0]).item()
    (2.0, 2.0)
    """

    count: int = 0
    mean: list[Tensor] = field(default_factory=list)
    spread: list[Tensor] = field(default_factory=list)

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Take another repeat into account."""
        self.count += 1
        if self.count == 1:
            self.mean = [g.double().clone() for g in gradients]
            self.spread = [torch.zeros_like(m) for m in self.mean]
            return
        for mean, spread, value in zip(self.mean, self.spread, gradients, strict=True):
            new = value.double()
            before = new - mean
            mean += before / self.count
            spread += before * (new - mean)

    def variance(self, places: Sequence[int]) -> Tensor:
        """Return the variance of one repeat, summed over the parameters of a group."""
        total = sum((self.spread[i].sum() for i in places), torch.zeros((), dtype=torch.float64))
        return total / max(1, self.count - 1)

    def of(self, places: Sequence[int]) -> Tensor:
        """Return the mean gradient of a group, flat."""
        return torch.cat([self.mean[i].flatten() for i in places])


@dataclass(frozen=True)
class Signal:
    """What the gradient of a group of parameters is like.

    Attributes
    ----------
    variance : float
        Of one gradient, summed over the parameters.
    snr : float
        Signal-to-noise ratio of one gradient: ‖mean‖ / √variance, less what noise adds to ‖mean‖.
    bias, bias_se : float
        ‖mean - reference‖ / ‖reference‖, likewise, and the size it would have from noise alone.
    cosine : float
        Of the angle between mean and reference.
    """

    variance: float
    snr: float
    bias: float
    bias_se: float
    cosine: float


def signal(moments: Moments, reference: Moments | None, places: Sequence[int]) -> Signal:
    """Compare the gradients of a group with a reference; biases are NaN where there is none."""
    mean, variance = moments.of(places), moments.variance(places)
    noise = variance / moments.count
    squared = (mean.square().sum() - noise).clamp(min=0)
    snr = float((squared / variance).sqrt()) if variance > 0 else float("inf")
    if reference is None:
        nan = float("nan")
        return Signal(float(variance), snr, nan, nan, nan)
    aim = reference.of(places)
    both = noise + reference.variance(places) / reference.count
    away = ((mean - aim).square().sum() - both).clamp(min=0)
    size = aim.norm().clamp(min=torch.finfo(torch.float64).tiny)
    lengths = (mean.norm() * size).clamp(min=torch.finfo(torch.float64).tiny)
    return Signal(
        variance=float(variance),
        snr=snr,
        bias=float(away.sqrt() / size),
        bias_se=float(both.sqrt() / size),
        cosine=float(mean @ aim / lengths),
    )


def gradient(loss: Tensor, parameters: Sequence[nn.Parameter], rows: int) -> list[Tensor]:
    """Return the gradient of minus a loss, per row."""
    if not parameters:
        return []
    found = torch.autograd.grad(loss, list(parameters), allow_unused=True)
    pairs = zip(parameters, found, strict=True)
    return [torch.zeros_like(p) if g is None else -g / rows for p, g in pairs]


def groups(pair: Pair, batch: Batch, parameters: Sequence[nn.Parameter]) -> dict[str, list[int]]:
    """Return which parameters are the model's and which the guide's; one may be both.

    Must be called with the pair active. A parameter is the model's if log p(x, z) depends on it
    with z held fixed, and the guide's if log q(z | x) does.
    """
    with torch.enable_grad():
        trace = poutine.trace(pair.guide).get_trace(**batch)
        for site in sample_sites(trace):
            if not site["is_observed"] and isinstance(site["value"], Tensor):
                site["value"] = site["value"].detach()
        model = poutine.trace(poutine.replay(pair.model, trace=trace)).get_trace(**batch)
        found = {"model": _depends_on(model), "guide": _depends_on(trace)}
    return {
        name: places
        for name, known in found.items()
        if (places := [i for i, p in enumerate(parameters) if id(p) in known])
    }


def _depends_on(trace: Any) -> set[int]:
    """Return the identities of the parameters on which the log-densities of a trace depend."""
    sites = [s for s in sample_sites(trace) if type(s["fn"]).__name__ != "_Subsample"]
    terms = [torch.as_tensor(log_prob_sum(s)) for s in sites]
    # A draw that was cut still tells of the parameters that made it, where it is a point mass.
    return {id(p) for term in terms for p in leaves(term)}


class _Saved:
    """A tensor for the backward pass; it lives as long as the graph that keeps it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def saved_bytes(run: Callable[[], Any], parameters: Sequence[nn.Parameter]) -> int:
    """Return how many bytes the graph of a function's value keeps, parameters left out."""
    known = {p.untyped_storage().data_ptr() for p in parameters}
    alive: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def note(tensor: Tensor) -> _Saved:
        saved = _Saved(tensor)
        alive.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved.tensor):
        value = run()
    storages = {s.tensor.untyped_storage().data_ptr(): s.tensor.untyped_storage() for s in alive}
    del value  # until here it kept the graph
    return sum(size.nbytes() for place, size in storages.items() if place not in known)
