"""A fit without training: of a model whose parameters are where they should be already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import __version__, checks
from ..data import as_data
from ..fitted import Fit
from ..pair import as_pair
from .runs import describe_data, describe_model
from .state import State

__all__ = ["as_fit"]


def as_fit(model: Any, data: Any, *, guide: Callable[..., Any] | None = None) -> Fit:
    """Return a model that needs no training as a fit, which can be read and saved as any other.

    Parameters
    ----------
    model, guide
        As in :func:`vaeppl.fit`; parameters are left as they are.
    data
        The rows that it is said to be fitted to; of data with splits, the train split.

    Returns
    -------
    Fit
        Its history is empty, and ``stopped`` is ``"solved"``.

    Raises
    ------
    ColumnError, StoryError
        Data or model are not as they should be, as for a fit.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(20, 6) < 0.5).float()
    >>> as_fit(VAE(6, 2, hidden=(4,)), {"x": x}).encode()["z"].shape
    torch.Size([20, 2])
    """
    pair, found = as_pair(model, guide), as_data(data)
    train = found.train
    checks.check(pair, train, batch_size=len(train))
    first = train.take(range(min(8, len(train))), device=pair.device)
    pair.initialise(pair.batch({k: v.to(pair.dtype) if v.is_floating_point() else v
                                for k, v in first.items()}))  # fmt: skip
    pair.eval()
    config = {
        "vaeppl": __version__,
        "model": describe_model(pair),
        "data": describe_data(train, found, None, None),
    }
    return Fit(pair, State(stopped="solved"), config, train=train)
