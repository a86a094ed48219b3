"""From a graph to machine code, by torch's inductor."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["build"]

OPTIONS: dict[str, Any] = {
    # The random numbers of torch's own generator: those that an eager step draws.
    "fallback_random": True,
    # Operations that change a tensor in place stay where they were written.
    "reorder_for_peak_memory": False,
    # Shapes are a part of what a graph is looked up by.
    "size_asserts": False,
}


def build(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Compile a graph for inputs of these shapes; what was compiled before comes from a cache.

    Parameters
    ----------
    graph
        It may change its inputs in place.
    inputs
        As it will be called with.

    Raises
    ------
    Exception
        Of many kinds: there is no C++ compiler, or inductor does not know an operation.
    """
    # Imported here, as it takes a second that no other part of a fit should wait for.
    import torch._inductor as inductor

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        compiled: Callable[..., Any] = inductor.compile(graph, list(inputs), options=OPTIONS)
    return compiled
