"""Random states: a stream for each epoch, and the caller's own left as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["derived_seed", "seeded"]


def derived_seed(*parts: int) -> int:
    """Return a seed made of several numbers (seed, epoch, rank, ...), well spread.

    Examples
    --------
    >>> derived_seed(0, 1) != derived_seed(1, 0)
    True
    """
    return int(np.random.SeedSequence([p % 2**32 for p in parts]).generate_state(1)[0])


@contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """Seed torch, NumPy and Python for a block, and restore their states after it."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        set_seed(derived_seed(*parts))
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def set_seed(seed: int) -> None:
    """Seed torch, NumPy and Python."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
