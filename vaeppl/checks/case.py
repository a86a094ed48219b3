"""A story on a few rows: what the checks look at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from ..data import Data
from ..pair import Batch, Pair
from ..reading.tracing import FEW_ROWS, quiet, row_term, rows_frame, site_log_prob
from ..structure import base_of
from .findings import Finding, Line
from .lines import Located, line_of_error

__all__ = [
    "Case",
    "DoesNotRun",
    "latents",
    "make_case",
    "observed",
    "score",
    "store_apart",
    "terms",
]


class DoesNotRun(Exception):
    """The model or the guide raised an error; carries what is to be said of it."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.what)
        self.finding = finding


@dataclass
class Case:
    """A pair, a few rows of its data, and what it does with them.

    Attributes
    ----------
    pair : Pair
    data : Data
        All rows of which the same columns are there.
    batch : dict of str to Tensor
        The first few of them, ``(few, *event)``.
    few, full : int
        Rows in the batch, and in the data.
    batch_size : int or None
        Rows in a minibatch of the fit, where it is known.
    estimator : str
        The name of the estimator that the fit will use.
    guide, model : Trace
        Guide and model run on the batch, the model with the guide's draws. They are run in
        evaluation mode, without gradients, without enumeration.
    lines : dict
        Lines of the sites, by ``("model" or "guide", name)``.
    """

    pair: Pair
    data: Data
    batch: dict[str, Tensor]
    few: int
    full: int
    batch_size: int | None = None
    estimator: str = "elbo"
    guide: Any = None
    model: Any = None
    lines: dict[tuple[str, str], Line] = field(default_factory=dict)

    def line(self, role: str, name: str) -> Line | None:
        """Return the line on which the model or the guide draws a site."""
        return self.lines.get((role, name))

    def run(self, role: str, batch: Batch | None = None, replayed: Any = None) -> Any:
        """Trace the model or the guide.

        Raises
        ------
        DoesNotRun
            It raised an error.
        """
        batch = self.batch if batch is None else batch
        story = getattr(self.pair, role)
        story = poutine.replay(story, trace=replayed) if replayed is not None else story
        located = Located()
        try:
            with located:
                trace = poutine.trace(story).get_trace(**batch)
        except Exception as error:
            raise DoesNotRun(self._failure(role, batch, error)) from error
        self.lines.update({(role, name): line for name, line in located.lines.items()})
        return trace

    def score_all(self) -> None:
        """Compute log p of every site.

        Raises
        ------
        DoesNotRun
            A distribution cannot score the value of its site.
        """
        for role, trace in (("guide", self.guide), ("model", self.model)):
            for site in _sites(trace):
                try:
                    score(site)
                except Exception as error:
                    raise DoesNotRun(self._unscored(role, site, error)) from error

    def _unscored(self, role: str, site: Any, error: Exception) -> Finding:
        event = tuple(site["fn"].event_shape)
        return Finding(
            "error",
            "does-not-run",
            f"site {site['name']!r} of the {role} has no log-density: a value of shape "
            f"{tuple(site['value'].shape)} under a {type(base_of(site['fn'])).__name__} that "
            f"draws rows of shape {event} raises {words_of(error)}",
            "nothing can be computed",
            "let its parameters have the shape of the value, and the value a type that it takes "
            "(integers may have to be .float())",
            site["name"],
            self.line(role, site["name"]),
        )

    def _failure(self, role: str, batch: Batch, error: Exception) -> Finding:
        shapes = ", ".join(f"{c} {tuple(v.shape)}" for c, v in batch.items() if v is not None)
        rows = next((len(v) for v in batch.values() if v is not None), 0)
        return Finding(
            "error",
            "does-not-run",
            f"the {role} of {self.pair.name} does not run on the first {rows} rows "
            f"({shapes}): {words_of(error)}",
            "nothing can be computed",
            _mend_of(error),
            line=line_of_error(error),
        )

    def frames(self, site: Any) -> list[Any]:
        """Return the plates of a site that hold the rows of the batch."""
        return [frame for frame in site["cond_indep_stack"] if frame.size == self.few]

    def observed_columns(self) -> Iterator[tuple[str, Any]]:
        """Yield the columns that are observed row by row, with their sites."""
        for column in self.pair.columns:
            site = self.model.nodes.get(column)
            if site is not None and site["is_observed"] and len(site["value"]) == self.few:
                yield column, site


def make_case(pair: Pair, data: Data, batch_size: int | None = None, **options: Any) -> Case:
    """Return a case of the first rows of some data; guide and model have not been run yet."""
    few = min(FEW_ROWS, len(data))
    columns = data.take(torch.arange(few), device=pair.device)
    batch = {
        name: value.to(pair.dtype) if value.is_floating_point() else value
        for name, value in pair.batch(columns).items()
    }
    return Case(pair, data, batch, few, len(data), batch_size, **options)


@contextmanager
def store_apart() -> Iterator[None]:
    """Forget the parameters that are made in the block: their values are for the seed to draw."""
    store = pyro.get_param_store()
    with store.scope(store.get_state()):
        yield


@contextmanager
def looking(
    case: Case, *, seed: int = 0, draw: int | None = None, training: bool = False
) -> Iterator[None]:
    """Run a case's pair for a check: seeded, without gradients, and leaving no trace.

    Parameters
    ----------
    seed
        Fixes the draws.
    draw
        Rows to draw, as no column is given; ``None``: rows of the data are looked at.
    training
        Whether networks behave as in training (dropout, batch normalisation). What they note
        while they run is taken back.
    """
    buffers = {n: b.clone() for n, b in case.pair.named_buffers()} if training else {}
    rows = case.full if draw is None else None
    with quiet(case.pair, rows, seed=seed, draw=draw or 1), store_apart():
        case.pair.train(training)
        try:
            yield
        finally:
            for name, buffer in case.pair.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])


@contextmanager
def moved(case: Case, size: float = 0.3, *, seed: int = 1) -> Iterator[None]:
    """Move every parameter at random, as a fit would, for a block.

    So what is zero at the start by choice (the last layer of a network, say) is not zero.
    """
    parameters: dict[int, Tensor] = {id(p): p for p in case.pair.parameters()}
    parameters |= {id(p): p for _, p in pyro.get_param_store().named_parameters()}
    before = [(p, p.detach().clone()) for p in parameters.values()]
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter, values in before:
            step = torch.randn(values.shape, generator=noise).to(values)
            parameter.add_(size * _unit(values) * (step if len(values.unique()) > 1 else 1.0))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, values in before:
                parameter.copy_(values)


def _unit(values: Tensor) -> float:
    """Return by how much a parameter may well move: its spread, or twice its size if it has none.

    A scale that starts at 1 and is not kept positive is so moved below 0, or to 3.
    """
    spread = float(values.std()) if values.numel() > 1 else 0.0
    size = float(values.abs().max()) if values.numel() else 0.0
    return max(spread or 2 * size, 0.1)


def words_of(error: Exception) -> str:
    """Return an error in words, without shapes that Pyro adds below and without whole tensors."""
    told = re.split(r"\s*Trace Shapes:|:?\s*\btensor\(|:?\s*\bParameter containing", str(error))[0]
    return f"{type(error).__name__}: {told}"


def _mend_of(error: Exception) -> str:
    """Return how to mend an error of Pyro that does not say it: columns where rows should be."""
    found = re.search(r"inside plate\('(\w+)'\) at site (\w+) dim -1, \d+ vs (\d+)", str(error))
    if found is None:
        return ""
    plate, site, size = found.groups()
    return (
        f"call .to_event(1) on the distribution of {site!r} if its {size} entries are those of a "
        f"row: else they are taken for the rows of the plate {plate!r}"
    )


def latents(trace: Any) -> dict[str, Any]:
    """Return the sites that are drawn, by name."""
    return {
        n: s
        for n, s in trace.nodes.items()
        if s["type"] == "sample" and not s["is_observed"] and type(s["fn"]).__name__ != "_Subsample"
    }


def observed(trace: Any) -> dict[str, Any]:
    """Return the sites that are observed, by name."""
    return {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and s["is_observed"]}


def terms(trace: Any, rows: int) -> dict[str, Tensor]:
    """Return log p of each site in the plate of rows, row by row: ``(rows,)``."""
    depth = max(
        (-(f.dim or 0) for s in _sites(trace) for f in s["cond_indep_stack"] if f.vectorized),
        default=0,
    )
    found = {}
    for site in _sites(trace):
        if rows_frame(site, rows) is not None:
            term = row_term(score(site), site, rows, depth)
            found[site["name"]] = term.reshape(-1, term.shape[-1])[0]
    return found


def score(site: Any) -> Tensor:
    """Return log p of a site; of a point mass, where it lies: its density is 0 or infinite."""
    if type(base_of(site["fn"])).__name__ != "Delta":
        return site_log_prob(site)
    value = site["value"]
    return value.sum(tuple(range(-site["fn"].event_dim, 0))) if site["fn"].event_dim else value


def _sites(trace: Any) -> list[Any]:
    return [
        s
        for s in trace.nodes.values()
        if s["type"] == "sample" and type(s["fn"]).__name__ != "_Subsample"
    ]


def changed(first: Mapping[str, Tensor], second: Mapping[str, Tensor], rows: slice) -> list[str]:
    """Return the sites whose terms differ in some rows beyond rounding."""
    return [
        name
        for name, term in first.items()
        if name in second and not same(term[rows], second[name][rows])
    ]


def same(first: Tensor, second: Tensor) -> bool:
    """Tell whether numbers agree but for rounding."""
    return bool(torch.allclose(first, second, rtol=1e-4, atol=1e-4, equal_nan=True))
