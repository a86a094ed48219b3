"""Export to ArviZ: draws, predictions and log-probabilities as named, labelled arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from .. import __version__
from ..data import Data, as_data
from ..errors import StoryError, whole_number
from ..estimators.elbo import is_beside_the_story, sample_sites
from ..pair import Batch, Pair, as_pair
from . import tracing
from .inference_data import assemble
from .predictive import with_values_there
from .sites import observed_columns

__all__ = ["to_arviz"]

LARGEST = 200_000_000  # numbers in the result: 0.8 GB in float32
ENTRIES_AT_ONCE = 2**21  # numbers of one column that a pass may hold

Named = tuple[tuple[str, ...], Tensor]  # names of the dimensions, "draw" first, and values
Groups = dict[str, dict[str, Named]]


def to_arviz(
    source: Any,
    data: Any,
    *,
    guide: Any = None,
    num_samples: int = 100,
    prior_samples: int | None = None,
    seed: int = 0,
    max_rows: int | None = None,
) -> Any:
    """Export draws from guide and story to ArviZ, with named dimensions and labels.

    ======================== ==================================================================
    group                    what it holds
    ======================== ==================================================================
    ``posterior``            latents z ~ q(z | x_n): ``chain, draw, row, <site>_dim``
    ``posterior_predictive`` new data x̃_n ~ p(x | z) for each of these draws
    ``log_likelihood``       log p(x_n | z_n) of each observed column, in nats: ``chain, draw,
                             row``
    ``sample_stats``         ``log_weight``, log p(x_n, z_n) - log q(z_n | x_n), in nats
    ``prior``                latents from the story; each draw is a whole data set of as many rows
    ``prior_predictive``     the data of these draws
    ``observed_data``        the columns that the story observes
    ``constant_data``        the columns that it is given, if any
    ======================== ==================================================================

    Latents outside the plate of rows have no dimension ``row`` and are the same for all rows of a
    draw; their prior and guide do not enter ``log_weight``. Draws are independent, so R-hat and
    autocorrelations say nothing: there is one chain. A story whose networks do not take leading
    dimensions is run draw by draw, which is slower.

    Parameters
    ----------
    source
        A :class:`~vaeppl.Fit`, a model, or a model function with its ``guide``.
    data
        Rows to condition on, as in :func:`vaeppl.fit`.
    num_samples
        Draws from the guide.
    prior_samples
        Data sets drawn from the story; as many as ``num_samples`` if ``None``, none if 0.
    seed
        Fixes the draws, and the rows where ``max_rows`` leaves some out.
    max_rows
        Export that many rows at most, drawn at random; the coordinate ``row`` holds their numbers.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        The former before ArviZ 1.0, the latter since.

    Raises
    ------
    ValueError
        If the result would hold more than 2e8 numbers.

    Warnings
    --------
    The pointwise log-likelihoods are conditional on the row's own latents, whose posterior has
    seen the row. So ``arviz.loo`` on them does not cross-validate the evidence log p(x_n) of a row;
    for that, score held-out rows by :func:`vaeppl.evidence`.

    References
    ----------
    Kumar, Carroll, Hartikainen and Martin (2019), "ArviZ a unified library for exploratory
    analysis of Bayesian models in Python".

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> tree = to_arviz(VAE(6, 2, hidden=(4,)), {"x": x}, num_samples=5)
    >>> tree.posterior["z"].dims
    ('chain', 'draw', 'row', 'z_dim')
    """
    prior_samples = num_samples if prior_samples is None else prior_samples
    _check_numbers(num_samples, prior_samples, max_rows)
    pair, data = as_pair(source, guide), as_data(data)
    index = _chosen_rows(len(data), max_rows, seed)
    rows = tracing.resident(pair, data.select(index))
    observed = observed_columns(pair, rows)
    with tracing.quiet(pair, seed=seed):
        _check_size(pair, rows, observed, num_samples, prior_samples)
        groups = _posterior_groups(pair, rows, num_samples, observed)
    if prior_samples:
        with tracing.quiet(pair, seed=seed, draw=len(rows)):
            groups |= _prior_groups(pair, groups["constant_data"], len(rows), prior_samples)
    columns = {**groups["observed_data"], **groups["constant_data"]}
    return assemble(
        {name: _with_chain(group) for name, group in groups.items()},
        {"row": index, **_labels(rows, columns)},
        attrs=_attributes(pair),
        variable_attrs=_levels(rows, columns),
    )


def _check_numbers(num_samples: int, prior_samples: int, max_rows: int | None) -> None:
    whole_number("num_samples", num_samples, 1)
    whole_number("prior_samples", prior_samples, 0)
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows is at least 1; given {max_rows}")


def _chosen_rows(rows: int, max_rows: int | None, seed: int) -> np.ndarray:
    """Return the numbers of the rows to export, in order."""
    if max_rows is None or max_rows >= rows:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, max_rows, replace=False))


# --- the posterior and what follows from it ---


def _posterior_groups(
    pair: Pair, rows: Data, num_samples: int, observed: tuple[str, ...]
) -> Groups:
    """Draw for all rows, batch by batch; latents outside the plate of rows are drawn once."""
    shots = [num_samples] if _runs_side_by_side(pair, rows, observed) else [None] * num_samples
    shared = [poutine.Trace() for _ in shots]
    parts = []
    batches = tracing.batches(pair, rows, _rows_at_once(rows, num_samples))
    for batch in batches:
        draws = [_shot(pair, batch, s, observed, t) for s, t in zip(shots, shared, strict=True)]
        shared = [trace for _, trace in draws]
        parts.append(_joined([groups for groups, _ in draws], "draw"))
    groups = _joined(parts)
    return {name: _in_order(batches, group) for name, group in groups.items()}


def _in_order(batches: tracing.Batches, group: Mapping[str, Named]) -> dict[str, Named]:
    """Put rows that were read apart from others back into the order of the data."""
    return {
        name: (dims, batches.in_order(values, dims.index("row")) if "row" in dims else values)
        for name, (dims, values) in group.items()
    }


def _runs_side_by_side(pair: Pair, rows: Data, observed: tuple[str, ...]) -> bool:
    """Tell whether the story runs for many draws at once: its networks take leading dimensions."""
    try:
        _shot(pair, tracing.few_rows(pair, rows), 2, observed, poutine.Trace())
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, StoryError):
            raise
        return False
    return True


def _rows_at_once(rows: Data, num_samples: int) -> int:
    widest = max(math.prod(rows.shape(c)) for c in rows.keys())  # noqa: SIM118
    return max(1, ENTRIES_AT_ONCE // (max(1, widest) * num_samples))


def _shot(
    pair: Pair, batch: Batch, num_samples: int | None, observed: tuple[str, ...], shared: Any
) -> tuple[Groups, Any]:
    """Return draws for a batch, and those of them that stand outside the plate of rows.

    ``num_samples`` are drawn side by side; ``None`` draws once, in the story's own shapes.
    """
    depth = tracing.plate_depth(pair, batch)
    n = len(next(iter(batch.values())))

    def trace(story: Any) -> Any:
        if num_samples is not None:
            story = pyro.plate(tracing.PARTICLES, num_samples, dim=-depth - 1)(story)
        return poutine.trace(story).get_trace(**batch)

    q = trace(poutine.replay(pair.guide, trace=shared))
    story = poutine.replay(pair.model, trace=q)
    p = trace(story)
    new = trace(with_values_there(pair, p, story))
    latents = tracing.latents(q)
    seen = {*observed, *pair.partly_observed}
    there = [p.nodes[c] for c in pair.partly_observed if c in batch]
    groups: Groups = {
        "posterior": {
            **{s["name"]: _named(s, n, depth) for s in latents},
            **{s["name"]: _drawn_alike(_named(s, n, depth), num_samples or 1) for s in there},
        },
        "posterior_predictive": {c: _named(new.nodes[c], n, depth) for c in observed},
        "log_likelihood": {c: _log_prob(p.nodes[c], n, depth, num_samples or 1) for c in observed},
        "sample_stats": {"log_weight": _log_weight(p, q, n, depth, num_samples or 1)},
        "observed_data": {c: _named_column(c, batch[c]) for c in observed},
        "constant_data": {c: _named_column(c, v) for c, v in batch.items() if c not in seen},
    }
    return groups, tracing.only_shared(q, n)


def _drawn_alike(named: Named, num_samples: int) -> Named:
    """Return the values of a column that other rows draw, the same in every draw."""
    dims, values = named
    return dims, values.expand(num_samples, *values.shape[1:])


def _variables(trace: Any) -> Iterator[dict[str, Any]]:
    sites = (s for s in sample_sites(trace) if tracing.is_variable(s))
    return (s for s in sites if not is_beside_the_story(s))


def _log_prob(site: dict[str, Any], rows: int, depth: int, num_samples: int) -> Named:
    """Return log p of a site for each draw and row."""
    term = tracing.row_term(tracing.site_log_prob(site), site, rows, depth)
    return ("draw", "row"), term.double().expand(num_samples, rows)


def _log_weight(model: Any, guide: Any, rows: int, depth: int, num_samples: int) -> Named:
    """Return log p(x, z) - log q(z | x); a latent that the guide leaves to the model cancels."""
    total = torch.zeros(num_samples, rows, dtype=torch.float64)
    for sign, trace in ((1.0, model), (-1.0, guide)):
        for site in _variables(trace):
            drawn_by_story = not site["is_observed"] and site["name"] not in guide.nodes
            if tracing.rows_frame(site, rows) is not None and not drawn_by_story:
                total = total.to(site["value"].device)
                total = total + sign * _log_prob(site, rows, depth, num_samples)[1]
    return ("draw", "row"), total


# --- the prior ---


def _prior_groups(
    pair: Pair, given: Mapping[str, Named], num_rows: int, prior_samples: int
) -> Groups:
    """Draw whole data sets from the story, under the columns that it is given."""
    columns: dict[str, Any] = dict.fromkeys(pair.columns)
    columns |= {name: values.to(pair.device) for name, (_, values) in given.items()}
    return _joined([_prior_draw(pair, columns, num_rows) for _ in range(prior_samples)], "draw")


def _prior_draw(pair: Pair, columns: Mapping[str, Any], rows: int) -> Groups:
    trace = poutine.trace(pair.model).get_trace(**columns)
    drawn = [s for s in _variables(trace) if not s["is_observed"]]
    depth = max((-(f.dim or 0) for s in drawn for f in s["cond_indep_stack"]), default=0)
    groups: Groups = {"prior": {}, "prior_predictive": {}}
    for site in drawn:
        group = "prior_predictive" if site["name"] in pair.columns else "prior"
        groups[group][site["name"]] = _named(site, rows, depth)
    return groups


# --- names of dimensions ---


def _named(site: dict[str, Any], rows: int, depth: int) -> Named:
    """Return a site's values with named dimensions: draw, row, other plates, event."""
    value, event = site["value"], site["fn"].event_dim
    value = value.reshape((1,) * (depth + 1 + event - value.ndim) + value.shape)
    row = tracing.rows_frame(site, rows)
    plates = {f.dim: "row" if f is row else f.name for f in site["cond_indep_stack"]}
    plates[-depth - 1] = "draw"
    absent = [d for d in range(depth + 1) if d - depth - 1 not in plates]
    value = value[tuple(0 if d in absent else slice(None) for d in range(depth + 1))]
    names = [plates[d - depth - 1] for d in range(depth + 1) if d not in absent]
    if row is not None:
        value = value.movedim(names.index("row"), 1)
        names.remove("row")
        names.insert(1, "row")
    return (*names, *_event_names(site["name"], event)), value


def _named_column(name: str, values: Tensor) -> Named:
    return ("row", *_event_names(name, values.ndim - 1)), values


def _event_names(name: str, event: int) -> tuple[str, ...]:
    return (f"{name}_dim",) if event == 1 else tuple(f"{name}_dim_{i}" for i in range(event))


def _joined(parts: list[Groups], along: str = "row") -> Groups:
    """Join the parts along a dimension; what does not have it is the same in all of them."""

    def join(group: str, name: str) -> Named:
        dims = parts[0][group][name][0]
        values = [p[group][name][1] for p in parts]
        return dims, torch.cat(values, dims.index(along)) if along in dims else values[0]

    return {group: {name: join(group, name) for name in parts[0][group]} for group in parts[0]}


def _with_chain(group: Mapping[str, Named]) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Turn values into arrays, with a chain where there are draws."""
    arrays = {}
    for name, (dims, values) in group.items():
        array = values.detach().cpu().numpy()
        drawn = dims[:1] == ("draw",)
        arrays[name] = (("chain", *dims), array[None]) if drawn else (dims, array)
    return arrays


def _labels(rows: Data, columns: Mapping[str, Named]) -> dict[str, list[str]]:
    """Return the names of a column's components, where they are more than numbers."""
    labels = {}
    for name in columns:
        if len(rows.shape(name)) == 1:
            names = [field.name for field in rows.fields(name)]
            numbered = names == [f"{name}[{i}]" for i in range(len(names))]
            if not numbered and len(set(names)) == len(names):
                labels[f"{name}_dim"] = names
    return labels


def _levels(rows: Data, columns: Mapping[str, Named]) -> dict[str, dict[str, Any]]:
    """Return the names of the codes of categorical columns, as notes on them."""
    found = {name: rows.levels(name) for name in columns}
    return {name: {"levels": list(levels)} for name, levels in found.items() if levels}


def _attributes(pair: Pair) -> dict[str, str]:
    return {
        "inference_library": "vaeppl",
        "inference_library_version": __version__,
        "model": pair.name,
    }


# --- size ---


def _check_size(
    pair: Pair, rows: Data, observed: tuple[str, ...], num_samples: int, prior_samples: int
) -> None:
    """Refuse what would not fit into memory, before anything is drawn."""
    few = tracing.few_rows(pair, rows)
    groups, _ = _shot(pair, few, None, observed, poutine.Trace())
    drawn = ("posterior", "posterior_predictive", "log_likelihood", "sample_stats")
    each = sum(_per_row(v) for g in drawn for v in groups[g].values())
    of_prior = sum(_per_row(v) for g in drawn[:2] for v in groups[g].values())
    n = len(rows)
    total = n * (num_samples * each + prior_samples * of_prior)
    if total > LARGEST:
        raise ValueError(
            f"{n} rows × ({num_samples} draws × {each} + {prior_samples} prior draws × {of_prior} "
            f"numbers) = {total:.1e} numbers; at most {LARGEST:.0e} are exported. "
            f"Pass max_rows={max(1, n * LARGEST // total)} or less, or fewer num_samples or "
            "prior_samples (0 leaves the prior out)"
        )


def _per_row(named: Named) -> int:
    """Count the numbers of one draw that a row has; those that rows share are not counted."""
    dims, values = named
    return values.numel() // values.shape[dims.index("row")] if "row" in dims else 0
