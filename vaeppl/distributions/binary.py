"""Zeros and ones, and shares between them, given by their logits."""

from __future__ import annotations

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions.utils import broadcast_all

__all__ = ["Bernoulli", "ContinuousBernoulli"]


class Bernoulli(dist.Bernoulli):
    """Pyro's Bernoulli, with log p(x) = x h - log(1 + exp(h)) computed as it stands.

    The same number as the binary cross-entropy that Pyro computes, in half the time: the logarithm
    of a sigmoid is the slowest step of many a decoder.

    Examples
    --------
    >>> import torch
    >>> Bernoulli(logits=torch.tensor([0.0, 3.0])).log_prob(torch.ones(2)).exp()
    tensor([0.5000, 0.9526])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of zeros and ones."""
        if self._validate_args:
            self._validate_sample(value)
        # Beyond the threshold softplus is the identity, to every digit of float64.
        return value * self.logits - F.softplus(self.logits, threshold=40.0)


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
