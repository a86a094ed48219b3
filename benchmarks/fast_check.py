"""What the checks before a fit cost: a VAE on 784 columns.

python benchmarks/fast_check.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import one_thread, save

import vaeppl
from vaeppl.models import VAE


def median_seconds(run: Callable[[], Any], rounds: int = 5) -> float:
    run()
    spent = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        spent.append(time.process_time() - start)
    return statistics.median(spent)


def main() -> None:
    one_thread()
    rows = []
    for count in (2_000, 60_000):
        data = vaeppl.data.Data({"x": (torch.rand(count, 784) < 0.3).float()})
        story = VAE(784, 20)
        fast = median_seconds(lambda s=story, d=data: vaeppl.check(s, d, fast_only=True))
        full = median_seconds(lambda s=story, d=data: vaeppl.check(s, d))
        rows.append({"rows": count, "fast_s": round(fast, 4), "full_s": round(full, 3)})
        print(rows[-1])
    save("fast_check", rows, key=("rows",))


if __name__ == "__main__":
    main()
