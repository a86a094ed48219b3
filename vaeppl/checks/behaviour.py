"""What guide and model do when rows, columns, seeds or the number of rows change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from ..reading.tracing import (
    PARTICLES,
    particle_traces,
    plate_depth,
    row_term,
    rows_frame,
    site_log_prob,
)
from ..training.seeds import seeded
from .case import (
    Case,
    DoesNotRun,
    changed,
    latents,
    looking,
    moved,
    same,
    score,
    terms,
    words_of,
)
from .findings import Finding
from .lines import line_of_error, line_of_function

__all__ = ["CHECKS"]


def _both(case: Case, batch: Any, replayed: Any = None, then: Any = None) -> tuple[Any, Any]:
    """Trace guide and model on a batch, with given draws where they are given."""
    guide = case.run("guide", batch, replayed)
    return guide, case.run("model", batch, then or guide)


def check_leaks(case: Case) -> Iterator[Finding]:
    """Check that what a row is does not change what other rows are worth."""
    if case.pair.couples_rows or case.few < 2:
        return
    last = _other_last_row(case)
    with looking(case, training=True):
        drawn = case.run("guide")
    # Both with the same draws given, so that dropout meets the same random numbers.
    with looking(case, training=True):
        guide, model = _both(case, case.batch, drawn)
    with looking(case, training=True):
        guide_2, model_2 = _both(case, last, _other_last_draw(drawn, case.few))
    for role, first, second in (("model", model, model_2), ("guide", guide, guide_2)):
        here, there = (terms(trace, case.few) for trace in (first, second))
        for name in changed(here, there, slice(None, -1))[:1]:
            by = " (or batch normalisation)" if _has_batch_norm(case) else ""
            yield Finding(
                "error" if role == "model" else "warning",
                "rows-leak",
                f"rows leak into each other at site {name!r} of the {role}: another value of one "
                "row changes the log-density of the others",
                "the ELBO of a row depends on the batch that it is in, and minibatches are biased",
                f"do not take a mean, sum or softmax over the rows{by}; take layer normalisation, "
                "or fixed numbers such as likelihoods.Normal(center=, unit=)",
                name,
                case.line(role, name),
            )
            return


def _other_last_row(case: Case) -> dict[str, Tensor]:
    """Return the batch with another last row: one that differs, if there is one."""
    found = {}
    for name, values in case.batch.items():
        rest = values[:-1].flatten(1) if values.ndim > 1 else values[:-1, None]
        own = values[-1:].flatten(1) if values.ndim > 1 else values[-1:, None]
        differs = ((rest != own) & ~(rest.isnan() & own.isnan())).sum(1)
        found[name] = torch.cat([values[:-1], values[int(differs.argmax())][None]])
    return found


def _other_last_draw(trace: Any, rows: int) -> Any:
    """Return a trace whose last row has the latents of the first."""
    other = poutine.Trace()
    for name, site in latents(trace).items():
        frame = rows_frame(site, rows)
        site = site.copy()
        if (
            frame is not None
            and (dim := (frame.dim or 0) - site["fn"].event_dim) >= -site["value"].ndim
        ):
            first, kept = (
                site["value"].narrow(dim, start, n) for start, n in ((0, 1), (0, rows - 1))
            )
            site["value"] = torch.cat([kept, first], dim)
        other.add_node(name, **site)
    return other


def _has_batch_norm(case: Case) -> bool:
    return any("BatchNorm" in type(m).__name__ for m in case.pair.modules())


def check_one_row(case: Case) -> Iterator[Finding]:
    """Check that a row is worth the same alone as among others."""
    if case.pair.couples_rows or case.few < 2:
        return
    with looking(case):
        guide, model = _both(case, case.batch)
        alone = {n: v[:1] for n, v in case.batch.items()}
        mend = "networks act on the last dimension; do not .squeeze() or reshape the others"
        try:
            one = _both(case, alone, _of_first_row(guide, case.few))
        except DoesNotRun as failure:
            told = failure.finding
            yield Finding(
                "warning",
                "one-row",
                f"a batch of a single row does not run: {told.what.partition(': ')[2]}",
                "the last minibatch may hold one row",
                mend,
                line=told.line,
            )
            return
    for role, many, single in (("guide", guide, one[0]), ("model", model, one[1])):
        here, there = terms(many, case.few), terms(single, 1)
        for name in changed(here, there, slice(0, 1))[:1]:
            yield Finding(
                "error",
                "one-row",
                f"site {name!r} of the {role} gives a row another log-density alone than among "
                "other rows",
                "the ELBO of a row depends on the batch that it is in",
                mend,
                name,
                case.line(role, name),
            )
            return


def _of_first_row(trace: Any, rows: int) -> Any:
    """Return a trace whose latents are those of the first row."""
    first = poutine.Trace()
    for name, site in latents(trace).items():
        frame = rows_frame(site, rows)
        site = site.copy()
        if frame is not None and (frame.dim or 0) - site["fn"].event_dim >= -site["value"].ndim:
            dim = frame.dim - site["fn"].event_dim
            site["value"] = site["value"].narrow(dim, 0, 1)
        first.add_node(name, **site)
    return first


def check_particles(case: Case) -> Iterator[Finding]:
    """Check that several draws may stand side by side, in a dimension to the left."""
    if case.pair.couples_rows:
        return
    with looking(case):
        guide, _ = _both(case, case.batch)
        depth = plate_depth(case.pair, case.batch)
        try:
            q, p = particle_traces(case.pair, case.batch, 2, depth)
            for site in (*latents(q).values(), *p.nodes.values()):
                if site["type"] == "sample":
                    site_log_prob(site)
        except Exception as error:
            yield Finding(
                "warning",
                "particles",
                f"{case.pair.name} does not run with several draws side by side: {words_of(error)}",
                "evidence, and every estimator with several particles, draws them so",
                _mend_of_shared(guide, case.few)
                or "latents may have further dimensions to the left: let networks act on the last "
                "one, and concatenate along dim=-1 after .expand(*z.shape[:-1], -1)",
                line=line_of_error(error),
            )
            return
        first = _of_first_particle(q, guide)
        single = _both(case, case.batch, first)
    for role, trace, alone in (("guide", q, single[0]), ("model", p, single[1])):
        for name, term in terms(alone, case.few).items():
            among = _first_particle_term(trace.nodes[name], depth, case.few)
            if among is not None and not same(term, among):
                yield Finding(
                    "error",
                    "particles",
                    f"site {name!r} of the {role} has another log-density when several draws "
                    "stand side by side",
                    "draws are mixed with rows, so that evidence and bounds of several particles "
                    "are wrong",
                    "let networks act on the last dimension alone; do not .view or .reshape",
                    name,
                    case.line(role, name),
                )
                return


def _mend_of_shared(guide: Any, rows: int) -> str:
    """Say how latents that all rows share are written for several draws, if there are any."""
    shared = {n: s["fn"] for n, s in latents(guide).items() if rows_frame(s, rows) is None}
    if not shared:
        return ""
    vector = next((n for n, fn in shared.items() if fn.event_dim), None)
    name = vector or next(iter(shared))
    how = f"({name} * x).sum(-1) for x @ {name}" if vector else f"{name}[..., None] beside columns"
    return (
        f"what all rows share ({', '.join(shared)}) has further dimensions to the left, those of "
        f"draws and of rows: write {how}; networks act on the last dimension"
    )


def _of_first_particle(trace: Any, alone: Any) -> Any:
    """Return a trace whose latents are those of the first of two particles."""
    first = poutine.Trace()
    for name, site in latents(trace).items():
        site = site.copy()
        shape = alone.nodes[name]["value"].shape
        if any(f.name == PARTICLES for f in site["cond_indep_stack"]):
            site["value"] = site["value"][0].reshape(shape)
        first.add_node(name, **site)
    return first


def _first_particle_term(site: Any, depth: int, rows: int) -> Tensor | None:
    """Return log p of each row for the first particle."""
    if rows_frame(site, rows) is None:
        return None
    term = row_term(score(site), site, rows, depth)
    return term.reshape(-1, term.shape[-1])[0]


def check_seeds(case: Case) -> Iterator[Finding]:
    """Check that the same seed gives the same draws and densities."""
    runs = []
    for _ in range(2):
        with looking(case, seed=3):
            runs.append(_both(case, case.batch))
    for role, first, second in (
        ("guide", runs[0][0], runs[1][0]),
        ("model", runs[0][1], runs[1][1]),
    ):
        for name, site in latents(first).items():
            if name in second.nodes and not same(site["value"], second.nodes[name]["value"]):
                yield _unseeded(case, role, name)
                return
        differ = changed(terms(first, case.few), terms(second, case.few), slice(None))
        if differ:
            yield _unseeded(case, role, differ[0])
            return


def _unseeded(case: Case, role: str, name: str) -> Finding:
    return Finding(
        "error",
        "not-repeatable",
        f"site {name!r} of the {role} differs between two runs with the same seed",
        "a fit cannot be repeated or resumed, and a draw is scored under another distribution",
        "draw random numbers by pyro.sample or torch only, and keep no count or state between "
        "calls",
        name,
        case.line(role, name),
    )


def check_guide_looks(case: Case) -> Iterator[Finding]:
    """Check that the guide of a row's latent depends on the row."""
    if case.few < 2 or not case.batch:
        return
    rolled = {n: v.roll(1, 0) for n, v in case.batch.items()}
    if all(torch.equal(rolled[n], v) for n, v in case.batch.items()):
        return
    alike = []
    with looking(case):
        case.run("guide")  # makes the parameters of the store
        with moved(case):
            traces = []
            for batch in (case.batch, rolled):
                with seeded(5):
                    traces.append(case.run("guide", batch))
            for name, site in latents(traces[0]).items():
                if rows_frame(site, case.few) is None or name not in traces[1].nodes:
                    continue
                here, there = (t.nodes[name]["fn"].log_prob(site["value"]) for t in traces)
                if same(here, there):
                    alike.append(name)
    for name in alike:
        yield Finding(
            "warning",
            "guide-ignores-data",
            f"the guide draws {name!r} alike for every row: it depends on no column",
            "the posterior of a row would be that of any other",
            "let its parameters come from an encoder of the columns",
            name,
            case.line("guide", name),
        )


def check_columns_used(case: Case) -> Iterator[Finding]:
    """Check that each column that the story takes changes something."""
    if case.few < 2:
        return

    def all_terms(batch: Any) -> dict[str, Tensor]:
        with looking(case):
            _both(case, case.batch)  # makes the parameters of the store
            with moved(case), seeded(5):
                guide, model = _both(case, batch)
                return {
                    f"{role}/{n}": t
                    for role, trace in (("guide", guide), ("model", model))
                    for n, t in terms(trace, case.few).items()
                }

    here = all_terms(case.batch)
    for column, values in case.batch.items():
        rolled = values.roll(1, 0)
        if torch.equal(rolled, values) or case.pair.couples_rows:
            continue
        if not changed(here, all_terms({**case.batch, column: rolled}), slice(None)):
            yield Finding(
                "warning",
                "column-unused",
                f"column {column!r} is taken by {case.pair.name} and used nowhere",
                "the story is the same whatever it holds",
                f"observe it with obs={column}, let something depend on it, or take the argument "
                "away",
                column,
                line_of_function(case.pair.model),
            )


CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    check_seeds,
    check_leaks,
    check_one_row,
    check_particles,
    check_guide_looks,
    check_columns_used,
)
