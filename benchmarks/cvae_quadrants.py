"""Hole filling on MNIST: p(rest of the image | some quadrants), CVAE against a network alone.

Protocol of Sohn, Lee & Yan 2015, section 5.1: 1, 2 or 3 quadrants of a binarised digit are given
(lower left; then upper left; then lower right) and the rest is predicted. The conditional
log-likelihood is exact for the network and estimated by importance sampling for the CVAE, on the
same 10,000 test images, so their difference has a paired standard error.

    python benchmarks/cvae_quadrants.py --epochs 20
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import cpu_seconds, one_thread, save

import vaeppl
from vaeppl.data import Data
from vaeppl.models import CVAE, Regression

QUADRANTS = {
    "lower left": (slice(14, 28), slice(0, 14)),
    "upper left": (slice(0, 14), slice(0, 14)),
    "lower right": (slice(14, 28), slice(14, 28)),
}


def given_pixels(count: int) -> torch.Tensor:
    """Return which of the 784 pixels are given, as a mask."""
    mask = torch.zeros(28, 28, dtype=torch.bool)
    for where in list(QUADRANTS.values())[:count]:
        mask[where] = True
    return mask.flatten()


def quadrants(images: Data, mask: torch.Tensor) -> Data:
    """Return the given pixels as ``x`` and the others as ``y``, with the splits of the images."""
    pixels = images["x"].to(torch.uint8)
    return Data({"x": pixels[:, mask], "y": pixels[:, ~mask]}, splits=images.splits)


def picture(path: Path, fits: dict[str, Any], data: Data, mask: torch.Tensor, num: int = 8) -> None:
    """Draw the given part, the truth, the network's mean and draws of the CVAE for some images."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    few = data.test.select(range(num))
    x, y = few["x"].float(), few["y"].float()

    def whole(rest: torch.Tensor | float) -> torch.Tensor:
        images = torch.empty(num, 784)
        images[:, mask], images[:, ~mask] = x, rest
        return images

    rows = {"given": whole(0.5), "truth": whole(y), "NN": whole(fits["NN"].reconstruct(few)["y"])}
    for draw in range(4):
        z = fits["CVAE"].sample(num, given={"x": x}, seed=draw)["z"]
        latents = {"z": z}
        mean = vaeppl.reading.sites.column_means(fits["CVAE"].pair, latents, num, given={"x": x})
        rows[f"CVAE {draw + 1}"] = whole(mean["y"])
    figure, axes = plt.subplots(len(rows), num, figsize=(num, len(rows)))
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(line, images, strict=True):
            ax.imshow(image.reshape(28, 28), cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    one_thread()
    images = vaeppl.data.load("mnist", binarize="static")
    for count in given.counts:
        mask = given_pixels(count)
        data = quadrants(images, mask)
        dims = int(mask.sum()), int((~mask).sum())
        models = {
            "NN": Regression(*dims, hidden=(500, 500)),
            "CVAE": CVAE(*dims, latent_dim=30, hidden=(500, 500)),
        }
        fits, scores, rows = {}, {}, []
        for method, model in models.items():
            with cpu_seconds() as spent:
                fits[method] = vaeppl.fit(
                    model,
                    data,
                    epochs=given.epochs,
                    batch_size=200,
                    lr=2e-3,
                    lr_schedule="cosine",
                    patience=given.epochs,
                    seed=given.seed,
                    progress=False,
                )
            particles = 2 if method == "NN" else given.particles
            report = fits[method].evidence(data.test, num_particles=particles)
            scores[method] = report.rows["log_evidence"].to_numpy()
            gain = scores[method] - scores["NN"]
            rows.append(
                {
                    "quadrants": count,
                    "method": method,
                    "seed": given.seed,
                    "epochs": given.epochs,
                    "best_epoch": fits[method].best_epoch,
                    "cpu_seconds": round(spent["cpu_s"]),
                    "log_likelihood": round(report.mean, 2),
                    "se": round(report.se, 2),
                    "gain": round(float(gain.mean()), 2),
                    "gain_se": round(float(gain.std(ddof=1) / np.sqrt(len(gain))), 2),
                    "num_particles": particles,
                }
            )
            print(rows[-1], flush=True)
        path = save("cvae_quadrants", rows, key=("quadrants", "method", "seed", "epochs"))
        picture(path.with_name(f"cvae_quadrants_{count}.png"), fits, data, mask)


if __name__ == "__main__":
    main()
