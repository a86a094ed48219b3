"""Prediction of labels: p(y | x) of each row, by the guide, by the story, or by a classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from ..data import Data, DataError, as_data, minibatches
from ..data.labels import HIDDEN, labels_of
from ..errors import CheckpointError, ColumnError, StoryError, whole_number
from ..estimators.elbo import sample_sites
from ..pair import Batch, Pair, as_pair
from ..strata import is_missing
from . import tracing
from .evidence import ENTRIES_AT_ONCE, PARTICLES_AT_ONCE, log_weights
from .labels import class_probs, filled, own_classifier, withheld
from .predictive import ROWS_AT_ONCE
from .scoring import ClassificationReport, classification_report

__all__ = ["can_predict", "predict", "predict_proba", "score_labels"]

DRAWS = 100  # of the latents that a label depends on
_ADVICE = (
    " A label is a site of the story: Categorical, OneHotCategorical or Bernoulli, one for each "
    "row. To learn any other from the latents: vaeppl.LatentClassifier(fit, column=...).fit(data)"
)

Way = Callable[[Batch], Tensor]


def predict_proba(
    source: Any,
    data: Any,
    column: str = "y",
    *,
    guide: Any = None,
    num_samples: int | None = None,
    num_particles: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Return the probability of each value of a label, p(y = k | x_n), for each row.

    The label is withheld, whether or not the data have it. The first of these that applies is
    done:

    1. The model has a ``classifier`` that stands outside its story (M1): it is trained on the
       labelled rows that the fit was fitted to, once for each fit.
    2. ``num_particles`` is given: p(y = k | x) ∝ p(x, y = k), the posterior of the story itself,
       where each p(x, y = k) is estimated by importance sampling from the guide, given y = k.
    3. The guide draws the label where it is not given (M2): its q(y | x). Where it draws other
       latents z before it, the mean of q(y | x, z) over draws of them.
    4. The story draws the label given the other columns, and no other column (Regression, CVAE):
       the mean of p(y | x, z) over draws of z from its prior p(z | x).

    Parameters
    ----------
    source
        A :class:`~vaeppl.Fit`, a model, or a model function with its ``guide``.
    data
        Rows, as in :func:`vaeppl.fit`; all of them are used, also where they have splits.
    column
        The label: a site Categorical, OneHotCategorical or Bernoulli, one for each row.
    guide
        The guide, where ``source`` is a model function.
    num_samples
        Draws in 3 and 4, where a label depends on latents; 100 if ``None``.
    num_particles
        Draws for each row and label in 2. Memory is bounded whatever it is.
    seed
        Fixes the draws.

    Returns
    -------
    Tensor
        ``(N, K)``; each row sums to 1.

    Raises
    ------
    StoryError
        If the label cannot be predicted; the message says why.
    ColumnError
        If a column is not there, or there are no labels to train a classifier on.

    References
    ----------
    Kingma, Rezende, Mohamed and Welling (2014), "Semi-supervised learning with deep generative
    models", section 3.1, for 1 and 3; Sohn, Lee and Yan (2015), "Learning structured output
    representation using deep conditional generative models", section 4.2, for 2 and 4.

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.likelihoods import Categorical
    >>> from vaeppl.models import Regression
    >>> data = {"x": torch.randn(50, 3), "y": torch.arange(50)[:, None] % 4}
    >>> model = Regression(3, 1, likelihood=Categorical(4), hidden=(8,))
    >>> fit = vaeppl.fit(model, data, epochs=1, progress=False)
    >>> predict_proba(fit, data).shape
    torch.Size([50, 4])
    """
    for option, number in (("num_samples", num_samples), ("num_particles", num_particles)):
        if number is not None:
            whole_number(option, number, 1)
    pair, data = as_pair(source, guide), as_data(data)
    if own_classifier(pair) is not None:
        return _by_own_classifier(source, pair, column, seed, num_particles).predict_proba(data)
    rows = withheld(pair, data, column)
    for other in (c for c in pair.partly_observed if c in rows):
        if bool(is_missing(rows[other]).any()):
            raise ColumnError(
                f"column {other!r} is missing in some rows: predict {column!r} for the rows that "
                "have it, or leave it out of all of them (data.columns(...))"
            )
    parts = []
    with tracing.quiet(pair, seed=seed):
        way = _way(pair, rows, column, num_samples, num_particles)
        size, noise = _rows_at_once(rows, num_particles), torch.Generator().manual_seed(0)
        for batch in minibatches(rows, size, shuffle=False, generator=noise):
            parts.append(way(batch.columns))
    return torch.cat(parts)


def predict(source: Any, data: Any, column: str = "y", **options: Any) -> Tensor:
    """Return the most probable label of each row.

    Parameters
    ----------
    source, data, column, **options
        As in :func:`predict_proba`.

    Returns
    -------
    Tensor
        ``(N,)``, of int64.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import Regression
    >>> predict(Regression(3, 1, hidden=(8,)), {"x": torch.randn(5, 3)}).shape  # y is 0 or 1
    torch.Size([5])
    """
    return predict_proba(source, data, column, **options).argmax(-1)


def score_labels(source: Any, data: Any, column: str = "y", **options: Any) -> ClassificationReport:
    """Compare predicted labels with those of the data; rows whose label is hidden are left out.

    Parameters
    ----------
    source, data, column, **options
        As in :func:`predict_proba`. Give rows whose labels the fit has not seen, ``data.test``
        say.

    Returns
    -------
    ClassificationReport
        Error, log loss, Brier score, calibration and confusion.

    Raises
    ------
    ColumnError
        If no row has a label.

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import Regression
    >>> data = {"x": torch.randn(50, 3), "y": (torch.rand(50, 1) < 0.4).float()}
    >>> fit = vaeppl.fit(Regression(3, 1, hidden=(8,)), data, epochs=1, progress=False)
    >>> score_labels(fit, data).confusion.shape
    (2, 2)
    """
    data = as_data(data)
    labels = labels_of(data, column)
    known = labels != HIDDEN
    if not bool(known.any()):
        raise ColumnError(
            f"column {column!r} of data {data.name!r} has no label (-1 and NaN stand for none), so "
            "there is nothing to score: pass rows with labels, data.test say"
        )
    rows = data if bool(known.all()) else data.select(known)
    return classification_report(predict_proba(source, rows, column, **options), labels[known])


def can_predict(source: Any, data: Any, column: str = "y") -> bool:
    """Tell whether a label of the data can be predicted, and the data have some to compare with.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> data = {"x": torch.zeros(4, 6), "y": torch.arange(4)}
    >>> can_predict(VAE(6, 2, hidden=(4,)), data)
    False
    """
    data = as_data(data)
    few = data.select(torch.arange(min(tracing.FEW_ROWS, len(data))))
    try:
        labels_of(few, column)  # so that a column of pictures is not read whole
        return bool((labels_of(data, column) != HIDDEN).any()) and bool(
            len(predict_proba(source, few, column, num_samples=1))
        )
    except (CheckpointError, ColumnError, DataError, StoryError):
        return False


def _by_own_classifier(
    source: Any, pair: Pair, column: str, seed: int, num_particles: int | None
) -> Any:
    """Return the trained classifier of a fit whose labels stand outside the story."""
    if num_particles is not None:
        raise ValueError(
            f"num_particles is for a label that is a part of the story; that of {pair.name} "
            "stands outside, and a classifier predicts it"
        )
    if not hasattr(source, "latent_classifier"):
        raise StoryError(
            f"the labels of {pair.name} are predicted by a classifier, which learns from the rows "
            "that were fitted, and a model alone holds none: pass the Fit, or train one by "
            "vaeppl.LatentClassifier(model).fit(data)"
        )
    return source.latent_classifier(column, seed=seed)


def _way(
    pair: Pair, rows: Data, column: str, num_samples: int | None, num_particles: int | None
) -> Way:
    """Return what maps a batch, without the label, to probabilities; see `predict_proba`."""
    few = rows.take(torch.arange(min(tracing.FEW_ROWS, len(rows))))
    if num_particles is not None:
        return _by_particles(pair, few, column, num_particles)
    if column not in pair.required_to_fit:
        trace = poutine.trace(pair.guide).get_trace(**few)
        if class_probs(trace.nodes.get(column)) is not None:
            exact = _is_drawn_first(trace, column)
            return _by_guide(pair, column, 1 if exact else num_samples or DRAWS)
    return _by_story(pair, few, column, num_samples)


def _is_drawn_first(trace: Any, column: str) -> bool:
    """Tell whether the guide draws nothing before a label, so that its probabilities are exact."""
    names = [site["name"] for site in tracing.latents(trace, auxiliary=True)]
    return names[0] == column


def _by_guide(pair: Pair, column: str, num_draws: int) -> Way:
    """q(y | x), or its mean over the latents that the guide draws before y."""

    def probs(batch: Batch) -> Tensor:
        traces = (poutine.trace(pair.guide).get_trace(**batch) for _ in range(num_draws))
        return _mean(class_probs(trace.nodes[column]) for trace in traces)

    return probs


def _by_story(pair: Pair, few: Batch, column: str, num_samples: int | None) -> Way:
    """p(y | x), or its mean over latents drawn from their prior given x."""
    site, trace = _site_of_story(pair, few, column)
    seen = [s["name"] for s in sample_sites(trace) if s["is_observed"] and tracing.is_variable(s)]
    if seen:
        raise StoryError(
            f"{pair.name} observes {', '.join(map(repr, seen))} too, and its guide does not draw "
            f"{column!r}: pass num_particles=100, say, to weigh the labels by importance sampling"
        )
    latents = [s for s in tracing.latents(trace) if s["name"] != column]
    some_shared = not all(tracing.rows_frame(s, _num_rows(few)) for s in latents)
    num_draws = (num_samples or DRAWS) if latents else 1
    absent = dict.fromkeys(c for c in pair.columns if c not in few)

    def one_draw(batch: Batch) -> Tensor | None:
        story = pair.model
        if some_shared:  # of the guide, which has learnt them; they are the same for any label
            given = {**batch, column: filled(site, 0, _num_rows(batch))}
            guide = poutine.trace(pair.guide).get_trace(**given)
            story = poutine.replay(story, trace=tracing.only_shared(guide, _num_rows(batch)))
        drawn = poutine.trace(story).get_trace(**batch, **absent)
        return class_probs(drawn.nodes[column])

    return lambda batch: _mean(one_draw(batch) for _ in range(num_draws))


def _by_particles(pair: Pair, few: Batch, column: str, num_particles: int) -> Way:
    """p(y = k | x) ∝ p(x, y = k), each by importance sampling from the guide given y = k."""
    site, _ = _site_of_story(pair, few, column)
    probs = class_probs(site)
    labels = range(0 if probs is None else probs.shape[-1])

    def log_joint(batch: Batch, label: int) -> Tensor:
        labelled = {**batch, column: filled(site, label, _num_rows(batch))}
        # Divided by the same number of particles for each label, which cancels.
        return log_weights(pair, labelled, num_particles).double().logsumexp(0)

    def way(batch: Batch) -> Tensor:
        scores = torch.stack([log_joint(batch, label) for label in labels], dim=-1)
        return scores.softmax(-1).to(pair.dtype)

    return way


def _site_of_story(pair: Pair, few: Batch, column: str) -> tuple[Any, Any]:
    """Return the site at which the story draws a label, and the trace in which it is."""
    if column in pair.required:
        raise StoryError(
            f"{pair.name} is given {column!r} and has no distribution for it, so it does not "
            f"predict it.{_ADVICE}"
        )
    absent = dict.fromkeys(c for c in pair.columns if c not in few)
    trace = poutine.trace(pair.model).get_trace(**few, **absent)
    site = trace.nodes.get(column)
    if class_probs(site) is None or column not in pair.columns:
        labels = [s["name"] for s in sample_sites(trace) if class_probs(s) is not None]
        has = f"it has {', '.join(map(repr, labels))}" if labels else "it has none"
        raise StoryError(f"{pair.name} draws no label {column!r} of the rows; {has}.{_ADVICE}")
    return site, trace


def _rows_at_once(rows: Data, num_particles: int | None) -> int:
    """Return how many rows a pass may hold, so that memory does not grow with the particles."""
    size = ROWS_AT_ONCE
    if num_particles is not None:
        widest = max(1, *(math.prod(rows.shape(c)) for c in rows))
        size = max(1, ENTRIES_AT_ONCE // (widest * min(num_particles, PARTICLES_AT_ONCE)))
    return min(size, len(rows))


def _num_rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _mean(draws: Iterable[Tensor | None]) -> Tensor:
    """Return the mean of probabilities, which sum to one as they do."""
    total: Any = 0.0
    count = 0
    for count, probs in enumerate(draws, 1):  # noqa: B007
        total = total + probs
    mean: Tensor = total / count
    return mean
