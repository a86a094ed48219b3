"""M2, a latent label (Kingma, Rezende, Mohamed & Welling 2014, section 3.1, equations 2 and 6-9).

The story of a row n: its label y_n is observed in some rows and latent in the others::

    y_n              ~ Categorical(1/K, …, 1/K)
    z_n              ~ N(0, I)                       what the label does not say: style
    x_n | y_n, z_n   ~ p(x | h = f(y_n, z_n))        likelihood, its parameters put out by f

and the guide classifies where no label is given::

    q(y_n | x_n) = Categorical(c(x_n)),    q(z_n | x_n, y_n) = N(m, diag s²)(g(x_n, y_n))

A label that is latent is summed out exactly: each of its K values is a row of the ELBO, weighted
by q(y_n | x_n). Labelled rows would not train q(y | x), so the objective has the term

    α · N · mean over labelled rows of log q(y_n | x_n)

which is the site ``y_given_x``. It is no part of the story: no report of evidence or ELBO has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from vaeppl import Model, guides, likelihoods, priors, row_share, rows
from vaeppl.nets import MLP, PerLabel, joint_feature_net


class M2(Model):
    """Generative semi-supervised model: a label and a style, the label latent where missing.

    ============= ====== ================== ==========================================
    site          symbol shape of a row     what it is
    ============= ====== ================== ==========================================
    ``y``         y_n    ``()``             label 0, …, K-1; -1 or NaN in a row without
    ``z``         z_n    ``(latent_dim,)``  style, no unit
    ``x``         x_n    ``(x_dim,)``       data, in the unit of the column ``x``
    ``y_given_x`` y_n    ``()``             the label again, scored under q(y | x)
    ============= ====== ================== ==========================================

    Parameters
    ----------
    x_dim
        Number of entries in a row of ``x``.
    num_labels
        K.
    latent_dim
        Number of entries of z.
    alpha
        Weight α of the classification term; the paper's is 0.1.
    likelihood, prior, guide_family, hidden, activation
        As in :class:`~vaeppl.models.VAE`; the sizes are those of the paper if not given. In the
        decoder each label has a first layer of its own, where the paper's shares one.

    Examples
    --------
    >>> import vaeppl
    >>> from vaeppl.likelihoods import Binomial
    >>> digits = vaeppl.data.load("digits").few_labels("y", per_class=10, seed=0)
    >>> m2 = M2(64, 10, 8, likelihood=Binomial(16), hidden=(32,))
    >>> fit = vaeppl.fit(m2, digits, epochs=1, seed=0, progress=False)
    >>> vaeppl.predict_proba(fit, digits).shape
    torch.Size([1797, 10])
    """

    partly_observed = ("y",)
    label_inference: Any = MappingProxyType({"enumerate": "parallel"})  # {}: drawn, not summed out

    def __init__(
        self,
        x_dim: int,
        num_labels: int = 10,
        latent_dim: int = 50,
        *,
        alpha: float = 0.1,
        likelihood: str | likelihoods.Likelihood = "bernoulli",
        prior: str | priors.Prior = "normal",
        guide_family: str | guides.Family = "diagonal",
        hidden: Sequence[int] = (500,),
        activation: str = "softplus",
    ) -> None:
        super().__init__()
        if alpha < 0:
            raise ValueError(f"alpha is >= 0; given {alpha}")
        self.num_labels, self.alpha = num_labels, alpha
        self.likelihood = likelihoods.get(likelihood).bind(x_dim)
        self.prior = priors.get(prior).bind(latent_dim)
        features, params = self.likelihood.num_features, self.likelihood.num_params
        self.classifier = MLP(features, num_labels, hidden=hidden, activation=activation)
        self.encoder = joint_feature_net((features, num_labels), hidden, activation)
        self.q = guides.get(guide_family).bind(self.encoder.out_dim, latent_dim)
        self.decoder = PerLabel(
            num_labels, latent_dim, params, hidden=hidden[::-1], activation=activation
        )
        self.register_buffer("identity", torch.eye(num_labels), persistent=False)

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        """p(y) p(z) p(x | y, z) for each row, and the classification term for labelled rows."""
        plate = rows(x, y)
        with plate:
            y_drawn = pyro.sample("y", self.label_prior(), obs=y)
            z = pyro.sample("z", self.prior())
            h = self.decoder(self.indicators(y_drawn), z)
            pyro.sample("x", self.likelihood(h), obs=x)
            if self.alpha and x is not None and y is not None:
                with poutine.scale(scale=self.alpha / row_share(plate)):
                    infer: Any = {"objective_only": True}
                    pyro.sample("y_given_x", self.q_y(x), obs=y, infer=infer)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """q(y | x) where the label is latent, and q(z | x, y), for each row."""
        with rows(x, y):
            if y is None:
                y = pyro.sample("y", self.q_y(x), infer={**self.label_inference})
            h = self.encoder(self.likelihood.features(x), self.indicators(y))
            pyro.sample("z", self.q(h))

    def label_prior(self) -> TorchDistribution:
        """p(y): all labels alike."""
        return dist.Categorical(logits=torch.zeros_like(self.identity[0]))

    def q_y(self, x: Tensor) -> TorchDistribution:
        """q(y | x), the classifier."""
        return dist.Categorical(logits=self.classifier(self.likelihood.features(x)))

    def indicators(self, y: Tensor) -> Tensor:
        """Turn labels (...) into indicators (..., K)."""
        return self.identity[y.long()]


class M2Gumbel(M2):
    """M2 whose latent labels are drawn with the straight-through Gumbel-softmax gradient.

    An alternative to summing out (Jang, Gu & Poole 2017): cheaper by a factor K in the decoder, and
    its gradient is biased. The site ``y`` holds indicators, ``(num_labels,)`` a row.

    Parameters
    ----------
    x_dim, num_labels, latent_dim, alpha, **options
        As in :class:`M2`.
    temperature
        Of the softmax; the lower, the less biased is the gradient, and the more it varies.

    Examples
    --------
    >>> import torch, vaeppl
    >>> data = {"x": (torch.rand(50, 6) < 0.4).float(), "y": torch.arange(50) % 6 - 1}
    >>> m2 = M2Gumbel(6, 5, 2, hidden=(8,))
    >>> fit = vaeppl.fit(m2, data, epochs=1, progress=False)
    >>> fit.sample(4, given={"y": [0, 1, 2, 3]})["x"].shape
    torch.Size([4, 6])
    """

    label_inference: Any = MappingProxyType({})

    def __init__(
        self,
        x_dim: int,
        num_labels: int = 10,
        latent_dim: int = 50,
        *,
        temperature: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(x_dim, num_labels, latent_dim, **options)
        if temperature <= 0:
            raise ValueError(f"a temperature is > 0; given {temperature}")
        self.temperature = temperature

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        """As the story of M2, over indicators."""
        super().model(x, None if y is None else self.indicators(y))

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """As the guide of M2, over indicators."""
        super().guide(x, None if y is None else self.indicators(y))

    def label_prior(self) -> TorchDistribution:
        """p(y): all labels alike."""
        return dist.OneHotCategorical(logits=torch.zeros_like(self.identity[0]))

    def q_y(self, x: Tensor) -> TorchDistribution:
        """q(y | x), a draw of which has a gradient."""
        logits = self.classifier(self.likelihood.features(x))
        return guides.GumbelSoftmax(self.temperature, logits=logits)

    def indicators(self, y: Tensor) -> Tensor:
        """Turn labels (...) into indicators (..., K); indicators stay as they are."""
        return y if y.is_floating_point() and y.ndim > 1 else super().indicators(y)
