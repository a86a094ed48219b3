"""Steps of training as graphs: whether that pays, what is watched meanwhile, and the way back.

A step is traced and compiled (:mod:`.tracing`, :mod:`.inductor`) when the first batch of its shape
comes, on a state that is put back afterwards. So every step of that shape is a compiled one, from
the first: a run that is resumed does what it would have done. Whether a run is compiled at all
depends on numbers that are the same each time, and on no clock.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..estimators import ELBO
from . import inductor
from .cuda_graphs import Captured
from .objective import TERMS, Objective, Part
from .python_state import difference, plain_state, reachable_tensors
from .tracing import Graph, Untraceable, place_of, trace_twice
from .updates import Update, update_of

__all__ = ["MODES", "GraphSteps", "worth_compiling"]

MODES = ("auto", True, False)
FEWEST_STEPS = 1000  # below, no step is so slow that compiling pays
SECONDS_PER_OPERATION = 6e-6  # saved in each step: what an operation costs beside its arithmetic
COMPILE_SECONDS = (5.0, 0.02)  # in all, and for each operation; from the cache a quarter of it
CERTAINTY = 1.5
FIRST_AUDIT, AUDIT_FACTOR = 100, 10  # at steps 100, 1000, 10 000, …
LOOK_EVERY = 200  # steps between looks at what the story depends on beside tensors
REMAKES = 3
MIXED_EPS = 2.5e-5  # lets a gradient of networks in bfloat16 differ by a twentieth
SMALL = 1_000_000  # numbers; a larger tensor that a story closes over is data, and not its state


def worth_compiling(steps: int, operations: int) -> bool:
    """Tell whether compiling a step saves more time than it takes.

    Parameters
    ----------
    steps
        How often it will be taken.
    operations
        Tensor operations in it.

    Examples
    --------
    A small table for 100 epochs of 40 steps, and for 500:

    >>> worth_compiling(4_000, 250), worth_compiling(20_000, 250)
    (False, True)
    """
    start, each = COMPILE_SECONDS
    saved = steps * operations * SECONDS_PER_OPERATION
    return saved > CERTAINTY * (start + each * operations)


class GraphSteps:
    """Takes steps as graphs, where it can and where it pays.

    Parameters
    ----------
    objective
        What is minimised.
    optimizer
        Its state is changed by the graphs.
    rows
        Rows of the data.
    clip_norm
        Largest norm of the gradient, or ``None``.
    steps, epochs
        Of the whole run.
    mode
        ``True``: compile whatever the run's length; ``"auto"``: where it pays.

    Attributes
    ----------
    reason : str
        Why steps are not taken as graphs, where they are not and could not be.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        rows: int,
        clip_norm: float | None,
        steps: int,
        epochs: int,
        mode: bool | str,
    ) -> None:
        self.objective, self.optimizer = objective, optimizer
        self.rows, self.clip_norm = rows, clip_norm
        self.steps, self.epochs, self.mode = steps, epochs, mode
        self.pair, self.estimator = objective.pair, objective.estimator
        self.reason = ""
        self.update: Update | None = None
        self.variants: dict[Any, Variant | None] = {}
        self.depends_on: Any = None
        self.looked, self.remade = 0, 0

    @property
    def used(self) -> bool:
        """Whether some steps are taken as graphs."""
        return any(v is not None for v in self.variants.values())

    def take(
        self, parts: Sequence[Part], divisor: int, share: float, total: Tensor, number: int
    ) -> Tensor | None:
        """Take a step as a graph.

        Parameters
        ----------
        parts, divisor
            As in :class:`Objective`.
        share
            Of the batch in the report of the epoch.
        total : Tensor, shape (4,)
            The report of the epoch, to which that of the batch is added.
        number
            Of the step in the run, from 0.

        Returns
        -------
        Tensor of bool, shape (), or None
            Whether loss and gradient were finite; else nothing but the report has changed.
            ``None``: nothing was done, and the step is to be taken as usual.
        """
        if self.reason:
            return None
        key = (divisor, *[_kind(part) for part in parts])
        if number - self.looked >= LOOK_EVERY:
            self.looked = number
            self._look()
        if key not in self.variants:
            self.variants[key] = self._make(parts, divisor, share, total)
        variant = self.variants.get(key)
        if variant is None:
            if self.update is not None:
                self.update.forget()
            return None
        if _is_audit(number) and (fault := self._fault(variant, parts, divisor, share, total)):
            self._give_up(fault)
            return None
        return variant(parts, self._kl_weight(), share, total)

    def _kl_weight(self) -> float:
        return float(self.estimator.kl_weight) if isinstance(self.estimator, ELBO) else 1.0

    # --- making a graph ---

    def _make(
        self, parts: Sequence[Part], divisor: int, share: float, total: Tensor
    ) -> Variant | None:
        """Return the compiled step, or ``None`` where it does not pay or cannot be."""
        first = not self.variants
        asked = self.mode is True and first
        uses = self.steps if first else self.epochs
        if not asked and uses < FEWEST_STEPS:
            return None
        kl_weight = self._kl_weight()
        try:
            if why := getattr(self.estimator, "no_graph", ""):
                raise Untraceable(why)
            with self._restored():
                operations, parameters = self._try(parts, divisor)
            if not asked and not worth_compiling(uses, operations):
                return None
            self._prepare(parameters)
            with self._restored():
                variant = self._traced(parts, divisor, total)
            fault = self._fault(variant, parts, divisor, share, total, kl_weight)
        except Untraceable as refusal:
            fault = str(refusal)
        except Exception as error:
            place = place_of(error.__traceback__)
            fault = f"{type(error).__name__}: {error}" + (f", {place}" if place else "")
        finally:
            if isinstance(self.estimator, ELBO):
                self.estimator.kl_weight = kl_weight
        if fault:
            self._give_up(fault)
            return None
        return variant

    def _try(self, parts: Sequence[Part], divisor: int) -> tuple[int, list[Tensor]]:
        """Return the number of operations of a step, and the parameters that have a gradient."""
        trained: list[Tensor] = [p for p in self.objective.parameters() if p.requires_grad]
        with _Counter() as counter:
            loss = self.objective(parts, self.rows, divisor)
            gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        chosen = [p for p, g in zip(trained, gradients, strict=True) if g is not None]
        return counter.count, chosen

    def _prepare(self, parameters: list[Tensor]) -> None:
        """Make the optimiser's step once, for all graphs."""
        if self.update is None:
            self.update = update_of(self.optimizer, parameters)
        elif {id(p) for p in self.update.parameters} != {id(p) for p in parameters}:
            raise Untraceable("other parameters have a gradient in some batches than in others")

    def _traced(self, parts: Sequence[Part], divisor: int, total: Tensor) -> Variant:
        update = self.update
        assert update is not None
        before = self._what_it_depends_on()
        like = update.parameters[0]
        scalars = like.new_zeros(2 + len(update.scalars()))
        scalars.copy_(torch.tensor([1.0, 1.0, *update.scalars()]))
        scratch = torch.zeros_like(total)

        def step(*_: Tensor) -> Tensor:
            if isinstance(self.estimator, ELBO):
                self.estimator.kl_weight = scalars[0]
            loss = self.objective(parts, self.rows, divisor)
            terms = self.objective.terms(loss, divisor).to(total.dtype)
            gradients: Sequence[Tensor] = torch.autograd.grad(loss, update.parameters)
            finite = loss.detach().isfinite()
            if self.clip_norm is not None:
                gradients, norm = _clipped(gradients, self.clip_norm)
                finite = finite & norm.isfinite()
            update.apply(gradients, scalars[2:], finite)
            scratch.add_(torch.where(finite, terms * scalars[1], torch.nan))
            return finite

        state = [*update.parameters, *update.state()]
        graph = trace_twice(step, [*state, scalars, scratch, *_columns(parts)])
        if changed := difference(before, self._what_it_depends_on()):
            raise Untraceable(f"it changes a value of its own when it runs: {changed}")
        self.depends_on = before
        detached = [t.detach() for t in state]
        columns = _columns(parts)
        inputs = [*detached, scalars, scratch, *columns, *graph.closed_over]
        first = len(detached) + 1  # of what is given anew: the report, then the columns
        run = self._compiled(graph, inputs, range(first, first + 1 + len(columns)))
        return Variant(run, detached, scalars, graph, update)

    def _compiled(
        self, graph: Graph, inputs: list[Tensor], anew: Sequence[int]
    ) -> Callable[..., Any]:
        try:
            run = inductor.build(graph.module, inputs)
        except Exception as error:
            self._note("a graph that is not compiled, as compiling", error)
            return graph.module
        if inputs[0].device.type != "cuda":
            return run
        try:
            with self._restored(graph.closed_over):  # it warms up by taking steps
                return Captured(run, inputs, anew=anew, written=anew[:1])
        except Exception as error:
            self._note("compiled kernels, but not as one CUDA graph, as recording it", error)
            return run

    def _note(self, how: str, error: Exception) -> None:
        """Say why the steps are slower than they could be, to those who asked for it."""
        if self.mode is True:
            words = str(error).strip().splitlines()
            said = f"{type(error).__name__}: {words[0] if words else ''}"
            self._warn(f"the steps run as {how} failed ({said})")

    # --- what is watched ---

    def _what_it_depends_on(self) -> Any:
        estimator = {
            f"estimator.{name}": value
            for name, value in vars(self.estimator).items()
            if name not in ("kl_weight", "report", "site_kl")
        }
        stories = {"model": self.pair.model, "guide": self.pair.guide}
        settings = None if self.update is None else self.update.settings()
        where = [p.data_ptr() for p in self.objective.parameters()]
        return plain_state({**stories, **estimator, "optimizer": settings, "memory of": where})

    def _look(self) -> None:
        """Make the graphs anew where something else has changed that they were made for."""
        if not self.used or not difference(self.depends_on, self._what_it_depends_on()):
            return
        self.variants.clear()
        self.remade += 1
        if self.remade > REMAKES:
            changed = difference(self.depends_on, self._what_it_depends_on())
            self._give_up(f"a value that it depends on keeps changing: {changed}")

    def _fault(
        self,
        variant: Variant,
        parts: Sequence[Part],
        divisor: int,
        share: float,
        total: Tensor,
        kl_weight: float | None = None,
    ) -> str:
        """Take a step both ways from the same state; return how they differ, if they do."""
        weight = self._kl_weight() if kl_weight is None else kl_weight
        if isinstance(self.estimator, ELBO):
            self.estimator.kl_weight = weight

        def outcome(step: Callable[[Tensor], Any]) -> tuple[Tensor, list[Tensor]]:
            terms = torch.zeros_like(total)
            with self._restored(variant.closed_over):
                step(terms)
                after = [t.detach().clone() for t in variant.update.gradient_like()]
            return terms, after

        eager = outcome(lambda terms: self._eager(parts, divisor, share, terms))
        ours = outcome(lambda terms: variant(parts, weight, share, terms))
        like = variant.update.gradient_like()
        eps = torch.finfo(like[0].dtype).eps if self.objective.lower is None else MIXED_EPS
        return _disagreement(eager, ours, like, eps)

    def _eager(self, parts: Sequence[Part], divisor: int, share: float, total: Tensor) -> None:
        loss = self.objective(parts, self.rows, divisor)
        loss.backward()
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        total += self.objective.terms(loss, divisor).to(total.dtype) * share

    @contextmanager
    def _restored(self, changed: Sequence[Tensor] = ()) -> Iterator[None]:
        """Put back parameters, buffers, the optimiser's state and all random states.

        Tensors that a graph may have changed are given: torch does not count what that does.
        """
        stories = {"model": self.pair.model, "guide": self.pair.guide, "e": vars(self.estimator)}
        held: dict[int, Tensor] = {id(t): t for t in self.objective.parameters()}
        held |= {id(t): t for t in self.objective.buffers()}
        held |= {id(t): t for t in changed if t.numel() <= SMALL}
        for state in self.optimizer.state.values():
            held |= {id(t): t for t in state.values() if isinstance(t, Tensor)}
        # Tensors that a story keeps by itself are put back where it has changed them.
        kept = {id(t): t for t in reachable_tensors(stories) if t.numel() <= SMALL}
        copies = [(t, t._version, t.detach().clone()) for t in {**kept, **held}.values()]
        host = random.getstate(), np.random.get_state()
        device = next(self.objective.parameters()).device
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                yield
        finally:
            random.setstate(host[0])
            np.random.set_state(host[1])
            with torch.no_grad():
                for tensor, version, copy in copies:
                    if tensor._version != version or id(tensor) in held:
                        tensor.copy_(copy)
            self.optimizer.zero_grad(set_to_none=True)
            if self.update is not None:
                self.update.forget()

    def _give_up(self, why: str) -> None:
        self.reason = why
        self.variants.clear()
        self._warn(f"{self.pair.name} is fitted without compiling, as {why}")

    def _warn(self, message: str) -> None:
        warnings.warn(message, stacklevel=2)


class Variant:
    """The compiled step for batches of one shape."""

    def __init__(
        self,
        run: Callable[..., Any],
        state: list[Tensor],
        scalars: Tensor,
        graph: Graph,
        update: Update,
    ) -> None:
        self.run, self.state, self.scalars = run, state, scalars
        self.closed_over, self.update = graph.closed_over, update
        # An array that shares the tensor's memory is filled faster than the tensor.
        self.numbers = scalars.numpy() if scalars.device.type == "cpu" else None

    @torch.no_grad()
    def __call__(
        self, parts: Sequence[Part], kl_weight: float, share: float, total: Tensor
    ) -> Tensor:
        """Take a step; return whether it was finite."""
        numbers = [kl_weight, share, *self.update.scalars()]
        if self.numbers is not None:
            self.numbers[:] = numbers
        else:
            # From pinned memory the copy is queued as a kernel is; from any other it would wait
            # until the device has done all that was queued before.
            pinned = torch.tensor(numbers, pin_memory=self.scalars.is_cuda)
            self.scalars.copy_(pinned, non_blocking=True)
        out = self.run(*self.state, self.scalars, total, *_columns(parts), *self.closed_over)
        self.update.advance()
        finite: Tensor = out[0] if isinstance(out, (tuple, list)) else out
        return finite


class _Counter(TorchDispatchMode):
    """Counts operations."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _columns(parts: Sequence[Part]) -> list[Tensor]:
    return [value for part in parts for value in part.columns.values()]


def _kind(part: Part) -> Any:
    """Return what two parts must share for a graph to serve both."""
    columns = [(n, v.shape, v.dtype, v.stride()) for n, v in part.columns.items()]
    return part.full, part.weight, *columns


def _is_audit(number: int) -> bool:
    audit = FIRST_AUDIT
    while audit < number:
        audit *= AUDIT_FACTOR
    return number == audit


def _clipped(gradients: Sequence[Tensor], largest: float) -> tuple[list[Tensor], Tensor]:
    """Return gradients of a norm of at most ``largest``, as ``clip_grad_norm_``, and their norm."""
    norm = torch.stack([torch.linalg.vector_norm(g) for g in gradients]).norm()
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    return [g * factor for g in gradients], norm


def _disagreement(
    eager: tuple[Tensor, list[Tensor]],
    ours: tuple[Tensor, list[Tensor]],
    before: list[Tensor],
    eps: float,
) -> str:
    """Say how far two outcomes of the same step are apart, if it is more than rounding."""
    right, terms = eager[0].double(), ours[0].double()
    near = (right - terms).abs() <= eps**0.5 * (1.0 + right.abs().nan_to_num().max())
    if not bool((near | (right.isnan() & terms.isnan())).all()):
        both = zip(TERMS, right.tolist(), terms.tolist(), strict=True)
        return "the compiled step gives other numbers than the story: " + ", ".join(
            f"{name} {b:.6g} for {a:.6g}" for name, a, b in both if a == a or b == b
        )
    if not right[0].isfinite():
        return ""  # and the loop will say why
    apart = _norm(a - b for a, b in zip(eager[1], ours[1], strict=True))
    change = _norm(a - b for a, b in zip(eager[1], before, strict=True))
    if apart > 10 * eps**0.5 * change + 4 * eps * _norm(before):
        return (
            "the compiled step has another gradient than the story: the difference is "
            f"{apart / max(change, eps):.2g} of its norm"
        )
    return ""


def _norm(tensors: Iterable[Tensor]) -> float:
    return sum(float(t.detach().double().square().sum()) for t in tensors) ** 0.5
