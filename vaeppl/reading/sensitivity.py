"""Does the posterior hang on the prior? Power-scaling of prior and likelihood, by weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from ..data import as_data
from ..pair import Pair, as_pair
from . import tracing
from .resampling import check_particles
from .weights import weigh

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["cjs_distance", "prior_sensitivity"]

THRESHOLD = 0.05  # from which a sensitivity is told (Kallioinen et al. 2024)
ROWS_AT_ONCE = 64


def prior_sensitivity(
    source: Any,
    data: Any,
    *,
    guide: Any = None,
    alpha: float = 1.25,
    num_particles: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Ask how far posteriors move when the prior, or the likelihood, is made stronger or weaker.

    The prior of the latents is raised to the power α and 1/α, by weights of the same draws::

        p_α(z | x) ∝ p(z)^α p(x | z),    sensitivity = ½ Σ_± D(p, p_α±1) / log₂ α

    with D the cumulative Jensen-Shannon distance of each latent dimension; and likewise
    p(z) p(x | z)^α (Kallioinen, Paananen, Bürkner & Vehtari 2024).

    Parameters
    ----------
    source, data, guide, seed
        As in :func:`vaeppl.evidence`.
    alpha
        α > 1.
    num_particles
        Draws for each row, or of the latents that the rows share.

    Returns
    -------
    pandas.DataFrame
        A line for each latent dimension: ``prior`` and ``likelihood``, mean sensitivities of the
        rows; ``told``: ``"prior-data conflict"`` where both are 0.05 or more, ``"strong prior or
        weak likelihood"`` where the prior's is alone. Of latents outside the plate of rows, draws
        of the guide stand for the posterior, and ``likelihood`` is NaN.

    Examples
    --------
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> prior_sensitivity(VAE(6, 2, hidden=(4,)), {"x": x}, num_particles=50).shape
    (2, 3)
    """
    import pandas as pd

    if not alpha > 1:
        raise ValueError(f"alpha is above 1; given {alpha}")
    check_particles(num_particles)
    pair, rows = as_pair(source, guide), as_data(data)
    sums: dict[tuple[str, int], list[float]] = {}
    with tracing.quiet(pair, seed=seed):
        for batch in tracing.batches(pair, rows, ROWS_AT_ONCE):
            _add_rows(sums, pair, batch, num_particles, alpha)
        shared = _of_shared(pair, batch, num_particles, alpha)
    count = len(rows)
    lines = {k: (prior / count, like / count) for k, (prior, like) in sums.items()} | shared
    table = pd.DataFrame(
        [(*key, prior, like, _told(prior, like)) for key, (prior, like) in lines.items()],
        columns=["site", "dimension", "prior", "likelihood", "told"],
    )
    return table.set_index(["site", "dimension"])


def _told(prior: float, likelihood: float) -> str:
    if prior < THRESHOLD:
        return ""
    return "prior-data conflict" if likelihood >= THRESHOLD else "strong prior or weak likelihood"


def _add_rows(
    sums: dict[tuple[str, int], list[float]], pair: Pair, batch: Any, particles: int, alpha: float
) -> None:
    """Add up the sensitivities of some rows."""
    rows = len(next(iter(batch.values())))
    depth = tracing.plate_depth(pair, batch)
    guide, model = tracing.particle_traces(pair, batch, particles, depth)
    log_w = weigh(pair, guide, model, rows, depth)[0].expand(particles, rows)
    local = [s for s in tracing.latents(guide) if tracing.rows_frame(s, rows) is not None]
    names = {s["name"] for s in local}
    terms = {"prior": torch.zeros(()), "likelihood": torch.zeros(())}
    for site in model.nodes.values():
        if site["type"] == "sample" and tracing.rows_frame(site, rows) is not None:
            part = "prior" if site["name"] in names else "likelihood"
            if part == "prior" or site["is_observed"]:
                term = tracing.row_term(tracing.site_log_prob(site), site, rows, depth)
                terms[part] = terms[part] + term.reshape(-1, rows)
    for site in local:
        if site["value"].is_floating_point():
            values = _by_dimension(site, particles, rows)
            for dimension, z in enumerate(values.unbind(-1)):
                entry = sums.setdefault((site["name"], dimension), [0.0, 0.0])
                for place, term in enumerate(terms.values()):
                    entry[place] += float(_sensitivity(z, log_w, term, alpha).sum())


def _by_dimension(site: Any, particles: int, rows: int) -> Tensor:
    """Return the draws of a latent, ``(K, B, dimensions)``."""
    frame = tracing.rows_frame(site, rows)
    value, event = site["value"], site["fn"].event_dim
    value = value.movedim(frame.dim - event, 1) if value.ndim > 1 + event else value
    lead = value if value.shape[0] == particles else value.expand(particles, *value.shape[1:])
    return lead.reshape(particles, rows, -1)


def _of_shared(
    pair: Pair, batch: Any, particles: int, alpha: float
) -> dict[tuple[str, int], tuple[float, float]]:
    """Return the sensitivities to the prior of the latents that the rows share."""
    rows = len(next(iter(batch.values())))
    drawn: dict[str, list[Tensor]] = {}
    scores = []
    trace = poutine.trace(pair.guide).get_trace(**batch)
    names = [s["name"] for s in tracing.latents(trace) if tracing.rows_frame(s, rows) is None]
    for _ in range(particles if names else 0):
        guide = poutine.trace(pair.guide).get_trace(**batch)
        model = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(**batch)
        told: Any = model.nodes
        scores.append(sum(tracing.site_log_prob(told[n]).sum() for n in names))
        for name in names:
            drawn.setdefault(name, []).append(told[name]["value"].reshape(-1))
    found = {}
    for name, draws in drawn.items():
        log_p = torch.stack([torch.as_tensor(s) for s in scores]).unsqueeze(-1)
        for dimension, z in enumerate(torch.stack(draws).unbind(-1)):
            column = z.unsqueeze(-1)
            value = _sensitivity(column, torch.zeros_like(column), log_p, alpha)
            found[name, dimension] = (float(value), math.nan)
    return found


def _sensitivity(z: Tensor, log_w: Tensor, term: Tensor, alpha: float) -> Tensor:
    """Return the sensitivity of each row's latent to a term of its joint density, ``(B,)``."""
    term = term.expand(log_w.shape)
    total = torch.zeros(z.shape[1:], dtype=z.dtype, device=z.device)
    base = log_w.softmax(0)
    for power in (alpha, 1 / alpha):
        scaled = (log_w + (power - 1) * term).softmax(0)
        total = total + cjs_distance(z, base, scaled)
    return total / (2 * math.log2(alpha))


def cjs_distance(z: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the cumulative Jensen-Shannon distance of two weightings of the same draws.

    Of distribution functions P and Q (Nguyen & Vreeken 2015), and of 1 - P and 1 - Q: the larger.

    Parameters
    ----------
    z, first, second
        Draws and weights that sum to 1, ``(K, ...)``.

    Examples
    --------
    >>> z, w = torch.tensor([0.0, 1.0, 2.0]), torch.full((3,), 1 / 3)
    >>> float(cjs_distance(z, w, w))
    0.0
    """
    z, order = z.sort(dim=0)
    steps = z.diff(dim=0)
    p, q = (w.gather(0, order).cumsum(0)[:-1].clamp(0, 1) for w in (first, second))
    both = [_one_sided(steps, p, q), _one_sided(steps, 1 - p, 1 - q)]
    return torch.maximum(*both)


def _one_sided(steps: Tensor, p: Tensor, q: Tensor) -> Tensor:
    middle = (p + q) / 2
    apart = (torch.xlogy(p, p) - torch.xlogy(p, middle)) + (
        torch.xlogy(q, q) - torch.xlogy(q, middle)
    )
    bound = ((p + q) * steps).sum(0)
    divergence = (apart * steps).sum(0) / math.log(2)
    return (divergence.clamp(min=0) / bound.clamp(min=torch.finfo(p.dtype).tiny)).sqrt()
