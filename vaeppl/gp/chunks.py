"""Work on many rows in parts, so that memory is set by a part and not by the rows.

What a part needs for its gradient is computed again when its turn comes: the rows go through the
networks twice, and the gradient is exact (the two passes of Casale et al. 2018, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.utils.checkpoint import checkpoint

__all__ = ["InParts", "in_parts"]


def in_parts(network: Callable[..., Tensor], rows: int, *inputs: Tensor) -> Tensor:
    """Apply a network to inputs ``(N, ...)``, ``rows`` of them at a time.

    Examples
    --------
    >>> import torch
    >>> in_parts(torch.nn.Linear(4, 2), 10, torch.zeros(25, 4)).shape
    torch.Size([25, 2])
    """
    if len(inputs[0]) <= rows:
        return network(*inputs)
    parts = zip(*(x.split(rows) for x in inputs), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([network(*part) for part in parts])
    return torch.cat([again(network, *part) for part in parts])


def again(function: Callable[..., Tensor], *part: Tensor) -> Tensor:
    """Apply a function; what it needs for its gradient is computed again when the time comes."""
    result: Tensor = checkpoint(function, *part, use_reentrant=False)
    return result


class InParts(TorchDistribution):
    """p(x_n | z_n) of many rows, scored and drawn in parts.

    Parameters
    ----------
    observe
        From latents ``(B, L)`` to the distribution of the data, batch shape ``(B,)``.
    z
        Latents, ``(N, L)``.
    rows
        Rows at a time.

    Examples
    --------
    >>> import torch, pyro.distributions as dist
    >>> def observe(z):
    ...     return dist.Normal(z, 1.0).to_event(1)
    >>> InParts(observe, torch.zeros(25, 2), 10).log_prob(torch.zeros(25, 2)).shape
    torch.Size([25])
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, observe: Callable[[Tensor], Any], z: Tensor, rows: int) -> None:
        self.observe, self.z, self.rows = observe, z, rows
        with torch.no_grad():
            self.one = observe(z[:1])
        super().__init__(z.shape[:-1], self.one.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws have a gradient."""
        return bool(self.one.has_rsample)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> Any:
        """Support of the data."""
        return self.one.support

    @property
    def mean(self) -> Tensor:
        """Mean of the data."""
        return in_parts(lambda z: self.observe(z).mean, self.rows, self.z)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of each row, ``(N,)``."""
        return in_parts(lambda z, x: self.observe(z).log_prob(x), self.rows, self.z, value)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw the rows."""
        with torch.no_grad():
            draws = [self.observe(z).sample(sample_shape) for z in self.z.split(self.rows)]
        return torch.cat(draws, dim=len(torch.Size(sample_shape)))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw the rows with gradients."""
        draws = [self.observe(z).rsample(sample_shape) for z in self.z.split(self.rows)]
        return torch.cat(draws, dim=len(torch.Size(sample_shape)))
