"""Whether the guide draws latents where their prior has mass, everywhere it has, or at points."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.distributions import constraints

from ..estimators.sites import WITHOUT_DENSITY, points
from ..reading.tracing import rows_frame
from .case import Case, latents
from .findings import Finding
from .values import one_column

__all__ = ["CHECKS"]


class Reach(NamedTuple):
    """The numbers from which an entry of a latent is drawn."""

    discrete: bool
    low: torch.Tensor
    high: torch.Tensor
    words: str


def check_supports(case: Case) -> Iterator[Finding]:
    """Check that the guide's support is the model's."""
    for name, q_site in latents(case.guide).items():
        p_site = case.model.nodes.get(name)
        if p_site is None or p_site["fn"].event_shape != q_site["fn"].event_shape:
            continue
        line = case.line("guide", name)
        p, q = reach(p_site["fn"]), reach(q_site["fn"])
        outside = _draws_outside(p_site, q_site)
        if p is not None and q is not None and p.discrete != q.discrete:
            yield _infinite(name, p.words, q.words, line)
        elif outside or (p is not None and q is not None and _beyond(q, p)):
            yield _infinite(name, _words(p, p_site), _words(q, q_site), line)
        elif p is not None and q is not None and _beyond(p, q):
            yield Finding(
                "warning",
                "guide-cannot-reach",
                f"the guide draws {name!r} from {q.words}, but its prior has {p.words}",
                "a posterior with mass where the guide has none can never be matched",
                "give the guide a distribution on the same values as the prior",
                name,
                line,
            )


def check_points(case: Case) -> Iterator[Finding]:
    """Note a latent of rows that the guide sets to a value, but where a code is so by design."""
    story = case.pair.source[0]
    if getattr(story, "codes_are_points", False) or case.estimator in WITHOUT_DENSITY:
        return
    for name in points(case.guide):
        if rows_frame(case.guide.nodes[name], case.few) is None:
            continue
        yield Finding(
            "note",
            "latent-is-a-point",
            f"the guide of {case.pair.name} sets {name!r} to a value (a Delta), without a density",
            "the objective is log p(x, z) at that value: no bound of log p(x), and there is no "
            "evidence to estimate; a guide that makes the value out of noise shrinks to a point",
            f"draw {name!r} from a distribution with a density; for a guide that can only be "
            'drawn from (a network of data and noise), fit with estimator="adversarial"; where '
            "a point is meant, as in an auto-encoder, say codes_are_points = True in the class",
            name,
            case.line("guide", name),
        )


def _infinite(name: str, prior: str, guide: str, line: Any) -> Finding:
    return Finding(
        "error",
        "supports-differ",
        f"the guide draws {name!r} from {guide}, but its prior has {prior}",
        "where the prior has no mass the KL is infinite",
        "give the guide a distribution on the same values: LogNormal or Gamma where the prior is "
        "positive, Beta in (0, 1)",
        name,
        line,
    )


def reach(fn: Any) -> Reach | None:
    """Return the interval from which entries are drawn; ``None`` if it is none, or not known."""
    base = one_column(fn)
    if type(base).__name__ == "Delta":  # it is where it is
        return None
    try:
        support = base.support
    except (NotImplementedError, AttributeError):
        return None
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    discrete = bool(getattr(support, "is_discrete", False))
    bounds = _bounds(support)
    if bounds is None:
        return None
    low, high = (torch.as_tensor(b, dtype=torch.float64) for b in bounds)
    return Reach(discrete, low, high, _in_words(discrete, low, high))


def _bounds(support: Any) -> tuple[Any, Any] | None:
    if support is constraints.boolean:
        return 0, 1
    if support is constraints.real or support is constraints.real_vector:
        return -math.inf, math.inf
    low = getattr(support, "lower_bound", None)
    high = getattr(support, "upper_bound", None)
    if low is None and high is None:
        return None
    return (-math.inf if low is None else low), (math.inf if high is None else high)


def _beyond(one: Reach, other: Reach) -> bool:
    """Tell whether one reaches values that the other does not."""
    return bool((one.low < other.low).any() or (one.high > other.high).any())


def _draws_outside(p_site: Any, q_site: Any) -> bool:
    try:
        inside = p_site["fn"].support.check(q_site["value"])
        return bool((~inside & ~_is_lost(q_site["value"], inside.ndim)).any())
    except (NotImplementedError, AttributeError, RuntimeError):
        return False


def _is_lost(value: torch.Tensor, ndim: int) -> torch.Tensor:
    """Tell which draws are NaN, of values that the guide does not take."""
    lost = value.isnan()
    return lost.flatten(ndim).any(-1) if lost.ndim > ndim else lost


def _words(found: Reach | None, site: Any) -> str:
    return type(one_column(site["fn"])).__name__ if found is None else found.words


def _in_words(discrete: bool, low: torch.Tensor, high: torch.Tensor) -> str:
    first, last = float(low.min()), float(high.max())
    if not discrete:
        if math.isinf(first) and math.isinf(last):
            return "all reals"
        if math.isinf(last):
            return f"reals above {first:g}"
        return f"reals up to {last:g}" if math.isinf(first) else f"reals from {first:g} to {last:g}"
    end = "" if math.isinf(last) else f", ..., {last:g}"
    return f"the integers {first:g}{end or ', ' + format(first + 1, 'g') + ', ...'}"


CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (check_supports, check_points)
