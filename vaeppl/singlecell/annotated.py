"""From AnnData to the columns of a story of cells: counts, batch, factors, covariates, labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import data as named
from ..data import Data, DataError, Field
from ..errors import ColumnError
from .cells import check_counts

__all__ = ["from_anndata"]

CELLS_LOOKED_AT = 100  # to tell whether a layer holds counts


def from_anndata(
    adata: Any,
    *,
    layer: str | None = None,
    batch: str | None = None,
    categorical: Sequence[str] = (),
    continuous: Sequence[str] = (),
    labels: str | None = None,
    unlabelled: Sequence[str] = ("unknown", "Unknown"),
    like: Data | None = None,
) -> Data:
    """Make the columns that :class:`~vaeppl.models.SCVI` takes of annotated single-cell data.

    Sparse counts stay sparse, and those of a backed file on disk, until a batch is read.

    Parameters
    ----------
    adata : anndata.AnnData
        N cells by G genes.
    layer
        The layer of raw counts; ``adata.X`` if ``None``.
    batch, categorical, continuous, labels
        Columns of ``adata.obs``: of the batch, of further factors, of covariates, of cell types.
    unlabelled
        Names that stand for a missing label, beside missing values.
    like
        The cells that were fitted, where these are others: levels get the codes that they have
        there.

    Returns
    -------
    Data
        ``x`` and, where asked for, ``batch``, ``categorical``, ``continuous`` and ``y``.

    Raises
    ------
    DataError
        There is no such layer or column.
    ColumnError
        The matrix holds no counts (the message names a layer that does), a cell has none, a level
        is missing, or not one of those that were fitted.

    Examples
    --------
    >>> import anndata, pandas
    >>> cells = anndata.AnnData(
    ...     np.ones((3, 2), dtype="float32"),
    ...     obs=pandas.DataFrame({"donor": ["b", "a", "b"]}, index=["0", "1", "2"]))
    >>> from_anndata(cells, batch="donor")["batch"]
    tensor([1, 0, 1])
    """
    data = named.from_anndata(adata, layer)
    try:
        check_counts(data)
    except ColumnError as error:
        raise ColumnError(f"{_where(layer)}: {error}{_raw_layers(adata, layer)}") from None
    if batch is not None:
        data = _with_codes(data, "batch", adata, [batch], like)
    if categorical:
        data = _with_codes(data, "categorical", adata, list(categorical), like)
    if continuous:
        numbers = [_numbers(adata, column) for column in continuous]
        fields = [Field(column, "real") for column in continuous]
        data = data.with_column("continuous", np.stack(numbers, axis=1), fields=fields)
    if labels is not None:
        data = _with_codes(data, "y", adata, [labels], like, missing=unlabelled)
    return data


def _where(layer: str | None) -> str:
    return "adata.X" if layer is None else f"layer {layer!r}"


def _raw_layers(adata: Any, layer: str | None) -> str:
    """Name the layers that hold counts, in words."""
    raw = [repr(n) for n, m in adata.layers.items() if n != layer and _looks_raw(m)]
    if layer is not None and adata.X is not None and _looks_raw(adata.X):
        return "; adata.X looks like counts: pass layer=None"
    if raw:
        return f"; layer {' and '.join(raw)} looks like counts: pass layer={raw[0]}"
    if adata.raw is not None and _looks_raw(adata.raw.X):
        return "; adata.raw looks like counts: pass adata.raw.to_adata()"
    return "; no layer looks like counts"


def _looks_raw(matrix: Any) -> bool:
    few = matrix[:CELLS_LOOKED_AT]
    values = np.asarray(few.toarray() if hasattr(few, "toarray") else few)
    return bool(((values >= 0) & (values == np.floor(values))).all() and values.max(initial=0) > 1)


def _series(adata: Any, column: str) -> Any:
    if column not in adata.obs.columns:
        known = ", ".join(map(repr, adata.obs.columns)) or "none"
        raise DataError(f"adata.obs has no column {column!r}; it has {known}")
    return adata.obs[column]


def _numbers(adata: Any, column: str) -> np.ndarray:
    series = _series(adata, column)
    try:
        values = np.asarray(series, dtype=float)
    except (TypeError, ValueError):
        raise ColumnError(
            f"column {column!r} of adata.obs holds no numbers: pass it as categorical=[{column!r}]"
        ) from None
    return values


def _with_codes(
    data: Data,
    name: str,
    adata: Any,
    columns: list[str],
    like: Data | None,
    missing: Sequence[str] | None = None,
) -> Data:
    """Add columns of ``adata.obs`` as one column of codes, with the names of their levels."""
    if like is not None and name not in like:
        raise ColumnError(f"the cells given as `like` have no column {name!r}")
    known = [f.levels for f in like.fields(name)] if like is not None else [None] * len(columns)
    if len(known) != len(columns):
        raise ColumnError(
            f"the cells given as `like` have {len(known)} factors in column {name!r}, not "
            f"{len(columns)}"
        )
    found = [_codes(adata, c, k, missing) for c, k in zip(columns, known, strict=True)]
    fields = [
        Field(c, "categorical", levels) for c, (_, levels) in zip(columns, found, strict=True)
    ]
    codes = np.stack([codes for codes, _ in found], axis=1)
    return data.with_column(name, codes if name == "categorical" else codes[:, 0], fields=fields)


def _codes(
    adata: Any, column: str, known: tuple[str, ...] | None, missing: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return codes, -1 where missing, and the names of the levels."""
    series = _series(adata, column).astype("category")
    names = [str(level) for level in series.cat.categories]
    raw = np.asarray(series.cat.codes)
    absent = set(missing or ())
    levels = known or tuple(n for i, n in enumerate(names) if n not in absent and (raw == i).any())
    place = {name: code for code, name in enumerate(levels)}
    code_of = [place.get(name, -1 if name in absent else -2) for name in names]
    codes = np.array([*code_of, -1], dtype=np.int64)[raw]
    if (codes == -2).any():
        row = int(np.flatnonzero(codes == -2)[0])
        raise ColumnError(
            f"column {column!r} of adata.obs holds {names[raw[row]]!r} at row {row}, a level that "
            f"was not fitted; those that were are {', '.join(map(repr, levels))}"
        )
    if missing is None and (codes == -1).any():
        row = int(np.flatnonzero(codes == -1)[0])
        raise ColumnError(f"column {column!r} of adata.obs is missing at row {row}: drop the cell")
    return codes, levels
