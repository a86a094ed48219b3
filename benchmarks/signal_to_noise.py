"""Signal-to-noise of gradients against the number of particles: IWAE and DReG.

The story of Rainforth et al. 2018, section 4: z ~ N(μ, I), x ~ N(z, I) in 20 dimensions, a guide
N(A x + b, 2/3 I), with μ off by 0.1, b by 0.05 and A by 0.01 from their best. For the guide the
ratio falls as 1/√K with IWAE and grows as √K with DReG (Tucker et al. 2019); for the model it grows
with both::

    python benchmarks/signal_to_noise.py
"""

from __future__ import annotations

import argparse
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from common import RESULTS, cpu_seconds, one_thread, save
from torch import Tensor, nn

import vaeppl

DIM = 20


class LinearGaussian(vaeppl.Model):
    """z ~ N(μ, I), x ~ N(z, I), with a guide whose mean is linear in x."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()

        def near(best: Tensor, off: float) -> nn.Parameter:
            return nn.Parameter(best + off * torch.randn_like(best))

        self.mu = near(mean, 0.1)
        self.A, self.b = near(torch.eye(DIM) / 2, 0.01), near(self.mu.detach() / 2, 0.05)

    def model(self, x: Tensor | None = None) -> None:
        """Draw latents around μ, and data around them."""
        with vaeppl.rows(x):
            z = pyro.sample("z", dist.Normal(self.mu, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """Draw latents near the posterior's mean, with variance 2/3 where it has 1/2."""
        with vaeppl.rows(x):
            q = dist.Normal(x @ self.A.T + self.b, (2 / 3) ** 0.5).to_event(1)
            pyro.sample("z", q)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=600)
    parser.add_argument("--particles", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    given = parser.parse_args()
    one_thread()
    torch.manual_seed(0)
    mean = torch.randn(DIM)
    x = mean + 2**0.5 * torch.randn(given.rows, DIM)
    with cpu_seconds() as spent:
        found = vaeppl.compare_estimators(
            LinearGaussian(x.mean(0)),
            {"x": x},
            estimators=["iwae", "dreg"],
            num_particles=given.particles,
            rows=given.rows,
            repeats=given.repeats,
        )
    rows: list[dict[str, Any]] = []
    for name in ("iwae", "dreg"):
        lines = found.table[[label.startswith(name) for label in found.table.index]]
        for group in ("model", "guide"):
            ratios = lines[f"{group}_snr"].to_numpy()
            last = slice(-3, None)  # what theory says holds for many particles
            counts = np.log(lines["num_particles"].to_numpy()[last])
            slope = np.polyfit(counts, np.log(ratios[last]), 1)[0]
            rows.append(
                {
                    "estimator": name,
                    "group": group,
                    "slope": round(float(slope), 3),
                    "snr": [round(float(r), 5) for r in ratios],
                    "particles": given.particles,
                    "repeats": given.repeats,
                    "cpu_seconds": round(spent["cpu_s"]),
                }
            )
            print(rows[-1], flush=True)
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for group, ax in zip(("guide", "model"), panels, strict=True):
        vaeppl.plots.signal_to_noise(found, ax, group=group)
    figure.savefig(RESULTS / "signal_to_noise.png", dpi=110)
    print(save("signal_to_noise", rows, key=("estimator", "group")))


if __name__ == "__main__":
    main()
