"""Differential expression: genes whose share differs between two groups of cells.

Of a cell a of group 1 and a cell b of group 2, each drawn at random and each with a draw of its z
from the posterior, the log fold change of gene g is

    LFC_g = log₂(ρ_ag + ε) - log₂(ρ_bg + ε)

and its distribution over the draws is what is reported (Lopez et al. 2018; Boyeau et al. 2019,
"Deep generative models for detecting differential expression in single cells"). With
``between="means"`` the shares are averaged over the cells of each group before the logarithm is
taken, so that the differences among the cells of a group are no part of the uncertainty. In both,
θ and the networks are held at their fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..data import Data, as_data
from ..errors import ColumnError, unknown_name
from ..pair import Pair, as_pair
from ..reading import tracing
from .cells import totals
from .expression import batch_codes, gene_names, rows_at_once, shares

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["differential_expression", "expected_fdr"]

MEANS_OF = 500  # cells of a group of which the mean is taken, at most
PSEUDOCOUNT = 0.01  # counts in a cell of median total: below it a fold change says nothing


def differential_expression(
    source: Any,
    data: Any,
    group1: Any,
    group2: Any = None,
    *,
    delta: float = 0.25,
    between: str = "cells",
    n_samples: int = 2000,
    transform_batch: Any = None,
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
        Cells, as in :func:`vaeppl.fit`.
    group1, group2
        Rows of the groups: a bool mask of shape ``(N,)`` or row numbers. ``None``: all cells that
        are not in group 1.
    delta
        δ: a gene is differentially expressed if |LFC| > δ.
    between
        ``"cells"``: two cells at random; ``"means"``: the means of the groups.
    n_samples
        Draws.
    transform_batch
        Batches in which both groups are looked at, as in :func:`get_normalized_expression`: give
        all of them where the groups come from different ones. ``None``: each cell's own.
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
        and ``is_de_fdr`` that this is at most the target.

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
    (6, 11)
    """
    if between not in ("cells", "means"):
        raise ValueError(unknown_name("between", between, ["cells", "means"]))
    if n_samples < 2:
        raise ValueError(f"n_samples is at least 2; given {n_samples}")
    pair, cells = as_pair(source), as_data(data)
    first, second = _groups(cells, group1, group2)
    epsilon = PSEUDOCOUNT / float(totals(cells).median()) if pseudocount is None else pseudocount
    codes = batch_codes(cells, transform_batch)
    draw = _of_cells if between == "cells" else _of_means
    noise = torch.Generator().manual_seed(seed)
    with tracing.quiet(pair, seed=seed):
        rho1 = draw(pair, cells, first, codes, n_samples, noise)
        rho2 = draw(pair, cells, second, codes, n_samples, noise)
    lfc = np.log2(rho1 + epsilon) - np.log2(rho2 + epsilon)
    return _table(gene_names(cells), lfc, rho1, rho2, delta, fdr_target, level)


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


def _groups(data: Data, group1: Any, group2: Any) -> tuple[Tensor, Tensor]:
    first = _rows(data, group1, "group1")
    if group2 is None:
        rest = torch.ones(len(data), dtype=torch.bool)
        rest[first] = False
        second = rest.nonzero().squeeze(1)
        if not len(second):
            raise ColumnError("group1 holds all cells, so there is no other group")
        return first, second
    second = _rows(data, group2, "group2")
    if common := set(first.tolist()) & set(second.tolist()):
        raise ColumnError(f"{len(common)} cells are in both groups, row {min(common)} first")
    return first, second


def _rows(data: Data, group: Any, name: str) -> Tensor:
    given = torch.as_tensor(np.asarray(group))
    if given.dtype == torch.bool:
        if given.shape != (len(data),):
            raise ColumnError(
                f"{name} is a mask of shape {tuple(given.shape)}, but there are {len(data)} cells"
            )
        given = given.nonzero().squeeze(1)
    given = given.long().unique()
    if not len(given):
        raise ColumnError(f"{name} has no cell")
    if given.min() < 0 or given.max() >= len(data):
        raise ColumnError(f"{name} names row {int(given.max())}, but there are {len(data)} cells")
    return given


def _of_cells(
    pair: Pair, data: Data, rows: Tensor, codes: Any, n: int, noise: torch.Generator
) -> np.ndarray:
    """Draw ρ of ``n`` cells of a group, with replacement, ``(n, G)``."""
    chosen = rows[torch.randint(len(rows), (n,), generator=noise)]
    return _draw(pair, data.select(chosen), codes)


def _of_means(
    pair: Pair, data: Data, rows: Tensor, codes: Any, n: int, noise: torch.Generator
) -> np.ndarray:
    """Draw the mean of ρ over the cells of a group ``n`` times, ``(n, G)``."""
    if len(rows) > MEANS_OF:
        rows = rows[torch.randperm(len(rows), generator=noise)[:MEANS_OF]]
    group = data.select(rows)
    return np.stack([_draw(pair, group, codes).mean(0) for _ in range(n)])


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
    table = pd.DataFrame(
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
    return table.sort_values("proba_de", ascending=False, kind="stable")
