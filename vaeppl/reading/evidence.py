"""The evidence log p(x) of each row, the ELBO with its split, and which latent units are used."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from ..data import Data
from ..errors import StoryError, whole_number
from ..estimators.kl import exact_kl_sites, kl_terms
from ..estimators.sites import is_beside_the_story, is_point, model_order, sample_sites
from ..pair import Batch, Pair, as_pair
from . import tracing
from .pareto import pareto_k
from .predictive import posterior_means
from .reports import ELBOReport, EvidenceReport
from .weights import weigh

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ELBOReport", "EvidenceReport", "active_units", "elbo", "evidence", "log_weights"]

ENTRIES_AT_ONCE = 2**21  # numbers of one column that a pass may hold: 8 MB in float32
PARTICLES_AT_ONCE = 256


def evidence(
    source: Any,
    data: Any,
    *,
    guide: Any = None,
    num_particles: int = 500,
    seed: int = 0,
    progress: bool = False,
) -> EvidenceReport:
    """Estimate log p(x_n) of each row by importance sampling from the guide.

    ::

        log p(x_n) ≈ log 1/K Σ_k w_nk,   w_nk = p(x_n, z_k) / q(z_k | x_n),   z_k ~ q(z | x_n)

    The estimate is low by about Var(w) / (2 K p²) on average, so it bounds the evidence from below
    (Burda et al. 2016). Where a partly observed column y is there, it is log p(x_n, y_n), and so is
    the ELBO; for log p(x_n) of all rows, leave the column out: ``data.columns("x")``.

    With latents outside the plate of rows, each particle draws them from the guide too and the
    result is the log predictive density log ∫ p(x_n | θ) q(θ) dθ.

    Parameters
    ----------
    source
        A :class:`~vaeppl.Fit`, a model, or a model function with its ``guide``.
    data
        Rows to score, as in :func:`vaeppl.fit`.
    num_particles
        K. Memory is bounded whatever K is.
    seed
        Fixes the draws.
    progress
        Show a bar.

    Returns
    -------
    EvidenceReport
        Each row's estimate with Monte-Carlo standard error, effective sample size and the Pareto
        k of its weights (Vehtari et al. 2024: above 0.7 the estimate is unreliable).

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> report = vaeppl.evidence(VAE(6, 2, hidden=(4,)), {"x": x}, num_particles=50)
    >>> report.rows.shape
    (20, 5)
    """
    whole_number("num_particles", num_particles, 2)  # below, there is no standard error
    pair = as_pair(source, guide)
    parts = []
    with tracing.quiet(pair, seed=seed):
        batches = _batches(pair, data, num_particles)
        for batch in _with_progress(batches, progress):
            parts.append(_summary(*_weights_and_bounds(pair, batch, num_particles)))
        told = density_of(pair, batches.data, batch)
    return EvidenceReport(_frame(batches, parts), num_particles, told)


def density_of(pair: Pair, data: Data, batch: Batch) -> str:
    """Return the density that the evidence is of, by the columns that are there: ``"p(x)"``.

    Where rows share latents it is ``"∫ p(x | mu) q(mu)"``, the predictive density.

    Must be called with the pair active, and draws: call it when all else has been computed.

    Parameters
    ----------
    pair
        Model and guide.
    data
        The rows; columns that are observed in some of them are told as observed.
    batch
        Some of the rows.
    """
    guide = poutine.trace(pair.guide).get_trace(**batch)
    story = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(**batch)
    seen = {s["name"] for s in sample_sites(story) if s["is_observed"]} | set(pair.partly_observed)
    there = [c for c in pair.columns if c in data]
    of, given = ([c for c in there if (c in seen) is told] for told in (True, False))
    rows = len(next(iter(batch.values())))
    shared = list(tracing.only_shared(guide, rows).nodes)
    given += shared
    told = f"p({', '.join(of)}{' | ' if given else ''}{', '.join(given)})"
    return f"∫ {told} q({', '.join(shared)})" if shared else told


def _batches(pair: Pair, data: Any, particles: int) -> tracing.Batches:
    data = tracing.resident(pair, data)
    side_by_side = min(particles, PARTICLES_AT_ONCE) * tracing.values_at_once(pair, data)
    return tracing.batches(pair, data, _rows_at_once(pair, data, side_by_side))


def _frame(batches: tracing.Batches, parts: list[dict[str, Tensor]]) -> pd.DataFrame:
    """Return a line a row of the data, in their order."""
    import pandas as pd

    columns = {name: values.cpu().numpy() for name, values in batches.joined(parts).items()}
    return pd.DataFrame(columns).rename_axis("row")


def _with_progress(batches: tracing.Batches, progress: bool) -> Iterator[Batch]:
    from tqdm.auto import tqdm

    bar = tqdm(total=len(batches.data), unit="row", disable=not progress)
    for batch in batches:
        yield batch
        bar.update(len(next(iter(batch.values()))))
    bar.close()


def _rows_at_once(pair: Pair, data: Any, side_by_side: int) -> int:
    """Return how many rows a pass may hold, so that memory does not grow with the particles."""
    widest = max(math.prod(data.shape(c)) for c in pair.columns if c in data)
    return max(1, ENTRIES_AT_ONCE // (max(1, widest) * side_by_side))


def log_weights(pair: Pair, batch: Batch, num_particles: int) -> Tensor:
    """Return log p(x_n, z_k) - log q(z_k | x_n) for each particle and row, ``(K, B)``.

    Must be called with the pair active. Terms of latents outside the plate of rows are left out.
    Latents that the guide marks to be enumerated are summed out: the weight of a particle is then
    Σ_y p(x_n, y, z_k) / q(z_k | x_n, y).
    """
    return _weights_and_bounds(pair, batch, num_particles)[0]


def _weights_and_bounds(pair: Pair, batch: Batch, num_particles: int) -> tuple[Tensor, Tensor]:
    """Return log-weights, and each particle's estimate of the ELBO, both ``(K, B)``."""
    depth = tracing.plate_depth(pair, batch)
    sizes = [PARTICLES_AT_ONCE] * (num_particles // PARTICLES_AT_ONCE)
    sizes += [rest] if (rest := num_particles % PARTICLES_AT_ONCE) else []
    try:
        found = [_at_once(pair, batch, size, depth) for size in sizes]
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, StoryError):
            raise
        cause = str(error).splitlines()[0]
        found = [_at_once(pair, batch, None, depth) for _ in range(num_particles)]
        warnings.warn(
            f"{pair.name} does not run for many particles at once ({cause}); they were drawn one "
            "after another, which is slower. Let its networks take any leading dimensions",
            stacklevel=2,
        )
    weights, bounds = zip(*found, strict=True)
    return torch.cat(weights), torch.cat(bounds)


def _at_once(pair: Pair, batch: Batch, particles: int | None, depth: int) -> tuple[Tensor, Tensor]:
    rows = len(next(iter(batch.values())))
    traces = tracing.particle_traces(pair, batch, particles, depth, enumerated=True)
    shape = (particles or 1, rows)
    log_w, bound = weigh(pair, *traces, rows, depth)
    return log_w.expand(shape), bound.expand(shape)


def _summary(log_w: Tensor, bounds: Tensor) -> dict[str, Tensor]:
    """Return the estimates for each row from log-weights and ELBOs of shape ``(K, B)``."""
    tail = pareto_k(log_w)
    log_w = log_w.double()
    k = log_w.shape[0]
    relative = (log_w - log_w.max(0).values).exp()
    mean = relative.mean(0)
    return {
        "log_evidence": log_w.logsumexp(0) - math.log(k),
        "mc_se": relative.std(0) / (math.sqrt(k) * mean),
        "elbo": bounds.double().mean(0),
        "ess": relative.sum(0).square() / relative.square().sum(0),
        "pareto_k": tail,
    }


def elbo(
    source: Any, data: Any, *, guide: Any = None, num_particles: int = 10, seed: int = 0
) -> ELBOReport:
    """Estimate the ELBO of each row, with its split into reconstruction and KL.

    The KL of a site is exact where it is known and valid, as in :class:`~vaeppl.estimators.ELBO`.
    Latents outside the plate of rows are drawn from the guide and their KL is left out.

    Parameters
    ----------
    source, data, guide, seed
        As in :func:`evidence`.
    num_particles
        Draws from the guide for each row.

    Returns
    -------
    ELBOReport

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> report = vaeppl.elbo(VAE(6, 2, hidden=(4,)), {"x": x})
    >>> list(report.rows.columns)
    ['elbo', 'reconstruction', 'kl', 'kl[z]']
    """
    whole_number("num_particles", num_particles, 1)
    pair = as_pair(source, guide)
    parts: list[dict[str, Tensor]] = []
    points: dict[str, None] = {}
    with tracing.quiet(pair, seed=seed):
        batches = _batches(pair, data, num_particles)
        for batch in batches:
            terms, without = _split_terms(pair, batch, num_particles)
            parts.append(terms)
            points |= dict.fromkeys(without)
    # A label that is there costs nothing.
    names = dict.fromkeys(name for part in parts for name in part)
    parts = [{n: p.get(n, torch.zeros_like(p["elbo"])) for n in names} for p in parts]
    return ELBOReport(_frame(batches, parts), num_particles, tuple(points))


def _split_terms(pair: Pair, batch: Batch, particles: int) -> tuple[dict[str, Tensor], list[str]]:
    """Return ELBO, reconstruction and KL of each row of a batch, and latents set to a value."""
    depth = tracing.plate_depth(pair, batch)
    rows = len(next(iter(batch.values())))
    q_trace, p_trace = tracing.particle_traces(pair, batch, particles, depth, enumerated=True)
    log_q = tracing.enumerated_weights(q_trace, rows, depth)

    def mean(term: Tensor, site: Any) -> Tensor:
        """Average a term over the values of what is summed out, and over the particles."""
        term = tracing.row_term(term, site, rows, depth)
        if log_q is not None:
            term = torch.where(log_q > -torch.inf, log_q.exp() * term, 0.0)
            term = term.sum(tuple(range(term.ndim - 2)))
        return term.mean(0).expand(rows)

    terms: dict[str, Tensor] = {}
    reconstruction: Any = 0.0
    for site in sample_sites(p_trace):
        in_rows = tracing.rows_frame(site, rows) is not None
        if site["is_observed"] and in_rows and not is_beside_the_story(site):
            reconstruction = reconstruction + mean(tracing.site_log_prob(site), site)
    exact = exact_kl_sites(p_trace, q_trace)
    latents = {
        s["name"]: s
        for s in sample_sites(q_trace)
        if not s["is_observed"] and tracing.rows_frame(s, rows) is not None
    }
    for name in model_order(latents, p_trace):
        kl, _ = kl_terms(p_trace.nodes.get(name), latents[name], name in exact)
        terms[f"kl[{name}]"] = mean(kl, latents[name])
    total_kl = sum(terms.values(), torch.zeros(rows, device=pair.device, dtype=pair.dtype))
    split = {"elbo": reconstruction - total_kl, "reconstruction": reconstruction, "kl": total_kl}
    return {**split, **terms}, [name for name, site in latents.items() if is_point(site)]


def active_units(
    source: Any, data: Any, *, guide: Any = None, threshold: float = 0.01, seed: int = 0
) -> pd.DataFrame:
    """Tell which latent dimensions vary with the data (Burda et al. 2016, section 5.2).

    A unit is active if the variance over rows of its posterior mean exceeds ``threshold``.

    Parameters
    ----------
    source, data, guide, seed
        As in :func:`evidence`.
    threshold
        In squared units of the latent.

    Returns
    -------
    pandas.DataFrame
        A line for each latent dimension: ``site``, ``dimension``, ``variance``, ``active``.
        ``table.active.sum()`` is the number of active units.

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> vaeppl.active_units(VAE(6, 2, hidden=(4,)), {"x": x}).shape
    (2, 4)
    """
    import pandas as pd

    lines = []
    pair = as_pair(source, guide)
    for site, means in posterior_means(pair, data, seed=seed).items():
        # Labels and counts have no scale to vary on.
        if not means.is_floating_point() or site in pair.partly_observed:
            continue
        variance = means.double().reshape(len(means), -1).var(0)
        for dimension, value in enumerate(variance.tolist()):
            lines.append((site, dimension, value, value > threshold))
    return pd.DataFrame(lines, columns=["site", "dimension", "variance", "active"])
