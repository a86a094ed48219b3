"""M1+M2, a label above latent features (Kingma, Rezende, Mohamed & Welling 2014, section 3.1).

The story of a row n, whose label y_n is observed in some rows and latent in the others::

    y_n               ~ Categorical(1/K, …, 1/K)
    v_n               ~ N(0, I)                          style
    z_n | y_n, v_n    ~ N(m, diag s²)(f₂(y_n, v_n))      latent features
    x_n | z_n         ~ p(x | h = f₁(z_n))               likelihood

(the paper writes z₁ for z and z₂ for v), and the guide goes up from the data::

    q(z_n | x_n),    q(y_n | z_n) = Categorical(c(z_n)),    q(v_n | z_n, y_n)

It may be fitted end to end; or as published, above the features of an M1 that is left as it was
(:meth:`M1M2.above`). A latent label is summed out, and the objective has the classification term
of :class:`~vaeppl.models.M2`, α · N · mean over labelled rows of log q(y_n | z_n).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from vaeppl import Fit, Model, guides, likelihoods, priors, row_share, rows
from vaeppl.errors import StoryError
from vaeppl.nets import MLP, PerLabel, feature_net, output_dim
from vaeppl.random_state import forked


class M1M2(Model):
    """Stacked semi-supervised model: label and style, above features, above the data.

    ============= ====== ==================== ========================================
    site          symbol shape of a row       what it is
    ============= ====== ==================== ========================================
    ``y``         y_n    ``()``               label 0, …, K-1; -1 or NaN in a row without
    ``v``         v_n    ``(latent_dim,)``    style, no unit
    ``z``         z_n    ``(feature_dim,)``   latent features, no unit
    ``x``         x_n    ``(x_dim,)``         data, in the unit of the column ``x``
    ``y_given_z`` y_n    ``()``               the label again, scored under q(y | z)
    ============= ====== ==================== ========================================

    Parameters
    ----------
    x_dim
        Number of entries in a row of ``x``.
    num_labels
        K.
    latent_dim, feature_dim
        Number of entries of v and of z.
    alpha
        Weight α of the classification term; the paper's is 0.1.
    features
        p(z | y, v), of normals; give ``center`` and ``unit`` where z has others than 0 and 1.
    likelihood, prior, guide_family, activation
        As in :class:`~vaeppl.models.VAE`; ``prior`` is that of v.
    hidden
        Hidden layers of the networks between z, y and v; of those from v to z and back, each label
        has a first layer of its own.
    feature_hidden
        Hidden layers of those between x and z.

    Examples
    --------
    >>> import vaeppl
    >>> from vaeppl.likelihoods import Binomial
    >>> digits = vaeppl.data.load("digits").few_labels("y", per_class=10, seed=0)
    >>> story = M1M2(64, 10, 4, 8, likelihood=Binomial(16), hidden=(16,), feature_hidden=(32,))
    >>> fit = vaeppl.fit(story, digits, epochs=1, seed=0, progress=False)
    >>> vaeppl.predict_proba(fit, digits, num_samples=5).shape
    torch.Size([1797, 10])
    """

    partly_observed = ("y",)

    def __init__(
        self,
        x_dim: int,
        num_labels: int = 10,
        latent_dim: int = 50,
        feature_dim: int = 50,
        *,
        alpha: float = 0.1,
        features: str | likelihoods.Likelihood | None = None,
        likelihood: str | likelihoods.Likelihood = "bernoulli",
        prior: str | priors.Prior = "normal",
        guide_family: str | guides.Family = "diagonal",
        hidden: Sequence[int] = (100,),
        feature_hidden: Sequence[int] = (600, 600),
        activation: str = "softplus",
    ) -> None:
        super().__init__()
        if alpha < 0:
            raise ValueError(f"alpha is >= 0; given {alpha}")
        self.num_labels, self.alpha = num_labels, alpha
        self.likelihood = likelihoods.get(likelihood).bind(x_dim)
        inputs, outputs = self.likelihood.num_features, self.likelihood.num_params
        self.encoder = feature_net(inputs, feature_hidden, activation)
        self.q = guides.get(guide_family).bind(output_dim(self.encoder, inputs), feature_dim)
        self.decoder = MLP(feature_dim, outputs, hidden=feature_hidden[::-1], activation=activation)

        self.features = likelihoods.get(features or likelihoods.Normal("predicted")).bind(
            feature_dim
        )
        self.prior = priors.get(prior).bind(latent_dim)
        self.classifier = MLP(feature_dim, num_labels, hidden=hidden, activation=activation)
        width = hidden[-1] if hidden else feature_dim
        self.style_encoder = PerLabel(
            num_labels,
            feature_dim,
            width,
            hidden=hidden[:-1],
            activation=activation,
            activate_last=bool(hidden),
        )
        self.q_style = guides.get(guide_family).bind(width, latent_dim)
        self.style_decoder = PerLabel(
            num_labels,
            latent_dim,
            self.features.num_params,
            hidden=hidden[::-1],
            activation=activation,
        )
        self.register_buffer("identity", torch.eye(num_labels), persistent=False)

    @classmethod
    def above(
        cls,
        m1: Fit,
        num_labels: int = 10,
        latent_dim: int = 50,
        *,
        frozen: bool = True,
        seed: int = 0,
        **options: Any,
    ) -> M1M2:
        """Build the story above the features of a fitted M1.

        Features in disuse (:func:`vaeppl.active_units`) are left out.

        Parameters
        ----------
        m1
            A fit of :class:`~vaeppl.models.M1`, whose networks between x and z are copied.
        num_labels, latent_dim
            As in the constructor.
        frozen
            Whether the copied networks stay as they are, as published; ``False``: they are fitted
            with the rest, end to end.
        seed
            Of the initial weights of the rest.
        **options
            Other arguments of the constructor: ``alpha``, ``hidden``, ``prior``.
        """
        below = m1.model
        given = below.config()
        if given["guide_family"] != "diagonal":
            raise StoryError("the features of the M1 below need the diagonal guide family")
        in_use = torch.tensor(m1.active_units()["active"].tolist()).nonzero().squeeze(1)
        if not len(in_use):
            raise StoryError(
                "no feature of the M1 below is in use, so there is nothing to build on"
            )
        z = m1.encode(num_samples=1, seed=seed)["z"][0][:, in_use]
        arguments = {
            "features": likelihoods.Normal.for_data(z, scale="predicted"),
            "feature_dim": len(in_use),
            "feature_hidden": given["hidden"],
            **{k: given[k] for k in ("likelihood", "activation")},
        }
        with forked():
            torch.manual_seed(seed)
            story = cls(given["x_dim"], num_labels, latent_dim, **{**arguments, **options})
        for name in ("likelihood", "encoder"):
            getattr(story, name).load_state_dict(getattr(below, name).state_dict())
        rest = {
            "q.head.weight": below.q.head.weight.unflatten(0, (2, -1))[:, in_use].flatten(0, 1),
            "q.head.bias": below.q.head.bias.unflatten(0, (2, -1))[:, in_use].flatten(),
            **{f"decoder.{k}": v for k, v in below.decoder.state_dict().items()},
        }
        rest["decoder.layers.0.weight"] = rest["decoder.layers.0.weight"][:, in_use]
        story.load_state_dict(rest, strict=False)
        for name in ("likelihood", "encoder", "q", "decoder"):
            getattr(story, name).requires_grad_(not frozen)
        return story

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        """p(y) p(v) p(z | y, v) p(x | z) for each row, and the classification term."""
        plate = rows(x, y)
        with plate:
            label = pyro.sample("y", self.label_prior(), obs=y)
            v = pyro.sample("v", self.prior())
            h = self.style_decoder(self.indicators(label), v)
            z = pyro.sample("z", self.features(h))
            pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)
            if self.alpha and x is not None and y is not None:
                with poutine.scale(scale=self.alpha / row_share(plate)):
                    infer: Any = {"objective_only": True}
                    pyro.sample("y_given_z", self.q_y(z), obs=y, infer=infer)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """q(z | x), q(y | z) where the label is latent, and q(v | z, y), for each row."""
        with rows(x, y):
            z = pyro.sample("z", self.q(self.encoder(self.likelihood.features(x))))
            if y is None:
                y = pyro.sample("y", self.q_y(z), infer={"enumerate": "parallel"})
            h = self.style_encoder(self.indicators(y), self.features.features(z))
            pyro.sample("v", self.q_style(h))

    def label_prior(self) -> TorchDistribution:
        """p(y): all labels alike."""
        return dist.Categorical(logits=torch.zeros_like(self.identity[0]))

    def q_y(self, z: Tensor) -> TorchDistribution:
        """q(y | z), the classifier."""
        return dist.Categorical(logits=self.classifier(self.features.features(z)))

    def indicators(self, y: Tensor) -> Tensor:
        """Turn labels (...) into indicators (..., K)."""
        return self.identity[y.long()]
