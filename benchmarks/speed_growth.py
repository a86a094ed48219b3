"""How the time of a step grows: with rows, columns, latents and particles.

A VAE with one hidden layer of 100 and black and white pixels, batches of 128; one size is changed
at a time from 12,800 rows, 200 columns, 10 latents and 1 particle. The time is that of an epoch of
``fit``, all in, divided by its steps: the median over the later epochs.

    python benchmarks/speed_growth.py
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

import matplotlib
import torch
from common import RESULTS, one_thread, save
from matplotlib import pyplot as plt

import vaeppl
from vaeppl.files import read_json
from vaeppl.models import VAE

BATCH = 128
START = {"rows": 12_800, "columns": 200, "latents": 10, "particles": 1}
SIZES = {
    "rows": (1_280, 12_800, 128_000, 512_000),
    "columns": (20, 200, 2_000, 10_000),
    "latents": (2, 10, 50, 200),
    "particles": (1, 4, 16, 64),
}
SECONDS = 4.0  # for which epochs of a size are repeated, about


def milliseconds(size: dict[str, int], compiled: bool) -> float:
    """Return the time of a step."""
    x = (torch.rand(size["rows"], size["columns"]) < 0.2).float()
    steps = -(-size["rows"] // BATCH)
    guess = 2e-3 * max(1.0, size["columns"] / 800) * size["particles"] ** 0.7
    fit = vaeppl.fit(
        VAE(size["columns"], size["latents"], hidden=(100,)),
        {"x": x},
        epochs=max(3, min(60, int(SECONDS / (steps * guess)))),
        batch_size=BATCH,
        num_particles=size["particles"],
        compile=compiled,
        progress=False,
    )
    return 1000 * median(fit.history["seconds"].tolist()[1:]) / steps


def draw() -> None:
    """Draw what was measured."""
    rows = read_json(RESULTS / "speed_growth.json")["rows"]
    matplotlib.use("Agg")
    fig, axes = plt.subplots(1, len(SIZES), figsize=(13, 3.2), sharey=True, layout="constrained")
    for ax, (name, sizes) in zip(axes, SIZES.items(), strict=True):
        for compiled, style in ((False, "o--"), (True, "s-")):
            mine = {r["size"]: r for r in rows if (r["grows"], r["compiled"]) == (name, compiled)}
            label = "compiled" if compiled else "eager"
            ax.plot(sizes, [mine[n]["ms_per_step"] for n in sizes], style, label=label)
        ax.set(xscale="log", yscale="log", xlabel=name)
    axes[0].set_ylabel("ms a step of fit")
    axes[0].legend(frameon=False)
    fig.savefig(RESULTS / "speed_growth.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grows", nargs="+", choices=list(SIZES), default=list(SIZES))
    given = parser.parse_args()
    one_thread()
    torch.manual_seed(0)
    for name in given.grows:
        for size in SIZES[name]:
            for compiled in (False, True):
                ms = round(milliseconds({**START, name: size}, compiled), 3)
                row: dict[str, Any] = {"grows": name, "size": size, "compiled": compiled}
                row["ms_per_step"] = ms
                print(row, flush=True)
                save("speed_growth", [row], key=("grows", "size", "compiled"))
    draw()


if __name__ == "__main__":
    main()
