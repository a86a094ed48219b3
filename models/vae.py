"""The variational auto-encoder (Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014).

The story of a row n = 1, …, N::

    z_n        ~ p(z)                    latent vector, N(0, I) unless another prior is given
    x_n | z_n  ~ p(x | h = f(z_n))       likelihood, its parameters put out by a network f

and the guide that stands for the posterior, amortised by a network g over the rows::

    q(z_n | x_n) = N(m(g(x_n)), diag s(g(x_n))²)
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
from torch import Tensor, nn

from vaeppl import Model, guides, likelihoods, priors, rows
from vaeppl.nets import MLP, feature_net, output_dim


class VAE(Model):
    """Variational auto-encoder.

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
        p(x | h), from :mod:`vaeppl.likelihoods`, or its name; it says which data it accepts.
    prior
        p(z), from :mod:`vaeppl.priors`, or its name; N(0, I) if not given.
    guide_family
        Family of q(z | x): ``"diagonal"``, ``"full_rank"``, ``"flow"``, or one of your own.
    hidden, activation
        Hidden layers of both networks (the decoder has them in reverse order); ``()`` makes both
        linear.
    encoder, decoder
        Networks to use instead: ``(..., likelihood features) -> (..., any)`` and
        ``(..., latent_dim) -> (..., likelihood parameters)``.

    Examples
    --------
    >>> import vaeppl
    >>> from vaeppl.likelihoods import Binomial
    >>> digits = vaeppl.data.load("digits")
    >>> vae = VAE(64, latent_dim=2, likelihood=Binomial(16), hidden=(32,))
    >>> fit = vaeppl.fit(vae, digits, epochs=1, seed=0, progress=False)
    >>> fit.sample(3)["x"].shape
    torch.Size([3, 64])
    """

    def __init__(
        self,
        x_dim: int,
        latent_dim: int = 10,
        *,
        likelihood: str | likelihoods.Likelihood = "bernoulli",
        prior: str | priors.Prior = "normal",
        guide_family: str | guides.Family = "diagonal",
        hidden: Sequence[int] = (400,),
        activation: str = "relu",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.likelihood = likelihoods.get(likelihood).bind(x_dim)
        self.prior = priors.get(prior).bind(latent_dim)
        features, params = self.likelihood.num_features, self.likelihood.num_params
        if encoder is None:
            encoder = feature_net(features, hidden, activation)
        if decoder is None:
            decoder = MLP(latent_dim, params, hidden=hidden[::-1], activation=activation)
        self.encoder, self.decoder = encoder, decoder
        self.q = guides.get(guide_family).bind(output_dim(self.encoder, features), latent_dim)

    def model(self, x: Tensor | None = None) -> None:
        """p(z) p(x | z) for each row."""
        with rows(x):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x) for each row."""
        with rows(x):
            pyro.sample("z", self.q(self.encoder(self.likelihood.features(x))))
