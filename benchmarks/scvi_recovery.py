"""Does scVI find what counts were drawn from? Dispersion, shares and library sizes, with intervals.

Counts are drawn from an SCVI with known weights: 100 genes, two latents, a hidden layer of 16,
about 300 counts a cell, where a zero-inflated likelihood misses a fifth or a half of the genes.
Another SCVI, of the same size or with 128 hidden units, is fitted by the ELBO, and then for some
epochs more by the importance-weighted bound. Reported are the rank correlation and the median
relative error of posterior means, and how often 90 % intervals of normalised expression ρ and of
the library size ℓ hold the truth, for 500 cells that were fitted; from draws of the guide, and from
draws that are resampled by their importance weights (num_particles).

    python benchmarks/scvi_recovery.py
    python benchmarks/scvi_recovery.py --cells 20000 --hidden 128
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
import torch
from common import one_thread, save
from scipy.stats import spearmanr

import vaeppl
from vaeppl.models import SCVI
from vaeppl.singlecell import get_latent_library_size, get_normalized_expression
from vaeppl.training.schedules import Cosine

GENES, LATENTS, HIDDEN, TOTAL, LOOKED_AT = 100, 2, 16, 300, 500
PARTICLES = 1000
GATES = {"nb": 0.0, "zinb, a fifth missed": -1.5, "zinb, half missed": 0.0}  # mean logit
KEY = ("likelihood", "cells", "hidden", "stage", "draws")
COSINE = Cosine(1.0, 0.0, warm_up=0.05)


def truth(cells: int, likelihood: str) -> tuple[SCVI, dict[str, torch.Tensor]]:
    """Return a story with known weights, and cells drawn from it with their latents."""
    torch.manual_seed(0)
    story = SCVI(
        GENES,
        LATENTS,
        hidden=(HIDDEN,),
        likelihood=likelihood.split(",")[0],
        library_mean=math.log(TOTAL),
        library_sd=0.4,
    )
    with torch.no_grad():
        story.f_w.weight *= 2.5  # shares then vary by a factor of two or so from cell to cell
        story.f_w.bias.copy_(torch.randn(GENES))
        story.decoder.layers[0].weight *= 1.5
        story.log_theta_units.copy_(0.1 * (1.0 + torch.randn(GENES)))
        if story.kind == "zinb":
            story.f_h.bias += GATES[likelihood]
    return story, vaeppl.sample(story, cells, seed=0)


def figures(
    fit: Any, story: SCVI, drawn: dict[str, torch.Tensor], num_particles: int | None
) -> dict[str, float]:
    """Compare what a fit says with what is true."""
    some = {name: values[:LOOKED_AT] for name, values in drawn.items()}
    with torch.no_grad():
        h = story.decoder(some["z"], story.given(None, None, None))
        shares = story.f_w(h).softmax(-1).numpy()
    cells, how = {"x": some["x"]}, {"n_samples": 1000, "num_particles": num_particles}
    draws = get_normalized_expression(fit, cells, return_mean=False, **how)
    lower, upper = np.quantile(draws, [0.05, 0.95], axis=0)
    sizes = get_latent_library_size(fit, cells, **how)
    library = some["log_library"][:, 0].exp().numpy()
    theta, true_theta = (s.log_theta().detach().numpy() for s in (fit.model, story))
    found = {
        "rho": (draws.mean(0).ravel(), shares.ravel()),
        "library": (sizes["mean"].to_numpy(), library),
        "theta": (np.exp(theta), np.exp(true_theta)),
    }
    row = {}
    for name, (ours, true) in found.items():
        row[f"{name}_correlation"] = round(float(spearmanr(ours, true)[0]), 4)
        row[f"{name}_error"] = round(float(np.median(np.abs(ours / true - 1))), 4)
    row["rho_coverage"] = round(float(((lower < shares) & (shares < upper)).mean()), 3)
    inside = (sizes["lower"] < library) & (library < sizes["upper"])
    return row | {"library_coverage": round(float(inside.mean()), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", nargs="+", type=int, default=[5_000, 20_000])
    parser.add_argument("--hidden", type=int, default=HIDDEN)
    parser.add_argument("--likelihood", nargs="+", choices=list(GATES), default=list(GATES))
    parser.add_argument("--particles", type=int, default=25)
    given = parser.parse_args()
    one_thread()
    for likelihood in given.likelihood:
        for cells in given.cells:
            story, drawn = truth(cells, likelihood)
            data = {"x": drawn["x"]}
            fitted = SCVI.for_data(
                data, latent_dim=LATENTS, hidden=(given.hidden,), likelihood=story.kind
            )
            epochs = 600_000 // cells
            stages: list[tuple[str, dict[str, Any]]] = [
                ("ELBO", {"epochs": epochs, "lr": 5e-3}),
                (
                    f"then IWAE, {given.particles} particles",
                    {
                        "epochs": epochs // 3,
                        "lr": 2e-3,
                        "estimator": "iwae",
                        "num_particles": given.particles,
                    },
                ),
            ]
            for stage, how in stages:
                fit = vaeppl.fit(fitted, data, lr_schedule=COSINE, progress=False, **how)
                for particles in (None, PARTICLES):
                    row = {"likelihood": likelihood, "cells": cells, "hidden": given.hidden}
                    row["stage"] = stage
                    row["draws"] = f"resampled from {particles}" if particles else "guide"
                    row |= {"epochs": how["epochs"], **figures(fit, story, drawn, particles)}
                    print(row, flush=True)
                    save("scvi_recovery", [row], key=KEY)


if __name__ == "__main__":
    main()
