"""The training loop: epochs of minibatches over any model/guide pair and any estimator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyro
import pyro.infer
import torch
from torch import Tensor, nn

from ..data import Data, minibatches
from ..errors import NonFiniteELBO, StoryError, unknown_name
from ..estimators import ELBO
from ..pair import Batch, Pair
from . import nonfinite
from .schedules import Schedule
from .seeds import Stream, derived_seed, set_seed
from .state import State

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Objective", "Trainer", "check_weights", "make_optimizer"]

TERMS = ("elbo", "reconstruction", "kl", "global")
LOOK_EVERY = {"cpu": 1}  # steps between looks at the loss; elsewhere a look stalls the device
_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


class Objective(nn.Module):
    """Minus the objective of a batch, per row of the full data: what is minimised."""

    def __init__(self, pair: Pair, estimator: Any) -> None:
        super().__init__()
        self.pair, self.estimator = pair, estimator

    def forward(self, batch: Batch, rows: int) -> Tensor:
        """Return the loss of a batch, whose ELBO stands for ``rows`` rows."""
        loss = self.estimator.differentiable_loss(self.pair.model, self.pair.guide, **batch)
        return torch.as_tensor(loss) / rows

    def terms(self, loss: Tensor, rows: int) -> Tensor:
        """Return the reported terms per row (``TERMS``); NaN where the estimator has no report."""
        if isinstance(self.estimator, ELBO):
            return torch.stack([self.estimator.report[t] for t in TERMS]) / rows
        return torch.stack([-loss.detach(), *[loss.new_full((), torch.nan)] * 3])


def make_optimizer(
    name: Any, parameters: list[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return a torch optimiser by name, or from a function of the parameters."""
    if callable(name):
        optimizer = name(parameters)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                "optimizer is a name or a function from the parameters to a torch.optim.Optimizer; "
                f"it returned {type(optimizer).__name__}"
            )
        return optimizer
    if name not in _OPTIMIZERS:
        raise ValueError(unknown_name("optimizer", str(name), _OPTIMIZERS))
    fused = all(p.is_floating_point() for p in parameters)
    return _OPTIMIZERS[name](parameters, lr=lr, weight_decay=weight_decay, fused=fused)


@dataclass
class Trainer:
    """One fit. ``run`` yields the record of each epoch as it ends."""

    fabric: Fabric
    pair: Pair
    estimator: pyro.infer.ELBO
    optimizer: torch.optim.Optimizer
    train: Data
    valid: Data | None
    epochs: int
    batch_size: int
    seed: int
    kl_weight: Schedule
    lr_schedule: Schedule
    clip_norm: float | None
    patience: int | None
    scaled: bool = True
    state: State = field(default_factory=State)

    def __post_init__(self) -> None:
        self.rows = len(self.train)
        self.steps_per_epoch = -(-self.rows // self.batch_size)
        self.base_lrs = [g["lr"] for g in self.optimizer.param_groups]
        self.objective = Objective(self.pair, self.estimator)
        self.wrapped, self.stepper = self.fabric.setup(self.objective, self.optimizer)
        self.look_every = LOOK_EVERY.get(self.fabric.device.type, 50)

    def run(self) -> Iterator[dict[str, float]]:
        """Train until the epochs are done or the held-out ELBO stops rising."""
        while self.state.epoch < self.epochs and not self.state.stopped:
            started = time.perf_counter()
            record = self._epoch()
            record["seconds"] = time.perf_counter() - started
            self.state.history.append(record)
            self._consider_stopping(record)
            yield record

    def _epoch(self) -> dict[str, float]:
        """Run one epoch; its randomness depends on seed, epoch and rank alone."""
        epoch = self.state.epoch + 1
        set_seed(derived_seed(self.seed, Stream.DRAWS, epoch, self.fabric.global_rank))
        self.wrapped.train()
        total = torch.zeros(len(TERMS), device=self.fabric.device)
        with self.pair.active(self.rows), pyro.validation_enabled(False):
            for number, (batch, weight, share) in enumerate(self._batches(epoch), start=1):
                self._schedule()
                where = f"epoch {epoch}, batch {number}"
                loss = self._loss(batch, where)
                if number % self.look_every == 0 and not loss.isfinite():
                    self._fail(batch, where)
                self.fabric.backward(loss * weight if weight != 1.0 else loss)
                self._apply_step(batch, where)
                terms = self.objective.terms(loss, self._divisor(batch, self.rows))
                total += terms.to(total.dtype) * share
        self.state.epoch = epoch
        summed = torch.as_tensor(self.fabric.all_reduce(total, reduce_op="sum"))
        return self._record(epoch, summed)

    def _loss(self, batch: Batch, where: str) -> Tensor:
        try:
            loss: Tensor = self.wrapped(batch, self._divisor(batch, self.rows))
        except (RuntimeError, ValueError) as error:
            # Some distributions refuse to be drawn from with parameters that are not finite.
            if nonfinite.bad_parameter(self.pair) is None:
                raise
            raise NonFiniteELBO(nonfinite.explain(self.pair, batch, self.rows, where)) from error
        return loss

    def _divisor(self, batch: Batch, rows: int) -> int:
        """Return how many rows an ELBO stands for: all of them, where the plate scales it so."""
        return rows if self.scaled else len(next(iter(batch.values())))

    def _apply_step(self, batch: Batch, where: str) -> None:
        if self.clip_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.clip_norm)
            if self.look_every == 1 and not norm.isfinite():
                self._fail(batch, where)
        self.stepper.step()
        self.stepper.zero_grad(set_to_none=True)
        self.state.step += 1

    def _batches(self, epoch: int) -> Iterator[tuple[dict[str, Tensor], float, float]]:
        """Yield this process's part of each batch.

        With it come the weight of its loss in the mean over processes, and its share of all rows.
        """
        noise = torch.Generator().manual_seed(derived_seed(self.seed, Stream.ROWS, epoch))
        world, rank = self.fabric.world_size, self.fabric.global_rank
        device = self.fabric.device
        if world == 1:
            for batch in minibatches(self.train, self.batch_size, generator=noise, device=device):
                yield batch.columns, 1.0, len(batch.index) / self.rows
            return
        order = torch.randperm(self.rows, generator=noise)
        noise.manual_seed(derived_seed(self.seed, Stream.ROWS, epoch, rank))
        for index in order.split(self.batch_size):
            mine = index[rank::world]
            weight, share = len(mine) * world / len(index), len(mine) / self.rows
            # A process without a row still has to take part in the gradient's sum.
            mine = mine if len(mine) else index[:1]
            yield self.train.take(mine, device=device, generator=noise), weight, share

    def _schedule(self) -> None:
        """Set learning rate and KL weight for the step to come."""
        progress = self.state.step / (self.steps_per_epoch * self.epochs)
        factor = self.lr_schedule(progress)
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * factor
        if isinstance(self.estimator, ELBO):
            self.estimator.kl_weight = self.kl_weight(progress)

    def _record(self, epoch: int, total: Tensor) -> dict[str, float]:
        record: dict[str, float] = {"epoch": epoch, "step": self.state.step}
        record |= dict(zip(TERMS, total.tolist(), strict=True))
        if not isinstance(self.estimator, ELBO):
            record = {k: v for k, v in record.items() if k not in TERMS[1:]}
        else:
            record["kl_weight"] = float(self.estimator.kl_weight)
        record["lr"] = float(self.optimizer.param_groups[0]["lr"])
        if self.valid is not None:
            record["valid_elbo"] = self.held_out_elbo(self.valid)
        return record

    @torch.no_grad()
    def held_out_elbo(self, data: Data) -> float:
        """Return the ELBO per held-out row.

        Without the KL of global latents, where the estimator reports it.
        """
        # The same draws at every epoch.
        set_seed(derived_seed(self.seed, Stream.HELD_OUT, Stream.DRAWS))
        noise = torch.Generator().manual_seed(derived_seed(self.seed, Stream.HELD_OUT, Stream.ROWS))
        self.objective.eval()
        rows, total = len(data), 0.0
        with self.pair.active(rows), pyro.validation_enabled(False):
            for batch in minibatches(
                data,
                min(rows, max(self.batch_size, 1024)),
                shuffle=False,
                device=self.fabric.device,
                generator=noise,
            ):
                divisor = self._divisor(batch.columns, rows)
                loss = self.objective(batch.columns, divisor)
                elbo, _, _, outside = self.objective.terms(loss, divisor).tolist()
                outside = 0.0 if outside != outside else outside
                total += (elbo - outside) * len(batch.index) / rows
        return total

    def _consider_stopping(self, record: dict[str, float]) -> None:
        """Keep the best weights, and stop when the held-out ELBO has not risen for a while."""
        if self.patience is None:
            return
        if record["valid_elbo"] > self.state.best_elbo:
            self.state.best_elbo, self.state.best_epoch = record["valid_elbo"], self.state.epoch
            weights = self.pair.state_dict()
            self.state.best_weights = {k: v.detach().clone() for k, v in weights.items()}
        elif self.state.epoch - self.state.best_epoch >= self.patience:
            self.state.stopped = "early"

    def _fail(self, batch: Batch, where: str) -> None:
        raise NonFiniteELBO(nonfinite.explain(self.pair, batch, self.rows, where))


def check_weights(estimator: pyro.infer.ELBO, kl_weight: Schedule, free_bits: float) -> None:
    """Refuse a KL weight for an estimator that has none."""
    weighted = any(kl_weight(p) != 1.0 for p in (0.0, 0.25, 0.5, 0.75, 1.0)) or free_bits
    if weighted and not isinstance(estimator, ELBO):
        raise StoryError(
            f"{type(estimator).__name__} takes no KL weight and no free bits; "
            "use estimator='elbo' or 'elbo_monte_carlo'"
        )
