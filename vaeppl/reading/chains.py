"""Markov chains between data and latents: what a story draws when it starts from rows of data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from ..distributions import centre
from ..errors import StoryError, unknown_name, whole_number
from ..pair import Batch, Pair, as_pair
from . import tracing
from .sites import observed_columns

__all__ = ["Chain", "chain"]


@dataclass(frozen=True, eq=False)
class Chain:
    """Markov chains, one for each row at which they start.

    Attributes
    ----------
    column : str
        The column that is drawn.
    states : Tensor
        x_0, …, x_T of each chain, ``(steps + 1, N, *event)``; x_0 are the rows of the data.
    seen : Tensor
        What the guide saw of x_0, …, x_T-1, ``(steps, N, *event)``: the corrupted rows of a
        denoising auto-encoder; else the states.
    means : Tensor
        E[x_t | z_t-1] of x_1, …, x_T, ``(steps, N, *event)``.
    name : str
        The story's.
    """

    column: str
    states: Tensor
    seen: Tensor
    means: Tensor
    name: str = "chain"

    def __repr__(self) -> str:
        steps, rows, *event = self.means.shape
        shape = f" of shape {tuple(event)}" if event else ""
        return f"Chain({self.name}: {rows} chains of {steps} steps, column {self.column!r}{shape})"


def chain(
    source: Any,
    data: Any,
    *,
    guide: Any = None,
    steps: int = 10,
    column: str | None = None,
    seed: int = 0,
) -> Chain:
    """Draw Markov chains that start from rows of data.

    A step draws latents from the guide, and a row given those::

        z_t ~ q(z | x_t),     x_t+1 ~ p(x | z_t)

    It is Gibbs sampling, with the story's own p(x) as stationary law, where the guide is the exact
    posterior; and nearly so where it is close (Rezende, Mohamed and Wierstra 2014, appendix F).

    A model with a method ``corrupt`` draws x̃_t from it first, and its guide sees that: the chain
    of a denoising auto-encoder (Bengio, Yao, Alain and Vincent 2013). Its stationary law is that of
    the data where p(x | x̃) is the true conditional.

    Parameters
    ----------
    source, data, guide, seed
        As in :func:`vaeppl.evidence`. Columns that the story is given stay as they are.
    steps
        T.
    column
        The column to draw, if the story draws several.

    Returns
    -------
    Chain
        It holds 3 T values for each entry of the column.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> run = chain(VAE(6, 2, hidden=(4,)), {"x": x}, steps=3)
    >>> run, run.states.shape
    (Chain(VAE: 20 chains of 3 steps, column 'x' of shape (6,)), torch.Size([4, 20, 6]))
    """
    whole_number("steps", steps, 1)
    pair = as_pair(source, guide)
    rows = tracing.resident(pair, data)
    column = _drawn(pair, rows, column)
    if pair.couples_rows:
        raise StoryError(f"the rows of {pair.name} depend on each other, so none has a chain")
    corrupt = getattr(pair.source[0], "corrupt", None)
    states, seen, means = [], [], []
    with tracing.quiet(pair, seed=seed, draw=len(rows)):
        batch = rows.take(torch.arange(len(rows)), device=pair.device)
        batch = {n: v.to(pair.dtype) if v.is_floating_point() else v for n, v in batch.items()}
        states.append(batch[column])
        for _ in range(steps):
            seen.append(states[-1] if corrupt is None else corrupt(states[-1]))
            site = _step(pair, {**batch, column: seen[-1]}, column)
            means.append(centre(site["fn"]))
            states.append(site["value"].to(states[0].dtype))
    return Chain(column, torch.stack(states), torch.stack(seen), torch.stack(means), pair.name)


def _step(pair: Pair, batch: Batch, column: str) -> Any:
    """Return the site of the column, drawn given latents that are drawn given the batch."""
    trace = poutine.trace(pair.guide).get_trace(**batch)
    latents = {s["name"]: s["value"] for s in tracing.latents(trace)}
    story = poutine.condition(pair.model, data=latents)
    drawn = poutine.trace(story).get_trace(**{**batch, column: None})
    return drawn.nodes[column]


def _drawn(pair: Pair, rows: Any, column: str | None) -> str:
    known = observed_columns(pair, rows)
    if column is None and len(known) != 1:
        raise ValueError(
            f"{pair.name} draws {', '.join(map(repr, known)) or 'no column'}: say which, column=..."
        )
    if column is not None and column not in known:
        raise ValueError(unknown_name(f"column of {pair.name}", column, known))
    return known[0] if column is None else column
