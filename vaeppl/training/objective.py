"""The objective of a batch: minus the ELBO per row, of rows that need not have the same columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..estimators.elbo import without_log
from ..model import row_count
from ..pair import Batch, Pair
from ..random_state import forked
from ..strata import globals_shared
from .precision import MIXED, LowerPrecision

__all__ = ["TERMS", "AsTheyAre", "Objective", "Part", "reported"]

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


class AsTheyAre:
    """The parts of a batch, hidden from Fabric, which casts every tensor that it finds.

    Half precision is for networks: in bfloat16 a count of 1001 is 1000.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts


class Objective(nn.Module):
    """Minus the objective of a batch, per row of the full data: what is minimised.

    Parameters
    ----------
    pair, estimator
        What it is the objective of.
    precision
        ``"bf16-mixed"`` and ``"16-mixed"``: the networks run in lower precision.

    Attributes
    ----------
    report : dict of str to 0-dim Tensor
        Those of ``TERMS`` that the estimator knows, of the last batch and the full data.
    """

    def __init__(self, pair: Pair, estimator: Any, precision: str = "32-true") -> None:
        super().__init__()
        self.pair, self.estimator = pair, estimator
        self.lower = LowerPrecision(pair, MIXED[precision]) if precision in MIXED else None
        self.report: dict[str, Tensor] = {}

    def forward(self, parts: Sequence[Part] | AsTheyAre, total: int, divisor: int) -> Tensor:
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
        if isinstance(parts, AsTheyAre):
            parts = parts.parts
        with nullcontext() if self.lower is None else self.lower.active():
            return self._joined(parts, total, divisor)

    def _joined(self, parts: Sequence[Part], total: int, divisor: int) -> Tensor:
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
            for term, value in reported(self.estimator).items():
                self.report[term] = self.report.get(term, 0.0) + value
        return sum(losses[1:], losses[0]) / divisor

    def _loss(self, model: Any, guide: Any, columns: Batch) -> Tensor:
        with without_log("pyro.infer.elbo"):
            if getattr(self.estimator, "max_plate_nesting", 0) == float("inf"):
                self._count_plates(model, guide, columns)
            # Of some of Pyro's estimators only `loss` runs without gradients.
            grad = torch.is_grad_enabled()
            run = self.estimator.differentiable_loss if grad else self.estimator.loss
            return torch.as_tensor(run(model, guide, **columns))

    def _count_plates(self, model: Any, guide: Any, columns: Batch) -> None:
        """Let the estimator count the plates, which takes draws, and leave no trace of it."""
        with forked():
            self.estimator._guess_max_plate_nesting(model, guide, (), columns)

    def terms(self, loss: Tensor, divisor: int) -> Tensor:
        """Return the reported terms per row (``TERMS``); NaN where the estimator has no report."""
        if self.report:
            # Without gradients the loss is a number, and stands on no device.
            unknown = next(iter(self.report.values())).new_full((), torch.nan)
            return torch.stack([self.report.get(t, unknown) for t in TERMS]) / divisor
        return torch.stack([-loss.detach(), *[loss.new_full((), torch.nan)] * 3])


def reported(estimator: Any) -> dict[str, Tensor]:
    """Return the terms of an estimator's last loss: all of an ELBO, the bound of others."""
    found: dict[str, Tensor] = getattr(estimator, "report", {})
    if found.keys() >= set(TERMS):
        return {term: found[term] for term in TERMS}
    return {"elbo": found["bound"]} if "bound" in found else {}


def within(context: Callable[[], Any], story: Callable[..., Any]) -> Callable[..., Any]:
    """Return a story that runs inside a context."""

    def wrapped(**columns: Any) -> Any:
        with context():
            return story(**columns)

    return wrapped
