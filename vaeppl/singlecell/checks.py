"""Posterior predictive checks of counts: zeros, mean and variance, library sizes.

For each gene and each cell a statistic of the counts is set beside those of replicated counts,
x̃ ~ p(x̃ | z, ℓ, s) with z, ℓ ~ q(z, ℓ | x, s). Cells are read some at a time, and of the
replications sums are kept only: memory is set by cells + genes, not by cells × genes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.poutine as poutine
import torch
from torch import Tensor

from ..pair import Batch, Pair, as_pair
from ..reading import tracing
from .annotated import cell_names, cells_of
from .expression import gene_names, rows_at_once

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CountsCheck", "count_statistics", "predictive_check"]

LEVEL = 0.9


@dataclass(frozen=True)
class CountsCheck:
    """Statistics of counts beside those of replicated counts.

    Attributes
    ----------
    genes : pandas.DataFrame
        A line a gene. For each statistic T of ``zeros`` (share of cells without a count), ``mean``
        and ``variance``: ``T`` itself; ``T_rep``, ``T_lower`` and ``T_upper``, the mean, 5% and 95%
        over replications; and ``T_p``, Pr(T(x̃) >= T(x)) with ties counted half.
    cells : pandas.DataFrame
        A line a cell. Likewise for ``zeros`` (share of genes without a count) and ``library``
        (counts of the cell).
    num_samples : int
        Replications.
    """

    genes: pd.DataFrame
    cells: pd.DataFrame
    num_samples: int

    @property
    def table(self) -> pd.DataFrame:
        """A line a statistic: how far the story is from the data over all genes, or all cells.

        ``observed`` and ``replicated`` are means over genes or cells; ``error`` is the mean
        absolute difference; ``correlation`` is that of the ranks; ``inside`` is the share of genes
        or cells inside the 90% interval of the replications.
        """
        import pandas as pd

        wanted = [("genes", name) for name in ("zeros", "mean", "variance")]
        wanted += [("cells", name) for name in ("zeros", "library")]
        lines = [_compared(getattr(self, over), over, name) for over, name in wanted]
        return pd.DataFrame(lines).set_index(["over", "statistic"])

    def __repr__(self) -> str:
        head = f"posterior predictive check of counts ({self.num_samples} replications)"
        return f"{head}\n{self.table.to_string(float_format='{:.4g}'.format)}"


def predictive_check(
    source: Any, data: Any = None, *, num_samples: int = 50, seed: int = 0
) -> CountsCheck:
    """Compare zeros, mean, variance and library sizes with those of replicated counts.

    Parameters
    ----------
    source
        A :class:`~vaeppl.Fit` or a model.
    data
        Cells, as in :func:`get_latent_representation`.
    num_samples
        Replications.
    seed
        Fixes the draws.

    Returns
    -------
    CountsCheck
        ``genes``, ``cells`` and a ``table`` that sums them up; :func:`vaeppl.plots.zero_fractions`
        and :func:`vaeppl.plots.mean_variance` draw it.

    Examples
    --------
    >>> from vaeppl.models import SCVI
    >>> check = predictive_check(SCVI(6, 2, hidden=(4,)), {"x": torch.ones(5, 6)}, num_samples=3)
    >>> check.genes.shape, check.cells.shape
    ((6, 15), (5, 10))
    """
    import pandas as pd

    if num_samples < 1:
        raise ValueError(f"num_samples is at least 1; given {num_samples}")
    pair, cells = as_pair(source), cells_of(source, data)
    observed = _Moments(1)
    replicated = _Moments(num_samples)
    by_cell = []
    shared = [poutine.Trace() for _ in range(num_samples)]
    with tracing.quiet(pair, seed=seed):
        batches = tracing.batches(pair, cells, rows_at_once(cells))
        for batch in batches:
            own = observed.add([batch["x"]])
            rep = replicated.add(_replicate(pair, batch, i, shared) for i in range(num_samples))
            by_cell.append({**_named("own", own), **_named("rep", rep)})
    joined = batches.joined(by_cell)
    genes: dict[str, np.ndarray] = {}
    for name, value in observed.statistics().items():
        genes.update(_beside(name, value[0], replicated.statistics()[name]))
    table: dict[str, np.ndarray] = {}
    for name in ("zeros", "library"):
        one, many = (joined[f"{name} {of}"].double().cpu().numpy() for of in ("own", "rep"))
        table.update(_beside(name, one[:, 0], many.T))
    return CountsCheck(
        pd.DataFrame(genes, index=pd.Index(gene_names(cells), name="gene")),
        pd.DataFrame(table, index=cell_names(data)).rename_axis("cell"),
        num_samples,
    )


class _Moments:
    """Sums over cells, for each of some replications, of what statistics of genes are made of."""

    def __init__(self, replications: int) -> None:
        self.cells = 0
        self.sums: list[Any] = [[0.0, 0.0, 0.0] for _ in range(replications)]

    def add(self, draws: Any) -> dict[str, Tensor]:
        """Add the counts of some cells, once for each replication; return those of the cells."""
        zeros, library = [], []
        for sums, x in zip(self.sums, draws, strict=True):
            x = x.double()
            sums[0], sums[1] = sums[0] + x.sum(0), sums[1] + x.square().sum(0)
            sums[2] = sums[2] + (x == 0).double().sum(0)
            zeros.append((x == 0).double().mean(-1))
            library.append(x.sum(-1))
        self.cells += len(zeros[0])
        return {"zeros": torch.stack(zeros, -1), "library": torch.stack(library, -1)}

    def statistics(self) -> dict[str, np.ndarray]:
        """Return each statistic, ``(replications, G)``."""
        first, second, zeros = (
            np.stack([np.asarray(sums[i].cpu()) for sums in self.sums]) for i in range(3)
        )
        mean = first / self.cells
        return {
            "zeros": zeros / self.cells,
            "mean": mean,
            "variance": np.maximum(second / self.cells - mean**2, 0.0),
        }


def _replicate(pair: Pair, batch: Batch, number: int, shared: list[Any]) -> Tensor:
    """Draw the counts of some cells anew; what cells share is that of the cells before."""
    guide = poutine.trace(poutine.replay(pair.guide, trace=shared[number])).get_trace(**batch)
    shared[number] = tracing.only_shared(guide, len(batch["x"]))
    story = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(**batch)
    counts: Any = story.nodes["x"]["fn"]
    drawn: Tensor = counts.sample()
    return drawn


def _named(of: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name} {of}": value for name, value in values.items()}


def _beside(name: str, observed: np.ndarray, replicated: np.ndarray) -> dict[str, np.ndarray]:
    """Return a statistic and those of the replications, ``(replications, entries)``."""
    lower, upper = np.quantile(replicated, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], axis=0)
    p = (replicated > observed).mean(0) + 0.5 * (replicated == observed).mean(0)
    return {
        name: observed,
        f"{name}_rep": replicated.mean(0),
        f"{name}_lower": lower,
        f"{name}_upper": upper,
        f"{name}_p": p,
    }


def _compared(table: pd.DataFrame, over: str, name: str) -> dict[str, Any]:
    own, rep = table[name], table[f"{name}_rep"]
    inside = (table[f"{name}_lower"] <= own) & (own <= table[f"{name}_upper"])
    varies = own.nunique() > 1 and rep.nunique() > 1
    return {
        "over": over,
        "statistic": name,
        "observed": own.mean(),
        "replicated": rep.mean(),
        "error": (own - rep).abs().mean(),
        "correlation": own.rank().corr(rep.rank()) if varies else np.nan,
        "inside": inside.mean(),
    }


def count_statistics() -> dict[str, Callable[[np.ndarray], float]]:
    """Return statistics of counts for :func:`vaeppl.posterior_predictive_check`.

    With its ``kind="prior"`` they ask whether new cells, with a new z and ℓ, are like those of the
    data; the check holds all cells in memory, dense.

    Returns
    -------
    dict of str to callable
        Functions of an array ``(cells, genes)`` of counts: the share of zeros; its standard
        deviation over genes and over cells; the mean and coefficient of variation of the library
        size; and the slope and curvature of log variance over log mean of the genes (1 and 0 for
        Poisson counts, 2 and 0 where the coefficient of variation is the same for all).

    Examples
    --------
    >>> x = np.random.default_rng(0).poisson(np.geomspace(1, 100, 50), (2000, 50))
    >>> round(count_statistics()["slope of log variance on log mean"](x), 1)
    1.0
    """
    return {
        "share of zeros": lambda x: float((x == 0).mean()),
        "sd of it over genes": lambda x: float((x == 0).mean(0).std()),
        "sd of it over cells": lambda x: float((x == 0).mean(1).std()),
        "mean library size": lambda x: float(x.sum(1).mean()),
        "its coefficient of variation": lambda x: float(x.sum(1).std() / x.sum(1).mean()),
        "slope of log variance on log mean": lambda x: _mean_variance(x)[1],
        "its curvature": lambda x: _mean_variance(x)[0],
    }


def _mean_variance(x: np.ndarray) -> tuple[float, float]:
    """Fit a parabola to log variance over log mean of the genes; return curvature and slope."""
    mean, variance = x.mean(0, dtype=float), x.var(0, dtype=float)
    there = (mean > 0) & (variance > 0)
    if there.sum() < 3:
        return 0.0, 0.0
    log_mean = np.log(mean[there])
    curve = np.polyfit(log_mean - log_mean.mean(), np.log(variance[there]), 2)
    return float(curve[0]), float(curve[1])
