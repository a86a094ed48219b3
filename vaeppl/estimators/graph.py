"""Pyro's own estimators, where they lack a loss to differentiate, or say what need not be said."""

from __future__ import annotations

from typing import Any

import pyro.infer
from torch import Tensor

from .sites import without_log

__all__ = ["TraceEnum", "TraceGraph"]


class TraceEnum(pyro.infer.TraceEnum_ELBO):
    """Pyro's ``TraceEnum_ELBO`` without its log line on the number of plates.

    Examples
    --------
    >>> TraceEnum().num_particles
    1
    """

    def _guess_max_plate_nesting(self, model: Any, guide: Any, args: Any, kwargs: Any) -> None:
        with without_log("pyro.infer.elbo"):
            super()._guess_max_plate_nesting(model, guide, args, kwargs)


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
