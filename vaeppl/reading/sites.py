"""Which sites of a pair are data, and what the data are on average given the latents."""

from __future__ import annotations

from collections.abc import Mapping

import pyro.poutine as poutine
from torch import Tensor

from ..data import Data
from ..distributions import centre
from ..estimators.elbo import sample_sites
from ..pair import Batch, Pair
from . import tracing
from .predictive import AtMean

__all__ = ["column_means", "observed_columns"]


def observed_columns(pair: Pair, data: Data) -> tuple[str, ...]:
    """Return the columns that the story observes in every row.

    Others that it takes are given, as x is to y | x, or latent in some rows.

    Parameters
    ----------
    pair
        Model and guide.
    data
        Rows with the pair's columns.

    Returns
    -------
    tuple of str
        In the order of the model's arguments.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.data import Data
    >>> from vaeppl.models import VAE
    >>> observed_columns(Pair(VAE(6, 2, hidden=(4,))), Data({"x": torch.zeros(3, 6)}))
    ('x',)
    """
    with tracing.quiet(pair):
        batch = tracing.few_rows(pair, data)
        guide = poutine.trace(pair.guide).get_trace(**batch)
        model = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(**batch)
    seen = {s["name"] for s in sample_sites(model) if s["is_observed"]}
    seen -= set(pair.partly_observed)
    return tuple(name for name in pair.columns if name in seen)


def column_means(
    pair: Pair,
    latents: Mapping[str, Tensor],
    num_rows: int,
    *,
    given: Batch | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return E[x | latents] of each column that is not given.

    Parameters
    ----------
    pair
        Model and guide.
    latents
        Values of latent sites, ``(num_rows, *event)`` inside the plate of rows. Sites left out
        are set to their mean given their parents, or drawn where they are discrete.
    num_rows
        Rows to make.
    given
        Columns held fixed, of ``num_rows`` rows.
    seed
        Fixes the draws, where there are any.

    Returns
    -------
    dict of str to Tensor
        ``(num_rows, *event)`` for each column; the most probable code for categories.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> means = column_means(Pair(VAE(6, 2, hidden=(4,))), {"z": torch.zeros(3, 2)}, 3)
    >>> means["x"].shape
    torch.Size([3, 6])
    """
    given = given or {}
    absent = [c for c in pair.columns if c not in given]
    with tracing.quiet(pair, seed=seed, draw=num_rows), AtMean():
        story = poutine.condition(pair.model, data=dict(latents))
        trace = poutine.trace(story).get_trace(**given, **dict.fromkeys(absent))
    return {c: centre(trace.nodes[c]["fn"]) for c in absent if c in trace.nodes}
