"""The contract of a model: two methods over named columns, and the plate of rows."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import MappingProxyType
from typing import Any, NamedTuple

import pyro
import torch
from pyro.nn import PyroModule
from pyro.nn.module import pyro_method
from torch import Tensor
from torch.nn.parameter import is_lazy

from .config import Configurable, rebuild
from .errors import StoryError

__all__ = ["Model", "row_count", "row_share", "rows"]


class _Rows(NamedTuple):
    """What is known of the rows beside the batch at hand."""

    full: int | None = None  # rows that the batch stands for
    draw: int = 1  # rows to draw when no column is given
    total: int | None = None  # rows of the data, those that this batch does not stand for too


_UNKNOWN = _Rows()
_ROWS: ContextVar[_Rows] = ContextVar("rows", default=_UNKNOWN)


@contextmanager
def row_count(
    full: int | None = None, *, draw: int = 1, total: int | None = None
) -> Iterator[None]:
    """Say how many rows the full data has, and how many to draw where no column is given.

    Parameters
    ----------
    full
        N, the size of the plate; ``None`` means: as many as the batch has.
    draw
        The number of rows that ``rows()`` makes when every column is ``None``.
    total
        Rows of the data where the batch stands for a part of them only: the labelled ones, say.
        ``None`` means: for all of them.

    Examples
    --------
    >>> import pyro
    >>> import pyro.distributions as dist
    >>> def story(x=None):
    ...     with rows(x):
    ...         return pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)
    >>> with row_count(draw=5):
    ...     story().shape
    torch.Size([5])
    """
    token = _ROWS.set(_Rows(full, draw, total))
    try:
        yield
    finally:
        _ROWS.reset(token)


def rows(*columns: Tensor | None) -> pyro.plate:
    """Return the plate over rows, named ``"rows"``, at dimension -1.

    Its size is that of the *full* data, and the rows at hand are a subsample of it: so the
    log-probability of a minibatch is scaled by N/B, and its ELBO is an unbiased estimate of the
    ELBO of the full data, also where the model has latents outside this plate.

    A story that enters the plate twice makes it once: ``plate = rows(x)``, then ``with plate:``.

    Parameters
    ----------
    *columns
        The columns that the model takes, each of shape ``(B, ...)`` or ``None``. Where all are
        ``None``, rows are drawn from the model instead (see :func:`row_count`).

    Raises
    ------
    StoryError
        If the columns have unequal numbers of rows, or more than the full data.
    """
    lengths = {c.shape[0] for c in columns if c is not None}
    if len(lengths) > 1:
        raise StoryError(f"columns of one batch have unequal numbers of rows: {sorted(lengths)}")
    full, draw, _ = _ROWS.get()
    batch = lengths.pop() if lengths else draw
    if full is None or full == batch:
        return pyro.plate("rows", batch, dim=-1)
    if batch > full:
        raise StoryError(f"a batch has {batch} rows, but the full data have {full}")
    return pyro.plate("rows", full, subsample=torch.arange(batch), dim=-1)


def row_share(plate: pyro.plate) -> float:
    """Return the share of the data's rows for which a plate of rows stands.

    It is 1, but where a column is observed in some rows only (``Model.partly_observed``): those
    rows and the others then have a plate each, and this is N_labelled / N and N_unlabelled / N.

    Examples
    --------
    >>> import torch
    >>> with row_count(full=100, total=60_000):
    ...     round(1 / row_share(rows(torch.zeros(20))))
    600
    """
    total = _ROWS.get().total
    return 1.0 if total is None else float(plate.size / total)


class Model(Configurable, PyroModule):
    """A generative story and its guide, over named columns.

    Subclass it and write two methods that take the same columns::

        def model(self, x=None): ...   # the story; an observed site bears its column's name
        def guide(self, x=None): ...   # q(latents | columns)

    The base class holds plumbing only: which columns there are, how the model was built (so that
    it can be saved), and where its initial weights come from. It never samples.

    Attributes
    ----------
    takes_missing : bool
        Whether NaN entries in a column mean "missing": they are left out of the likelihood, and
        the guide must do without them (:class:`vaeppl.guides.AutoAmortizedGuide` does).
        ``False``: they are refused.
    likelihood_columns : mapping of str to str
        Which arguments of the constructor are likelihoods, and of which column: so that they can
        be chosen from data where they are not given (``{"likelihood": "x"}``).
    partly_observed : tuple of str
        Columns that are latent in the rows where they are missing (a label that is -1 or NaN).
        Such rows are handed over apart from the others, without the column: so ``model`` observes
        it with ``obs=y``, and ``guide`` draws it ``if y is None``.
    given_columns : tuple of str
        Columns that an object of the class takes beside the arguments of its methods, as
        ``**columns``: those that a kernel is on, say. They are given, and never drawn.
    couples_rows : bool
        Whether the rows depend on each other given the latents outside their plate. Then all of
        them must be at hand at once, and there is no ELBO or evidence of a single row.
    codes_are_points : bool
        Whether the guide sets latents to a value by design, as an auto-encoder does: then
        :func:`vaeppl.check` does not remark on it.

    A model may have a method ``check_data(data)`` of its own, which raises a ``ColumnError``: it is
    called before a fit, after the columns were checked.

    Examples
    --------
    >>> import torch, pyro, pyro.distributions as dist
    >>> class Coin(Model):
    ...     def model(self, x=None):
    ...         p = pyro.sample("p", dist.Beta(1.0, 1.0))
    ...         with rows(x):
    ...             pyro.sample("x", dist.Bernoulli(p), obs=x)
    ...     def guide(self, x=None):
    ...         pyro.sample("p", dist.Beta(2.0, 2.0))
    >>> Coin().columns
    ('x',)
    """

    takes_missing: bool = False
    partly_observed: tuple[str, ...] = ()
    given_columns: tuple[str, ...] = ()
    couples_rows: bool = False
    codes_are_points: bool = False
    likelihood_columns: Mapping[str, str] = MappingProxyType({"likelihood": "x"})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("model", "guide"):
            if name in cls.__dict__:
                setattr(cls, name, pyro_method(cls.__dict__[name]))
        if "__init__" in cls.__dict__:
            setattr(cls, "__init__", _noting_initial_weights(cls.__dict__["__init__"]))  # noqa: B010

    def model(self, *args: Any, **kwargs: Any) -> Any:
        """Tell the generative story; a subclass writes it."""
        raise StoryError(f"{type(self).__name__} has no method `model`: write its story")

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        """Sample the latents given the columns; a subclass writes it."""
        raise StoryError(
            f"{type(self).__name__} has no method `guide`; write q(latents | columns), or have one "
            'made from the story: guide="auto", --guide auto on the command line'
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that ``model`` takes, in order."""
        return (*column_names(self.model), *self.given_columns)

    def draw_initial_weights(self, seed: int) -> bool:
        """Draw the initial weights again, from ``seed``, if they are still as constructed.

        Weights that were trained, loaded or set by hand are left alone, and so are networks that
        were given to the constructor.

        Returns
        -------
        bool
            Whether the weights were drawn.
        """
        marks, before = _marks(self), self.__dict__.get("_initial_weights")
        if before is None or any(marks[n] != before.get(n) for n, _ in self.named_parameters()):
            return False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            twin = rebuild(self)
        drawn = dict(_tensors(twin))
        with torch.no_grad():
            for name, mine in _tensors(self):
                # A buffer that was set by hand stays, whatever the weights.
                if marks[name] == before.get(name) and not is_lazy(mine):
                    mine.copy_(drawn[name])
        self.__dict__["_initial_weights"] = _marks(self)
        return True


def column_names(story: Any) -> tuple[str, ...]:
    """Return the names of the arguments of a model function: the columns it takes."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(story).parameters.values()
    return tuple(p.name for p in parameters if p.kind in kinds)


def _tensors(module: torch.nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _marks(module: torch.nn.Module) -> dict[str, str]:
    """Return what changes when a weight changes, whatever its device or precision."""
    return {name: _mark(tensor) for name, tensor in _tensors(module)}


def _mark(tensor: Tensor) -> str:
    if is_lazy(tensor):
        return "not made yet"
    values = tensor.detach().cpu()
    values = values.double() if values.is_floating_point() else values
    return hashlib.blake2b(values.numpy().tobytes(), digest_size=16).hexdigest()


def _noting_initial_weights(init: Any) -> Any:
    @wraps(init)
    def wrapped(self: Model, *args: Any, **kwargs: Any) -> None:
        outermost = not self.__dict__.get("_constructing", False)
        self.__dict__["_constructing"] = True
        init(self, *args, **kwargs)
        if outermost:
            del self.__dict__["_constructing"]
            self.__dict__["_initial_weights"] = _marks(self)

    return wrapped
