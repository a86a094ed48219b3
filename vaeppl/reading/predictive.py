"""Draws and means: from the prior, of the latents given the data, and of new data given those."""

from __future__ import annotations

import inspect
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.poutine.enum_messenger import EnumMessenger
from torch import Tensor

from ..data import Data, as_data
from ..distributions import centre
from ..errors import whole_number
from ..estimators.elbo import is_enumerated, sample_sites
from ..pair import Batch, Pair, as_pair
from ..strata import is_missing
from ..training.seeds import Stream, derived_seed
from . import tracing
from .resampling import check_particles, posterior_draws

__all__ = [
    "encode",
    "posterior_means",
    "posterior_predictive",
    "reconstruct",
    "sample",
]

ROWS_AT_ONCE = 1024
DRAWS_FOR_A_MEAN = 100  # for families without a closed-form mean, flows among them


def sample(
    source: Any,
    num_rows: int = 1,
    *,
    guide: Any = None,
    given: Any = None,
    data: Any = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Draw rows from the story: latents from their prior, then the data (prior predictive).

    Parameters
    ----------
    source
        A :class:`~vaeppl.Fit`, a model, or a model function with its ``guide``.
    num_rows
        Rows to draw.
    given
        Columns to hold fixed, of ``num_rows`` rows each.
    data
        Where some latents stand outside the plate of rows: data from which the guide draws
        *those* (a fit uses the rows it was fitted to). ``None``: they come from their prior.
    seed
        Fixes the draws.

    Returns
    -------
    dict of str to Tensor
        Every site of the model, latents and columns: ``(num_rows, *event)`` (global latents:
        their own shape).

    Examples
    --------
    >>> from vaeppl.models import VAE
    >>> draws = sample(VAE(6, 2, hidden=(4,)), 5)
    >>> draws["z"].shape, draws["x"].shape
    (torch.Size([5, 2]), torch.Size([5, 6]))
    """
    whole_number("num_rows", num_rows, 1)
    pair = as_pair(source, guide or (_no_guide if inspect.isfunction(source) else None))
    columns: dict[str, Tensor] = {}
    if given is None and pair.required:
        raise ValueError(
            f"{pair.name} is conditional on {', '.join(map(repr, pair.required))}: pass given="
            f"{{{', '.join(f'{c!r}: ...' for c in pair.required)}}} with a row for each draw"
        )
    if given is not None:
        fixed = as_data(given)
        if len(fixed) != num_rows:
            raise ValueError(f"`given` has {len(fixed)} rows, but num_rows={num_rows}")
        for column in (c for c in pair.partly_observed if c in fixed):
            if bool((missing := is_missing(fixed[column])).any()):
                raise ValueError(
                    f"`given` has no {column!r} in row {int(missing.nonzero()[0])}: to hold it "
                    "fixed, give it in every row; to draw it, leave it out"
                )
        columns = tracing.resident(pair, fixed, pair.required).take(torch.arange(num_rows))
    if data is None and isinstance(fitted := getattr(source, "train", None), Data):
        data = fitted
    outside = {} if data is None else _global_draws(pair, data, seed)
    with tracing.quiet(pair, seed=seed, draw=num_rows):
        story = poutine.condition(pair.model, data=outside) if outside else pair.model
        absent = {c: None for c in pair.columns if c not in columns}
        trace = poutine.trace(story).get_trace(**columns, **absent)
    return {s["name"]: s["value"] for s in sample_sites(trace) if tracing.is_variable(s)}


def _no_guide(**columns: Any) -> None:
    """Stand in for a guide where only the story is asked."""


def _global_draws(pair: Pair, data: Any, seed: int) -> dict[str, Tensor]:
    """Draw the latents outside the plate of rows from the guide, given a few rows."""
    few = tracing.few_rows(pair, data)
    # A stream of its own, so that they are independent of the draws of the rows.
    with tracing.quiet(pair, seed=derived_seed(seed, Stream.GLOBALS)):
        trace = poutine.trace(pair.guide).get_trace(**few)
    return {s["name"]: s["value"] for s in tracing.latents(trace) if not s["cond_indep_stack"]}


def encode(
    source: Any,
    data: Any,
    *,
    guide: Any = None,
    num_samples: int | None = None,
    num_particles: int | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return where each row lies in latent space: posterior means, or draws.

    Parameters
    ----------
    source, data, guide, seed
        As in :func:`vaeppl.evidence`.
    num_samples
        ``None``: the mean of q(z | x); a number: that many draws.
    num_particles
        ``None``: draws of the guide. A number: each is taken from that many draws of the guide by
        importance weights, so that it comes from p(z | x) but for what so few cannot show
        (sampling importance resampling, Rubin 1987); the Pareto k of :func:`vaeppl.evidence`
        tell whether they do.

    Returns
    -------
    dict of str to Tensor
        For each latent of the rows ``(N, *event)``, or ``(num_samples, N, *event)``. Of a latent
        that is summed out it is the most probable value, and the means of the others are means
        over it too. A column that is latent in some rows has its own value in the others. Latents
        that all rows share are not among them: draws of these are in the posterior of
        :func:`vaeppl.to_arviz`.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> encode(VAE(6, 2, hidden=(4,)), {"x": x})["z"].shape
    torch.Size([20, 2])
    """
    pair = as_pair(source, guide)
    if num_samples is None and num_particles is None:
        return posterior_means(pair, data, seed=seed)
    if num_samples is None:
        raise ValueError("num_particles is for draws: say how many by num_samples")
    return _draws(pair, data, num_samples, num_particles, seed, predictive=False)


def posterior_means(pair: Pair, data: Any, *, seed: int = 0) -> dict[str, Tensor]:
    """Return the posterior mean of each row's latents, in closed form where there is one."""
    parts = []
    with tracing.quiet(pair, seed=seed):
        batches = tracing.batches(pair, data, ROWS_AT_ONCE)
        for batch in batches:
            parts.append(_batch_means(pair, batch) | _values_there(pair, batch))
    return batches.joined(parts)


def _batch_means(pair: Pair, batch: Batch) -> dict[str, Tensor]:
    """Return the mean of each latent of the rows, over the values of those that are summed out."""
    rows = len(next(iter(batch.values())))
    depth = tracing.plate_depth(pair, batch)
    with AtMean(), EnumMessenger(first_available_dim=-depth - 1):
        trace = poutine.trace(pair.guide).get_trace(**batch)
    log_q = tracing.enumerated_weights(trace, rows, depth - 1)
    local = [s for s in tracing.latents(trace) if tracing.rows_frame(s, rows)]
    if log_q is None:
        return {s["name"]: s["value"] for s in local}
    return {s["name"]: _marginal(s, log_q.exp(), depth) for s in local}


def _marginal(site: Any, q: Tensor, depth: int) -> Tensor:
    """Return the mean of a latent under weights q; its mode if it is summed out itself.

    Value and weights have shape ``(*values, *plates, *event)``, the weights without the event.
    """
    value, event = site["value"], site["fn"].event_dim
    over = range(q.ndim - depth)
    plates = max(-(f.dim or 0) for f in site["cond_indep_stack"])
    if is_enumerated(site):
        own = q.ndim + site["infer"]["_enumerate_dim"]
        others = [d for d in over if d != own]
        best = (q.sum(others) if others else q).argmax(0)
        return value.reshape(len(value), *site["fn"].event_shape)[
            best.reshape(best.shape[-plates:])
        ]
    if value.ndim - event <= depth:
        return torch.as_tensor(value)
    mean = (q.reshape(*q.shape, *[1] * event) * value).sum(tuple(over))
    return mean.reshape(mean.shape[mean.ndim - event - plates :])


def with_values_there(pair: Pair, observed: Any, story: Any) -> Any:
    """Return a story that draws its columns, but for those that are latent in other rows.

    ``observed`` is a trace of the story with the columns as they are: the label of a labelled row
    is not drawn again, as its other latents were inferred given it.
    """
    sites = (observed.nodes.get(c) for c in pair.partly_observed)
    there = {s["name"]: s["value"] for s in sites if s is not None and s["is_observed"]}
    drawn = poutine.uncondition(story)
    return poutine.condition(drawn, data=there) if there else drawn


def _values_there(pair: Pair, batch: Batch) -> dict[str, Tensor]:
    """Return the columns of a batch that are latent in other rows, as the story holds them."""
    there = [c for c in pair.partly_observed if c in batch]
    if not there:
        return {}
    trace = poutine.trace(pair.model).get_trace(**batch)
    return {c: _as_drawn(trace.nodes[c]) for c in there}


def _as_drawn(site: Any) -> Tensor:
    """Return an observed value in the type in which the story draws it: labels are integers."""
    value: Tensor = site["value"]
    is_label = isinstance(site["fn"], torch.distributions.Categorical)
    return value.long() if is_label else value


def reconstruct(source: Any, data: Any, *, guide: Any = None, seed: int = 0) -> dict[str, Tensor]:
    """Return the mean of the data given each row's posterior mean, E[x | z = E_q(z)].

    For categories it is the most probable code.

    Parameters
    ----------
    source, data, guide, seed
        As in :func:`vaeppl.evidence`.

    Returns
    -------
    dict of str to Tensor
        For each observed column ``(N, *event)``.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> reconstruct(VAE(6, 2, hidden=(4,)), {"x": x})["x"].shape
    torch.Size([20, 6])
    """
    pair = as_pair(source, guide)
    parts = []
    with tracing.quiet(pair, seed=seed):
        batches = tracing.batches(pair, data, ROWS_AT_ONCE)
        for batch in batches:
            replayed = poutine.replay(pair.model, trace=_mean_trace(pair, batch))
            trace = poutine.trace(replayed).get_trace(**batch)
            parts.append(
                {
                    s["name"]: centre(s["fn"])
                    for s in sample_sites(trace)
                    if s["is_observed"] and s["name"] in _replicated(pair)
                }
            )
    return batches.joined(parts)


def _replicated(pair: Pair) -> tuple[str, ...]:
    """Return the columns that are drawn anew: those that are latent in some rows are not."""
    return tuple(c for c in pair.columns if c not in pair.partly_observed)


def posterior_predictive(
    source: Any,
    data: Any,
    *,
    guide: Any = None,
    num_samples: int = 1,
    num_particles: int | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Draw new data for each row: z ~ q(z | x_n), then x̃_n ~ p(x | z).

    Parameters
    ----------
    source, data, guide, seed
        As in :func:`vaeppl.evidence`.
    num_samples
        Draws for each row.
    num_particles
        As in :func:`vaeppl.encode`: z ~ p(z | x_n) by importance resampling.

    Returns
    -------
    dict of str to Tensor
        For each observed column ``(num_samples, N, *event)``.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> posterior_predictive(VAE(6, 2, hidden=(4,)), {"x": x}, num_samples=3)["x"].shape
    torch.Size([3, 20, 6])
    """
    pair = as_pair(source, guide)
    return _draws(pair, data, num_samples, num_particles, seed, predictive=True)


def _draws(
    pair: Pair,
    data: Any,
    num_samples: int,
    num_particles: int | None,
    seed: int,
    *,
    predictive: bool,
) -> dict[str, Tensor]:
    """Draw the latents of the rows, or the columns given those."""
    whole_number("num_samples", num_samples, 1)
    check_particles(num_particles)
    parts = []
    shared = [poutine.Trace() for _ in range(num_samples)]
    with tracing.quiet(pair, seed=seed):
        batches = tracing.batches(pair, data, ROWS_AT_ONCE)
        for batch in batches:
            rows = len(next(iter(batch.values())))
            # What stands outside the plate of rows is shared by the batches.
            outside, shared, drawn = shared, [], []
            one = _new_columns if predictive else _latents_of_rows
            for trace in posterior_draws(pair, batch, outside, num_particles):
                shared.append(tracing.only_shared(trace, rows))
                drawn.append(one(pair, batch, trace))
            parts.append(_stacked(drawn))
    return batches.joined(parts, 1)


def _latents_of_rows(pair: Pair, batch: Batch, trace: Any) -> dict[str, Tensor]:
    """Return the latents of the rows in a draw of the guide."""
    rows = len(next(iter(batch.values())))
    local = (s for s in tracing.latents(trace) if tracing.rows_frame(s, rows))
    return {s["name"]: s["value"] for s in local} | _values_there(pair, batch)


def _new_columns(pair: Pair, batch: Batch, trace: Any) -> dict[str, Tensor]:
    """Draw the columns anew, given a draw of the guide."""
    observed = poutine.trace(poutine.replay(pair.model, trace=trace)).get_trace(**batch)
    story = with_values_there(pair, observed, poutine.replay(pair.model, trace=trace))
    drawn = poutine.trace(story).get_trace(**batch)
    names = [
        s["name"]
        for s in sample_sites(observed)
        if s["is_observed"] and s["name"] in _replicated(pair)
    ]
    return {name: torch.as_tensor(drawn.nodes[name]["value"]) for name in names}


def _mean_trace(pair: Pair, batch: Batch) -> Any:
    """Trace the guide with every reparametrised latent at its mean, given its parents' means."""
    with AtMean():
        return poutine.trace(pair.guide).get_trace(**batch)


class AtMean(poutine.messenger.Messenger):
    """Sets each continuous latent to its mean instead of drawing it.

    One that is to be summed out, but is not, is set to its most probable value.
    """

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        fn = msg["fn"]
        if msg["done"] or msg["is_observed"]:
            return
        if getattr(fn, "has_rsample", False):
            msg["value"] = _mean(fn)
            msg["done"] = True
        elif msg["infer"].get("enumerate"):
            msg["value"] = _mode(fn)
            msg["done"] = True


def _mode(fn: Any) -> Tensor:
    """Return the most probable value of a distribution with few values."""
    support: Tensor = fn.enumerate_support()
    best = fn.log_prob(support).argmax(0)
    index = best.reshape(1, *best.shape, *[1] * fn.event_dim)
    return support.gather(0, index.expand(1, *support.shape[1:])).squeeze(0)


def _mean(fn: Any) -> Tensor:
    try:
        mean: Tensor = fn.mean
        if bool(mean.isfinite().all()):
            return mean
    except (AttributeError, NotImplementedError):
        pass
    draws: Tensor = fn.rsample(torch.Size((DRAWS_FOR_A_MEAN,)))
    return draws.mean(0)


def _stacked(draws: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([d[name] for d in draws]) for name in draws[0]}
