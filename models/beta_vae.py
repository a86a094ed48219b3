"""Disentangling: one story, and the objectives that are to line its latents up with factors.

The story is that of a VAE with a normal prior, and so is the guide::

    z_n        ~ N(0, I)
    x_n | z_n  ~ p(x | h = f(z_n)),      q(z_n | x_n) = N(m(g(x_n)), diag s(g(x_n))²)

What differs is what is maximised, per row. With R the reconstruction E_q log p(x | z), KL that of
q(z | x) from the prior, and q(z) the mean of q(z | x) over the rows::

    name         objective                                    source
    "beta"       R - β KL                                     Higgins et al. 2017
    "capacity"   R - γ |KL - C|, C growing from 0             Burgess et al. 2018
    "tc"         R - I(x; z) - β TC - Σ_j KL(q(z_j) || p)     Chen et al. 2018 (β-TC-VAE)
    "factor"     ELBO - γ TC, by a classifier                 Kim & Mnih 2018 (FactorVAE)
    "dip"        ELBO - λ Σ_{i≠j} C_ij² - λ_d Σ_i (C_ii - 1)²  Kumar et al. 2018 (DIP-VAE)

    TC = KL(q(z) || Π_j q(z_j)), the total correlation;  C the covariance of the codes

None of them bounds log p(x). What is reported of a fit is the ELBO all the same, so that fits by
different objectives can be compared. The rotation of z that the likelihood leaves open is settled
by the guide's diagonal covariance and by chance: seeds differ as much as objectives do (Locatello
et al. 2019), so fit several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor, nn

from vaeppl import Model, estimators, guides, likelihoods, priors, rows
from vaeppl.errors import unknown_name
from vaeppl.nets import MLP, feature_net, output_dim

OBJECTIVES = {  # name: the estimator, and its options where they differ from its own
    "beta": ("elbo", {"kl_weight": 4.0}),
    "capacity": ("capacity", {}),
    "tc": ("beta_tc", {}),
    "factor": ("factor_tc", {}),
    "dip": ("dip", {}),
}


class BetaVAE(Model):
    """Variational auto-encoder to be fitted by an objective that disentangles.

    ====== ====== ================== ==========================================
    site   symbol shape of a row     what it is
    ====== ====== ================== ==========================================
    ``z``  z_n    ``(latent_dim,)``  latent vector, no unit
    ``x``  x_n    ``(x_dim,)``       data, in the unit of the column ``x``
    ====== ====== ================== ==========================================

    Parameters
    ----------
    x_dim
        Number of entries in a row of ``x``.
    latent_dim
        Number of entries of z.
    likelihood
        p(x | h), from :mod:`vaeppl.likelihoods`, or its name.
    hidden, activation
        Hidden layers of both networks (the decoder has them in reverse order).
    encoder, decoder
        Networks to use instead, as in :class:`~vaeppl.models.VAE`.

    Examples
    --------
    >>> import torch, vaeppl
    >>> data = {"x": (torch.rand(100, 6) < 0.4).float()}
    >>> vae = BetaVAE(6, 3, hidden=(8,))
    >>> fit = vaeppl.fit(vae, data, estimator=vae.objective("tc", beta=6.0), epochs=1,
    ...                  progress=False)
    >>> fit.encode(data)["z"].shape
    torch.Size([100, 3])
    """

    def __init__(
        self,
        x_dim: int,
        latent_dim: int = 10,
        *,
        likelihood: str | likelihoods.Likelihood = "bernoulli",
        hidden: Sequence[int] = (256, 128),
        activation: str = "relu",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.likelihood = likelihoods.get(likelihood).bind(x_dim)
        self.prior = priors.StandardNormal().bind(latent_dim)
        features, params = self.likelihood.num_features, self.likelihood.num_params
        if encoder is None:
            encoder = feature_net(features, hidden, activation)
        if decoder is None:
            decoder = MLP(latent_dim, params, hidden=hidden[::-1], activation=activation)
        self.encoder, self.decoder = encoder, decoder
        self.q = guides.DiagonalNormal().bind(output_dim(encoder, features), latent_dim)

    def model(self, x: Tensor | None = None) -> None:
        """p(z) p(x | z) for each row."""
        with rows(x):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x) for each row."""
        with rows(x):
            pyro.sample("z", self.q(self.encoder(self.likelihood.features(x))))

    @staticmethod
    def objective(name: str = "beta", **options: Any) -> Any:
        """Return the estimator of an objective, to be handed to :func:`vaeppl.fit`.

        Parameters
        ----------
        name
            ``"beta"``, ``"capacity"``, ``"tc"``, ``"factor"`` or ``"dip"``.
        **options
            Of the estimator, ``vaeppl.estimators.options(...)``: ``kl_weight`` (β) of ``"beta"``;
            ``capacity``, ``strength`` and ``steps`` of ``"capacity"``; ``beta`` of ``"tc"``;
            ``strength`` of ``"factor"``; ``off_diagonal``, ``diagonal`` and ``kind`` of ``"dip"``.

        Raises
        ------
        ValueError
            If there is no such objective or option.

        Examples
        --------
        >>> BetaVAE.objective("beta", kl_weight=8.0).kl_weight
        8.0
        """
        if name not in OBJECTIVES:
            raise ValueError(unknown_name("objective", name, OBJECTIVES))
        estimator, ours = OBJECTIVES[name]
        return estimators.get(estimator, **{**ours, **options})
