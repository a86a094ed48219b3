"""Time of a training step: ``fit``, compiled and not, Pyro's own loop, and hand-written PyTorch.

All contestants have the same networks, batches of 128 rows and Adam, and are timed in turn in one
process, a few milliseconds each. ``vaeppl_*`` is an epoch of ``fit``, all in (rows gathered,
schedules, history), divided by its steps; ``*_bare`` is the step alone, on batches that are there.
The losses written by hand are in :mod:`by_hand`.

    python benchmarks/speed.py
    python benchmarks/speed.py --cases scvi mnist_400 --rounds 40
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import by_hand
import pyro
import torch
from common import one_thread, save
from lightning_fabric import Fabric

import vaeppl
from vaeppl import gp
from vaeppl.data import Data
from vaeppl.estimators import get
from vaeppl.models import GPVAE, M2, SCVI, VAE
from vaeppl.pair import Pair
from vaeppl.training import inductor
from vaeppl.training.loop import Trainer, make_optimizer
from vaeppl.training.schedules import Constant
from vaeppl.training.tracing import trace_twice
from vaeppl.training.updates import update_of

BATCH, STEPS = 128, 10
MILLISECONDS = 60.0  # of each contestant in a round
Step = Callable[[], Any]


def binary(rows: int, columns: int) -> torch.Tensor:
    return (torch.rand(rows, columns) < 0.2).float()


class Case:
    """A story, data for some steps, the same loss by hand, and Pyro's estimator."""

    def __init__(
        self,
        story: Any,
        columns: dict[str, torch.Tensor],
        loss: Callable[..., torch.Tensor],
        pyros: pyro.infer.ELBO,
        estimator: str = "elbo",
        particles: int = 1,
    ) -> None:
        self.story, self.columns, self.loss, self.pyros = story, columns, loss, pyros
        self.estimator, self.particles = estimator, particles


def tabular() -> Case:
    return Case(
        VAE(20, 2, hidden=(64,), likelihood="normal"),
        {"x": torch.randn(BATCH * STEPS, 20)},
        by_hand.normal_vae,
        pyro.infer.Trace_ELBO(),
    )


def mnist_400() -> Case:
    x = {"x": binary(BATCH * STEPS, 784)}
    return Case(VAE(784, 20, hidden=(400,)), x, by_hand.bernoulli_vae, pyro.infer.Trace_ELBO())


def mnist_500_500() -> Case:
    x = {"x": binary(BATCH * STEPS, 784)}
    story = VAE(784, 50, hidden=(500, 500))
    return Case(story, x, by_hand.bernoulli_vae, pyro.infer.Trace_ELBO())


def scvi() -> Case:
    means = torch.distributions.Gamma(0.3, 0.3).sample((558,)) * 2.0
    cells = {"x": torch.poisson(means.expand(BATCH * STEPS, -1))}
    story = SCVI.for_data(cells, latent_dim=10, hidden=(128,))
    return Case(story, cells, by_hand.scvi, pyro.infer.Trace_ELBO())


def m2() -> Case:
    """102 rows of a batch have no label and 26 have one."""
    labels = torch.arange(BATCH * STEPS) % 10
    labels[: (BATCH - 26) * STEPS] = -1
    columns = {"x": binary(BATCH * STEPS, 784), "y": labels}
    enum = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    return Case(M2(784, 10, 50), columns, by_hand.m2, enum)


def iwae() -> Case:
    particles = {"num_particles": 50, "vectorize_particles": True, "max_plate_nesting": 1}
    return Case(
        VAE(784, 50, hidden=(200, 200), activation="tanh"),
        {"x": binary(BATCH * STEPS, 784)},
        by_hand.iwae,
        pyro.infer.RenyiELBO(alpha=0.0, **particles),
        estimator="iwae",
        particles=50,
    )


def gpvae() -> Case:
    """40 subjects at any times: 16 processes of 32 × 4 features."""
    n = BATCH * STEPS
    columns = {"x": binary(n, 784), "time": torch.rand(n), "who": torch.arange(n) % 40}
    kernel = gp.On("time", "rbf", lengthscale=0.2) * gp.On(
        "who", "linear", features=gp.Table(40, 4)
    )
    story = GPVAE.for_data(columns, kernel=kernel, latent_dim=16, likelihood="bernoulli")
    return Case(story, columns, by_hand.gpvae, pyro.infer.TraceMeanField_ELBO())


CASES: dict[str, tuple[str, Callable[[], Case]]] = {
    "tabular": ("tabular VAE 20-64-2", tabular),
    "mnist_400": ("MNIST VAE 784-400-20", mnist_400),
    "mnist_500_500": ("MNIST VAE 784-500-500-50", mnist_500_500),
    "scvi": ("scVI 558 genes, 128 hidden", scvi),
    "m2": ("M2, 10 labels enumerated", m2),
    "iwae": ("IWAE k = 50", iwae),
    "gpvae": ("GP-prior VAE, minibatch", gpvae),
}


# --- contestants: each takes some steps when it is called ---


def trainer_of(case: Case, compile: bool) -> Trainer:
    """Return what trains a case, without end."""
    data = Data(case.columns)
    pair = Pair(copy.deepcopy(case.story))
    pair.initialise(data.take(torch.arange(8)) if "y" not in data else {"x": data["x"][:8]})
    return Trainer(
        fabric=Fabric(accelerator="cpu", devices=1),
        pair=pair,
        estimator=get(case.estimator, num_particles=case.particles),
        optimizer=make_optimizer("adam", list(pair.parameters()), 1e-3, 0.0),
        train=data,
        valid=None,
        epochs=10**9,
        batch_size=BATCH,
        seed=0,
        kl_weight=Constant(1.0),
        lr_schedule=Constant(1.0),
        clip_norm=None,
        patience=None,
        rare_share=0.2,
        compile=compile,
    )


def bare_steps(trainer: Trainer) -> Step:
    """Return the steps of an epoch on batches that are there already."""
    batches = list(trainer._batches(1))
    total = torch.zeros(4)

    def bare() -> None:
        with trainer.pair.active(trainer.rows), pyro.validation_enabled(False):
            for parts, share in batches:
                trainer._step(parts, share, total, "", True)

    return bare


def fit_epochs(case: Case, compile: bool) -> tuple[Step, Step]:
    """Return an epoch of ``fit``, and its bare step on one batch."""
    trainer = trainer_of(case, compile)
    epochs = trainer.run()
    return lambda: next(epochs), bare_steps(trainer)


def pyro_eager(case: Case) -> Step:
    """Return an epoch of Pyro's own loop, on the same story."""
    pair = Pair(copy.deepcopy(case.story))
    story = pair.source[0]
    svi = pyro.infer.SVI(story.model, story.guide, pyro.optim.Adam({"lr": 1e-3}), case.pyros)
    batches = by_hand.batches(case.columns, BATCH, STEPS)
    rows = len(case.columns["x"])

    def epoch() -> None:
        with pair.active():
            for columns in batches:
                for part, full in by_hand.parts(columns, case.columns):
                    with vaeppl.model.row_count(full, total=rows):
                        svi.step(**part)

    return epoch


def pytorch_compiled(case: Case) -> Step:
    """Return an epoch of the loss by hand under ``torch.compile``, and fused Adam."""
    story = copy.deepcopy(case.story)
    optimizer = torch.optim.Adam(story.parameters(), lr=1e-3, fused=True)
    batches = by_hand.batches(case.columns, BATCH, STEPS)
    loss_of = torch.compile(lambda columns: case.loss(story, columns), dynamic=False)

    def epoch() -> None:
        for columns in batches:
            loss = loss_of(columns)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return epoch


def pytorch_one_graph(case: Case) -> Step:
    """Return an epoch of the loss by hand, its gradient and Adam in one graph: the limit."""
    story = copy.deepcopy(case.story)
    parameters = [p for p in story.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    batches = by_hand.batches(case.columns, BATCH, STEPS)
    values = list(batches[0].values())
    found = torch.autograd.grad(case.loss(story, batches[0]), parameters, allow_unused=True)
    update = update_of(
        optimizer, [p for p, g in zip(parameters, found, strict=True) if g is not None]
    )
    scalars = torch.tensor(update.scalars())

    def step(*_: torch.Tensor) -> torch.Tensor:
        loss = case.loss(story, batches[0])
        gradients = torch.autograd.grad(loss, update.parameters)
        update.apply(gradients, scalars, loss.detach().isfinite())
        return loss.detach()

    state = [*update.parameters, *update.state()]
    graph = trace_twice(step, [*state, scalars, *values])
    held = [t.detach() for t in state]
    run = inductor.build(graph.module, [*held, scalars, *values, *graph.closed_over])

    @torch.no_grad()
    def epoch() -> None:
        for columns in batches:
            scalars.copy_(torch.tensor(update.scalars()))
            run(*held, scalars, *columns.values(), *graph.closed_over)
            update.advance()

    return epoch


def contestants(case: Case) -> dict[str, Step]:
    """Return an epoch of ``STEPS`` steps of each."""
    eager, _ = fit_epochs(case, compile=False)
    compiled, bare = fit_epochs(case, compile=True)
    return {
        "pyro_eager": pyro_eager(case),
        "pytorch_compiled": pytorch_compiled(case),
        "pytorch_one_graph": pytorch_one_graph(case),
        "vaeppl_eager": eager,
        "vaeppl_compiled": compiled,
        "vaeppl_compiled_bare": bare,
    }


def timed(epochs: dict[str, Step], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return wall and processor milliseconds of a step, for each contestant and round."""
    repeats = {}
    for name, epoch in epochs.items():
        for _ in range(3):
            start = time.perf_counter()
            epoch()
            spent = 1000.0 * (time.perf_counter() - start)
        repeats[name] = max(1, round(MILLISECONDS / spent))
    times: dict[str, dict[str, list[float]]] = {n: {"wall": [], "cpu": []} for n in epochs}
    for _ in range(rounds):
        for name, epoch in epochs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(repeats[name]):
                epoch()
            share = 1000.0 / (repeats[name] * STEPS)
            times[name]["wall"].append((time.perf_counter() - wall) * share)
            times[name]["cpu"].append((time.process_time() - cpu) * share)
    return times


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of a case."""
    torch.manual_seed(0)
    title, make = CASES[name]
    times = timed(contestants(make()), rounds)
    rows = []
    for contestant, spent in times.items():
        ratios = {
            kind: median(
                a / b for a, b in zip(spent[kind], times["pytorch_compiled"][kind], strict=True)
            )
            for kind in ("wall", "cpu")
        }
        rows.append(
            {
                "case": title,
                "contestant": contestant,
                "median_ms": round(median(spent["wall"]), 4),
                "median_cpu_ms": round(median(spent["cpu"]), 4),
                "ratio_to_compiled_pytorch": round(ratios["wall"], 3),
                "cpu_ratio_to_compiled_pytorch": round(ratios["cpu"], 3),
                "rounds": rounds,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    one_thread()
    warnings.simplefilter("error", UserWarning)  # what falls back must not be timed as compiled
    for name in given.cases:
        rows = measure(name, given.rounds)
        for row in rows:
            print(row, flush=True)
        save("speed", rows, key=("case", "contestant"))


if __name__ == "__main__":
    main()
