"""MNIST with few labels: the table of Kingma, Rezende, Mohamed & Welling (2014).

The labels kept are balanced over the classes and drawn by the seed; the other training images are
there without a label; the 10,000 test images are fixed. Pixels are binarised anew at each epoch,
and grey where they are read for a prediction. A fit that is stopped goes on where it was: each has
a folder under ``--runs``, and finished figures are kept in results/mnist_few_labels.json.

    python benchmarks/few_labels.py --methods m1 --labels 100 600 1000 3000 --seeds 0 1 2
    python benchmarks/few_labels.py --methods m2 m1m2 --labels 100 --seeds 0 --minutes 60

``--minutes`` ends the work after so many minutes, wherever it is; the same command goes on.
"""

from __future__ import annotations

import argparse
import functools
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, one_thread, save
from sklearn.semi_supervised import LabelSpreading

import vaeppl
from vaeppl.files import read_json
from vaeppl.models import M1, M1M2, M2
from vaeppl.training.schedules import Cosine, Linear

COUNTS = (100, 600, 1000, 3000)
# The penalty and kernel of "svm" are chosen on the labelled rows; label spreading is scikit-learn's
# on a graph of seven neighbours, and gets the rows without a label too.
CLASSIFIERS: dict[str, Any] = {
    "M1+SVM": "svm",
    "M1+logistic": "logistic",
    "M1+label spreading": LabelSpreading(kernel="knn", n_neighbors=7, alpha=0.9, max_iter=300),
}
FITS: dict[str, dict[str, Any]] = {
    "m1": {"epochs": 60, "lr": 2e-3, "batch_size": 200, "kl_weight": Linear(0.0, 1.0, share=0.5)},
    "m2": {"epochs": 8, "lr": 3e-3, "batch_size": 100},
    "m1m2": {"epochs": 50, "lr": 3e-3, "batch_size": 200},
}
NAMES = {"m2": "M2", "m1m2": "M1+M2"}


@functools.cache
def mnist() -> tuple[vaeppl.data.Data, vaeppl.data.Data]:
    """Return the 60,000 training images, binarised anew as they are read, and the test images."""
    grey, binary = vaeppl.data.load("mnist"), vaeppl.data.load("mnist", binarize="dynamic")
    index = torch.cat([grey.splits["train"], grey.splits["valid"]])
    return binary.select(index), grey.test


@functools.cache
def grey() -> vaeppl.data.Data:
    """Return the training images as they are, which classifiers read, in the same order."""
    data = vaeppl.data.load("mnist")
    return data.select(torch.cat([data.splits["train"], data.splits["valid"]]))


def fitted(method: str, labels: int, seed: int, given: argparse.Namespace) -> vaeppl.Fit | None:
    """Return a finished fit of a method, going on with one that was stopped; None if it was again.

    M1 does not read the labels, so it is fitted once for all their numbers.
    """
    options = {**FITS[method], **({"epochs": given.epochs} if given.epochs else {})}
    folder = f"{method}-{seed}" if method == "m1" else f"{method}-{labels}-{seed}"
    train, _ = mnist()
    some = train.few_labels("y", total=labels, seed=seed)
    below = None
    if method == "m1m2":
        below = fitted("m1", labels, seed, given)
        if below is None:
            return None
    fit = vaeppl.fit(
        story(method, seed, below),
        some.columns("x") if method == "m1" else some,
        lr_schedule=Cosine(1.0, 0.0, warm_up=0.05),
        seed=seed,
        out=Path(given.runs) / f"{folder}-{options['epochs']}",
        resume=True,
        progress=given.progress,
        **options,
    )
    return None if fit.stopped == "interrupted" else fit


def story(method: str, seed: int, below: vaeppl.Fit | None) -> vaeppl.Model:
    """Return the story of a method: M1 as in the paper, M2 with a small style and a large α."""
    if method == "m1":
        return M1(784, 50, hidden=(600, 600), activation="softplus")
    if method == "m2":
        return M2(784, 10, 10, alpha=50.0, hidden=(500,), activation="relu")
    below.train = mnist()[0].columns("x")
    return M1M2.above(below, 10, 10, alpha=0.1, hidden=(100,), seed=seed)


def rows_of(method: str, labels: int, seed: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the figures of a method, none if it was stopped."""
    fit = fitted(method, labels, seed, given)
    if fit is None:
        return []
    test = mnist()[1]
    minutes = float(fit.history["seconds"].sum()) / 60
    if method == "m1m2":
        minutes += float(fitted("m1", labels, seed, given).history["seconds"].sum()) / 60
    about = {
        "labels": labels,
        "seed": seed,
        "epochs": len(fit.history),
        "minutes": round(minutes, 1),
    }
    if method != "m1":
        report = fit.score_labels(test)
        return [{"method": NAMES[method], **about, **_figures(report)}]
    some = grey().few_labels("y", total=labels, seed=seed)
    found = []
    for name, classifier in CLASSIFIERS.items():
        trained = vaeppl.LatentClassifier(fit, classifier, seed=seed).fit(some)
        report = vaeppl.classification_report(trained.predict_proba(test), test["y"])
        found.append({"method": name, **about, **_figures(report)})
    return found


def _figures(report: Any) -> dict[str, float]:
    return {
        "error_percent": round(report.error_percent, 2),
        "error_percent_se": round(report.error_percent_se, 2),
        "log_loss": round(report.log_loss, 4),
        "ece": round(report.ece, 4),
    }


def is_done(method: str, labels: int, seed: int, given: argparse.Namespace) -> bool:
    """Tell whether the figures stand in the results already."""
    path = RESULTS / "mnist_few_labels.json"
    rows = read_json(path)["rows"] if path.exists() else []
    epochs = given.epochs or FITS[method]["epochs"]
    names = set(CLASSIFIERS) if method == "m1" else {NAMES[method]}
    there = {
        r["method"] for r in rows if (r["labels"], r["seed"], r["epochs"]) == (labels, seed, epochs)
    }
    return names <= there


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=sorted(FITS), default=["m1", "m2", "m1m2"])
    parser.add_argument("--labels", nargs="+", type=int, default=COUNTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, help="end after so many minutes")
    parser.add_argument("--epochs", type=int, help="instead of those of each method")
    parser.add_argument("--runs", default="runs/few_labels", help="folder of the fits")
    parser.add_argument("--progress", action="store_true")
    given = parser.parse_args()
    one_thread()
    if given.minutes:
        signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, 60 * given.minutes)
    for method in given.methods:
        for seed in given.seeds:
            for labels in given.labels:
                if is_done(method, labels, seed, given):
                    continue
                try:
                    rows = rows_of(method, labels, seed, given)
                except KeyboardInterrupt:
                    rows = []
                if not rows:
                    print("stopped: the same command goes on from here", flush=True)
                    sys.exit(1)
                for row in rows:
                    print(row, flush=True)
                save("mnist_few_labels", rows, key=("method", "labels", "seed", "epochs"))


if __name__ == "__main__":
    main()
