"""What depends on what in a story: its sites with their parents, plates and shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, get_provenance
from torch import Tensor

__all__ = ["Node", "ancestors", "base_of", "read_structure"]


@dataclass(frozen=True)
class Node:
    """A site of a story, and what its distribution depends on.

    Attributes
    ----------
    name : str
    fn : Distribution
        As it was when the story was run, expanded by its plates.
    value : Tensor
        What was drawn or observed.
    parents : tuple of str
        Sites, and columns that are given, on which its distribution depends directly; in the order
        in which they come about.
    plates : tuple
        Its plates, as Pyro's frames, outermost dimension first.
    arguments : mapping of str to str
        The numbers of its distribution: ``"0"`` where one is fixed, ``"f(z)"`` where it depends on
        sites, ``"learnt"`` where on parameters alone.
    observed, enumerated : bool
        Whether it is observed; whether it is marked to be summed out.
    infer : mapping
        What the story says of its inference.
    """

    name: str
    fn: Any
    value: Tensor
    parents: tuple[str, ...]
    plates: tuple[Any, ...]
    arguments: Mapping[str, str]
    observed: bool
    enumerated: bool
    infer: Mapping[str, Any]

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one draw."""
        shape: torch.Size = self.fn.event_shape
        return shape

    def is_in(self, plate: str) -> bool:
        """Tell whether the site stands in a plate of that name."""
        return any(frame.name == plate for frame in self.plates)


def read_structure(
    story: Callable[..., Any], columns: Mapping[str, Tensor | None], *, replayed: Any = None
) -> dict[str, Node]:
    """Run a model or a guide, and note which site depends on which.

    The dependence is found by running: what a tensor was computed from travels with it
    (:mod:`pyro.ops.provenance`). A dependence by Python's own control flow is not seen.

    Parameters
    ----------
    story
        A model or a guide.
    columns
        What it takes by name; ``None`` for columns to be drawn.
    replayed
        A trace whose draws to use.

    Returns
    -------
    dict of str to Node
        In the order in which they were drawn.

    Examples
    --------
    >>> import pyro.distributions as dist
    >>> from vaeppl import rows
    >>> def model(x=None):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     with rows(x):
    ...         z = pyro.sample("z", dist.Normal(mu, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> found = read_structure(model, {"x": torch.zeros(3)})
    >>> {name: node.parents for name, node in found.items()}
    {'mu': (), 'z': ('mu',), 'x': ('z',)}
    """
    marked = {
        name: None if value is None else _marked(value, name) for name, value in columns.items()
    }
    told = poutine.replay(story, trace=replayed) if replayed is not None else story
    with pyro.validation_enabled(False), torch.enable_grad(), _Provenance():
        trace = poutine.trace(told).get_trace(**marked)
    order = [*columns, *trace.nodes]
    found = {}
    nodes: dict[str, Any] = trace.nodes
    for name, site in nodes.items():
        if site["type"] != "sample" or type(site["fn"]).__name__ == "_Subsample":
            continue
        score = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        sources = (get_provenance(score) | _sources(site["fn"])) - {name}
        frames = [f for f in site["cond_indep_stack"] if f.vectorized]
        found[name] = Node(
            name,
            site["fn"],
            detach_provenance(site["value"]).detach(),
            tuple(n for n in dict.fromkeys(order) if n in sources),
            tuple(sorted(frames, key=lambda f: f.dim)),
            _arguments(site["fn"], order),
            bool(site["is_observed"]),
            bool(site["infer"].get("enumerate")),
            dict(site["infer"]),
        )
    return found


def _sources(fn: Any) -> frozenset[str]:
    """Return what the numbers that a distribution holds were computed from.

    Its score alone may not tell, as a gradient that is written by hand hides where it came from.
    """
    found: frozenset[str] = frozenset()
    held = list(getattr(fn, "__dict__", {}).values())
    for value in held:
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(one, Tensor):
                found |= get_provenance(one)
            elif isinstance(one, torch.distributions.Distribution):
                found |= _sources(one)
    return found


def _arguments(fn: Any, order: list[str]) -> dict[str, str]:
    """Return what the numbers of a distribution are, in words."""
    base = base_of(fn)
    if isinstance(base, torch.distributions.MixtureSameFamily):
        return _mixture_arguments(base, order)
    held = {n: v for n, v in vars(base).items() if not n.startswith("_")}
    names = [n for n in getattr(base, "arg_constraints", {}) if isinstance(held.get(n), Tensor)]
    return {name: _in_words(held[name], order) for name in names}


def _mixture_arguments(mixture: Any, order: list[str]) -> dict[str, str]:
    """Return what a mixture is made of, and its weights, in words."""
    weights, part = mixture.mixture_distribution, base_of(mixture.component_distribution)
    inner = ", ".join(f"{n}={v}" for n, v in _arguments(part, order).items())
    parts = f"{weights.param_shape[-1]} × {type(part).__name__}"
    told = f"{parts}({inner})" if inner else parts
    return {"components": told, "weights": _in_words(weights.probs, order)}


def _in_words(value: Tensor, order: list[str]) -> str:
    sources, plain = get_provenance(value), detach_provenance(value)
    # A number that was broadcast with others is marked as they are.
    first = plain.detach().flatten()[0]
    constant = not plain.requires_grad and bool((plain == first).all())
    if sources and not (constant and plain.numel() > 1):
        return f"f({', '.join(n for n in dict.fromkeys(order) if n in sources)})"
    if plain.requires_grad:
        return "learnt"
    return f"{float(first):.4g}" if constant else "fixed"


def _marked(value: Tensor, name: str) -> Tensor:
    plain = detach_provenance(value)
    return ProvenanceTensor(plain, frozenset({name}))


class _Provenance(poutine.messenger.Messenger):
    """Marks what is drawn or observed with the name of its site."""

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if isinstance(msg["value"], Tensor) and type(msg["fn"]).__name__ != "_Subsample":
            msg["value"] = _marked(msg["value"], msg["name"])


def ancestors(nodes: Mapping[str, Node], name: str) -> set[str]:
    """Return all sites and columns on which a site depends, directly or not."""
    found: set[str] = set()
    todo = list(nodes[name].parents) if name in nodes else []
    while todo:
        parent = todo.pop()
        if parent not in found:
            found.add(parent)
            todo += nodes[parent].parents if parent in nodes else ()
    return found


def base_of(fn: Any) -> Any:
    """Take off what plates, masks and ``to_event`` have wrapped around a distribution."""
    while type(fn).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution"):
        fn = fn.base_dist
    return fn
