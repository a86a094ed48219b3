"""How columns and latents enter an encoder: as features, with a mask where entries are missing."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import likelihoods
from ..likelihoods import Likelihood

__all__ = ["ColumnFeatures", "LatentFeatures"]


class ColumnFeatures(nn.Module):
    """Turns a column into features: ``(B, *event) -> (B, out_dim)``.

    Parameters
    ----------
    likelihood
        Says how its entries enter an encoder (:meth:`Likelihood.features`).
    event_shape
        Shape of a row.
    missing
        Whether entries may be NaN. They enter as zeros, and which are there is appended.

    Examples
    --------
    >>> features = ColumnFeatures(likelihoods.Normal(), (2,), missing=True)
    >>> features(torch.tensor([[3.0, torch.nan]]))
    tensor([[3., 0., 1., 0.]])
    """

    def __init__(
        self, likelihood: Likelihood, event_shape: torch.Size | tuple[int, ...], *, missing: bool
    ) -> None:
        super().__init__()
        self.width = math.prod(event_shape)
        self.event_dim, self.missing = len(event_shape), missing
        self.of_entries = likelihood.as_condition(self.width)
        self.out_dim = self.of_entries.num_features + missing * self.width
        self.register_buffer("entry", _entries(self.of_entries), persistent=False)

    entry: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of rows, ``(B, out_dim)``."""
        flat = x.reshape(*x.shape[: x.ndim - self.event_dim], self.width)
        if not self.missing:
            return self._real(self.of_entries.features(flat))
        seen = ~flat.isnan()
        features = self._real(self.of_entries.features(torch.where(seen, flat, 0.0)))
        return torch.cat([features * seen[..., self.entry], seen.to(features.dtype)], dim=-1)

    def _real(self, features: Tensor) -> Tensor:
        return features if features.is_floating_point() else features.to(torch.get_default_dtype())


def _entries(bound: Any) -> Tensor:
    """Return to which entry of a row each feature belongs."""
    if isinstance(bound, likelihoods.Mixed):
        starts = [sum(bound.sizes[:i]) for i in range(len(bound.sizes))]
        return torch.cat([s + _entries(p) for s, p in zip(starts, bound._each(), strict=True)])
    return torch.arange(bound.x_dim).repeat_interleave(bound.num_features // bound.x_dim)


class LatentFeatures(nn.Module):
    """Turns a draw of a latent into features: codes as indicators, numbers in their unit.

    Parameters
    ----------
    event_shape
        Shape of a draw.
    num_values
        K, where draws are codes 0, …, K - 1.
    to_reals
        The map from the latent's support to all reals; ``None``: there is none to make.
    """

    def __init__(
        self, event_shape: torch.Size, num_values: int | None = None, to_reals: Any = None
    ) -> None:
        super().__init__()
        self.event_dim, self.num_values, self.to_reals = len(event_shape), num_values, to_reals
        width = math.prod(event_shape)
        self.width = width
        if num_values is not None:
            width *= num_values
        elif to_reals is not None:
            width = math.prod(to_reals.forward_shape(event_shape))
        self.out_dim = width

    def forward(self, z: Tensor) -> Tensor:
        """Return the features of draws, ``(..., out_dim)``."""
        lead = z.shape[: z.ndim - self.event_dim]
        if self.num_values is not None:
            z = F.one_hot(z.long(), self.num_values).to(torch.get_default_dtype())
        elif self.to_reals is not None:
            z = self.to_reals(z)
        return z.reshape(*lead, self.out_dim)
