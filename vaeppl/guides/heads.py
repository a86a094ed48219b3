"""q of one latent given what an encoder made of its parents: on the latent's own support."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from pyro.ops.provenance import detach_provenance
from torch import Tensor, nn
from torch.distributions import biject_to, constraints, transforms

from ..errors import StoryError
from ..structure import Node, base_of
from .families import DiagonalNormal, Family
from .inputs import LatentFeatures

__all__ = ["Head", "bijection", "make_head", "start_of"]

DRAWS = 2000  # of a prior without mean and variance in closed form, to find where it lies
DISCRETE = ("Categorical", "OneHotCategorical", "Bernoulli")


class Head(nn.Module):
    """Base of the heads: ``head(h)`` is q(z | h) with the batch shape of the latent's plates.

    Attributes
    ----------
    features : LatentFeatures
        How draws enter the encoders of other latents.
    infer : dict
        What ``pyro.sample`` is told.
    """

    features: LatentFeatures
    infer: Any

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.frames = _frames(node)  # of the plates beside that of rows, outermost first
        innermost = min((dim for _, _, dim in self.frames), default=-1)
        sizes = {dim: size for _, size, dim in self.frames}
        self.plates = tuple(sizes.get(dim, 1) for dim in range(innermost, -1))
        self.infer = {}

    def spread(self, values: Tensor, shape: Sequence[int]) -> Tensor:
        """Turn ``(..., B, plates * shape)`` into ``(..., *plates, B, *shape)``."""
        count, size = len(self.plates), len(shape)
        while values.ndim < count + 2:
            values = values.unsqueeze(0)
        values = values.reshape(*values.shape[:-1], *self.plates, *shape)
        rows = values.ndim - size - count - 1
        for _ in self.plates:  # in the place of each plate stands a 1
            rows -= 1
            values = values.squeeze(rows)
        return values.movedim(rows, rows + count)

    def known(self, value: Tensor) -> Tensor:
        """Turn the values of a column into what would be drawn."""
        return value

    def gathered(self, z: Tensor) -> Tensor:
        """Return the features of draws, those of all plates side by side: ``(..., B, width)``."""
        features: Tensor = self.features(z)
        count = len(self.plates)
        if not count:
            return features
        features = features.movedim(-2, -2 - count).flatten(-1 - count)
        for _ in self.plates:  # in the place of each plate stands a 1
            features = features.unsqueeze(-3)
        return features

    @property
    def width(self) -> int:
        """Number of features of a draw, in all plates together."""
        return self.features.out_dim * math.prod(self.plates)


class RealHead(Head):
    """A family over all reals, mapped to the support, in the unit of the prior."""

    def __init__(self, node: Node, family: Family, in_dim: int, start: bool) -> None:
        super().__init__(node)
        if self.plates and not isinstance(family, DiagonalNormal):
            raise StoryError(
                f"latent {node.name!r} stands in plates beside that of rows, so its entries are "
                f"independent there: give family={{{node.name!r}: 'diagonal'}}"
            )
        self.to_support = bijection(node)
        shape = node.event_shape
        self.shape = shape if self.to_support is None else self.to_support.inverse_shape(shape)
        to_reals = None if self.to_support is None else self.to_support.inv
        self.features = LatentFeatures(shape, to_reals=to_reals)
        self.q = family.bind(in_dim, math.prod(self.plates) * math.prod(self.shape))
        loc, unit = start_of(node, self.to_support, self.shape) if start else (None, None)
        self.register_buffer("loc", loc)
        self.register_buffer("unit", unit)

    loc: Tensor | None
    unit: Tensor | None

    def forward(self, h: Tensor) -> TorchDistribution:
        """Return q(z | h)."""
        q: Any = self.q(h)
        steps: list[Any] = []
        if isinstance(q, dist.Independent) and isinstance(q.base_dist, dist.Normal):
            loc, scale = (self.spread(v, self.shape) for v in (q.base_dist.loc, q.base_dist.scale))
            if self.loc is not None and self.unit is not None:
                loc, scale = self.loc + self.unit * loc, self.unit * scale
            q = dist.Normal(loc, scale).to_event(len(self.shape))
        else:
            if len(self.shape) != 1:
                steps.append(
                    transforms.ReshapeTransform(torch.Size([math.prod(self.shape)]), self.shape)
                )
            if self.loc is not None and self.unit is not None:
                steps.append(transforms.AffineTransform(self.loc, self.unit, len(self.shape)))
        if self.to_support is not None:
            steps.append(self.to_support)
        return dist.TransformedDistribution(q, steps) if steps else q


class DiscreteHead(Head):
    """A categorical or Bernoulli whose logits are linear in h."""

    def __init__(self, node: Node, in_dim: int, enumerate_: bool) -> None:
        super().__init__(node)
        base: Any = base_of(node.fn)
        self.kind = type(base).__name__
        self.event = tuple(node.event_shape)
        codes = self.kind == "Categorical"
        self.logits_shape = (*self.event, base.logits.shape[-1]) if codes else self.event
        self.head = nn.Linear(in_dim, math.prod(self.plates) * math.prod(self.logits_shape))
        self.features = LatentFeatures(node.event_shape, base.logits.shape[-1] if codes else None)
        single = self.event == () or self.kind == "OneHotCategorical"
        if enumerate_ and single and not self.plates:
            self.infer = {"enumerate": "parallel"}

    def known(self, value: Tensor) -> Tensor:
        """Turn codes into indicators, where those are drawn."""
        if self.kind == "OneHotCategorical" and not value.is_floating_point():
            return F.one_hot(value, self.event[-1]).to(torch.get_default_dtype())
        return value

    def forward(self, h: Tensor) -> TorchDistribution:
        """Return q(z | h)."""
        logits = self.spread(self.head(h), self.logits_shape)
        q: Any = getattr(dist, self.kind)(logits=logits)
        own = 1 if self.kind == "OneHotCategorical" else 0
        return q.to_event(len(self.event) - own) if len(self.event) > own else q


def make_head(node: Node, in_dim: int, family: Family, *, enumerate_: bool, start: bool) -> Head:
    """Return the head of a latent.

    Parameters
    ----------
    node
        The latent in its story.
    in_dim
        Size of h.
    family
        Of q over all reals.
    enumerate_
        Whether a discrete latent is to be summed out.
    start
        Whether to start where the prior lies, with its width for a unit.

    Raises
    ------
    StoryError
        If the latent's support is none that a guide is known for.
    """
    if type(base_of(node.fn)).__name__ in DISCRETE:
        return DiscreteHead(node, in_dim, enumerate_)
    if node.fn.support.is_discrete:
        raise StoryError(
            f"latent {node.name!r} ({type(base_of(node.fn)).__name__}) is discrete; a guide is "
            f"made for {', '.join(DISCRETE)} only: write one by hand"
        )
    return RealHead(node, family, in_dim, start)


def _frames(node: Node) -> tuple[tuple[str, int, int], ...]:
    return tuple((f.name, f.size, f.dim) for f in node.plates if f.name != "rows")


def bijection(node: Node) -> Any:
    """Return the map from all reals to a latent's support; ``None`` if they are the same."""
    support: Any = base_of(node.fn).support
    while hasattr(support, "base_constraint"):  # of vectors, and of mixtures
        support = support.base_constraint
    if support is constraints.real:
        return None
    bounds = {n: _one_number(node, getattr(support, n)) for n in _bounds_of(support)}
    if bounds:
        support = type(support)(**bounds)
    try:
        return Onto(biject_to(support), support)
    except NotImplementedError:
        raise StoryError(
            f"latent {node.name!r} has the support {support}, to which no map from the reals is "
            "known: write its guide by hand"
        ) from None


class Onto(transforms.ComposeTransform):
    """A map from the reals that knows on which support it ends."""

    def __init__(self, to_support: Any, support: Any) -> None:
        super().__init__([to_support])
        self.support = support

    @property
    def codomain(self) -> Any:  # type: ignore[override]
        """The support."""
        return self.support


def _bounds_of(support: Any) -> list[str]:
    return [n for n in ("lower_bound", "upper_bound") if hasattr(support, n)]


def _one_number(node: Node, bound: Any) -> float:
    values = detach_provenance(torch.as_tensor(bound)).detach().flatten()
    if not (values == values[0]).all():
        raise StoryError(
            f"latent {node.name!r} lies between bounds that differ from row to row or from entry "
            "to entry: sample it between 0 and 1, and stretch it in the story"
        )
    return float(values[0])


def start_of(node: Node, to_support: Any, shape: Sequence[int]) -> tuple[Any, Any]:
    """Return where the prior lies and how wide it is, over all reals; ``None`` for N(0, 1).

    Asked only of a prior that depends on no latent and on nothing learnt.
    """
    base: Any = base_of(node.fn)
    with torch.no_grad():
        if to_support is None and isinstance(base, torch.distributions.Normal):
            loc, scale = (detach_provenance(v).detach() for v in (base.loc, base.scale))
            loc, scale = (v.reshape(-1, *_last(v, shape)).mean(0) for v in (loc, scale))
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                drawn = detach_provenance(node.fn.sample((DRAWS,))).detach()
            drawn = drawn if to_support is None else to_support.inv(drawn)
            drawn = drawn.reshape(-1, *shape)
            low, loc, high = drawn.quantile(drawn.new_tensor([0.16, 0.5, 0.84]), dim=0)
            scale = (high - low) / 2
            if ((loc.abs() < 0.2 * scale) & (scale.log().abs() < 0.5)).all():
                return None, None
    if not (loc.isfinite().all() and scale.isfinite().all() and (scale > 0).all()):
        return None, None
    if (loc == 0).all() and (scale == 1).all():
        return None, None
    return loc.expand(tuple(shape)).clone(), scale.expand(tuple(shape)).clone()


def _last(values: Tensor, shape: Sequence[int]) -> Sequence[int]:
    """Return the last dimensions of values that are those of an event."""
    return values.shape[values.ndim - min(len(shape), values.ndim) :]
