"""Families of amortised posteriors q(z | h), h being what an encoder made of the data."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from ..config import Configurable
from ..errors import by_name

# zuko switches the validation of all of torch's distributions off when it is imported.
_VALIDATES = torch.distributions.Distribution._validate_args
import zuko  # noqa: E402

torch.distributions.Distribution.set_default_validate_args(_VALIDATES)

__all__ = [
    "DiagonalNormal",
    "Family",
    "Flow",
    "FullRankNormal",
    "GumbelSoftmax",
    "LowRankNormal",
    "SCALE_FLOOR",
    "available",
    "get",
]

SCALE_FLOOR = 1e-4  # keeps log q finite where a posterior collapses onto a point


class Family(Configurable, nn.Module):
    """Base of the families: ``bind`` makes the maps from h to the parameters of q.

    Examples
    --------
    >>> import torch
    >>> q = DiagonalNormal().bind(in_dim=8, latent_dim=2)
    >>> q(torch.zeros(5, 8)).event_shape
    torch.Size([2])
    """

    in_dim: int = 0
    latent_dim: int = 0

    def bind(self, in_dim: int, latent_dim: int) -> Family:
        """Return a copy sized for features of ``in_dim`` and latents of ``latent_dim``."""
        bound = copy.deepcopy(self)
        bound.in_dim, bound.latent_dim = in_dim, latent_dim
        bound.make_parameters(in_dim, latent_dim)
        return bound

    def make_parameters(self, in_dim: int, latent_dim: int) -> None:
        """Create the maps from features to parameters."""

    def forward(self, h: Tensor) -> TorchDistribution:
        """Return q(z | h), event shape ``(latent_dim,)``; a subclass writes it."""
        raise TypeError(f"{type(self).__name__} has no method `forward(h)`: write q(z | h)")


class DiagonalNormal(Family):
    """q(z | h) = N(m(h), diag s(h)²), both linear in h (s through a softplus)."""

    def make_parameters(self, in_dim: int, latent_dim: int) -> None:
        """Create the linear map to mean and raw scale."""
        self.head = nn.Linear(in_dim, 2 * latent_dim)

    def forward(self, h: Tensor) -> TorchDistribution:
        """Return the diagonal normal."""
        loc, raw = self.head(h).chunk(2, dim=-1)
        return dist.Normal(loc, F.softplus(raw) + SCALE_FLOOR).to_event(1)


class FullRankNormal(Family):
    """q(z | h) = N(m(h), C(h) C(h)ᵀ), C lower triangular with a positive diagonal."""

    rows: Tensor
    cols: Tensor

    def make_parameters(self, in_dim: int, latent_dim: int) -> None:
        """Create the linear map to the mean and the entries of C."""
        index = torch.tril_indices(latent_dim, latent_dim)
        self.register_buffer("rows", index[0], persistent=False)
        self.register_buffer("cols", index[1], persistent=False)
        self.head = nn.Linear(in_dim, latent_dim + index.shape[1])

    def forward(self, h: Tensor) -> TorchDistribution:
        """Return the full-rank normal."""
        n = self.latent_dim
        loc, entries = self.head(h).split([n, self.rows.numel()], dim=-1)
        raw = entries.new_zeros(*entries.shape[:-1], n, n)
        raw[..., self.rows, self.cols] = entries
        diagonal = F.softplus(raw.diagonal(dim1=-2, dim2=-1)) + SCALE_FLOOR
        tril = raw.tril(-1) + torch.diag_embed(diagonal)
        return dist.MultivariateNormal(loc, scale_tril=tril, validate_args=False)


class LowRankNormal(Family):
    """q(z | h) = N(m(h), W(h) W(h)ᵀ + diag d(h)²), W with a few columns only.

    Parameters
    ----------
    rank
        Columns of W; at most as many as z has entries.
    """

    def __init__(self, rank: int = 2) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"a rank is at least 1; given {rank}")
        self.rank = rank

    def make_parameters(self, in_dim: int, latent_dim: int) -> None:
        """Create the linear map to the mean, the raw scale and W."""
        self.columns = min(self.rank, latent_dim)
        self.head = nn.Linear(in_dim, latent_dim * (2 + self.columns))

    def forward(self, h: Tensor) -> TorchDistribution:
        """Return the normal of low rank."""
        n = self.latent_dim
        loc, raw, entries = self.head(h).split([n, n, n * self.columns], dim=-1)
        factor = entries.unflatten(-1, (n, self.columns)) / self.columns**0.5
        variance = (F.softplus(raw) + SCALE_FLOOR).square()
        return dist.LowRankMultivariateNormal(loc, factor, variance, validate_args=False)


class Flow(Family):
    """q(z | h): a normal N(m(h), diag s(h)²) bent by a neural spline flow (Durkan et al. 2019).

    Couplings, so that drawing and scoring cost the same; the flow comes from zuko.

    Parameters
    ----------
    transforms
        Number of coupling transforms.
    hidden
        Sizes of the hidden layers inside each.
    bins
        Bins of the splines.
    """

    def __init__(
        self, transforms: int = 2, *, hidden: Sequence[int] = (64,), bins: int = 8
    ) -> None:
        super().__init__()
        if transforms < 1:
            raise ValueError(f"a flow has at least one transform; given {transforms}")
        self.transforms, self.hidden, self.bins = transforms, tuple(hidden), bins

    def make_parameters(self, in_dim: int, latent_dim: int) -> None:
        """Create the linear map to mean and scale, and the flow conditioned on h."""
        self.head = nn.Linear(in_dim, 2 * latent_dim)
        self.flow = zuko.flows.NSF(
            latent_dim,
            in_dim,
            bins=self.bins,
            transforms=self.transforms,
            hidden_features=self.hidden,
            passes=min(2, latent_dim),
        )

    def forward(self, h: Tensor) -> TorchDistribution:
        """Return the flow, z = m(h) + s(h) · f(ε; h)."""
        loc, raw = self.head(h).chunk(2, dim=-1)
        bent = self.flow(h)
        standardise = zuko.transforms.DependentTransform(
            Standardise(loc, F.softplus(raw) + SCALE_FLOOR), 1
        )
        transform = zuko.transforms.ComposedTransform(standardise, bent.transform)
        return FlowDistribution(zuko.distributions.NormalizingFlow(transform, bent.base))


class Standardise(torch.distributions.Transform):
    """z -> (z - m) / s; zuko's affine transform squashes s, which would move the mean with it."""

    domain = codomain = constraints.real
    bijective = True
    sign = +1

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.loc, self.scale = loc, scale

    def _call(self, x: Tensor) -> Tensor:
        return (x - self.loc) / self.scale

    def _inverse(self, y: Tensor) -> Tensor:
        return self.loc + self.scale * y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return -log s."""
        return -self.scale.log().expand(x.shape)


class FlowDistribution(ZukoToPyro):
    """A zuko flow as a Pyro distribution that knows its support and expands lazily."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw with gradients, keeping the log-density of the draw."""
        return self(sample_shape)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw without gradients."""
        with torch.no_grad():
            return self.dist.sample(sample_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowDistribution:
        """Expand to a batch shape."""
        return FlowDistribution(self.dist.expand(batch_shape))


class GumbelSoftmax(dist.OneHotCategorical):
    """A categorical, drawn as indicators with the gradient of its relaxation (straight through).

    Forward, the draw is an exact one, y = onehot(argmax_k(l_k + g_k)) with Gumbel noise g; its
    gradient is that of softmax((l + g) / T), and so biased (Jang, Gu & Poole 2017, section 2.2).
    Log-probability and KL are those of the categorical.

    Parameters
    ----------
    temperature
        T > 0.
    logits
        Shape ``(..., K)``.

    Examples
    --------
    >>> import torch
    >>> GumbelSoftmax(0.5, torch.zeros(4, 3)).rsample().sum(-1)
    tensor([1., 1., 1., 1.])
    """

    has_rsample = True
    has_enumerate_support = False  # summed out, it would need no relaxation

    def __init__(
        self, temperature: float, logits: Tensor, validate_args: bool | None = None
    ) -> None:
        self.temperature = temperature
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GumbelSoftmax:
        """Expand to a batch shape."""
        logits = self.logits.expand(torch.Size(batch_shape) + self.event_shape)
        return GumbelSoftmax(self.temperature, logits, validate_args=False)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw indicators, ``(*sample_shape, ..., K)``."""
        noise = self.logits.new_empty(self._extended_shape(sample_shape)).exponential_()
        soft = ((self.logits - noise.log()) / self.temperature).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft)
        return hard + (soft - soft.detach())


_NAMED: dict[str, type[Family]] = {
    "diagonal": DiagonalNormal,
    "full_rank": FullRankNormal,
    "low_rank": LowRankNormal,
    "flow": Flow,
}


def available() -> list[str]:
    """List the names of the families."""
    return list(_NAMED)


def get(family: str | Family) -> Family:
    """Return a family by name; a family is returned as it is.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists them.
    """
    return by_name("guide family", _NAMED, Family, family)
