"""What each latent dimension is used for: its KL, and whether it has collapsed onto the prior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..estimators.kl import exact_kl_sites, kl_terms
from ..estimators.sites import is_point
from ..pair import Pair, as_pair
from . import tracing
from .predictive import posterior_means

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["latent_report"]

ROWS_AT_ONCE = 256


def latent_report(
    source: Any, data: Any, *, guide: Any = None, threshold: float = 0.01, seed: int = 0
) -> pd.DataFrame:
    """Tell of each latent dimension what it costs, and whether it has collapsed onto its prior.

    The two verdicts follow different rules, so that a dimension may be neither. It is ``active`` if
    its posterior mean varies with the data (Burda et al. 2016), whatever it costs. It has
    ``collapsed`` if it is not active and costs next to nothing: its q is the prior in every row.
    One that is neither has a q apart from the prior, about the same for all rows.

    Parameters
    ----------
    source, data, guide, seed
        As in :func:`vaeppl.evidence`.
    threshold
        The variance over rows of the posterior mean, in squared units of the latent, above which a
        dimension is active; and the KL, in nats per row, below which another has collapsed.

    Returns
    -------
    pandas.DataFrame
        A line for each dimension: ``site``, ``dimension``, ``kl`` per row in nats (NaN where it is
        not known), ``variance`` of the posterior mean, ``active``, ``collapsed`` (``pandas.NA``
        where the KL is not known), and ``note``: why it is not known, else empty.

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> latent_report(VAE(6, 2, hidden=(4,)), {"x": x}).shape
    (2, 7)
    """
    import pandas as pd

    pair = as_pair(source, guide)
    means = posterior_means(pair, data, seed=seed)
    costs, notes = _kl_by_dimension(pair, data, seed)
    lines: list[tuple[Any, ...]] = []
    for site, values in means.items():
        if not values.is_floating_point() or site in pair.partly_observed:
            continue
        variance = values.double().reshape(len(values), -1).var(0)
        for dimension, spread in enumerate(variance.tolist()):
            kl = float(costs[site][dimension]) if site in costs else float("nan")
            active = spread > threshold
            collapsed = not active and kl < threshold if site in costs else pd.NA
            lines.append((site, dimension, kl, spread, active, collapsed, notes.get(site, "")))
    columns = ["site", "dimension", "kl", "variance", "active", "collapsed", "note"]
    return pd.DataFrame(lines, columns=columns).astype({"collapsed": "boolean"})


def _kl_by_dimension(pair: Pair, data: Any, seed: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the mean KL per row of each dimension of latents, or why it is not known."""
    sums: dict[str, Tensor] = {}
    notes: dict[str, str] = {}
    count = 0
    with tracing.quiet(pair, seed=seed):
        for batch in tracing.batches(pair, data, ROWS_AT_ONCE):
            rows = len(next(iter(batch.values())))
            count += rows
            depth = tracing.plate_depth(pair, batch)
            q, p = tracing.particle_traces(pair, batch, None, depth)
            exact = exact_kl_sites(p, q)
            for site in tracing.latents(q):
                name = site["name"]
                if tracing.rows_frame(site, rows) is None:
                    continue
                found = _dimensions_of(p.nodes.get(name), site, name in exact, rows)
                if isinstance(found, str):
                    notes[name] = found
                else:
                    sums[name] = sums.get(name, torch.zeros_like(found)) + found
    known = {name: total / count for name, total in sums.items() if name not in notes}
    return known, notes


def _dimensions_of(p_site: Any, site: Any, exact: bool, rows: int) -> Tensor | str:
    """Return the KL of a site by dimension, summed over rows; or say why there is none."""
    if is_point(site):
        return "the guide sets it to a point, which has no KL"
    if site["mask"] is not None:
        return "it counts in some rows only"
    kl, by_dim = kl_terms(p_site, site, exact)
    if (
        by_dim is None
        and p_site is not None
        and kl.numel() == rows
        and site["value"].ndim == kl.ndim
    ):
        by_dim = kl.unsqueeze(-1)  # a number has one dimension
    if by_dim is not None:
        return by_dim.double().reshape(-1, by_dim.shape[-1]).sum(0)
    if site["infer"].get("enumerate"):
        return "it is summed out, and its KL does not fall apart by dimension"
    return "the KL of the site does not fall apart by dimension"
