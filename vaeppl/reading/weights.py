"""Importance weights of a guide's draws, row by row."""

from __future__ import annotations

from typing import Any

import pyro.poutine as poutine
import torch
from pyro.distributions import ImproperUniform
from torch import Tensor

from ..errors import StoryError
from ..estimators.sites import is_beside_the_story, is_enumerated, is_point, sample_sites
from ..pair import Pair
from . import tracing

__all__ = ["has_evidence", "has_prior_draws", "has_proper_priors", "weigh"]


def weigh(
    pair: Pair, guide_trace: Any, model_trace: Any, rows: int, depth: int
) -> tuple[Tensor, Tensor]:
    """Return the log-weight of each particle and row, and its estimate of the ELBO.

    Parameters
    ----------
    guide_trace, model_trace
        Of :func:`~vaeppl.reading.tracing.particle_traces`.
    rows, depth
        Rows of the batch, and dimensions that the plates take.

    Returns
    -------
    log_weights, bounds : Tensor
        Each broadcasts to ``(K, B)``. Terms of latents outside the plate of rows are left out;
        latents that are enumerated are summed out.

    Raises
    ------
    StoryError
        Something is observed outside the plate of rows, or a latent has no density.
    """
    total: Any = 0.0
    for sign, trace in ((1.0, model_trace), (-1.0, guide_trace)):
        for site in sample_sites(trace):
            if trace is model_trace and is_beside_the_story(site):
                continue
            if tracing.rows_frame(site, rows) is None:
                if site["is_observed"]:
                    raise StoryError(
                        f"site {site['name']!r} is observed outside the plate of rows, so rows "
                        "have no evidence of their own: write `with vaeppl.rows(x):` around it"
                    )
                continue
            in_guide = trace is guide_trace
            if _left_to_the_model(site, guide_trace) or (in_guide and is_enumerated(site)):
                continue
            if in_guide and not site["is_observed"]:
                _check_has_density(pair, site)
            log_p = tracing.row_term(tracing.site_log_prob(site), site, rows, depth)
            total = total + sign * log_p
    log_q = tracing.enumerated_weights(guide_trace, rows, depth)
    if log_q is None:
        return total, total
    over = tuple(range(total.ndim - 2))
    # What has no probability under q adds nothing, whatever its own log-probability.
    terms = torch.where(log_q > -torch.inf, log_q.exp() * (total - log_q), 0.0)
    return total.logsumexp(over), terms.sum(over)


def has_evidence(pair: Pair, data: Any) -> bool:
    """Tell whether log p(x) of a row can be had: no other row counts, and no latent is a point."""
    if pair.couples_rows:
        return False
    trace, _ = _few_traces(pair, data)
    return not any(is_point(site) for site in tracing.latents(trace))


def has_prior_draws(pair: Pair, data: Any) -> bool:
    """Tell whether rows can be drawn from the story: no latent has a prior that is none."""
    return has_proper_priors(_few_traces(pair, data)[1])


def has_proper_priors(trace: Any) -> bool:
    """Tell whether every site of a story's trace has a density that can be drawn from."""
    sites = [getattr(s["fn"], "base_dist", s["fn"]) for s in sample_sites(trace)]
    return not any(isinstance(fn, ImproperUniform) for fn in sites)


def _few_traces(pair: Pair, data: Any) -> tuple[Any, Any]:
    batch = tracing.few_rows(pair, data)
    with tracing.quiet(pair, seed=0, draw=len(next(iter(batch.values())))):
        guide_trace = poutine.trace(pair.guide).get_trace(**batch)
        replayed = poutine.replay(pair.model, trace=guide_trace)
        return guide_trace, poutine.trace(replayed).get_trace(**batch)


def _check_has_density(pair: Pair, site: Any) -> None:
    """Refuse a latent that the guide sets to one value: no weight can say what it leaves out."""
    if is_point(site):
        raise StoryError(
            f"the guide of {pair.name} sets {site['name']!r} to a point, so that log p(x) cannot "
            "be had by importance sampling, and there is no bound of it; compare what it makes of "
            "held-out rows instead, by reconstruct or posterior_predictive"
        )


def _left_to_the_model(site: Any, guide_trace: Any) -> bool:
    """Tell whether a latent is drawn from its prior for want of a guide; its weight cancels."""
    return not site["is_observed"] and site["name"] not in guide_trace.nodes
