"""The zoo: one generative story a file. This catalogue finds them; nothing else names them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .autoencoder import AutoEncoder as AutoEncoder
    from .beta_vae import BetaVAE as BetaVAE
    from .cvae import CVAE as CVAE
    from .cvae import Regression as Regression
    from .factor_analysis import FactorAnalysis as FactorAnalysis
    from .gpvae import GPVAE as GPVAE
    from .gpvae import ExactGPVAE as ExactGPVAE
    from .hierarchical_vae import HierarchicalVAE as HierarchicalVAE
    from .ica import ICA as ICA
    from .m1 import M1 as M1
    from .m1m2 import M1M2 as M1M2
    from .m2 import M2 as M2
    from .m2 import M2Gumbel as M2Gumbel
    from .noisy_or import NoisyOR as NoisyOR
    from .ppca import PPCA as PPCA
    from .scvi import SCANVI as SCANVI
    from .scvi import SCVI as SCVI
    from .sparse_coding import SparseCoding as SparseCoding
    from .vae import VAE as VAE


class Entry(NamedTuple):
    """A line of the catalogue: the name of the file and the class, and what they tell."""

    name: str
    class_name: str
    story: str
    source: str
    file: str = ""

    @property
    def module(self) -> str:
        """Module that holds the class."""
        return f"vaeppl.models.{self.file or self.name}"


CATALOGUE = (
    Entry("vae", "VAE", "z ~ p(z), x ~ p(x | f(z))", "Kingma & Welling 2014; Rezende et al. 2014"),
    Entry(
        "beta_vae",
        "BetaVAE",
        "a VAE, and five objectives that disentangle",
        "Higgins et al. 2017; Chen et al. 2018; Kim & Mnih 2018",
    ),
    Entry("cvae", "CVAE", "z ~ p(z | x), y ~ p(y | f(x, z))", "Sohn, Lee & Yan 2015"),
    Entry("regression", "Regression", "y ~ p(y | f(x)), no latent", "baseline of CVAE", "cvae"),
    Entry("gpvae", "GPVAE", "u ~ N(0, I), z ~ N(V(w) u, d), x ~ p(x | f(z))", "Casale et al. 2018"),
    Entry(
        "gpvae_exact",
        "ExactGPVAE",
        "z ~ GP(0, k(w, w') + α), x ~ p(x | f(z))",
        "Casale et al. 2018",
        "gpvae",
    ),
    Entry(
        "hierarchical_vae",
        "HierarchicalVAE",
        "z_L ~ p(z), …, z_1 ~ p(z_1 | z_2), x ~ p(x | f(z_1))",
        "Rezende et al. 2014; Sønderby et al. 2016",
    ),
    Entry("m1", "M1", "a VAE whose latents feed a classifier", "Kingma et al. 2014"),
    Entry(
        "m2", "M2", "y ~ p(y), z ~ p(z), x ~ p(x | f(y, z)), y partly latent", "Kingma et al. 2014"
    ),
    Entry("m2_gumbel", "M2Gumbel", "M2, y drawn by Gumbel-softmax", "Jang, Gu & Poole 2017", "m2"),
    Entry("m1m2", "M1M2", "y, v above z above x, y partly latent", "Kingma et al. 2014"),
    Entry("scvi", "SCVI", "z, log ℓ ~ normal, x ~ ZINB(ℓ softmax f(z), θ, π)", "Lopez et al. 2018"),
    Entry("scanvi", "SCANVI", "y ~ p(y), z ~ p(z | y), then as SCVI", "Xu et al. 2021", "scvi"),
    Entry("ppca", "PPCA", "z ~ N(0, I), x ~ N(W z + b, σ² I)", "Tipping & Bishop 1999"),
    Entry(
        "factor_analysis",
        "FactorAnalysis",
        "z ~ N(0, I), x ~ N(W z + b, diag σ²)",
        "Rubin & Thayer 1982",
    ),
    Entry("ica", "ICA", "s ~ Laplace, x ~ N(A s + b, σ² I)", "Comon 1994; Girolami 2001"),
    Entry(
        "sparse_coding",
        "SparseCoding",
        "z ~ Laplace, x ~ N(Φ z + b, σ² I), Φ overcomplete",
        "Olshausen & Field 1997",
    ),
    Entry(
        "autoencoder",
        "AutoEncoder",
        "z = g(x̃), x ~ p(x | f(z)): plain, tied, sparse, denoising with walkback",
        "Vincent et al. 2008; Bengio et al. 2013",
    ),
    Entry(
        "noisy_or",
        "NoisyOR",
        "z ~ Bernoulli(π), x ~ Bernoulli(1 - exp(-(b + W z))), binary causes",
        "Shwe et al. 1991; Saul, Jaakkola & Jordan 1996",
    ),
)

__all__ = [
    "CATALOGUE",
    "CVAE",
    "GPVAE",
    "ICA",
    "PPCA",
    "SCANVI",
    "SCVI",
    "VAE",
    "M1",
    "M1M2",
    "M2",
    "AutoEncoder",
    "BetaVAE",
    "Entry",
    "ExactGPVAE",
    "FactorAnalysis",
    "HierarchicalVAE",
    "M2Gumbel",
    "NoisyOR",
    "Regression",
    "SparseCoding",
]


def __getattr__(name: str) -> Any:
    for entry in CATALOGUE:
        if name == entry.class_name:
            return getattr(importlib.import_module(entry.module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
