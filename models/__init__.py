"""The zoo: one generative story a file. This catalogue finds them; nothing else names them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .cvae import CVAE as CVAE
    from .cvae import Regression as Regression
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
)

__all__ = ["CATALOGUE", "CVAE", "VAE", "Entry", "Regression"]


def __getattr__(name: str) -> Any:
    for entry in CATALOGUE:
        if name == entry.class_name:
            return getattr(importlib.import_module(entry.module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
