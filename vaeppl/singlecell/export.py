"""Into AnnData: what a fit says of its cells, beside their counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..data import DataError
from ..data.annotated import is_anndata
from ..errors import unknown_name
from ..files import write_whole
from ..pair import as_pair
from ..reading.prediction import predict_proba
from .annotated import cells_of
from .expression import (
    gene_names,
    get_denoised_counts,
    get_latent_library_size,
    get_latent_representation,
    get_normalized_expression,
)

__all__ = ["to_anndata"]

LAYERS = {"normalized": get_normalized_expression, "denoised": get_denoised_counts}


def to_anndata(
    fit: Any,
    adata: Any,
    *,
    counts: Any = None,
    layers: Sequence[str] = (),
    transform_batch: Any = None,
    library_size: float = 1e4,
    n_samples: int = 25,
    key: str = "vaeppl",
    path: str | Path | None = None,
    seed: int = 0,
) -> Any:
    """Write what a fit says of cells into their AnnData.

    ======================================= ====================================================
    ``obsm["X_vaeppl"]``                    posterior mean of z, for neighbours, UMAP, clusters
    ``obs["vaeppl_library_size"]``          posterior mean of the library size
    ``layers["vaeppl_normalized"]``         if asked for: expression in counts per 10,000
    ``layers["vaeppl_denoised"]``           if asked for: counts if no gene were missed
    ``obs["vaeppl_cell_type"]``             of SCANVI: most probable label, under the name of its
                                            column in the cells that were fitted
    ``obs["vaeppl_cell_type_probability"]`` how probable it is
    ``obsm["vaeppl_cell_type"]``            a table: the probability of each label
    ``uns["vaeppl"]``                       model, version and layer
    ======================================= ====================================================

    Nothing is written unless all of it could be computed. Counts are read a batch at a time; a
    layer that is asked for is dense, N × G.

    Parameters
    ----------
    fit : Fit
        A fit of cells that :func:`from_anndata` read.
    adata : anndata.AnnData
        Cells, in any order, those that were fitted or others; it is changed.
    counts : anndata.AnnData, optional
        Where the counts and the columns of these cells are, if not in ``adata``: the cells are
        matched by ``obs_names``, and those of no use here are left out.
    layers
        ``"normalized"`` and ``"denoised"``, or one of them.
    transform_batch
        Of the layers, as in :func:`get_normalized_expression`.
    library_size
        Counts per cell of the normalised layer.
    n_samples
        Draws from the posterior of each cell, of which the layers are means.
    key
        What the names begin with.
    path
        An ``.h5ad`` file to write besides, whole or not at all.
    seed
        Fixes the draws.

    Returns
    -------
    anndata.AnnData
        ``adata``.

    Raises
    ------
    DataError
        If a cell of ``adata`` is not in ``counts``, a batch was not fitted, or a layer is asked
        for where ``adata`` has other genes than the fit.

    Examples
    --------
    >>> import anndata, numpy, vaeppl
    >>> from vaeppl.models import SCVI
    >>> adata = anndata.AnnData(numpy.arange(1, 121, dtype="float32").reshape(20, 6))
    >>> cells = vaeppl.singlecell.from_anndata(adata)
    >>> model = SCVI.for_data(cells, latent_dim=2, hidden=(4,))
    >>> fit = vaeppl.fit(model, cells, epochs=1, progress=False)
    >>> to_anndata(fit, adata).obsm["X_vaeppl"].shape
    (20, 2)
    """
    if not is_anndata(adata):
        raise TypeError(f"adata is an AnnData to write into; given {type(adata).__name__}")
    wanted = [layers] if isinstance(layers, str) else list(layers)
    for name in wanted:
        if name not in LAYERS:
            raise ValueError(unknown_name("layer", name, LAYERS))
    cells = cells_of(fit, adata if counts is None else _matched(counts, adata))
    if wanted:
        _check_genes(adata, gene_names(cells))
    draws: dict[str, Any] = {"n_samples": n_samples, "seed": seed}
    made: dict[str, dict[str, Any]] = {"obsm": {}, "obs": {}, "layers": {}}
    made["obsm"][f"X_{key}"] = get_latent_representation(fit, cells, seed=seed)
    sizes = get_latent_library_size(fit, cells, seed=seed)
    made["obs"][f"{key}_library_size"] = sizes["mean"].to_numpy()
    for name in wanted:
        scale: dict[str, Any] = {"library_size": library_size} if name == "normalized" else {}
        table = LAYERS[name](fit, cells, transform_batch=transform_batch, **scale, **draws)
        made["layers"][f"{key}_{name}"] = table.to_numpy()
    if "y" in as_pair(fit).partly_observed:
        _add_labels(made, fit, cells, adata, key)
    for where, values in made.items():
        for name, value in values.items():
            getattr(adata, where)[name] = value
    adata.uns[key] = _provenance(fit)
    if path is not None:
        _write(adata, Path(path))
    return adata


def _matched(counts: Any, adata: Any) -> Any:
    """Return the cells of one AnnData in the order of another."""
    if not is_anndata(counts):
        raise TypeError(f"counts is an AnnData; given {type(counts).__name__}")
    for given, name in ((counts, "counts"), (adata, "adata")):
        if not given.obs_names.is_unique:
            raise DataError(
                f"the names of the cells of {name} are not unique, so they cannot be matched: call "
                f"{name}.obs_names_make_unique()"
            )
    lacking = adata.obs_names.difference(counts.obs_names)
    if len(lacking):
        raise DataError(
            f"{len(lacking)} of the {adata.n_obs} cells are not in `counts`, {lacking[0]!r} first"
        )
    return counts[adata.obs_names]


def _check_genes(adata: Any, genes: Sequence[str]) -> None:
    if list(map(str, adata.var_names)) != list(genes):
        raise DataError(
            f"a layer has a column for each gene of adata, which has {adata.n_vars}, but "
            f"{len(genes)} were fitted, or in another order: give adata[:, genes].copy() of those "
            'that were, fit.schema["x"].names'
        )


def _add_labels(
    made: dict[str, dict[str, Any]], fit: Any, cells: Any, adata: Any, key: str
) -> None:
    """Add the labels that a story with labels predicts, by their names."""
    import pandas as pd

    proba = predict_proba(fit, cells).cpu().numpy()
    schema = getattr(fit, "schema", {}).get("y")
    column = schema.names[0] if schema else "y"
    levels = (schema.levels[0] if schema and schema.levels else None) or range(proba.shape[1])
    names = [str(level) for level in levels]
    best = pd.Categorical.from_codes(proba.argmax(1), names)
    made["obs"][f"{key}_{column}"] = best
    made["obs"][f"{key}_{column}_probability"] = proba.max(1)
    made["obsm"][f"{key}_{column}"] = pd.DataFrame(proba, index=adata.obs_names, columns=names)


def _provenance(fit: Any) -> dict[str, str]:
    pair = as_pair(fit)
    schema = getattr(fit, "schema", {})
    layer = schema["x"].layer if "x" in schema else None
    return {"model": pair.name, "vaeppl": __version__, "layer": layer or "X"}


def _write(adata: Any, path: Path) -> None:
    """Write a file whole; a backed AnnData stays backed by its own file."""
    own = adata.filename if adata.isbacked else None
    write_whole(path, adata.write_h5ad)
    if own is not None:
        adata.file.close()
        adata.file.open(own, "r")
