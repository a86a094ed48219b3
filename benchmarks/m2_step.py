"""A training step of M2 with enumerated labels, against the same bound written by hand in PyTorch.

Both take the same batch of MNIST's size (160 rows without a label, 40 with one), the sizes of the
paper (hidden layers of 500, softplus, 50 latents), float32 and fused Adam, and are timed in turn.

    python benchmarks/m2_step.py --rounds 60
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from statistics import median

import pyro
import torch
import torch.nn.functional as F
from common import one_thread, save
from torch import Tensor

from vaeppl.estimators import ELBO
from vaeppl.models import M2
from vaeppl.pair import Pair
from vaeppl.training.loop import Objective, Part

ROWS, LABELLED, UNLABELLED, DIM, LABELS = 60_000, 40, 160, 784, 10
ALL_LABELLED = 100


class ByHand:
    """The two bounds of Kingma et al. 2014 (equations 6 and 7) and the classification term.

    It shares the networks of an M2, so that values can be compared; nothing else is vaeppl's. The
    product of x with the first layer is taken once for all labels, as a careful author would.
    """

    def __init__(self, m2: M2) -> None:
        self.m2 = m2
        self.labels = torch.eye(LABELS)

    def bound(self, x: Tensor, y: Tensor) -> Tensor:
        """L(x, y), with y as indicators that broadcast against the rows."""
        m2 = self.m2
        first = m2.encoder.layers[0]
        w_x, w_y = first.weight.split((DIM, LABELS), dim=1)
        h = m2.encoder.layers[1:](F.linear(x, w_x, first.bias) + F.linear(y, w_y))
        loc, raw = m2.q.head(h).chunk(2, -1)
        scale = F.softplus(raw) + 1e-4
        z = loc + scale * torch.randn_like(scale)
        weight, bias = m2.decoder.weight, m2.decoder.bias
        if y.ndim == 3:  # all labels, for each row
            h = torch.baddbmm(bias.unsqueeze(1), z, weight.mT)
        else:
            label = y.argmax(-1)
            h = torch.einsum("bhl,bl->bh", weight[label], z) + bias[label]
        logits = m2.decoder.rest(h)
        target = x.expand_as(logits)
        log_p = -F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
        kl = 0.5 * (loc**2 + scale**2 - 1 - 2 * scale.log()).sum(-1)
        return log_p - math.log(LABELS) - kl

    def loss(self, x_u: Tensor, x_l: Tensor, y_l: Tensor) -> Tensor:
        """Return minus the objective per row of the data."""
        log_q = self.m2.classifier(x_u).log_softmax(-1).T
        each = self.bound(x_u, self.labels.unsqueeze(1))
        unlabelled = (log_q.exp() * (each - log_q)).sum() * (ROWS - ALL_LABELLED) / UNLABELLED
        labelled = self.bound(x_l, self.labels[y_l]).sum() * ALL_LABELLED / LABELLED
        log_q = -F.cross_entropy(self.m2.classifier(x_l), y_l)
        return -(unlabelled + labelled + self.m2.alpha * ROWS * log_q) / ROWS


def contestants() -> dict[str, Callable[[], Tensor]]:
    """Return a training step of each."""
    torch.manual_seed(0)
    x_u, x_l = ((torch.rand(n, DIM) < 0.2).float() for n in (UNLABELLED, LABELLED))
    y_l = torch.arange(LABELLED) % LABELS
    parts = [
        Part({"x": x_u}, ROWS - ALL_LABELLED),
        Part({"x": x_l, "y": y_l}, ALL_LABELLED),
    ]
    ours, theirs, pyros = (M2(DIM, LABELS, 50) for _ in range(3))
    theirs.load_state_dict(ours.state_dict())
    hand = ByHand(theirs)
    losses = {
        "by_hand": (theirs, lambda: hand.loss(x_u, x_l, y_l)),
        "vaeppl": (ours, _objective(ours, ELBO(), parts)),
        "pyro_traceenum": (pyros, _objective(pyros, pyro.infer.TraceEnum_ELBO(), parts)),
    }
    with torch.no_grad():
        values = {name: float(loss()) for name, (_, loss) in losses.items()}
    print("losses:", values)
    return {name: _step(model, loss) for name, (model, loss) in losses.items()}


def _objective(model: M2, estimator: pyro.infer.ELBO, parts: list[Part]) -> Callable[[], Tensor]:
    pair = Pair(model)
    objective = Objective(pair, estimator)

    def loss() -> Tensor:
        with pair.active(ROWS), pyro.validation_enabled(False):
            return objective(parts, ROWS, ROWS)

    return loss


def _step(model: M2, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> Tensor:
        value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.detach()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    given = parser.parse_args()
    one_thread()
    steps = contestants()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(given.rounds + 5):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if number >= 5:
                times[name].append(time.process_time() - start)
    medians = {name: 1000 * median(t) for name, t in times.items()}
    ratios = {
        name: median([a / b for a, b in zip(t, times["by_hand"], strict=True)])
        for name, t in times.items()
    }
    rows = [
        {
            "case": "M2, 10 labels enumerated, batch 160 + 40",
            "contestant": name,
            "median_cpu_ms": round(medians[name], 2),
            "ratio_to_by_hand": round(ratios[name], 3),
            "rounds": given.rounds,
        }
        for name in steps
    ]
    for row in rows:
        print(row)
    print(save("m2_step", rows, key=("case", "contestant")))


if __name__ == "__main__":
    main()
