"""The errors that the data floor raises: bad values, missing splits, failed downloads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["DataError", "DownloadError", "SplitError", "did_you_mean"]


class DataError(ValueError):
    """Data that cannot be used; the message says what was given, expected, and how to mend it."""


class SplitError(DataError, AttributeError):
    """A split (train, valid, test) that the data does not have.

    It is an `AttributeError` too, so that ``hasattr(data, "valid")`` answers.
    """


class DownloadError(DataError):
    """A file of a data set that is missing, damaged, or could not be downloaded."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End of a message about an unknown name: the nearest known names, then all of them.

    Parameters
    ----------
    name : str
        The name that was not found.
    known : iterable of str
        The names that exist.

    Returns
    -------
    str
        For example ``"did you mean 'mnist'? there are: 'digits', 'mnist'"``.

    Examples
    --------
    >>> did_you_mean("mnits", ["mnist", "wine"])
    "did you mean 'mnist'? there are: 'mnist', 'wine'"
    """
    known = [str(item) for item in known]
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    guess = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    shown = ", ".join(map(repr, known[:40])) + (", ..." if len(known) > 40 else "")
    return f"{guess}there are: {shown}"
