"""Deep stories on MNIST: which layers a bottom-up guide and a ladder bring into use.

The sizes of Sønderby et al. 2016 (latents 64-32-16-8-4; leaky rectifiers), with one hidden layer
between layers in place of two, and a budget in place of 2,000 passes: pixels binarised anew at each
epoch, each guide alone and with the paper's aids, batch normalisation and a KL that is annealed
over the first share of the epochs. A fit that is done is skipped.

    python benchmarks/deep.py --epochs 30
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from common import cpu_seconds, is_done, one_thread, save

import vaeppl
from vaeppl.models import HierarchicalVAE
from vaeppl.training.schedules import Cosine, Linear

LATENTS = (64, 32, 16, 8, 4)
HIDDEN = ((256,), (128,), (64,), (32,), (32,))
WARM_UP = 0.3
AIDS: dict[str, dict[str, Any]] = {
    "none": {},
    "BN": {"norm": "batch"},
    "warm-up": {"kl_weight": Linear(0.0, 1.0, share=WARM_UP)},
    "BN + warm-up": {"norm": "batch", "kl_weight": Linear(0.0, 1.0, share=WARM_UP)},
}
KEY = ("inference", "aids", "seed", "epochs")


def fitted(inference: str, aids: str, seed: int, epochs: int, train: Any) -> vaeppl.Fit:
    """Fit five layers of latents."""
    options = dict(AIDS[aids])
    deep = HierarchicalVAE(
        784,
        LATENTS,
        inference=inference,
        hidden=HIDDEN,
        activation="leaky_relu",
        norm=options.pop("norm", None),
    )
    return vaeppl.fit(
        deep,
        train,
        epochs=epochs,
        batch_size=256,
        lr=2e-3,
        lr_schedule=Cosine(1.0, 0.0, warm_up=0.02),
        clip_norm=200.0,
        seed=seed,
        progress=False,
        **options,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--aids", nargs="+", choices=list(AIDS), default=["none", "BN + warm-up"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--rows", type=int, default=1000, help="test rows for the evidence")
    given = parser.parse_args()
    one_thread()
    mnist = vaeppl.data.load("mnist", binarize="dynamic")
    train = mnist.select(torch.cat([mnist.splits["train"], mnist.splits["valid"]]))
    test = vaeppl.data.load("mnist", binarize="static").test
    some = test.select(torch.arange(given.rows))
    for seed in given.seeds:
        for aids in given.aids:
            for inference in ("bottom_up", "ladder"):
                key = dict(zip(KEY, (inference, aids, seed, given.epochs), strict=True))
                if is_done("deep", **key):
                    continue
                with cpu_seconds() as spent:
                    fit = fitted(inference, aids, seed, given.epochs, train)
                bound, units = fit.elbo(test, num_particles=5), fit.active_units(test)
                evidence = fit.evidence(some, num_particles=given.particles)
                row = key | {
                    "cpu_seconds": round(spent["cpu_s"]),
                    "elbo": round(bound.mean, 2),
                    "nll": round(-evidence.mean, 2),
                    "nll_se": round(evidence.se, 2),
                    "num_particles": given.particles,
                    "rows": given.rows,
                    "kl": {s: round(float(v), 3) for s, v in sorted(bound.site_kl.items())},
                    "active_units": {s: int(g["active"].sum()) for s, g in units.groupby("site")},
                }
                print(row, flush=True)
                save("deep", [row], key=KEY)


if __name__ == "__main__":
    main()
