"""The zoo: one generative story a file. This catalogue finds them; nothing else names them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .cvae import CVAE as CVAE
    from .cvae import Regression as Regression
    from .m1 import M1 as M1
    from .m1m2 import M1M2 as M1M2
    from .m2 import M2 as M2
    from .m2 import M2Gumbel as M2Gumbel
    from .scvi import SCANVI as SCANVI
    from .scvi import SCVI as SCVI
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
    Entry("cvae", "CVAE", "z ~ p(z | x), y ~ p(y | f(x, z))", "Sohn, Lee & Yan 2015"),
    Entry("regression", "Regression", "y ~ p(y | f(x)), no latent", "baseline of CVAE", "cvae"),
    Entry("m1", "M1", "a VAE whose latents feed a classifier", "Kingma et al. 2014"),
    Entry(
        "m2", "M2", "y ~ p(y), z ~ p(z), x ~ p(x | f(y, z)), y partly latent", "Kingma et al. 2014"
    ),
    Entry("m2_gumbel", "M2Gumbel", "M2, y drawn by Gumbel-softmax", "Jang, Gu & Poole 2017", "m2"),
    Entry("m1m2", "M1M2", "y, v above z above x, y partly latent", "Kingma et al. 2014"),
    Entry("scvi", "SCVI", "z, log ℓ ~ normal, x ~ ZINB(ℓ softmax f(z), θ, π)", "Lopez et al. 2018"),
    Entry("scanvi", "SCANVI", "y ~ p(y), z ~ p(z | y), then as SCVI", "Xu et al. 2021", "scvi"),
)

__all__ = [
    "CATALOGUE",
    "CVAE",
    "SCANVI",
    "SCVI",
    "VAE",
    "M1",
    "M1M2",
    "M2",
    "Entry",
    "M2Gumbel",
    "Regression",
]


def __getattr__(name: str) -> Any:
    for entry in CATALOGUE:
        if name == entry.class_name:
            return getattr(importlib.import_module(entry.module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
