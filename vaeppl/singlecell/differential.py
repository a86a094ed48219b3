"""Differential expression: genes whose share differs between two groups of cells.

With ρ_ng the share of gene g in cell n, given its counts, the log fold change of two groups is

    LFC_g = log₂(ρ_Ag + ε) - log₂(ρ_Bg + ε)

and its posterior, by draws, is what is reported. ρ_A is one of two things:

``"means"``
    the mean over the cells from which those of the group are a sample: its draws resample the cells
    (the bootstrap), each with a draw of z.
``"cells"``
    the share in one cell of the group, drawn at random, so that differences among the cells of a
    group are part of it (Lopez et al. 2018; Boyeau et al. 2019, "Deep generative models for
    detecting differential expression in single cells").

A network shrinks and smooths, and it is held at its fit: its shares are precise, and farther off
than they admit. So a group's shares are multiplied by a factor exp(b_g), which its counts tell::

    b_g ~ N(0, misfit²),   E[x_ng] = m_ng exp(b_g) for the cells of the group

where m and V are mean and variance of x under the fit, and b is estimated by quasi-likelihood
(weights m/V) with a variance from the residuals themselves, as in a regression for counts with
log m as its offset (McCullagh and Nelder 1989, "Generalized linear models", chapter 9).
``misfit=0`` takes the fit at its word.

Cells are the units here. Where they come from few donors, what is found holds for these donors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.poutine as poutine
import torch
from torch import Tensor

from ..data import Data
from ..errors import unknown_name
from ..pair import Batch, Pair, as_pair
from ..reading import tracing
from .annotated import cells_of
from .cells import totals
from .expression import batch_codes, gene_names, rows_at_once, shares
from .groups import Comparison, comparisons, raw_means

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["differential_expression", "expected_fdr"]

MEANS_OF = 2000  # cells of a group of which the mean is taken, at most
DRAWS_OF_A_CELL = 25  # at most, where a group has few cells
DRAWS_OF_MOMENTS = 4  # of z, over which mean and variance of the counts are averaged
TINY = 1e-12  # counts that a gene has on average, at least
PSEUDOCOUNT = 0.01  # counts in a cell of median total: below it a fold change says nothing


def differential_expression(
    source: Any,
    data: Any = None,
    group1: Any = None,
    group2: Any = None,
    *,
    groupby: str | None = None,
    delta: float = 0.25,
    between: str = "means",
    n_samples: int = 2000,
    transform_batch: Any = None,
    misfit: float = 0.5,
    pseudocount: float | None = None,
    fdr_target: float = 0.05,
    level: float = 0.9,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare the expression of every gene in two groups of cells.

    Parameters
    ----------
    source
        A :class:`~vaeppl.Fit` or a model.
    data
        Cells, as in :func:`get_latent_representation`.
    group1, group2
        Rows of the groups: a bool mask of shape ``(N,)`` or row numbers; with ``groupby`` the name
        of a level (its code where levels have no names), or several. ``group2=None``: all cells
        that are not in group 1.
    groupby
        Column of ``adata.obs``, or of the data, whose levels are compared. With ``group1=None``
        each level is compared with the rest.
    delta
        δ: a gene is differentially expressed if |LFC| > δ.
    between
        ``"means"`` of the groups, or two ``"cells"`` at random.
    n_samples
        Draws.
    transform_batch
        Batches in which both groups are looked at, as in :func:`get_normalized_expression`: give
        those in which both were seen, where the groups are mixed of them in unequal parts.
        ``None``: each cell's own.
    misfit
        Prior standard deviation of the log of the factor by which a group's shares may be off.
    pseudocount
        ε, a share; ``None``: 0.01 counts in a cell of median total.
    fdr_target
        Expected share of false discoveries among the genes that are called.
    level
        Probability of the interval of the LFC.
    seed
        Fixes the draws.

    Returns
    -------
    pandas.DataFrame
        A line a gene, the most probable first: ``proba_de`` (that |LFC| > δ), ``bayes_factor``
        (log odds of that), ``lfc_mean``, ``lfc_median``, ``lfc_std``, ``lfc_lower``, ``lfc_upper``,
        the mean shares ``scale1`` and ``scale2``, ``expected_fdr`` of a list that ends at the gene,
        ``is_de_fdr`` that this is at most the target; and of the counts themselves ``raw_mean1``,
        ``raw_mean2``, ``non_zeros_proportion1``, ``non_zeros_proportion2``, to see on how much a
        fold change rests. With ``groupby`` also ``comparison``, such as ``"B vs rest"``.

    Raises
    ------
    ColumnError
        If a group has no cell, or a cell is in both.

    Examples
    --------
    >>> from vaeppl.models import SCVI
    >>> table = differential_expression(
    ...     SCVI(6, 2, hidden=(4,)), {"x": torch.ones(10, 6)}, [0, 1, 2], n_samples=50)
    >>> table.shape
    (6, 15)
    """
    if between not in ("cells", "means"):
        raise ValueError(unknown_name("between", between, ["cells", "means"]))
    if n_samples < 2:
        raise ValueError(f"n_samples is at least 2; given {n_samples}")
    if misfit < 0:
        raise ValueError(f"misfit is a standard deviation, at least 0; given {misfit}")
    pair, cells = as_pair(source), cells_of(source, data)
    groups = comparisons(data, cells, groupby, group1, group2)
    epsilon = PSEUDOCOUNT / float(totals(cells).median()) if pseudocount is None else pseudocount
    codes = batch_codes(cells, transform_batch)
    draw = _of_cells if between == "cells" else _of_means
    tables = []
    for group in groups:
        noise = np.random.default_rng(seed)
        with tracing.quiet(pair, seed=seed):
            rho1, rho2 = (
                draw(pair, cells, rows, codes, n_samples, noise)
                * _factor(pair, cells, rows, misfit, n_samples, noise)
                for rows in (group.first, group.second)
            )
        lfc = np.log2(rho1 + epsilon) - np.log2(rho2 + epsilon)
        table = _table(gene_names(cells), lfc, rho1, rho2, delta, fdr_target, level)
        tables.append(_with_counts(table, cells, group))
    return tables[0] if len(tables) == 1 else _stacked(tables)


def expected_fdr(probability: Any) -> np.ndarray:
    """Return the expected share of false discoveries among each gene and those more probable.

    Parameters
    ----------
    probability
        P(differentially expressed) of each gene, ``(G,)``.

    Returns
    -------
    ndarray
        ``(G,)``, in the order given.

    References
    ----------
    Cui, Dickhaus, Ding and Hsu (2021), "Handbook of multiple comparisons", on Bayesian FDR;
    Newton et al. (2004), "Detecting differential gene expression with a semiparametric
    hierarchical mixture method", equation 9.

    Examples
    --------
    >>> expected_fdr([0.5, 1.0, 0.9]).round(3).tolist()
    [0.2, 0.0, 0.05]
    """
    probability = np.asarray(probability, dtype=float)
    order = np.argsort(-probability, kind="stable")
    found = np.empty(len(order))
    found[order] = np.cumsum(1 - probability[order]) / np.arange(1, len(order) + 1)
    return found


def _of_cells(
    pair: Pair, data: Data, rows: Tensor, codes: Any, n: int, noise: np.random.Generator
) -> np.ndarray:
    """Draw ρ of ``n`` cells of a group, with replacement, ``(n, G)``."""
    chosen = rows[torch.from_numpy(noise.integers(len(rows), size=n))]
    return _draw(pair, data.select(chosen), codes)


def _of_means(
    pair: Pair, data: Data, rows: Tensor, codes: Any, n: int, noise: np.random.Generator
) -> np.ndarray:
    """Draw the mean of ρ over the cells of which those of a group are a sample, ``(n, G)``."""
    if len(rows) > MEANS_OF:
        rows = rows[torch.from_numpy(np.sort(noise.permutation(len(rows))[:MEANS_OF]))]
    group = data.select(rows)
    times = min(DRAWS_OF_A_CELL, -(-MEANS_OF // len(rows)))
    rho = np.concatenate([_draw(pair, group, codes) for _ in range(times)])
    # A bootstrap sample, of as many cells as there are, each with one of its draws.
    picks = noise.multinomial(len(rows), np.full(len(rho), 1 / len(rho)), size=n)
    mean: np.ndarray = picks @ rho / len(rows)
    return mean


def _factor(
    pair: Pair, data: Data, rows: Tensor, misfit: float, n: int, noise: np.random.Generator
) -> Any:
    """Draw the factor by which the counts of a group exceed those of the fit, ``(n, G)``."""
    if misfit == 0:
        return 1.0
    group = data.select(rows)
    seen: Any = 0.0
    expected: Any = 0.0
    spread: Any = 0.0
    weight: Any = 0.0
    for batch in tracing.batches(pair, group, rows_at_once(group)):
        mean, variance = _moments(pair, batch)
        w = mean / variance
        seen, expected = seen + (w * batch["x"]).sum(0), expected + (w * mean).sum(0)
        spread = spread + (w * (batch["x"] - mean)).square().sum(0)
        weight = weight + w.sum(0)
    seen, expected, spread, weight = (np.asarray(t.cpu()) for t in (seen, expected, spread, weight))
    half = weight / len(rows) / 2  # half a count, so that a gene that is not seen has a logarithm
    log_ratio = np.log((seen + half) / (expected + half))
    # Not below what the story says, as few counts tell little of their own spread.
    v = np.maximum(spread / expected**2, 1 / expected)
    b = misfit**2 / (misfit**2 + v)
    factor: np.ndarray = np.exp(b * log_ratio + np.sqrt(b * v) * noise.normal(size=(n, len(v))))
    return factor


def _moments(pair: Pair, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the counts of some cells under the fit, in float64."""
    mean: Any = 0.0
    square: Any = 0.0
    variance: Any = 0.0
    for _ in range(DRAWS_OF_MOMENTS):
        guide = poutine.trace(pair.guide).get_trace(**batch)
        story = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(**batch)
        counts: Any = story.nodes["x"]["fn"]
        drawn = counts.mean.double().clamp(min=TINY)
        mean, square = mean + drawn, square + drawn.square()
        variance = variance + counts.variance.double().clamp(min=TINY)
    mean, square, variance = (total / DRAWS_OF_MOMENTS for total in (mean, square, variance))
    return mean, variance + (square - mean.square()).clamp(min=0.0)


def _draw(pair: Pair, cells: Data, codes: Any) -> np.ndarray:
    batches = tracing.batches(pair, cells, rows_at_once(cells))
    parts = [{"rho": shares(pair, batch, codes).exp()} for batch in batches]
    return np.asarray(batches.joined(parts)["rho"].double().cpu())


def _table(
    genes: list[str],
    lfc: np.ndarray,
    rho1: np.ndarray,
    rho2: np.ndarray,
    delta: float,
    fdr_target: float,
    level: float,
) -> pd.DataFrame:
    import pandas as pd

    n = len(lfc)
    proba = (np.abs(lfc) > delta).mean(0)
    inside = proba.clip(1 / (2 * n), 1 - 1 / (2 * n))  # n draws tell no odds beyond 2n - 1
    fdr = expected_fdr(proba)
    lower, upper = np.quantile(lfc, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return pd.DataFrame(
        {
            "proba_de": proba,
            "bayes_factor": np.log(inside) - np.log1p(-inside),
            "lfc_mean": lfc.mean(0),
            "lfc_median": np.median(lfc, axis=0),
            "lfc_std": lfc.std(0),
            "lfc_lower": lower,
            "lfc_upper": upper,
            "scale1": rho1.mean(0),
            "scale2": rho2.mean(0),
            "expected_fdr": fdr,
            "is_de_fdr": fdr <= fdr_target,
        },
        index=pd.Index(genes, name="gene"),
    )


def _with_counts(table: pd.DataFrame, cells: Data, group: Comparison) -> pd.DataFrame:
    """Add what the counts themselves say, and sort the genes."""
    for number, rows in ((1, group.first), (2, group.second)):
        mean, positive = raw_means(cells, rows)
        table[f"raw_mean{number}"], table[f"non_zeros_proportion{number}"] = mean, positive
    if group.name:
        table["comparison"] = group.name
    return table.sort_values("proba_de", ascending=False, kind="stable")


def _stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(tables)
