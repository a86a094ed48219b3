"""The training loop: epochs of minibatches over any model/guide pair and any estimator."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyro
import pyro.infer
import torch
from torch import Tensor, nn

from ..data import Data, minibatches
from ..data.ahead import read_ahead
from ..data.columns import generator_on
from ..errors import NonFiniteELBO, StoryError, unknown_name
from ..estimators import ELBO, available, bounds_evidence, enumerates
from ..pair import Pair
from ..strata import strata
from . import nonfinite
from .compiled import GraphSteps
from .objective import TERMS, AsTheyAre, Objective, Part
from .schedules import Schedule
from .seeds import Stream, derived_seed, set_seed
from .state import State

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Objective", "Part", "Trainer", "check_enumeration", "check_weights", "make_optimizer"]

RARE_SHARE = 0.2
LOOK_EVERY = {"cpu": 1}  # steps between looks at the loss; elsewhere a look stalls the device
_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


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
    rare_share: float = RARE_SHARE
    scaled: bool = True
    compile: bool | str = False
    state: State = field(default_factory=State)

    def __post_init__(self) -> None:
        precision = self.fabric._precision.precision
        self.objective = Objective(self.pair, self.estimator, precision)
        self.wrapped, self.stepper = self.fabric.setup(self.objective, self.optimizer)
        # In the type that the precision has given the parameters.
        self.train = self.train.to(self.fabric.device, dtype=self.pair.dtype)
        if self.valid is not None:
            self.valid = self.valid.to(self.fabric.device, dtype=self.pair.dtype)
        self.rows = len(self.train)
        self.strata = strata(self.pair, self.train)
        counts = [len(s.rows) for s in self.strata]
        self.sizes = batch_sizes(counts, self.batch_size, self.rare_share)
        steps = [-(-n // size) for n, size in zip(counts, self.sizes, strict=True)]
        self.steps_per_epoch = max(steps)
        self.tables = [self.train.columns(*s.columns) for s in self.strata]
        self.base_lrs = [g["lr"] for g in self.optimizer.param_groups]
        self.look_every = LOOK_EVERY.get(self.fabric.device.type, 50)
        self.graphs = self._graph_steps()

    def _graph_steps(self) -> GraphSteps | None:
        """Return what takes steps as graphs, if that is wanted and can be done."""
        if self.compile is False:
            return None
        fabric = self.fabric
        why = ""
        if fabric.world_size > 1:
            why = f"{fabric.world_size} processes share the rows"
        elif fabric._precision.precision not in ("32-true", "bf16-mixed"):
            why = (
                f"precision is {fabric._precision.precision!r}, and it is done for '32-true', "
                "'tf32' and 'bf16-mixed'"
            )
        if why:
            if self.compile is True:
                warnings.warn(f"{self.pair.name} is fitted without compiling: {why}", stacklevel=2)
            return None
        return GraphSteps(
            self.objective,
            self.optimizer,
            rows=self.rows,
            clip_norm=self.clip_norm,
            steps=self.steps_per_epoch * self.epochs,
            epochs=self.epochs,
            mode=self.compile,
        )

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
        self.objective.train()
        total = torch.zeros(len(TERMS), device=self.fabric.device)
        with self.pair.active(self.rows), pyro.validation_enabled(False):
            for number, (parts, share) in enumerate(self._batches(epoch), start=1):
                self._schedule()
                look = number % self.look_every == 0
                self._step(parts, share, total, f"epoch {epoch}, batch {number}", look)
        summed = torch.as_tensor(self.fabric.all_reduce(total, reduce_op="sum"))
        if self.look_every > 1 and not summed[0].isfinite():
            self._fail(parts, f"epoch {epoch}, batch {number} or before")
        self.state.epoch = epoch
        return self._record(epoch, summed)

    def _step(
        self, parts: Sequence[Part], share: float, total: Tensor, where: str, look: bool
    ) -> None:
        """Take a step, as a graph where there is one, and add its report to that of the epoch."""
        divisor = self._divisor(parts, self.rows)
        with self._explained(parts, where):
            done = None
            if self.graphs is not None:
                done = self.graphs.take(parts, divisor, share, total, self.state.step)
        if done is None:
            self._eager_step(parts, share, total, where, look)
        elif look and not bool(done if self.look_every == 1 else total[0].isfinite()):
            self._fail(parts, where)
        self.state.step += 1

    def _eager_step(
        self, parts: Sequence[Part], share: float, total: Tensor, where: str, look: bool
    ) -> None:
        divisor = self._divisor(parts, self.rows)
        with self._explained(parts, where):
            loss: Tensor = self.wrapped(AsTheyAre(parts), self.rows, divisor)
        if look and not loss.isfinite():
            self._fail(parts, where)
        self.fabric.backward(loss)
        self._apply_step(parts, where)
        total += self.objective.terms(loss, divisor).to(total.dtype) * share

    @contextmanager
    def _explained(self, parts: Sequence[Part], where: str) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            # Some distributions refuse to be drawn from with parameters that are not finite.
            if nonfinite.bad_parameter(self.pair) is None:
                raise
            raise NonFiniteELBO(self._why(parts, where)) from error

    def _divisor(self, parts: Sequence[Part], rows: int) -> int:
        """Return how many rows an ELBO stands for: all of them, where the plate scales it so."""
        return rows if self.scaled else next(iter(parts[0].columns.values())).shape[0]

    def _apply_step(self, parts: Sequence[Part], where: str) -> None:
        if self.clip_norm is not None:
            scaler = getattr(self.fabric._precision, "scaler", None)
            if scaler is not None:  # float16: the gradients are 65,536 times too large until here
                scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.clip_norm)
            if self.look_every == 1 and not norm.isfinite():
                self._fail(parts, where)
        self.stepper.step()
        self.stepper.zero_grad(set_to_none=True)

    def _batches(self, epoch: int) -> Iterator[tuple[list[Part], float]]:
        """Yield this process's part of each batch, and its share in the report of the epoch."""
        if not any(table.is_lazy(name) for table in self.tables for name in table):
            return self._read(epoch)
        return read_ahead(lambda: self._read(epoch))

    def _read(self, epoch: int) -> Iterator[tuple[list[Part], float]]:
        noise = torch.Generator().manual_seed(derived_seed(self.seed, Stream.ROWS, epoch))
        world, rank = self.fabric.world_size, self.fabric.global_rank
        device = self.fabric.device
        if world == 1 and len(self.strata) == 1:
            for batch in minibatches(
                self.tables[0], self.batch_size, generator=noise, device=device
            ):
                yield [Part(batch.columns, self.rows)], batch.index.shape[0] / self.rows
            return
        pairs = zip(self.strata, self.sizes, strict=True)
        # The index is moved once: a copy for each batch would wait for the device each time.
        orders = [
            self._order(stratum.rows, size, noise).to(_place_of_index(table)).split(size)
            for (stratum, size), table in zip(pairs, self.tables, strict=True)
        ]
        noise.manual_seed(derived_seed(self.seed, Stream.ROWS, epoch, rank))
        near = generator_on(device, noise)
        for indices in zip(*orders, strict=True):
            parts = []
            for index, stratum, table in zip(indices, self.strata, self.tables, strict=True):
                mine = index[rank::world]
                weight = len(mine) * world / len(index)
                # A process without a row still has to take part in the gradient's sum.
                read = mine if len(mine) else index[:1]
                values = table._read(read, device, near)
                parts.append(Part(values, len(stratum.rows), weight))
            main = max(range(len(parts)), key=lambda i: parts[i].full)
            yield parts, len(indices[main][rank::world]) / parts[main].full

    def _order(self, rows: Tensor, size: int, noise: torch.Generator) -> Tensor:
        """Return the rows of a stratum in turn, going round as often as there are steps."""
        if -(-len(rows) // size) == self.steps_per_epoch:
            return rows[torch.randperm(len(rows), generator=noise)]
        wanted = self.steps_per_epoch * size
        rounds = -(-wanted // len(rows))
        order = torch.cat([torch.randperm(len(rows), generator=noise) for _ in range(rounds)])
        return rows[order[:wanted]]

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
            # One number for all processes: they must stop at the same epoch, or wait for ever, and
            # the running statistics of a batch norm are those of each process alone.
            record["valid_elbo"] = self.fabric.broadcast(self.held_out_elbo(self.valid))
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
            for stratum in strata(self.pair, data):
                full = len(stratum.rows)
                part = data.columns(*stratum.columns)
                for batch in minibatches(
                    part if full == rows else part.select(stratum.rows),
                    min(full, max(self.batch_size, 1024)),
                    shuffle=False,
                    device=self.fabric.device,
                    generator=noise,
                ):
                    parts = [Part(batch.columns, full)]
                    divisor = self._divisor(parts, rows)
                    loss = self.objective(parts, rows, divisor)
                    elbo, _, _, outside = self.objective.terms(loss, divisor).tolist()
                    outside = 0.0 if outside != outside else outside
                    total += (elbo - outside) * len(batch.index) / full
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

    def _fail(self, parts: Sequence[Part], where: str) -> None:
        raise NonFiniteELBO(self._why(parts, where))

    def _why(self, parts: Sequence[Part], where: str) -> str:
        """Say what is not finite in the first part of which that can be seen again."""
        reasons = [nonfinite.explain(self.pair, p.columns, p.full, where) for p in parts]
        return next((r for r in reasons if nonfinite.UNSEEN not in r), reasons[0])


def _place_of_index(table: Data) -> torch.device:
    """Return where row numbers are wanted: with the columns, or on the CPU to read a file."""
    lazy = any(table.is_lazy(name) for name in table)
    return torch.device("cpu") if lazy else table.device


def batch_sizes(rows: Sequence[int], batch_size: int, rare_share: float) -> list[int]:
    """Return how many rows of each stratum a batch holds.

    Each has its part of the batch, but at least ``rare_share`` of it, or all its rows.

    Examples
    --------
    >>> batch_sizes([59_900, 100], 200, 0.2), batch_sizes([1000], 200, 0.2)
    ([160, 40], [200])
    """
    if len(rows) == 1:
        return [batch_size]
    least = max(1, round(rare_share * batch_size))
    shares = [max(round(batch_size * n / sum(rows)), min(n, least)) for n in rows]
    main = max(range(len(rows)), key=lambda i: rows[i])
    shares[main] = max(1, batch_size - sum(s for i, s in enumerate(shares) if i != main))
    return [min(s, n) for s, n in zip(shares, rows, strict=True)]


def check_weights(estimator: pyro.infer.ELBO, kl_weight: Schedule, free_bits: float) -> None:
    """Refuse a KL weight for an estimator that has none."""
    weighted = any(kl_weight(p) != 1.0 for p in (0.0, 0.25, 0.5, 0.75, 1.0)) or free_bits
    if weighted and not isinstance(estimator, ELBO):
        raise StoryError(
            f"{type(estimator).__name__} takes no KL weight and no free bits; "
            "use estimator='elbo' or 'elbo_monte_carlo'"
        )


def check_enumeration(estimator: pyro.infer.ELBO, pair: Pair, sites: Sequence[str]) -> None:
    """Refuse an estimator that would draw what the guide asks to be summed out."""
    if sites and isinstance(estimator, ELBO) and estimator.free_bits:
        raise StoryError(
            f"free bits are not known for latents that are summed out ({', '.join(sites)} of "
            f"{pair.name}); anneal the KL instead: kl_weight="
        )
    takes = isinstance(estimator, pyro.infer.TraceEnum_ELBO)
    if sites and not getattr(estimator, "takes_marked", takes):
        able = [repr(n) for n in available() if enumerates(n) and bounds_evidence(n)]
        raise StoryError(
            f"{type(estimator).__name__} cannot sum out {', '.join(map(repr, sites))}, which the "
            f"guide of {pair.name} marks infer={{'enumerate': 'parallel'}}; use "
            f"estimator={', '.join(able)}; or 'score_function', which draws it"
        )
