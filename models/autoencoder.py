"""Auto-encoders: plain, with tied weights, sparse, and denoising with walkback.

An auto-encoder is a story whose latent is not summed over: a row has one code, its best guess::

    z_n        ~ p(z)                      flat, unless a prior is given
    x_n | z_n  ~ p(x | h = f(z_n))         likelihood, its parameters put out by the decoder f
    q(z_n | x_n) = point mass at g(x_n)    the encoder

so that what is maximised is log p(x | g(x)) + log p(g(x)): the reconstruction, and a penalty where
there is a prior. ``prior="laplace"`` makes codes sparse, as |z|₁ is penalised. It is no bound of
the evidence, and there is no log p(x) to report.

The denoising auto-encoder (Vincent, Larochelle, Bengio & Manzagol 2008) sees a corrupted row, and
must tell what it was::

    x̃_n ~ C(x̃ | x_n),     objective log p(x_n | g(x̃_n))

It then does have a distribution of x: that of the chain (Bengio, Yao, Alain & Vincent 2013) ::

    x̃_t ~ C(x̃ | x_t),     x_t+1 ~ p(x | g(x̃_t))

whose stationary law is that of the data where p(x | g(x̃)) is the true conditional
(:func:`vaeppl.chain`). With walkback (their algorithm 1) the walk goes on for up to k such steps
while training, and the row must be told from where it ends: so the chain learns to come back from
where it strays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from vaeppl import Model, corruptions, likelihoods, priors, rows
from vaeppl.errors import StoryError
from vaeppl.nets import MLP, TransposedMLP


class AutoEncoder(Model):
    """Auto-encoder: plain, tied, sparse or denoising, by its arguments.

    ====== ====== ================== ==========================================
    site   symbol shape of a row     what it is
    ====== ====== ================== ==========================================
    ``z``  z_n    ``(latent_dim,)``  code, no unit
    ``x``  x_n    ``(x_dim,)``       data, in the unit of the column ``x``
    ====== ====== ================== ==========================================

    Rows are corrupted while it is trained only: what is read of a fit, the held-out objective too,
    sees them as they are.

    Parameters
    ----------
    x_dim
        Number of entries in a row of ``x``.
    latent_dim
        Number of entries of z.
    likelihood
        p(x | h), from :mod:`vaeppl.likelihoods`, or its name.
    prior
        p(z), from :mod:`vaeppl.priors`, or its name; ``None``: flat, and there is no penalty.
    tied
        Whether the decoder has the weights of the encoder, transposed.
    corruption
        C, from :mod:`vaeppl.corruptions`, or its name; ``None``: rows as they are.
    walkback
        Steps of the walk, k; 1: the plain denoising auto-encoder. Each row walks 1, …, k steps, all
        alike, so that the objective is the mean of those of algorithm 1.
    hidden, activation
        Hidden layers of the encoder (the decoder has them in reverse order).
    activate_code
        Whether the code goes through the activation too.

    Examples
    --------
    >>> import torch, vaeppl
    >>> data = {"x": (torch.rand(100, 6) < 0.4).float()}
    >>> ae = AutoEncoder(6, 4, corruption="salt_and_pepper", walkback=3, hidden=(8,))
    >>> fit = vaeppl.fit(ae, data, epochs=2, progress=False)
    >>> fit.encode(data)["z"].shape
    torch.Size([100, 4])
    >>> vaeppl.chain(fit, data, steps=5).states.shape
    torch.Size([6, 100, 6])
    """

    codes_are_points = True

    def __init__(
        self,
        x_dim: int,
        latent_dim: int = 10,
        *,
        likelihood: str | likelihoods.Likelihood = "bernoulli",
        prior: str | priors.Prior | None = None,
        tied: bool = False,
        corruption: str | corruptions.Corruption | None = None,
        walkback: int = 1,
        hidden: Sequence[int] = (400,),
        activation: str = "relu",
        activate_code: bool = False,
    ) -> None:
        super().__init__()
        if walkback < 1 or (walkback > 1 and corruption is None):
            raise ValueError(
                "walkback is a number of steps, at least 1, and more need a corruption; given "
                f"walkback={walkback}, corruption={corruption!r}"
            )
        self.walkback = walkback
        self.corruption = None if corruption is None else corruptions.get(corruption)
        self.likelihood = likelihoods.get(likelihood).bind(x_dim)
        self.prior = (Flat() if prior is None else priors.get(prior)).bind(latent_dim)
        features, params = self.likelihood.num_features, self.likelihood.num_params
        self.encoder = MLP(
            features,
            latent_dim,
            hidden=hidden,
            activation=activation,
            activate_last=activate_code,
        )
        if tied and params != features:
            raise ValueError(
                f"the likelihood takes {params} parameters and makes {features} features, so the "
                "decoder cannot have the encoder's weights: give tied=False"
            )
        if tied:
            self.decoder: nn.Module = TransposedMLP(self.encoder)
        else:
            self.decoder = MLP(latent_dim, params, hidden=hidden[::-1], activation=activation)

    def model(self, x: Tensor | None = None) -> None:
        """p(z) p(x | z) for each row."""
        with rows(x):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)

    def guide(self, x: Tensor) -> None:
        """Z = g(x̃) for each row."""
        seen = self.walk(x) if self.training and self.corruption is not None else x
        with rows(x):
            pyro.sample("z", dist.Delta(self.code(seen), event_dim=1))

    def code(self, x: Tensor) -> Tensor:
        """g(x), ``(..., latent_dim)``."""
        return self.encoder(self.likelihood.features(x))

    def corrupt(self, x: Tensor) -> Tensor:
        """Draw x̃ given x."""
        return x if self.corruption is None else self.corruption(x)

    def walk(self, x: Tensor) -> Tensor:
        """Draw where a walk of 1, …, k steps from x ends."""
        seen = end = self.corrupt(x)
        if self.walkback > 1:
            steps = torch.randint(1, self.walkback + 1, (len(x), 1), device=x.device)
            with torch.no_grad():
                for step in range(2, self.walkback + 1):
                    back = self.likelihood(self.decoder(self.code(seen))).sample()
                    seen = self.corrupt(back)
                    end = torch.where(steps >= step, seen, end)
        return end


class Flat(priors.Prior):
    """z is anything, all alike: a prior that is no distribution, so that nothing is penalised."""

    def forward(self) -> TorchDistribution:
        """Return a density of 1 everywhere."""
        return FlatDensity(constraints.real, torch.Size(), self.zeros.shape)


class FlatDensity(dist.ImproperUniform):
    """An improper uniform distribution that says why it cannot be drawn from."""

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Refuse: there is nothing to draw from."""
        raise StoryError(
            "this auto-encoder has a flat prior, from which no code can be drawn: give "
            "prior='normal'; or draw rows by the chain of a denoising one, vaeppl.chain(fit, data)"
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Return 0, on the device of the value; Pyro's own stands on the CPU."""
        shape = value.shape[: value.ndim - self.event_dim]
        return value.new_zeros(()).expand(torch.broadcast_shapes(shape, self.batch_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlatDensity:
        """Return the same density for a larger batch."""
        return FlatDensity(self.support, torch.Size(batch_shape), self.event_shape)
