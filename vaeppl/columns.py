"""What is asked of columns before a model sees them: that they are there, and what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from .config import Configurable
from .data import Data
from .errors import ColumnError, StoryError
from .pair import Pair

__all__ = ["check_columns", "check_finite", "entry_in_words"]


def check_columns(pair: Pair, data: Data, required: Sequence[str] | None = None) -> None:
    """Check that the columns that a model needs are there, finite and as wide as it was built for.

    Parameters
    ----------
    pair
        The model and its guide.
    data
        The rows.
    required
        Columns that must be there; those that the model or the guide cannot do without if
        ``None``.

    Raises
    ------
    ColumnError
        The message names the column, and the row where there is one.
    """
    if not pair.columns:
        raise StoryError(
            f"{pair.name} takes no column: write `def model(self, x=None)` and "
            "`def guide(self, x)`, with the names of the columns as arguments"
        )
    present = [c for c in pair.columns if c in data]
    required = pair.required_to_fit if required is None else required
    missing = [c for c in required or pair.columns if c not in data]
    if (required and missing) or not present:
        wanted = missing[0]
        raise ColumnError(
            f"{pair.name} takes the columns {', '.join(map(repr, pair.columns))}; "
            f"the data have no {wanted!r}, but {', '.join(map(repr, data.keys()))}. "
            f"Rename one: data.rename({{{_likely(wanted, data)!r}: {wanted!r}}})"
        )
    for column in present:
        _check_width(pair, data, column)
        if not pair.takes_missing and column not in pair.partly_observed:
            check_finite(data, column)


def _likely(wanted: str, data: Data) -> str:
    """Return the column that is likely to be meant: the only one, or one of much the same name."""
    names = {name.lower(): name for name in data.keys()}  # noqa: SIM118
    near = list(names) if len(names) == 1 else get_close_matches(wanted.lower(), names, n=1)
    return names[near[0]] if near else "<its name>"


def _check_width(pair: Pair, data: Data, column: str) -> None:
    """Compare a column's width with the argument ``<column>_dim`` that the model was built with."""
    source = pair.source[0]
    if not isinstance(source, Configurable):
        return
    built_for = source.config().get(f"{column}_dim")
    shape = data.shape(column)
    if built_for is not None and shape != (built_for,) and (shape, built_for) != ((), 1):
        found = f"{shape[0]} entries a row" if len(shape) == 1 else f"shape {shape} a row"
        raise ColumnError(
            f"column {column!r} has {found}, but {pair.name} was built with "
            f"{column}_dim={built_for}"
        )


def check_finite(
    data: Data, column: str, mend: str = "guide='auto' leaves out what is missing (NaN)"
) -> None:
    """Refuse a column with an entry that is missing or infinite.

    Raises
    ------
    ColumnError
        The message names column, row and entry, and ends with how else to mend it.
    """
    found = data.first_nonfinite(column)
    if found is not None:
        row, entry, value = found
        raise ColumnError(
            f"column {column!r} holds {value} at row {row}{entry_in_words(data, column, entry)}; "
            "this model takes no missing or infinite values: drop the row or fill the entry; "
            f"{mend}"
        )


def entry_in_words(data: Data, column: str, entry: int) -> str:
    """Say which entry of a row is meant, by its field's name if it has one."""
    if not data.shape(column):
        return ""
    fields = data.fields(column)
    named = f" ({fields[entry].name!r})" if entry < len(fields) else ""
    return f", entry {entry}{named}"
