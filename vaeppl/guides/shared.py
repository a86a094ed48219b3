"""Guides of the latents that all rows share: independent normals, or one of Pyro's own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
import torch.nn.functional as F
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from ..errors import StoryError
from .families import SCALE_FLOOR
from .heads import bijection, start_of
from .story import StoryRead

__all__ = ["make_shared"]

WIDTH = 0.02  # of q at the start, in the unit of the prior


class Normals(nn.Module):
    """q = ∏ N(m, s²) over all reals, in the unit of the prior, mapped to the supports."""

    def __init__(self, story: StoryRead, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.loc, self.raw = nn.ParameterList(), nn.ParameterList()
        self.maps: dict[str, Any] = {}
        self.event_dims: dict[str, int] = {}
        self.frames: dict[str, tuple[tuple[str, int, int], ...]] = {}
        for place, name in enumerate(names):
            node = story.nodes[name]
            if node.fn.support.is_discrete:
                raise StoryError(
                    f"latent {name!r} is discrete and shared by all rows: write its guide by hand"
                )
            to_support = bijection(node)
            event = node.event_shape
            shape = event if to_support is None else to_support.inverse_shape(event)
            known = start_of(node, to_support, shape) if story.is_fixed(name) else (None, None)
            start = torch.zeros(()) if known[0] is None else known[0]
            unit = torch.ones(()) if known[1] is None else known[1]
            self.register_buffer(f"start_{place}", start)
            self.register_buffer(f"unit_{place}", unit)
            sizes = (*(f.size for f in node.plates), *shape)
            self.loc.append(torch.zeros(sizes))
            self.raw.append(torch.full(sizes, math.log(math.expm1(WIDTH))))
            self.maps[name], self.event_dims[name] = to_support, len(shape)
            self.frames[name] = tuple((f.name, f.size, f.dim) for f in node.plates)

    def forward(self, **columns: Any) -> dict[str, Tensor]:
        """Draw the latents."""
        drawn = {}
        for place, name in enumerate(self.names):
            start, unit = (getattr(self, f"{what}_{place}") for what in ("start", "unit"))
            loc = start + unit * self.loc[place]
            scale = unit * (F.softplus(self.raw[place]) + SCALE_FLOOR)
            q = dist.Normal(loc, scale).to_event(self.event_dims[name])
            to_support = self.maps[name]
            with entered(self.frames[name]):
                drawn[name] = pyro.sample(
                    name, q if to_support is None else dist.TransformedDistribution(q, [to_support])
                )
        return drawn


class OfPyro(nn.Module):
    """One of Pyro's own guides, for the latents that all rows share."""

    def __init__(
        self,
        make: Callable[..., AutoGuide],
        told: Callable[..., Any],
        names: Sequence[str],
        batch: Mapping[str, Tensor | None],
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.guide = make(poutine.block(told, expose=list(names)))
        store = pyro.get_param_store()
        with store.scope(store.get_state()), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.guide(**batch)  # makes its parameters

    def forward(self, **columns: Any) -> dict[str, Tensor]:
        """Draw the latents."""
        drawn: dict[str, Tensor] = self.guide(**columns)
        return drawn


def make_shared(kind: Any, story: StoryRead, names: Sequence[str]) -> Any:
    """Return the guide of the latents outside the plate of rows; ``None`` if there are none.

    Parameters
    ----------
    kind
        ``"normal"``, or a class of :mod:`pyro.infer.autoguide`.
    story
        The story.
    names
        Which of its latents are shared.
    """
    if kind != "normal" and not callable(kind):
        raise ValueError(f"shared is 'normal' or a class of pyro.infer.autoguide; given {kind!r}")
    if not names:
        return None
    if kind == "normal":
        return Normals(story, names)
    if inspect.isclass(kind) and not issubclass(kind, AutoGuide):
        raise ValueError(f"{kind.__name__} is no class of pyro.infer.autoguide")
    return OfPyro(kind, story.told, names, story.batch)


def entered(frames: Sequence[tuple[str, int, int]]) -> ExitStack:
    """Enter plates by name, size and dimension."""
    stack = ExitStack()
    for name, size, dim in frames:
        stack.enter_context(pyro.plate(name, size, dim=dim))
    return stack
