"""One torch module out of a model and its guide, whether they are a class or plain functions."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from .errors import StoryError
from .missing import leaving_out_missing
from .model import Model, column_names, row_count
from .random_state import forked

__all__ = ["Batch", "Pair", "as_pair", "key_of"]

Batch = Mapping[str, Tensor]


class Pair(nn.Module):
    """A model and its guide with their parameters, apart from every other pair.

    Parameters
    ----------
    model
        A :class:`~vaeppl.Model` (any object with methods ``model`` and ``guide``), or a function.
    guide
        The guide, where ``model`` is a function or another is wanted than its own.

    Notes
    -----
    Parameters made by ``pyro.param`` and ``pyro.module`` live in a store of this pair's own, so
    two pairs whose sites bear the same names share nothing, and Pyro's global store is left as it
    was. Run the pair inside :meth:`active`. Networks that plain functions use belong to the pair
    too, whether or not ``pyro.module`` names them.

    Examples
    --------
    >>> import pyro, torch, pyro.distributions as dist
    >>> from vaeppl import rows
    >>> def model(x=None):
    ...     mu = pyro.param("mu", torch.tensor(0.0))
    ...     with rows(x):
    ...         z = pyro.sample("z", dist.Normal(mu, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x=None):
    ...     with rows(x):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.7))
    >>> pair = Pair(model, guide)
    >>> pair.initialise({"x": torch.randn(4)})
    >>> [name for name, _ in pair.named_parameters()]
    ['stored.mu']
    """

    story: Any
    model: Callable[..., Any]
    guide: Callable[..., Any]

    def __init__(self, model: Any, guide: Callable[..., Any] | None = None) -> None:
        super().__init__()
        for story in (model, guide):
            if inspect.isclass(story):
                raise StoryError(
                    f"{_name(story)} is a class: pass an object of it, {_name(story)}(...)"
                )
        if guide is not None and not callable(guide):
            raise StoryError(
                f"guide= is a function or a module that is called with the columns; given {guide!r}"
                + (
                    ". An automatic guide is learnt from data: pass the fit that has one, "
                    "vaeppl.fit(story, data, guide='auto')"
                    if guide == "auto"
                    else ""
                )
            )
        if guide is None and not (hasattr(model, "model") and hasattr(model, "guide")):
            raise StoryError(
                f"{_name(model)} has no guide: pass an object with methods `model` and `guide`, "
                "or a model function together with `guide=`; in fit and check 'auto' makes one"
            )
        self.source = (model,) if guide is None else (model, guide)
        story = model.model if hasattr(model, "model") else model
        q = model.guide if guide is None else guide
        own = column_names(_function(story))
        self.given: tuple[str, ...] = tuple(getattr(model, "given_columns", ()))
        self.columns: tuple[str, ...] = (*own, *self.given)
        theirs = column_names(_function(q))
        if not _takes_any(q) and set(theirs) != set(self.columns):
            raise StoryError(
                f"model and guide take different columns: the model {self.columns}, "
                f"the guide {theirs}; give both the same arguments"
            )
        for role, owner in zip(("story", "guide_owner"), self.source, strict=False):
            owner = owner if isinstance(owner, nn.Module) else getattr(owner, "__self__", None)
            self.add_module(role, owner if isinstance(owner, nn.Module) else None)
        self.networks = nn.ModuleDict(_networks(story, q) if guide is not None else {})
        self.stored = nn.ParameterDict()
        self._store: Any = {"params": {}, "constraints": {}}
        quick = isinstance(model, Model) and not _pyro_managed(model)
        told = _bare(story) if quick else story
        if self.takes_missing:
            told = leaving_out_missing(told, set(self.columns) - set(self.partly_observed))
        object.__setattr__(self, "model", told)
        object.__setattr__(self, "guide", _bare(q) if quick and guide is None else q)

    @property
    def name(self) -> str:
        """Name of the model's class or function."""
        return _name(self.source[0])

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that the model cannot do without: its arguments that have no default."""
        return tuple(c for c in self.columns if c in self.given or _has_no_default(self.model, c))

    @property
    def required_to_fit(self) -> tuple[str, ...]:
        """Columns that the model or the guide cannot do without."""
        return tuple(
            c
            for c in self.columns
            if c in self.given or any(_has_no_default(s, c) for s in (self.model, self.guide))
        )

    @property
    def takes_missing(self) -> bool:
        """Whether NaN entries mean "missing" to this model."""
        return any(bool(getattr(s, "takes_missing", False)) for s in self.source)

    @property
    def partly_observed(self) -> tuple[str, ...]:
        """Columns that are latent in the rows where they are missing."""
        return tuple(getattr(self.source[0], "partly_observed", ()))

    @property
    def couples_rows(self) -> bool:
        """Whether rows depend on each other, so that all of them must be at hand at once."""
        return bool(getattr(self.source[0], "couples_rows", False))

    @contextmanager
    def active(
        self, rows: int | None = None, *, draw: int = 1, total: int | None = None
    ) -> Iterator[None]:
        """Enter this pair's parameter store, and say how many rows the full data has.

        Parameters
        ----------
        rows
            N, the size of the plate over rows; ``None``: the size of the batch.
        draw
            Rows to draw where the columns are ``None``.
        total
            Rows of the data, where ``rows`` is only the number of those with a label, or without.
        """
        with pyro.get_param_store().scope(self._store), row_count(rows, draw=draw, total=total):
            yield

    def initialise(self, batch: Batch) -> None:
        """Run guide and model once on a batch, so that every parameter exists.

        Must be called before the parameters are handed to an optimiser. Runs under the random
        state at hand and restores it.
        """
        with (
            forked(),
            torch.no_grad(),
            self.active(),
        ):
            trace = poutine.trace(self.guide).get_trace(**batch)
            poutine.replay(self.model, trace=trace)(**batch)
        known = {id(p) for p in self.parameters()}
        for name, parameter in self._store["params"].items():
            if id(parameter) not in known:
                if not isinstance(parameter, nn.Parameter):
                    parameter = self._as_parameter(name, parameter)
                self.stored[key_of(name)] = parameter

    def _as_parameter(self, name: str, value: Tensor) -> nn.Parameter:
        """Put an ``nn.Parameter`` in the store's place for a plain leaf tensor."""
        parameter = nn.Parameter(value.detach())
        self._store["params"][name] = parameter
        return parameter

    def batch(self, columns: Batch) -> dict[str, Tensor]:
        """Return the columns that the model takes, of those given."""
        return {name: columns[name] for name in self.columns if name in columns}

    @property
    def device(self) -> torch.device:
        """Device of the parameters (the CPU if there are none)."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the parameters (torch's default if there are none)."""
        kinds = (p.dtype for p in self.parameters() if p.is_floating_point())
        return next(kinds, torch.get_default_dtype())


def key_of(name: str) -> str:
    """Return a name as a key of torch's dictionaries: without points, and no method of theirs."""
    key = name.replace(".", "/")
    return f"{key}/" if hasattr(nn.ParameterDict, key) or key == "training" else key


def as_pair(source: Any, guide: Callable[..., Any] | None = None) -> Pair:
    """Return the pair of a fit, of a model, or of a model function and its guide."""
    if isinstance(source, Pair):
        return source
    if isinstance(pair := getattr(source, "pair", None), Pair):
        return pair
    if isinstance(source, (str, os.PathLike)):
        raise StoryError(
            f"a model or a fit is wanted; given {str(source)!r}: read a run's folder first, "
            f"vaeppl.load({str(source)!r}), and build a model by its class, vaeppl.models.VAE(...)"
        )
    return Pair(source, guide)


def _name(source: Any) -> str:
    return getattr(source, "__name__", type(source).__name__)


def _function(story: Any) -> Any:
    """Return what carries the signature: an nn.Module's is that of its ``forward``."""
    return story.forward if isinstance(story, nn.Module) else story


def _networks(*stories: Any) -> dict[str, nn.Module]:
    """Return the torch modules that plain functions use, by the names they have there.

    So they change to evaluation with the pair, move with it, and are saved with their buffers.
    """
    found: dict[str, nn.Module] = {}
    for story in stories:
        function = inspect.unwrap(story)
        if inspect.isfunction(function):
            variables = inspect.getclosurevars(function)
            for name, value in {**variables.globals, **variables.nonlocals}.items():
                if isinstance(value, nn.Module) and value not in found.values():
                    found[name if name not in found else f"{name}_{len(found)}"] = value
    return found


def _takes_any(story: Any) -> bool:
    """Tell whether a function takes whatever it is given, as Pyro's own guides do."""
    parameters = inspect.signature(_function(story)).parameters.values()
    return any(p.kind is p.VAR_KEYWORD for p in parameters)


def _has_no_default(story: Any, column: str) -> bool:
    parameter = inspect.signature(_function(story)).parameters.get(column)
    return parameter is not None and parameter.default is parameter.empty


def _pyro_managed(model: nn.Module) -> bool:
    """Tell whether a model has attributes that Pyro must see being read."""
    return any(
        bool(m._pyro_samples or m._pyro_params)
        for m in model.modules()
        if isinstance(m, PyroModule)
    )


def _bare(method: Any) -> Any:
    """Return a method without Pyro's per-call bookkeeping, which only such attributes need."""
    function = getattr(method.__func__, "__wrapped__", method.__func__)
    return function.__get__(method.__self__)
