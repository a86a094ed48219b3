"""What vaeppl raises, and the sentence that suggests the nearest known name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any, TypeVar

__all__ = [
    "CheckpointError",
    "ColumnError",
    "NonFiniteELBO",
    "StoryError",
    "by_name",
    "unknown_name",
    "whole_number",
]


T = TypeVar("T")


class _Plain(ValueError):
    """Leaves out the table of shapes that Pyro writes below an error of a story that it runs."""

    def __init__(self, message: object = "", *others: object) -> None:
        super().__init__(str(message).partition("\nTrace Shapes:")[0].rstrip(), *others)


class StoryError(_Plain):
    """A model and its guide cannot be fitted as they stand; the message says what to mend."""


class ColumnError(_Plain):
    """A column does not hold what the model's likelihood accepts."""


class CheckpointError(_Plain):
    """A saved fit does not belong to this model, this data or this version."""


class NonFiniteELBO(ArithmeticError):
    """The ELBO became NaN or infinite; names the site, the batch and the likely cause."""


class ProcessLost(RuntimeError):
    """One of several processes that fit together has died; says where the run can go on."""


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


def whole_number(name: str, value: Any, least: int) -> int:
    """Return a whole number, or refuse what is none or too small.

    Raises
    ------
    ValueError
        The message names the argument.

    Examples
    --------
    >>> whole_number("num_particles", 5, 1)
    5
    >>> whole_number("num_particles", 2.5, 1)
    Traceback (most recent call last):
    ValueError: num_particles is a whole number, at least 1; given 2.5
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} is a whole number, at least {least}; given {value!r}")
    return int(value)


def by_name(
    what: str, named: Mapping[str, type[T]], base: type[T], given: Any, *args: Any, **kwargs: Any
) -> T:
    """Build what a name stands for; an object of the right kind is returned as it is.

    Raises
    ------
    ValueError
        There is none of that name; the message lists those there are.
    TypeError
        What is given is neither a name nor an object of the kind (a class, say).
    """
    if isinstance(given, base):
        return given
    if not isinstance(given, str):
        example = next(iter(named))
        raise TypeError(
            f"a {what} is an object of {base.__module__}, such as {named[example].__name__}(...), "
            f"or a name, such as {example!r}; given {given!r}"
        )
    if given not in named:
        raise ValueError(unknown_name(what, given, named))
    return named[given](*args, **kwargs)
