"""M1, latent features for a classifier (Kingma, Rezende, Mohamed & Welling 2014, section 3.1).

The story of a row n = 1, …, N is that of a VAE, fitted to all rows, labelled or not::

    z_n        ~ N(0, I)                 latent features
    x_n | z_n  ~ p(x | h = f(z_n))       likelihood, its parameters put out by a network f
    q(z_n | x_n) = N(m(g(x_n)), diag s(g(x_n))²)

The label stands outside the story: a classifier learns it from E_q[z_n | x_n] of the labelled rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor

from vaeppl import Model, guides, likelihoods, priors, rows
from vaeppl.nets import MLP, feature_net, output_dim
from vaeppl.reading.classifier import check_classifier


class M1(Model):
    """VAE whose latent features feed a classifier.

    ====== ====== ================== ==========================================
    site   symbol shape of a row     what it is
    ====== ====== ================== ==========================================
    ``z``  z_n    ``(latent_dim,)``  latent features, no unit
    ``x``  x_n    ``(x_dim,)``       data, in the unit of the column ``x``
    ====== ====== ================== ==========================================

    The column ``y`` of the data holds the labels, -1 or NaN where there is none. It is read when
    labels are predicted (:func:`vaeppl.predict_proba`), never while the story is fitted.

    Parameters
    ----------
    x_dim
        Number of entries in a row of ``x``.
    latent_dim
        Number of features.
    classifier
        ``"svm"``, ``"logistic"``, or a classifier object of scikit-learn, which sees the posterior
        means of the features (:class:`vaeppl.LatentClassifier`). It is trained anew for each fit,
        and an object is not written into a run, which is then loaded by
        ``vaeppl.load(run, model=M1(...))``.
    likelihood, prior, guide_family, hidden, activation
        As in :class:`~vaeppl.models.VAE`; the sizes are those of the paper if not given.

    Examples
    --------
    >>> import vaeppl
    >>> from vaeppl.likelihoods import Binomial
    >>> digits = vaeppl.data.load("digits").few_labels("y", per_class=10, seed=0)
    >>> m1 = M1(64, 8, classifier="logistic", likelihood=Binomial(16), hidden=(32,))
    >>> fit = vaeppl.fit(m1, digits, epochs=5, lr=0.01, progress=False)
    >>> vaeppl.predict_proba(fit, digits).shape
    torch.Size([1797, 10])
    """

    def __init__(
        self,
        x_dim: int,
        latent_dim: int = 50,
        *,
        classifier: Any = "svm",
        likelihood: str | likelihoods.Likelihood = "bernoulli",
        prior: str | priors.Prior = "normal",
        guide_family: str | guides.Family = "diagonal",
        hidden: Sequence[int] = (600, 600),
        activation: str = "softplus",
    ) -> None:
        super().__init__()
        self.classifier = check_classifier(classifier)
        self.likelihood = likelihoods.get(likelihood).bind(x_dim)
        self.prior = priors.get(prior).bind(latent_dim)
        features, params = self.likelihood.num_features, self.likelihood.num_params
        self.encoder = feature_net(features, hidden, activation)
        self.decoder = MLP(latent_dim, params, hidden=hidden[::-1], activation=activation)
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
