"""Whether model and guide have the same sites, in the same plates, with the same shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide

from ..estimators.sites import is_beside_the_story
from ..structure import base_of
from .case import Case, latents, observed
from .findings import Finding
from .lines import line_of_function

__all__ = ["CHECKS", "check_autoguide", "check_scaling", "rows_are_scaled"]

WRONG = "the ELBO would be silently wrong"


def check_latents(case: Case) -> Iterator[Finding]:
    """Check that each latent of the model is drawn by the guide, and nothing else."""
    pair = case.pair
    in_model, in_guide = latents(case.model), latents(case.guide)
    missing = [n for n in in_model if n not in in_guide]
    extra = [n for n in in_guide if n not in in_model]
    if len(extra) == len(missing) == 1 and not {*missing, *extra} & {*pair.columns}:
        yield _under_two_names(case, missing[0], extra[0])
        return
    for name in missing:
        line = case.line("model", name)
        if name in case.batch:
            yield Finding(
                "error",
                "not-conditioned",
                f"site {name!r} of the model of {pair.name} bears the name of a column but is "
                "drawn, not observed",
                "the story is not conditioned on these data",
                f"write pyro.sample({name!r}, ..., obs={name})",
                name,
                line,
            )
        elif name in pair.columns:
            yield Finding(
                "error",
                "column-absent",
                f"site {name!r} of the model observes column {name!r}, which the data lack "
                f"(they have {', '.join(map(repr, case.data.keys()))}), and the guide does not "
                "draw it",
                "what is not observed is latent, and has no posterior",
                "",
                name,
                line,
                of_column=True,
            )
        elif not in_model[name]["infer"].get("enumerate"):
            yield Finding(
                "error",
                "latent-not-in-guide",
                f"site {name!r} is latent in the model of {pair.name} but the guide does not "
                f"draw it (its sites: {', '.join(map(repr, in_guide)) or 'none'})",
                "it would be drawn from its prior, and never from its posterior",
                f"add pyro.sample({name!r}, ...) to the guide, or observe it with obs=",
                name,
                line,
            )
    for name in extra:
        if not in_guide[name]["infer"].get("is_auxiliary"):
            what = "observed" if name in observed(case.model) else "absent"
            yield Finding(
                "error",
                "latent-not-in-model",
                f"site {name!r} is drawn by the guide of {pair.name} but {what} in the model "
                f"(its latents: {', '.join(map(repr, in_model)) or 'none'})",
                "the KL compares a latent in the guide with the same one in the model",
                "rename it, or mark it infer={'is_auxiliary': True}",
                name,
                case.line("guide", name),
            )


def _under_two_names(case: Case, mine: str, theirs: str) -> Finding:
    """Say that one latent has two names, at the method that was written last."""
    role = "model" if _is_edited_story(case.pair.source[0]) else "guide"
    wrong, right = (mine, theirs) if role == "model" else (theirs, mine)
    return Finding(
        "error",
        "latent-not-in-guide",
        f"site {mine!r} is latent in the model of {case.pair.name} but the guide draws {theirs!r}, "
        f"which the model lacks: did you mean {right!r} in the {role}?",
        "a latent would be drawn from its prior, and never from its posterior",
        f"write pyro.sample({right!r}, ...) instead of {wrong!r}; it has one name in model and "
        "guide",
        mine,
        case.line(role, wrong),
    )


def _is_edited_story(story: Any) -> bool:
    """Tell whether a class writes its own model, but has its guide from a class above."""
    own = [next((i for i, c in enumerate(type(story).__mro__) if m in vars(c)), -1)
           for m in ("model", "guide")]  # fmt: skip
    return 0 <= own[0] < own[1]


def check_observed(case: Case) -> Iterator[Finding]:
    """Check that the story observes columns, each under its own name."""
    pair, seen = case.pair, observed(case.model)
    for name, site in seen.items():
        columns = [c for c, values in case.batch.items() if site["value"] is values]
        if name in columns or is_beside_the_story(site) or _is_factor(site):
            continue
        line = case.line("model", name)
        if columns:
            yield Finding(
                "error",
                "column-under-another-name",
                f"site {name!r} of {pair.name} observes column {columns[0]!r}",
                "a site is checked, drawn and scored as the column that it is called",
                f"give the site the column's name, pyro.sample({columns[0]!r}, ..., "
                f"obs={columns[0]})",
                name,
                line,
            )
        elif name not in pair.columns:
            yield Finding(
                "warning",
                "observes-no-column",
                f"site {name!r} of {pair.name} observes what is no column of the data "
                f"(its columns: {', '.join(map(repr, pair.columns))})",
                "it cannot be drawn, held out or compared with the data",
                "observe a column under its own name; what is no data is "
                "pyro.factor, or marked infer={'objective_only': True}",
                name,
                line,
            )
    nothing = all(is_beside_the_story(s) for s in seen.values())
    told = any(n in case.batch for n in latents(case.model))  # by check_latents
    if nothing and not told and case.batch:
        yield Finding(
            "error",
            "observes-nothing",
            f"the model of {pair.name} observes no column",
            "without data there is nothing to fit",
            f"write obs={next(iter(case.batch))} at the site of that name",
            line=line_of_function(pair.model),
        )


def _is_factor(site: Any) -> bool:
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return type(fn).__name__ == "Unit"


def check_events(case: Case) -> Iterator[Finding]:
    """Check that event shapes agree between model and guide."""
    for name, q_site in latents(case.guide).items():
        p_site = case.model.nodes.get(name)
        if p_site is None:
            continue
        p, q = p_site["fn"], q_site["fn"]
        line = case.line("guide", name)
        if p.event_dim != q.event_dim:
            yield Finding(
                "error",
                "event-dims-differ",
                f"site {name!r} has {p.event_dim} event dimensions in the model and "
                f"{q.event_dim} in the guide: is there a .to_event(1) missing?",
                WRONG,
                "write .to_event(1) in both, so that all dimensions of a row are summed",
                name,
                line,
            )
        elif p.event_shape != q.event_shape:
            yield Finding(
                "error",
                "event-shapes-differ",
                f"site {name!r} has event shape {tuple(p.event_shape)} in the model and "
                f"{tuple(q.event_shape)} in the guide",
                "one would be repeated to fit the other, and " + WRONG,
                "give both the same number of entries",
                name,
                line,
            )


def check_batches(case: Case) -> Iterator[Finding]:
    """Check that each dimension of a batch shape is a plate's."""
    seen = {n: case.model.nodes[n] for n in case.pair.columns if n in observed(case.model)}
    for role, sites in (
        ("guide", latents(case.guide)),
        ("model", {**latents(case.model), **seen}),
    ):
        for name, site in sites.items():
            fn, value = site["fn"], site["value"]
            plates = {f.dim for f in site["cond_indep_stack"]}
            shapes = (value.shape[: value.ndim - fn.event_dim], fn.batch_shape)
            outside = [b for b in shapes if _has_other_dims(b, plates)]
            if outside:
                yield _not_in_plates(case, role, name, tuple(outside[0]), len(plates))
            else:
                yield from _check_width(case, role, name, site)


def _has_other_dims(batch: Sequence[int], plates: Collection[int | None]) -> bool:
    """Tell whether a batch shape has dimensions that belong to no plate."""
    return any(size > 1 and i - len(batch) not in plates for i, size in enumerate(batch))


def _is_outside(site: Any) -> bool:
    """Tell whether a site has a batch shape but stands in no plate."""
    return not site["cond_indep_stack"] and _has_other_dims(site["fn"].batch_shape, ())


def _not_in_plates(case: Case, role: str, name: str, batch: Any, plates: int) -> Finding:
    return Finding(
        "error",
        "batch-not-in-plates",
        f"site {name!r} of the {role} has batch shape {batch} but stands in "
        f"{plates or 'no'} plate{'s' * (plates > 1)}",
        "the plate would take columns for rows, and " + WRONG,
        "put it in `with rows(...)`, or call .to_event(1) on its distribution (of a column of "
        "single numbers: .squeeze(-1) on its parameters)",
        name,
        case.line(role, name),
    )


def _check_width(case: Case, role: str, name: str, site: Any) -> Iterator[Finding]:
    event = site["fn"].event_shape
    there = site["value"].shape[site["value"].ndim - len(event) :]
    if site["is_observed"] and there != event:
        yield Finding(
            "error",
            "width-differs",
            f"site {name!r} of the {role} is given rows of shape {tuple(there)}, but its "
            f"distribution draws rows of shape {tuple(event)}",
            "it cannot be scored, or one entry is scored as all of them, and draws have another "
            "shape than the data",
            f"let its parameters have shape (rows, {', '.join(map(str, there))})",
            name,
            case.line(role, name),
        )


def check_plates(case: Case) -> Iterator[Finding]:
    """Check that a latent has the same plates and the same scale in model and guide."""
    for name, q_site in latents(case.guide).items():
        p_site = case.model.nodes.get(name)
        if p_site is None:
            continue
        mine = {f.name: f.full_size or f.size for f in p_site["cond_indep_stack"]}
        theirs = {f.name: f.full_size or f.size for f in q_site["cond_indep_stack"]}
        if _is_outside(p_site) or _is_outside(q_site):
            continue  # told by check_batches
        if mine != theirs:
            yield Finding(
                "error",
                "plates-differ",
                f"site {name!r} stands in the plates {mine or 'none'} in the model and in "
                f"{theirs or 'none'} in the guide; they must be the same",
                "its log-densities would be counted differently in model and guide",
                "write `with vaeppl.rows(...):` in both",
                name,
                case.line("guide", name),
            )
        elif not torch.equal(*_broadcast_scales(p_site, q_site)):
            yield Finding(
                "error",
                "scales-differ",
                f"site {name!r} is scaled by {_scale(p_site)} in the model and by "
                f"{_scale(q_site)} in the guide",
                "its KL would be that of neither",
                "scale both alike, or weigh the KL by fit(kl_weight=...)",
                name,
                case.line("guide", name),
            )


def _broadcast_scales(*sites: Any) -> Any:
    return torch.broadcast_tensors(*(torch.as_tensor(s["scale"]).double() for s in sites))


def _scale(site: Any) -> str:
    return f"{float(torch.as_tensor(site['scale']).double().mean()):.6g}"


def check_scaling(case: Case) -> Iterator[Finding]:
    """Check that rows are scaled up to the full data where latents stand outside their plate."""
    wrong = _wrong_size(case)
    if wrong is not None:
        yield wrong
        return
    scaled = case.few == case.full or rows_are_scaled(case)
    if scaled or case.batch_size == case.full:
        return
    for column, site in case.observed_columns():
        plates = {frame.name for frame in case.frames(site)}
        outside = [
            n
            for n, s in latents(case.model).items()
            if not plates & {f.name for f in s["cond_indep_stack"]}
        ]
        if outside:
            yield Finding(
                "error",
                "rows-not-scaled",
                f"{case.pair.name} has latents outside the plate of rows "
                f"({', '.join(outside)}), but site {column!r} is not scaled from the minibatch to "
                "the full data, so the ELBO would be wrong",
                "the prior of what all rows share would weigh as much in each minibatch as in all "
                "the data",
                "write `with vaeppl.rows(x):` in model and guide",
                column,
                case.line("model", column),
            )
            return


def rows_are_scaled(case: Case) -> bool:
    """Tell whether a story scales its rows up to the full data, as ``vaeppl.rows`` does."""
    for _, site in case.observed_columns():
        frames = case.frames(site)
        return bool(frames) and (frames[0].full_size or frames[0].size) == case.full
    return True


def _wrong_size(case: Case) -> Finding | None:
    for column, site in case.observed_columns():
        for frame in case.frames(site)[:1]:
            size = frame.full_size or frame.size
            if size not in (case.few, case.full):
                return Finding(
                    "error",
                    "plate-of-another-size",
                    f"the plate {frame.name!r} of site {column!r} is said to have {size} rows, "
                    f"but the rows fitted are {case.full}",
                    "a minibatch would be scaled to other data than these",
                    f"write `with vaeppl.rows({column}):` instead",
                    column,
                    case.line("model", column),
                )
        return None
    return None


def check_drawn(case: Case) -> Iterator[Finding]:
    """Check that latents can be reparametrised, are summed out, or are meant to be neither."""
    needs_path = case.estimator in NEED_PATHS
    for name, site in latents(case.guide).items():
        fn = site["fn"]
        if getattr(fn, "has_rsample", False) or site["infer"].get("enumerate"):
            continue
        if case.estimator in SCORES and not needs_path:
            continue
        few = getattr(fn, "has_enumerate_support", False) and math.prod(fn.event_shape) == 1
        enumerated = "mark it infer={'enumerate': 'parallel'} in the guide, and it is summed out"
        other = "give estimator='score_function' and num_particles=10 or so"
        yield Finding(
            "error" if needs_path else "warning",
            "not-reparametrised",
            f"latent {name!r} ({type(base_of(fn)).__name__}) cannot be reparametrised"
            + (f", but estimator={case.estimator!r} needs its path" if needs_path else ""),
            "its gradient is that of the score function, and varies much with one particle",
            f"{enumerated}; or {other}" if few else other,
            name,
            case.line("guide", name),
        )


NEED_PATHS = ("stl", "dreg", "piwae", "tail_adaptive", "dreg_wake_sleep", "capacity", "adversarial")
SCORES = ("score_function", "vimco", "iwae", "renyi", "tvo", "wake_sleep", "evolution", "vr_max",
          "miwae", "ciwae", "trace_graph_elbo")  # fmt: skip


def check_autoguide(case: Case, trace: Any) -> Iterator[Finding]:
    """Refuse Pyro's autoguides for latents of the rows: they have parameters row by row."""
    guide = case.pair.source[-1]
    local = [n for n, s in latents(trace).items() if case.frames(s)]
    if isinstance(guide, AutoGuide) and local:
        yield Finding(
            "error",
            "autoguide-of-rows",
            f"{type(guide).__name__} has a parameter for each row of the latents "
            f"{', '.join(map(repr, local))}, so it cannot be fitted by minibatches nor to new "
            "rows",
            "a guide of rows is amortised: it is a function of the columns",
            "take vaeppl.guides.AutoAmortizedGuide(model), or write q(latents | columns)",
            local[0],
            case.line("model", local[0]),
        )


CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    check_latents,
    check_observed,
    check_events,
    check_batches,
    check_plates,
    check_scaling,
    check_drawn,
)
