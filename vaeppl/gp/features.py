"""From a kernel on columns to features of low rank: K ≈ V Vᵀ + a diagonal."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from gpytorch.kernels import AdditiveKernel, Kernel, ProductKernel, ScaleKernel
from torch import Tensor

from ..errors import ColumnError, StoryError
from .evaluation import between, variances
from .inputs import column_of
from .kernels import On, Product, Scaled, Sum

__all__ = ["bound", "columns_of", "covariance", "for_data", "leaves", "low_rank", "matrix", "rank"]


def leaves(kernel: Kernel) -> list[On]:
    """List the kernels on columns that a kernel is made of.

    Raises
    ------
    StoryError
        If there is none, or one stands below a kernel that is neither product, sum nor scale.

    Examples
    --------
    >>> [leaf.column for leaf in leaves(On("time", "rbf") * On("subject", "same"))]
    ['time', 'subject']
    """
    if isinstance(kernel, On):
        return [kernel]
    if isinstance(kernel, ScaleKernel):
        return leaves(kernel.base_kernel)
    if isinstance(kernel, (ProductKernel, AdditiveKernel)):
        return [leaf for part in kernel.kernels for leaf in leaves(part)]
    what = f"a {type(kernel).__name__}" if isinstance(kernel, Kernel) else repr(kernel)
    raise StoryError(
        f"{what} does not say which column it is on: write gp.On(column, kernel), and products, "
        "sums and gp.Scaled of such"
    )


def columns_of(kernel: Kernel) -> tuple[str, ...]:
    """Name the columns that a kernel is on, each once.

    Examples
    --------
    >>> columns_of(On("time", "rbf") * On("subject", "same") + On("time", "linear"))
    ('time', 'subject')
    """
    return tuple(dict.fromkeys(leaf.column for leaf in leaves(kernel)))


def bound(kernel: Kernel, latent_dim: int) -> Kernel:
    """Return a copy of a kernel that knows its places in the matrix of its columns.

    Raises
    ------
    StoryError
        If the kernel has a batch shape that is neither ``()``, one process for all latent
        dimensions, nor ``(latent_dim,)``, one for each; or two kernels on a column differ in
        ``dim``.
    """
    leaves(kernel)
    kernel = copy.deepcopy(kernel)
    starts: dict[str, tuple[int, int]] = {}
    end = 0
    for leaf in leaves(kernel):
        if leaf.column not in starts:
            starts[leaf.column] = end, leaf.dim
            end += leaf.dim
        start, dim = starts[leaf.column]
        if dim != leaf.dim:
            raise StoryError(
                f"two kernels are on column {leaf.column!r}, one with dim={dim} and one with "
                f"dim={leaf.dim}: give both the number of its entries"
            )
        leaf.active_dims = torch.arange(start, start + dim)
    shape = tuple(kernel.batch_shape)
    if shape not in ((), (latent_dim,)):
        raise StoryError(
            f"the kernel has batch shape {shape}; give batch_shape=[{latent_dim}] for "
            f"hyperparameters of each of the {latent_dim} latent dimensions of their own, or none "
            "for common ones"
        )
    return kernel


def for_data(kernel: Kernel, columns: Mapping[str, Tensor], num_inducing: int = 32) -> Kernel:
    """Return a kernel whose parts have their sizes and inducing points (:meth:`On.for_data`).

    Examples
    --------
    >>> import torch
    >>> kernel = for_data(On("a", "rbf") * On("b", "rbf"), {"a": torch.arange(4.0), "b": torch.ones(4)})
    >>> [len(leaf.inducing) for leaf in leaves(kernel)]
    [4, 1]
    """  # noqa: E501
    if isinstance(kernel, On):
        return kernel.for_data(columns, num_inducing)
    leaves(kernel)
    if isinstance(kernel, ScaleKernel):
        below = for_data(kernel.base_kernel, columns, num_inducing)
        if isinstance(kernel, Scaled):
            return Scaled(**{**kernel.config(), "kernel": below})
        kernel = copy.deepcopy(kernel)
        kernel.base_kernel = below
        return kernel
    parts = [for_data(part, columns, num_inducing) for part in kernel.kernels]
    return Product(*parts) if isinstance(kernel, ProductKernel) else Sum(*parts)


def matrix(kernel: Kernel, columns: Mapping[str, Tensor]) -> Tensor:
    """Return the columns of a kernel side by side: ``(N, D)``, float64, the inputs it takes.

    Raises
    ------
    ColumnError
        If a column is not there, or has not as many entries as the kernel was built for.

    Examples
    --------
    >>> import torch
    >>> matrix(On("a", "rbf") * On("b", "rbf"), {"a": torch.ones(4), "b": torch.zeros(4)}).shape
    torch.Size([4, 2])
    """
    widths = {leaf.column: leaf.dim for leaf in leaves(kernel)}
    parts = []
    for name, width in widths.items():
        x = column_of(columns, name)
        if x.shape[1] != width:
            raise ColumnError(
                f"column {name!r} has {x.shape[1]} entries a row, but the kernel on it was built "
                f"for {width}: give On({name!r}, ..., dim={x.shape[1]})"
            )
        parts.append(x)
    return torch.cat(parts, dim=-1)


def covariance(kernel: Kernel, a: Tensor, b: Tensor | None = None) -> Tensor:
    """Return the kernel between rows of input matrices, dense: ``(..., N, M)``, float64."""
    return between(kernel, a, b).double()


def low_rank(kernel: Kernel, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return V and the rest of the diagonal, so that K ≈ V Vᵀ + diag(rest).

    Products of kernels multiply every pair of features, sums put them side by side: so a periodic
    kernel of Q points times a linear one of M features has rank Q M, and is exact where both are.

    Parameters
    ----------
    kernel
        A kernel on columns.
    inputs
        Rows of :func:`matrix`, ``(N, D)``.

    Returns
    -------
    V : Tensor
        Shape ``(*kernel.batch_shape, N, H)``, float64.
    rest : Tensor
        Shape ``(*kernel.batch_shape, N)``, k(x_n, x_n) - V_n V_nᵀ >= 0; 0 where the low rank is
        exact (but for the jitter of :func:`vaeppl.gp.cholesky`).

    Examples
    --------
    >>> import torch
    >>> points = torch.linspace(0, 1, 4).unsqueeze(-1)
    >>> kernel = bound(On("a", "rbf", inducing=points) * On("b", "linear", dim=3), 2)
    >>> v, rest = low_rank(kernel, torch.rand(9, 4))
    >>> v.shape, rest.shape
    (torch.Size([9, 12]), torch.Size([9]))
    """
    inputs = inputs.double()
    v = _features(kernel, inputs)
    variance = variances(kernel, inputs).double()
    # Rounding alone would make it negative where the low rank is exact.
    return v, (variance - v.square().sum(-1)).clamp(min=0.0)


def _features(kernel: Any, inputs: Tensor) -> Tensor:
    if isinstance(kernel, On):
        return kernel.low_rank(inputs[..., kernel.active_dims])
    if isinstance(kernel, ScaleKernel):
        scale = kernel.outputscale.double().sqrt()
        return _features(kernel.base_kernel, inputs) * scale[..., None, None]
    parts = [_features(part, inputs) for part in kernel.kernels]
    return reduce(_pairwise if isinstance(kernel, ProductKernel) else _side_by_side, parts)


def _pairwise(a: Tensor, b: Tensor) -> Tensor:
    return (a.unsqueeze(-1) * b.unsqueeze(-2)).flatten(-2)


def _side_by_side(a: Tensor, b: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    return torch.cat([a.expand(*shape, -1), b.expand(*shape, -1)], dim=-1)


def rank(kernel: Kernel) -> int:
    """Return H, the number of features that :func:`low_rank` makes.

    Examples
    --------
    >>> rank(On("a", "rbf", inducing=[[0.0], [1.0]]) * On("b", "linear", dim=3))
    6
    """
    if isinstance(kernel, On):
        with torch.no_grad():
            return kernel.low_rank(torch.zeros(1, kernel.dim, dtype=torch.float64)).shape[-1]
    if isinstance(kernel, ScaleKernel):
        return rank(kernel.base_kernel)
    parts = [rank(part) for part in kernel.kernels]
    return math.prod(parts) if isinstance(kernel, ProductKernel) else sum(parts)
