"""The objective of a batch: minus the ELBO per row, of rows that need not have the same columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..estimators import ELBO
from ..estimators.elbo import without_log
from ..model import row_count
from ..pair import Batch, Pair
from ..strata import globals_shared

__all__ = ["TERMS", "Objective", "Part"]

TERMS = ("elbo", "reconstruction", "kl", "global")


class Part(NamedTuple):
    """Rows of a batch that have the same columns.

    Attributes
    ----------
    columns : dict of str to Tensor
        Their values.
    full : int
        Rows of the data for which they stand.
    weight : float
        Of their loss, where processes have unequal numbers of rows.
    """

    columns: dict[str, Tensor]
    full: int
    weight: float = 1.0


class Objective(nn.Module):
    """Minus the objective of a batch, per row of the full data: what is minimised.

    Attributes
    ----------
    report : dict of str to 0-dim Tensor
        Terms of the last batch, of the full data (``TERMS``); empty where there are none.
    """

    def __init__(self, pair: Pair, estimator: Any) -> None:
        super().__init__()
        self.pair, self.estimator = pair, estimator
        self.report: dict[str, Tensor] = {}

    def forward(self, parts: Sequence[Part], total: int, divisor: int) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        parts
            The rows of the batch.
        total
            Rows of the data.
        divisor
            Rows for which the ELBO stands.
        """
        losses = []
        self.report = {}
        for part in parts:
            model, guide = self.pair.model, self.pair.guide
            if part.full != total:
                shared = partial(globals_shared, part.full / total)
                model, guide = within(shared, model), within(shared, guide)
            with row_count(part.full, total=total):
                loss = self._loss(model, guide, part.columns)
            losses.append(loss * part.weight)
            if isinstance(self.estimator, ELBO):
                for term in TERMS:
                    value = self.estimator.report[term]
                    self.report[term] = self.report.get(term, 0.0) + value
        return sum(losses[1:], losses[0]) / divisor

    def _loss(self, model: Any, guide: Any, columns: Batch) -> Tensor:
        with without_log("pyro.infer.elbo"):
            # Of some of Pyro's estimators only `loss` runs without gradients.
            grad = torch.is_grad_enabled()
            run = self.estimator.differentiable_loss if grad else self.estimator.loss
            return torch.as_tensor(run(model, guide, **columns))

    def terms(self, loss: Tensor, divisor: int) -> Tensor:
        """Return the reported terms per row (``TERMS``); NaN where the estimator has no report."""
        if self.report:
            return torch.stack([self.report[t] for t in TERMS]) / divisor
        return torch.stack([-loss.detach(), *[loss.new_full((), torch.nan)] * 3])


def within(context: Callable[[], Any], story: Callable[..., Any]) -> Callable[..., Any]:
    """Return a story that runs inside a context."""

    def wrapped(**columns: Any) -> Any:
        with context():
            return story(**columns)

    return wrapped
