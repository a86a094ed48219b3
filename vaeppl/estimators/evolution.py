"""Evolution strategies: the gradient from values of the loss alone.

The loss L is smoothed over the parameters θ, and the gradient of the smoothed loss needs no
derivative (variational optimisation: Staines & Barber 2012; Salimans et al. 2017, eq. 1)::

    ∇ E_{ε ~ N(0, I)} L(θ + σ ε) ≈ 1/(2 n σ) Σ_i ε_i ( L(θ + σ ε_i) - L(θ - σ ε_i) )

The two values of a pair have the same draws of the latents, so that their difference is that of
the parameters. It serves stories with parts that cannot be differentiated; its variance grows
with the number of parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pyro.infer
import torch
from torch import Tensor

from ..errors import StoryError
from .elbo import ELBO
from .particles import ParticleEstimator

__all__ = ["EvolutionStrategies", "leaves"]


class EvolutionStrategies(ParticleEstimator):
    """The gradient of another estimator's smoothed loss, from its values.

    Parameters
    ----------
    num_particles
        Draws for each row, of the ELBO whose loss is smoothed where ``of`` is not given.
    pairs
        n, pairs of perturbations for each gradient.
    sigma
        σ, in the unit of the parameters; the bias is of order σ².
    of
        The estimator whose loss is smoothed; the ELBO from draws if not given.
    parameters
        What is perturbed. ``None``: all parameters on which the loss depends, as its graph tells;
        a story whose loss cannot be differentiated must name them.

    Examples
    --------
    >>> EvolutionStrategies(pairs=16, sigma=0.05).pairs
    16
    """

    no_graph = "its estimator puts back the state of the random numbers within a step"

    def __init__(
        self,
        num_particles: int = 1,
        *,
        pairs: int = 8,
        sigma: float = 0.01,
        of: pyro.infer.ELBO | None = None,
        parameters: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(num_particles, **options)
        if pairs < 1 or sigma <= 0:
            raise ValueError(f"pairs is at least 1 and sigma above 0; given {pairs} and {sigma}")
        self.pairs, self.sigma = pairs, sigma
        self.of: Any = of
        if of is None:
            self.of = ELBO(num_particles, analytic_kl=False, **options)
        self.parameters = None if parameters is None else list(parameters)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss, with the gradient of the smoothed one."""
        loss = self.of.differentiable_loss(model, guide, *args, **kwargs)
        self.report = dict(getattr(self.of, "report", {}))
        if not torch.is_grad_enabled():
            return loss
        found = leaves(loss) if self.parameters is None else self.parameters
        if not found:
            raise StoryError(
                "the loss depends on no parameter that its graph shows; name them: "
                "EvolutionStrategies(parameters=[...])"
            )
        devices = sorted({p.device.index for p in found if p.is_cuda})
        slopes = [torch.zeros_like(p) for p in found]
        for _ in range(self.pairs):
            noise = [torch.randn_like(p) for p in found]
            values = []
            for sign in (1.0, -1.0):
                # What the first draws is put back, so that the second draws the same.
                again = torch.random.fork_rng(devices) if sign > 0 else nullcontext()
                with again, torch.no_grad(), _moved(found, noise, sign * self.sigma):
                    value = self.of.differentiable_loss(model, guide, *args, **kwargs)
                values.append(value.detach())
            difference = (values[0] - values[1]) / (2 * self.sigma * self.pairs)
            for slope, e in zip(slopes, noise, strict=True):
                slope += difference * e
        surrogate = sum((s * p).sum() for s, p in zip(slopes, found, strict=True))
        return loss.detach() + surrogate - surrogate.detach()


@contextmanager
def _moved(parameters: list[Tensor], noise: list[Tensor], by: float) -> Iterator[None]:
    """Move parameters for a block."""
    before = [p.detach().clone() for p in parameters]
    try:
        for p, e in zip(parameters, noise, strict=True):
            p.data.add_(e, alpha=by)
        yield
    finally:
        for p, value in zip(parameters, before, strict=True):
            p.data.copy_(value)


def leaves(value: Tensor) -> list[Tensor]:
    """Return the parameters on which a value depends, in the order of its graph.

    Examples
    --------
    >>> a, b = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    >>> [len(p) for p in leaves((2 * a).sum())]
    [2]
    """
    found: dict[int, Tensor] = {}
    seen: set[Any] = set()
    waiting = [value.grad_fn] if value.grad_fn is not None else []
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found[id(leaf)] = leaf
        waiting.extend(n for n, _ in node.next_functions if n is not None)
    return list(found.values())
