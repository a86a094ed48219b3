"""Disentangling on sprites: a sweep of β and four penalties, judged by all metrics.

Every combination of shape, scale, orientation, x and y once (2304 pictures of 24 x 24), fitted and
judged on the same rows, as in Locatello et al. 2019; means of q(z | x) are scored. The same network
and steps for all; a fit that is done is skipped.

    python benchmarks/disentangling.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from common import cpu_seconds, is_done, one_thread, save

import vaeppl
from vaeppl import estimators, representation
from vaeppl.models import VAE

EPOCHS, BATCH = 200, 128
STEPS = EPOCHS * 18  # 2304 rows in batches of 128
BETAS = (1.0, 2.0, 4.0, 8.0, 16.0)
METHODS: dict[str, dict[str, Any]] = {
    **{f"β = {beta:g}": {"kl_weight": beta} for beta in BETAS},
    "capacity 12": {"estimator": ("capacity", {"capacity": 12.0, "strength": 50.0})},
    "β-TC 6": {"estimator": ("beta_tc", {"beta": 6.0})},
    "FactorVAE 10": {"estimator": ("factor_tc", {"strength": 10.0})},
    "DIP-I 10": {"estimator": ("dip", {"off_diagonal": 10.0, "diagonal": 100.0})},
}
KEY = ("method", "seed")


def fitted(method: str, data: vaeppl.data.Data, seed: int) -> vaeppl.Fit:
    """Fit the VAE by a method."""
    options = dict(METHODS[method])
    if "estimator" in options:
        name, settings = options["estimator"]
        settings = {**settings, "steps": STEPS // 2} if name == "capacity" else settings
        options["estimator"] = estimators.get(name, **settings)
    return vaeppl.fit(
        VAE(576, latent_dim=8, hidden=(256, 128)),
        data,
        epochs=EPOCHS,
        batch_size=BATCH,
        lr=2e-3,
        lr_schedule="cosine",
        seed=seed,
        progress=False,
        **options,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    one_thread()
    sprites = vaeppl.data.load("sprites")
    factors = sprites.take(torch.arange(len(sprites)))["factors"]
    for seed in given.seeds:
        for method in given.methods:
            if is_done("disentangling", method=method, seed=seed):
                continue
            with cpu_seconds() as spent:
                fit = fitted(method, sprites, seed)
            bound = fit.elbo(sprites)
            scores = representation.report(
                fit.encode(sprites)["z"], factors, categorical=[0], repeats=1, seed=seed
            )
            row = {
                "method": method,
                "seed": seed,
                "epochs": EPOCHS,
                "cpu_seconds": round(spent["cpu_s"]),
                "elbo": round(bound.mean, 2),
                "reconstruction": round(bound.reconstruction, 2),
                "kl": round(bound.kl, 2),
                "active_units": int(fit.active_units(sprites).active.sum()),
                **{name: round(value, 4) for name, value in scores["value"].items()},
            }
            print(row, flush=True)
            save("disentangling", [row], key=KEY)


if __name__ == "__main__":
    main()
