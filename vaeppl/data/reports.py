"""What the data look like, for a reader: a table, a few lines of text, HTML, a fingerprint."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .table import Table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["describe", "fingerprint", "html_table", "text"]


def describe(data: Table) -> pd.DataFrame:
    """Table of the columns: shape, dtype as delivered, kind, range, missing entries.

    Examples
    --------
    >>> from vaeppl.data import Data
    >>> describe(Data({"x": [0.5, 2.5]}))["kind"].tolist()
    ['positive']
    """
    import pandas as pd

    return pd.DataFrame([_described(data, name) for name in data])


def _described(data: Table, name: str) -> dict[str, object]:
    column, summary = data._column(name), data._summary(name)
    first = column.read(torch.arange(1), data.dtype, None, torch.Generator().manual_seed(0))
    return {
        "column": name,
        "shape": column.event_shape,
        "dtype": str(first.dtype).removeprefix("torch."),
        "kind": data.kind(name),
        "min": float(summary.minimum.min()),
        "max": float(summary.maximum.max()),
        "missing": summary.missing,
    }


def fingerprint(data: Table) -> str:
    """Short hash of names, shapes, types and a sample of rows, the same on every device.

    Examples
    --------
    >>> from vaeppl.data import Data
    >>> fingerprint(Data({"x": [1.0]})) == fingerprint(Data({"x": [2.0]}))
    False
    """
    sample = torch.from_numpy(np.unique(np.linspace(0, len(data) - 1, 64).astype(np.int64)))
    digest = hashlib.sha256()
    for name in sorted(data):
        column = data._column(name)
        values = column.stored(sample).cpu().contiguous()
        labels = [transform.label for transform in column.transforms]
        header = (name, len(column), column.event_shape, str(values.dtype), column.scale)
        digest.update(repr((*header, labels)).encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:16]


def text(data: Table, splits: Mapping[str, Tensor]) -> str:
    """Title and a line a column.

    Examples
    --------
    >>> from vaeppl.data import Data
    >>> print(text(Data({"x": [[1.5, -2.0]]}), {}))
    Data 'data': 1 rows
      x  (2,)         real, float32 values
    """
    lines = [_title(data, splits)]
    width = max(len(name) for name in data)
    for name in data:
        lines.append(f"  {name:<{width}}  {data.shape(name)!s:<12} {_words(data, name)}")
    return "\n".join(lines)


def html_table(data: Table, splits: Mapping[str, Tensor]) -> str:
    """Say what `text` does, for a notebook.

    Examples
    --------
    >>> from vaeppl.data import Data
    >>> "<td>x</td><td>()</td>" in html_table(Data({"x": [1.5]}), {})
    True
    """
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{data.shape(name)}</td>"
        f"<td>{html.escape(_words(data, name))}</td></tr>"
        for name in data
    )
    head = "<tr><th>column</th><th>shape of a row</th><th>values</th></tr>"
    return f"<p>{html.escape(_title(data, splits))}</p><table>{head}{rows}</table>"


def _title(data: Table, splits: Mapping[str, Tensor]) -> str:
    parts = ", ".join(f"{name} {len(rows)}" for name, rows in splits.items())
    return f"Data {data.name!r}: {len(data)} rows" + (f" ({parts})" if parts else "")


def _words(data: Table, name: str) -> str:
    """One column in words, without a long scan."""
    column = data._column(name)
    words = [data.kind(name)] if data._kind_is_near(name) else []
    levels = data.levels(name)
    words += [f"{len(levels)} level{'s' * (len(levels) != 1)}"] if levels else []
    words += [f"image {column.image[0]}x{column.image[1]}"] if column.image else []
    words += [transform.label for transform in column.transforms]
    words.append(f"{str(column.store.dtype).removeprefix('torch.')} values")
    if not column.resident:
        words.append(f"read by batch from {type(column.store).__name__}")
    return ", ".join(words)
