"""Zero-inflated negative binomials: the time of one log-probability and its gradients.

Ours, Pyro's, and the formula of scvi-tools written by hand, on one batch of cells and genes as
scVI has them: log μ and the gate of each cell and gene, θ of each gene. Float32, one thread, no
validation; the contestants take turns in one process, and medians are compared. The distributions
are expanded to the cells, as a Pyro plate does. ``--compile`` adds the same graphs under inductor.

    python benchmarks/count_distributions.py --compile
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from common import one_thread, save
from torch import Tensor

from vaeppl.distributions import ZeroInflatedNegativeBinomial

OURS = "vaeppl"


def ours(x: Tensor, log_mean: Tensor, theta: Tensor, gate: Tensor) -> Tensor:
    p = ZeroInflatedNegativeBinomial(theta, log_mean=log_mean, gate_logits=gate)
    return p.expand(x.shape).log_prob(x)


def ours_by_cell(x: Tensor, log_mean: Tensor, theta: Tensor, gate: Tensor) -> Tensor:
    return ours(x, log_mean, theta.expand(x.shape), gate)


def pyros(x: Tensor, log_mean: Tensor, theta: Tensor, gate: Tensor) -> Tensor:
    logits = log_mean - theta.log()
    p = dist.ZeroInflatedNegativeBinomial(theta, logits=logits, gate_logits=gate)
    return p.expand(x.shape).log_prob(x)


def by_hand(x: Tensor, log_mean: Tensor, theta: Tensor, gate: Tensor) -> Tensor:
    """Return scvi-tools' formula, in the mean and with an ε in its logarithms."""
    eps, mean = 1e-8, log_mean.exp()
    log_both = torch.log(theta + mean + eps)
    closed = F.softplus(-gate)
    none = -gate + theta * (torch.log(theta + eps) - log_both)
    some = (
        none
        - closed
        + x * (torch.log(mean + eps) - log_both)
        + torch.lgamma(x + theta)
        - torch.lgamma(theta)
        - torch.lgamma(x + 1)
    )
    return torch.where(x < eps, F.softplus(none) - closed, some)


def by_hand_by_cell(x: Tensor, log_mean: Tensor, theta: Tensor, gate: Tensor) -> Tensor:
    return by_hand(x, log_mean, theta.expand(x.shape), gate)


CONTESTANTS = {
    OURS: ours,
    "vaeppl, θ of every cell": ours_by_cell,
    "scvi-tools' formula by hand": by_hand,
    "the same, θ of every cell": by_hand_by_cell,
    "Pyro": pyros,
}


def batch(cells: int, genes: int) -> list[Tensor]:
    """Return x (four zeros in five, as in cells), log μ, θ and the gate's logits."""
    log_mean, gate = 1.5 * torch.randn(cells, genes) - 0.5, torch.randn(cells, genes)
    theta = torch.randn(genes).exp()
    x = ZeroInflatedNegativeBinomial(theta, log_mean=log_mean, gate_logits=gate).sample()
    return [x, log_mean, theta, gate]


def compiled(log_prob: Callable[..., Tensor], inputs: list[Tensor]) -> Callable[..., Any]:
    """Return the log-probability and its gradients as one graph of inductor's."""
    from torch.fx.experimental.proxy_tensor import make_fx

    def step(x: Tensor, *parameters: Tensor) -> Any:
        leaves = [p.detach().requires_grad_() for p in parameters]
        total = log_prob(x, *leaves).sum()
        return total.detach(), *torch.autograd.grad(total, leaves)

    return torch._inductor.compile(make_fx(step)(*inputs), inputs)


def rounds(
    contestants: dict[str, Callable[..., Any]], inputs: list[Tensor], repeats: int, graphs: bool
) -> dict[str, list[tuple[float, ...]]]:
    """Return seconds of each contestant, round by round: forward and backward, or of a graph."""
    x, *parameters = inputs
    leaves = [p.clone().requires_grad_() for p in parameters]
    seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            if graphs:
                contestant(*inputs)
                seconds[name].append((time.perf_counter() - start,))
                continue
            total = contestant(x, *leaves).sum()
            middle = time.perf_counter()
            torch.autograd.grad(total, leaves)
            seconds[name].append((middle - start, time.perf_counter() - middle))
    return seconds


def rows(seconds: dict[str, list[tuple[float, ...]]], mode: str) -> list[dict[str, Any]]:
    """Return medians in milliseconds, and the median over rounds of the ratio to ours."""
    found = []
    for name, times in seconds.items():
        both = [sum(t) for t in times]
        ratios = [t / sum(o) for t, o in zip(both, seconds[OURS], strict=True)]
        row = {
            "mode": mode,
            "contestant": name,
            "median_ms": round(1e3 * median(both), 2),
            "ratio_to_vaeppl": round(median(ratios), 2),
        }
        if mode == "eager":
            row["forward_ms"] = round(1e3 * median(t[0] for t in times), 2)
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=128)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    one_thread()
    pyro.set_rng_seed(0)
    pyro.enable_validation(False)
    inputs = batch(given.cells, given.genes)
    print(f"{given.cells} cells, {given.genes} genes, {(inputs[0] == 0).float().mean():.0%} zeros")
    results = rows(rounds(CONTESTANTS, inputs, given.repeats, graphs=False), "eager")
    if given.compile:
        graphs = {name: compiled(f, inputs) for name, f in CONTESTANTS.items()}
        results += rows(rounds(graphs, inputs, given.repeats, graphs=True), "compiled")
    for r in results:
        print("{mode:9} {contestant:28} {median_ms:7} {ratio_to_vaeppl:6}".format(**r))
    size = {"cells": given.cells, "genes": given.genes}
    key = ("cells", "genes", "mode", "contestant")
    print(save("count_distributions", [{**size, **r} for r in results], key=key))


if __name__ == "__main__":
    main()
