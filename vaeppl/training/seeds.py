"""Random states: a stream for each epoch, and the caller's own left as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch

from ..random_state import forked

__all__ = ["Stream", "derived_seed", "seeded", "set_seed"]


class Stream(IntEnum):
    """What a stream of random numbers is for, so that no two share one."""

    WEIGHTS = 0
    DRAWS = 1
    ROWS = 2
    HELD_OUT = 3
    GLOBALS = 4


def derived_seed(*parts: int) -> int:
    """Return a seed made of several numbers (seed, epoch, rank, ...), well spread.

    Examples
    --------
    >>> len({derived_seed(0, 1), derived_seed(1, 0), derived_seed(0, 1, 0)})
    3
    """
    # The count stands first, because NumPy takes (0, 1) and (0, 1, 0) for the same.
    entropy = [len(parts), *(p % 2**32 for p in parts)]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


@contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """Seed torch, NumPy and Python for a block, and restore their states after it."""
    states = random.getstate(), np.random.get_state()
    with forked():
        set_seed(derived_seed(*parts))
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def set_seed(seed: int) -> None:
    """Seed torch, NumPy and Python."""
    if torch.cuda.is_available():
        torch.manual_seed(seed)
    else:  # the other queues a call with its whole stack, at each epoch, for a device to come
        torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
