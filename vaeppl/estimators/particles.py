"""What every estimator here has in common: particles, their traces, and Pyro's interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyro.infer
import pyro.poutine as poutine
import torch
from pyro.infer.util import is_validation_enabled
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor

from ..errors import whole_number
from ..random_state import forked
from . import draws as noise
from .sites import check_drawn, sample_sites, without_log

__all__ = ["ParticleEstimator"]


class ParticleEstimator(pyro.infer.ELBO):
    """Base of the estimators: traces K particles, and gives a loss that can be differentiated.

    A subclass writes :meth:`differentiable_loss`.

    Parameters
    ----------
    num_particles
        Draws from the guide for each row.
    enumerate
        Sum out the discrete latents that the guide marks ``infer={"enumerate": "parallel"}``.
    vectorize_particles
        Draw the particles side by side, in a plate, rather than one after another.
    max_plate_nesting
        As in Pyro; found by running the pair once if not given.
    draws
        Where the noise of reparametrised latents comes from: ``"independent"``, ``"antithetic"``
        or ``"sobol"`` (see :mod:`vaeppl.estimators.draws`).

    Attributes
    ----------
    report : dict of str to 0-dim Tensor
        Terms of the last estimate, of the full data, in nats.

    Raises
    ------
    ValueError
        If there are fewer particles than the estimator needs.
    """

    fewest = 1  # particles without which the estimator has no meaning
    detached = False  # whether all latents are drawn as if they could not be reparametrised
    takes_marked = True  # latents that the guide marks to be summed out: so, or drawn on purpose
    no_graph = ""  # why a step of training cannot be one graph, if so

    def __init__(
        self,
        num_particles: int = 1,
        *,
        enumerate: bool = True,
        vectorize_particles: bool = True,
        max_plate_nesting: float = float("inf"),
        draws: str = "independent",
    ) -> None:
        num_particles = whole_number("num_particles", num_particles, self.fewest)
        super().__init__(
            num_particles=num_particles,
            vectorize_particles=vectorize_particles and num_particles > 1,
            max_plate_nesting=max_plate_nesting,
        )
        noise.check(draws, num_particles, side_by_side=vectorize_particles)
        self.enumerate, self.draws = enumerate, draws
        self.report: dict[str, Tensor] = {}

    # --- the interface of pyro.infer.ELBO ---

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return an estimate of minus the objective, without gradients."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Estimate minus the objective, and add its gradient to the parameters' ``grad``."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return float(loss.detach())

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the objective; its gradient is an estimate of the objective's."""
        raise NotImplementedError

    # --- traces ---

    @property
    def plate_depth(self) -> int:
        """Dimensions that the plates of the story take, that of the particles left out."""
        return int(self.max_plate_nesting) - int(self.vectorize_particles)

    def _guess_max_plate_nesting(self, model: Any, guide: Any, args: Any, kwargs: Any) -> None:
        """Find it as Pyro does, without the log line."""
        # A run that is resumed guesses anew, and must not draw other numbers for that.
        with (
            without_log("pyro.infer.elbo"),
            forked(),
        ):
            super()._guess_max_plate_nesting(model, guide, args, kwargs)

    def _get_traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Iterator[Any]:
        """Yield the traces of model and guide: one of all particles, or one of each."""
        if self.max_plate_nesting == float("inf"):
            self._guess_max_plate_nesting(model, guide, args, kwargs)
        yield from super()._get_traces(model, guide, args, kwargs)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        """Trace the guide and the model against it; log-probabilities are computed as needed."""
        guide = noise.source(self.draws, guide, -self.plate_depth - 1)
        if self.enumerate:
            # The model's values go to the left of the guide's, as in TraceEnum_ELBO.
            left = -1 - int(self.max_plate_nesting)
            guide, model = EnumMessenger(first_available_dim=left)(guide), EnumMessenger()(model)
        if self.detached:
            guide = _without_paths(guide)
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = self._trace_model(model, guide, guide_trace, args, kwargs)
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
        guide_trace = prune_subsample_sites(guide_trace)
        model_trace = prune_subsample_sites(model_trace)
        check_drawn(model_trace, guide_trace)
        if is_validation_enabled():
            for trace in (guide_trace, model_trace):
                trace.compute_log_prob()
                for site in sample_sites(trace):
                    check_site_shape(site, self.max_plate_nesting)
        return model_trace, guide_trace

    def _trace_model(self, model: Any, guide: Any, guide_trace: Any, args: Any, kwargs: Any) -> Any:
        """Trace the model at the guide's draws."""
        replayed = poutine.replay(model, trace=guide_trace)
        return poutine.trace(replayed).get_trace(*args, **kwargs)


def _without_paths(guide: Callable[..., Any]) -> Callable[..., Any]:
    """Return a guide whose draws carry no gradient, as if none could be reparametrised."""

    def drawing(*args: Any, **kwargs: Any) -> Any:
        with _Cut():
            return guide(*args, **kwargs)

    return drawing


class _Cut(Messenger):
    """Detaches what a guide draws, for the rest of the guide too."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] or type(msg["fn"]).__name__ == "_Subsample":
            return
        value = msg["value"] if msg["done"] else msg["fn"](*msg["args"], **msg["kwargs"])
        msg["value"], msg["done"] = value.detach(), True
