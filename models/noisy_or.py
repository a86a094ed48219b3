"""The noisy-OR network: causes that are there or not, each of which may turn a finding on.

The story of a row n, with causes k = 1, …, K and findings d = 1, …, D::

    z_nk        ~ Bernoulli(π_k)                              is the cause there?
    x_nd | z_n  ~ Bernoulli(1 - exp(-(b_d + Σ_k W_dk z_nk)))  W, b > 0

so that each cause that is there fails to turn finding d on with probability exp(-W_dk), each on its
own account, and nothing in sight fails to with probability exp(-b_d), the leak. A finding that is
off needs that all fail; one that is on is explained by any one of them, and then the others are
less probable than before (explaining away).

This is the network of diagnosis (Shwe et al. 1991). The posterior couples the causes, so there are
two guides. One lists all 2^K sets of causes, and is the posterior itself::

    q(z | x) = p(z | x),                  and the ELBO is log p(x)

the other is a network g, one pass whatever K, with causes apart::

    q(z | x) = Π_k Bernoulli(g_k(x))      (Dayan, Hinton, Neal & Zemel 1995)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from vaeppl import Model, rows
from vaeppl.distributions import Bernoulli, BinaryVectors
from vaeppl.errors import unknown_name
from vaeppl.nets import MLP

INFERENCES = ("enumerated", "amortised")
MOST_ENUMERATED = 14  # causes; twice the work for each one more
LEAST_LEAK = 1e-6  # without one, a finding that no cause explains would have log p = -infinity


class NoisyOR(Model):
    """Noisy-OR network of binary causes and binary findings.

    ====== ====== ================== ==========================================
    site   symbol shape of a row     what it is
    ====== ====== ================== ==========================================
    ``z``  z_n    ``(latent_dim,)``  causes, 0 or 1
    ``x``  x_n    ``(x_dim,)``       findings, 0 or 1: the column ``x``
    ====== ====== ================== ==========================================

    Read of a fit: ``prevalence`` (π, ``(latent_dim,)``), ``strength`` (1 - exp(-W), the probability
    that a cause alone turns a finding on, ``(x_dim, latent_dim)``), ``leak`` (1 - exp(-b),
    ``(x_dim,)``), and :meth:`causes`, the posterior probabilities of the causes of a row.

    Parameters
    ----------
    x_dim
        D, the number of findings.
    latent_dim
        K, the number of causes.
    inference
        ``"enumerated"``: the exact posterior, for up to 14 causes; ``"amortised"``: a network whose
        draws get the score-function gradient, best with ``num_particles=10`` or so, or with
        ``estimator="vimco"`` or ``"wake_sleep"``.
    hidden, activation
        Hidden layers of the network of the amortised guide.

    Examples
    --------
    >>> import torch, vaeppl
    >>> data = {"x": (torch.rand(200, 6) < 0.4).float()}
    >>> fit = vaeppl.fit(NoisyOR(6, 2), data, epochs=2, progress=False)
    >>> fit.model.strength.shape, fit.model.causes(data["x"]).shape
    (torch.Size([6, 2]), torch.Size([200, 2]))
    """

    def __init__(
        self,
        x_dim: int,
        latent_dim: int = 5,
        *,
        inference: str = "enumerated",
        hidden: Sequence[int] = (100,),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if inference not in INFERENCES:
            raise ValueError(unknown_name("inference", inference, INFERENCES))
        if min(x_dim, latent_dim) < 1:
            raise ValueError(f"x_dim and latent_dim are at least 1; given {x_dim} and {latent_dim}")
        if inference == "enumerated" and latent_dim > MOST_ENUMERATED:
            raise ValueError(
                f"{latent_dim} causes have 2^{latent_dim} sets, too many to list (at most "
                f"{MOST_ENUMERATED} causes): give inference='amortised'"
            )
        self.inference = inference
        self.prior_logits = nn.Parameter(torch.full((latent_dim,), -1.0))
        self.raw_weights = nn.Parameter(torch.randn(x_dim, latent_dim) - 1.0)
        self.raw_leak = nn.Parameter(torch.full((x_dim,), -3.0))
        if inference == "enumerated":
            every = BinaryVectors.vectors(latent_dim, self.prior_logits.detach())
            self.register_buffer("every_set", every, persistent=False)
        else:
            self.encoder = MLP(x_dim, latent_dim, hidden=hidden, activation=activation)

    every_set: Tensor

    def model(self, x: Tensor | None = None) -> None:
        """p(z) p(x | z) for each row."""
        with rows(x):
            z = pyro.sample("z", dist.Bernoulli(logits=self.prior_logits).to_event(1))
            pyro.sample("x", self.findings(z), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x) for each row: summed out, or drawn."""
        marked: Any = {"enumerate": "parallel"} if self.inference == "enumerated" else {}
        with rows(x):
            pyro.sample("z", self.q(x), infer=marked)

    def findings(self, z: Tensor) -> TorchDistribution:
        """p(x | z)."""
        b = F.softplus(self.raw_leak) + LEAST_LEAK
        rate = b + z @ F.softplus(self.raw_weights).mT
        # p = 1 - exp(-rate) has the logit log(exp(rate) - 1), here without overflow.
        return Bernoulli(logits=rate + (-torch.expm1(-rate)).log()).to_event(1)

    def q(self, x: Tensor) -> TorchDistribution:
        """q(z | x): of all sets of causes together, or of each cause."""
        if self.inference == "amortised":
            return dist.Bernoulli(logits=self.encoder(x)).to_event(1)
        # No gradient is needed of what maximises the ELBO already.
        with torch.no_grad():
            z = self.every_set
            log_joint = dist.Bernoulli(logits=self.prior_logits).log_prob(z).sum(-1)
            log_joint = log_joint + self.findings(z).log_prob(x.unsqueeze(-2))
        return BinaryVectors(log_joint)

    def causes(self, x: Tensor) -> Tensor:
        """q(z_k = 1 | x) of rows, ``(..., latent_dim)``."""
        with torch.no_grad():
            return self.q(x).mean

    @property
    def prevalence(self) -> Tensor:
        """π, ``(latent_dim,)``."""
        return self.prior_logits.detach().sigmoid()

    @property
    def strength(self) -> Tensor:
        """1 - exp(-W), ``(x_dim, latent_dim)``."""
        return -torch.expm1(-F.softplus(self.raw_weights.detach()))

    @property
    def leak(self) -> Tensor:
        """1 - exp(-b), ``(x_dim,)``."""
        return -torch.expm1(-F.softplus(self.raw_leak.detach()) - LEAST_LEAK)
