"""Where each value lies among those that its story expects: quantile residuals of the entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Independent

from ..data import Data, as_data
from ..distributions import MixedColumns
from ..errors import StoryError
from ..pair import Pair, as_pair
from . import tracing
from .sites import observed_columns
from .weights import weigh

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PITReport", "quantile_residuals"]

NUMBERS_AT_ONCE = 2**23  # entries times particles that a pass may hold


@dataclass(frozen=True)
class PITReport:
    """Quantile residuals of a column.

    Attributes
    ----------
    pit : ndarray
        Pr(x̃ < x | rest of the row), ``(N, D)``, uniform on (0, 1) if the story is true; NaN where
        the entry is missing; :func:`vaeppl.plots.quantile_residuals` draws it.
    residuals : ndarray
        Φ⁻¹(pit), standard normal if the story is true.
    table : pandas.DataFrame
        For each entry: ``mean`` and ``sd`` of the residuals (0 and 1 are right: a mean away from 0
        is a bias; above 1 the story is too sure, below 1 too vague), and ``p_value`` of a
        Kolmogorov-Smirnov test that pit is uniform.
    """

    pit: np.ndarray
    residuals: np.ndarray
    table: pd.DataFrame

    def __repr__(self) -> str:
        told = self.table.to_string(float_format="{:.3g}".format)
        return f"quantile residuals of {len(self.pit)} rows\n{told}"


def quantile_residuals(
    source: Any,
    data: Any,
    *,
    guide: Any = None,
    column: str | None = None,
    num_particles: int = 500,
    seed: int = 0,
) -> PITReport:
    """Ask of each entry how far out it lies, given all others of its row (LOO-PIT).

    With w_k the weight of a draw z_k of the guide, w_k / p(x_nd | z_k) is its weight had entry d
    not been seen, so that with one draw x̃_k ~ p(x_d | z_k) of each ::

        pit_nd = Σ_k v_k [x̃_k < x_nd] + u Σ_k v_k [x̃_k = x_nd],   v_k ∝ w_k / p(x_nd | z_k)

    with u uniform, so that counts and codes have uniform pit, too (Dunn & Smyth 1996, randomised
    quantile residuals; Gelfand, Dey & Chang 1992, leaving one out by its weight).

    Parameters
    ----------
    source, data, guide, seed
        As in :func:`vaeppl.evidence`.
    column
        An observed column whose entries are independent given the latents; the first if ``None``.
    num_particles
        K; pit is as coarse as 1 / K.

    Returns
    -------
    PITReport

    Raises
    ------
    StoryError
        If the column is not observed, or its entries depend on each other given the latents.

    Examples
    --------
    >>> from vaeppl.models import VAE
    >>> x = torch.randn(40, 3)
    >>> report = quantile_residuals(VAE(3, 2, likelihood="normal", hidden=(4,)), {"x": x})
    >>> report.pit.shape, list(report.table.columns)
    ((40, 3), ['mean', 'sd', 'p_value'])
    """
    pair, rows = as_pair(source, guide), as_data(data)
    observed = observed_columns(pair, rows)
    if column is None and observed:
        column = observed[0]
    if column is None or column not in observed:
        raise StoryError(f"{pair.name} observes {', '.join(observed) or 'nothing'}, not {column!r}")
    width = max(1, rows[column][0].numel())
    size = max(1, min(len(rows), NUMBERS_AT_ONCE // (num_particles * width)))
    parts = []
    with tracing.quiet(pair, seed=seed):
        batches = tracing.batches(pair, rows, size)
        for batch in batches:
            parts.append({column: _pit(pair, batch, column, num_particles)})
    pit = batches.joined(parts)[column].reshape(len(rows), -1).double().cpu().numpy()
    half = 0.5 / num_particles
    residuals = scipy.stats.norm.ppf(np.clip(pit, half, 1 - half))
    return PITReport(pit, residuals, _table(rows, column, pit, residuals))


def _pit(pair: Pair, batch: Any, column: str, particles: int) -> Tensor:
    rows = len(next(iter(batch.values())))
    depth = tracing.plate_depth(pair, batch)
    guide, model = tracing.particle_traces(pair, batch, particles, depth)
    log_w = weigh(pair, guide, model, rows, depth)[0].expand(particles, rows)
    site = model.nodes[column]
    fn, seen = site["fn"], batch[column].reshape(rows, -1)
    lead = (particles, *[1] * (depth - 1), rows)
    scores = _of_entries(fn, site["value"]).expand(*lead, *site["fn"].event_shape)
    scores = scores.reshape(particles, rows, -1)
    drawn = fn.sample().expand(*lead, *site["fn"].event_shape).reshape(particles, rows, -1)
    v = (log_w.unsqueeze(-1) - scores).softmax(0)
    below, ties = ((v * m).sum(0) for m in (drawn < seen, drawn == seen))
    pit = below + torch.rand_like(below) * ties
    return torch.where(seen.isnan(), torch.nan, pit) if seen.is_floating_point() else pit


def _of_entries(fn: Any, value: Tensor) -> Tensor:
    """Return log p of each entry, of the shape of the value."""
    if isinstance(fn, MixedColumns):
        parts = value.split(fn.sizes, dim=-1)
        scores = [_of_entries(p, v) for p, v in zip(fn.parts, parts, strict=True)]
        shape = torch.broadcast_shapes(*(s.shape[:-1] for s in scores))
        return torch.cat([s.expand(*shape, -1) for s in scores], dim=-1)
    while isinstance(fn, Independent):
        fn = fn.base_dist
    if fn.event_dim:
        raise StoryError(
            f"given the latents the entries depend on each other ({type(fn).__name__}), so none of "
            "them can be left out"
        )
    score: Tensor = fn.log_prob(value)
    return score


def _table(rows: Data, column: str, pit: np.ndarray, residuals: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    fields, lines = rows.fields(column), []
    for entry in range(pit.shape[1]):
        there = ~np.isnan(pit[:, entry])
        name = fields[entry].name if len(fields) == pit.shape[1] else str(entry)
        test = scipy.stats.kstest(pit[there, entry], "uniform") if there.any() else None
        lines.append(
            {
                "entry": name,
                "mean": residuals[there, entry].mean(),
                "sd": residuals[there, entry].std(ddof=1),
                "p_value": np.nan if test is None else test.pvalue,
            }
        )
    return pd.DataFrame(lines).set_index("entry")
