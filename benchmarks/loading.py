"""What reading costs: counts in memory, and counts on disk that are read ahead or are not.

Sparse counts of 2,000 genes lie in a file that is mapped into memory, and the compiled step of scVI
takes batches of 128 cells. ``fit`` reads them in a thread of its own while it computes with the
last ones. Seconds of epochs, in rounds in which the ways take turns.

    python benchmarks/loading.py
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy.sparse
from common import one_thread, save

import vaeppl
from vaeppl.models import SCVI
from vaeppl.training import loop

GENES, TOTAL, BATCH = 2_000, 300, 128
WAYS = ("in memory", "on disk, read ahead", "on disk, read when it is needed")


def counts(cells: int) -> scipy.sparse.csr_matrix:
    """Draw sparse counts."""
    noise = np.random.default_rng(0)
    shares = noise.dirichlet(np.full(GENES, 0.3))
    totals = noise.poisson(TOTAL, cells)
    rows = [np.bincount(noise.choice(GENES, n, p=shares), minlength=GENES) for n in totals]
    return scipy.sparse.csr_matrix(np.stack(rows).astype(np.float32))


def on_disk(table: scipy.sparse.csr_matrix, folder: Path) -> scipy.sparse.csr_matrix:
    """Return the same table, whose values and columns are mapped from a file."""
    for name in ("data", "indices"):
        np.save(folder / f"{name}.npy", getattr(table, name))
    mapped = scipy.sparse.csr_matrix(table.shape, dtype=np.float32)
    mapped.data = np.load(folder / "data.npy", mmap_mode="r")
    mapped.indices = np.load(folder / "indices.npy", mmap_mode="r")
    mapped.indptr = table.indptr
    return mapped


@contextmanager
def reading(ahead: bool) -> Iterator[None]:
    """Let a fit read ahead, or only what it needs."""
    kept: Any = loop.read_ahead

    def as_needed(make: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        return make()

    try:
        loop.read_ahead = kept if ahead else as_needed
        yield
    finally:
        loop.read_ahead = kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=12_800)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    one_thread()
    table = counts(given.cells)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        tables = dict.fromkeys(WAYS, on_disk(table, Path(folder)))
        tables["in memory"] = table.toarray()
        for _ in range(given.rounds):
            for way in WAYS:
                story = SCVI(GENES, library_mean=math.log(TOTAL), library_sd=0.3)
                with reading(ahead=way != WAYS[2]):
                    fit = vaeppl.fit(
                        story,
                        {"x": tables[way]},
                        epochs=given.epochs,
                        batch_size=BATCH,
                        compile=True,
                        progress=False,
                    )
                seconds[way] += fit.history["seconds"].tolist()[1:]
    for way, found in seconds.items():
        row = {
            "way": way,
            "ms_per_step": round(1000 * median(found) / -(-given.cells // BATCH), 2),
            "ratio_to_memory": round(median(found) / median(seconds["in memory"]), 3),
            "rounds": given.rounds,
        }
        print(row, flush=True)
        save("loading", [row], key=("way",))


if __name__ == "__main__":
    main()
