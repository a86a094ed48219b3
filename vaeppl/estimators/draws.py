"""Where the noise of reparametrised latents comes from: alone, in pairs, or spread evenly.

A reparametrised latent is z = T(ε) with noise ε = Φ⁻¹(u), u uniform. K particles of a row need K
points u, and these need not be independent of each other; each alone must only be uniform:

- ``antithetic``: in pairs u and 1 - u. What is odd in the noise cancels: the gradient of a linear
  function has no variance left. What is even is seen twice, and varies twice as much.
- ``sobol``: the first K points of Sobol's sequence in as many dimensions as the row's latents
  have, shifted modulo 1 by one uniform point a row (Cranley & Patterson 1976). The error of a
  smooth integrand then falls nearly as 1/K, not as 1/√K (Buchholz, Wenzel & Mandt 2018).

Both leave every estimate that is a mean over particles unbiased, and the importance-weighted
bounds remain bounds. An estimator whose derivation needs independent particles refuses them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution

from ..errors import StoryError, unknown_name

__all__ = ["KINDS", "check", "from_uniform", "source", "transported"]

KINDS = ("independent", "antithetic", "sobol")


def check(kind: str, num_particles: int, *, side_by_side: bool = True) -> None:
    """Refuse a kind that does not exist, or that these particles cannot have."""
    if kind not in KINDS:
        raise ValueError(unknown_name("kind of draws", str(kind), KINDS))
    if kind == "independent":
        return
    if num_particles < 2 or not side_by_side:
        raise ValueError(
            f"draws={kind!r} tie the particles of a row together: give num_particles >= 2, side by "
            f"side (vectorize_particles=True); given {num_particles}"
        )
    if kind == "antithetic" and num_particles % 2:
        raise ValueError(f"antithetic draws come in pairs; num_particles is {num_particles}")


def source(kind: str, guide: Callable[..., Any], particle_dim: int) -> Callable[..., Any]:
    """Return a guide that takes its noise from a source.

    Parameters
    ----------
    kind
        One of ``KINDS``.
    guide
        The guide, in the plate of its particles.
    particle_dim
        Dimension of that plate, negative.
    """
    if kind == "independent":
        return guide

    def drawing(*args: Any, **kwargs: Any) -> Any:
        with _Source(kind, particle_dim):
            return guide(*args, **kwargs)

    return drawing


class _Source(Messenger):
    """Draws the reparametrised sites of a guide from points of its own."""

    def __init__(self, kind: str, particle_dim: int) -> None:
        super().__init__()
        self.kind, self.particle_dim, self.used = kind, particle_dim, 0

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        fn = msg["fn"]
        if msg["done"] or msg["is_observed"] or not getattr(fn, "has_rsample", False):
            return
        msg["value"] = transported(fn, self._uniform)
        msg["done"] = True

    def _uniform(self, shape: torch.Size, like: Tensor, event_dim: int) -> Tensor:
        """Return uniform noise of a batch and event shape, tied along the particles."""
        dim = self.particle_dim - event_dim
        particles = shape[dim]
        one = torch.Size([*shape[:dim], 1, *shape[len(shape) + dim + 1 :]])
        inside = torch.finfo(like.dtype).eps
        if self.kind == "antithetic":
            half = torch.Size([*shape[:dim], particles // 2, *shape[len(shape) + dim + 1 :]])
            u = torch.rand(half, dtype=like.dtype, device=like.device).clamp(inside, 1 - inside)
            return torch.cat([u, 1 - u], dim)
        size = shape[len(shape) - event_dim :].numel() if event_dim else 1
        points = _sobol(particles, self.used, size, like.dtype, like.device)
        self.used += size
        # (K, event) to (K, 1, ..., 1, event): the plates to the right of the particles.
        plates = (1,) * (-self.particle_dim - 1)
        points = points.reshape(particles, *plates, *shape[len(shape) - event_dim :])
        shift = torch.rand(one, dtype=like.dtype, device=like.device)
        return ((points + shift) % 1.0).clamp(inside, 1 - inside)


@lru_cache(maxsize=32)
def _sobol(
    number: int,
    used: int,
    size: int,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the first points of Sobol's sequence in the dimensions not used yet.

    They are kept: made on the CPU for each step, they would be copied to a GPU for each step.
    """
    if used + size > torch.quasirandom.SobolEngine.MAXDIM:
        raise StoryError(
            f"Sobol's sequence has {torch.quasirandom.SobolEngine.MAXDIM} dimensions; the latents "
            f"of a row have more ({used + size}): use draws='antithetic'"
        )
    engine = torch.quasirandom.SobolEngine(used + size)
    return engine.draw(number, dtype=torch.float64)[:, used:].to(device, dtype)


Uniform = Callable[[torch.Size, Tensor, int], Tensor]


def from_uniform(fn: Any, u: Tensor) -> Tensor:
    """Return the draw of a distribution that uniform noise stands for.

    Parameters
    ----------
    fn
        A reparametrised distribution.
    u
        Noise in (0, 1), of the shape of a draw.

    Raises
    ------
    StoryError
        If the distribution is not of a kind whose noise is known.

    Examples
    --------
    >>> import torch, pyro.distributions as dist
    >>> fn = dist.LogNormal(torch.zeros(2), 1.0).to_event(1)
    >>> from_uniform(fn, torch.tensor([0.5, 0.5]))
    tensor([1., 1.])
    """
    return transported(fn, lambda shape, like, event_dim: u.to(like).expand(shape))


def transported(fn: Any, uniform: Uniform) -> Tensor:
    """Draw from a distribution with noise of one's own.

    ``uniform(shape, like, event_dim)`` is asked for once, and only if the distribution has noise.
    """
    plates = len(fn.batch_shape)
    return _draw(fn, lambda shape, like: uniform(shape, like, len(shape) - plates))


def _draw(fn: Any, noise: Callable[[torch.Size, Tensor], Tensor]) -> Tensor:
    shape = torch.Size(fn.batch_shape) + torch.Size(fn.event_shape)
    if isinstance(fn, dist.Delta):
        value: Tensor = fn.rsample()
        return value
    if isinstance(fn, (Independent, dist.MaskedDistribution)):
        return _draw(fn.base_dist, noise)
    if isinstance(fn, torch.distributions.Normal):
        return fn.loc + fn.scale * torch.special.ndtri(noise(shape, fn.loc))
    if isinstance(fn, torch.distributions.MultivariateNormal):
        e = torch.special.ndtri(noise(shape, fn.loc))
        return fn.loc + (fn._unbroadcasted_scale_tril @ e.unsqueeze(-1)).squeeze(-1)
    if isinstance(fn, TransformedDistribution):
        value = _draw(fn.base_dist, noise)
        for transform in fn.transforms:
            value = transform(value)
        return value
    flow = getattr(fn, "dist", None)  # of zuko
    if flow is not None and hasattr(flow, "transform") and hasattr(flow, "base"):
        return flow.transform.inv(_draw(flow.base, noise))
    if type(fn).icdf is not torch.distributions.Distribution.icdf:
        like = next(v for v in vars(fn).values() if isinstance(v, Tensor))
        return fn.icdf(noise(shape, like))
    raise StoryError(
        f"{type(fn).__name__} cannot be drawn from noise of one's own: antithetic and Sobol draws "
        "are known for normals, what is transformed from them, flows, and distributions with an "
        "icdf; use draws='independent'"
    )
