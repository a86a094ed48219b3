"""Frey faces: the lower bound against the number of latents (Kingma & Welling 2014, figure 2).

One hidden layer of 200 tanh units, a Gaussian likelihood with predicted scale, batches of 100;
the paper's numbers of latents, 2, 5, 10 and 20. Nats per image of 560 pixels in [0, 1].

    python benchmarks/frey_faces.py --epochs 400
"""

from __future__ import annotations

import argparse

from common import cpu_seconds, one_thread, save

import vaeppl
from vaeppl.likelihoods import Normal
from vaeppl.models import VAE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--latents", type=int, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--particles", type=int, default=500)
    given = parser.parse_args()
    one_thread()
    frey = vaeppl.data.load("frey_faces")
    likelihood = Normal("predicted", center=0.6, unit=0.2)
    for latents in given.latents:
        for seed in given.seeds:
            with cpu_seconds() as spent:
                fit = vaeppl.fit(
                    VAE(560, latents, likelihood=likelihood, hidden=(200,), activation="tanh"),
                    frey,
                    epochs=given.epochs,
                    batch_size=100,
                    lr=2e-3,
                    lr_schedule="cosine",
                    clip_norm=1000.0,
                    patience=given.epochs,
                    seed=seed,
                    progress=False,
                )
            train, test = fit.elbo(frey.train), fit.elbo(frey.test)
            evidence = fit.evidence(frey.test, num_particles=given.particles)
            row = {
                "method": "VAE 560-200-L, tanh, Normal(predicted scale)",
                "latents": latents,
                "seed": seed,
                "epochs": given.epochs,
                "best_epoch": fit.best_epoch,
                "cpu_seconds": round(spent["cpu_s"]),
                "train_elbo": round(train.mean, 1),
                "test_elbo": round(test.mean, 1),
                "test_elbo_se": round(test.se, 1),
                "log_evidence": round(evidence.mean, 1),
                "num_particles": given.particles,
                "active_units": int(fit.active_units(frey.test).active.sum()),
            }
            print(row, flush=True)
            print(save("frey_faces", [row], key=("method", "latents", "seed", "epochs")))


if __name__ == "__main__":
    main()
