"""Likelihoods p(x | h): small named objects that say which data they accept.

A likelihood turns what a decoder puts out, ``h`` of shape ``(..., num_params)``, into a
distribution over one row of data, of event shape ``(x_dim,)``. It also says how the data enter an
encoder (``features``): counts by log(1 + x), categories by indicators, measurements in their unit.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from . import distributions
from .config import Configurable
from .distributions import MixedColumns
from .errors import by_name, unknown_name

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "ContinuousBernoulli",
    "Likelihood",
    "Mixed",
    "MixedColumns",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "StudentT",
    "available",
    "get",
]

SCALE_FLOOR = 1e-4  # a standard deviation below this makes the density of float32 data overflow
LOG_RATE_CEILING = 15.0  # exp(15) = 3.3e6 counts; beyond it one wild decoder output is infinite


class Likelihood(Configurable, nn.Module):
    """Base of the likelihoods. Subclasses say ``params``, ``accepts`` and ``distribution``.

    To write one of your own, give ``params`` (how many numbers the decoder puts out for each
    column) and ``distribution(*params)``, which takes that many tensors of shape ``(..., x_dim)``.

    Examples
    --------
    >>> import torch, pyro.distributions as dist
    >>> class Exponential(Likelihood):
    ...     params, accepts = 1, "positive reals"
    ...     def distribution(self, log_rate):
    ...         return dist.Exponential(log_rate.exp())
    >>> Exponential().bind(3)(torch.zeros(5, 3)).mean.shape
    torch.Size([5, 3])
    """

    params: int = 1
    accepts: str = "reals"
    x_dim: int = 0

    def bind(self, x_dim: int) -> Likelihood:
        """Return a copy sized for ``x_dim`` columns, with parameters of its own."""
        if x_dim < 1:
            raise ValueError(f"a likelihood needs at least one column; x_dim is {x_dim}")
        bound = copy.deepcopy(self)
        bound.x_dim = x_dim
        bound.make_parameters(x_dim)
        return bound

    def as_condition(self, x_dim: int) -> Likelihood:
        """Return a copy for columns that a story is given: it makes features and is never scored.

        It has no parameters, as there is nothing to learn about it.
        """
        bound = self.bind(x_dim)
        for module in bound.modules():
            module._parameters.clear()
        return bound

    def make_parameters(self, x_dim: int) -> None:
        """Create parameters that do not come from the decoder (a shared scale, say)."""

    @property
    def num_params(self) -> int:
        """Size of the decoder's output."""
        return self.params * self.x_dim

    @property
    def num_features(self) -> int:
        """Size of the encoder's input."""
        return self.x_dim

    def features(self, x: Tensor) -> Tensor:
        """Turn a batch of data ``(..., x_dim)`` into the encoder's input."""
        return x

    def distribution(self, *params: Tensor) -> TorchDistribution:
        """Return p(x | params) of batch shape ``(..., x_dim)``; a subclass writes it."""
        raise TypeError(f"{type(self).__name__} has no method `distribution(*params)`: write it")

    def forward(self, h: Tensor) -> TorchDistribution:
        """Return p(x | h) with event shape ``(x_dim,)``, for ``h`` of shape ``(..., num_params)``.

        The decoder's output holds the first parameter of all columns, then the second, and so on.
        """
        return self.distribution(*h.chunk(self.params, dim=-1)).to_event(1)

    def extra_repr(self) -> str:
        """Show the constructor's arguments, long lists by their length."""
        return ", ".join(
            f"{k}=[{len(v)} values]" if isinstance(v, list) and len(v) > 3 else f"{k}={v!r}"
            for k, v in self.config().items()
        )


class Bernoulli(Likelihood):
    """x ~ Bernoulli(sigmoid(h)): each column is 0 or 1.

    Grey pixels are not binary: binarise them, or take :class:`ContinuousBernoulli`.
    """

    accepts = "0 or 1"

    def distribution(self, logits: Tensor) -> TorchDistribution:  # type: ignore[override]
        """Return Bernoulli(logits)."""
        return distributions.Bernoulli(logits=logits)


class ContinuousBernoulli(Likelihood):
    """x ~ CB(h): a density on [0, 1], proportional to exp(h x) (Loaiza-Ganem & Cunningham 2019).

    Its log-densities are not comparable with those of :class:`Bernoulli`.
    """

    accepts = "reals in [0, 1]"

    def distribution(self, logits: Tensor) -> TorchDistribution:  # type: ignore[override]
        """Return ContinuousBernoulli(logits)."""
        return distributions.ContinuousBernoulli(logits=logits)


class Binomial(Likelihood):
    """x ~ Binomial(n, sigmoid(h)): each column counts successes among n trials.

    Parameters
    ----------
    total_count
        n. The digits of scikit-learn count the ink of 4 × 4 blocks of pixels, so n = 16 there.
    """

    def __init__(self, total_count: int = 16) -> None:
        super().__init__()
        if total_count < 1:
            raise ValueError(f"total_count counts trials, so it is >= 1; given {total_count}")
        self.total_count = total_count
        self.accepts = f"integers from 0 to {total_count}"

    def features(self, x: Tensor) -> Tensor:
        """Return the share of successes, x / n."""
        return x / self.total_count

    def distribution(self, logits: Tensor) -> TorchDistribution:  # type: ignore[override]
        """Return Binomial(n, logits)."""
        return dist.Binomial(self.total_count, logits=logits)


class _LocationScale(Likelihood):
    """What the Normal and the Student-t share: a location, a scale, and the unit of the data."""

    accepts = "reals"

    def __init__(
        self,
        scale: str | float = "learnt",
        *,
        per_column: bool = False,
        center: float | Sequence[float] = 0.0,
        unit: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        if isinstance(scale, str) and scale not in ("learnt", "predicted"):
            raise ValueError(unknown_name("scale", scale, ["learnt", "predicted", "a number"]))
        if not isinstance(scale, str) and scale <= 0:
            raise ValueError(f"a fixed scale is > 0; given {scale}")
        if torch.as_tensor(unit).min() <= 0:
            raise ValueError(f"a unit is > 0; given {unit}")
        self.scale, self.per_column = scale, per_column
        self.params = 2 if scale == "predicted" else 1
        self.register_buffer("center", torch.as_tensor(center, dtype=torch.get_default_dtype()))
        self.register_buffer("unit", torch.as_tensor(unit, dtype=torch.get_default_dtype()))

    center: Tensor
    unit: Tensor

    @classmethod
    def for_data(cls, x: Tensor, **arguments: Any) -> Any:
        """Return this likelihood with the mean and standard deviation of ``x`` (N, x_dim) as unit.

        The decoder then works with numbers of order one, whatever the data are measured in. NaN
        entries are missing; the unit of a constant column is 1.
        """
        x = torch.as_tensor(x).double()
        center = x.nanmean(0).nan_to_num()
        count = (~x.isnan()).sum(0)
        sd = ((x - center).square().nansum(0) / (count - 1).clamp(min=1)).sqrt()
        # Rounding alone gives a constant column a deviation of its last digit.
        varies = sd > torch.finfo(torch.float32).eps * center.abs()
        unit = torch.where(varies, sd, torch.ones_like(sd))
        return cls(center=center.tolist(), unit=unit.tolist(), **arguments)

    def make_parameters(self, x_dim: int) -> None:
        """Create log σ where the scale is learnt: one, or one for each column."""
        for name, given in (("center", self.center), ("unit", self.unit)):
            if given.ndim and given.shape != (x_dim,):
                raise ValueError(f"{name} has {given.numel()} entries for {x_dim} columns")
        if self.scale == "learnt":
            self.log_scale = nn.Parameter(torch.zeros((x_dim,) if self.per_column else ()))

    def features(self, x: Tensor) -> Tensor:
        """Return (x - center) / unit."""
        return (x - self.center) / self.unit

    def location_scale(self, loc: Tensor, *raw_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and scale in the data's own unit."""
        if raw_scale:
            scale = F.softplus(raw_scale[0]) + SCALE_FLOOR
        elif isinstance(self.scale, str):
            scale = self.log_scale.exp() + SCALE_FLOOR
        else:
            scale = loc.new_full((), self.scale)
        return self.center + self.unit * loc, self.unit * scale


class Normal(_LocationScale):
    """x ~ N(c + u h, (u σ)²), for real columns.

    Parameters
    ----------
    scale
        ``"learnt"``: one σ for all rows; ``"predicted"``: σ(z) is put out by the decoder too; a
        number: σ is fixed at it.
    per_column
        Where σ is learnt: one for each column (factor analysis) instead of one for all of them
        (probabilistic PCA).
    center, unit
        c and u, a number or one for each column: the zero and the unit in which decoder, encoder
        and σ work. :meth:`for_data` takes them from data.
    """

    def distribution(self, loc: Tensor, *raw_scale: Tensor) -> TorchDistribution:  # type: ignore[override]
        """Return Normal(location, scale)."""
        return dist.Normal(*self.location_scale(loc, *raw_scale))


class StudentT(_LocationScale):
    """x ~ t_ν(c + u h, u σ): as :class:`Normal`, with heavy tails against outliers.

    Parameters
    ----------
    df
        ν, degrees of freedom; fixed, and above 0 (above 2 the variance is finite).
    scale, per_column, center, unit
        As in :class:`Normal`.
    """

    def __init__(self, df: float = 4.0, scale: str | float = "learnt", **location: Any) -> None:
        super().__init__(scale, **location)
        if df <= 0:
            raise ValueError(f"degrees of freedom are > 0; given {df}")
        self.df = df

    def distribution(self, loc: Tensor, *raw_scale: Tensor) -> TorchDistribution:  # type: ignore[override]
        """Return StudentT(df, location, scale)."""
        location, scale = self.location_scale(loc, *raw_scale)
        return dist.StudentT(torch.full_like(location, self.df), location, scale)


class _Counts(Likelihood):
    accepts = "counts >= 0 (integers)"

    def features(self, x: Tensor) -> Tensor:
        """Return log(1 + x)."""
        return torch.log1p(x)


class Poisson(_Counts):
    """x ~ Poisson(exp(h)), for counts."""

    def distribution(self, log_rate: Tensor) -> TorchDistribution:  # type: ignore[override]
        """Return Poisson(exp(log_rate))."""
        return dist.Poisson(log_rate.clamp(max=LOG_RATE_CEILING).exp())


class NegativeBinomial(_Counts):
    """x ~ NB(μ = exp(h), θ): counts with variance μ + μ²/θ.

    Parameters
    ----------
    dispersion
        ``"column"``: one θ for each column, learnt; ``"predicted"``: θ(z) is put out by the
        decoder too.
    """

    def __init__(self, dispersion: str = "column") -> None:
        super().__init__()
        if dispersion not in ("column", "predicted"):
            raise ValueError(unknown_name("dispersion", dispersion, ["column", "predicted"]))
        self.dispersion = dispersion
        self.params = 2 if dispersion == "predicted" else 1

    def make_parameters(self, x_dim: int) -> None:
        """Create log θ, one for each column."""
        if self.dispersion == "column":
            self.log_theta = nn.Parameter(torch.zeros(x_dim))

    def distribution(self, log_mean: Tensor, *log_theta: Tensor) -> TorchDistribution:  # type: ignore[override]
        """Return the negative binomial of mean μ and inverse dispersion θ."""
        raw = log_theta[0] if log_theta else self.log_theta
        theta = raw.clamp(-LOG_RATE_CEILING, LOG_RATE_CEILING).exp()
        log_mu = log_mean.clamp(max=LOG_RATE_CEILING)
        return distributions.NegativeBinomial(theta, log_mean=log_mu)


class Categorical(Likelihood):
    """x ~ Categorical(softmax(h)): each column holds a code 0, …, K - 1.

    Parameters
    ----------
    num_classes
        K, the same for every column; columns with different K go into :class:`Mixed`.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"a category has at least 2 classes; given {num_classes}")
        self.num_classes = self.params = num_classes
        self.accepts = f"codes 0, ..., {num_classes - 1} (integers)"

    @property
    def num_features(self) -> int:
        """One indicator for each class of each column."""
        return self.x_dim * self.num_classes

    def features(self, x: Tensor) -> Tensor:
        """Return indicators, ``(..., x_dim * K)``."""
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        return F.one_hot(x.long(), self.num_classes).to(dtype).flatten(-2)

    def distribution(self, *logits: Tensor) -> TorchDistribution:
        """Return Categorical(logits)."""
        return dist.Categorical(logits=torch.stack(logits, dim=-1))


class Mixed(Likelihood):
    """Columns of different types side by side, each group with its own likelihood.

    Parameters
    ----------
    parts
        Pairs ``(number of columns, likelihood)``, in the order of the columns of ``x``.

    Examples
    --------
    >>> import torch
    >>> parts = [(2, Normal()), (1, Categorical(3)), (1, Poisson())]
    >>> table = Mixed(parts).bind(4)
    >>> table.num_params, table.num_features
    (6, 6)
    >>> table(torch.zeros(7, 6)).sample().shape
    torch.Size([7, 4])
    """

    def __init__(self, parts: Sequence[tuple[int, Likelihood]]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("Mixed needs at least one part: (number of columns, likelihood)")
        self.sizes = [int(n) for n, _ in parts]
        self.parts = nn.ModuleList([part for _, part in parts])
        self.accepts = "; ".join(f"{n} × {p.accepts}" for n, p in parts)

    def bind(self, x_dim: int) -> Likelihood:
        """Return a copy whose parts are sized for their columns."""
        if sum(self.sizes) != x_dim:
            raise ValueError(
                f"the parts of Mixed take {' + '.join(map(str, self.sizes))} columns, "
                f"but the data have {x_dim}"
            )
        bound = copy.deepcopy(self)
        bound.x_dim = x_dim
        bound.parts = nn.ModuleList(
            [p.bind(n) for n, p in zip(self.sizes, self._each(), strict=True)]
        )
        return bound

    def _each(self) -> list[Likelihood]:
        return list(self.parts)  # type: ignore[arg-type]

    @property
    def num_params(self) -> int:
        """Size of the decoder's output."""
        return sum(p.num_params for p in self._each())

    @property
    def num_features(self) -> int:
        """Size of the encoder's input."""
        return sum(p.num_features for p in self._each())

    def features(self, x: Tensor) -> Tensor:
        """Return the features of the parts side by side."""
        groups = x.split(self.sizes, dim=-1)
        return torch.cat([p.features(g) for p, g in zip(self._each(), groups, strict=True)], dim=-1)

    def forward(self, h: Tensor) -> TorchDistribution:
        """Return the product of the parts over their columns."""
        groups = h.split([p.num_params for p in self._each()], dim=-1)
        return MixedColumns([p(g) for p, g in zip(self._each(), groups, strict=True)])


_NAMED: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "binomial": Binomial,
    "normal": Normal,
    "student_t": StudentT,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "categorical": Categorical,
}


def available() -> list[str]:
    """List the names that :func:`get` knows."""
    return sorted(_NAMED)


def get(name: str | Likelihood, *args: Any, **kwargs: Any) -> Likelihood:
    """Return a likelihood by its name, as the command line does; one is returned as it is.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists them.

    Examples
    --------
    >>> get("binomial", 16).accepts
    'integers from 0 to 16'
    """
    return by_name("likelihood", _NAMED, Likelihood, name, *args, **kwargs)
