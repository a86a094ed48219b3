"""From annotated single-cell data, an AnnData, to `Data`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .columns import Field
from .dataset import Data
from .errors import DataError, did_you_mean
from .schema import Named, Schema, schema_of
from .tables import frame_column

__all__ = ["OnDisk", "from_anndata", "is_anndata"]

CELLS_LOOKED_AT = 100  # to tell whether a layer holds counts
FACTORS = ("batch", "categorical")  # columns that hold levels whatever their type, all of them seen
UNLABELLED = ("unknown", "Unknown")
Obs = Mapping[str, str | Sequence[str]]


def from_anndata(
    adata: Any,
    layer: str | None = None,
    x: str = "x",
    obs: Obs | None = None,
    *,
    like: Data | Schema | None = None,
    factors: Sequence[str] = FACTORS,
    unlabelled: Sequence[str] = UNLABELLED,
    optional: Sequence[str] = (),
    dtype: torch.dtype | None = None,
) -> Data:
    """Make `Data` of annotated single-cell data.

    The matrix stays sparse, or on disk, until a batch is read.

    Parameters
    ----------
    adata : anndata.AnnData
        N cells by D genes.
    layer : str, optional
        The layer to read, ``adata.X`` if None.
    x : str
        What the model calls the matrix.
    obs : mapping of str to str or sequence of str, optional
        From column name to a column of ``adata.obs``, or to several, such as ``{"y":
        "cell_type", "continuous": ["age", "depth"]}``: categories become codes with levels,
        numbers stay.
    like : Data or schema, optional
        Data that were fitted, where these are others: layer and columns are the same ones, where
        they are not named here, genes are brought into the same order, and levels get the same
        codes.
    factors : sequence of str
        Columns that hold levels also where these are numbers.
    unlabelled : sequence of str
        Names of levels of ``y`` that stand for a missing label, -1, as a missing value does.
    optional : sequence of str
        Columns of `like` that are left out where ``adata.obs`` has them not; so are factors of
        which a single level was fitted.
    dtype : torch.dtype, optional
        Floating type of the values, as in `Data`.

    Returns
    -------
    Data

    Raises
    ------
    DataError
        If there is no such layer or column, or no matrix; a factor is missing, or has a level
        that was not fitted; or a gene that was fitted is not there.

    Examples
    --------
    >>> import anndata, numpy
    >>> cells = anndata.AnnData(numpy.ones((3, 2), dtype="float32"))
    >>> from_anndata(cells).shape("x")
    (2,)
    """
    known: Schema = schema_of(like) if isinstance(like, Data) else (like or {})
    if layer is None and x in known:
        layer = known[x].layer
    matrix, genes = _matrix(adata, layer), tuple(map(str, adata.var_names))
    if x in known and known[x].names != genes:
        matrix, genes = _known_genes(matrix, genes, known[x].names), known[x].names
    arrays: dict[str, Any] = {x: matrix}
    fields: dict[str, tuple[Field, ...]] = {}
    for name, columns in _wanted(adata, obs, known, x, optional).items():
        several = not isinstance(columns, str)
        chosen = [columns] if isinstance(columns, str) else list(columns)
        absent = None if name in FACTORS else unlabelled if name == "y" else ()
        levels = _levels_of(known.get(name), name, len(chosen))
        read = [
            _codes(adata, c, k, absent) if k or name in factors else _plain(adata, c, name, absent)
            for c, k in zip(chosen, levels, strict=True)
        ]
        fields[name] = tuple(field for _, field in read)
        # Several columns, and the factors of a story even where there is one, make a row each.
        wide = several or name in ("categorical", "continuous")
        arrays[name] = np.stack([v for v, _ in read], axis=1) if wide else read[0][0]
    # Names only: to infer kinds here would read the whole matrix.
    data = Data(arrays, name="anndata", fields=fields, field_names={x: genes}, dtype=dtype)
    note = _other_counts(adata, layer)
    data._columns[x] = replace(data._columns[x], layer=layer, note=note)
    return data


class OnDisk:
    """The parts of an .h5ad file that columns are made of; every matrix stays on disk.

    (A backed AnnData leaves ``X`` there, but reads all layers.)

    Parameters
    ----------
    path : str or Path
    """

    raw = None

    def __init__(self, path: str | Path) -> None:
        import h5py

        try:
            from anndata.io import read_elem
        except ImportError:  # before 0.11
            from anndata.experimental import read_elem
        file = h5py.File(path, "r")
        self.obs = read_elem(file["obs"])
        self.obs_names, self.var_names = self.obs.index, read_elem(file["var"]).index
        self.n_obs = len(self.obs_names)
        self.X = _stored(file["X"]) if "X" in file else None
        self.layers = {name: _stored(part) for name, part in file.get("layers", {}).items()}


def _stored(part: Any) -> Any:
    try:
        from anndata.io import sparse_dataset
    except ImportError:  # before 0.11
        from anndata.experimental import sparse_dataset
    return sparse_dataset(part) if hasattr(part, "keys") else part


def is_anndata(source: Any) -> bool:
    """Tell whether an object is an AnnData, without importing the package.

    Examples
    --------
    >>> is_anndata({"x": [1.0]})
    False
    """
    classes = type(source).__mro__
    return any(c.__name__ == "AnnData" and c.__module__.startswith("anndata") for c in classes)


# The matrix


def _matrix(adata: Any, layer: str | None) -> Any:
    if layer is not None and layer not in adata.layers:
        raise DataError(
            f"the AnnData has no layer {layer!r}; {did_you_mean(layer, adata.layers.keys())}"
        )
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise DataError(f"the AnnData has no X; name a layer of {list(adata.layers.keys())}")
    if "CSC" in type(matrix).__name__:  # of a file; one in memory is turned into rows
        raise DataError(
            "the matrix in the file is compressed by columns, so its rows cannot be read some at a "
            "time: read it into memory (backed=None), or write it again with adata.X.tocsr()"
        )
    return matrix


def _other_counts(adata: Any, layer: str | None) -> str:
    """Say which matrix was read, and where counts are beside it."""
    where = "adata.X" if layer is None else f"layer {layer!r}"
    if is_anndata(adata):
        adata = adata[:CELLS_LOOKED_AT]
    raw = [repr(n) for n, m in adata.layers.items() if n != layer and _looks_raw(m)]
    if layer is not None and adata.X is not None and _looks_raw(adata.X):
        found = "adata.X looks like counts: pass layer=None"
    elif raw:
        found = f"layer {' and '.join(raw)} looks like counts: pass layer={raw[0]}"
    elif adata.raw is not None and _looks_raw(adata.raw.X):
        found = "adata.raw looks like counts: pass adata.raw.to_adata()"
    else:
        found = "no other layer looks like counts"
    return f" (they were read from {where}; {found})"


def _looks_raw(matrix: Any) -> bool:
    few = matrix[:CELLS_LOOKED_AT]
    values = np.asarray(few.toarray() if hasattr(few, "toarray") else few)
    return bool(((values >= 0) & (values == np.floor(values))).all() and values.max(initial=0) > 1)


def _known_genes(matrix: Any, genes: Sequence[str], known: Sequence[str]) -> Any:
    """Bring the columns of a matrix into the order that was fitted, others left out."""
    place = {gene: i for i, gene in enumerate(genes)}
    lacking = [gene for gene in known if gene not in place]
    if lacking:
        first = ", ".join(map(repr, lacking[:5])) + (", ..." if len(lacking) > 5 else "")
        raise DataError(
            f"{len(lacking)} of the {len(known)} genes that were fitted are not in adata.var_names "
            f"({first}); a story cannot do without them. Are the names of the same kind?"
        )
    if len(place) < len(genes):
        raise DataError(
            "adata.var_names are not unique, so genes cannot be told apart: call "
            "adata.var_names_make_unique() before the fit and here"
        )
    index = np.array([place[gene] for gene in known])
    in_memory = isinstance(matrix, np.ndarray) or hasattr(matrix, "tocsr")
    return matrix[:, index] if in_memory else _SomeGenes(matrix, index)


class _SomeGenes:
    """Some columns of a matrix that stays on disk."""

    def __init__(self, store: Any, index: np.ndarray) -> None:
        self.store, self.index = store, index
        self.shape, self.dtype = (store.shape[0], len(index)), store.dtype

    def __getitem__(self, rows: Any) -> Any:
        return self.store[rows][:, self.index]


# Columns of adata.obs


def _wanted(
    adata: Any, obs: Obs | None, known: Schema, x: str, optional: Sequence[str]
) -> dict[str, str | Sequence[str]]:
    """Return the columns to read: those named, and those that were fitted."""
    if obs and x in obs:
        raise DataError(f"column {x!r} is the matrix; to read another one, give layer={obs[x]!r}")
    wanted: dict[str, str | Sequence[str]] = {}
    for name, named in known.items():
        if name == x or (obs and name in obs):
            continue
        there = all(column in adata.obs.columns for column in named.names)
        single = bool(named.levels) and all(len(each or ()) == 1 for each in named.levels)
        if there or not (single or name in optional):
            wide = len(named.names) > 1 or name in ("categorical", "continuous")
            wanted[name] = named.names if wide else named.names[0]
    return {**wanted, **(obs or {})}


def _levels_of(named: Named | None, name: str, number: int) -> Sequence[tuple[str, ...] | None]:
    if named is None or not named.levels:
        return [None] * number
    if len(named.levels) != number:
        raise DataError(
            f"{len(named.levels)} columns were fitted as {name!r} ({', '.join(named.names)}), not "
            f"{number}"
        )
    return named.levels


def _series(adata: Any, column: str) -> Any:
    if column not in adata.obs.columns:
        raise DataError(
            f"adata.obs has no column {column!r}; {did_you_mean(column, adata.obs.columns)}"
        )
    return adata.obs[column]


def _plain(
    adata: Any, column: str, name: str, absent: Sequence[str] | None
) -> tuple[np.ndarray, Field]:
    """Read numbers as they are; text and categories are levels."""
    series = _series(adata, column)
    is_text = series.dtype.kind not in "biufc"
    if is_text and name == "y":
        return _codes(adata, column, None, absent)
    if is_text and name == "continuous":
        raise DataError(
            f"column {column!r} of adata.obs holds no numbers: pass it as categorical=[{column!r}]"
        )
    return frame_column(adata.obs, column)


def _codes(
    adata: Any, column: str, known: tuple[str, ...] | None, absent: Sequence[str] | None
) -> tuple[np.ndarray, Field]:
    """Read levels as codes, -1 where missing; ``absent`` names what is missing, None: nothing."""
    series = _series(adata, column).astype("category")
    names = [str(level) for level in series.cat.categories]
    raw = np.asarray(series.cat.codes)
    seen = [name for i, name in enumerate(names) if (raw == i).any()]
    levels = known or tuple(name for name in seen if name not in (absent or ()))
    place = {name: code for code, name in enumerate(levels)}
    for name in seen:
        if name not in place and name not in (absent or ()):
            row = int(np.flatnonzero(raw == names.index(name))[0])
            raise DataError(
                f"column {column!r} of adata.obs holds {name!r} at row {row}, a level that was not "
                f"fitted; those that were are {', '.join(map(repr, levels))}"
                + ("" if absent is None else f"; if it stands for none, unlabelled=[{name!r}]")
            )
    codes = np.array([*(place.get(name, -1) for name in names), -1], dtype=np.int64)[raw]
    if absent is None and (codes == -1).any():
        row = int(np.flatnonzero(codes == -1)[0])
        raise DataError(f"column {column!r} of adata.obs is missing at row {row}: drop the cell")
    return codes, Field(column, "categorical", levels)
