"""Draws from the posterior of each row: those of the guide, or these put right by their weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from ..errors import whole_number
from ..pair import Batch, Pair
from . import tracing
from .weights import weigh

__all__ = ["check_particles", "posterior_draws"]

ENTRIES_AT_ONCE = 2**22  # numbers of a batch, times particles, that a pass may hold


def posterior_draws(
    pair: Pair, batch: Batch, shared: Sequence[Any], num_particles: int | None = None
) -> Iterator[Any]:
    """Draw the latents of some rows, as traces of the guide; must be called with the pair active.

    With ``num_particles`` = K, each row's draw is one of K draws of the guide, taken with a
    probability in proportion to its weight (sampling importance resampling, Rubin 1987)::

        z_n = z_nk with probability w_nk / Σ_j w_nj,   w_nk = p(x_n, z_nk) / q(z_nk | x_n)

    so that with K it tends to a draw from p(z_n | x_n) whatever the guide. Latents outside the
    plate of rows are those of the guide.

    Parameters
    ----------
    pair, batch
        What is asked, and its rows.
    shared
        A trace for each draw that is wanted, with the latents outside the plate of rows; an empty
        one where they are to be drawn.
    num_particles
        K; ``None``: draws of the guide.

    Yields
    ------
    Trace
        Of the guide, to be replayed by the model.
    """
    rows = len(next(iter(batch.values())))
    cloud = None
    for outside in shared:
        trace = poutine.trace(poutine.replay(pair.guide, trace=outside)).get_trace(**batch)
        if num_particles is not None:
            outside = tracing.only_shared(trace, rows)
            if cloud is None or outside.nodes:
                cloud = _cloud(pair, batch, rows, num_particles, outside)
            trace = _picked(trace, rows, *cloud)
        yield trace


def check_particles(num_particles: int | None) -> None:
    """Raise a ValueError if there are particles, but fewer than two to choose from."""
    if num_particles is not None:
        whole_number("num_particles", num_particles, 2)


def _cloud(
    pair: Pair, batch: Batch, rows: int, particles: int, outside: Any
) -> tuple[dict[str, Tensor], Tensor]:
    """Return many draws of the latents, ``(K, B, ...)``, and their summed weights, ``(B, K)``."""
    depth = tracing.plate_depth(pair, batch)
    most = max(1, ENTRIES_AT_ONCE // max(v.numel() for v in batch.values()))
    values, weights = [], []
    for start in range(0, particles, most):
        size = min(most, particles - start)
        traces = tracing.particle_traces(pair, batch, size, depth, shared=outside)
        weights.append(weigh(pair, *traces, rows, depth)[0].expand(size, rows))
        values.append(
            {
                site["name"]: _by_row(site, frame.dim, size, rows, depth)
                for site in tracing.latents(traces[0], auxiliary=True)
                if (frame := tracing.rows_frame(site, rows))
            }
        )
    joined = {name: torch.cat([v[name] for v in values]) for name in values[0]}
    log_w = torch.cat(weights).T.double()
    # A row to which every particle is impossible has no weights: all count alike there.
    log_w = torch.where((log_w > -torch.inf).any(-1, keepdim=True), log_w, 0.0)
    return joined, log_w.softmax(-1).cumsum(-1)


def _by_row(site: Any, row_dim: int, particles: int, rows: int, depth: int) -> Tensor:
    """Return the values of a site with particles and rows first: ``(K, B, *plates, *event)``."""
    value, event = site["value"], site["fn"].event_dim
    value = value.reshape((1,) * (depth + 1 + event - value.ndim) + value.shape)
    shape = list(value.shape)
    shape[0], shape[row_dim - event] = particles, rows
    return value.expand(shape).movedim(row_dim - event, 1)


def _picked(trace: Any, rows: int, values: dict[str, Tensor], summed: Tensor) -> Any:
    """Return a trace whose latents of the rows are those of a particle, drawn by its weight."""
    uniform = torch.rand(rows, 1, dtype=summed.dtype, device=summed.device)
    k = torch.searchsorted(summed, uniform * summed[:, -1:]).squeeze(-1)
    k = k.clamp(max=summed.shape[-1] - 1)
    each = torch.arange(rows, device=k.device)
    picked = poutine.Trace()
    for site in tracing.latents(trace, auxiliary=True):
        if site["name"] in values:
            frame = tracing.rows_frame(site, rows)
            there = values[site["name"]][k, each].movedim(0, frame.dim - site["fn"].event_dim)
            site = {**site, "value": there.reshape(site["value"].shape)}
        picked.add_node(site["name"], **site)
    return picked
