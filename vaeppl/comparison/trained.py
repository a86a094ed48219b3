"""Fits by each estimator from the same weights and the same order of rows, under several seeds."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .. import fitted
from ..data import Data
from ..estimators import IWAE
from ..pair import Pair
from ..reading import tracing
from ..reading.evidence import active_units, elbo, evidence
from ..training.fit import fit
from ..training.objective import TERMS
from .candidates import Candidate, reason_against
from .results import TrainedComparison

__all__ = ["compare_trained"]

WATCHED = 32  # particles of the held-out bound after each epoch


def compare_trained(
    pair: Pair,
    source: tuple[Any, ...],
    train: Data,
    test: Data,
    chosen: Sequence[Candidate],
    *,
    seeds: Sequence[int],
    particles: int,
    jobs: int,
    note: Callable[[str], None],
    settings: dict[str, Any],
) -> TrainedComparison:
    """Fit every candidate under every seed; see :func:`vaeppl.compare_estimators`."""
    import joblib

    with tracing.quiet(pair):
        few = tracing.few_rows(pair, train)
        against = {c.label: reason_against(c, pair, few) for c in chosen}
    able = [c for c in chosen if against[c.label] is None]
    work = [(c, s) for s in seeds for c in able]
    note(f"{len(work)} fits")
    each = joblib.delayed(_run)
    found = joblib.Parallel(n_jobs=jobs)(
        each(c, s, source, train, test, particles, settings) for c, s in work
    )
    return _gathered(chosen, against, found)


def _run(
    candidate: Candidate,
    seed: int,
    source: tuple[Any, ...],
    train: Data,
    test: Data,
    particles: int,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Fit once; what goes wrong is a line of the table."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small networks; and fits run side by side
    line: dict[str, Any] = {"estimator": candidate.label, "seed": seed, "reason": ""}
    try:
        return line | _fitted(candidate, seed, source, train, test, particles, settings)
    except (ArithmeticError, RuntimeError, ValueError) as error:
        return line | {"reason": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    finally:
        torch.set_num_threads(threads)


def _fitted(
    candidate: Candidate,
    seed: int,
    source: tuple[Any, ...],
    train: Data,
    test: Data,
    particles: int,
    settings: dict[str, Any],
) -> dict[str, Any]:
    model, *guide = copy.deepcopy(source)
    watched, watch = watching(candidate.make())
    result = fit(
        model,
        train,
        guide=guide[0] if guide else None,
        estimator=watched,
        seed=seed,
        valid=test,
        progress=False,
        # Compiling takes longer than such a fit, and not as long for each estimator.
        **{"compile": False, **settings},
    )
    score = evidence(result, test, num_particles=particles, seed=seed)
    if not math.isfinite(score.mean):
        raise ArithmeticError("the held-out evidence is not finite")
    units = active_units(result, test)
    return {
        "evidence": score.mean,
        "elbo": elbo(result, test, seed=seed).mean,
        "active_units": int(units["active"].sum()) if len(units) else 0,
        "seconds": watch.seconds[-1] if watch.seconds else float("nan"),
        "pointwise": score.rows["log_evidence"].to_numpy(),
        "curve": _curve(result, watch),
    }


def _curve(result: fitted.Fit, watch: Watch) -> list[dict[str, float]]:
    history = result.history
    lines = zip(history.index, history["step"], history["valid_elbo"], watch.seconds, strict=True)
    return [
        {"epoch": int(e), "step": int(s), "evidence": float(v), "seconds": t}
        for e, s, v, t in lines
    ]


class Watch:
    """A clock that stands still while the held-out rows are scored.

    Attributes
    ----------
    seconds : list of float
        Seconds of training until the end of each epoch.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.started: float | None = None
        self.spent = 0.0

    def train(self) -> None:
        """Note a step of training."""
        if self.started is None:
            self.started = time.perf_counter()

    def look(self) -> None:
        """Note that the held-out rows are scored, perhaps in several batches."""
        if self.started is not None:
            self.spent += time.perf_counter() - self.started
            self.started = None
            self.seconds.append(self.spent)


def watching(estimator: Any) -> tuple[Any, Watch]:
    """Return the estimator with held-out rows scored by one bound, whatever its own objective.

    Fitting asks it for ``differentiable_loss`` at the steps and for ``loss`` at the held-out rows;
    the latter is that of :class:`~vaeppl.estimators.IWAE`, so that curves can be compared.
    """
    watch, common = Watch(), IWAE(WATCHED)
    base = type(estimator)

    def differentiable_loss(self: Any, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        watch.train()
        return base.differentiable_loss(self, model, guide, *args, **kwargs)

    def loss(self: Any, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        watch.look()
        value = common.loss(model, guide, *args, **kwargs)
        unknown = torch.tensor(torch.nan)
        self.report = dict.fromkeys(TERMS, unknown)
        self.report |= {"elbo": torch.tensor(-value), "global": torch.tensor(0.0)}
        return value

    parts = {"differentiable_loss": differentiable_loss, "loss": loss}
    estimator.__class__ = type(base.__name__, (base,), parts)
    return estimator, watch


def _gathered(
    chosen: Sequence[Candidate],
    against: dict[str, str | None],
    found: Sequence[dict[str, Any]],
) -> TrainedComparison:
    import numpy as np
    import pandas as pd

    curves = pd.DataFrame(
        [
            {"estimator": r["estimator"], "seed": r["seed"], **point}
            for r in found
            for point in r.get("curve", [])
        ],
        columns=["estimator", "seed", "epoch", "step", "seconds", "evidence"],
    )
    kept = [{k: v for k, v in r.items() if k not in ("curve", "pointwise")} for r in found]
    numbers = ["evidence", "elbo", "active_units", "seconds"]
    columns = ["estimator", "seed", *numbers, "reason"]
    runs = pd.DataFrame(kept).reindex(columns=columns)
    runs.insert(3, "at_equal_seconds", _at_equal_seconds(runs, curves))
    pointwise = {
        c.label: np.mean(rows, axis=0)
        for c in chosen
        if (
            rows := [r["pointwise"] for r in found if r["estimator"] == c.label and not r["reason"]]
        )
    }
    lines = []
    for candidate in chosen:
        mine = runs[runs["estimator"] == candidate.label]
        done = mine[mine["reason"] == ""]
        reasons = [r for r in [against[candidate.label], *mine["reason"]] if r]
        count = len(done)
        lines.append(
            {
                "estimator": candidate.label,
                "num_particles": candidate.num_particles,
                "evidence": done["evidence"].mean(),
                "evidence_sd": done["evidence"].std(ddof=1),
                "evidence_se": done["evidence"].std(ddof=1) / max(1, count) ** 0.5,
                "at_equal_seconds": done["at_equal_seconds"].mean(),
                "elbo": done["elbo"].mean(),
                "active_units": done["active_units"].mean(),
                "seconds": done["seconds"].mean(),
                "seeds": count,
                "failed": len(mine) - count,
                "reason": reasons[0] if reasons else "",
            }
        )
    table = pd.DataFrame(lines).set_index("estimator")
    rows = pd.DataFrame(pointwise).rename_axis("row")
    return TrainedComparison(table, runs, curves, rows)


def _at_equal_seconds(runs: Any, curves: Any) -> list[float]:
    """Return each fit's held-out bound when the quickest of its seed was done."""
    values = []
    for run in runs.itertuples():
        limit = runs[runs["seed"] == run.seed]["seconds"].min()
        mine = curves[(curves["estimator"] == run.estimator) & (curves["seed"] == run.seed)]
        within = mine[mine["seconds"] <= limit]
        values.append(float(within["evidence"].iloc[-1]) if len(within) else float("nan"))
    return values
