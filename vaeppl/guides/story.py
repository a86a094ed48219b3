"""What a guide must know of a story: its sites, a few rows, and how columns enter an encoder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from .. import likelihoods
from ..catalogue import likelihood_for
from ..data import Data, as_data
from ..errors import StoryError
from ..likelihoods import Likelihood
from ..model import column_names, row_count
from ..structure import Node, ancestors, base_of, read_structure
from .inputs import ColumnFeatures

__all__ = ["ROWS", "StoryRead", "has_gaps"]

ROWS = "rows"
FEW_ROWS = 8  # enough to see which sites there are
MANY_ROWS = 10_000  # from which the kind and the unit of a column are taken


def has_gaps(data: Data, columns: Collection[str]) -> bool:
    """Tell whether an entry of some columns is missing; of what is on disk in the first rows."""
    for name in data:
        if name in columns:
            rows = min(MANY_ROWS, len(data)) if data.is_lazy(name) else len(data)
            column = data.columns(name)
            for index in torch.arange(rows).split(MANY_ROWS):
                if bool(column.take(index)[name].isnan().any()):
                    return True
    return False


class StoryRead:
    """A story, run once on a few rows.

    Attributes
    ----------
    told : callable
        The model function.
    columns : tuple of str
        What it takes.
    partly : tuple of str
        Columns that are latent where they are missing.
    batch : dict of str to Tensor or None
        A few rows of each column; ``None``: drawn from the story.
    nodes : dict of str to Node
        Its sites, in order.
    """

    def __init__(self, model: Any, columns: Any) -> None:
        self.model = model
        self.told: Callable[..., Any] = getattr(model, "model", model)
        if not callable(self.told):
            raise StoryError(f"{type(model).__name__} is no story: pass a function, or a model")
        if getattr(model, "couples_rows", False):
            raise StoryError("a guide of single rows is made for stories whose rows stand apart")
        given = tuple(getattr(model, "given_columns", ()))
        self.columns: tuple[str, ...] = (*column_names(self.told), *given)
        self.partly: tuple[str, ...] = tuple(getattr(model, "partly_observed", ()))
        self.data, shapes = _examples(columns, self.columns)
        self.batch = {c: self._few(c, shapes) for c in self.columns}
        self.nodes = self._read()
        self._check_observed()

    def _check_observed(self) -> None:
        """Refuse data under another name than their column's: they could not be looked at."""
        for name, node in self.nodes.items():
            beside = node.infer.get("objective_only") or type(base_of(node.fn)).__name__ == "Unit"
            if node.observed and name not in self.columns and not beside:
                raise StoryError(
                    f"site {name!r} is observed, but bears the name of no column "
                    f"({', '.join(map(repr, self.columns))}); give it the name of the column that "
                    "it observes"
                )

    def is_latent(self, name: str) -> bool:
        """Tell whether a site is drawn under the posterior, in some rows at least."""
        is_column = name in self.columns and name not in self.partly
        return name in self.nodes and not (self.nodes[name].observed or is_column)

    def is_fixed(self, name: str) -> bool:
        """Tell whether a prior depends on no latent, and on nothing learnt."""
        if any(self.is_latent(a) for a in ancestors(self.nodes, name)):
            return False
        held = vars(base_of(self.nodes[name].fn)).values()
        return not any(isinstance(v, Tensor) and v.requires_grad for v in held)

    def _few(self, column: str, shapes: Mapping[str, tuple[int, ...]]) -> Tensor | None:
        if column in self.partly:
            return None  # so that it is drawn
        if self.data is not None and column in self.data:
            rows = torch.arange(min(FEW_ROWS, len(self.data)))
            values = self.data.columns(column).take(rows)[column]
            kind = self._floating()
            return values.nan_to_num().to(kind) if values.is_floating_point() else values
        if column in shapes:
            few = FEW_ROWS if self.data is None else min(FEW_ROWS, len(self.data))
            return torch.zeros(few, *shapes[column], dtype=self._floating())
        return None

    def _floating(self) -> torch.dtype:
        parameters = self.model.parameters() if isinstance(self.model, nn.Module) else ()
        kinds = (p.dtype for p in parameters if p.is_floating_point())
        return next(kinds, torch.get_default_dtype())

    def _read(self) -> dict[str, Node]:
        modules = list(self.model.modules()) if isinstance(self.model, nn.Module) else []
        training = {m: m.training for m in modules}
        store = pyro.get_param_store()
        with ExitStack() as stack:
            stack.enter_context(store.scope(store.get_state()))
            stack.enter_context(torch.random.fork_rng(devices=[]))
            stack.enter_context(row_count(draw=FEW_ROWS))
            for module in modules:  # statistics of batches are left alone
                module.training = False
            torch.manual_seed(0)
            try:
                return read_structure(self.told, self.batch)
            except Exception as error:
                drawn = [c for c, v in self.batch.items() if v is None]
                hint = (
                    f"pass rows of {', '.join(map(repr, drawn))} (columns=) if it cannot draw them"
                    if drawn
                    else "look at the story"
                )
                raise StoryError(
                    f"no guide can be made, as the story does not run: {type(error).__name__}: "
                    f"{error}; {hint}, and, in a constructor, make the guide last"
                ) from error
            finally:
                for module, mode in training.items():
                    module.training = mode

    def features(
        self, column: str, given: Likelihood | None, missing: bool | None
    ) -> ColumnFeatures:
        """Return how a column enters the encoders."""
        shape = self._shape(column)
        if missing is None:
            missing = bool(getattr(self.model, "takes_missing", False)) or self._has_gaps
        likelihood = given or self._own(column) or self._by_values(column)
        return ColumnFeatures(likelihood or self._by_support(column), shape, missing=missing)

    def _shape(self, column: str) -> tuple[int, ...]:
        values = self.batch.get(column)
        if values is None:
            values = self.nodes[column].value
        return tuple(values.shape[1:])

    @cached_property
    def _has_gaps(self) -> bool:
        """Tell whether an entry of any column is missing: then one may be of the others too."""
        wanted = [c for c in self.columns if c not in self.partly]
        return self.data is not None and has_gaps(self.data, wanted)

    def _many(self, column: str) -> Tensor:
        assert self.data is not None
        rows = torch.arange(min(MANY_ROWS, len(self.data)))
        return self.data.columns(column).take(rows)[column]

    def _own(self, column: str) -> Likelihood | None:
        """Return the likelihood that the model has for a column."""
        for argument, its_column in getattr(self.model, "likelihood_columns", {}).items():
            own = getattr(self.model, argument, None)
            if its_column == column and isinstance(own, Likelihood):
                return own
        return None

    def _by_values(self, column: str) -> Likelihood | None:
        if self.data is None or column not in self.data:
            return None
        return likelihood_for(self.data, column)

    def _by_support(self, column: str) -> Likelihood:
        """Return what suits a column of which no rows are known."""
        base: Any = base_of(self.nodes[column].fn) if column in self.nodes else None
        kind = type(base).__name__
        if kind == "Categorical":
            return likelihoods.Categorical(base.logits.shape[-1])
        if kind == "Binomial":
            return likelihoods.Binomial(int(base.total_count.max()))
        if getattr(base, "support", None) is torch.distributions.constraints.nonnegative_integer:
            return likelihoods.NegativeBinomial()
        return likelihoods.Normal()


def _examples(
    columns: Any, names: tuple[str, ...]
) -> tuple[Data | None, dict[str, tuple[int, ...]]]:
    """Return rows of data, and shapes of a row where only those are given."""
    shapes: dict[str, tuple[int, ...]] = {}
    if isinstance(columns, Mapping) and not isinstance(columns, Data):
        for name, value in columns.items():
            if isinstance(value, int):
                shapes[name] = (value,)
            elif isinstance(value, tuple) and all(isinstance(v, int) for v in value):
                shapes[name] = value
        columns = {n: v for n, v in columns.items() if n not in shapes}
    if unknown := [n for n in shapes if n not in names]:
        raise StoryError(f"the story takes {names}, and no column {unknown[0]!r}")
    data = None if columns is None or (shapes and not columns) else as_data(columns).train
    return data, shapes
