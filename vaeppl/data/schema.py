"""What the columns of some data are called, so that other data can be brought into the same form.

A story knows entries by their place and levels by their code. Which gene is the third, and which
donor is 1, is known to the data that were fitted only: it is kept beside the fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .dataset import Data

__all__ = ["Named", "Schema", "schema_from_json", "schema_of", "schema_to_json"]


@dataclass(frozen=True)
class Named:
    """The names in one column.

    Parameters
    ----------
    names : tuple of str
        Of its components: genes, or the columns of a table.
    levels : tuple of (tuple of str or None)
        Of the codes of each component; None where it holds no codes.
    layer : str, optional
        The layer of an AnnData from which it was read; None for ``adata.X``, and for other data.
    """

    names: tuple[str, ...]
    levels: tuple[tuple[str, ...] | None, ...] = ()
    layer: str | None = None


Schema = Mapping[str, Named]


def schema_of(data: Data, columns: Sequence[str] | None = None) -> dict[str, Named]:
    """Return the names in the columns of some data; columns without names are left out.

    Parameters
    ----------
    data : Data
    columns : sequence of str, optional
        Those that are wanted; all if None.

    Returns
    -------
    dict of str to Named

    Examples
    --------
    >>> import pandas as pd
    >>> from vaeppl.data import from_frame
    >>> table = from_frame(pd.DataFrame({"sex": ["f", "m"]}), {"y": "sex"})
    >>> schema_of(table)["y"].levels
    (('f', 'm'),)
    """
    found = {}
    for name in data if columns is None else [c for c in columns if c in data]:
        column = data._column(name)
        # Not data.fields, which reads the whole column where kinds were not given.
        fields = column.fields or ()
        if len(fields) == column.width:
            levels = tuple(f.levels for f in fields) if any(f.levels for f in fields) else ()
            found[name] = Named(tuple(f.name for f in fields), levels, column.layer)
        elif column.names is not None:
            found[name] = Named(column.names, (), column.layer)
    return found


def schema_to_json(schema: Schema) -> dict[str, Any]:
    """Turn a schema into what JSON can hold.

    Examples
    --------
    >>> schema_to_json({"x": Named(("Npy", "Sst"), layer="counts")})
    {'x': {'names': ['Npy', 'Sst'], 'levels': [], 'layer': 'counts'}}
    """
    return {
        column: {
            "names": list(named.names),
            "levels": [None if each is None else list(each) for each in named.levels],
            "layer": named.layer,
        }
        for column, named in schema.items()
    }


def schema_from_json(value: Mapping[str, Any]) -> dict[str, Named]:
    """Make a schema again of what :func:`schema_to_json` returned.

    Examples
    --------
    >>> schema = {"y": Named(("type",), (("B", "T"),))}
    >>> schema_from_json(schema_to_json(schema)) == schema
    True
    """
    return {
        column: Named(
            tuple(named["names"]),
            tuple(None if each is None else tuple(each) for each in named["levels"]),
            named["layer"],
        )
        for column, named in value.items()
    }
