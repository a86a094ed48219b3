"""What ``fit`` adds to the steps of an epoch, and what an import adds to that of Pyro.

An epoch of 60,000 rows as ``fit`` runs it, batches gathered, history and progress written, a
checkpoint where one is due, against its bare steps on batches that are there already, in turns in
one process; and the start of Python with a package, in processes of its own, in turns::

    python benchmarks/overhead.py
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from common import one_thread, save
from speed import CASES, Case, bare_steps, trainer_of

from vaeppl.fitted import RunFolder
from vaeppl.training.fit import SECONDS_BETWEEN_CHECKPOINTS
from vaeppl.training.progress import ProgressBar
from vaeppl.training.runs import write_checkpoint

ROWS = 60_000
STARTS = {
    "import pyro": [sys.executable, "-c", "import pyro"],
    "import vaeppl": [sys.executable, "-c", "import vaeppl"],
    "import vaeppl; vaeppl.fit; vaeppl.models.VAE": [
        *(sys.executable, "-c", "import vaeppl, vaeppl.models; vaeppl.fit; vaeppl.models.VAE")
    ],
    "vaeppl --help": [str(Path(sys.executable).with_name("vaeppl")), "--help"],
}


def enlarged(case: Case) -> Case:
    """Return the case with so many rows, its own ones over and over."""
    times = -(-ROWS // len(case.columns["x"]))
    case.columns = {
        n: v.repeat(times, *(1,) * (v.ndim - 1))[:ROWS] for n, v in case.columns.items()
    }
    return case


def epochs_of_fit(trainer: Any, folder: Path) -> Callable[[], None]:
    """Return an epoch with all that ``fit`` does around its steps."""
    records, run = trainer.run(), RunFolder(folder)
    bar = ProgressBar(10)
    saved = time.monotonic()

    def epoch() -> None:
        nonlocal saved
        bar.update(next(records))
        if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
            write_checkpoint(run, trainer)
            saved = time.monotonic()

    return epoch


def clock(step: Callable[[], Any]) -> tuple[float, float]:
    """Return wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu


def epoch_rows(name: str, rounds: int) -> dict[str, Any]:
    """Return one row: an epoch, its bare steps, and their ratio."""
    title, make = CASES[name]
    trainer = trainer_of(enlarged(make()), compile=True)
    with tempfile.TemporaryDirectory() as folder:
        epoch, bare = epochs_of_fit(trainer, Path(folder)), bare_steps(trainer)
        spent = []
        for _ in range(rounds + 1):
            spent.append((*clock(epoch), *clock(bare)))
    spent = spent[1:]  # the first compiles
    return {
        "what": title,
        "steps": trainer.steps_per_epoch,
        "epoch_seconds": round(median(s[0] for s in spent), 3),
        "bare_seconds": round(median(s[2] for s in spent), 3),
        "overhead_percent": round(100 * (median(s[0] / s[2] for s in spent) - 1), 1),
        "cpu_overhead_percent": round(100 * (median(s[1] / s[3] for s in spent) - 1), 1),
        "rounds": rounds,
    }


def start_rows(rounds: int) -> list[dict[str, Any]]:
    """Return wall and processor seconds of each start."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in STARTS}
    for _ in range(rounds + 1):
        for name, command in STARTS.items():
            before, wall = os.times(), time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            now = os.times()
            cpu = now.children_user + now.children_system
            cpu -= before.children_user + before.children_system
            spent[name].append((time.perf_counter() - wall, cpu))
    return [
        {
            "what": name,
            "seconds": round(median(w for w, _ in times[1:]), 3),
            "cpu_seconds": round(median(c for _, c in times[1:]), 3),
            "rounds": rounds,
        }
        for name, times in spent.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--cases", nargs="*", choices=list(CASES), default=["tabular", "mnist_400", "scvi"]
    )
    given = parser.parse_args()
    one_thread()
    warnings.simplefilter("error", UserWarning)
    for row in start_rows(given.rounds):
        print(row, flush=True)
        save("start_up", [row], key=("what",))
    for name in given.cases:
        row = epoch_rows(name, given.rounds)
        print(row, flush=True)
        save("overhead", [row], key=("what",))


if __name__ == "__main__":
    main()
