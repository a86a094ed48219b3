"""Side by side with scvi-tools: the same cells, split, network, batches and epochs.

scvi-tools is no dependency of this package; in an environment of its own::

    pip install -c constraints.txt -e '.[test]' 'scvi-tools==1.4.2'
    python benchmarks/scvi_tools.py --seeds 0 1 2 3 4     # likelihood and clusters
    python benchmarks/scvi_tools.py --time                # seconds per epoch
    python benchmarks/scvi_tools.py --memory              # and peak memory

One tenth of the cells, drawn by ``RandomState(0)``, is the test; all others are fitted. Each tool
computes its own held-out log-likelihood, by 1,000 importance samples a cell. scvi-tools runs as it
comes, and without its KL warm-up of 400 epochs, the end of which 120 epochs do not reach. Seconds
are those between start and end of an epoch, in rounds in which the tools take turns. Memory is the
peak of a process that makes one short fit, above what it held before. Finished figures stand in
results/scvi_tools.json and are not computed again.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
import warnings
from statistics import median
from typing import Any

import numpy as np
import torch
from common import RESULTS, one_thread, save
from single_cell import DATA, SETTINGS, parts

import vaeppl
from vaeppl.files import read_json
from vaeppl.models import SCVI
from vaeppl.representation import batch_mixing, clusterability

KEY = ("kind", "tool", "data", "epochs", "seed")
PARTICLES = 1000
OURS: dict[str, dict[str, Any]] = {
    "vaeppl": {},
    "vaeppl, observed library": {"library": "observed"},
}
THEIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "scvi-tools": ({}, {}),
    "scvi-tools, no KL warm-up": ({}, {"n_epochs_kl_warmup": None}),
    "scvi-tools, latent library, no KL warm-up": (
        {"use_observed_lib_size": False},
        {"n_epochs_kl_warmup": None},
    ),
}
TIMED = {"vaeppl, eager": False, "vaeppl, compiled": True}


# --- one fit of each tool ---


def our_fit(train: Any, options: dict[str, Any], epochs: int, seed: int, **how: Any) -> Any:
    """Fit our story; the settings are those of single_cell.py."""
    story = SCVI.for_data(train, **options)
    return vaeppl.fit(story, train, epochs=epochs, seed=seed, progress=False, **SETTINGS, **how)


def their_fit(cells: Any, train: np.ndarray, tool: str, epochs: int, seed: int) -> Any:
    """Fit scvi-tools to some of the cells; returns the model of them all, and seconds of epochs."""
    import anndata
    import scvi

    scvi.settings.seed = seed
    scvi.settings.verbosity = logging.ERROR
    options, plan = THEIRS[tool]
    table = anndata.AnnData(cells["x"].numpy().astype(np.float32))
    table.obs["batch"] = [str(b) for b in cells["batch"].tolist()]
    scvi.model.SCVI.setup_anndata(table, batch_key="batch")
    model = scvi.model.SCVI(table, n_latent=10, n_hidden=128, n_layers=1, **options)
    clock = _clock()
    held_out = np.setdiff1d(np.arange(len(table)), train)
    model.train(
        max_epochs=epochs,
        batch_size=SETTINGS["batch_size"],
        datasplitter_kwargs={"external_indexing": [train, np.array([], dtype=int), held_out]},
        accelerator="cpu",
        plan_kwargs=plan,
        enable_progress_bar=False,
        callbacks=[clock],
    )
    return model, clock.seconds


def _clock() -> Any:
    from lightning.pytorch.callbacks import Callback

    class Clock(Callback):
        """Seconds between start and end of each epoch."""

        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_train_epoch_start(self, *_: Any) -> None:
            self.started = time.perf_counter()

        def on_train_epoch_end(self, *_: Any) -> None:
            self.seconds.append(time.perf_counter() - self.started)

    return Clock()


# --- likelihood and clusters ---


def our_figures(tool: str, name: str, epochs: int, seed: int) -> dict[str, Any]:
    """Held-out likelihood and clusters of our story."""
    cells, train, test = parts(name, choose=False)
    fit = our_fit(train, OURS[tool], epochs, seed)
    evidence = fit.evidence(test, num_particles=PARTICLES)
    return {
        "marginal_ll": round(evidence.mean, 2),
        "marginal_ll_se": round(evidence.se, 2),
        "test_elbo": round(fit.elbo(test, num_particles=25).mean, 2),
        **clusters(fit.encode(cells)["z"].numpy(), cells),
    }


def their_figures(tool: str, name: str, epochs: int, seed: int) -> dict[str, Any]:
    """Held-out likelihood and clusters of scvi-tools, by its own functions."""
    cells, train, test = parts(name, choose=False)
    rows = np.random.RandomState(0).permutation(len(cells))
    held_out, fitted = np.sort(rows[: len(cells) // 10]), np.sort(rows[len(cells) // 10 :])
    assert len(held_out) == len(test) and len(fitted) == len(train)
    model, _ = their_fit(cells, fitted, tool, epochs, seed)
    log_p = torch.as_tensor(
        model.get_marginal_ll(
            indices=held_out,
            n_mc_samples=PARTICLES,
            n_mc_samples_per_pass=20,
            return_mean=False,
        )
    )
    elbos = [float(model.get_elbo(indices=held_out)) for _ in range(25)]
    return {
        "marginal_ll": round(float(log_p.mean()), 2),
        "marginal_ll_se": round(float(log_p.std()) / len(log_p) ** 0.5, 2),
        "test_elbo": round(float(np.mean(elbos)), 2),
        **clusters(model.get_latent_representation(), cells),
    }


def clusters(z: np.ndarray, cells: Any) -> dict[str, Any]:
    """Compare k-means of the latent means with cell types, and mix batches within these."""
    types, batch = cells["y"].numpy(), cells["batch"].numpy()
    found = clusterability(z, types)
    several = len(np.unique(batch)) > 1
    return {
        "ari": round(found.ari, 3),
        "nmi": round(found.nmi, 3),
        "silhouette": round(found.silhouette_of_labels, 3),
        "batch_mixing": round(batch_mixing(z, batch, within=types).value, 3) if several else None,
    }


# --- time and memory ---


def times(name: str, rounds: int, epochs: int) -> list[dict[str, Any]]:
    """Seconds of an epoch, in rounds in which the tools take turns; medians."""
    cells, train, _ = parts(name, choose=False)
    fitted = np.sort(np.random.RandomState(0).permutation(len(cells))[len(cells) // 10 :])
    seconds: dict[str, list[float]] = {tool: [] for tool in ("scvi-tools", *TIMED)}
    for number in range(rounds):
        for tool, compiled in TIMED.items():
            fit = our_fit(train, {}, epochs, number, compile=compiled)
            seconds[tool] += fit.history["seconds"].tolist()[epochs // 2 :]
        seconds["scvi-tools"] += their_fit(cells, fitted, "scvi-tools", epochs, number)[1][
            epochs // 2 :
        ]
    steps = -(-len(train) // SETTINGS["batch_size"])
    theirs = median(seconds["scvi-tools"])
    return [
        {
            "kind": "time",
            "tool": tool,
            "data": name,
            "epochs": epochs,
            "seed": 0,
            "seconds_per_epoch": round(median(found), 4),
            "ms_per_step": round(1000 * median(found) / steps, 2),
            "ratio_to_scvi_tools": round(median(found) / theirs, 3),
            "rounds": rounds,
        }
        for tool, found in seconds.items()
    ]


def memory(name: str) -> list[dict[str, Any]]:
    """Peak memory of a short fit, each tool in a process of its own."""
    rows = []
    for tool in ("scvi-tools", *TIMED):
        command = [sys.executable, __file__, "--peak-of", tool, "--data", name]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(said.strip().splitlines()[-1]))
    return rows


def peak(tool: str, name: str) -> dict[str, Any]:
    """Make one short fit and tell the peak of this process's memory."""
    cells, train, _ = parts(name, choose=False)
    if tool == "scvi-tools":
        import scvi  # noqa: F401
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if tool == "scvi-tools":
        their_fit(cells, np.arange(len(cells))[len(cells) // 10 :], tool, 3, 0)
    else:
        our_fit(train, {}, 3, 0, compile=TIMED[tool])
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "kind": "memory",
        "tool": tool,
        "data": name,
        "epochs": 3,
        "seed": 0,
        "peak_mb": round(after / 1024),
        "peak_mb_of_fit": round((after - before) / 1024),
    }


def is_done(*key: Any) -> bool:
    """Tell whether the figures stand in the results already."""
    path = RESULTS / "scvi_tools.json"
    rows = read_json(path)["rows"] if path.exists() else []
    return key in {tuple(row[k] for k in KEY) for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    one_thread()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if given.peak_of:
        print(json.dumps(peak(given.peak_of, given.data[0])))
        return
    for name in given.data:
        for row in times(name, given.rounds, 12) if given.time else []:
            print(row, flush=True)
            save("scvi_tools", [row], key=KEY)
        for row in memory(name) if given.memory else []:
            print(row, flush=True)
            save("scvi_tools", [row], key=KEY)
    if given.time or given.memory:
        return
    for seed in given.seeds:
        for name in given.data:
            for tool in (*OURS, *THEIRS):
                if is_done("fit", tool, name, given.epochs, seed):
                    continue
                figures = our_figures if tool in OURS else their_figures
                row = {"kind": "fit", "tool": tool, "data": name, "epochs": given.epochs}
                row |= {"seed": seed, **figures(tool, name, given.epochs, seed)}
                print(row, flush=True)
                save("scvi_tools", [row], key=KEY)


if __name__ == "__main__":
    main()
