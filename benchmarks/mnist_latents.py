"""MNIST: the lower bound against the number of latents (Kingma & Welling 2014, figure 2).

One hidden layer of 500 tanh units, batches of 100, one draw; the paper's numbers of latents,
3, 5, 10, 20 and 200. Grey pixels are binarised anew at each epoch, the test images once. A fit that
is done is skipped.

    python benchmarks/mnist_latents.py --epochs 8 --latents 3 10 50 200
"""

from __future__ import annotations

import argparse

from common import cpu_seconds, is_done, one_thread, save

import vaeppl
from vaeppl.models import VAE

KEY = ("latents", "seed", "epochs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--latents", type=int, nargs="+", default=[3, 5, 10, 20, 200])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    one_thread()
    mnist = vaeppl.data.load("mnist", binarize="dynamic")
    train = mnist.select(mnist.splits["train"])
    test = vaeppl.data.load("mnist", binarize="static").test
    for latents in given.latents:
        if is_done("mnist_latents", latents=latents, seed=given.seed, epochs=given.epochs):
            continue
        with cpu_seconds() as spent:
            fit = vaeppl.fit(
                VAE(784, latents, hidden=(500,), activation="tanh"),
                train,
                epochs=given.epochs,
                batch_size=100,
                lr=2e-3,
                lr_schedule="cosine",
                seed=given.seed,
                progress=False,
            )
        bound = fit.elbo(test, num_particles=5)
        row = {
            "latents": latents,
            "seed": given.seed,
            "epochs": given.epochs,
            "samples": given.epochs * len(train),
            "cpu_seconds": round(spent["cpu_s"]),
            "train_elbo": round(float(fit.history["elbo"].iloc[-1]), 2),
            "test_elbo": round(bound.mean, 2),
            "test_elbo_se": round(bound.se, 2),
            "kl": round(bound.kl, 2),
            "active_units": int(fit.active_units(test).active.sum()),
            "curve": [round(float(v), 2) for v in fit.history["elbo"]],
        }
        print(row, flush=True)
        save("mnist_latents", [row], key=KEY)


if __name__ == "__main__":
    main()
