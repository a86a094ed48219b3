"""How many labels a classifier needs: codes of a VAE, a DAE, PCA, and the pixels themselves.

MNIST, binarised at random once. Representations are learnt from 20,000 training images without
labels, then read by one logistic regression, whose penalty is chosen by cross-validation on the
labels it has, from 10 to 1,000 labels drawn several times; judged on 5,000 test images. All codes
have the same number of dimensions. A representation that is done is skipped.

    python benchmarks/label_efficiency.py
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from common import cpu_seconds, is_done, one_thread, save
from sklearn.decomposition import PCA

import vaeppl
from vaeppl.corruptions import SaltAndPepper
from vaeppl.models import VAE, AutoEncoder
from vaeppl.representation import label_efficiency

DIMENSIONS = 50
SIZES = (10, 20, 50, 100, 200, 500, 1000)
FIT: dict[str, Any] = {"batch_size": 200, "lr": 2e-3, "lr_schedule": "cosine", "progress": False}


def story(method: str) -> Any:
    """Return a story; the networks are the same for all."""
    if method == "VAE":
        return VAE(784, DIMENSIONS, hidden=(400, 200))
    noise = SaltAndPepper(0.4) if method == "DAE" else None
    return AutoEncoder(784, DIMENSIONS, hidden=(400, 200), corruption=noise)


METHODS = ("PCA", "VAE", "DAE", "AE", "pixels")


def codes(method: str, train: Any, some: Any, seed: int, epochs: int) -> np.ndarray:
    """Return the codes of some rows, learnt from the training rows."""
    x = some.take(torch.arange(len(some)))["x"]
    if method == "pixels":
        return x.numpy()
    if method == "PCA":
        learnt = train.take(torch.arange(len(train)))["x"]
        return PCA(DIMENSIONS, random_state=seed).fit(learnt.numpy()).transform(x.numpy())
    fit = vaeppl.fit(story(method), train.columns("x"), epochs=epochs, seed=seed, **FIT)
    return fit.encode(some.columns("x"))["z"].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    one_thread()
    mnist = vaeppl.data.load("mnist", binarize="static", seed=given.seed)
    train = mnist.select(mnist.splits["train"][: given.rows])
    # 5,000 rows to take labels from, 5,000 to judge on: test images, which no code was learnt from.
    some = mnist.select(mnist.splits["test"])
    labels = some.take(torch.arange(len(some)))["y"]
    for method in given.methods:
        if is_done("label_efficiency", method=method, seed=given.seed, epochs=given.epochs):
            continue
        with cpu_seconds() as spent:
            z = codes(method, train, some, given.seed, given.epochs)
        curve = label_efficiency(
            z, labels, SIZES, test_share=0.5, repeats=given.repeats, seed=given.seed
        )
        rows = [
            {
                "method": method,
                "seed": given.seed,
                "epochs": given.epochs,
                "dimensions": z.shape[1],
                "cpu_seconds": round(spent["cpu_s"]),
                **{n: (round(v, 4) if isinstance(v, float) else v) for n, v in line.items()},
            }
            for line in curve.to_dict("records")
        ]
        print(rows, flush=True)
        save("label_efficiency", rows, key=("method", "seed", "epochs", "labels"))


if __name__ == "__main__":
    main()
