"""Zeros and ones, vectors of them, and shares between them, given by their logits."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

__all__ = ["Bernoulli", "BinaryVectors", "ContinuousBernoulli"]


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


class BinaryVectors(dist.TorchDistribution):
    """Any distribution of a vector of K zeros and ones, by a logit for each of the 2^K vectors.

    All of them can be listed, so that a latent of this kind can be summed out as a whole.

    Parameters
    ----------
    logits
        Shape ``(..., 2**K)``, in the order of :meth:`vectors`.

    Raises
    ------
    ValueError
        If the number of logits is no power of two.

    Examples
    --------
    >>> import torch
    >>> q = BinaryVectors(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
    >>> q.log_prob(torch.tensor([1.0, 0.0])).exp(), q.mean
    (tensor(0.3000), tensor([0.7000, 0.6000]))
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 1)}
    support = constraints.independent(constraints.boolean, 1)
    has_enumerate_support = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits.log_softmax(-1)
        number = int(math.log2(logits.shape[-1]))
        if 2**number != logits.shape[-1] or number < 1:
            raise ValueError(f"{logits.shape[-1]} logits are none for each of 2^K vectors, K >= 1")
        super().__init__(logits.shape[:-1], torch.Size([number]), validate_args=validate_args)

    @staticmethod
    def vectors(number: int, like: Tensor) -> Tensor:
        """List all vectors of K zeros and ones as they count upwards, ``(2**K, K)``."""
        powers = 2 ** torch.arange(number - 1, -1, -1, device=like.device)
        codes = torch.arange(2**number, device=like.device)
        return (codes[:, None] // powers % 2).to(like.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> BinaryVectors:
        """Return the same distribution for a larger batch."""
        shape = (*torch.Size(batch_shape), self.logits.shape[-1])
        return BinaryVectors(self.logits.expand(shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of vectors."""
        if self._validate_args:
            self._validate_sample(value)
        powers = 2 ** torch.arange(self.event_shape[0] - 1, -1, -1, device=value.device)
        codes = (value.long() * powers).sum(-1)
        logits = self.logits
        shape = torch.broadcast_shapes(codes.shape, logits.shape[:-1])
        logits = logits.expand(*shape, logits.shape[-1])
        return logits.gather(-1, codes.expand(shape).unsqueeze(-1)).squeeze(-1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw vectors."""
        codes = torch.distributions.Categorical(logits=self.logits).sample(sample_shape)
        return self.vectors(self.event_shape[0], self.logits)[codes]

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """List all vectors in a dimension on the left."""
        every = self.vectors(self.event_shape[0], self.logits)
        every = every.reshape(len(every), *[1] * len(self.batch_shape), -1)
        return every.expand(-1, *self.batch_shape, -1) if expand else every

    @property
    def mean(self) -> Tensor:
        """Probability that each entry is one, ``(..., K)``."""
        return self.logits.exp() @ self.vectors(self.event_shape[0], self.logits)

    @property
    def variance(self) -> Tensor:
        """Variance of each entry, ``(..., K)``."""
        return self.mean * (1 - self.mean)


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
