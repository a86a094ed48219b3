"""Columns of several types side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["MixedColumns", "centre"]


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
