"""Single-cell counts: held-out log-likelihood, clustering and time of the scVI story.

One tenth of the cells, drawn by ``RandomState(0)``, is the test; all others are fitted. The
likelihood is a mean over 1,000 importance samples a cell; clusters are k-means of the posterior
means of all cells, against the cell types. The settings were chosen on a ninth of the training
cells (``--choose``), never on the test. A fit is short: what is stopped starts again, and finished
figures are kept in results/single_cell.json.

    python benchmarks/single_cell.py
    python benchmarks/single_cell.py --data zeisel3 --seeds 0 1 2 3 4 --epochs 120 400
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from common import RESULTS, one_thread, save
from sklearn.cluster import KMeans
from sklearn.metrics import (
    adjusted_rand_score,
    normalized_mutual_info_score,
    silhouette_score,
)

import vaeppl
from vaeppl.files import read_json
from vaeppl.models import SCVI
from vaeppl.training.schedules import Cosine

DATA = ("zeisel3", "cellbench", "pbmc8k")
KEY = ("data", "story", "epochs", "seed")
SETTINGS: dict[str, Any] = {
    "batch_size": 128,
    "lr": 3e-3,
    "lr_schedule": Cosine(1.0, 0.0, warm_up=0.05),
}
STORIES: dict[str, dict[str, Any]] = {
    "latent library": {},
    "observed library": {"library": "observed"},
    "negative binomial": {"likelihood": "nb"},
}


def parts(name: str, choose: bool) -> tuple[vaeppl.data.Data, vaeppl.data.Data, vaeppl.data.Data]:
    """Return all cells, those that are fitted and those that are held out."""
    cells = vaeppl.data.load(name)
    order = np.random.RandomState(0).permutation(len(cells))
    test, train = np.sort(order[: len(cells) // 10]), np.sort(order[len(cells) // 10 :])
    if choose:
        order = np.random.RandomState(1).permutation(len(train))
        test, train = (
            train[np.sort(order[: len(train) // 9])],
            train[np.sort(order[len(train) // 9 :])],
        )
    return cells, cells.select(train), cells.select(test)


def figures(name: str, story: str, epochs: int, seed: int, given: argparse.Namespace) -> Any:
    """Fit a story to some cells and return what is reported of it."""
    cells, train, test = parts(name, given.choose)
    scvi = SCVI.for_data(train, **STORIES[story])
    spent = time.process_time()
    fit = vaeppl.fit(scvi, train, epochs=epochs, seed=seed, progress=given.progress, **SETTINGS)
    spent = time.process_time() - spent
    evidence = fit.evidence(test, num_particles=given.particles)
    elbo = fit.elbo(test, num_particles=25)
    steps = epochs * -(-len(train) // SETTINGS["batch_size"])
    return {
        "data": name,
        "story": story,
        "epochs": epochs,
        "seed": seed,
        "marginal_ll": round(evidence.mean, 2),
        "marginal_ll_se": round(evidence.se, 2),
        "mc_se": round(evidence.mc_se, 3),
        "test_elbo": round(elbo.mean, 2),
        "kl": round(elbo.kl, 2),
        **clusters(fit.encode(cells)["z"], cells["y"]),
        "seconds_per_epoch": round(float(fit.history["seconds"].median()), 3),
        "cpu_ms_per_step": round(1000 * spent / steps, 2),
        "num_particles": given.particles,
    }


def clusters(z: torch.Tensor, types: torch.Tensor) -> dict[str, float]:
    """Compare k-means of the latent means with the cell types."""
    points, labels = z.numpy(), types.numpy()
    found = KMeans(len(set(labels.tolist())), n_init=10, random_state=0).fit_predict(points)
    return {
        "ari": round(float(adjusted_rand_score(labels, found)), 3),
        "nmi": round(float(normalized_mutual_info_score(labels, found)), 3),
        "silhouette": round(float(silhouette_score(points, labels)), 3),
    }


def is_done(*key: Any) -> bool:
    """Tell whether the figures stand in the results already."""
    path = RESULTS / "single_cell.json"
    rows = read_json(path)["rows"] if path.exists() else []
    return key in {tuple(row[k] for k in KEY) for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--stories", nargs="+", choices=list(STORIES), default=["latent library"])
    parser.add_argument("--epochs", nargs="+", type=int, default=[120])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--choose", action="store_true", help="hold out training cells; not saved")
    parser.add_argument("--progress", action="store_true")
    given = parser.parse_args()
    one_thread()
    for seed in given.seeds:
        for epochs in given.epochs:
            for name in given.data:
                for story in given.stories:
                    if not given.choose and is_done(name, story, epochs, seed):
                        continue
                    row = figures(name, story, epochs, seed, given)
                    print(row, flush=True)
                    if not given.choose:
                        save("single_cell", [row], key=KEY)


if __name__ == "__main__":
    main()
