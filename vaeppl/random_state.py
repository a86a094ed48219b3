"""Draws that leave no trace in torch's random numbers."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

__all__ = ["forked"]


def forked() -> AbstractContextManager[None]:
    """Put back the random states of the CPU and of all GPUs after a block.

    Without their number torch warns where there are several GPUs.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> with forked():
    ...     inside = torch.rand(())
    >>> bool(inside == torch.rand(()))
    True
    """
    states: AbstractContextManager[None] = torch.random.fork_rng(range(torch.cuda.device_count()))
    return states
