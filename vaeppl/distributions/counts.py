"""Counts, given by the logarithm of their mean: to every digit, also where the mean overflows."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["NegativeBinomial", "Poisson", "ZeroInflatedNegativeBinomial", "ZeroInflatedPoisson"]

# Up to this |log μ| the mean is computed. Beyond it μ / x, μ / θ or their inverses have left the
# digits of the type, and the log-probability is a straight line in log μ.
LOG_MEAN_LIMIT = {torch.float32: 60.0, torch.float64: 300.0}
# exp(88.7) and exp(709.8) overflow. A Poisson of such a mean has log p = -μ, which no number of
# the type can hold either; from here on the tangent stands for it, and stays finite.
LOG_RATE_LIMIT = {torch.float32: 85.0, torch.float64: 700.0}
# Beyond these values of θ a count is 0, or Poisson, to every digit.
DISPERSION_LIMITS = (1e-20, 1e20)
LARGEST_LOG_RATE = 42.0  # torch.poisson draws 64-bit integers, which end at exp(43.7)

# S(z) = Σ_k c_k z^-(k+1) for z >= 1 (see `_stirling`): the polynomial in 1/z that interpolates
# z S(z) at the Chebyshev nodes of [0, 1]. It errs by 5e-9 and by 2e-15.
STIRLING = {
    torch.float32: (
        0.08333333671699125, -3.4973453444711415e-07, -0.0027706881133663028,
        -6.0909733086584996e-05, 0.0010635330933969423, -0.0006456698628269788,
        0.00014221894067196995,
    ),
    torch.float64: (
        0.08333333333333544, -1.3552934902796081e-12, -0.0027777776349326377,
        -5.84607696008248e-09, 0.0007937734306358251, -1.496072372555483e-06,
        -0.0005841095388844026, -4.816072481032469e-05, 0.0009160985211096709,
        0.0004426960550685549, -0.005385921124610683, 0.011768439366726193,
        -0.015142151354084555, 0.013143771280813898, -0.007852320561293072,
        0.003119570269381719, -0.0007456230829765437, 8.135047965471261e-05,
    ),
}  # fmt: skip


class _Counts(TorchDistribution):
    """Base of the counts: ``expand`` changes the batch shape, and leaves the parameters alone.

    Pyro's plates expand what they hold. A parameter of each gene then stays one number a gene, and
    what depends on it alone is computed once a gene, not once a cell and gene.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.nonnegative_integer

    def __init__(self, validate_args: bool | None = None, **parameters: Tensor) -> None:
        self.__dict__.update(parameters)
        shapes = {name: tuple(value.shape) for name, value in parameters.items()}
        try:
            batch_shape = torch.broadcast_shapes(*shapes.values())
        except RuntimeError:
            raise ValueError(f"the shapes of the parameters do not broadcast: {shapes}") from None
        super().__init__(batch_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return the same distribution with a larger batch shape."""
        old, new = self.batch_shape, torch.Size(batch_shape)
        ends = zip(old[::-1], new[::-1], strict=False)
        if len(old) > len(new) or any(before not in (1, after) for before, after in ends):
            raise ValueError(f"batch shape {tuple(old)} cannot be expanded to {tuple(new)}")
        expanded = copy.copy(self) if _instance is None else _instance
        expanded.__dict__.update(self.__dict__)
        expanded._batch_shape = new
        return expanded

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of counts, of the shape of counts and batch broadcast."""
        if self._validate_args:
            self._validate_sample(value)
        parameters = [getattr(self, name) for name in self.arg_constraints]
        # Half precision has too few digits for a sum that cancels: it is computed in float32.
        dtype = torch.float32
        for parameter in parameters:
            dtype = torch.promote_types(dtype, parameter.dtype)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        return self._log_prob(value.to(dtype).expand(shape), *(p.to(dtype) for p in parameters))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw counts; a mean above exp(42) is drawn as exp(42)."""
        with torch.no_grad():
            return self._sample(self._extended_shape(sample_shape))

    @property
    def mean(self) -> Tensor:
        """Return the mean, of the batch shape."""
        return self._moments()[0].expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        """Return the variance, of the batch shape."""
        return self._moments()[1].expand(self.batch_shape)

    def _moments(self) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _log_prob(self, value: Tensor, *parameters: Tensor) -> Tensor:
        raise NotImplementedError

    def _sample(self, shape: torch.Size) -> Tensor:
        raise NotImplementedError


class Poisson(_Counts):
    """The Poisson distribution of mean μ, given by log μ.

    ``log p(x) = x log μ - μ - log x!``, computed as minus half the deviance, x log(x/μ) - (x - μ),
    plus Stirling's formula, so that nothing of the size of x log μ cancels (Loader 2000, "Fast and
    accurate computation of binomial probabilities").

    Parameters
    ----------
    mean, log_mean
        μ >= 0, or its logarithm: exactly one of them, of any shape. The logarithm keeps more
        digits, and neither overflows nor underflows. From log μ = 85 on (float64: 700), where log p
        is below every number of the type, log p goes on along its tangent.

    Examples
    --------
    >>> import torch
    >>> genes = Poisson(log_mean=torch.tensor([-200.0, 0.0, 50.0]))
    >>> genes.log_prob(torch.tensor(1.0))
    tensor([-2.0000e+02, -1.0000e+00, -5.1847e+21])
    """

    arg_constraints = {"log_mean": constraints.real}
    log_mean: Tensor

    def __init__(
        self,
        *,
        mean: Tensor | float | None = None,
        log_mean: Tensor | float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        parameters = _parameters(validate_args, mean=mean, log_mean=log_mean)
        super().__init__(validate_args, **parameters)

    def _moments(self) -> tuple[Tensor, Tensor]:
        mean = self.log_mean.exp()
        return mean, mean

    def _log_prob(self, value: Tensor, *parameters: Tensor) -> Tensor:
        return _PoissonLogProb.apply(value, *parameters)

    def _sample(self, shape: torch.Size) -> Tensor:
        return _draw(self.log_mean.double(), shape).to(self.log_mean.dtype)


class NegativeBinomial(_Counts):
    """The negative binomial of mean μ and variance μ + μ²/θ, for any θ > 0 and any log μ.

    ::

        log p(x) = log Γ(x+θ) - log Γ(θ) - log x! + θ log(θ / (θ+μ)) + x log(μ / (θ+μ))

    It is computed as minus half the deviance plus Stirling's formula (Loader 2000, "Fast and
    accurate computation of binomial probabilities"), in which nothing cancels: with n = x + θ,
    S(z) the remainder of Stirling's formula and x > 0,

    ::

        log p(x) = -D + S(n) - S(θ) - S(x) - log(2π x n/θ) / 2
        D = x log(x/μ) - n log(n / (θ+μ))

    and ``log p(0) = -D``. As θ grows, log p goes over into that of :class:`Poisson`. The gradients
    are written out too: ``∂/∂log μ = θ (x-μ) / (θ+μ)``. The error in float32 (float64) is below
    3e-7 (4e-15) times the largest of 1, |log p| and |∂/∂log μ|, from θ = 1e-4 to 1e8: less than
    log μ changes by being rounded. Pyro's own takes the difference of two values of lgamma, which
    in float32 errs by 0.06 nats at θ = exp(12) and by 5 at exp(15); a learnt θ goes there wherever
    the data are Poisson.

    Parameters
    ----------
    dispersion
        θ > 0, of any shape: the smaller, the wider. Those of genes stay of shape ``(genes,)``
        under a plate of cells, and cost next to nothing.
    mean, log_mean, logits
        μ >= 0, or log μ, or log(μ/θ) (Pyro's ``logits``): exactly one of them. ``log_mean`` takes
        log ℓ + log ρ as they are, of any size; exp(log ℓ) overflows float32 at log ℓ = 89.

    Examples
    --------
    >>> import torch
    >>> NegativeBinomial(4.0, mean=10.0).variance
    tensor(35.)
    >>> NegativeBinomial(4.0, log_mean=100.0).log_prob(torch.tensor(12.0))
    tensor(-388.3345)

    A large θ is a Poisson:

    >>> theta, mean, x = torch.tensor([1e6, 3.0, 2.0])
    >>> nearly_poisson = NegativeBinomial(theta, mean=mean)
    >>> torch.allclose(nearly_poisson.log_prob(x), Poisson(mean=mean).log_prob(x))
    True
    """

    arg_constraints = {"log_mean": constraints.real, "dispersion": constraints.positive}
    log_mean: Tensor
    dispersion: Tensor

    def __init__(
        self,
        dispersion: Tensor | float,
        *,
        mean: Tensor | float | None = None,
        log_mean: Tensor | float | None = None,
        logits: Tensor | float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        parameters = _parameters(
            validate_args, mean=mean, log_mean=log_mean, logits=logits, dispersion=dispersion
        )
        super().__init__(validate_args, **parameters)

    def _moments(self) -> tuple[Tensor, Tensor]:
        mean = self.log_mean.exp()
        return mean, mean * (1.0 + mean / self.dispersion)

    def _log_prob(self, value: Tensor, *parameters: Tensor) -> Tensor:
        log_mean, theta = parameters
        theta = theta.clamp(*DISPERSION_LIMITS)
        return _NegativeBinomialLogProb.apply(value, log_mean, theta)

    def _sample(self, shape: torch.Size) -> Tensor:
        # A gamma of a small θ is below every float32, but may meet a mean that is above.
        theta = self.dispersion.double().clamp(*DISPERSION_LIMITS).expand(shape)
        log_rate = self.log_mean.double() - theta.log() + torch._standard_gamma(theta).log()
        return _draw(log_rate, shape).to(self.log_mean.dtype)


class _ZeroInflated(_Counts):
    """Mix-in: with probability π = sigmoid(gate_logits) a count is 0, else from the next class."""

    gate_logits: Tensor

    def _moments(self) -> tuple[Tensor, Tensor]:
        mean, variance = super()._moments()
        taken, left = torch.sigmoid(self.gate_logits), torch.sigmoid(-self.gate_logits)
        return left * mean, left * (variance + taken * mean.square())

    def _log_prob(self, value: Tensor, *parameters: Tensor) -> Tensor:
        *counted, gate_logits = parameters
        log_prob = super()._log_prob(value, *counted)
        return _ZeroInflatedLogProb.apply(value, log_prob, gate_logits)

    def _sample(self, shape: torch.Size) -> Tensor:
        counts = super()._sample(shape)
        opens = torch.bernoulli(torch.sigmoid(self.gate_logits).expand(shape))
        return counts.masked_fill_(opens.bool(), 0.0)


class ZeroInflatedPoisson(_ZeroInflated, Poisson):
    """0 with probability π, else Poisson of mean μ (Lambert 1992).

    Parameters
    ----------
    gate_logits
        log(π / (1 - π)), of any shape.
    mean, log_mean
        As in :class:`Poisson`; the mean of the mixture is (1 - π) μ.

    Examples
    --------
    >>> counts = ZeroInflatedPoisson(gate_logits=0.0, mean=4.0)
    >>> counts.mean, counts.variance
    (tensor(2.), tensor(6.))
    """

    arg_constraints = {**Poisson.arg_constraints, "gate_logits": constraints.real}

    def __init__(
        self,
        *,
        gate_logits: Tensor | float,
        mean: Tensor | float | None = None,
        log_mean: Tensor | float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        parameters = _parameters(
            validate_args, mean=mean, log_mean=log_mean, gate_logits=gate_logits
        )
        _Counts.__init__(self, validate_args, **parameters)


class ZeroInflatedNegativeBinomial(_ZeroInflated, NegativeBinomial):
    """0 with probability π, else negative binomial of mean μ and dispersion θ (Lopez et al. 2018).

    ``p(0) = π + (1-π) NB(0; μ, θ)`` and ``p(x) = (1-π) NB(x; μ, θ)`` for x > 0: the counts of a
    gene in a cell, some of which the gate π takes away (scVI: "Deep generative modeling for
    single-cell transcriptomics", Nature Methods 15, 1053-1058, Methods).

    Parameters
    ----------
    dispersion, mean, log_mean, logits
        As in :class:`NegativeBinomial`; the mean of the mixture is (1 - π) μ.
    gate_logits
        log(π / (1 - π)), of any shape.

    Examples
    --------
    128 cells and 2,000 genes; log μ is log ℓ + log ρ, and θ is of each gene.

    >>> import torch, pyro
    >>> log_library, log_share = torch.full((128, 1), 8.5), torch.randn(128, 2000).log_softmax(-1)
    >>> theta, dropout = torch.ones(2000), torch.zeros(128, 2000)
    >>> with pyro.plate("cells", 128):
    ...     x = pyro.sample("x", ZeroInflatedNegativeBinomial(
    ...         theta, log_mean=log_library + log_share, gate_logits=dropout).to_event(1))
    >>> x.shape
    torch.Size([128, 2000])
    """

    arg_constraints = {**NegativeBinomial.arg_constraints, "gate_logits": constraints.real}

    def __init__(
        self,
        dispersion: Tensor | float,
        *,
        gate_logits: Tensor | float,
        mean: Tensor | float | None = None,
        log_mean: Tensor | float | None = None,
        logits: Tensor | float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        parameters = _parameters(
            validate_args,
            mean=mean,
            log_mean=log_mean,
            logits=logits,
            dispersion=dispersion,
            gate_logits=gate_logits,
        )
        _Counts.__init__(self, validate_args, **parameters)


def _parameters(validate_args: bool | None, **numbers: Tensor | float | None) -> dict[str, Tensor]:
    """Return the parameters as tensors, with log μ made of the one way in which it is given."""
    tensors = [n for n in numbers.values() if isinstance(n, Tensor) and n.is_floating_point()]
    kind = tensors[0] if tensors else torch.zeros(())
    ways = [name for name in ("mean", "log_mean", "logits") if name in numbers]
    found = {
        name: n if isinstance(n, Tensor) else kind.new_tensor(n)
        for name, n in numbers.items()
        if n is not None
    }
    given = [name for name in ways if name in found]
    if len(given) != 1:
        raise ValueError(f"give exactly one of {', '.join(ways)}; given {given or 'none'}")
    value = found.pop(given[0])
    if given == ["mean"]:
        validates = validate_args
        if validates is None:
            validates = torch.distributions.Distribution._validate_args
        if validates and (value < 0.0).any():
            raise ValueError(f"a mean of counts is >= 0; given {value.min().item()}")
        value = value.log()
    elif given == ["logits"]:
        value = value + found["dispersion"].log()
    return {**found, "log_mean": value}


def _draw(log_rate: Tensor, shape: torch.Size) -> Tensor:
    return torch.poisson(log_rate.clamp(max=LARGEST_LOG_RATE).exp().expand(shape))


def _stirling(z: Tensor, derivative: bool = False) -> Tensor:
    """Return S(z) = log Γ(z) - (z - ½) log z + z - ½ log 2π, or its derivative, for z >= 1."""
    coefficients = STIRLING[z.dtype]
    if derivative:
        coefficients = tuple((k + 1) * c for k, c in enumerate(coefficients))
    inverse = z.reciprocal()
    total = inverse.mul(coefficients[-1]).add_(coefficients[-2])
    for c in coefficients[-3::-1]:
        total = (total * inverse).add_(c)
    return total * (-inverse.square() if derivative else inverse)


def _stirling_anywhere(z: Tensor, derivative: bool = False) -> Tensor:
    """Return S(z) or S'(z) for z > 0: below 1 by S(z) = S(z+1) + (z+½) log(1+1/z) - 1."""
    below = z < 1.0
    shifted = _stirling(torch.where(below, z + 1.0, z), derivative)
    small = torch.where(below, z, 1.0)
    if derivative:
        step = torch.log1p(1.0 / small) - (small + 0.5) / (small * (small + 1.0))
    else:
        step = (small + 0.5) * torch.log1p(1.0 / small) - 1.0
    return shifted + torch.where(below, step, 0.0)


def _beyond(log_mean: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Return how far log μ is above the limit, and below minus the limit."""
    largest = torch.finfo(log_mean.dtype).max
    return (log_mean - limit).clamp(0.0, largest), (-limit - log_mean).clamp(0.0, largest)


class _PoissonLogProb(torch.autograd.Function):
    """log Poisson(x; log μ), of derivative x - μ; x spans the batch shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_mean: Tensor) -> Tensor:
        mean = _poisson_mean(log_mean)
        excess = x - mean
        some, counted = x.clamp(min=1.0), x.clamp(max=1.0)  # counts are integers: counted is x > 0
        # log(x/μ) is taken from the smaller of the two upwards: log1p of a positive number.
        log_ratio = (excess.abs() / torch.minimum(some, mean)).log1p_().copysign_(excess)
        above, _ = _beyond(log_mean, LOG_RATE_LIMIT[x.dtype])
        _, below = _beyond(log_mean, LOG_MEAN_LIMIT[x.dtype])
        stirling = counted * (_stirling(some) + 0.5 * (2.0 * math.pi * some).log_())
        ctx.save_for_backward(x, log_mean)
        return excess - x * log_ratio - stirling - mean * above - x * below

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        x, log_mean = ctx.saved_tensors
        return None, (grad * (x - _poisson_mean(log_mean))).sum_to_size(log_mean.shape)


def _poisson_mean(log_mean: Tensor) -> Tensor:
    dtype = log_mean.dtype
    return log_mean.clamp(-LOG_MEAN_LIMIT[dtype], LOG_RATE_LIMIT[dtype]).exp()


class _NegativeBinomialLogProb(torch.autograd.Function):
    """log NB(x; log μ, θ) and its exact derivatives; x spans the batch shape.

    As one function of autograd's, since the steps of its own would cost four times as much, and
    would take differences where the derivatives below have none.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_mean: Tensor, theta: Tensor) -> Tensor:
        mean, distance, sign, log_ratio = _against_the_mean(x, log_mean, theta)
        some, counted = x.clamp(min=1.0), x.clamp(max=1.0)  # counts are integers: counted is x > 0
        n = x + theta
        # x log(x (θ+μ) / (μ n)), from the smaller of x and μ upwards, as log(n / (θ+μ)) is.
        larger = torch.maximum(x, mean)
        share = theta / (larger + theta)
        rise = share.mul_(distance).div_(torch.minimum(some, mean)).log1p_()
        deviance = rise.mul_(x).mul_(sign).addcmul_(log_ratio, theta, value=-1.0)
        # log(2π x n/θ) keeps its digits where log n - log θ has none.
        total = (n / theta).mul_(some).log_().mul_(-0.5)
        total.add_(_stirling(n.clamp_(min=1.0))).sub_(_stirling(some))
        total.sub_(_stirling_anywhere(theta) + 0.5 * math.log(2.0 * math.pi))
        above, below = _beyond(log_mean, LOG_MEAN_LIMIT[x.dtype])
        total.mul_(counted).sub_(deviance)
        total.addcmul_(above, theta, value=-1.0).addcmul_(below, x, value=-1.0)
        ctx.save_for_backward(x, log_mean, theta, mean, log_ratio)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        x, log_mean, theta, mean, log_ratio = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives, which need to see log μ and θ
            mean, _, _, log_ratio = _against_the_mean(x, log_mean, theta)
        step = (x - mean) / (mean + theta)
        by_log_mean = by_theta = None
        if ctx.needs_input_grad[1]:
            by_log_mean = (grad * step * theta).sum_to_size(log_mean.shape)
        if ctx.needs_input_grad[2]:
            n = (x + theta).clamp(min=1.0)
            own = 0.5 / theta - _stirling_anywhere(theta, derivative=True)
            rise = (_stirling(n, derivative=True) - 0.5 / n + own) * x.clamp(max=1.0)
            above, _ = _beyond(log_mean, LOG_MEAN_LIMIT[x.dtype])
            by_theta = (grad * (rise + log_ratio - step - above)).sum_to_size(theta.shape)
        return None, by_log_mean, by_theta


def _against_the_mean(
    x: Tensor, log_mean: Tensor, theta: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return μ within its limits, |x - μ|, the sign of x - μ, and log((x+θ) / (θ+μ))."""
    limit = LOG_MEAN_LIMIT[x.dtype]
    mean = log_mean.clamp(-limit, limit).exp()
    excess = x - mean
    sign = torch.copysign(torch.ones_like(x), excess.detach())
    distance = sign * excess  # and not abs, which has no derivative where x = μ
    return mean, distance, sign, sign * torch.log1p(distance / (torch.minimum(x, mean) + theta))


class _ZeroInflatedLogProb(torch.autograd.Function):
    """log(1[x = 0] π + (1 - π) p(x)), from log p(x) and the logits of π."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_prob: Tensor, gate_logits: Tensor) -> Tensor:
        ctx.save_for_backward(x, log_prob, gate_logits)
        # Interpolation chooses as `where` does, at a fraction of its time, between finite numbers.
        log_prob = log_prob.clamp(min=torch.finfo(log_prob.dtype).min)
        either = torch.logaddexp(gate_logits, log_prob)
        return either.lerp_(log_prob, x.clamp(max=1.0)).sub_(F.softplus(gate_logits))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        x, log_prob, gate_logits = ctx.saved_tensors
        # The probability that the gate made the zero that was seen.
        opened = torch.sigmoid(gate_logits - log_prob) * (1.0 - x.clamp(max=1.0))
        by_gate = grad * (opened - torch.sigmoid(gate_logits))
        return None, grad * (1.0 - opened), by_gate.sum_to_size(gate_logits.shape)
