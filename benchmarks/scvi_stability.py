"""Single-cell counts: does every fit stay finite? Twenty seeds, three data sets, default settings.

Nothing is set but the seed: ``vaeppl.fit(SCVI.for_data(cells), cells, seed=seed)``. What is kept of
a fit: whether every ELBO and every parameter is finite, and the last ELBO. Finished fits stand in
results/scvi_stability.json and are not run again.

    python benchmarks/scvi_stability.py
"""

from __future__ import annotations

import argparse

import numpy as np
from common import RESULTS, one_thread, save

import vaeppl
from vaeppl.files import read_json
from vaeppl.models import SCVI

DATA = ("zeisel3", "cellbench", "pbmc8k")
KEY = ("data", "seed")


def figures(name: str, seed: int, epochs: int) -> dict[str, object]:
    """Fit all cells of a data set with default settings."""
    cells = vaeppl.data.load(name)
    scvi = SCVI.for_data(cells)
    try:
        fit = vaeppl.fit(scvi, cells, epochs=epochs, seed=seed, progress=False)
    except vaeppl.errors.NonFiniteELBO as error:
        return {"data": name, "seed": seed, "finite": False, "elbo": None, "why": str(error)}
    numbers = [fit.history[["elbo", "reconstruction", "kl"]].to_numpy()]
    numbers += [p.detach().numpy() for p in scvi.parameters()]
    return {
        "data": name,
        "seed": seed,
        "finite": all(bool(np.isfinite(n).all()) for n in numbers),
        "elbo": round(float(fit.history["elbo"].iloc[-1]), 2),
        "epochs": epochs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--epochs", type=int, default=100)
    given = parser.parse_args()
    one_thread()
    path = RESULTS / "scvi_stability.json"
    done = {tuple(r[k] for k in KEY) for r in read_json(path)["rows"]} if path.exists() else set()
    for seed in range(given.seeds):
        for name in given.data:
            if (name, seed) not in done:
                row = figures(name, seed, given.epochs)
                print(row, flush=True)
                save("scvi_stability", [row], key=KEY)


if __name__ == "__main__":
    main()
