"""The zoo: one generative story a file. This catalogue finds them; nothing else names them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .vae import VAE as VAE


class Entry(NamedTuple):
    """A line of the catalogue."""

    name: str
    class_name: str
    story: str
    source: str


CATALOGUE = (
    Entry("vae", "VAE", "z ~ p(z), x ~ p(x | f(z))", "Kingma & Welling 2014; Rezende et al. 2014"),
)

__all__ = ["CATALOGUE", "Entry", "VAE"]


def __getattr__(name: str) -> Any:
    for entry in CATALOGUE:
        if name == entry.class_name:
            return getattr(importlib.import_module(f"{__name__}.{entry.name}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
