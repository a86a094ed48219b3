"""Pictures of the rotated threes: predictions, what the kernel has learnt, latents over the angle.

They are made of the fits and predictions that rotated_mnist.py left under ``--runs``:

    python benchmarks/rotated_mnist_pictures.py --seed 0
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from common import RESULTS, one_thread
from rotated_mnist import FITS, fit_of, rows_for

import vaeppl
from vaeppl.data import Data

DRAWS = 10
STEP = 22.5  # degrees between the angles
OBJECTS = 40  # of 400, in the order of their first principal component


def draws(folder: Path, new: Data) -> Any:
    """Draw ten held-out images above what the methods predict."""
    which = torch.linspace(0, len(new) - 1, DRAWS).long()
    lines: dict[str, Any] = {"truth": new["x"][which]}
    for method in FITS:
        if method != "VAE" and (path := folder / f"{method}.npz").exists():
            lines[method] = torch.as_tensor(np.load(path)["x"])[which]
    return vaeppl.plots.predictions(lines, (28, 28)).figure


def latents(fit: vaeppl.Fit, rows: Data) -> Any:
    """Draw the kernel between angles and between objects, and the latents of an object."""
    figure, axes = plt.subplots(1, 3, figsize=(14.5, 3.8), layout="constrained")
    views = torch.arange(16) * math.radians(STEP)
    turned = {"angle": views, "object": torch.zeros(16, dtype=torch.int64)}
    names = [f"{STEP * k:g}°" if k % 2 == 0 else "" for k in range(16)]
    vaeppl.plots.covariance(fit, turned, axes[0], labels=names)
    axes[0].set_title("one object, at 16 angles", fontsize="medium")

    seen = rows["object"].unique()
    first = torch.stack([rows["object_features"][rows["object"] == n][0, 0] for n in seen])
    some = seen[first.argsort()[torch.linspace(0, len(seen) - 1, OBJECTS).long()]]
    upright = {"angle": torch.zeros(OBJECTS), "object": some}
    vaeppl.plots.covariance(fit, upright, axes[1])
    axes[1].set_title(f"{OBJECTS} objects upright, by first component", fontsize="medium")

    around = torch.linspace(0, 2 * math.pi, 181)
    path = {"angle": around, "object": torch.zeros(181, dtype=torch.int64) + seen[0]}
    own = torch.nonzero(rows["object"] == seen[0]).squeeze(1)
    vaeppl.plots.latent_paths(fit, path, "angle", rows, axes[2], own=own)
    axes[2].axvline(math.radians(157.5), color="0.6", ls=":")
    axes[2].set_xlabel("angle in radians; dotted: none was fitted")
    axes[2].set_title("latents of an object, and its encoded images", fontsize="medium")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", default="runs/rotated_mnist", help="folder of the fits")
    given = parser.parse_args()
    one_thread()
    rows, new = rows_for("test")
    folder = Path(given.runs) / "test" / str(given.seed)
    fit = fit_of("GPPVAE-joint", given.seed, rows, folder)
    for name, figure in (("predictions", draws(folder, new)), ("latents", latents(fit, rows))):
        path = RESULTS / f"rotated_mnist_{name}.png"
        figure.savefig(path, dpi=90, bbox_inches="tight")
        print(path)


if __name__ == "__main__":
    main()
