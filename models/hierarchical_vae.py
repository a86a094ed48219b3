"""The hierarchical variational auto-encoder: layers of latents, one above the other.

The story of a row n, from the top layer L down to the data::

    z_nL             ~ p(z)                              N(0, I) unless another prior is given
    z_nl | z_n,l+1   ~ N(m, diag s²)(f_l(z_n,l+1))       l = L - 1, …, 1
    x_n | z_n1       ~ p(x | h = f_0(z_n1))              likelihood, its parameters put out by f_0

There are two guides. The bottom-up one goes against the order of the story (Rezende, Mohamed &
Wierstra 2014, section 4; Burda, Grosse & Salakhutdinov 2016)::

    q(z_1 | x) q(z_2 | z_1) … q(z_L | z_L-1),            each of them N(m, diag s²)(g_l(·))

The ladder goes with it (Sønderby, Raiko, Maaløe, Sønderby & Winther 2016, equations 8-15). A pass
without draws, d_l = g_l(d_l-1) from d_0 = x, says N(m̂_l, diag ŝ_l²)(d_l) of each layer; below the
top, this is multiplied by what the story says of the layer given the one above::

    q(z_L | x) = N(m̂_L, diag ŝ_L²),    q(z_l | x, z_l+1) ∝ N(z_l; m̂_l, diag ŝ_l²) p(z_l | z_l+1)

The KL of each layer stands in ``fit.elbo()``, its units in use in ``fit.active_units()``. Upper
layers often stay out of use; what helps is to anneal the KL (``kl_weight`` of :func:`vaeppl.fit`,
the paper's deterministic warm-up), the ladder, and batch normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from vaeppl import Model, guides, likelihoods, priors, rows
from vaeppl.errors import unknown_name
from vaeppl.nets import MLP, feature_net, output_dim

INFERENCES = ("bottom_up", "ladder")


class HierarchicalVAE(Model):
    """Variational auto-encoder with L layers of latents.

    ====================== ====== ====================== =====================================
    site                   symbol shape of a row         what it is
    ====================== ====== ====================== =====================================
    ``z1``, …, ``z<L>``    z_nl   ``(latent_dims[l-1],)`` latent vector of layer l, no unit
    ``x``                  x_n    ``(x_dim,)``           data, in the unit of the column ``x``
    ====================== ====== ====================== =====================================

    Parameters
    ----------
    x_dim
        Number of entries in a row of ``x``.
    latent_dims
        Number of entries of z_1, …, z_L: the layer at the data comes first. One layer is a VAE.
    inference
        ``"bottom_up"`` or ``"ladder"``: which guide.
    likelihood, prior, guide_family, activation
        As in :class:`~vaeppl.models.VAE`; ``prior`` is that of the top layer. The ladder needs the
        family ``"diagonal"``, as it multiplies densities.
    hidden
        Hidden layers of the networks between a layer and the one below, as seen from below (the
        networks down have them in reverse order): the same for all layers, or a sequence of such
        sequences, ``((200, 200), (100, 100))``.
    norm
        Of the hidden layers: ``"batch"``, ``"layer"`` or ``None`` (:class:`vaeppl.nets.MLP`).

    Examples
    --------
    >>> import vaeppl
    >>> from vaeppl.likelihoods import Binomial
    >>> digits = vaeppl.data.load("digits")
    >>> sizes = {"latent_dims": (8, 4), "hidden": (32,)}
    >>> deep = HierarchicalVAE(64, inference="ladder", likelihood=Binomial(16), **sizes)
    >>> fit = vaeppl.fit(deep, digits, epochs=1, seed=0, progress=False)
    >>> list(fit.elbo(digits).site_kl)
    ['z2', 'z1']
    """

    def __init__(
        self,
        x_dim: int,
        latent_dims: Sequence[int] = (100, 50),
        *,
        inference: str = "bottom_up",
        likelihood: str | likelihoods.Likelihood = "bernoulli",
        prior: str | priors.Prior = "normal",
        guide_family: str | guides.Family = "diagonal",
        hidden: Sequence[int] | Sequence[Sequence[int]] = (200, 200),
        activation: str = "relu",
        norm: str | None = None,
    ) -> None:
        super().__init__()
        if inference not in INFERENCES:
            raise ValueError(unknown_name("inference", inference, INFERENCES))
        family = guides.get(guide_family)
        if inference == "ladder" and not isinstance(family, guides.DiagonalNormal):
            raise ValueError(
                "the ladder multiplies normal densities, so it needs guide_family='diagonal'; "
                f"given {guide_family!r}"
            )
        self.latent_dims, self.inference = _sizes(latent_dims), inference
        self.likelihood = likelihoods.get(likelihood).bind(x_dim)
        self.prior = priors.get(prior).bind(self.latent_dims[-1])
        self.encoders, self.q = nn.ModuleList(), nn.ModuleList()  # g_l and its head, from below
        self.decoders, self.p = nn.ModuleList(), nn.ModuleList()  # f_l and its head, from below
        inputs, below = self.likelihood.num_features, 0
        for sizes, z_dim in zip(_of_each(hidden, len(self.latent_dims)), latent_dims, strict=True):
            encoder = feature_net(inputs, sizes, activation, norm=norm)
            self.encoders.append(encoder)
            if not below:
                params, down = self.likelihood.num_params, sizes[::-1]
                decoder: nn.Module = MLP(
                    z_dim, params, hidden=down, activation=activation, norm=norm
                )
                self.decoders.append(decoder)
            else:
                decoder = feature_net(z_dim, sizes[::-1], activation, norm=norm)
                self.decoders.append(decoder)
                self.p.append(guides.DiagonalNormal().bind(output_dim(decoder, z_dim), below))
            features = output_dim(encoder, inputs)
            self.q.append(family.bind(features, z_dim))
            inputs, below = features if inference == "ladder" else z_dim, z_dim

    def model(self, x: Tensor | None = None) -> None:
        """p(z_L) p(z_L-1 | z_L) … p(x | z_1) for each row."""
        top = len(self.latent_dims)
        with rows(x):
            z = pyro.sample(f"z{top}", self.prior())
            for layer in range(top - 1, 0, -1):
                z = pyro.sample(f"z{layer}", self.p_z(layer, z))
            pyro.sample("x", self.likelihood(self.decoders[0](z)), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z_1, …, z_L | x) for each row: up from the data, or up without draws and then down."""
        with rows(x):
            if self.inference == "bottom_up":
                self.draw_upwards(self.likelihood.features(x))
            else:
                self.draw_downwards(self.likelihood.features(x))

    def draw_upwards(self, h: Tensor) -> None:
        """q(z_1 | x) q(z_2 | z_1) …, the bottom-up guide."""
        for layer, (encoder, q) in enumerate(zip(self.encoders, self.q, strict=True), start=1):
            h = pyro.sample(f"z{layer}", q(encoder(h)))

    def draw_downwards(self, d: Tensor) -> None:
        """q(z_L | x) q(z_L-1 | x, z_L) …, the ladder."""
        proposals = []
        for encoder, q in zip(self.encoders, self.q, strict=True):
            d = encoder(d)
            proposals.append(q(d))
        top = len(proposals)
        z = pyro.sample(f"z{top}", proposals[-1])
        for layer in range(top - 1, 0, -1):
            z = pyro.sample(f"z{layer}", product(proposals[layer - 1], self.p_z(layer, z)))

    def p_z(self, layer: int, above: Tensor) -> TorchDistribution:
        """p(z_l | z_l+1), for l from 1 to L - 1."""
        return self.p[layer - 1](self.decoders[layer](above))


def product(a: TorchDistribution, b: TorchDistribution) -> TorchDistribution:
    """Return the normal whose density is proportional to the product of two, entry by entry."""
    first, second = a.base_dist, b.base_dist
    precisions = first.scale**-2, second.scale**-2
    variance = 1 / (precisions[0] + precisions[1])
    loc = variance * (first.loc * precisions[0] + second.loc * precisions[1])
    return dist.Normal(loc, variance.sqrt()).to_event(1)


def _sizes(latent_dims: Sequence[int]) -> tuple[int, ...]:
    if isinstance(latent_dims, int) or not len(latent_dims) or min(latent_dims) < 1:
        raise ValueError(
            "latent_dims holds the size of each layer, 1 or more, that at the data first, as in "
            f"(100, 50); given {latent_dims!r}"
        )
    return tuple(latent_dims)


def _of_each(hidden: Sequence[int] | Sequence[Sequence[int]], layers: int) -> list[tuple[int, ...]]:
    """Return the hidden layers of each layer of latents."""
    if not isinstance(hidden, Sequence):
        raise TypeError(f"hidden is a sequence of sizes, ({hidden},) for one; given {hidden}")
    if all(isinstance(size, int) for size in hidden):
        return [tuple(hidden)] * layers  # type: ignore[arg-type]
    if len(hidden) != layers or any(isinstance(sizes, int) for sizes in hidden):
        raise ValueError(
            f"hidden is one sequence of sizes for all layers, or one for each of the {layers} "
            f"layers of latents; given {hidden!r}"
        )
    return [tuple(sizes) for sizes in hidden]  # type: ignore[arg-type]
