"""What the benchmarks share: one thread, CPU seconds, and results written for RESULTS.md."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vaeppl.files import read_json, write_json

RESULTS = Path(__file__).parent / "results"


def one_thread() -> None:
    """Small networks run fastest on one thread, and CPU seconds then mean something."""
    torch.set_num_threads(1)


@contextmanager
def cpu_seconds() -> Iterator[dict[str, float]]:
    """Measure processor time and wall time of a block."""
    spent: dict[str, float] = {}
    cpu, wall = time.process_time(), time.perf_counter()
    yield spent
    spent["cpu_s"] = time.process_time() - cpu
    spent["wall_s"] = time.perf_counter() - wall


def hardware() -> str:
    """Say what the figures were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {gpu}, 1 thread"


def versions() -> dict[str, str]:
    """Return the versions that matter."""
    names = ("vaeppl", "torch", "pyro-ppl", "numpy")
    return {
        "python": platform.python_version(),
        **{n: importlib.metadata.version(n) for n in names},
    }


def save(name: str, rows: list[dict[str, Any]], *, key: tuple[str, ...]) -> Path:
    """Add rows to ``results/<name>.json``; rows with the same key are replaced."""
    path = RESULTS / f"{name}.json"
    kept = read_json(path)["rows"] if path.exists() else []
    fresh = {tuple(r[k] for k in key) for r in rows}
    kept = [r for r in kept if tuple(r.get(k) for k in key) not in fresh]
    result = {
        "command": "python " + " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        "hardware": hardware(),
        "rows": sorted(kept + rows, key=lambda r: tuple(str(r[k]) for k in key)),
    }
    write_json(path, result)
    return path


def is_done(name: str, **key: Any) -> bool:
    """Tell whether ``results/<name>.json`` has a row of this key, so that it can be skipped."""
    path = RESULTS / f"{name}.json"
    rows = read_json(path)["rows"] if path.exists() else []
    return any(all(row.get(k) == v for k, v in key.items()) for row in rows)
