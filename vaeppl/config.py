"""Objects that remember how they were built, so that a fit can be saved as JSON and built again."""

from __future__ import annotations

import copy
import importlib
import inspect
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from torch import Tensor, nn

from .errors import CheckpointError

__all__ = ["Configurable", "build", "opaque_arguments", "rebuild", "to_config"]

LONGEST_ARRAY = 10_000  # numbers that a configuration may hold as a list; weights have a file


class Configurable:
    """Remembers the arguments of its constructor.

    A mixin: ``class Laplace(Configurable, nn.Module)``. Nothing else is asked of the subclass.
    Arguments that are JSON values, short arrays, or themselves :class:`Configurable`, can be saved;
    any other (a network written by the user, say) is kept by reference and named when a fit is
    loaded.

    Examples
    --------
    >>> class Scale(Configurable):
    ...     def __init__(self, value=1.0, *, learnt=False):
    ...         self.value = value
    >>> Scale(2.0).config()
    {'value': 2.0, 'learnt': False}
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Note the arguments, before the constructor runs."""
        self = super().__new__(cls)
        # nn.Module is not initialised yet, so its __setattr__ must not see this.
        self.__dict__["_constructor_arguments"] = (args, kwargs)
        return self

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments by name, defaults included."""
        args, kwargs = self.__dict__.get("_constructor_arguments", ((), {}))
        signature = inspect.signature(type(self).__init__)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        for name, parameter in signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(name, {}))
            elif parameter.kind is inspect.Parameter.VAR_POSITIONAL and not arguments[name]:
                del arguments[name]
        return arguments


def _construct(cls: type, arguments: Mapping[str, Any]) -> Any:
    """Call a constructor with arguments by name, those that it takes by position included."""
    by_name, by_position = dict(arguments), []
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    ahead = [p for p in parameters if p.kind is p.VAR_POSITIONAL and p.name in by_name]
    for parameter in parameters:
        if parameter in ahead:
            by_position += by_name.pop(parameter.name)
        elif parameter.kind is parameter.POSITIONAL_ONLY or (
            ahead and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ):
            by_position.append(by_name.pop(parameter.name))
    return cls(*by_position, **by_name)


def class_name(cls: type) -> str:
    """Return ``"module:Class"``, the name under which :func:`build` finds a class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def to_config(value: Any) -> Any:
    """Turn a value into JSON: objects become ``{"class": ..., "arguments": {...}}``.

    Tuples and short arrays become lists.

    Raises
    ------
    TypeError
        If the value is neither JSON nor :class:`Configurable`.
    """
    if isinstance(value, Configurable):
        arguments = {k: to_config_or_opaque(v) for k, v in value.config().items()}
        return {"class": class_name(type(value)), "arguments": arguments}
    if isinstance(value, Mapping):
        return {str(k): to_config_or_opaque(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_config_or_opaque(v) for v in value]
    if (
        isinstance(value, (np.generic, np.ndarray, Tensor))
        and math.prod(value.shape) <= LONGEST_ARRAY
    ):
        return to_config(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} is neither JSON nor Configurable")


def to_config_or_opaque(value: Any) -> Any:
    try:
        return to_config(value)
    except TypeError:
        return {"opaque": class_name(type(value))}


def opaque_arguments(config: Any, path: str = "") -> list[str]:
    """List the arguments that could not be written as JSON, by their path."""
    if isinstance(config, Mapping):
        if "opaque" in config and config.keys() <= {"opaque", "source"}:
            return [f"{path} ({config['opaque']})"]
        items = config["arguments"].items() if _is_object(config) else config.items()
        return [p for k, v in items for p in opaque_arguments(v, f"{path}.{k}".lstrip("."))]
    if isinstance(config, list):
        return [p for i, v in enumerate(config) for p in opaque_arguments(v, f"{path}[{i}]")]
    return []


def _is_object(config: Mapping[str, Any]) -> bool:
    return set(config) == {"class", "arguments"}


def build(config: Any, classes: Mapping[str, type] | None = None) -> Any:
    """Build the object that :func:`to_config` described.

    Parameters
    ----------
    config
        What :func:`to_config` returned, as read from JSON.
    classes
        Classes by their ``"module:Class"`` name, for those that live in a user's own file.
        Every other class must be a :class:`Configurable` of vaeppl: nothing else is imported.
    """
    if isinstance(config, list):
        return [build(v, classes) for v in config]
    if not isinstance(config, Mapping):
        return config
    if set(config) == {"float"}:
        return float(config["float"])
    if set(config) == {"opaque"}:
        raise CheckpointError(
            f"an argument of class {config['opaque']} cannot be built from JSON; build the model "
            "yourself and pass it as `model=`"
        )
    if not _is_object(config):
        return {k: build(v, classes) for k, v in config.items()}
    cls = _find_class(config["class"], classes or {})
    return _construct(cls, {k: build(v, classes) for k, v in config["arguments"].items()})


def _find_class(name: str, classes: Mapping[str, type]) -> type:
    if name in classes:
        return classes[name]
    module, _, qualname = name.partition(":")
    if module == "vaeppl" or module.startswith("vaeppl."):
        found: Any = None
        with suppress(ImportError):
            found = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part, None)
        if isinstance(found, type) and issubclass(found, Configurable):
            return found
    raise CheckpointError(
        f"the class {name} is not part of vaeppl; import it and pass classes={{{name!r}: "
        f"{name.rpartition(':')[2]}}}, or a model built from it as `model=`"
    )


def rebuild(value: Any) -> Any:
    """Build a :class:`Configurable` anew from its arguments, nested ones included.

    Networks that cannot be rebuilt (a user's own) are copied as they are; what else is opaque is
    shared.
    """
    if isinstance(value, Configurable):
        return _construct(type(value), {k: rebuild(v) for k, v in value.config().items()})
    if isinstance(value, nn.Module):
        # A PyroModule must not get a second parent, or it forgets the first.
        return copy.deepcopy(value)
    if isinstance(value, (list, tuple)):
        return type(value)(rebuild(v) for v in value)
    if isinstance(value, dict):
        return {k: rebuild(v) for k, v in value.items()}
    return value
