"""Kernels as dense matrices, so that a step of training with them may be one graph."""

from __future__ import annotations

import sys
from typing import Any

import gpytorch
import torch
from gpytorch.kernels import Kernel
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["between", "variances", "writing_a_graph"]

# Where GPyTorch compares inputs only to save work, or for the last digits of a distance.
COMPARING = ("gpytorch.kernels.kernel", "gpytorch.kernels.linear_kernel")


def between(kernel: Kernel, a: Tensor, b: Tensor | None = None) -> Tensor:
    """Return k(a, b), or k(a, a), dense: ``(..., N, M)``, in the precision of the inputs.

    Examples
    --------
    >>> import torch
    >>> between(gpytorch.kernels.LinearKernel(), torch.zeros(3, 2), torch.ones(4, 2)).shape
    torch.Size([3, 4])
    """
    with gpytorch.settings.lazily_evaluate_kernels(False), _SameRows(b is None):
        dense: Tensor = kernel(a, a if b is None else b).to_dense()
    return dense


def variances(kernel: Kernel, a: Tensor) -> Tensor:
    """Return k(a_n, a_n): ``(..., N)``."""
    with _SameRows(True):
        variance: Tensor = kernel(a, diag=True)
    return variance


def writing_a_graph() -> bool:
    """Tell whether a graph of the step is being written, when no value may be looked at."""
    return get_proxy_mode() is not None


class _SameRows(TorchFunctionMode):
    """Answers GPyTorch's question whether two inputs are equal, as the answer is known here.

    A look at the values would give the same answer, but a graph could not be made of it.
    """

    def __init__(self, same: bool) -> None:
        super().__init__()
        self.same = same

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.equal and sys._getframe(1).f_globals.get("__name__") in COMPARING:
            with _disable_current_modes(), torch._C.DisableTorchFunction():
                return self.same and torch.equal(*args)  # not so for rows and a kernel's points
        return func(*args, **(kwargs or {}))
