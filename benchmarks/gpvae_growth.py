"""Cost of a training step of the GP-prior VAE against the number of rows.

All MNIST digits turned by 16 angles: up to 960,000 rows. Objects have eight principal components,
angles a periodic kernel: rank 128. A step is gradient and update by Adam; each case runs in a
process of its own, and memory is the highest resident set less what is resident before the step
(the data among it). The exact story takes all rows at once, as bytes; minibatches of 256 are turned
as they are asked for.

    python benchmarks/gpvae_growth.py
    python benchmarks/gpvae_growth.py --rows 4096 16384 --routes minibatch
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import one_thread, save
from torch import Tensor

import vaeppl
from vaeppl import gp
from vaeppl.estimators import ELBO
from vaeppl.likelihoods import Normal
from vaeppl.models import GPVAE, ExactGPVAE
from vaeppl.nets import ConvDecoder, ConvEncoder
from vaeppl.pair import Pair

ROWS = (4096, 16_384, 65_536, 262_144, 960_000)
ANGLES = 16
BATCH = 256
STEPS = {"exact": 2, "minibatch": 20}
MANY = 100_000  # rows above which one step of the exact story is timed
PART = 4096  # rows that are turned together


def turned(images: Tensor, angle: Tensor) -> Tensor:
    """Turn images ``(B, 28, 28)`` by angles ``(B,)``; grey levels are bytes, ``(B, 784)``."""
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    turn = torch.stack([cos, -sin, zero, sin, cos, zero], -1).reshape(-1, 2, 3)
    grid = F.affine_grid(turn, [len(images), 1, 28, 28], align_corners=False)
    grey = F.grid_sample(images.unsqueeze(1).float(), grid, align_corners=False)
    return grey.round().to(torch.uint8).flatten(1)


class Rows:
    """Rows of all digits at all angles, made as they are asked for."""

    def __init__(self, count: int) -> None:
        images = vaeppl.data.load("mnist").select(slice(0, -(-count // ANGLES)))["x"]
        self.images = (255 * images).round().to(torch.uint8).reshape(-1, 28, 28)
        centred = images - images.mean(0)
        covariance = (centred.T @ centred).double()
        scores = centred @ torch.linalg.eigh(covariance).eigenvectors[:, -8:].float()
        self.features = scores / scores.norm(dim=-1, keepdim=True).clamp(min=1e-6)

    def take(self, index: Tensor) -> dict[str, Tensor]:
        """Return some rows: image n // 16 at angle n % 16."""
        which, angle = index // ANGLES, (index % ANGLES) * (2 * math.pi / ANGLES)
        x = turned(self.images[which], angle)
        return {"x": x, "angle": angle, "object_features": self.features[which]}


def story(cls: type[GPVAE]) -> Any:
    """Return the story: pixels are grey levels, so their unit is 255."""
    angles = torch.arange(ANGLES).unsqueeze(-1) * (2 * math.pi / ANGLES)
    view = gp.On("angle", "periodic", period_length=2 * math.pi, inducing=angles)
    channels = (8, 8, 8)
    encoder = ConvEncoder((28, 28), 128, channels=channels, activation="elu")
    decoder = ConvDecoder(16, (28, 28), channels=channels, activation="elu")
    return cls(
        784,
        16,
        kernel=view * gp.On("object_features", "linear", dim=8),
        likelihood=Normal(0.1, unit=255.0),
        encoder=encoder.to(memory_format=torch.channels_last),
        decoder=decoder.to(memory_format=torch.channels_last),
    )


def stepper(model: Any, full: int, batch: Callable[[], dict[str, Tensor]]) -> Callable[[], None]:
    """Return a function that takes a training step."""
    pair, elbo = Pair(model), ELBO()
    optimizer = torch.optim.Adam([p for p in pair.parameters() if p.requires_grad], lr=1e-3)

    def step() -> None:
        columns = batch()
        optimizer.zero_grad()
        with pair.active(full):
            (elbo.differentiable_loss(pair.model, pair.guide, **columns) / full).backward()
        optimizer.step()

    return step


def memory_mb(which: str) -> float:
    """Return the resident set (``VmRSS``) or its highest since the last reset (``VmHWM``)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1]) / 1024
    raise OSError(f"no {which} in /proc/self/status: memory is measured on Linux only")


def measure(route: str, count: int) -> dict[str, Any]:
    """Measure one case, in this process."""
    torch.manual_seed(0)
    rows = Rows(count)
    if route == "exact":
        x = torch.empty(count, 784, dtype=torch.uint8)
        w = {"angle": torch.empty(count), "object_features": torch.empty(count, 8)}
        for index in torch.arange(count).split(PART):
            part = rows.take(index)
            x[index] = part.pop("x")
            for name, values in part.items():
                w[name][index] = values
        step = stepper(story(ExactGPVAE), count, lambda: {"x": x, **w})
    else:
        step = stepper(story(GPVAE), count, lambda: rows.take(torch.randint(count, (BATCH,))))
    before = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest starts anew
    seconds = []
    for _ in range(1 if route == "exact" and count > MANY else STEPS[route]):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    return {
        "route": route,
        "rows": count,
        "step_cpu_seconds": round(statistics.median(seconds), 4),
        "step_memory_mb": round(memory_mb("VmHWM") - before),
        "data_mb": round(before),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS)
    parser.add_argument("--routes", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--case", nargs=2, metavar=("ROUTE", "ROWS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    one_thread()
    if given.case:
        print(json.dumps(measure(given.case[0], int(given.case[1]))))
        return
    for route in given.routes:
        for count in given.rows:
            command = [sys.executable, __file__, "--case", route, str(count)]
            row = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            print(row, flush=True)
            save("gpvae_growth", [row], key=("route", "rows"))


if __name__ == "__main__":
    main()
