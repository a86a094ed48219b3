"""What vaeppl raises, and the sentence that suggests the nearest known name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["CheckpointError", "ColumnError", "NonFiniteELBO", "StoryError", "unknown_name"]


class StoryError(ValueError):
    """A model and its guide cannot be fitted as they stand; the message says what to mend."""


class ColumnError(ValueError):
    """A column does not hold what the model's likelihood accepts."""


class CheckpointError(ValueError):
    """A saved fit does not belong to this model, this data or this version."""


class NonFiniteELBO(ArithmeticError):
    """The ELBO became NaN or infinite; names the site, the batch and the likely cause."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name, with the nearest known ones first.

    Examples
    --------
    >>> unknown_name("likelihood", "Bernouli", ["Bernoulli", "Normal"])
    "unknown likelihood 'Bernouli': did you mean 'Bernoulli'? Known: Bernoulli, Normal"
    """
    known = sorted(known)
    lower = {k.lower(): k for k in known}
    near = [lower[m] for m in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return f"unknown {what} {name!r}: {hint}Known: {', '.join(known) or 'none'}"
