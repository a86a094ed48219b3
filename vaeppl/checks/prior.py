"""What the story says before it has seen data: draws like these, and numbers that stay finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from .case import Case, DoesNotRun, latents, looking, moved, observed, terms
from .findings import Finding

__all__ = ["CHECKS"]

DRAWS = 500
FAR = 30.0  # standard deviations of the prior predictive, or times wider
STRETCH = 8.0  # times the draws of the guide: codes as far out as a long fit may put them
STEPS = 1.0  # standard deviations of the weights by which a fit may move them


def check_draws(case: Case) -> Iterator[Finding]:
    """Check that the story can be drawn from, and that its draws are of the data's size."""
    pair = case.pair
    seen = observed(case.model)
    given = {c: v for c, v in case.batch.items() if c not in seen or c in pair.required}
    absent = [c for c in pair.columns if c not in given]
    if not any(c in seen for c in absent) or pair.couples_rows:
        return
    draw = case.few if given else DRAWS
    batch: Any = {**given, **dict.fromkeys(absent)}
    with looking(case, draw=draw):
        try:
            trace = case.run("model", batch)
        except DoesNotRun as failure:
            told = failure.finding.what.rpartition("): ")[2]
            if told.startswith("StoryError: "):  # its author knows, and says what to do instead
                yield Finding(
                    "note",
                    "cannot-be-drawn",
                    f"the story of {pair.name} cannot be drawn from: "
                    f"{told.removeprefix('StoryError: ')}",
                    "there are no prior draws, and no samples from the fit",
                    "",
                    line=failure.finding.line,
                )
                return
            yield Finding(
                "warning",
                "cannot-be-drawn",
                f"the story of {pair.name} cannot be drawn from: with "
                f"{', '.join(f'{c}=None' for c in absent)} it raises {told}",
                "there are no prior draws, and no samples from the fit",
                "let sizes come from latents or parameters, never from an observed column; "
                "`with vaeppl.rows(x):` draws rows where x is None",
                line=failure.finding.line,
            )
            return
    for column, site in case.observed_columns():
        drawn = trace.nodes.get(column)
        if drawn is not None and column not in given and not drawn["is_observed"]:
            yield from _compare(case, column, site["value"], drawn["value"])


def _compare(case: Case, column: str, few: Tensor, drawn: Tensor) -> Iterator[Finding]:
    """Compare location and spread of the data with those of the prior predictive."""
    rows = torch.arange(min(len(case.data), 1000))
    seen = case.data.columns(column).take(rows)[column].to(few.device)
    if few.shape[1:] != drawn.shape[1:] or seen.shape[1:] != drawn.shape[1:]:
        return
    (low, width), (prior_low, prior_width) = _location(seen), _location(drawn)
    if not prior_width > 0 or not width > 0:
        return
    away = abs(low - prior_low) / prior_width
    ratio = width / prior_width
    if away > FAR or ratio > FAR or ratio < 1 / FAR:
        yield Finding(
            "warning",
            "prior-far-from-data",
            f"draws of {column!r} from the story lie about {prior_low:.3g} ± {prior_width:.3g}, "
            f"the data about {low:.3g} ± {width:.3g}",
            "the fit starts far from the data, and may not get there",
            "bring the story to the unit of the data: likelihoods.Normal.for_data(x), "
            "center= and unit=, or another likelihood",
            column,
            case.line("model", column),
        )


def _location(values: Tensor) -> tuple[float, float]:
    """Return median and spread: half the distance between the quantiles of 16% and 84%.

    Where more than that have one value, as in counts with many zeros, the spread is the standard
    deviation.
    """
    flat = values.double().flatten()
    flat = flat[flat.isfinite()]
    if not len(flat):
        return 0.0, 0.0
    if len(flat) > 100_000:  # more than torch.quantile is quick with
        flat = flat[:: len(flat) // 100_000]
    low, middle, high = torch.quantile(flat, torch.tensor([0.16, 0.5, 0.84]).double()).tolist()
    return middle, max((high - low) / 2, float(flat.std()) if len(flat) > 1 else 0.0)


def check_finite(case: Case) -> Iterator[Finding]:
    """Check that densities stay finite for far codes, moved parameters, and the largest rows."""
    for what, batch, stretch, step in (
        ("at the start", case.batch, 1.0, 0.0),
        ("for the largest values of the data", _extreme_rows(case), 1.0, 0.0),
        (f"where latents lie {STRETCH:g} times farther out", case.batch, STRETCH, 0.0),
        ("after parameters moved as in a fit", case.batch, 1.0, STEPS),
        ("after parameters moved as in a fit", case.batch, 1.0, -STEPS),
    ):
        with looking(case):
            try:
                trouble = _not_finite(case, batch, stretch, step)
            except DoesNotRun as failure:
                trouble = ("model", failure.finding.site, failure.finding)
        if trouble is not None:
            role, name, failed = trouble
            how = "does not run" if failed else "is NaN or infinite"
            told = f": {failed.what.rpartition('): ')[2]}" if failed else ""
            yield Finding(
                "error" if not stretch > 1 and not step else "warning",
                "overflow",
                f"the log-density {f'of site {name!r} ' if name else ''}of the {role} {how} "
                f"{what}{told}",
                "a fit would stop there",
                "keep scales positive by softplus with a floor, clamp the argument of exp, and "
                "compute in logarithms (logits=, log_softmax)",
                name,
                failed.line if failed else case.line(role, name),
            )
            return


def _not_finite(case: Case, batch: Any, stretch: float, step: float) -> Any:
    """Return role and name of the first site whose log-density is not finite."""
    guide = case.run("guide", batch)
    case.run("model", batch, guide)  # makes the parameters of the store
    with moved(case, step, seed=2):
        guide = case.run("guide", batch)
        model = case.run("model", batch, _stretched(guide, stretch))
        for role, trace in (("guide", guide), ("model", model)):
            for name, term in terms(trace, case.few).items():
                if not term.isfinite().all():
                    return role, name, None
    return None


def _stretched(trace: Any, stretch: float) -> Any:
    """Return a trace whose real latents lie farther out."""
    far = poutine.Trace()
    for name, site in latents(trace).items():
        site = site.copy()
        support = getattr(site["fn"], "support", None)
        if stretch > 1 and "real" in str(support).lower():
            site["value"] = stretch * site["value"]
        far.add_node(name, **site)
    return far


def _extreme_rows(case: Case) -> dict[str, Tensor]:
    """Return rows of the data with the largest and the smallest entries."""
    data = case.data.columns(*case.batch)
    few = min(len(data), 20_000)
    column = next(iter(dict(case.observed_columns())), next(iter(case.batch)))
    values = data.columns(column).take(torch.arange(few))[column].reshape(few, -1)
    values = values.double().nan_to_num()
    order = torch.cat([values.amax(1).argsort(descending=True), values.amin(1).argsort()])
    half = torch.cat([order[: (case.few + 1) // 2], order[few : few + case.few // 2]])
    taken = data.take(half, device=case.pair.device)
    return {
        n: v.to(case.pair.dtype) if v.is_floating_point() else v
        for n, v in case.pair.batch(taken).items()
    }


CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (check_draws, check_finite)
