"""How the cost of a fit grows with the cells: 10k, 100k and 1M simulated cells of 2,000 genes.

Counts are sparse and lie on disk, memory-mapped, as compressed rows. Each size is fitted for one
epoch by a process of its own, with batches of 128. Seconds of the epoch are those of the history;
before it, every count is looked at once, to be refused if it is none. Memory is the process's own,
without the pages of the file that the system keeps in its cache: its peak during the fit, above
what it held when the data were open.

    python benchmarks/scvi_growth.py
    python benchmarks/scvi_growth.py --cells 10000 --folder /tmp
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from common import one_thread, save

import vaeppl
from vaeppl.models import SCVI

GENES, TOTAL, KINDS, CHUNK = 2000, 250, 12, 10_000
KEY = ("cells",)


def simulate(folder: Path, cells: int) -> None:
    """Write counts of cells of a dozen kinds as compressed rows: data, indices and indptr."""
    chance = np.random.default_rng(0)
    shares = chance.gamma(0.3, size=(KINDS, GENES))
    edges = (shares / shares.sum(1, keepdims=True)).cumsum(1)
    lengths = [np.zeros(1, dtype=np.int64)]
    with open(folder / "data.bin", "wb") as data, open(folder / "indices.bin", "wb") as indices:
        for start in range(0, cells, CHUNK):
            size = min(CHUNK, cells - start)
            totals = chance.poisson(TOTAL * chance.lognormal(0.0, 0.3, size)) + 1
            cell = np.repeat(np.arange(size), totals)
            kind = chance.integers(KINDS, size=size)[cell]
            gene = np.empty(len(cell), dtype=np.int64)
            for k in range(KINDS):
                mine = kind == k
                drawn = np.searchsorted(edges[k], chance.random(mine.sum()))
                gene[mine] = drawn.clip(max=GENES - 1)
            ones = np.ones(len(cell), dtype=np.float32)
            table = scipy.sparse.csr_matrix((ones, (cell, gene)), shape=(size, GENES))
            table.data.tofile(data)
            table.indices.astype(np.int32).tofile(indices)
            lengths.append(np.diff(table.indptr).astype(np.int64))
    np.save(folder / "indptr.npy", np.concatenate(lengths).cumsum())


def opened(folder: Path) -> scipy.sparse.csr_matrix:
    """Return the counts, which stay on disk until a row is read."""
    indptr = np.load(folder / "indptr.npy")
    table = scipy.sparse.csr_matrix((len(indptr) - 1, GENES), dtype=np.float32)
    table.data = np.memmap(folder / "data.bin", np.float32, "r")
    table.indices = np.memmap(folder / "indices.bin", np.int32, "r")
    table.indptr = indptr.astype(np.int32)
    return table


def own_memory() -> float:
    """Return the memory that is this process's own, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status does not tell RssAnon: this benchmark runs on Linux")


class Watch(threading.Thread):
    """Looks at the memory twenty times a second and keeps the peak."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = own_memory()

    def run(self) -> None:
        """Look until the process ends."""
        while True:
            self.peak = max(self.peak, own_memory())
            time.sleep(0.05)


def one(folder: Path) -> dict[str, Any]:
    """Fit one epoch."""
    one_thread()
    table = opened(folder)
    story = SCVI(GENES, library_mean=float(np.log(TOTAL)), library_sd=0.3)
    before, watch = own_memory(), Watch()
    watch.start()
    started = time.perf_counter()
    fit = vaeppl.fit(story, {"x": table}, epochs=1, batch_size=128, progress=False)
    wall = time.perf_counter() - started
    seconds = float(fit.history["seconds"].iloc[0])
    steps = -(-table.shape[0] // 128)
    return {
        "cells": table.shape[0],
        "nonzero": int(table.indptr[-1]),
        "seconds_per_epoch": round(seconds, 1),
        "ms_per_step": round(1000 * seconds / steps, 2),
        "seconds_before": round(wall - seconds, 1),
        "peak_mb": round(watch.peak - before),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where the counts are written; 2 GB")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one)))
        return
    for cells in given.cells:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            simulate(Path(folder), cells)
            command = [sys.executable, *sys.argv[:1], "--one", folder]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            row = json.loads(said.strip().splitlines()[-1])
            print(row, flush=True)
            save("scvi_growth", [row], key=KEY)


if __name__ == "__main__":
    main()
