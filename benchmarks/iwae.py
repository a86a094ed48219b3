"""The IWAE table: VAE, IWAE and DReG with k draws for each row, MNIST with stochastic binarisation.

Protocol of Burda et al. 2016, table 1: two tanh layers of 200 and 50 latents (with two stochastic
layers: 100 and 50 latents, tanh layers of 200 and of 100), pixels binarised anew at each epoch,
the output bias at the data's mean, all 60,000 training images; the 10,000 test images are
binarised once. The DReG rows are those of Tucker et al. 2019, section 6.1::

    python benchmarks/iwae.py                       # short: 15 passes, batch 100, on one core
    python benchmarks/iwae.py --full --layers 1 2   # as published: 3,280 passes, batch 20

Both write a run for each fit into ``--out`` and go on with it after a stop; finished figures stand
in results/iwae.json and are not computed again.
"""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, one_thread, save

import vaeppl
from vaeppl.files import read_json
from vaeppl.models import VAE, HierarchicalVAE
from vaeppl.training.schedules import Cosine, Schedule

KEY = ("schedule", "estimator", "k", "layers", "epochs", "seed")
ESTIMATORS = {"VAE": "elbo", "IWAE": "iwae", "DReG": "dreg"}
# What costs least comes first; with one draw IWAE is the VAE, and DReG is sticking the landing.
ROWS = [("VAE", 1), ("IWAE", 5), ("DReG", 5), ("VAE", 5), ("DReG", 1), ("IWAE", 50), ("DReG", 50),
        ("VAE", 50)]  # fmt: skip
PASSES = sum(3**i for i in range(8))


class Stages(Schedule):
    """Eight stages of 3^i passes with learning rates 10^(-i/7) (Burda et al. 2016, section 5)."""

    def __call__(self, progress: float) -> float:
        """Return the factor on the learning rate."""
        passes = min(progress * PASSES, PASSES - 1)
        stage = math.floor(math.log(2 * passes + 1, 3) + 1e-9)
        return float(10 ** (-stage / 7))


def authors_adam(parameters: Any) -> torch.optim.Adam:
    """Return Adam as in the authors' code."""
    return torch.optim.Adam(parameters, lr=1e-3, betas=(0.99, 0.999), eps=1e-4)


SHORT: dict[str, Any] = {"batch_size": 100, "lr": 3e-3, "lr_schedule": Cosine(1.0, 0.0, 0.05)}
FULL: dict[str, Any] = {"batch_size": 20, "optimizer": authors_adam, "lr_schedule": Stages()}


def build(layers: int, grey: torch.Tensor, seed: int) -> VAE | HierarchicalVAE:
    """Return the story with the output bias at the mean of the data."""
    torch.manual_seed(seed)
    story: VAE | HierarchicalVAE
    if layers == 1:
        story = VAE(784, latent_dim=50, hidden=(200, 200), activation="tanh")
        last = story.decoder.layers[-1]
    else:
        sizes = ((200, 200), (100, 100))
        story = HierarchicalVAE(784, (100, 50), hidden=sizes, activation="tanh")
        last = story.decoders[0].layers[-1]
    with torch.no_grad():
        last.bias.copy_(torch.logit(grey.mean(0).clamp(1e-3, 1 - 1e-3)))
    return story


def fitted(name: str, k: int, layers: int, epochs: int, given: argparse.Namespace) -> Any:
    """Return the fit; one that was stopped goes on."""
    mnist = vaeppl.data.load("mnist", binarize="dynamic")
    index = torch.cat([mnist.splits["train"], mnist.splits["valid"]])
    grey = vaeppl.data.load("mnist").select(index)["x"]
    folder = Path(given.out) / f"{name}_k{k}_layers{layers}_{epochs}_seed{given.seed}"
    return vaeppl.fit(
        build(layers, grey, given.seed),
        mnist.select(index),
        estimator=ESTIMATORS[name],
        num_particles=k,
        epochs=epochs,
        seed=given.seed,
        out=folder,
        resume=True,
        progress=given.progress,
        **(FULL if given.full else SHORT),
    )


def figures(fit: Any, given: argparse.Namespace) -> dict[str, Any]:
    """Return held-out evidence and bound, active units, and minutes of training."""
    test = vaeppl.data.load("mnist", binarize="static").test
    evidence = fit.evidence(test, num_particles=given.particles, progress=given.progress)
    units = fit.active_units(test)
    return {
        "nll": round(-evidence.mean, 2),
        "nll_se": round(evidence.se, 2),
        "particles": given.particles,
        "elbo": round(fit.elbo(test, num_particles=10).mean, 2),
        "active_units": {s: int(g["active"].sum()) for s, g in units.groupby("site", sort=False)},
        "minutes": round(float(fit.history["seconds"].sum()) / 60, 1),
    }


def done() -> set[tuple[Any, ...]]:
    """Return the keys of the figures that stand in the results."""
    path = RESULTS / "iwae.json"
    return {tuple(r[n] for n in KEY) for r in read_json(path)["rows"]} if path.exists() else set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the published schedule")
    parser.add_argument("--epochs", type=int, default=15, help="of the short schedule")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 5, 50])
    parser.add_argument("--layers", type=int, nargs="+", choices=(1, 2), default=[1])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--particles", type=int, help="500 of the short schedule, 5000 of the full")
    parser.add_argument("--out", default="runs/iwae")
    parser.add_argument("--progress", action="store_true")
    given = parser.parse_args()
    given.particles = given.particles or (5000 if given.full else 500)
    one_thread()
    warnings.filterwarnings("ignore", message=".*compile.*")
    epochs = PASSES if given.full else given.epochs
    schedule = "full" if given.full else "short"
    for layers in given.layers:
        for name, k in ROWS:
            key = (schedule, name, k, layers, epochs, given.seed)
            if k not in given.k or key in done():
                continue
            fit = fitted(name, k, layers, epochs, given)
            row = dict(zip(KEY, key, strict=True)) | figures(fit, given)
            print(row, flush=True)
            save("iwae", [row], key=KEY)


if __name__ == "__main__":
    main()
