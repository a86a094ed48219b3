"""Simulation-based calibration: whether draws of z from the story are at home under q(z | x).

Draw (z, x) from the story, then z_1, …, z_L from q(· | x). If q is the posterior, the rank of each
entry of z among its L draws is uniform on 0, …, L (Talts et al. 2018; Cook, Gelman & Rubin 2006).
Ranks piled up at both ends say that q is too narrow, in the middle too wide, on one side that it
is off. As a q that is off has fewer ranks at the far end, the two are told apart by a fit: ranks of
z ~ N(m, s²) among draws of N(0, 1) have ::

    p(rank = r) = ∫ Binomial(r; L, Φ(u)) N(u; m, s²) du

m says how far z lies above q, in standard deviations of q, and s² how much further it spreads.

It is a question about data *from the story*, and needs no data but the columns that the story does
not generate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.poutine as poutine
import torch
from torch import Tensor

from ..errors import StoryError, whole_number
from ..estimators.sites import sample_sites
from ..pair import Batch, Pair, as_pair
from . import tracing

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CalibrationReport", "calibrate_guide"]

ROWS_AT_ONCE = 512
SMALL = 0.05  # a p-value below it is a departure
SURE = 0.01  # the level at which a word is said of what the departure is
NO_DEPARTURE = "no departure found"


@dataclass(frozen=True)
class CalibrationReport:
    """Ranks of latents from the story among draws of the guide.

    Attributes
    ----------
    ranks : dict of str to numpy.ndarray
        For each latent site, ``(rows, dimensions)`` of whole numbers from 0 to ``num_draws``.
    num_draws : int
        L.
    """

    ranks: dict[str, np.ndarray]
    num_draws: int

    @property
    def table(self) -> pd.DataFrame:
        """A line for each latent dimension.

        - ``site``, ``dimension``;
        - ``p_value`` of the χ² test that the ranks are uniform;
        - ``mean_rank``, the mean of the ranks as a share of L: 1/2 if q is centred, more if the
          latents lie above what q draws, less if below;
        - ``spread``, the variance of the latents about their own mean, in that of q: 1 if q is as
          wide as it should be, wherever it lies; above 1 if it is too narrow, below if too wide.
          It is the s² under which the ranks are most probable, with a mean m of its own; for a
          normal q of a normal posterior the ratio of their variances;
        - ``finding``: ``"too narrow"``, ``"too wide"``, ``"off (…)"`` and on which side, both, or
          ``"of another shape"``; ``"no departure found"`` where the p-value, times the number of
          dimensions, is 0.05 or more. A word is said where the fit without it is refused by a
          likelihood-ratio test at 0.01.
        """
        import pandas as pd

        lines = [
            (site, dimension, *self._judged(ranks[:, dimension]))
            for site, ranks in self.ranks.items()
            for dimension in range(ranks.shape[1])
        ]
        columns = ["site", "dimension", "p_value", "mean_rank", "spread", "finding"]
        table = pd.DataFrame(lines, columns=columns)
        found = table["p_value"] * len(table) < SMALL
        table["finding"] = table["finding"].where(found, NO_DEPARTURE)
        return table

    def _judged(self, ranks: np.ndarray) -> tuple[float, float, float, str]:
        from scipy.stats import chisquare

        p_value = float(chisquare(self.histogram(ranks)).pvalue)
        spread, words = _departures(ranks, self.num_draws)
        return p_value, float(ranks.mean() / self.num_draws), spread, words

    def histogram(self, ranks: np.ndarray) -> np.ndarray:
        """Return how many ranks fall into each of some equal bins, of five rows or more each."""
        values = self.num_draws + 1
        fitting = [b for b in range(2, 21) if values % b == 0 and len(ranks) / b >= 5]
        bins = max(fitting, default=1)
        return np.bincount(ranks.astype(int) * bins // values, minlength=bins)

    @property
    def p_value(self) -> float:
        """The smallest p-value, times their number (Bonferroni): of the guide as a whole."""
        found = self.table["p_value"]
        return float(min(1.0, found.min() * len(found)))

    def __repr__(self) -> str:
        table = self.table
        worst = table.sort_values("p_value").iloc[0]
        rows = len(next(iter(self.ranks.values())))
        head = (
            f"calibration of the guide: p = {self.p_value:.2g} over {len(table)} latent "
            f"dimensions, {rows} rows"
        )
        if worst["finding"] == NO_DEPARTURE:
            return f"{head}; {NO_DEPARTURE}"
        return (
            f"{head}; farthest from uniform: {worst['site']}[{worst['dimension']}], "
            f"{worst['finding']}; spread {worst['spread']:.2f}, mean rank {worst['mean_rank']:.2f}"
        )


def _departures(ranks: np.ndarray, draws: int) -> tuple[float, str]:
    """Return the spread s² of the latents about their own mean, and in words what is wrong."""
    from scipy.optimize import minimize
    from scipy.stats import binom, chi2, norm

    counts = np.bincount(ranks.astype(int), minlength=draws + 1)
    edges = np.linspace(-9.0, 9.0, 721)
    chances = norm.cdf((edges[1:] + edges[:-1]) / 2)
    of_rank = binom.pmf(np.arange(draws + 1)[:, None], draws, chances)

    def against(m: float, log_s: float) -> float:
        ends = [-np.inf, *edges[1:-1], np.inf]
        mass = np.diff(norm.cdf((np.array(ends) - m) / np.exp(log_s)))
        return -float(counts @ np.log(np.maximum(of_rank @ mass, 1e-300)))

    # Bounds: of ranks that are all at one end, m has no best value.
    shifts, widths = (-8.0, 8.0), (-3.0, 3.0)
    m = float(norm.ppf((ranks.mean() + 0.5) / (draws + 1)))
    both = minimize(
        lambda v: against(v[0], v[1]), [m, 0.0], method="L-BFGS-B", bounds=[shifts, widths]
    )
    wide = minimize(lambda v: against(0.0, v[0]), [0.0], method="L-BFGS-B", bounds=[widths])
    off = minimize(lambda v: against(v[0], 0.0), [m], method="L-BFGS-B", bounds=[shifts])
    limit = chi2.isf(SURE, 1) / 2
    words = []
    if off.fun - both.fun > limit:
        words.append("too narrow" if both.x[1] > 0 else "too wide")
    if wide.fun - both.fun > limit:
        words.append(f"off (latents lie {'above' if both.x[0] > 0 else 'below'} the guide)")
    return float(np.exp(2 * both.x[1])), " and ".join(words) or "of another shape"


def calibrate_guide(
    source: Any,
    data: Any,
    *,
    guide: Any = None,
    num_rows: int = 1000,
    num_draws: int = 99,
    seed: int = 0,
) -> CalibrationReport:
    """Calibrate a guide by rows drawn from its own story.

    Parameters
    ----------
    source, guide
        As in :func:`vaeppl.evidence`.
    data
        Rows of the columns that the model takes. Of those that the story draws, only the shape is
        used; the others (the condition of a CVAE) are what it is drawn given, again and again.
    num_rows
        Rows to draw.
    num_draws
        L; one less than a multiple of 20 makes 20 equal bins.
    seed
        Fixes the draws.

    Returns
    -------
    CalibrationReport

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> report = calibrate_guide(VAE(6, 2, hidden=(4,)), {"x": x}, num_rows=40)
    >>> report.ranks["z"].shape, int(report.ranks["z"].max()) <= 99
    ((40, 2), True)
    """
    whole_number("num_rows", num_rows, 10)
    whole_number("num_draws", num_draws, 1)
    pair = as_pair(source, guide)
    found: dict[str, list[Tensor]] = {}
    with tracing.quiet(pair, seed=seed):
        rows = tracing.resident(pair, data)
        index = torch.arange(num_rows) % len(rows)
        for part in index.split(ROWS_AT_ONCE):
            batch = rows.take(part)
            for name, ranks in _ranks(pair, pair.batch(batch), num_draws).items():
                found.setdefault(name, []).append(ranks)
    joined = {name: torch.cat(parts).cpu().numpy() for name, parts in found.items()}
    return CalibrationReport(joined, num_draws)


def _ranks(pair: Pair, batch: Batch, draws: int) -> dict[str, Tensor]:
    """Return the ranks of the latents of freshly drawn rows, ``(B, D)`` of each site."""
    story = poutine.trace(poutine.uncondition(pair.model)).get_trace(**batch)
    drawn = {s["name"]: s["value"] for s in sample_sites(story) if s["infer"].get("was_observed")}
    columns = {name: drawn.get(name, value) for name, value in batch.items()}
    count = len(next(iter(batch.values())))
    depth = tracing.plate_depth(pair, columns)
    guide, _ = tracing.particle_traces(pair, columns, draws, depth)
    found = {}
    for site in tracing.latents(guide):
        name = site["name"]
        frame, event = tracing.rows_frame(site, count), site["fn"].event_dim
        if frame is None or getattr(site["fn"].support, "is_discrete", False):
            continue
        below = (site["value"] < story.nodes[name]["value"]).sum(0)
        found[name] = below.movedim(frame.dim - event, 0).reshape(count, -1)
    if not found:
        raise StoryError(f"{pair.name} has no continuous latent of a row whose rank could be taken")
    return found
