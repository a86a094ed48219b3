"""A story on one screen: plate diagram, sites, joint density, parameters and draws."""

from __future__ import annotations

import html
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyro
import pyro.poutine as poutine
import torch
from pyro.infer.inspect import generate_graph_specification, render_graph
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from torch import Tensor

from .data import as_data
from .errors import StoryError
from .estimators.sites import is_beside_the_story
from .notation import density, distribution, index_of, symbol
from .pair import Batch, Pair, as_pair
from .reading.predictive import sample
from .reading.tracing import FEW_ROWS, few_rows, quiet
from .reading.weights import has_prior_draws
from .structure import Node, read_structure
from .training.seeds import seeded

if TYPE_CHECKING:
    from graphviz import Digraph

__all__ = ["Shown", "show"]

ENTRIES = 8  # of a drawn row that are written out


def show(
    model: Any, data: Any = None, *, guide: Any = None, num_draws: int = 3, seed: int = 0
) -> Shown:
    """Return what a story says, to be printed: sites, joint density, parameters, draws.

    Parameters
    ----------
    model, guide
        As in :func:`vaeppl.fit`, or a :class:`~vaeppl.Fit`.
    data
        Rows, for their number and for columns that are given; of data with splits, the train part.
        ``None``: rows are drawn from the story.
    num_draws
        Rows to draw from the prior predictive.
    seed
        Fixes the draws.

    Returns
    -------
    Shown
        Prints as text, shows as a picture in notebooks where Graphviz is there, and has ``sites``
        (a table), ``density``, ``latex``, ``guide_density``, ``diagram``, ``draws`` and
        ``save(file)``.

    Raises
    ------
    StoryError
        If the story does not run.

    Examples
    --------
    >>> from vaeppl.models import VAE
    >>> shown = show(VAE(6, 2, hidden=(4,)))
    >>> shown.density
    'p(z, x) = ∏ₙ p(zₙ) p(xₙ | zₙ)'
    >>> shown.guide_density
    'q(z | x) = ∏ₙ q(zₙ | xₙ)'
    """
    pair = as_pair(model, guide)
    rows = None if data is None else as_data(data).train
    batch = _drawn(pair, seed) if rows is None else few_rows(pair, rows)
    with quiet(pair, seed=seed):
        guide_nodes = read_structure(pair.guide, batch)
        drawable = rows is None or has_prior_draws(pair, rows)
        latents = None if drawable else poutine.trace(pair.guide).get_trace(**batch)
        nodes = read_structure(pair.model, batch, replayed=latents)
    story = {n: node for n, node in nodes.items() if not _is_beside(node)}
    seen = [n for n, node in story.items() if node.observed]
    given = [c for c in batch if c not in story]
    return Shown(
        name=pair.name,
        nodes=story,
        guide_nodes=guide_nodes,
        beside=tuple(n for n in nodes if n not in story),
        columns=tuple(batch),
        given=tuple(given),
        num_rows=None if rows is None else len(rows),
        reached=_reached(pair, batch),
        sizes=_sizes(pair),
        draws=_draws(pair, batch, given, seen, num_draws, seed) if drawable else {},
        partly=pair.partly_observed,
    )


def _is_beside(node: Node) -> bool:
    return is_beside_the_story({"is_observed": node.observed, "infer": node.infer})


def _drawn(pair: Pair, seed: int) -> dict[str, Tensor]:
    """Return a few rows drawn from the story, as columns."""
    if pair.required and any(c in pair.given for c in pair.required):
        raise StoryError(f"{pair.name} is given columns {', '.join(pair.required)}: pass data=")
    try:
        drawn = sample(pair, FEW_ROWS, seed=seed)
    except ValueError as error:
        raise StoryError(f"{pair.name} is conditional on columns: pass data= ({error})") from None
    return {c: drawn[c] for c in pair.columns if c in drawn and c not in pair.partly_observed}


def _draws(
    pair: Pair, batch: Batch, given: Sequence[str], seen: Sequence[str], count: int, seed: int
) -> dict[str, Tensor]:
    """Return rows of the observed columns, drawn from the story."""
    count = min(count, len(next(iter(batch.values()))))
    if count < 1 or pair.couples_rows or any(c in seen for c in pair.required):
        return {}
    fixed = {c: batch[c][:count] for c in given}
    drawn = sample(pair, count, given=fixed or None, seed=seed)
    return {c: drawn[c] for c in seen if c in drawn}


# --- which parameters a site reaches ---


class _Detached(poutine.messenger.Messenger):
    """Cuts each draw off from what it was computed from."""

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if isinstance(msg["value"], Tensor):
            msg["value"] = msg["value"].detach()


def _reached(pair: Pair, batch: Batch) -> dict[tuple[str, str], dict[str, int]]:
    """Return which parameters the density of each site depends on, given its parents.

    Returns
    -------
    dict
        By role (``"model"`` or ``"guide"``) and site: numbers of each group of parameters.
    """
    store = pyro.get_param_store()
    found: dict[tuple[str, str], dict[str, int]] = {}
    with _evaluating(pair), seeded(0), pair.active(), store.scope(store.get_state()):
        with torch.enable_grad(), _Detached():
            guide = poutine.trace(pair.guide).get_trace(**batch)
            model = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(**batch)
        parameters = _named(pair)
        for role, trace in (("model", model), ("guide", guide)):
            nodes: dict[str, Any] = trace.nodes
            for name, site in nodes.items():
                if site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample":
                    score = site["fn"].log_prob(site["value"]).sum()
                    found[role, name] = _groups(score, parameters)
    return found


@contextmanager
def _evaluating(pair: Pair) -> Iterator[None]:
    modes = {module: module.training for module in pair.modules()}
    pair.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _named(pair: Pair) -> dict[str, Tensor]:
    """Return all parameters by name, those of Pyro's store too."""
    named: dict[str, Tensor] = {_short(n): p for n, p in pair.named_parameters() if p.requires_grad}
    known = {id(p) for p in named.values()}
    for name, parameter in pyro.get_param_store().named_parameters():
        if id(parameter) not in known:
            named[name] = parameter
    return named


def _short(name: str) -> str:
    for part in ("story.", "guide_owner.", "networks.", "stored."):
        name = name.removeprefix(part)
    return name


def _groups(score: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, int]:
    if not score.requires_grad or not parameters:
        return {}
    gradients = torch.autograd.grad(
        score, list(parameters.values()), allow_unused=True, retain_graph=True
    )
    groups: dict[str, int] = {}
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        if gradient is not None:
            group = name.partition(".")[0].partition("$$$")[0]
            groups[group] = groups.get(group, 0) + parameter.numel()
    return groups


def _sizes(pair: Pair) -> tuple[int, int]:
    """Return the numbers of free and of frozen parameters."""
    free = sum(p.numel() for p in pair.parameters() if p.requires_grad)
    return free, sum(p.numel() for p in pair.parameters()) - free


# --- what is shown ---


@dataclass(frozen=True)
class Shown:
    """What a story says.

    Attributes
    ----------
    name : str
        The story's name.
    nodes, guide_nodes : dict of str to Node
        Sites of model and guide, in order.
    beside : tuple of str
        Sites that are terms of the objective alone.
    columns, given : tuple of str
        Columns that the story takes, and those of them that it is given.
    num_rows : int or None
        N, if it is known.
    reached : dict
        By role and site: numbers of each group of parameters that its density depends on.
    sizes : (int, int)
        Free and frozen parameters.
    draws : dict of str to Tensor
        Rows of the observed columns, drawn from the story.
    partly : tuple of str
        Columns that are latent in the rows where they are missing.
    """

    name: str
    nodes: Mapping[str, Node]
    guide_nodes: Mapping[str, Node]
    beside: tuple[str, ...]
    columns: tuple[str, ...]
    given: tuple[str, ...]
    num_rows: int | None
    reached: Mapping[tuple[str, str], Mapping[str, int]] = field(repr=False)
    sizes: tuple[int, int]
    draws: Mapping[str, Tensor] = field(repr=False)
    partly: tuple[str, ...] = ()

    @property
    def density(self) -> str:
        """The joint density of latents and data, in Unicode."""
        return density(self.nodes, self.given)

    @property
    def latex(self) -> str:
        """Joint density and guide in LaTeX, one below the other."""
        options: Any = {"num_rows": self.num_rows, "latex": True}
        told = density(self.nodes, self.given, **options)
        if not self.guide_nodes:
            return told
        guide = density(self.guide_nodes, self.columns, letter="q", **options)
        return f"{told} \\\\\n{guide}"

    @property
    def guide_density(self) -> str:
        """The guide's density of the latents, in Unicode."""
        return density(self.guide_nodes, self.columns, letter="q")

    @property
    def sites(self) -> pd.DataFrame:
        """A line for each site: distribution, shapes, plates, role, parents, parameters."""
        return pd.DataFrame(self._lines()).set_index("site")

    def _lines(self) -> list[dict[str, str]]:
        lines = []
        for role, nodes in (("model", self.nodes), ("guide", self.guide_nodes)):
            for name, node in nodes.items():
                lines.append(
                    {
                        "site": name,
                        "in": role,
                        "distribution": distribution(node),
                        "shape": _shape(node, self.num_rows),
                        "what": self._role(node, role),
                        "given": ", ".join(node.parents),
                        "parameters": _told(self.reached.get((role, name), {})),
                    }
                )
        return lines

    def _role(self, node: Node, role: str) -> str:
        if role == "guide":
            return "summed out" if node.enumerated else "drawn"
        if node.name in self.partly:
            return "observed in some rows"
        return "observed" if node.observed else "latent"

    @property
    def diagram(self) -> Digraph:
        """The plate diagram as a Graphviz object; drawing it needs the program ``dot``."""
        return render_graph(generate_graph_specification(self._relations()))

    def _relations(self) -> dict[str, Any]:
        """Return what :func:`pyro.infer.inspect.get_model_relations` does, with given columns."""
        names = [*self.given, *self.nodes]
        plates: dict[str, list[str]] = {}
        for name, node in self.nodes.items():
            for frame in node.plates:
                plates.setdefault(frame.name, []).append(name)
        if "rows" in plates:
            plates["rows"] += self.given
        parents = {n: [p for p in self.nodes[n].parents if p in names] for n in self.nodes}
        return {
            "sample_sample": {**{c: [] for c in self.given}, **parents},
            "sample_param": {n: [] for n in names},
            "sample_dist": {
                **dict.fromkeys(self.given, ""),
                **{n: distribution(node) for n, node in self.nodes.items()},
            },
            "param_constraint": {},
            "plate_sample": plates,
            "observed": [*self.given, *(n for n, node in self.nodes.items() if node.observed)],
        }

    @property
    def drawing(self) -> str:
        """The plate diagram as text: (latent), [observed], <given>."""
        lines = []
        for plates, names in self._by_plates():
            indent = "│ " * len(plates)
            lines += [f"{indent}{self._drawn(name)}" for name in names]
            heads = [self._head(p, i) for i, p in enumerate(plates)]
            if heads:
                lines[-len(names) : -len(names)] = heads
        return "\n".join(lines)

    def _by_plates(self) -> Iterator[tuple[tuple[str, ...], list[str]]]:
        """Yield sites by the plates that they stand in, those in fewer plates first."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for name, node in self.nodes.items():
            groups.setdefault(tuple(f.name for f in node.plates), []).append(name)
        if self.given:
            rows = next((p for p in groups if "rows" in p), ())
            groups[rows] = [*self.given, *groups.get(rows, [])]
        yield from sorted(groups.items(), key=lambda g: len(g[0]))

    def _head(self, plate: str, depth: int) -> str:
        size = next(
            (f.size for node in self.nodes.values() for f in node.plates if f.name == plate), 0
        )
        count = (self.num_rows or "N") if plate == "rows" else size
        return f"{'│ ' * depth}┌ {plate}: {index_of(plate)} = 1, …, {count}"

    def _drawn(self, name: str) -> str:
        if name in self.given:
            return f"<{symbol(name)}>"
        node = self.nodes[name]
        shape = f"[{symbol(name)}]" if node.observed else f"({symbol(name)})"
        arrow = f"  ← {', '.join(map(symbol, node.parents))}" if node.parents else ""
        return f"{shape} ~ {distribution(node)}{arrow}"

    def save(self, path: str | Path) -> Path:
        """Write the plate diagram into a file, and return its path.

        Parameters
        ----------
        path
            ``.svg``, ``.png`` or ``.pdf`` need Graphviz's program ``dot``; ``.dot`` and ``.txt``
            do not.

        Raises
        ------
        StoryError
            If ``dot`` is not installed, or the ending is another.
        """
        path = Path(path)
        kind = path.suffix.removeprefix(".")
        if kind in ("txt", "dot"):
            path.write_text(str(self) if kind == "txt" else self.diagram.source, encoding="utf-8")
            return path
        if kind not in ("svg", "png", "pdf"):
            raise StoryError(f"a diagram is .svg, .png, .pdf, .dot or .txt; given {str(path)!r}")
        if shutil.which("dot") is None:
            raise StoryError(
                f"Graphviz's program `dot`, which draws {path.name}, is not installed: install "
                f"graphviz, or write {path.with_suffix('.txt').name}, the diagram as text"
            )
        path.write_bytes(self.diagram.pipe(format=kind))
        return path

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = "" if self.num_rows is None else f", N = {self.num_rows}"
        free, frozen = self.sizes
        held = f" and {frozen:,} frozen" if frozen else ""
        yield Text(f"{self.name}{rows}, {free:,} parameters{held}", style="bold")
        yield Text(self.drawing)
        yield Text(f"\n{self.density}")
        if self.guide_nodes:
            yield Text(self.guide_density)
        yield Text("")
        table = Table(*self._lines()[0]) if self.nodes else Table()
        for line in self._lines():
            table.add_row(*line.values())
        yield table
        if self.beside:
            yield Text(f"terms of the objective alone: {', '.join(self.beside)}")
        for column, values in self.draws.items():
            yield Text(f"drawn from the story, {column}:")
            for row in values:
                yield Text(f"  {_entries(row)}")

    def __str__(self) -> str:
        console = Console(width=120, color_system=None, force_terminal=False)
        with console.capture() as capture:
            console.print(self)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def _repr_html_(self) -> str:
        text = f"<pre>{html.escape(str(self))}</pre>"
        if shutil.which("dot") is None:
            return text
        return self.diagram.pipe(format="svg", encoding="utf-8") + text


def _shape(node: Node, num_rows: int | None) -> str:
    """Return plates and event: ``N | 64``."""
    sizes = [
        str(num_rows or "N") if frame.name == "rows" else str(frame.size) for frame in node.plates
    ]
    return f"{' × '.join(sizes)} | {' × '.join(map(str, node.event_shape))}".strip()


def _told(groups: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in groups.items())


def _entries(row: Tensor) -> str:
    flat = row.detach().flatten().tolist()
    told = " ".join(f"{v:.3g}" for v in flat[:ENTRIES])
    return told if len(flat) <= ENTRIES else f"{told} … ({len(flat)} entries)"
