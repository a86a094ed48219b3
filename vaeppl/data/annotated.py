"""From annotated single-cell data, an AnnData, to `Data`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .columns import Field
from .dataset import Data
from .errors import DataError, did_you_mean
from .tables import frame_column

__all__ = ["from_anndata"]


def from_anndata(
    adata: Any,
    layer: str | None = None,
    x: str = "x",
    obs: Mapping[str, str] | None = None,
    *,
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
    obs : mapping of str to str, optional
        From column name to a column of ``adata.obs``, such as ``{"y": "cell_type"}``: categories
        become codes with levels, numbers stay.
    dtype : torch.dtype, optional
        Floating type of the values, as in `Data`.

    Returns
    -------
    Data

    Raises
    ------
    DataError
        If there is no such layer or column, or no matrix.

    Examples
    --------
    >>> import anndata, numpy
    >>> cells = anndata.AnnData(numpy.ones((3, 2), dtype="float32"))
    >>> from_anndata(cells).shape("x")
    (2,)
    """
    if layer is not None and layer not in adata.layers:
        raise DataError(
            f"the AnnData has no layer {layer!r}; {did_you_mean(layer, adata.layers.keys())}"
        )
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise DataError(f"the AnnData has no X; name a layer of {list(adata.layers.keys())}")
    arrays: dict[str, Any] = {x: matrix}
    fields: dict[str, tuple[Field, ...]] = {}
    for key, column in (obs or {}).items():
        arrays[key], field = frame_column(adata.obs, column)
        fields[key] = (field,)
    # Names only: to infer kinds here would read the whole matrix.
    names = {x: tuple(adata.var_names)}
    return Data(arrays, name="anndata", fields=fields, field_names=names, dtype=dtype)
