"""Stories side by side: held-out evidence row by row, predictive checks, active units and cost."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.poutine as poutine

from ..data import Data, as_data
from ..errors import StoryError
from ..pair import Pair, as_pair
from . import tracing
from .criticism import Statistic, posterior_predictive_check
from .evidence import active_units, evidence
from .held_out import rows_fitted, words_of_rows
from .sites import observed_columns

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found.

    Attributes
    ----------
    table : pandas.DataFrame
        A line a story, the best first: ``elpd`` (mean log p(x) of a row, nats) with ``se`` over the
        rows; ``difference`` from the best, with ``difference_se`` of the paired differences;
        ``unreliable``, share of rows whose Pareto k is above 0.7; ``active`` of ``units``;
        ``parameters``; ``seconds`` that the fit took.
    rows : pandas.DataFrame
        log p(x) of each row, a column a story.
    checks : pandas.DataFrame
        Predictive checks side by side: by statistic, ``observed``, and each story's ``p_value``.
    num_particles : int
        Draws for each row.
    fitted : tuple of int or None
        How many of the rows equal rows that a story was fitted to, by the order in which they were
        given; ``None`` where that cannot be known.
    """

    table: pd.DataFrame
    rows: pd.DataFrame
    checks: pd.DataFrame = field(repr=False)
    num_particles: int
    fitted: tuple[int | None, ...] = (None,)

    @property
    def head(self) -> str:
        """What the table is of: how many rows, and whether they were held out or fitted."""
        rows = len(self.rows)
        if all(n == 0 for n in self.fitted):
            return f"held-out evidence of {rows} rows, nats per row"
        return f"evidence of {words_of_rows(rows, self.fitted)}, nats per row"

    def __repr__(self) -> str:
        told = self.table.to_string(float_format="{:.4g}".format, na_rep="")
        if self.checks.empty:
            return f"{self.head}\n{told}"
        checks = self.checks.to_string(float_format="{:.3g}".format)
        return f"{self.head}\n{told}\np-values of predictive checks\n{checks}"

    def to_rich(self) -> Table:
        """Return the table for a terminal."""
        from rich.table import Table

        rich = Table(
            "story", "elpd", "difference ± s.e.", "k > 0.7", "active", "parameters", "seconds"
        )
        for name, line in self.table.iterrows():
            best = line["difference"] == 0
            told = "" if best else f"{line['difference']:.2f} ± {line['difference_se']:.2g}"
            seconds = "" if np.isnan(line["seconds"]) else f"{line['seconds']:.0f}"
            units = f"{line['active']:.0f} of {line['units']:.0f}"
            elpd = f"{line['elpd']:.2f} ± {line['se']:.2g}"
            few = line["unreliable"]
            k = "unknown" if np.isnan(few) else f"{few:.0%}"
            rich.add_row(str(name), elpd, told, k, units, f"{line['parameters']:.0f}", seconds)
        return rich


def compare(
    *fits: Any,
    data: Any = None,
    names: Sequence[str] | None = None,
    num_particles: int = 500,
    statistics: Mapping[str, Statistic] | None = None,
    num_samples: int = 100,
    kind: str = "posterior",
    seed: int = 0,
) -> Comparison:
    """Compare fitted stories on the same rows.

    The difference of two stories is that of their log p(x_n), row by row, so its standard error is
    that of the paired differences: far below that of either (Vehtari, Gelman & Gabry 2017, section
    5.2). Rows that none of them was fitted to say how well each predicts.

    Parameters
    ----------
    *fits
        What :func:`vaeppl.fit` returned, two or more, of stories that observe the same columns.
    data
        Rows that were held out; of data with splits the test part, or else the valid part.
    names
        What to call them; their classes' names if not given.
    num_particles
        Draws for each row; with some rows' Pareto k above 0.7 more are needed.
    statistics, num_samples, kind
        As in :func:`vaeppl.posterior_predictive_check`; ``num_samples=0`` leaves checks out.
    seed
        Fixes the draws.

    Returns
    -------
    Comparison

    Raises
    ------
    StoryError
        If there are fewer than two, or they observe different columns.

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(100, 6) < 0.3).float()
    >>> data = vaeppl.data.Data({"x": x}).split(test=0.3)
    >>> runs = [
    ...     vaeppl.fit(VAE(6, d, hidden=(8,)), data, epochs=2, progress=False) for d in (1, 2)
    ... ]
    >>> compared = compare(*runs, data=data, names=["one", "two"], num_samples=20)
    >>> sorted(compared.table.index)
    ['one', 'two']
    """
    import pandas as pd

    if len(fits) < 2:
        raise StoryError(f"a comparison takes two stories or more; given {len(fits)}")
    pairs = [as_pair(f) for f in fits]
    if data is None:
        raise StoryError("data= holds the rows to compare on: such as were held out")
    given = as_data(data)
    part = next((n for n in ("test", "valid") if given.has_split(n)), None)
    rows = given if part is None else getattr(given, part)
    called = _names(pairs, names)
    columns = _shared_columns(pairs, called, rows)
    lines = []
    by_row: dict[str, Any] = {}
    checks: dict[str, Any] = {}
    for name, fit, pair in zip(called, fits, pairs, strict=True):
        report = evidence(fit, rows, num_particles=num_particles, seed=seed)
        by_row[name] = report.rows["log_evidence"]
        units = active_units(fit, rows, seed=seed)
        lines.append(
            {
                "story": name,
                "elpd": report.mean,
                "se": report.se,
                "unreliable": report.share_unreliable,
                "active": int(units.active.sum()),
                "units": len(units),
                "parameters": sum(p.numel() for p in pair.parameters() if p.requires_grad),
                "seconds": _seconds(fit),
            }
        )
        if num_samples and columns:
            options: Any = {"statistics": statistics, "num_samples": num_samples, "kind": kind}
            found = posterior_predictive_check(
                fit, rows, column=columns[0], seed=seed, **options
            ).table.set_index("statistic")
            checks.setdefault("observed", found["observed"])
            checks[name] = found["p_value"]
    table = pd.DataFrame(lines).set_index("story")
    values = pd.DataFrame(by_row)
    best = table["elpd"].idxmax()
    differences = values.sub(values[best], axis=0)
    table.insert(2, "difference", differences.mean())
    spread = differences.std(ddof=1) / len(values) ** 0.5
    table.insert(3, "difference_se", spread.where(spread.index != best))
    ordered = table.sort_values("elpd", ascending=False)
    fitted = tuple(rows_fitted(f, rows, given if part else None) for f in fits)
    return Comparison(ordered, values, pd.DataFrame(checks), num_particles, fitted)


def _names(pairs: Sequence[Pair], names: Sequence[str] | None) -> list[str]:
    if names is not None:
        if len(set(names)) != len(pairs) or len(names) != len(pairs):
            raise StoryError(f"names= gives {len(pairs)} different names; given {list(names)}")
        return list(names)
    own = [p.name for p in pairs]
    return [n if own.count(n) == 1 else f"{n} {own[:i].count(n) + 1}" for i, n in enumerate(own)]


def _shared_columns(pairs: Sequence[Pair], names: Sequence[str], rows: Data) -> tuple[str, ...]:
    """Return the columns that all of the stories observe; refuse stories of different data."""
    seen = [observed_columns(p, rows) for p in pairs]
    for name, columns in zip(names, seen, strict=True):
        if set(columns) != set(seen[0]):
            raise StoryError(
                f"{names[0]} observes {', '.join(map(repr, seen[0])) or 'nothing'} and {name} "
                f"{', '.join(map(repr, columns)) or 'nothing'}: densities of different columns "
                "cannot be compared"
            )
    kinds = [_are_discrete(p, rows, seen[0]) for p in pairs]
    if len(set(kinds)) > 1:
        warnings.warn(
            "some stories have probabilities of their columns and others densities, whose "
            "logarithms are comparable only where the columns are whole numbers",
            stacklevel=3,
        )
    return seen[0]


def _are_discrete(pair: Pair, rows: Data, columns: Sequence[str]) -> tuple[bool, ...]:
    with tracing.quiet(pair):
        batch = tracing.few_rows(pair, rows)
        guide = poutine.trace(pair.guide).get_trace(**batch)
        model = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(**batch)
    nodes: dict[str, Any] = model.nodes
    supports = [nodes[c]["fn"].support for c in columns]
    return tuple(bool(s.is_discrete) for s in supports)


def _seconds(fit: Any) -> float:
    history = getattr(fit, "history", None)
    if history is None or "seconds" not in history:
        return float("nan")
    return float(history["seconds"].sum())
