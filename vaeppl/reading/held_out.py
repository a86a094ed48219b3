"""Which rows were fitted and which were held out: what an estimate on them is worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..data import Data
from ..data.errors import DataError, SplitError
from ..errors import CheckpointError
from ..pair import as_pair

__all__ = ["held_out_part", "rows_fitted", "words_of_rows"]

ROWS_AT_ONCE = 4096
LEAST_APART = 0.9  # share of rows that differ, where equal rows are taken for the same
MOST_ENTRIES = 500_000_000  # of rows that are read again to be compared: some seconds


def held_out_part(fit: Any, data: Data, split: str | None = None) -> tuple[Data, str]:
    """Return a part of some data, with its name: by default one that was held out.

    Rows that the fit held out by a share (``valid=0.2``) are its valid part, though the data do
    not know of it.

    Parameters
    ----------
    fit
        What :func:`vaeppl.fit` returned.
    data
        The data that it was given, or others.
    split
        ``"train"``, ``"valid"``, ``"test"`` or ``"all"``; if not given, the test part where there
        is one, else the valid part, else all rows.

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import PPCA
    >>> data = vaeppl.data.Data({"x": torch.randn(50, 3)})
    >>> run = vaeppl.fit(PPCA(3, 1), data, valid=0.2, epochs=1, progress=False)
    >>> part, name = held_out_part(run, data)
    >>> len(part), name
    (10, 'valid')
    """
    again = _split_again(fit, data)
    known = data if again is None else again
    if split is None:
        split = next((n for n, d in (("test", data), ("valid", known)) if d.has_split(n)), "all")
    if split == "all":
        return data, split
    try:
        return getattr(data if split == "test" else known, split), split
    except SplitError as error:
        raise SplitError(f"{error}; or fit with --{split} 0.2, which holds rows out") from None


def _split_again(fit: Any, data: Data) -> Data | None:
    """Return the rows of which a share was held out, split as then; ``None`` if none was."""
    described = fit.config.get("data", {})
    share = described.get("held_out_share")
    if share is None:
        return None
    rows = data.train.split(valid=share, test=0, seed=fit.config["settings"]["seed"])
    return rows if rows.train.fingerprint() == described["fingerprint"] else None


def rows_fitted(fit: Any, rows: Data, of: Data | None = None) -> int | None:
    """Return how many rows equal one that was fitted; ``None`` where that cannot be known.

    Parameters
    ----------
    fit
        What :func:`vaeppl.fit` returned.
    rows
        The rows in question.
    of
        The data whose test or valid part they are, if they are such a part.
    """
    config = getattr(fit, "config", None)  # of a model, a method
    described = config.get("data", {}) if isinstance(config, dict) else {}
    if "fingerprint" not in described:
        return None
    if of is not None and (
        of.train.fingerprint() == described["fingerprint"] or _split_again(fit, of) is not None
    ):
        return 0
    found = rows.fingerprint()
    if found in (described["fingerprint"], described["held_out"]):
        return len(rows) if found == described["fingerprint"] else 0
    try:
        train = fit._rows(None)
    except (CheckpointError, DataError, OSError):
        return None
    pair = as_pair(fit)
    there = [c for c in pair.columns if c in train and c in rows and c not in pair.partly_observed]
    if not there or _is_long(train, there) or not _is_fixed(train, there):
        return None
    if any(train.shape(c) != rows.shape(c) for c in there):
        return 0
    known = set(_keys(train, there))
    if len(known) < LEAST_APART * len(train):
        return None  # rows of few values are equal by chance
    return sum(key in known for key in _keys(rows, there))


def words_of_rows(rows: int, fitted: Sequence[int | None]) -> str:
    """Say of some rows whether stories were fitted to them.

    Examples
    --------
    >>> words_of_rows(10, [0, 0]), words_of_rows(10, [10]), words_of_rows(10, [None])
    ('10 held-out rows', '10 rows that were fitted', '10 rows')
    >>> words_of_rows(10, [8, 0])
    '10 rows, 8 of which equal rows that were fitted'
    """
    most = max((n for n in fitted if n is not None), default=0)
    if most == rows:
        return f"{rows} rows that were fitted"
    if most:
        return f"{rows} rows, {most} of which equal rows that were fitted"
    return f"{rows} rows" if None in fitted else f"{rows} held-out rows"


def _is_long(train: Data, columns: Sequence[str]) -> bool:
    entries = sum(len(train) * torch.Size(train.shape(c)).numel() for c in columns)
    return entries > MOST_ENTRIES


def _is_fixed(train: Data, columns: Sequence[str]) -> bool:
    """Tell whether rows are the same when they are read twice, as those drawn anew are not."""
    first, second = (next(_chunks(train, columns)) for _ in range(2))
    return all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, second, strict=True)
    )


def _chunks(data: Data, columns: Sequence[str]) -> Iterator[list[torch.Tensor]]:
    chosen = data.columns(*columns)
    for start in range(0, len(data), ROWS_AT_ONCE):
        values = chosen.take(torch.arange(start, min(start + ROWS_AT_ONCE, len(data))))
        yield [values[c].cpu().flatten(1) if values[c].ndim > 1 else values[c].cpu()[:, None]
               for c in columns]  # fmt: skip


def _keys(data: Data, columns: Sequence[str]) -> Iterator[int]:
    """Yield a number for each row, which is the same for equal rows."""
    for chunk in _chunks(data, columns):
        for row in torch.cat([v.double() for v in chunk], 1).contiguous().numpy():
            yield hash(row.tobytes())
