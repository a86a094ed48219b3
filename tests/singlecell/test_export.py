"""What a fit says of cells, written into their AnnData."""

import numpy as np
import pandas as pd
import pytest

import vaeppl
from vaeppl.data import DataError
from vaeppl.models import SCANVI, SCVI
from vaeppl.singlecell import (
    from_anndata,
    get_denoised_counts,
    get_latent_library_size,
    get_latent_representation,
    get_normalized_expression,
    to_anndata,
)

anndata = pytest.importorskip("anndata")
CELLS, GENES = 30, 6


@pytest.fixture
def adata():
    counts = np.random.default_rng(0).poisson(4.0, (CELLS, GENES)) + 1
    obs = pd.DataFrame(
        {"donor": list("abc") * 10, "cell_type": (["T", "B", "unknown"] * 10)},
        index=[f"c{i}" for i in range(CELLS)],
    )
    var = pd.DataFrame(index=[f"g{i}" for i in range(GENES)])
    made = anndata.AnnData(np.log1p(np.float32(counts)), obs=obs, var=var)
    made.layers["counts"] = np.float32(counts)
    return made


def fitted(cells, cls=SCVI):
    model = cls.for_data(cells, latent_dim=2, hidden=(4,))
    return vaeppl.fit(model, cells, epochs=1, progress=False)


@pytest.fixture
def fit(adata):
    return fitted(from_anndata(adata, layer="counts", batch="donor"))


def test_all_that_is_asked_for_is_there(fit, adata):
    before = adata.copy()
    cells = from_anndata(adata, like=fit)
    assert to_anndata(fit, adata, layers=["normalized", "denoised"], n_samples=3) is adata
    assert np.allclose(adata.obsm["X_vaeppl"], get_latent_representation(fit, cells))
    sizes = get_latent_library_size(fit, cells)["mean"]
    assert np.allclose(adata.obs["vaeppl_library_size"], sizes)
    normalized = get_normalized_expression(fit, cells, n_samples=3, library_size=1e4)
    assert np.allclose(adata.layers["vaeppl_normalized"], normalized)
    denoised = get_denoised_counts(fit, cells, n_samples=3)
    assert np.allclose(adata.layers["vaeppl_denoised"], denoised)
    assert adata.uns["vaeppl"] == {
        "model": "SCVI",
        "vaeppl": vaeppl.__version__,
        "layer": "counts",
    }
    assert np.array_equal(adata.X, before.X)
    assert list(adata.obs.columns) == [*before.obs.columns, "vaeppl_library_size"]


def test_nothing_dense_where_no_layer_is_asked_for(fit, adata):
    to_anndata(fit, adata, key="mine")
    assert list(adata.layers) == ["counts"]
    assert set(adata.obsm) == {"X_mine"} and "mine_library_size" in adata.obs


def test_other_cells_in_another_order(fit, adata):
    whole = to_anndata(fit, adata.copy())
    some = to_anndata(fit, adata[[8, 3, 20]].copy())
    assert np.allclose(some.obsm["X_vaeppl"], whole.obsm["X_vaeppl"][[8, 3, 20]], atol=1e-6)


def test_counts_that_are_elsewhere_are_matched_by_name(fit, adata):
    order = np.random.default_rng(1).permutation(CELLS)[:11]
    shown = anndata.AnnData(np.zeros((11, 2), dtype="float32"))
    shown.obs_names = adata.obs_names[order]
    to_anndata(fit, shown, counts=adata)
    theirs = get_latent_representation(fit, from_anndata(adata, like=fit))
    assert np.allclose(shown.obsm["X_vaeppl"], theirs[order], atol=1e-6)
    shown.obs_names = [*shown.obs_names[:-1], "other"]
    with pytest.raises(DataError, match="1 of the 11 cells are not in `counts`, 'other' first"):
        to_anndata(fit, shown, counts=adata)
    shown.obs_names = ["c1"] * 11
    with pytest.raises(DataError, match=r"not unique.*adata.obs_names_make_unique"):
        to_anndata(fit, shown, counts=adata)


def test_labels_have_their_names(adata, tmp_path):
    cells = from_anndata(adata, layer="counts", batch="donor", labels="cell_type")
    fit = fitted(cells, SCANVI)
    for each in (fit, vaeppl.load(fit.save(tmp_path / "fit"))):
        new = adata.copy()
        del new.obs["cell_type"]  # cells of which nothing is known
        to_anndata(each, new)
        proba = fit.predict_proba(cells).numpy()
        assert list(new.obsm["vaeppl_cell_type"].columns) == ["B", "T"]
        assert np.allclose(new.obsm["vaeppl_cell_type"], proba, atol=1e-5)
        assert new.obs["vaeppl_cell_type"].tolist() == [("B", "T")[k] for k in proba.argmax(1)]
        assert np.allclose(new.obs["vaeppl_cell_type_probability"], proba.max(1), atol=1e-5)


def test_a_file_is_written_whole_or_not_at_all(fit, adata, tmp_path, monkeypatch):
    path = tmp_path / "out.h5ad"
    to_anndata(fit, adata, layers="normalized", path=path)
    again = anndata.read_h5ad(path)
    assert np.allclose(again.obsm["X_vaeppl"], adata.obsm["X_vaeppl"])
    assert again.uns["vaeppl"]["model"] == "SCVI"
    before = path.read_bytes()

    def fail(self, *args, **kwargs):
        (tmp_path / "left").write_text("half")
        raise OSError("no space left")

    monkeypatch.setattr(anndata.AnnData, "write_h5ad", fail)
    with pytest.raises(OSError, match="no space"):
        to_anndata(fit, adata, path=path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["left", "out.h5ad"]


def test_nothing_is_written_where_something_fails(fit, adata):
    adata.obs["donor"] = list("abz") * 10
    with pytest.raises(DataError, match="'z' at row 2, a level that was not fitted"):
        to_anndata(fit, adata)
    adata.obs["donor"] = list("abc") * 10
    fewer = adata[:, ::-1].copy()
    with pytest.raises(DataError, match=r"or in another order.*schema"):
        to_anndata(fit, fewer, layers="denoised")
    with pytest.raises(ValueError, match="unknown layer 'normalised': did you mean 'normalized'"):
        to_anndata(fit, adata, layers="normalised")
    for each in (adata, fewer):
        assert not each.obsm and "vaeppl" not in each.uns and list(each.layers) == ["counts"]


def test_a_backed_file_stays_as_it_is(fit, adata, tmp_path):
    source, target = tmp_path / "cells.h5ad", tmp_path / "out.h5ad"
    raw = anndata.AnnData(adata.layers["counts"], obs=adata.obs, var=adata.var)
    raw.write_h5ad(source)
    before = source.read_bytes()
    fit = fitted(from_anndata(source, batch="donor"))
    backed = anndata.read_h5ad(source, backed="r")
    to_anndata(fit, backed, path=target)
    assert backed.filename == source and backed.X[:2].shape == (2, GENES)
    assert source.read_bytes() == before
    again = anndata.read_h5ad(target)
    assert np.allclose(again.obsm["X_vaeppl"], backed.obsm["X_vaeppl"])
    assert np.array_equal(again.X, raw.X)


def test_what_is_no_anndata(fit, adata):
    with pytest.raises(TypeError, match="an AnnData to write into; given dict"):
        to_anndata(fit, {"x": np.ones((3, GENES))})
    with pytest.raises(TypeError, match="counts is an AnnData"):
        to_anndata(fit, adata, counts={"x": np.ones((3, GENES))})
