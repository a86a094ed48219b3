"""Estimators at one set of parameters: value, gap, bias, variance, signal, time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor, nn

from ..errors import StoryError
from ..estimators import ELBO, IWAE
from ..estimators.sites import is_point
from ..pair import Batch, Pair
from ..reading import tracing
from ..reading.evidence import log_weights
from ..reading.pareto import pareto_k
from ..training.objective import reported
from ..training.seeds import derived_seed
from .candidates import Candidate, reason_against
from .gradients import Moments, gradient, groups, saved_bytes, signal
from .results import FrozenComparison, Reference

__all__ = ["compare_frozen"]

AT_ONCE = 128  # particles of the reference gradients at a time


@dataclass
class _Running:
    """What is gathered of one candidate."""

    candidate: Candidate
    estimator: Any
    values: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    moments: Moments = field(default_factory=Moments)
    kept: int = 0
    failed: str | None = None


def compare_frozen(
    pair: Pair,
    data: Any,
    chosen: Sequence[Candidate],
    *,
    rows: int,
    repeats: int,
    reference_particles: int,
    seed: int,
    note: Callable[[str], None],
) -> FrozenComparison:
    """Compare candidates at the pair's parameters; see :func:`vaeppl.compare_estimators`."""
    with tracing.quiet(pair, seed=seed):
        batch = next(iter(tracing.batches(pair, data, rows)))
        rows = len(next(iter(batch.values())))
        pair.initialise(batch)  # parameters of functions are there after a first run
        parameters = [p for p in pair.parameters() if p.requires_grad]
        belongs = groups(pair, batch, parameters)
        against = {c.label: reason_against(c, pair, batch) for c in chosen}
        running = [_Running(c, c.make()) for c in chosen if against[c.label] is None]
        note("reference")
        trace = poutine.trace(pair.guide).get_trace(**batch)
        log_w, aims = _reference(pair, batch, trace, parameters, reference_particles)
        shared = tuple(tracing.only_shared(trace, rows).nodes)
        for one in running:
            one.kept = _kept(one, pair, batch, parameters)
        for repeat in _counted(repeats, note):
            for one in running:
                # The same numbers for all, and one after another, so that a busy spell of the
                # machine falls on each of them.
                torch.manual_seed(derived_seed(seed, repeat))
                _repeat(one, pair, batch, parameters, rows)
    reference = _summary(log_w, shared)
    lines = []
    for candidate in chosen:
        line: dict[str, Any] = {
            "estimator": candidate.label,
            "num_particles": candidate.num_particles,
        }
        mine = next((r for r in running if r.candidate is candidate), None)
        reason = against[candidate.label] if mine is None else mine.failed
        if reason is None and mine is not None:
            line |= _line(mine, reference, aims, belongs, log_w)
        lines.append({**line, "reason": reason or ""})
    return FrozenComparison.of(lines, reference, repeats=repeats, rows=rows)


def _counted(repeats: int, note: Callable[[str], None]) -> Iterator[int]:
    for repeat in range(repeats):
        if repeat % max(1, repeats // 10) == 0:
            note(f"repeat {repeat + 1} of {repeats}")
        yield repeat


def _repeat(
    one: _Running, pair: Pair, batch: Batch, parameters: Sequence[nn.Parameter], rows: int
) -> None:
    if one.failed is not None:
        return
    _wait(pair)
    started = time.perf_counter()
    try:
        with torch.enable_grad():
            loss = one.estimator.differentiable_loss(pair.model, pair.guide, **batch)
            found = gradient(loss, parameters, rows)
    except (ArithmeticError, RuntimeError, ValueError) as error:
        one.failed = str(error).splitlines()[0]
        return
    _wait(pair)
    one.seconds.append(time.perf_counter() - started)
    one.values.append(_value(one.estimator, loss) / rows)
    one.moments.add(found)
    if not loss.isfinite():
        one.failed = f"its value is not finite at repeat {len(one.values)}"


def _value(estimator: Any, loss: Tensor) -> float:
    """Return what the estimator says of the evidence, without penalties and the like."""
    return float(reported(estimator).get("elbo", -loss).detach())


def _wait(pair: Pair) -> None:
    if pair.device.type == "cuda":
        torch.cuda.synchronize(pair.device)


def _kept(one: _Running, pair: Pair, batch: Batch, parameters: Sequence[nn.Parameter]) -> int:
    def run() -> Tensor:
        with torch.enable_grad():
            loss: Tensor = one.estimator.differentiable_loss(pair.model, pair.guide, **batch)
        return loss

    return saved_bytes(run, parameters)


def _reference(
    pair: Pair, batch: Batch, trace: Any, parameters: Sequence[nn.Parameter], particles: int
) -> tuple[Tensor, dict[str, Moments]]:
    """Return log-weights ``(K, B)`` and high-particle gradients.

    NaN and none where the guide has no density, and so no weights.
    """
    if any(is_point(s) for s in tracing.latents(trace)):
        return torch.full((particles, len(next(iter(batch.values())))), torch.nan), {}
    aims = _reference_gradients(pair, batch, parameters, particles)
    return log_weights(pair, batch, particles), aims


def _reference_gradients(
    pair: Pair, batch: Batch, parameters: Sequence[nn.Parameter], particles: int
) -> dict[str, Moments]:
    """Return high-particle gradients: of log p(x) for the model, of the ELBO for the guide."""
    rows = len(next(iter(batch.values())))
    size = min(AT_ONCE, particles)
    # Summed out under q, a latent would give the model the gradient of its ELBO.
    made = {"model": IWAE(size, enumerate=False), "guide": ELBO(size)}
    found: dict[str, Moments] = {}
    for name, estimator in made.items():
        moments = Moments()
        for _ in range(max(2, particles // size)):
            try:
                with torch.enable_grad():
                    loss = estimator.differentiable_loss(pair.model, pair.guide, **batch)
            except StoryError:
                # A story with latents of all data together has no importance weights by row.
                estimator = ELBO(size)
                with torch.enable_grad():
                    loss = estimator.differentiable_loss(pair.model, pair.guide, **batch)
            moments.add(gradient(loss, parameters, rows))
        found[name] = moments
    return found


def _summary(log_w: Tensor, shared: tuple[str, ...]) -> Reference:
    """Return the best estimate of the evidence, from log-weights ``(K, B)``."""
    k, rows = log_w.shape
    log_w = log_w.double()
    by_row = log_w.logsumexp(0) - torch.log(torch.tensor(float(k)))
    relative = (log_w - log_w.max(0).values).exp()
    se = relative.std(0) / (k**0.5 * relative.mean(0))
    known = bool(log_w.isfinite().any())
    tails = pareto_k(log_w) if known else log_w.new_full((1,), torch.nan)
    return Reference(
        evidence=float(by_row.mean()),
        evidence_se=float(se.square().sum().sqrt()) / rows,
        num_particles=k,
        pareto_k=float(tails.median()),
        share_unreliable=float((tails > 0.7).double().mean()) if known else float("nan"),
        given=shared,
    )


def _effective(log_w: Tensor, particles: int) -> float:
    """Return the mean effective sample size of so many particles, over groups and rows."""
    particles = min(particles, len(log_w))
    grouped = log_w[: len(log_w) // particles * particles].unflatten(0, (-1, particles))
    v = grouped.double().softmax(1)
    return float((1 / v.square().sum(1)).mean())


def _line(
    one: _Running,
    reference: Reference,
    aims: dict[str, Moments],
    belongs: dict[str, list[int]],
    log_w: Tensor,
) -> dict[str, Any]:
    """Return the line of a candidate in the table."""
    values = torch.tensor(one.values, dtype=torch.float64)
    se = float(values.std() / len(values) ** 0.5)
    milliseconds = float(torch.tensor(one.seconds).median()) * 1e3
    line: dict[str, Any] = {
        "value": float(values.mean()),
        "value_se": se,
        # Given q of latents that rows share, the evidence of a row is no bound's own.
        "gap": float("nan") if reference.given else reference.evidence - float(values.mean()),
        "gap_se": (se**2 + reference.evidence_se**2) ** 0.5,
    }
    for name, places in belongs.items():
        found = signal(one.moments, aims.get(name), places)
        line |= {
            f"{name}_bias": found.bias,
            f"{name}_bias_se": found.bias_se,
            f"{name}_cosine": found.cosine,
            f"{name}_variance": found.variance,
            f"{name}_snr": found.snr,
        }
    everything = sorted({i for places in belongs.values() for i in places})
    variance = float(one.moments.variance(everything)) if everything else float("nan")
    return line | {
        "ess": _effective(log_w, one.candidate.num_particles),
        "milliseconds": milliseconds,
        "megabytes": one.kept / 2**20,
        "variance_x_ms": variance * milliseconds,
    }
