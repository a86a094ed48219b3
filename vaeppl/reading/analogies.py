"""Analogies: the rows as they would be with another label, their other latents held fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.poutine as poutine
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import Data, as_data
from ..data.labels import HIDDEN, labels_of
from ..errors import StoryError, unknown_name
from ..pair import Batch, Pair, as_pair
from . import tracing
from .labels import class_probs, withheld
from .prediction import predict
from .predictive import posterior_means
from .sites import column_means, observed_columns

__all__ = ["analogies", "num_labels", "with_each_label"]


def analogies(
    source: Any,
    data: Any,
    labels: Sequence[int] | None = None,
    *,
    column: str = "y",
    guide: Any = None,
    seed: int = 0,
) -> Tensor:
    """Return what each row would be with each label, the rest of its latents held fixed.

    For each row z is the posterior mean given its own label (the most probable one where it has
    none). Then the label runs through its values: E[x | z, y = k]. Latents whose prior depends on
    the label lie between it and the data, and follow it; but where there are no others (a
    conditional model with a learnt prior) they are held.

    Parameters
    ----------
    source
        A :class:`~vaeppl.Fit`, a model, or a model function with its ``guide``.
    data
        Rows, as in :func:`vaeppl.fit`.
    labels
        The labels to run through; all, 0, ..., K - 1, if ``None``.
    column
        The label: one that the story draws (M2), or one that it is given (CVAE).
    guide
        The guide, where ``source`` is a model function.
    seed
        Fixes the draws, where there are any.

    Returns
    -------
    Tensor
        ``(N, K, *event)``: the first column that the story observes beside the label.

    Raises
    ------
    StoryError
        If the story does not take the label, or observes nothing else.

    References
    ----------
    Kingma, Rezende, Mohamed and Welling (2014), "Semi-supervised learning with deep generative
    models", figure 1.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.likelihoods import Categorical
    >>> from vaeppl.models import CVAE
    >>> cvae = CVAE(1, 6, 2, condition=Categorical(3), hidden=(8,))
    >>> data = {"x": torch.arange(5) % 3, "y": torch.ones(5, 6)}
    >>> analogies(cvae, data, column="x").shape
    torch.Size([5, 3, 6])
    """
    pair, data = as_pair(source, guide), as_data(data)
    return with_each_label(pair, data, labels, column, seed)[2]


def with_each_label(
    pair: Pair, data: Data, labels: Sequence[int] | None, column: str, seed: int
) -> tuple[str, Tensor, Tensor]:
    """Return the column that :func:`analogies` shows, its values in the data, and the analogies.

    Data that are binarised anew at each reading are read once.
    """
    if column not in pair.columns:
        raise StoryError(unknown_name(f"column of {pair.name}", column, pair.columns))
    others = _read(withheld(pair, data, column))
    own = _own_labels(pair, data, column, seed)
    like = _read(data.columns(column).select([0]))[column] if column in data else own[:1]
    batch = {**others, column: _as_column(own, like, pair)}
    observed = [c for c in observed_columns(pair, Data(batch)) if c != column]
    if not observed:
        raise StoryError(f"{pair.name} observes no column but {column!r}: there is nothing to show")
    shown = observed[0]
    given = {name: values for name, values in others.items() if name not in observed}
    if labels is None:
        labels = range(num_labels(pair, others, column) or int(own.max()) + 1)
    with_label = [
        {**given, column: _as_column(torch.full_like(own, k), like, pair)} for k in labels
    ]
    latents = posterior_means(pair, batch, seed=seed)
    latents.pop(column, None)  # it has the value that it was given
    held = _held(pair, latents, with_label)
    means = [column_means(pair, held, len(own), given=g, seed=seed) for g in with_label]
    return shown, others[shown], torch.stack([m[shown] for m in means], dim=1)


def num_labels(pair: Pair, others: Batch, column: str) -> int | None:
    """Return K, the number of labels that a model knows; ``None`` if it does not tell.

    Parameters
    ----------
    pair
        Model and guide.
    others
        The pair's columns but the label.
    column
        The label.
    """
    source = pair.source[0]
    for argument, of in getattr(source, "likelihood_columns", {}).items():
        known = getattr(getattr(source, argument, None), "num_classes", None)
        if of == column and known is not None:
            return int(known)
    if column in pair.required:
        return None
    few = {name: values[: tracing.FEW_ROWS] for name, values in others.items()}
    absent = dict.fromkeys(c for c in pair.columns if c not in few)
    with tracing.quiet(pair):
        probs = class_probs(poutine.trace(pair.model).get_trace(**few, **absent).nodes.get(column))
    return None if probs is None else int(probs.shape[-1])


def _read(rows: Data) -> dict[str, Tensor]:
    """Return the values of all rows."""
    return rows.take(slice(None), generator=torch.Generator().manual_seed(0))


def _own_labels(pair: Pair, data: Data, column: str, seed: int) -> Tensor:
    """Return the label of each row, the most probable one where it has none."""
    labels = torch.full((len(data),), HIDDEN)
    if column in data:
        labels = labels_of(data, column)
    if bool((hidden := labels == HIDDEN).any()):
        labels[hidden] = predict(pair, data.select(hidden), column, seed=seed).cpu()
    return labels


def _as_column(labels: Tensor, like: Tensor, pair: Pair) -> Tensor:
    """Return labels in the form that the column has in the data: numbers, or indicators."""
    width = like[0].numel()
    values = F.one_hot(labels, width) if width > 1 else labels
    dtype = pair.dtype if like.is_floating_point() else like.dtype
    return values.reshape(-1, *like.shape[1:]).to(pair.device, dtype)


def _held(
    pair: Pair, latents: Mapping[str, Tensor], with_label: Sequence[Batch]
) -> dict[str, Tensor]:
    """Return the latents whose prior does not depend on the label, or all where each does."""
    priors = []
    story = poutine.condition(pair.model, data=dict(latents))
    for given in (with_label[0], with_label[-1]):
        absent = dict.fromkeys(c for c in pair.columns if c not in given)
        with tracing.quiet(pair):
            trace: Any = poutine.trace(story).get_trace(**given, **absent)
        priors.append({name: tracing.site_log_prob(trace.nodes[name]) for name in latents})
    first, last = priors
    free = {name: z for name, z in latents.items() if torch.equal(first[name], last[name])}
    return free or dict(latents)
