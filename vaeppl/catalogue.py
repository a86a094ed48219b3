"""Finding a model by name, or in a user's own file, and building it for some data."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import likelihoods
from .data import Data, Field, as_data
from .errors import CheckpointError, StoryError, unknown_name
from .likelihoods import Likelihood
from .model import Model

__all__ = ["build_for", "entries", "find", "find_unchanged", "likelihood_for", "source_of"]


def entries() -> tuple[Any, ...]:
    """Return the lines of the zoo's catalogue: name, class, story, source."""
    found: tuple[Any, ...] = importlib.import_module("vaeppl.models").CATALOGUE
    return found


def find(reference: str) -> type[Model]:
    """Return a model's class by name (``"vae"``), or from a file (``"my_story.py:MyVAE"``).

    Parameters
    ----------
    reference
        A name of the catalogue, or the path of a Python file with the class after a colon (the
        class may be left out if the file has only one). The file is run.

    Raises
    ------
    StoryError
        There is no such model; the message lists those there are.
    """
    path, _, class_name = reference.rpartition(":") if ".py:" in reference else (reference, "", "")
    if path.endswith(".py"):
        return _class_in(_run_file(Path(path)), class_name, path)
    known = {e.name: e.class_name for e in entries()}
    lower = {**{n: n for n in known}, **{c.lower(): n for n, c in known.items()}}
    if reference.lower() not in lower and Path(f"{path}.py").is_file():
        raise StoryError(f"unknown model {reference!r}: did you mean the file {path}.py?")
    if reference.lower() not in lower:
        raise StoryError(unknown_name("model", reference, known))
    name = lower[reference.lower()]
    found: type[Model] = getattr(importlib.import_module("vaeppl.models"), known[name])
    return found


def _run_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise StoryError(f"there is no file {path}; give the path of a model's Python file")
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise StoryError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # As for a script, so that the file may import what stands beside it.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.pop(0)
    return module


def _module_name(path: Path) -> str:
    """Return the file's own name, unless it would hide another module (``random.py``, say)."""
    name = path.stem.replace(".", "_")
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module that was made by hand
        return f"{name}_story"
    origin = None if spec is None else spec.origin
    own = spec is None or (origin is not None and Path(origin).resolve() == path.resolve())
    return name if own else f"{name}_story"


def _class_in(module: ModuleType, name: str, path: str) -> type[Model]:
    own = {
        k: v
        for k, v in vars(module).items()
        if inspect.isclass(v) and issubclass(v, Model) and v.__module__ == module.__name__
    }
    if not name and len(own) == 1:
        return next(iter(own.values()))
    if not own:
        raise StoryError(f"{path} holds no model: write a class of vaeppl.Model")
    if name not in own:
        what = unknown_name("class", name, own) if name else f"say which of {sorted(own)} to take"
        raise StoryError(f"{path} holds {_counted(len(own))} of vaeppl.Model: {what}")
    return own[name]


def _counted(classes: int) -> str:
    return "1 class" if classes == 1 else f"{classes} classes"


def source_of(cls: type) -> dict[str, str] | None:
    """Return path and sha256 of the file that defines a user's class; ``None`` for vaeppl's own."""
    if cls.__module__.startswith("vaeppl."):
        return None
    try:
        path = Path(inspect.getsourcefile(cls) or "").resolve()
        content = path.read_bytes()
    except (TypeError, OSError):
        return None
    return {"file": str(path), "sha256": hashlib.sha256(content).hexdigest()}


def find_unchanged(source: Mapping[str, str], class_name: str) -> type[Model]:
    """Return a class from the file that :func:`source_of` noted, if the file is as it was.

    Raises
    ------
    CheckpointError
        The file is gone, or another; it is not run then.
    """
    path = Path(source["file"])
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != source["sha256"]:
        raise CheckpointError(
            f"the model's file {path} is gone or has changed since the run; say which to take: "
            f"--model FILE.py:{class_name}"
        )
    return find(f"{path}:{class_name}")


def build_for(cls: type[Model], data: Data, arguments: Mapping[str, Any] | None = None) -> Model:
    """Build a model for some data.

    An argument ``<column>_dim`` that is not given is the width of that column; ``num_labels`` is
    the number of labels in a partly observed column; a likelihood that is not given (see
    ``Model.likelihood_columns``) is chosen by :func:`likelihood_for`.

    Parameters
    ----------
    cls
        The model's class.
    data
        The rows that it will be fitted to.
    arguments
        Other arguments of the constructor.

    Examples
    --------
    >>> import vaeppl
    >>> build_for(find("vae"), vaeppl.data.load("digits"), {"latent_dim": 2}).likelihood
    Binomial(total_count=16)
    """
    arguments = dict(arguments or {})
    parameters, takes_any = _arguments(cls)
    unknown = arguments.keys() - set(parameters)
    if unknown and not takes_any:
        raise StoryError(unknown_name(f"argument of {cls.__name__}", unknown.pop(), parameters))
    for name in parameters:
        column = name.removesuffix("_dim")
        if name.endswith("_dim") and column in data and name not in arguments:
            arguments[name] = math.prod(data.shape(column))
    labels = [c for c in cls.partly_observed if c in data]
    if "num_labels" in parameters and "num_labels" not in arguments and labels:
        arguments["num_labels"] = _classes(data, labels[0], slice(None))
    for name, column in cls.likelihood_columns.items():
        if name in parameters and name not in arguments and column in data:
            arguments[name] = likelihood_for(data, column)
    if (for_data := getattr(cls, "for_data", None)) is not None:
        built: Model = for_data(data, **arguments)
        return built
    return cls(**arguments)


def _arguments(cls: type) -> tuple[list[str], bool]:
    """Return the names that a constructor takes, and whether it takes any others besides.

    Where it passes ``**arguments`` on, those of the class above are its own too.
    """
    names: list[str] = []
    for base in cls.__mro__:
        if "__init__" in vars(base) and base is not Model:
            parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
            plain = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
            names += [n for n in plain if n not in names]
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                return names, False
        elif base is Model:
            break
    return names, True


def likelihood_for(data: Any, column: str) -> Likelihood:
    """Choose a likelihood by what a column holds.

    0/1: Bernoulli; counts out of a known total: Binomial; other counts: negative binomial; [0, 1]:
    continuous Bernoulli; categories: Categorical; other reals: Normal with learnt scale, in the
    data's own units; columns of several kinds: Mixed.

    Parameters
    ----------
    data
        Anything that :func:`vaeppl.fit` takes as data.
    column
        The column that the likelihood is for.

    Raises
    ------
    DataError
        If there is no such column.

    Examples
    --------
    >>> likelihood_for({"x": torch.tensor([[0, 3], [2, 9]])}, "x")
    NegativeBinomial(dispersion='column')
    """
    data = as_data(data)
    same = groupby(data.fields(column), key=lambda f: (f.kind, f.levels, f.total))
    groups = [list(group) for _, group in same]
    if len(groups) == 1:
        return _one_kind(data, column, slice(None), groups[0][0])
    parts = []
    start = 0
    for group in groups:
        where = slice(start, start + len(group))
        parts.append((len(group), _one_kind(data, column, where, group[0])))
        start += len(group)
    return likelihoods.Mixed(parts)


def _one_kind(data: Data, column: str, where: slice, field: Field) -> Likelihood:
    if field.kind == "binary":
        return likelihoods.Bernoulli()
    if field.kind == "count":
        total = field.total
        return likelihoods.Binomial(total) if total else likelihoods.NegativeBinomial()
    if field.kind == "unit" and where == slice(None):
        return likelihoods.ContinuousBernoulli()
    if field.kind == "categorical":
        classes = len(field.levels or ()) or _classes(data, column, where)
        return likelihoods.Categorical(max(2, classes))
    return likelihoods.Normal.for_data(_entries(data, column, where, 10_000), per_column=True)


def _classes(data: Data, column: str, where: slice) -> int:
    codes = _entries(data, column, where, len(data))
    return int(codes[~codes.isnan()].max()) + 1


def _entries(data: Data, column: str, where: slice, rows: int) -> Tensor:
    """Return entries of the first rows of a column, each row as a vector."""
    few = data.columns(column).take(torch.arange(min(len(data), rows)))[column]
    return few.reshape(len(few), -1)[:, where]
