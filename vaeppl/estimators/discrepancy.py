"""The distance of the codes from the prior in the place of the KL: WAE and InfoVAE.

The codes of a batch, drawn from q(z), are compared with draws of the prior by the maximum mean
discrepancy, without densities::

    MMD²(q, p) = E k(z, z') + E k(w, w') - 2 E k(z, w),     z, z' ~ q(z),  w, w' ~ p(z)
"""

from __future__ import annotations

from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from ..errors import StoryError
from .regularised import Codes, Penalised
from .sites import sample_sites

__all__ = ["MMD", "mmd"]

KERNELS = ("imq", "rbf", "energy")


class MMD(Penalised):
    """The distance of the codes of a batch from draws of the prior (WAE, InfoVAE).

    Maximises reconstruction - β KL - λ N MMD²(q(z), p(z)); with β = 0, as it is unless you say
    otherwise, this is the Wasserstein auto-encoder (Tolstikhin et al. 2018), and with 0 < β < 1
    an InfoVAE (Zhao et al. 2019, eq. 6).

    Parameters
    ----------
    num_particles
        Draws for each row.
    strength
        λ.
    kernel
        ``"imq"``: Σ_s 2Ds/(2Ds + d²) over scales s; ``"rbf"``: exp(-d²/2D); ``"energy"``: -d, so
        that MMD² is the energy distance.
    kl_weight
        β.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        strength: float = 10.0,
        kernel: str = "imq",
        kl_weight: float | Tensor = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(num_particles, kl_weight=kl_weight, **options)
        if strength < 0:
            raise ValueError(f"strength is >= 0; given {strength}")
        if kernel not in KERNELS:
            raise ValueError(f"kernel is one of {', '.join(KERNELS)}; given {kernel!r}")
        self.strength, self.kernel = strength, kernel
        self._prior: dict[str, Tensor] = {}

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the objective."""
        story = poutine.trace(poutine.uncondition(model)).get_trace(*args, **kwargs)
        self._prior = {
            s["name"]: s["value"].reshape(s["fn"].batch_shape.numel(), -1)
            for s in sample_sites(story)
            if not s["infer"].get("was_observed") and hasattr(s["fn"], "batch_shape")
        }
        return super().differentiable_loss(model, guide, *args, **kwargs)

    def penalise(self, found: Codes, model_trace: Any) -> Tensor:
        """Return λ MMD²."""
        names = [s["name"] for s in found.sites]
        if unknown := [n for n in names if n not in self._prior]:
            raise StoryError(f"MMD knows no prior of {unknown[0]!r}")
        prior = torch.cat([self._prior[n] for n in names], -1)
        return self.strength * mmd(found.values, prior, self.kernel)


def mmd(a: Tensor, b: Tensor, kernel: str = "imq") -> Tensor:
    """Estimate the squared maximum mean discrepancy of two samples, without bias.

    Parameters
    ----------
    a, b
        Shapes ``(n, D)`` and ``(m, D)``, n, m >= 2.
    kernel
        As in :class:`MMD`.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> round(float(mmd(x, x + 1, "energy")), 3)
    0.0
    """
    if min(len(a), len(b)) < 2:
        raise StoryError(f"MMD needs two rows or more; given {len(a)} and {len(b)}")

    def k(x: Tensor, y: Tensor) -> Tensor:
        square = (x[:, None] - y[None]).square().sum(-1)
        if kernel == "energy":
            return -(square + 1e-12).sqrt()  # the root has no slope at 0
        if kernel == "rbf":
            return (-square / (2 * x.shape[1])).exp()
        scale = 2.0 * x.shape[1]
        scales = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
        parts = [scale * s / (scale * s + square) for s in scales]
        return torch.stack(parts).sum(0)

    def among(x: Tensor) -> Tensor:
        matrix = k(x, x)
        return (matrix.sum() - matrix.diagonal().sum()) / (len(x) * (len(x) - 1))

    return among(a) + among(b) - 2 * k(a, b).mean()
