"""GPyTorch kernels on named columns, and their products and sums.

::

    On("angle", "periodic", period_length=6.2832) * On("object_features", "linear")
    On("time", MaternKernel(nu=1.5)) + On("time", "rbf") * On("subject", "same")

All of them are GPyTorch kernels over the matrix that :func:`vaeppl.gp.matrix` makes of the columns.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import gpytorch
import torch
from gpytorch.kernels import AdditiveKernel, Kernel, LinearKernel, ProductKernel, ScaleKernel
from torch import Tensor, nn

from ..config import Configurable
from ..errors import ColumnError, StoryError, unknown_name
from .evaluation import between, writing_a_graph
from .factorise import cholesky
from .inputs import finite_column, spread

__all__ = ["On", "Product", "Same", "Scaled", "Sum", "Table", "available"]


class Same(Kernel):
    """k(a, b) = 1 where the codes a and b are the same, else 0: a process of its own for each."""

    is_stationary = True

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        """Compare codes ``(..., N, D)`` and ``(..., M, D)``."""
        if diag:
            return (x1 == x2).all(-1).to(x1)
        return (x1.unsqueeze(-2) == x2.unsqueeze(-3)).all(-1).to(x1)


_NAMED: dict[str, type[Kernel]] = {
    "cosine": gpytorch.kernels.CosineKernel,
    "linear": LinearKernel,
    "matern": gpytorch.kernels.MaternKernel,
    "periodic": gpytorch.kernels.PeriodicKernel,
    "rational_quadratic": gpytorch.kernels.RQKernel,
    "rbf": gpytorch.kernels.RBFKernel,
    "same": Same,
}


def available() -> list[str]:
    """List the names of kernels that :class:`On` knows; it takes any GPyTorch kernel besides.

    Examples
    --------
    >>> "periodic" in available()
    True
    """
    return sorted(_NAMED)


class _Composable(Configurable):
    """Products and sums that remember how they were made."""

    def __mul__(self, other: Any) -> Any:
        return Product(*_parts(self, ProductKernel), *_parts(other, ProductKernel))

    def __add__(self, other: Any) -> Any:
        return Sum(*_parts(self, AdditiveKernel), *_parts(other, AdditiveKernel))


def _parts(kernel: Any, kind: type[Kernel]) -> list[Kernel]:
    if not isinstance(kernel, Kernel):
        raise TypeError(f"a kernel is multiplied with and added to kernels; given {kernel!r}")
    return list(kernel.kernels) if isinstance(kernel, kind) else [kernel]


class Product(_Composable, ProductKernel):
    """k = k_1 k_2 ⋯, of kernels on columns; ``a * b`` makes one."""

    def __init__(self, *kernels: Kernel) -> None:
        super().__init__(*kernels)


class Sum(_Composable, AdditiveKernel):
    """k = k_1 + k_2 + ⋯, of kernels on columns; ``a + b`` makes one."""

    def __init__(self, *kernels: Kernel) -> None:
        super().__init__(*kernels)


class Scaled(_Composable, ScaleKernel):
    """σ² k, with σ² learnt.

    Parameters
    ----------
    kernel
        k, on columns.
    outputscale
        σ² to start with.
    learnt
        Whether σ² is learnt.
    """

    def __init__(self, kernel: Kernel, outputscale: float = 1.0, *, learnt: bool = True) -> None:
        super().__init__(kernel)
        self.initialize(outputscale=outputscale)
        self.raw_outputscale.requires_grad_(learnt)


class On(_Composable, Kernel):
    """A GPyTorch kernel on a column, with what makes it of low rank.

    Its features φ(x), H of them, are such that k(x, x') ≈ φ(x)ᵀ φ(x'). Those of a linear kernel are
    its inputs, so that it is exact. Any other kernel has, for inducing points z_1, …, z_Q,

        φ(x) = L⁻¹ k(z, x),    L Lᵀ = k(z, z)

    which is exact where x is one of the points, and for kernels of rank Q or less; what is missing
    of the variance elsewhere is put on the diagonal (Quiñonero-Candela & Rasmussen 2005, FITC).

    Parameters
    ----------
    column
        Name of the column.
    kernel
        Any GPyTorch kernel over its entries, or a name of :func:`available`.
    features
        A torch module from the column to the kernel's inputs, learnt with the rest: a
        :class:`Table` of features for each code, or a network.
    inducing
        z, ``(Q, D)``, among the kernel's inputs; :meth:`for_data` takes them from data.
    learn_inducing
        Whether z is learnt.
    dim
        Entries of the column in a row; those of the inducing points, or 1, if not given.
    fixed
        Names of hyperparameters that stay as they are: ``("period_length",)``.
    **options
        Where the kernel is a name: arguments of GPyTorch's class (``nu=1.5``, ``ard_num_dims=2``,
        ``batch_shape=[L]`` for hyperparameters of each latent dimension of their own), and values
        of hyperparameters to start with (``lengthscale=0.3``).

    Examples
    --------
    >>> import torch
    >>> time = On("time", "rbf", lengthscale=0.5, inducing=torch.linspace(0, 1, 5).unsqueeze(-1))
    >>> time.low_rank(torch.rand(7, 1)).shape
    torch.Size([7, 5])
    """

    def __init__(
        self,
        column: str,
        kernel: str | Kernel = "rbf",
        *,
        features: nn.Module | None = None,
        inducing: Any = None,
        learn_inducing: bool = False,
        dim: int | None = None,
        fixed: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__()
        self.column, self.features = column, copy.deepcopy(features)
        self.base = _kernel(kernel, options)
        for name in fixed:
            _raw(self.base, name).requires_grad_(False)
        points = None if inducing is None else torch.as_tensor(inducing)
        if points is not None:
            points = points.to(torch.get_default_dtype())
            if points.ndim != 2:
                raise ValueError(
                    f"inducing points are (Q, D), a row for each; given shape {tuple(points.shape)}"
                )
        if dim is None:
            dim = points.shape[1] if points is not None and features is None else 1
        self.dim = dim
        self.register_buffer("active_dims", torch.arange(dim), persistent=False)
        if learn_inducing and points is not None:
            self.inducing: Any = nn.Parameter(points)
        else:
            self.register_buffer("inducing", points)

    @property
    def is_exact(self) -> bool:
        """Whether the kernel is of low rank as it stands, and needs no inducing points."""
        return type(self.base) is LinearKernel

    def inputs(self, x: Tensor) -> Tensor:
        """Return what the kernel sees of values ``(..., N, dim)`` of the column, in float64."""
        if self.features is not None:
            like = next(self.features.parameters(), None)
            x = self.features(x if like is None else x.to(like.dtype))
        return x.double()

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Any:
        """Return the covariance between rows of the column."""
        return self.base(self.inputs(x1), self.inputs(x2), diag=diag, **params)

    def low_rank(self, x: Tensor) -> Tensor:
        """Return φ of values ``(..., N, dim)`` of the column: ``(..., N, H)``, float64.

        Raises
        ------
        StoryError
            If the kernel needs inducing points and has none.
        """
        x = self.inputs(x)
        if self.is_exact:
            own = self.base.active_dims
            return (x if own is None else x[..., own]) * self.base.variance.sqrt()
        if self.inducing is None:
            raise StoryError(
                f"the {type(self.base).__name__} on column {self.column!r} has no inducing points: "
                f"build the story with for_data(data, kernel=...), or give On({self.column!r}, "
                "..., inducing=points)"
            )
        points = self.inducing.double()
        among = between(self.base, points)
        factor = cholesky(among, f"{type(self.base).__name__} on column {self.column!r}")
        return torch.linalg.solve_triangular(factor, between(self.base, points, x), upper=False).mT

    def for_data(self, columns: Mapping[str, Tensor], num_inducing: int = 32) -> On:
        """Return the kernel with its size and its inducing points taken from data.

        The points are the column's distinct rows where there are at most ``num_inducing``; else
        quantiles of a single number, or centres of k-means.

        Raises
        ------
        ColumnError
            If the data have no such column, or it holds NaN or infinity.
        """
        x = finite_column(columns, self.column)
        changed: dict[str, Any] = {"dim": x.shape[1]}
        if not self.is_exact and self.inducing is None:
            with torch.no_grad():
                changed["inducing"] = spread(self.inputs(x), num_inducing).tolist()
        return On(**{**self.config(), **changed})


class Table(Configurable, nn.Module):
    """Features of each code 0, …, levels - 1 of a column: what is learnt of an object.

    Parameters
    ----------
    levels, dim
        Number of codes, and of features of each.
    start
        Features to start with, ``(levels, dim)``: principal components, say. N(0, 1) if not given.
    normalise
        Whether features are scaled to length 1, so that a linear kernel is their cosine.
    learnt
        Whether they are learnt, or stay as they start.

    Examples
    --------
    >>> import torch
    >>> Table(400, 8)(torch.tensor([[3.0], [399.0]])).shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        levels: int,
        dim: int,
        *,
        start: Any = None,
        normalise: bool = False,
        learnt: bool = True,
    ) -> None:
        super().__init__()
        values = torch.randn(levels, dim) if start is None else torch.as_tensor(start)
        if values.shape != (levels, dim):
            raise ValueError(
                f"`start` has shape {tuple(values.shape)}; a table of {levels} levels and {dim} "
                f"features needs {(levels, dim)}"
            )
        values = values.to(torch.get_default_dtype())
        self.weight = nn.Parameter(values.clone(), requires_grad=learnt)
        self.normalise = normalise

    def forward(self, codes: Tensor) -> Tensor:
        """Map codes ``(..., 1)`` to features ``(..., dim)``."""
        index = codes.squeeze(-1).long()
        outside = (index < 0) | (index >= len(self.weight))
        if not writing_a_graph() and bool(outside.any()):
            raise ColumnError(
                f"a code lies outside 0, ..., {len(self.weight) - 1}: the table has "
                f"{len(self.weight)} levels, the codes run from {int(index.min())} to "
                f"{int(index.max())}"
            )
        weight = self.weight
        if self.normalise:
            weight = weight / weight.norm(dim=-1, keepdim=True)
        return weight[index]


def _kernel(kernel: Any, options: dict[str, Any]) -> Kernel:
    """Return a kernel by name with its options; one that is given is copied."""
    if isinstance(kernel, Kernel):
        if options:
            raise ValueError(
                f"the {type(kernel).__name__} given has its options already: give "
                f"{', '.join(options)} to its constructor"
            )
        return copy.deepcopy(kernel)
    if not isinstance(kernel, str):
        raise TypeError(
            f"a kernel is an object of gpytorch.kernels, such as RBFKernel(), or one of "
            f"{available()}; given {kernel!r}"
        )
    if kernel not in _NAMED:
        raise ValueError(unknown_name("kernel", kernel, _NAMED))
    cls = _NAMED[kernel]
    taken = {
        p.name
        for base in (cls, Kernel)
        for p in inspect.signature(base.__init__).parameters.values()
        if p.kind is not p.VAR_KEYWORD
    }
    arguments = {k: v for k, v in options.items() if k in taken}
    if "batch_shape" in arguments:
        arguments["batch_shape"] = torch.Size(arguments["batch_shape"])
    made = cls(**arguments)
    for name in options.keys() - taken:
        _raw(made, name)
    _start(made, {k: v for k, v in options.items() if k not in taken})
    return made


def _start(kernel: Kernel, values: dict[str, Any]) -> None:
    """Set hyperparameters."""
    for name, value in values.items():
        try:
            kernel.initialize(**{name: value})
        except RuntimeError as error:
            raise ValueError(
                f"{name}={value} is no value for the {type(kernel).__name__}: {name} must be "
                "positive and finite, or within the kernel's own constraint"
            ) from error


def _raw(kernel: Kernel, name: str) -> Tensor:
    """Return the parameter behind a hyperparameter."""
    for inner in (kernel, *kernel.sub_kernels()):
        for raw in (f"raw_{name}", name):
            if isinstance(found := getattr(inner, raw, None), nn.Parameter):
                return found
    known = [n.rpartition(".")[2].removeprefix("raw_") for n, _ in kernel.named_parameters()]
    raise ValueError(unknown_name(f"hyperparameter of {type(kernel).__name__}", name, known))
