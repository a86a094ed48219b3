"""Entries that are missing: left out of the likelihood, and of what a guide looks at."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import wraps
from typing import Any

import torch
from pyro.distributions import Independent
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .distributions import MixedColumns
from .errors import StoryError
from .structure import base_of

__all__ = ["leaving_out_missing"]


def leaving_out_missing(story: Callable[..., Any], columns: Collection[str]) -> Callable[..., Any]:
    """Return a story whose observed columns are scored without their NaN entries.

    Where what is missing does not tell of itself (missing at random), the evidence of a row is that
    of the entries which are there, p(x_there) = ∫ p(z) p(x_there | z) dz, as the entries of a row
    are independent given its latents.

    Parameters
    ----------
    story
        A model function.
    columns
        The columns that it may observe.

    Raises
    ------
    StoryError
        When it runs: an observed distribution whose entries depend on each other given the latents.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, pyro.poutine as poutine
    >>> def model(x=None):
    ...     with pyro.plate("rows", 2):
    ...         pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), obs=x)
    >>> whole = leaving_out_missing(model, ["x"])
    >>> trace = poutine.trace(whole).get_trace(x=torch.tensor([[0.0, torch.nan], [0.0, 0.0]]))
    >>> trace.compute_log_prob()
    >>> trace.nodes["x"]["log_prob"]
    tensor([-0.9189, -1.8379])
    """
    names = frozenset(columns)

    @wraps(story)
    def told(*args: Any, **kwargs: Any) -> Any:
        with _Missing(names):
            return story(*args, **kwargs)

    return told


class _Missing(Messenger):
    def __init__(self, columns: frozenset[str]) -> None:
        super().__init__()
        self.columns = columns

    def _pyro_sample(self, msg: Any) -> None:
        value = msg["value"]
        if not (msg["is_observed"] and msg["name"] in self.columns):
            return
        if isinstance(value, Tensor) and value.is_floating_point():
            seen = ~value.isnan()
            msg["fn"] = _masked(msg["fn"], seen, msg["name"])
            msg["value"] = torch.where(seen, value, _inside(msg["fn"], value))


def _masked(fn: Any, seen: Tensor, name: str) -> Any:
    """Return a distribution that counts the entries which are there alone."""
    if isinstance(fn, Independent):
        inner = fn.base_dist
        while isinstance(inner, Independent):
            inner = inner.base_dist
        if inner.event_dim == 0:
            return inner.mask(seen).to_event(fn.event_dim)
    elif isinstance(fn, MixedColumns):
        parts = seen.split(fn.sizes, dim=-1)
        return MixedColumns([_masked(p, s, name) for p, s in zip(fn.parts, parts, strict=True)])
    elif fn.event_dim == 0:
        return fn.mask(seen)
    raise StoryError(
        f"entries of {name!r} are missing, but given the latents they depend on each other "
        f"({type(fn).__name__}), so single ones cannot be left out; give the entries a "
        "distribution of independent ones, .to_event(1)"
    )


def _inside(fn: Any, value: Tensor) -> Tensor:
    """Return a value that each entry may have, to stand where one is missing."""
    if isinstance(fn, MixedColumns):
        parts = value.split(fn.sizes, dim=-1)
        return torch.cat([_inside(p, v) for p, v in zip(fn.parts, parts, strict=True)], dim=-1)
    support: Any = base_of(fn).support
    low, high = (getattr(support, b, None) for b in ("lower_bound", "upper_bound"))
    if getattr(support, "is_discrete", False) or (low is None and high is None):
        return torch.zeros_like(value)
    inside: Any
    if low is None or high is None:
        inside = high - 1 if low is None else low + 1  # type: ignore[operator]
    else:
        inside = (low + high) / 2
    return torch.zeros_like(value) + inside
