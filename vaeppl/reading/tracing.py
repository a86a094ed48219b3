"""Running a pair in order to read it: traces over particles, and log-weights row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from ..columns import check_columns
from ..data import Data, as_data, minibatches
from ..errors import StoryError
from ..estimators.elbo import is_enumerated, sample_sites
from ..pair import Batch, Pair
from ..strata import check_labels, strata
from ..training.seeds import seeded

__all__ = [
    "batches",
    "few_rows",
    "is_variable",
    "latents",
    "only_shared",
    "particle_traces",
    "quiet",
    "row_term",
    "rows_frame",
]

PARTICLES = "particles"
FEW_ROWS = 8  # enough to see which sites there are


@contextmanager
def quiet(pair: Pair, rows: int | None = None, *, seed: int = 0, draw: int = 1) -> Iterator[None]:
    """Run a pair for reading: seeded, without gradients or dropout, its store entered."""
    training = {module: module.training for module in pair.modules()}
    pair.eval()
    try:
        with (
            seeded(seed),
            torch.no_grad(),
            pyro.validation_enabled(False),
            pair.active(rows, draw=draw),
        ):
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


class Batches:
    """The rows of a pair's columns, some at a time, on its device and in its floating type.

    Rows that lack a partly observed column come apart from those that have it, without it; what is
    computed batch by batch is put back into the order of the data by :meth:`joined`.
    """

    def __init__(self, pair: Pair, data: Any, batch_size: int) -> None:
        if pair.couples_rows:
            raise StoryError(
                f"the rows of {pair.name} depend on each other, so that nothing can be read of "
                "them one by one; read the same story with its rows apart: "
                "fit.model.rows_apart(data)"
            )
        self.data = resident(pair, data)
        self.strata = strata(pair, self.data)
        self.batch_size = batch_size
        order = torch.cat([s.rows for s in self.strata])
        self.place = order.argsort()

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        noise = torch.Generator().manual_seed(0)
        for stratum in self.strata:
            part = self.data.columns(*stratum.columns)
            part = part if len(self.strata) == 1 else part.select(stratum.rows)
            size = min(self.batch_size, len(part))
            for batch in minibatches(part, size, shuffle=False, generator=noise):
                yield batch.columns

    def in_order(self, values: Tensor, dim: int = 0) -> Tensor:
        """Put rows that were read batch by batch into the order of the data."""
        if len(self.strata) == 1:
            return values
        return values.index_select(dim, self.place.to(values.device))

    def joined(self, parts: Sequence[Mapping[str, Tensor]], dim: int = 0) -> dict[str, Tensor]:
        """Join what was computed from the batches, along the rows."""
        names = parts[0]
        return {n: self.in_order(torch.cat([p[n] for p in parts], dim=dim), dim) for n in names}


def batches(pair: Pair, data: Any, batch_size: int) -> Batches:
    """Return the pair's columns by batches, in order but for partly observed columns."""
    return Batches(pair, data, batch_size)


def resident(pair: Pair, data: Any, required: Sequence[str] | None = None) -> Data:
    """Return the columns that the pair takes, on its device and in its floating type.

    They are checked first: those in ``required`` must be there (``None``: all that the model or
    the guide cannot do without).
    """
    data = as_data(data)
    check_columns(pair, data, required)
    check_labels(pair, data)
    there = [c for c in pair.columns if c in data]
    return data.columns(*there).to(pair.device, dtype=pair.dtype)


def plate_depth(pair: Pair, batch: Batch) -> int:
    """Return how many dimensions the plates of a pair take, to the left of the event."""
    trace = poutine.trace(pair.guide).get_trace(**batch)
    model = poutine.trace(poutine.replay(pair.model, trace=trace)).get_trace(**batch)
    dims = [
        -(frame.dim or 0)
        for t in (trace, model)
        for site in t.nodes.values()
        if site["type"] == "sample"
        for frame in site["cond_indep_stack"]
        if frame.vectorized
    ]
    return max(dims, default=0)


def particle_traces(
    pair: Pair,
    batch: Batch,
    num_particles: int | None,
    depth: int,
    *,
    enumerated: bool = False,
    shared: Any = None,
) -> tuple[Any, Any]:
    """Trace guide and model with ``num_particles`` draws side by side.

    All have the latents that stand in the trace ``shared``.

    Returns
    -------
    guide_trace, model_trace
        Batch shapes are ``(num_particles, *plates)``; ``None`` draws once, without that dimension.
        Where they are ``enumerated``, the values of latents that the guide marks for it stand in
        further dimensions to the left.
    """

    def many(story: Callable[..., Any], first_dim: int | None) -> Callable[..., Any]:
        if num_particles is not None:
            story = pyro.plate(PARTICLES, num_particles, dim=-depth - 1)(story)
        return EnumMessenger(first_dim)(story) if enumerated else story

    guide = pair.guide if shared is None else poutine.replay(pair.guide, trace=shared)
    guide_trace = poutine.trace(many(guide, -depth - 2)).get_trace(**batch)
    replayed = poutine.replay(pair.model, trace=guide_trace)
    model_trace = poutine.trace(many(replayed, None)).get_trace(**batch)
    return prune_subsample_sites(guide_trace), prune_subsample_sites(model_trace)


def enumerated_weights(guide_trace: Any, rows: int, depth: int) -> Tensor | None:
    """Return log q of the values of the latents that are summed out, jointly.

    Returns
    -------
    Tensor or None
        Shape ``(*values, particles, rows)``; ``None`` where nothing is summed out.
    """
    total = None
    for site in sample_sites(guide_trace):
        if is_enumerated(site):
            frames = [f for f in site["cond_indep_stack"] if f.name != PARTICLES]
            if len(frames) != 1 or rows_frame(site, rows) is None:
                raise StoryError(
                    f"latent {site['name']!r} is to be summed out row by row, so it must stand in "
                    "the plate of rows alone; draw it instead (no infer={'enumerate': ...})"
                )
            log_q = row_term(site_log_prob(site), site, rows, depth)
            total = log_q if total is None else total + log_q
    return total


def values_at_once(pair: Pair, data: Any) -> int:
    """Return how many values of latents stand side by side when they are summed out."""
    trace = poutine.trace(pair.guide).get_trace(**few_rows(pair, data))
    marked = (s for s in latents(trace) if s["infer"].get("enumerate") == "parallel")
    return math.prod(len(s["fn"].enumerate_support(expand=False)) for s in marked)


def rows_frame(site: dict[str, Any], rows: int) -> Any:
    """Return the plate of rows in which a site stands, or ``None`` for a global site."""
    frames = [f for f in site["cond_indep_stack"] if f.name != PARTICLES]
    named = [f for f in frames if f.name == "rows"]
    # Of a story that does not use vaeppl.rows, only the innermost plate can be that of its rows.
    sized = [f for f in frames if f.size == rows and f.dim == -1]
    return next(iter(named or sized), None)


def is_variable(site: Mapping[str, Any]) -> bool:
    """Tell a random variable from the site by which a plate notes its subsample."""
    return type(site["fn"]).__name__ != "_Subsample"


def latents(trace: Any, *, auxiliary: bool = False) -> list[dict[str, Any]]:
    """Return the latent sites of a trace, with those that only a guide has if asked."""
    return [
        s
        for s in sample_sites(trace)
        if not s["is_observed"]
        and is_variable(s)
        and (auxiliary or not s["infer"].get("is_auxiliary"))
    ]


def only_shared(trace: Any, rows: int) -> Any:
    """Return a trace with the latents outside the plate of rows alone.

    Replayed on the next batch, it makes a draw from many batches one draw of the whole.
    """
    shared = poutine.Trace()
    for site in latents(trace, auxiliary=True):
        if rows_frame(site, rows) is None:
            shared.add_node(site["name"], **site)
    return shared


def few_rows(pair: Pair, data: Any) -> dict[str, Tensor]:
    """Return the first few rows of the columns that the pair takes."""
    rows = resident(pair, data)
    first = strata(pair, rows)[0]  # those that lack most columns: all their latents are drawn
    return rows.columns(*first.columns).take(first.rows[:FEW_ROWS])


def row_term(term: Tensor, site: dict[str, Any], rows: int, depth: int) -> Tensor:
    """Sum a site's term, of batch shape ``(particles, *plates)``, over all plates but the rows.

    Parameters
    ----------
    term
        One number for each element of the site's batch: a log-probability, or a KL.

    Returns
    -------
    Tensor
        Shape ``(*values, particles, rows)``, masked, not scaled; ``values`` are the dimensions of
        enumerated latents.
    """
    frame = rows_frame(site, rows)
    if frame is None:
        raise StoryError(f"site {site['name']!r} stands outside the plate of rows")
    if site["mask"] is not None:
        term = torch.where(torch.as_tensor(site["mask"]), term, torch.zeros_like(term))
    term = term.reshape((1,) * (depth + 1 - term.ndim) + term.shape)
    others = [d for d in range(-depth, 0) if d != frame.dim]
    return term.sum(others) if others else term


def site_log_prob(site: dict[str, Any]) -> Tensor:
    """Return log p of a site's value, neither scaled nor masked."""
    log_p: Tensor = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return log_p
