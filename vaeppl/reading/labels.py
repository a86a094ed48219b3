"""What a column of labels is to a pair: how it is withheld, and which distribution it has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Independent, OneHotCategorical

from ..data import Data
from ..errors import ColumnError
from ..pair import Pair
from . import tracing

__all__ = ["class_probs", "filled", "own_classifier", "withheld"]


def withheld(pair: Pair, data: Data, column: str) -> Data:
    """Return the pair's columns but the labels, checked, on its device and in its type.

    Raises
    ------
    ColumnError
        If another column that the pair needs is not there.
    """
    others = [c for c in pair.columns if c != column]
    there = [c for c in others if c in data]
    if not others:
        raise ColumnError(f"{pair.name} takes no column but {column!r} that could tell of it")
    if not there:
        raise ColumnError(
            f"{pair.name} takes the columns {', '.join(map(repr, others))} beside {column!r}; the "
            f"data have none of them, but {', '.join(map(repr, data.keys()))}"
        )
    required = [c for c in pair.required_to_fit if c != column]
    return tracing.resident(pair, data.columns(*there), required)


def own_classifier(pair: Pair) -> Any:
    """Return the classifier that stands outside the story (M1), or ``None``.

    It is a name or an object of scikit-learn; a network that takes part in the story is none.
    """
    found = getattr(pair.source[0], "classifier", None)
    learns = hasattr(found, "fit") and hasattr(found, "predict")
    return (
        found if isinstance(found, str) or (learns and not isinstance(found, nn.Module)) else None
    )


def class_probs(site: Any) -> Tensor | None:
    """Return the probabilities of the K values of a label, ``(B, K)``.

    Parameters
    ----------
    site
        A site of a trace.

    Returns
    -------
    Tensor or None
        ``None`` if it is not one label for each of B rows: Categorical, OneHotCategorical or
        Bernoulli.
    """
    if site is None:
        return None
    fn, shape = _base(site["fn"]), tuple(site["value"].shape)
    if isinstance(fn, OneHotCategorical):
        probs, shape = fn.probs, shape[:-1]
    elif isinstance(fn, Categorical):
        probs = fn.probs
    elif isinstance(fn, Bernoulli):
        probs = torch.stack([1 - fn.probs, fn.probs], dim=-1)
    else:
        return None
    if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
        return None
    if tracing.rows_frame(site, shape[0]) is None:
        return None
    return probs.expand(*shape, -1).reshape(shape[0], -1)


def filled(site: Any, label: int, rows: int) -> Tensor:
    """Return values of a label's site for so many rows, all with one label."""
    like = site["value"]
    shape = (rows, *like.shape[1:])
    if not isinstance(_base(site["fn"]), OneHotCategorical):
        return like.new_full(shape, label)
    indicators = like.new_zeros(shape)
    indicators[..., label] = 1
    return indicators


def _base(fn: Any) -> Any:
    """Return a distribution without the dimensions of its event."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn
