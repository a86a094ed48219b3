"""Networks in lower precision; everything that is a density, a KL or a sum stays in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MIXED", "PRECISIONS", "LowerPrecision", "matmul_precision"]

MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
PRECISIONS = ("32-true", "64-true", "tf32", *MIXED)
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
NETWORKS = ("torch.nn.", "vaeppl.nets")


class LowerPrecision:
    """Runs the networks of a module under autocast, and hands on what they put out as float32.

    A network is an outermost module of ``torch.nn`` or :mod:`vaeppl.nets`. Autocast of a whole
    story would also round products within a density: of a label's probability with its costs, of
    the features of a Gaussian process with its weights.

    Parameters
    ----------
    root
        Holds the networks.
    dtype
        ``torch.bfloat16`` or ``torch.float16``.
    """

    def __init__(self, root: nn.Module, dtype: torch.dtype) -> None:
        self.dtype, self.on = dtype, False
        self._entered: list[Any] = []
        for network in _networks(root):
            network.register_forward_pre_hook(self._enter)
            network.register_forward_hook(self._leave, always_call=True)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Lower the precision for a block; the rest of it is in float32, whoever set autocast."""
        before, self.on = self.on, True
        devices = {"cpu", "cuda"} if torch.cuda.is_available() else {"cpu"}
        with ExitStack() as outside:
            outside.callback(setattr, self, "on", before)
            for device in sorted(devices):
                outside.enter_context(torch.autocast(device, enabled=False))
            yield

    def _enter(self, network: nn.Module, inputs: Any) -> None:
        if self.on:
            device = next((p.device.type for p in network.parameters()), "cpu")
            context = torch.autocast(device, dtype=self.dtype)
            context.__enter__()
            self._entered.append(context)

    def _leave(self, network: nn.Module, inputs: Any, output: Any) -> Any:
        if not self.on or not self._entered:
            return output
        self._entered.pop().__exit__(None, None, None)
        if isinstance(output, Tensor):
            return self._raised(output)
        if isinstance(output, tuple):
            return tuple(self._raised(o) if isinstance(o, Tensor) else o for o in output)
        return output

    def _raised(self, output: Tensor) -> Tensor:
        return output.float() if output.dtype == self.dtype else output


def _networks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        name = f"{type(child).__module__}."
        if not isinstance(child, CONTAINERS) and name.startswith(NETWORKS):
            yield child
        else:
            yield from _networks(child)


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Let products of float32 matrices be computed in TensorFloat-32 where ``"tf32"`` is asked for.

    Examples
    --------
    >>> with matmul_precision("tf32"):
    ...     torch.get_float32_matmul_precision()
    'high'
    >>> torch.get_float32_matmul_precision()
    'highest'
    """
    before = torch.get_float32_matmul_precision()
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
