"""Pyro's score function with the costs downstream of each latent, as a loss to differentiate."""

from __future__ import annotations

from typing import Any

import pyro.infer
from torch import Tensor

__all__ = ["TraceGraph"]


class TraceGraph(pyro.infer.TraceGraph_ELBO):
    """Pyro's ``TraceGraph_ELBO`` with ``differentiable_loss``, which it lacks.

    Examples
    --------
    >>> TraceGraph(num_particles=3).num_particles
    3
    """

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the ELBO, with the gradient of Pyro's surrogate."""
        elbo, surrogate = self._loss_and_surrogate_loss(model, guide, args, kwargs)
        value: Tensor = surrogate - surrogate.detach() - elbo.detach()
        return value
