"""What is checked before a fit starts: columns, values, and that model and guide match."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from torch.distributions import Independent, constraints

from .columns import check_columns, entry_in_words
from .data import Data
from .distributions import MixedColumns
from .errors import ColumnError, StoryError
from .estimators.elbo import is_beside_the_story
from .pair import Batch, Pair
from .reading.tracing import quiet
from .strata import check_labels, is_missing, strata
from .training.seeds import seeded

__all__ = ["check", "check_batch_size", "check_columns", "check_sites", "check_values"]

CHUNK = 4096  # rows whose values are checked at a time


@dataclass(frozen=True)
class Checked:
    """What the checks found out on the way.

    Attributes
    ----------
    scaled : bool
        Whether the story scales its rows up to the full data, as ``vaeppl.rows`` does.
    enumerated : tuple of str
        Latents that the guide marks to be summed out.
    """

    scaled: bool
    enumerated: tuple[str, ...]


def check(pair: Pair, data: Data, *, batch_size: int | None = None, to_fit: bool = True) -> Checked:
    """Check everything that can be checked before training; raise at the first fault.

    Parameters
    ----------
    pair
        The model and its guide.
    data
        The rows it will be fitted to.
    batch_size
        Rows in a minibatch; not checked if ``None``.
    to_fit
        Whether the story will be fitted to them; else labels may be missing throughout, and the
        model's own ``check_data`` is not asked.

    Returns
    -------
    Checked

    Raises
    ------
    ColumnError
        A column is missing, or has values that the model's likelihood does not accept.
    StoryError
        Model and guide do not match, or do not run on the first rows.
    """
    check_columns(pair, data)
    if batch_size is not None:
        check_batch_size(batch_size, len(data))
    check_labels(pair, data, to_fit=to_fit)
    if to_fit and callable(own := getattr(pair.source[0], "check_data", None)):
        own(data)
    apart = strata(pair, data)
    marked: dict[str, None] = {}
    checked: set[str] = set()
    with seeded(0):  # columns may be drawn as they are read
        for stratum in apart:
            columns = data.columns(*stratum.columns)
            part = columns if len(apart) == 1 else columns.select(stratum.rows)
            trace, enumerated, scaled = check_sites(pair, part, batch_size)
            marked |= dict.fromkeys(enumerated)
            if len(apart) > 1 and not scaled:
                raise StoryError(
                    f"{pair.name} has rows with and without {', '.join(pair.partly_observed)}, so "
                    "it must scale them: write `with vaeppl.rows(...):` in model and guide"
                )
            check_values(pair, data, trace, leave_out=checked)
            checked |= set(stratum.columns) & set(trace.nodes)
    return Checked(scaled, tuple(marked))


def check_batch_size(batch_size: int, rows: int) -> None:
    """Check that a minibatch has between one row and all of them."""
    if not 1 <= batch_size <= rows:
        raise ColumnError(
            f"batch_size is {batch_size}, but the data have {rows} rows; "
            f"give a number from 1 to {rows}"
        )


def check_sites(
    pair: Pair, data: Data, batch_size: int | None = None
) -> tuple[Any, tuple[str, ...], bool]:
    """Run guide and model on the first rows and compare their sites.

    Returns
    -------
    tuple of a trace, names and bool
        The model's trace, the latents that the guide marks to be summed out, and whether the rows
        are scaled up to the full data.

    Raises
    ------
    StoryError
        If either does not run, a latent site stands in one of them only, a plate has another
        size, or the rows are not scaled to the full data though there are global latents.
    """
    few = min(8, len(data))
    columns = data.take(torch.arange(few), device=pair.device)
    batch = {
        name: value.to(pair.dtype) if value.is_floating_point() else value
        for name, value in pair.batch(columns).items()
    }
    full = len(data)
    with quiet(pair, full), _store_apart():
        if isinstance(pair.source[-1], AutoGuide):
            _check_autoguide(pair, _run(pair, "model", batch), few)
        try:
            guide_trace = _run(pair, "guide", batch)
        except StoryError:
            # Values that the likelihood refuses are the likely cause, and the better message.
            with suppress(StoryError):
                check_values(pair, data, _run(pair, "model", batch))
            raise
        model_trace = _run(pair, "model", batch, guide_trace)
    _check_same_latents(pair, model_trace, guide_trace, data)
    _check_names(pair, model_trace, batch)
    _check_events(pair, model_trace, guide_trace)
    _check_plates(model_trace, guide_trace)
    scaled = few == full or rows_are_scaled(pair, model_trace, few, full)
    if not scaled and batch_size != full:
        _check_globals(pair, model_trace, few)
    marked = [n for n, s in _latents(guide_trace).items() if s["infer"].get("enumerate")]
    return model_trace, tuple(marked), scaled


@contextmanager
def _store_apart() -> Iterator[None]:
    """Forget the parameters that are made in the block: their values are for the seed to draw."""
    store = pyro.get_param_store()
    with store.scope(store.get_state()):
        yield


def _run(pair: Pair, role: str, batch: Batch, replayed: Any = None) -> Any:
    story = getattr(pair, role)
    story = poutine.replay(story, trace=replayed) if replayed is not None else story
    try:
        return poutine.trace(story).get_trace(**batch)
    except Exception as error:
        shapes = ", ".join(f"{c} {tuple(v.shape)}" for c, v in batch.items())
        raise StoryError(
            f"the {role} of {pair.name} does not run on the first {_rows_of(batch)} rows "
            f"({shapes}): {type(error).__name__}: {error}"
        ) from error


def _rows_of(batch: Batch) -> int:
    return next((len(v) for v in batch.values()), 0)


def _latents(trace: Any) -> dict[str, Any]:
    return {
        n: s
        for n, s in trace.nodes.items()
        if s["type"] == "sample" and not s["is_observed"] and type(s["fn"]).__name__ != "_Subsample"
    }


def _check_same_latents(pair: Pair, model_trace: Any, guide_trace: Any, data: Data) -> None:
    in_model, in_guide = _latents(model_trace), _latents(guide_trace)
    for name in (n for n in in_model if n not in in_guide):
        if name in pair.columns:
            raise ColumnError(
                f"site {name!r} of the model observes column {name!r}, which the data lack "
                f"(they have {', '.join(map(repr, data.keys()))}), and the guide does not draw it"
            )
        enumerated = in_model[name]["infer"].get("enumerate")
        if not enumerated:
            raise StoryError(
                f"site {name!r} is latent in the model of {pair.name} but the guide does not "
                f"draw it (its sites: {', '.join(map(repr, in_guide)) or 'none'}); "
                f"add pyro.sample({name!r}, ...) to the guide, or observe it with obs="
            )
    observed = {n for n, s in model_trace.nodes.items() if s["type"] == "sample"}
    for name in (n for n in in_guide if n not in in_model):
        if not in_guide[name]["infer"].get("is_auxiliary"):
            what = "observed" if name in observed else "absent"
            raise StoryError(
                f"site {name!r} is drawn by the guide of {pair.name} but {what} in the model "
                f"(its latents: {', '.join(map(repr, in_model)) or 'none'}); rename it, or mark it "
                "infer={'is_auxiliary': True}"
            )


def _check_events(pair: Pair, model_trace: Any, guide_trace: Any) -> None:
    """Check that event shapes agree, and that each dimension of a batch shape is a plate's."""
    for name, q_site in _latents(guide_trace).items():
        p_site = model_trace.nodes.get(name)
        if p_site is not None and p_site["fn"].event_dim != q_site["fn"].event_dim:
            raise StoryError(
                f"site {name!r} has {p_site['fn'].event_dim} event dimensions in the model and "
                f"{q_site['fn'].event_dim} in the guide: is there a .to_event(1) missing?"
            )
    observed = {n: model_trace.nodes[n] for n in pair.columns if n in model_trace.nodes}
    for role, sites in (
        ("guide", _latents(guide_trace)),
        ("model", {**_latents(model_trace), **observed}),
    ):
        for name, site in sites.items():
            batch = site["value"].shape[: site["value"].ndim - site["fn"].event_dim]
            plates = {f.dim for f in site["cond_indep_stack"]}
            if any(size > 1 and i - len(batch) not in plates for i, size in enumerate(batch)):
                raise StoryError(
                    f"site {name!r} of the {role} has batch shape {tuple(batch)} but stands in "
                    f"{len(plates) or 'no'} plate{'s' * (len(plates) > 1)}: put it in "
                    "`with rows(...)`, or call .to_event(1) on its distribution"
                )


def _check_plates(model_trace: Any, guide_trace: Any) -> None:
    for name, q_site in _latents(guide_trace).items():
        p_site = model_trace.nodes.get(name)
        if p_site is None:
            continue
        mine = {f.name: f.full_size or f.size for f in p_site["cond_indep_stack"]}
        theirs = {f.name: f.full_size or f.size for f in q_site["cond_indep_stack"]}
        if mine != theirs:
            raise StoryError(
                f"site {name!r} stands in the plates {mine or 'none'} in the model and in "
                f"{theirs or 'none'} in the guide; they must be the same"
            )
        if not torch.equal(*_broadcast_scales(p_site, q_site)):
            raise StoryError(
                f"site {name!r} is scaled by {_scale(p_site)} in the model and by "
                f"{_scale(q_site)} in the guide; scale both alike, or weigh the KL by "
                "fit(kl_weight=...)"
            )


def _broadcast_scales(*sites: Any) -> Any:
    return torch.broadcast_tensors(*(torch.as_tensor(s["scale"]).double() for s in sites))


def _scale(site: Any) -> str:
    return _number(torch.as_tensor(site["scale"]).double().mean())


def rows_are_scaled(pair: Pair, trace: Any, few: int, full: int) -> bool:
    """Tell whether a story scales its rows up to the full data, as ``vaeppl.rows`` does.

    Parameters
    ----------
    trace
        A trace of the model on ``few`` of the ``full`` rows.

    Raises
    ------
    StoryError
        The plate of rows has a size of its own, and it is another.
    """
    for column, site in _observed_columns(pair, trace, few):
        frames = _rows_frames(site, few)
        if not frames:
            return False
        for frame in frames:
            size = frame.full_size or frame.size
            if size not in (few, full):
                raise StoryError(
                    f"the plate {frame.name!r} of site {column!r} is said to have {size} rows, but "
                    f"the rows fitted are {full}: write `with vaeppl.rows({column}):` instead"
                )
            return bool(size == full)
    return True


def _check_globals(pair: Pair, trace: Any, few: int) -> None:
    """Refuse global latents beside rows that are not scaled up to the full data."""
    for column, site in _observed_columns(pair, trace, few):
        plates = {frame.name for frame in _rows_frames(site, few)}
        outside = [
            n
            for n, s in _latents(trace).items()
            if not plates & {f.name for f in s["cond_indep_stack"]}
        ]
        if outside:
            raise StoryError(
                f"{pair.name} has latents outside the plate of rows ({', '.join(outside)}), but "
                f"site {column!r} is not scaled from the minibatch to the full data, so the ELBO "
                "would be wrong: write `with vaeppl.rows(x):` in model and guide"
            )


def _observed_columns(pair: Pair, trace: Any, few: int) -> Iterator[tuple[str, Any]]:
    for column in pair.columns:
        site = trace.nodes.get(column)
        if site is not None and site["is_observed"] and len(site["value"]) == few:
            yield column, site


def _rows_frames(site: Any, few: int) -> list[Any]:
    return [frame for frame in site["cond_indep_stack"] if frame.size == few]


def _check_names(pair: Pair, trace: Any, batch: Batch) -> None:
    """Refuse a site that observes a column under another name."""
    for name, site in trace.nodes.items():
        observed = site["type"] == "sample" and site["is_observed"]
        if observed and name not in pair.columns and not is_beside_the_story(site):
            for column, values in batch.items():
                if site["value"] is values:
                    raise StoryError(
                        f"site {name!r} of {pair.name} observes column {column!r}: give the site "
                        f"the column's name, pyro.sample({column!r}, ..., obs={column}), so that "
                        "it is checked, drawn and scored as that column"
                    )


def _check_autoguide(pair: Pair, trace: Any, few: int) -> None:
    """Refuse Pyro's autoguides for latents of the rows: they have parameters row by row."""
    guide = pair.source[-1]
    local = [n for n, s in _latents(trace).items() if _rows_frames(s, few)]
    if isinstance(guide, AutoGuide) and local:
        raise StoryError(
            f"{type(guide).__name__} has a parameter for each row of the latents "
            f"{', '.join(map(repr, local))}, so it cannot be fitted by minibatches nor to new "
            "rows; write a guide that takes the columns, q(latents | columns)"
        )


def check_values(pair: Pair, data: Data, trace: Any, *, leave_out: Collection[str] = ()) -> None:
    """Check every value of every observed column against the support of its likelihood.

    Parameters
    ----------
    trace
        A trace of the model on some rows, with the distributions of the observed sites.
    leave_out
        Columns that were checked already.
    """
    for name, site in trace.nodes.items():
        observed = site["type"] == "sample" and site["is_observed"] and name not in leave_out
        if observed and name in data and name in pair.columns:
            for part, start, stop in _parts(site["fn"]):
                missing = pair.takes_missing or name in pair.partly_observed
                _check_part(data, name, part, slice(start, stop), missing)


def _parts(fn: Any) -> Iterator[tuple[Any, int, int | None]]:
    """Yield the distributions of groups of columns, with the columns they stand for."""
    fn = _one_column(fn)
    if isinstance(fn, MixedColumns):
        start = 0
        for part, size in zip(fn.parts, fn.sizes, strict=True):
            for inner, first, last in _parts(part):
                yield inner, start + first, start + (size if last is None else last)
            start += size
    else:
        yield fn, 0, None


def _one_column(fn: Any) -> Any:
    """Take off what is wrapped around the distribution of an entry."""
    while isinstance(fn, (Independent, MaskedDistribution, ExpandedDistribution)):
        fn = fn.base_dist
    return fn


def _check_part(data: Data, column: str, fn: Any, where: slice, takes_missing: bool) -> None:
    support = _plain_support(fn)
    if support is None:
        return
    for start in range(0, len(data), CHUNK):
        index = torch.arange(start, min(start + CHUNK, len(data)))
        values = data.columns(column).take(index)[column]
        values = values.reshape(len(index), -1)[:, where]
        bad = ~support.check(values) | values.isinf()
        if takes_missing:
            bad &= ~is_missing(values.reshape(-1)).reshape(values.shape)
        if bad.any():
            row, entry = bad.nonzero()[0].tolist()
            raise ColumnError(
                f"column {column!r} holds {_number(values[row, entry])} at row {start + row}"
                f"{entry_in_words(data, column, where.start + entry)}; a {type(fn).__name__} "
                f"likelihood takes {_in_words(support)}{_hint(column, support, values)}"
            )


def _plain_support(fn: Any) -> Any:
    """Return the support of one entry, where it is the same for all of them; else ``None``."""
    try:
        support = fn.support
    except NotImplementedError:
        return None
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if isinstance(support, (constraints.interval, constraints.integer_interval)):
        low, high = torch.as_tensor(support.lower_bound), torch.as_tensor(support.upper_bound)
        if (low != low.flatten()[0]).any() or (high != high.flatten()[0]).any():
            return None
        return type(support)(low.flatten()[0].item(), high.flatten()[0].item())
    return support if support.event_dim == 0 else None


def _in_words(support: Any) -> str:
    if support is constraints.boolean:
        return "0 or 1"
    if support is constraints.nonnegative_integer:
        return "counts >= 0 (integers)"
    if isinstance(support, constraints.integer_interval):
        return f"integers from {_number(support.lower_bound)} to {_number(support.upper_bound)}"
    if isinstance(support, constraints.interval):
        return f"reals from {_number(support.lower_bound)} to {_number(support.upper_bound)}"
    if support in (constraints.positive, constraints.nonnegative):
        return "positive reals"
    return "finite reals" if support is constraints.real else f"values with {support}"


def _hint(column: str, support: Any, values: Tensor) -> str:
    finite = values[values.isfinite()]
    if support is constraints.boolean and finite.numel() and finite.min() >= 0:
        if finite.max() <= 1:
            return (
                f"; binarise them with data.binarize({column!r}), or use "
                "likelihoods.ContinuousBernoulli"
            )
        if (finite == finite.round()).all():
            top = int(finite.max())
            return f"; use likelihoods.Binomial({top}) or likelihoods.NegativeBinomial for counts"
    return f"; vaeppl.likelihood_for(data, {column!r}) chooses one that does"


def _number(value: Any) -> str:
    return f"{float(value):.6g}"
