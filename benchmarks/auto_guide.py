"""A guide made from the story alone against the one that was written by hand.

For a VAE, a CVAE, M2, a deep VAE and scVI: the same story is fitted with its own guide and with
`AutoAmortizedGuide` of equal networks, on the same rows, and the evidence of held-out rows is
compared row by row (importance sampling, so that of the fitted story, as each guide can tell it).

    python benchmarks/auto_guide.py --seeds 2
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import cpu_seconds, is_done, one_thread, save

import vaeppl
from vaeppl.guides import AutoAmortizedGuide
from vaeppl.likelihoods import Binomial, Categorical
from vaeppl.models import CVAE, M2, SCVI, VAE, HierarchicalVAE

DIGITS = Binomial(16)
PARTICLES = 500


def digits() -> vaeppl.data.Data:
    return vaeppl.data.load("digits").split(valid=0.0, test=0.2, seed=0)


def vae() -> tuple[Any, Any, Any]:
    return VAE(64, 8, likelihood=DIGITS, hidden=(128,)), digits().columns("x"), {"hidden": (128,)}


def cvae() -> tuple[Any, Any, Any]:
    rows = digits().rename({"x": "y", "y": "x"})
    story = CVAE(1, 64, 8, likelihood=DIGITS, condition=Categorical(10), hidden=(128,))
    return story, rows.columns("x", "y"), {"hidden": (128,)}


def m2() -> tuple[Any, Any, Any]:
    rows = digits().few_labels("y", per_class=20)
    story = M2(64, 10, 8, alpha=0.0, likelihood=DIGITS, hidden=(128,), activation="relu")
    return story, rows, {"hidden": (128,)}


def deep_vae() -> tuple[Any, Any, Any]:
    story = HierarchicalVAE(64, (8, 4), likelihood=DIGITS, hidden=(128,))
    return story, digits().columns("x"), {"hidden": (128,)}


def scvi() -> tuple[Any, Any, Any]:
    cells = vaeppl.data.load("zeisel3").split(valid=0.0, test=0.1, seed=0).columns("x")
    options = {"hidden": (128,), "norm": "batch", "dropout": 0.1}
    return SCVI.for_data(cells), cells, options


CASES: dict[str, tuple[Callable[[], tuple[Any, Any, Any]], int]] = {
    "VAE": (vae, 150),
    "CVAE": (cvae, 150),
    "M2": (m2, 100),
    "deep VAE": (deep_vae, 150),
    "scVI": (scvi, 60),
}


def fitted(case: str, guide: str, seed: int, share: float) -> tuple[np.ndarray, float]:
    """Return the evidence of each held-out row, and the seconds of the fit."""
    make, epochs = CASES[case]
    torch.manual_seed(seed)
    story, rows, options = make()
    own = None if guide == "by hand" else AutoAmortizedGuide(story, rows.train, **options)
    with cpu_seconds() as spent:
        fit = vaeppl.fit(
            story,
            rows,
            guide=own,
            epochs=max(1, round(share * epochs)),
            seed=seed,
            lr=2e-3,
            lr_schedule="cosine",
            progress=False,
        )
    held_out = rows.test.columns("x") if case == "M2" else rows.test
    report = vaeppl.evidence(fit, held_out, num_particles=PARTICLES)
    return report.rows["log_evidence"].to_numpy(), spent["cpu_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--share", type=float, default=1.0, help="of the epochs, for a try")
    given = parser.parse_args()
    one_thread()
    for case in given.cases:
        for seed in range(given.seeds):
            if is_done("auto_guide", case=case, seed=seed):
                continue
            hand, hand_s = fitted(case, "by hand", seed, given.share)
            auto, auto_s = fitted(case, "auto", seed, given.share)
            difference = auto - hand
            row = {
                "case": case,
                "seed": seed,
                "rows": len(hand),
                "by_hand": round(float(hand.mean()), 3),
                "auto": round(float(auto.mean()), 3),
                "difference": round(float(difference.mean()), 3),
                "difference_se": round(float(difference.std(ddof=1) / len(hand) ** 0.5), 3),
                "evidence_se": round(float(hand.std(ddof=1) / len(hand) ** 0.5), 3),
                "by_hand_cpu_s": round(hand_s, 1),
                "auto_cpu_s": round(auto_s, 1),
            }
            print(row, flush=True)
            save("auto_guide", [row], key=("case", "seed"))


if __name__ == "__main__":
    main()
