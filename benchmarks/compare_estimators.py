"""Eight estimators of the evidence bound on the digits, five seeds each, in both modes.

A VAE of 1,797 images with counts of ink from 0 to 16: at weights half way (*frozen*), and fitted
by each estimator from the same weights in the same order of rows (*trained*)::

    python benchmarks/compare_estimators.py --jobs 2
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import matplotlib.pyplot as plt
from common import RESULTS, cpu_seconds, one_thread, save

import vaeppl
from vaeppl.likelihoods import Binomial
from vaeppl.models import VAE

SETTINGS: dict[str, Any] = {"epochs": 50, "lr": 3e-3, "batch_size": 128}
PARTICLES = 8


def story() -> VAE:
    """Return the VAE that all are compared on."""
    return VAE(64, latent_dim=8, likelihood=Binomial(16), hidden=(128,))


def numbers(table: Any, mode: str, **more: Any) -> list[dict[str, Any]]:
    """Return the lines of a table as rows of results."""
    rows = []
    for label, line in table.iterrows():
        values = {k: _plain(v) for k, v in line.items()}
        rows.append({"mode": mode, "estimator": label, **values, **more})
    return rows


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return None if math.isnan(value) else float(f"{value:.6g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    one_thread()
    digits = vaeppl.data.load("digits").split(valid=0, test=0.2, seed=0)
    with cpu_seconds() as spent:
        trained = vaeppl.compare_estimators(
            story(),
            digits,
            mode="trained",
            num_particles=PARTICLES,
            seeds=given.seeds,
            jobs=given.jobs,
            progress=True,
            **SETTINGS,
        )
    half = vaeppl.fit(
        story(), digits.train, **{**SETTINGS, "epochs": SETTINGS["epochs"] // 2}, progress=False
    )
    frozen = vaeppl.compare_estimators(half, digits, num_particles=PARTICLES, repeats=200)
    known = {
        "minutes": round(spent["wall_s"] / 60, 2),
        "jobs": given.jobs,
        "fits": len(trained.runs),
        "held_out": len(trained.pointwise),
        **{k: SETTINGS[k] for k in ("epochs", "lr")},
    }
    table = trained.table.join(trained.compare()[["elpd_diff", "dse"]])
    evidence = {
        "reference": round(frozen.reference.evidence, 3),
        "reference_se": round(frozen.reference.evidence_se, 4),
        "repeats": frozen.repeats,
        "rows": frozen.rows,
    }
    rows = numbers(table, "trained", **known) + numbers(frozen.table, "frozen", **evidence)
    print(table.to_string(), frozen.table.to_string(), known, sep="\n\n")
    for name, ax in (
        ("curves", vaeppl.plots.estimator_curves(trained)),
        ("bias_variance", vaeppl.plots.bias_variance(frozen)),
    ):
        figure: Any = ax.figure
        figure.savefig(RESULTS / f"compare_estimators_{name}.png", dpi=110)
        plt.close(figure)
    print(save("compare_estimators", rows, key=("mode", "estimator")))


if __name__ == "__main__":
    main()
