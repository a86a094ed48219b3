"""Distributions that Pyro lacks, or computes with too few digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

__all__ = ["ContinuousBernoulli", "MixedColumns", "NegativeBinomial", "centre"]

STIRLING_FROM = 50.0  # θ above which lgamma(x + θ) - lgamma(θ) is taken from Stirling's series


class ContinuousBernoulli(dist.ContinuousBernoulli):
    """The density on [0, 1] proportional to exp(h x), for any logit h.

    Pyro's own normalises by sigmoid(h), which rounds to 1 in float32 from h = 17 on: white pixels
    go there, and from there on the density does not integrate to one.

    Examples
    --------
    >>> import torch
    >>> ContinuousBernoulli(logits=torch.tensor(50.0)).log_prob(torch.tensor(1.0))  # log 50
    tensor(3.9120)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return h x - log ∫ exp(h u) du."""
        if self._validate_args:
            self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        size, near_zero = _size(logits, 0.1)
        log_integral = torch.where(
            near_zero,
            logits / 2 + logits.square() / 24 - logits**4 / 2880,
            F.relu(logits) + (-torch.expm1(-size)).log() - size.log(),
        )
        return logits * value - log_integral

    @property
    def mean(self) -> Tensor:
        """Return 1 / (1 - exp(-h)) - 1 / h."""
        size, near_zero = _size(self.logits, 0.1)
        upper = -1.0 / torch.expm1(-size) - 1.0 / size
        far = torch.where(self.logits > 0, upper, 1.0 - upper)
        return torch.where(near_zero, 0.5 + self.logits / 12 - self.logits**3 / 720, far)

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile; Pyro draws by it."""
        size, near_zero = _size(self.logits, 1e-3)
        rising = self.logits > 0
        share = torch.where(rising, 1.0 - value, value)
        lower = -torch.log1p(share * torch.expm1(-size)) / size
        near = value + self.logits * value * (1.0 - value) / 2
        # The share may be a whole 1, of which the logarithm above makes infinity.
        return torch.where(near_zero, near, torch.where(rising, 1.0 - lower, lower)).clamp(0.0, 1.0)


def _size(logits: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Return |h|, kept away from zero, and where h is so near zero that a series is better."""
    near_zero = logits.abs() < least
    return torch.where(near_zero, torch.ones_like(logits), logits.abs()), near_zero


class NegativeBinomial(dist.NegativeBinomial):
    """The negative binomial of mean μ = θ exp(logits) and variance μ + μ²/θ, for any θ.

    Pyro's own takes the difference of two values of lgamma, which in float32 errs by 0.06 nats at
    θ = exp(12) and by 5 at exp(15); a learnt θ goes there wherever the data are Poisson.

    Examples
    --------
    >>> import torch
    >>> theta, mean, x = torch.tensor([1e6, 3.0, 2.0])
    >>> nearly_poisson = NegativeBinomial(theta, logits=(mean / theta).log())
    >>> torch.allclose(nearly_poisson.log_prob(x), dist.Poisson(mean).log_prob(x))
    True
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of counts."""
        if self._validate_args:
            self._validate_sample(value)
        large = self.total_count > STIRLING_FROM
        theta = torch.where(large, self.total_count, STIRLING_FROM)
        growth = torch.log1p(value / theta)
        by_series = (
            (value + theta) * (growth - F.softplus(self.logits))
            + value * (self.logits + theta.log() - 1.0)
            - growth / 2
            + (1.0 / (value + theta) - 1.0 / theta) / 12
            - ((value + theta) ** -3 - theta**-3) / 360
            - torch.lgamma(1.0 + value)
        )
        theta = torch.where(large, STIRLING_FROM, self.total_count)
        by_lgamma = (
            theta * F.logsigmoid(-self.logits)
            + value * F.logsigmoid(self.logits)
            + torch.lgamma(value + theta)
            - torch.lgamma(1.0 + value)
            - torch.lgamma(theta)
        )
        return torch.where(large, by_series, by_lgamma)


class MixedColumns(TorchDistribution):
    """Independent groups of columns, each with a distribution of its own.

    Parameters
    ----------
    parts
        Distributions with the same batch shape and event shapes ``(n_1,), (n_2,), ...``.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(
        self, parts: Sequence[TorchDistribution], validate_args: bool | None = None
    ) -> None:
        self.parts = list(parts)
        self.sizes = [p.event_shape[0] for p in self.parts]
        super().__init__(
            self.parts[0].batch_shape, torch.Size((sum(self.sizes),)), validate_args=validate_args
        )

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether every part can be reparametrised."""
        return all(p.has_rsample for p in self.parts)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Supports of the parts, side by side."""
        bases = [_column_constraint(p.support) for p in self.parts]
        return constraints.independent(constraints.cat(bases, dim=-1, lengths=self.sizes), 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MixedColumns:
        """Expand every part."""
        return MixedColumns([p.expand(batch_shape) for p in self.parts])

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw the parts and put them side by side."""
        draws = [p.sample(sample_shape) for p in self.parts]
        dtype = torch.get_default_dtype()
        for draw in draws:
            dtype = draw.dtype if draw.is_floating_point() else dtype
        return torch.cat([d.to(dtype) for d in draws], dim=-1)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw the parts with gradients."""
        return torch.cat([p.rsample(sample_shape) for p in self.parts], dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Sum the log-probabilities of the parts."""
        groups = value.split(self.sizes, dim=-1)
        scores = [p.log_prob(g) for p, g in zip(self.parts, groups, strict=True)]
        return torch.stack(torch.broadcast_tensors(*scores)).sum(0)

    @property
    def mean(self) -> Tensor:
        """Means of the parts side by side; for categories, the most probable code."""
        return torch.cat([centre(p) for p in self.parts], dim=-1)


def centre(part: Any) -> Tensor:
    """Mean of a part, or its mode where the values are codes without a mean."""
    mean = part.mean
    if torch.isnan(mean).all():
        mode: Tensor = part.mode
        return mode.to(torch.get_default_dtype())
    return mean


def _column_constraint(support: Any) -> constraints.Constraint:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support
