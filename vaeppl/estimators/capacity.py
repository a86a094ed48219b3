"""The KL held at a capacity that grows (Burgess et al. 2018, eq. 8).

::
    reconstruction - γ N | KL / N - C |

with N the rows. While C grows from 0, dimensions of the latents come into use one after another.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import StoryError
from .elbo import ELBO
from .sites import PARTICLES, Site, is_enumerated, is_local, sample_sites

__all__ = ["Capacity"]


class Capacity(ELBO):
    """The KL is held at a capacity C: reconstruction - γ N |KL / N - C| (Burgess et al. 2018).

    Parameters
    ----------
    num_particles
        Draws for each row.
    capacity
        C at the end, in nats per row.
    strength
        γ.
    steps
        Gradient steps over which C grows from 0, evenly.

    Examples
    --------
    >>> Capacity(capacity=25.0, steps=10_000).current
    tensor(0.)
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        capacity: float = 25.0,
        strength: float = 1000.0,
        steps: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(num_particles, **options)
        if capacity < 0 or strength < 0 or steps < 1:
            raise ValueError(
                "capacity and strength are >= 0 and steps at least 1; given "
                f"{capacity}, {strength} and {steps}"
            )
        self.capacity, self.strength, self.steps = float(capacity), float(strength), steps
        self.taken = torch.zeros(())  # a tensor, so that a compiled step can count
        self._kl: Any = 0.0

    @property
    def current(self) -> Tensor:
        """C as it stands."""
        return self.capacity * (self.taken / self.steps).clamp(max=1.0)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the objective."""
        self._kl = 0.0
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        kl, self._kl = self._kl, 0.0
        if torch.is_grad_enabled():
            self.taken = self.taken.to(loss.device)
            self.taken += 1
        rows = self._rows
        held = rows * (kl / rows - self.current.to(loss)).abs()
        return loss - self.kl_weight * kl + self.strength * held

    def _particle_loss(self, model_trace: Any, guide_trace: Any) -> Tensor:
        if not all(s["fn"].has_rsample or is_enumerated(s) for s in sample_sites(guide_trace)):
            raise StoryError("Capacity needs latents that can be reparametrised or summed out")
        local = [s for s in sample_sites(guide_trace) if is_local(s)]
        if not local:
            raise StoryError("Capacity needs a latent of each row")
        first = local[0]
        size = math.prod(f.size for f in first["cond_indep_stack"] if f.name != PARTICLES)
        self._rows = torch.as_tensor(first["scale"]).mean() * size
        return super()._particle_loss(model_trace, guide_trace)

    def _note(self, term: str, value: Tensor, site: Site) -> None:
        if term == "kl":
            self._kl = self._kl + value / self.num_particles
        super()._note(term, value, site)
