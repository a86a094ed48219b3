"""From AnnData to the columns of a story of cells: counts, batch, factors, covariates, labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .. import data as named
from ..data import Data
from ..data.annotated import UNLABELLED, is_anndata
from .cells import check_counts

__all__ = ["cell_names", "cells_of", "from_anndata"]


def from_anndata(
    adata: Any,
    *,
    layer: str | None = None,
    batch: str | None = None,
    categorical: Sequence[str] = (),
    continuous: Sequence[str] = (),
    labels: str | None = None,
    unlabelled: Sequence[str] = UNLABELLED,
    like: Any = None,
) -> Data:
    """Make the columns that :class:`~vaeppl.models.SCVI` takes of annotated single-cell data.

    Sparse counts stay sparse, and those of a file or a backed AnnData on disk, until a batch is
    read.

    Parameters
    ----------
    adata : anndata.AnnData or path
        N cells by G genes; or an ``.h5ad`` file, whose counts stay on disk.
    layer
        The layer of raw counts; ``adata.X`` if ``None``.
    batch, categorical, continuous, labels
        Columns of ``adata.obs``: of the batch, of further factors, of covariates, of cell types.
    unlabelled
        Names that stand for a missing label, beside missing values.
    like : Fit or Data
        What was fitted, where these are other cells. Layer and columns are the same ones, where
        none are named here; levels get the codes that they have there; genes are brought into the
        same order, and those that were not fitted left out. Labels may be missing.

    Returns
    -------
    Data
        ``x`` and, where asked for, ``batch``, ``categorical``, ``continuous`` and ``y``.

    Raises
    ------
    DataError
        There is no such layer or column, a level is missing or not one of those that were fitted,
        or a gene that was fitted is not there.
    ColumnError
        The matrix holds no counts (the message names a layer that does), or a cell has none.

    Examples
    --------
    >>> import anndata, numpy, pandas
    >>> cells = anndata.AnnData(
    ...     numpy.ones((3, 2), dtype="float32"),
    ...     obs=pandas.DataFrame({"donor": ["b", "a", "b"]}, index=["0", "1", "2"]))
    >>> from_anndata(cells, batch="donor")["batch"]
    tensor([1, 0, 1])
    """
    if isinstance(categorical, str) or isinstance(continuous, str):
        raise TypeError("categorical and continuous are lists of columns of adata.obs: ['sex']")
    obs = {
        "batch": batch,
        "categorical": list(categorical),
        "continuous": list(continuous),
        "y": labels,
    }
    options: dict[str, Any] = {
        "layer": layer,
        "obs": {name: columns for name, columns in obs.items() if columns},
        "factors": ["batch", "categorical", "y"],
        "unlabelled": list(unlabelled),
    }
    if like is not None:
        options["like"] = like if isinstance(like, Data) else like.schema
        options["optional"] = ["y"]
    if isinstance(adata, (str, os.PathLike)):
        data = named.as_data(adata, backed=True, **options)
    else:
        data = named.from_anndata(adata, **options)
    check_counts(data)
    return data


def cells_of(source: Any, data: Any) -> Data:
    """Return cells in the form in which a fit had its own.

    Parameters
    ----------
    source
        A :class:`~vaeppl.Fit` or a model.
    data
        Cells, as in :func:`vaeppl.fit`; an AnnData is read as that of the fit was; ``None``: the
        cells that were fitted.
    """
    if is_anndata(data) and hasattr(source, "schema"):
        return from_anndata(data, like=source)
    if data is None and hasattr(source, "schema"):
        return named.as_data(source._rows(None))
    return named.as_data(data)


def cell_names(data: Any) -> Any:
    """Return the index of a table with a line a cell: the names of the cells, where they have some.

    Parameters
    ----------
    data
        What a user gave as cells.
    """
    return data.obs_names if is_anndata(data) else None
