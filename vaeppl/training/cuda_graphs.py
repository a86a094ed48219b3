"""A compiled step as one CUDA graph: a single launch in place of one for each kernel."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["Captured"]

WARM_UP = 3  # runs before the capture, in which kernels are loaded and libraries make their handles


class Captured:
    """A function of tensors on a CUDA device, recorded once and replayed.

    A graph reads and writes the memory that it was recorded on. So inputs that are other tensors
    at each call are copied into tensors of its own, and what it has written is copied back. Random
    numbers are fresh: a replay takes them from torch's generator, as a run would.

    Parameters
    ----------
    run
        It may change its inputs in place, and must not wait for the device.
    inputs
        As it will be called with. It is run on them some times: put back what that changes.
    anew
        Places of the inputs that are other tensors at each call.
    written
        Places of those among them that it changes.

    Raises
    ------
    RuntimeError
        If the function does what cannot be recorded, such as waiting for the device.
    """

    @torch.no_grad()
    def __init__(
        self,
        run: Callable[..., Any],
        inputs: Sequence[Tensor],
        *,
        anew: Collection[int],
        written: Collection[int],
    ) -> None:
        self.anew, self.written = tuple(anew), tuple(written)
        self.inputs = [t.clone() if i in self.anew else t for i, t in enumerate(inputs)]
        # Recorded on the stream of the warm-up: handles of libraries belong to a stream.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP - 1):
                run(*self.inputs)
            # What waits is found before the capture: one that fails leaves torch's generator in
            # the state of a capture, and every draw after it raises.
            with _waiting_raises():
                run(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        # Other threads (that which reads batches ahead) may use the device meanwhile.
        with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
            self.result = run(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Any:
        """Replay it; the result is overwritten by the next replay."""
        for place in self.anew:
            self.inputs[place].copy_(inputs[place])
        self.graph.replay()
        for place in self.written:
            inputs[place].copy_(self.inputs[place])
        return self.result


@contextmanager
def _waiting_raises() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is a prototype, and says so
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
