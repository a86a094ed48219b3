"""Estimators to compare, and why one of them does not fit a story."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.infer
import pyro.poutine as poutine
import torch
from torch.distributions import kl_divergence

from .. import estimators
from ..errors import whole_number
from ..estimators.kl import exact_kl_sites
from ..estimators.sites import WITHOUT_DENSITY, is_point
from ..pair import Batch, Pair
from ..reading import tracing

__all__ = ["Candidate", "candidates", "reason_against"]


@dataclass(frozen=True)
class Candidate:
    """An estimator in a comparison: how to make it anew, as each fit needs its own.

    Attributes
    ----------
    label : str
        What it is called in tables.
    name : str
        Its name in the registry; that of its class where it was given ready-made.
    options : dict
        Its options, the number of particles among them.
    """

    label: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    ready: Any = None

    def make(self) -> Any:
        """Return the estimator."""
        if self.ready is not None:
            return copy.deepcopy(self.ready)
        return estimators.get(self.name, **self.options)

    @property
    def num_particles(self) -> int:
        """Draws for each row."""
        if self.ready is not None:
            return int(self.ready.num_particles)
        return int(self.options.get("num_particles", 1))


def candidates(given: Any, num_particles: int | Sequence[int]) -> list[Candidate]:
    """Return the candidates that names, pairs or a mapping stand for.

    Parameters
    ----------
    given
        A sequence of names, of pairs ``(name, options)`` and of ready-made estimators; or a
        mapping from labels to such.
    num_particles
        Draws for each row where options do not say; several numbers: each estimator with each.

    Examples
    --------
    >>> [c.label for c in candidates(["elbo", ("ciwae", {"beta": 0.2})], [1, 8])]
    ['elbo, K=1', 'elbo, K=8', 'ciwae(beta=0.2), K=1', 'ciwae(beta=0.2), K=8']
    """
    several = isinstance(num_particles, Sequence)
    numbers = list(num_particles) if isinstance(num_particles, Sequence) else [num_particles]
    if isinstance(given, (str, pyro.infer.ELBO)):
        given = [given]
    labelled = given.items() if isinstance(given, Mapping) else [(None, one) for one in given]
    found: list[Candidate] = []
    for label, one in labelled:
        found += _expanded(label, one, numbers, several)
    if not found:
        raise ValueError("there is nothing to compare: name some estimators")
    labels = [c.label for c in found]
    if twice := {name for name in labels if labels.count(name) > 1}:
        raise ValueError(
            f"two estimators are called {sorted(twice)[0]!r}; give a mapping from labels"
        )
    return found


def _expanded(label: Any, one: Any, numbers: list[int], several: bool) -> list[Candidate]:
    if inspect.isclass(one) or isinstance(one, pyro.infer.ELBO):
        made: Any = one
        estimators.get(made)  # raises where it cannot be compared
        name = type(one).__name__
        return [Candidate(label or name, name, {}, one)]
    name, options = (one, {}) if isinstance(one, str) else one
    estimators.about(name)  # raises at an unknown name
    if label is None:
        shown = ", ".join(f"{k}={v}" for k, v in options.items() if k != "num_particles")
        label = f"{name}({shown})" if shown else name
    if "num_particles" in options:
        return [Candidate(label, name, dict(options))]
    suffixes = [f", K={k}" if several else "" for k in numbers]
    return [
        Candidate(label + suffix, name, {**options, "num_particles": k})
        for k, suffix in zip(numbers, suffixes, strict=True)
    ]


def reason_against(candidate: Candidate, pair: Pair, batch: Batch) -> str | None:
    """Say why an estimator does not fit a story, or ``None`` if it does.

    Must be called with the pair active.
    """
    try:
        whole_number("num_particles", candidate.num_particles, 1)  # Pyro's own do not look
        estimator = candidate.make()
    except (ValueError, TypeError) as error:
        return str(error)
    trace = poutine.trace(pair.guide).get_trace(**batch)
    marked = [s["name"] for s in tracing.latents(trace) if s["infer"].get("enumerate")]
    if (reason := _known_reason(candidate, pair, batch, trace, marked)) is not None:
        return reason
    state = torch.random.get_rng_state()
    try:
        with warnings.catch_warnings(), torch.enable_grad(), pyro.validation_enabled(True):
            warnings.simplefilter("error", UserWarning)
            loss = estimator.differentiable_loss(pair.model, pair.guide, **batch)
            if not torch.as_tensor(loss).isfinite():
                return "its value is not finite on the first rows"
    except Exception as error:
        return _first_line(error)
    finally:
        torch.random.set_rng_state(state)
    return None


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def _known_reason(
    candidate: Candidate, pair: Pair, batch: Batch, trace: Any, marked: list[str]
) -> str | None:
    """Say what would be wrong, or another estimator, without an error."""
    name, known = candidate.name, candidate.name in estimators.available()
    latents = tracing.latents(trace)
    points = [s["name"] for s in latents if is_point(s)]
    if points and name not in WITHOUT_DENSITY:
        return f"it needs the density of latent {points[0]!r}, which the guide sets to a value"
    if known and marked and not estimators.enumerates(name) and not _draws_all(name):
        return f"it cannot sum out {', '.join(marked)}, which the guide marks to be enumerated"
    if name == "trace_enum_elbo" and not marked:
        return "no latent is marked to be enumerated"
    scored = [s["name"] for s in latents if not s["fn"].has_rsample]
    if name in ("score_function", "trace_graph_elbo") and not scored:
        return "every latent can be reparametrised, so it has no score function to use"
    if name == "trace_mean_field_elbo":
        return _not_mean_field(pair, batch, trace)
    return None


def _draws_all(name: str) -> bool:
    """Tell whether an estimator draws what is marked to be summed out, and means to."""
    return name in ("score_function", "wake_sleep", "tvo")


def _not_mean_field(pair: Pair, batch: Batch, trace: Any) -> str | None:
    model: Any = poutine.trace(poutine.replay(pair.model, trace=trace)).get_trace(**batch)
    valid = exact_kl_sites(model, trace)
    for site in tracing.latents(trace):
        name = site["name"]
        if name not in valid:
            return f"latent {name!r} is drawn in another order than in the model"
        try:
            if name in model.nodes:
                kl_divergence(site["fn"], model.nodes[name]["fn"])
        except NotImplementedError:
            return f"no exact KL is known for latent {name!r}"
    return None
