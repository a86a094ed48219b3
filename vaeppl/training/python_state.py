"""What a story depends on beside the tensors that it is given: numbers, flags, texts, generators.

A graph of a step holds such values as they were when it was made. So they are compared with what
they are now.
"""

from __future__ import annotations

import inspect
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["difference", "plain_state", "reachable_tensors"]

DEPTH = 12
MOST = 50_000
IGNORED = {"_initial_weights", "_param_store", "_store"}
PLAIN = (bool, int, float, complex, str, bytes, type(None), Enum, torch.dtype, torch.device)


def plain_state(roots: Mapping[str, Any]) -> dict[str, Any]:
    """Return every value that is no tensor, by the path under which a root reaches it.

    Parameters
    ----------
    roots
        Stories, by name: modules, functions (with what they close over, and the globals that they
        name), methods, any objects.

    Examples
    --------
    >>> scale = 2.0
    >>> def model(x):
    ...     return scale * x
    >>> plain_state({"model": model})
    {'model: scale': 2.0}
    """
    return {path: value for path, value in _leaves(roots) if not isinstance(value, Tensor)}


def reachable_tensors(roots: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors that the roots reach, each once."""
    found = {id(value): value for _, value in _leaves(roots) if isinstance(value, Tensor)}
    return list(found.values())


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name the first value that differs, with what it was and is; empty if none does.

    Examples
    --------
    >>> difference({"story.calls": 1, "story.k": 2}, {"story.calls": 2, "story.k": 2})
    'story.calls was 1 and is 2'
    """
    for path in [*before, *(now.keys() - before.keys())]:
        if path not in now or path not in before:
            return f"{path} {'is new' if path in now else 'is gone'}"
        was, is_ = before[path], now[path]
        if was is not is_ and (type(was) is not type(is_) or was != is_) and was == was:
            return f"{path} was {_short(was)} and is {_short(is_)}"
    return ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else text[:36] + " …"


def _leaves(roots: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Walk breadth-first, so that a limit leaves out what is far."""
    seen: set[int] = set()
    waiting = deque((name, value, 0) for name, value in roots.items())
    count = 0
    while waiting and count < MOST:
        path, value, depth = waiting.popleft()
        if isinstance(value, PLAIN):
            count += 1
            yield path, value
            continue
        if id(value) in seen or depth > DEPTH:
            continue
        seen.add(id(value))
        count += 1
        if isinstance(value, Tensor):
            yield path, value
            yield f"{path}.requires_grad", value.requires_grad
        elif (noted := _noted(value)) is not None:
            yield path, noted
        else:
            waiting.extend((p, v, depth + 1) for p, v in _parts(path, value))


def _noted(value: Any) -> Any:
    """Return what stands for a value that changes as a whole; ``None`` for others."""
    if isinstance(value, (np.random.Generator, np.random.RandomState)):
        bits = value.bit_generator if isinstance(value, np.random.Generator) else value
        return str(bits.state if hasattr(bits, "state") else bits.get_state())
    if isinstance(value, random.Random):
        return hash(value.getstate())
    if isinstance(value, torch.Generator):
        return bytes(value.get_state().numpy().tobytes())
    if isinstance(value, np.ndarray):
        small = value.size <= 10_000 and value.dtype != object
        return (value.shape, str(value.dtype), hash(value.tobytes()) if small else None)
    if isinstance(value, np.generic):
        return value.item()
    return None


def _parts(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if inspect.ismethod(value):
        yield path, value.__self__
        yield path, value.__func__
    elif inspect.isfunction(value):
        yield from _closure(path, value)
    elif isinstance(value, Mapping):
        for key, item in list(value.items()):
            if key not in IGNORED:
                yield f"{path}[{key!r}]", item
    elif isinstance(value, (Sequence, deque)):
        for number, item in enumerate(value):
            yield f"{path}[{number}]", item
    elif isinstance(value, (set, frozenset)):
        yield path, str(sorted(map(repr, value)))
    elif isinstance(value, nn.Module):
        yield from _of_module(path, value)
    elif not isinstance(value, type) and not inspect.ismodule(value):
        for name, item in list(getattr(value, "__dict__", {}).items()):
            if name not in IGNORED:
                yield f"{path}.{name}", item


def _of_module(path: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, item in list(vars(module).items()):
        if name in ("_parameters", "_buffers", "_modules"):
            yield from ((f"{path}.{key}", part) for key, part in item.items())
        elif name not in IGNORED and not (name.startswith("_") and not item and item is not False):
            yield f"{path}.{name}", item


def _closure(path: str, function: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a function closes over, its defaults, and the globals that it names."""
    function = inspect.unwrap(function)
    try:
        variables = inspect.getclosurevars(function)
    except (TypeError, ValueError):
        return
    for name, item in {**variables.globals, **variables.nonlocals}.items():
        yield f"{path}: {name}", item
    for number, item in enumerate(function.__defaults__ or ()):
        yield f"{path}: default {number}", item
