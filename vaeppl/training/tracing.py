"""A step of training as one flat graph of tensor operations, or a reason why it is none.

The step (a Pyro story and its guide, the estimator, the gradient and the optimiser) runs once as it
stands, while ``make_fx`` writes down each tensor operation. The graph gives the numbers of the
step for as long as what was written down is all that the step depends on. So a step is refused that
reads the value of a tensor, draws random numbers that are not torch's, has shapes that depend on
data, or does other things when it runs a second time.
"""

from __future__ import annotations

import linecache
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType, TracebackType
from typing import Any

import numpy as np
import pyro.util
import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.overrides import TorchFunctionMode

__all__ = ["Graph", "Untraceable", "place_of", "trace", "trace_twice"]

READS = {
    getattr(Tensor, name)
    for name in (
        *("item", "numpy", "tolist", "data_ptr", "__array__", "__repr__", "__format__"),
        *("__bool__", "__float__", "__int__", "__index__", "__complex__"),
    )
} | {torch.equal, torch.allclose, Tensor.equal, Tensor.allclose}
MACHINERY = (
    *("torch", "pyro", "gpytorch", "zuko", "vaeppl"),
    *("opt_einsum", "numpy", "contextlib", "functools"),
)


class Untraceable(Exception):
    """Why a step cannot be one graph; the message says so in words."""


@dataclass
class Graph:
    """A step as a graph.

    Attributes
    ----------
    module : torch.fx.GraphModule
        It takes the inputs, then the tensors that are closed over.
    closed_over : list of Tensor
        Those that the step used and was not given: buffers of the model, constants.
    steps : list of str
        One line for each operation, alike in two graphs that do the same.
    places : list of str
        The line of the story that each operation comes from.
    """

    module: fx.GraphModule
    closed_over: list[Tensor]
    steps: list[str] = field(repr=False)
    places: list[str] = field(repr=False)


def trace_twice(step: Callable[..., Any], inputs: Sequence[Tensor]) -> Graph:
    """Trace a step two times, and refuse it unless both graphs are the same.

    Parameters
    ----------
    step
        It takes the inputs, uses these very objects, and returns tensors.
    inputs
        Tensors that may differ, or be changed by the step, from one run to the next.

    Raises
    ------
    Untraceable
        The step depends on something that is not a tensor.

    Examples
    --------
    >>> a, b = torch.ones(3), torch.zeros(())
    >>> graph = trace_twice(lambda a, b: b.add_(a.sum()), [a, b])
    >>> float(b), float(graph.module(a, b))
    (6.0, 9.0)
    >>> trace_twice(lambda a: a + 1 if a.sum() > 0 else a, [a])
    Traceback (most recent call last):
    vaeppl.training.tracing.Untraceable: it reads the value of a tensor (Tensor.__bool__)...
    """
    first, second = trace(step, inputs), trace(step, inputs)
    for number, (one, two) in enumerate(zip(first.steps, second.steps, strict=False)):
        if one != two:
            place = first.places[number]
            raise Untraceable(
                "it does not do the same when it runs again, so it depends on something beside "
                f"tensors and torch's random numbers ({one} became {two}{_at(place)})"
            )
    if len(first.steps) != len(second.steps):
        raise Untraceable(
            f"it took {len(first.steps)} operations, and {len(second.steps)} when it ran again, so "
            "it depends on something beside tensors and torch's random numbers"
        )
    if [id(t) for t in first.closed_over] != [id(t) for t in second.closed_over]:
        raise Untraceable(
            "it uses a tensor that is another one when it runs again (an attribute that is set "
            "anew, or a tensor made from an array): change it in place, or register a buffer"
        )
    return second


def trace(step: Callable[..., Any], inputs: Sequence[Tensor]) -> Graph:
    """Run a step, and return the graph of what it did; as :func:`trace_twice`, once."""
    watch = _Watch()

    def watched(*tensors: Tensor) -> Any:
        with watch:
            return step(*tensors)

    host = random.getstate(), np.random.get_state()
    # Without the dispatcher inductor takes some random operations for pure ones, and moves them.
    # One mode of fake tensors for all nodes: make_fx would make one for each, which takes longer.
    context = TracingContext(FakeTensorMode(allow_fallback_kernels=True))
    with enable_python_dispatcher(), _no_look_for_nan(), tracing(context):
        module = make_fx(watched)(*inputs)
    if not _same_host_state(host):
        raise Untraceable(
            "it draws random numbers of Python or NumPy; draw them with torch, or from pyro.sample"
        )
    graph = _cleaned(module, watch)
    for node in module.graph.nodes:
        node.meta.clear()  # it would keep tensors alive, and belongs to no cache's key
    return graph


@contextmanager
def _no_look_for_nan() -> Iterator[None]:
    """Let Pyro not look whether a loss or its gradient is NaN: the loop looks itself."""
    util: Any = pyro.util
    before, util.torch_isnan = util.torch_isnan, lambda value: False
    try:
        yield
    finally:
        util.torch_isnan = before


def _same_host_state(before: Any) -> bool:
    python, numpy = before
    now: Any = np.random.get_state()
    return python == random.getstate() and numpy[2] == now[2] and bool(np.all(numpy[1] == now[1]))


class _Watch(TorchFunctionMode):
    """Notes which line an operation comes from, and refuses to give away a tensor's value.

    Pyro itself reads some values, of which no number of the step depends but through what stands
    here in their place.
    """

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[tuple[int, str]] = []  # operations so far, and the line that comes next

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        caller = sys._getframe(1)
        name = caller.f_globals.get("__name__", "")
        mode = get_proxy_mode()
        if mode is not None:
            self.marks.append((len(mode.tracer.graph.nodes), place_of(caller)))
        if name.startswith("pyro."):
            if func is Tensor.item:
                return args[0].detach()  # a loss, of which the surrogate's value is taken off
            if func is Tensor.masked_select and name.startswith("pyro.infer"):
                # What has probability 0 is left out of a sum: so is 0.
                return torch.where(args[1], args[0], torch.zeros_like(args[0]))
            if func is Tensor.__bool__ and name == "pyro.infer.util":
                return False  # whether some probability is 0: as if it were
        if func in READS:
            raise Untraceable(
                f"it reads the value of a tensor (Tensor.{func.__name__}), {place_of(caller)}"
            )
        kwargs = kwargs or {}
        if func is F.one_hot:
            return _one_hot(*args, **kwargs)
        if func is Tensor.bernoulli_ and (args[1:] or "p" in kwargs):
            # In place of a draw that inductor would take for one without a reader.
            p = args[1] if args[1:] else kwargs["p"]
            return args[0].copy_(torch.bernoulli(torch.zeros_like(args[0]) + p))
        return func(*args, **kwargs)


def _one_hot(codes: Tensor, num_classes: int = -1) -> Tensor:
    """Return ``F.one_hot``, which looks at the codes, by an index, which the graph checks."""
    if num_classes < 0:
        raise Untraceable("F.one_hot without num_classes reads the largest code")
    return torch.eye(num_classes, dtype=torch.int64, device=codes.device)[codes]


# --- the graph ---


def _cleaned(module: fx.GraphModule, watch: _Watch) -> Graph:
    """Return the graph with closed-over tensors as inputs, and without what nobody uses."""
    places = _places(module.graph, watch.marks)
    closed, literals = _close(module)
    _refuse_data_dependent_shapes(module.graph, places)
    module.graph.eliminate_dead_code(_has_effect)
    module.graph.set_codegen(fx.graph.CodeGen())
    module.recompile()
    nodes = [n for n in module.graph.nodes if n.op == "call_function"]
    names: dict[fx.Node, str] = {}
    for node in module.graph.nodes:
        names[node] = f"%{len(names)}"
    steps = [_line(node, names, literals) for node in nodes]
    return Graph(module, closed, steps, [places.get(n, "") for n in nodes])


def _places(graph: fx.Graph, marks: list[tuple[int, str]]) -> dict[fx.Node, str]:
    places: dict[fx.Node, str] = {}
    waiting, now = iter([*marks, (sys.maxsize, "")]), ""
    after, place = next(waiting)
    for number, node in enumerate(graph.nodes):
        while number >= after:
            now = place
            after, place = next(waiting)
        places[node] = now
    return places


def _close(module: fx.GraphModule) -> tuple[list[Tensor], dict[str, Any]]:
    """Turn tensors that the step closed over into inputs; literals stay, as their values."""
    graph = module.graph
    last = [n for n in graph.nodes if n.op == "placeholder"][-1]
    inputs: dict[int, tuple[fx.Node, Tensor]] = {}
    literals: dict[str, Any] = {}
    for node in [n for n in graph.nodes if n.op == "get_attr"]:
        tensor = getattr(module, str(node.target))
        users = {user.target for user in node.users}
        if users == {torch.ops.aten.lift_fresh_copy.default}:  # torch.tensor(0.5), in the story
            literals[str(node.target)] = (tensor.dtype, tensor.tolist())
            continue
        if id(tensor) not in inputs:
            with graph.inserting_after(last):
                last = graph.placeholder(f"closed_over_{len(inputs)}")
            last.meta["tensor_meta"] = tensor
            inputs[id(tensor)] = (last, tensor)
        node.replace_all_uses_with(inputs[id(tensor)][0])
        graph.erase_node(node)
    return [tensor for _, tensor in inputs.values()], literals


def _has_effect(node: fx.Node) -> bool:
    """Tell whether an operation matters though nobody uses what it returns."""
    if node.op in ("placeholder", "output"):
        return True
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and (
        target._schema.is_mutable or torch.Tag.nondeterministic_seeded in target.tags
    )


def _line(node: fx.Node, names: dict[fx.Node, str], literals: dict[str, Any]) -> str:
    def written(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return literals.get(str(value.target), names[value])
        return value

    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: written(n))
    return f"{node.target}{args}{kwargs or ''}"


def _refuse_data_dependent_shapes(graph: fx.Graph, places: dict[fx.Node, str]) -> None:
    """Refuse them even where nobody uses the tensor: its length may have been used."""
    for node in graph.nodes:
        if torch.Tag.dynamic_output_shape in getattr(node.target, "tags", ()):
            if node.target is torch.ops.aten.index.Tensor and not _is_mask(node):
                continue
            raise Untraceable(f"a shape depends on data ({node.target}{_at(places.get(node))})")


def _is_mask(node: fx.Node) -> bool:
    kinds = (i.meta["tensor_meta"].dtype for i in node.args[1] if i is not None)  # type: ignore
    return any(kind in (torch.bool, torch.uint8) for kind in kinds)


def _at(place: str | None) -> str:
    return f", {place}" if place else ""


# --- lines of a story ---

_PLACES: dict[tuple[CodeType, int], str] = {}


def place_of(where: FrameType | TracebackType | None) -> str:
    """Return the innermost line of the user's own that leads to a frame, or to an exception."""
    found = ""
    for frame, line in _frames(where):
        name = frame.f_globals.get("__name__", "")
        if name.startswith("vaeppl.training."):  # who runs the story, and is no part of it
            break
        ours = name.split(".")[0] in MACHINERY and not name.startswith("vaeppl.models")
        if not ours:
            return _in_words(frame, line)
        if not found and name.startswith("vaeppl."):
            found = _in_words(frame, line)
    return found


def _frames(where: Any) -> Iterator[tuple[FrameType, int]]:
    """Yield frames with their lines, the innermost first."""
    if isinstance(where, TracebackType):
        chain = []
        while where is not None:
            chain.append((where.tb_frame, where.tb_lineno))
            where = where.tb_next
        yield from reversed(chain)
    while isinstance(where, FrameType):
        yield where, where.f_lineno
        where = where.f_back


def _in_words(frame: FrameType, line: int) -> str:
    key = frame.f_code, line
    if key not in _PLACES:
        file = frame.f_code.co_filename
        text = linecache.getline(file, line).strip()
        _PLACES[key] = f"{file}, line {line}" + (f": {text}" if text else "")
    return _PLACES[key]
