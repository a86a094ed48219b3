"""AnnData as the columns of a story of cells."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import vaeppl
from vaeppl.data import DataError
from vaeppl.errors import ColumnError
from vaeppl.models import SCANVI, SCVI
from vaeppl.singlecell import from_anndata

anndata = pytest.importorskip("anndata")


def annotated(x=None, **obs):
    counts = np.random.default_rng(0).poisson(3.0, (12, 4)) + 1
    table = {
        "donor": list("bacb" * 3),
        "sex": list("fm" * 6),
        "age": np.linspace(20, 60, 12),
        "cell_type": ["T", "unknown", "B", None] * 3,
        **obs,
    }
    cells = anndata.AnnData(
        scipy.sparse.csr_matrix(np.float32(counts)) if x is None else x(counts),
        obs=pd.DataFrame(table, index=[f"c{i}" for i in range(12)]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(4)]),
    )
    cells.layers["raw"] = np.float32(counts)
    return cells


COLUMNS = {
    "batch": "donor",
    "categorical": ["sex"],
    "continuous": ["age"],
    "labels": "cell_type",
}


def test_columns_and_levels():
    data = from_anndata(annotated(), **COLUMNS)
    assert data["batch"].tolist() == [1, 0, 2, 1] * 3
    assert data.levels("batch") == ("a", "b", "c")
    assert data["categorical"].tolist() == [[0], [1]] * 6
    assert data["y"].tolist() == [1, -1, 0, -1] * 3
    assert data.levels("y") == ("B", "T")
    assert data.is_lazy("x")
    assert [f.name for f in data.fields("x")] == ["g0", "g1", "g2", "g3"]


def test_a_fit_of_all_columns():
    data = from_anndata(annotated(), **COLUMNS)
    model = SCANVI.for_data(data, latent_dim=2, hidden=(4,))
    assert (model.num_batches, model.categories, model.continuous_dim) == (3, (2,), 1)
    assert model.num_labels == 2
    fit = vaeppl.fit(model, data, epochs=1, progress=False)
    assert fit.predict(data).shape == (12,)


def test_other_cells_have_the_codes_of_those_that_were_fitted():
    fitted = from_anndata(annotated(), batch="donor")
    new = annotated(donor=["c"] * 6 + ["a"] * 6)
    assert from_anndata(new, batch="donor")["batch"].unique().tolist() == [0, 1]
    assert from_anndata(new, batch="donor", like=fitted)["batch"].unique().tolist() == [0, 2]


def test_a_batch_that_was_not_fitted():
    fitted = from_anndata(annotated(), batch="donor")
    with pytest.raises(DataError, match=r"holds 'd' at row 3.*not fitted.*'a', 'b', 'c'"):
        from_anndata(annotated(donor=list("abcd" * 3)), batch="donor", like=fitted)


def test_normalised_values_and_the_layer_that_holds_counts():
    logged = annotated(np.log1p)
    message = r"look normalised and logged.*from adata.X; layer 'raw' looks like.*layer='raw'"
    with pytest.raises(ColumnError, match=message):
        from_anndata(logged)
    assert len(from_anndata(logged, layer="raw")) == 12
    del logged.layers["raw"]
    with pytest.raises(ColumnError, match="no other layer looks like counts"):
        from_anndata(logged)
    logged.raw = annotated()
    with pytest.raises(ColumnError, match=r"pass adata.raw.to_adata\(\)"):
        from_anndata(logged)
    cells = annotated()
    cells.layers["scaled"] = cells.layers["raw"] - 2.0
    with pytest.raises(ColumnError, match=r"scaled or centred.*from layer 'scaled'; adata.X looks"):
        from_anndata(cells, layer="scaled")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"batch": "donr"}, DataError, "adata.obs has no column 'donr'; did you mean 'donor'"),
        ({"categorical": ["sx"]}, DataError, "no column 'sx'"),
        ({"continuous": ["ag"]}, DataError, "no column 'ag'"),
        ({"labels": "type"}, DataError, "no column 'type'"),
        ({"layer": "counts"}, DataError, "no layer 'counts'"),
        ({"continuous": ["sex"]}, DataError, r"holds no numbers: pass it as categorical"),
        ({"batch": "cell_type"}, DataError, "is missing at row 3: drop the cell"),
    ],
)
def test_what_is_not_there(given, error, message):
    with pytest.raises(error, match=message):
        from_anndata(annotated(), **given)


def test_a_cell_without_counts():
    cells = annotated(lambda x: np.float32(x * (np.arange(12) != 5)[:, None]))
    with pytest.raises(ColumnError, match="1 of 12 cells have no count at all, the first at row 5"):
        from_anndata(cells)


def test_a_single_batch():
    data = from_anndata(annotated(donor=["a"] * 12), batch="donor")
    fit = vaeppl.fit(SCVI.for_data(data, hidden=(4,)), data, epochs=1, progress=False)
    assert np.isfinite(fit.history["elbo"]).all()


def a_fit(data):
    model = SCVI.for_data(data, latent_dim=2, hidden=(4,))
    return vaeppl.fit(model, data, epochs=1, progress=False)


class TestOtherCellsOfAFit:
    """What was fitted says how other cells are read: layer, columns, levels, genes."""

    @pytest.fixture
    def cells(self):
        cells = annotated(np.log1p)
        cells.layers["raw"] = cells.layers["raw"] + 0.0
        return cells

    @pytest.fixture(params=["fit", "loaded", "data"])
    def like(self, request, cells, tmp_path):
        data = from_anndata(cells, layer="raw", batch="donor", continuous=["age"], labels="sex")
        model = SCANVI.for_data(data, latent_dim=2, hidden=(4,))
        fit = vaeppl.fit(model, data, epochs=1, progress=False)
        if request.param == "data":
            return data
        return fit if request.param == "fit" else vaeppl.load(fit.save(tmp_path / "fit"))

    def test_some_of_the_cells_in_another_order(self, cells, like):
        data = from_anndata(cells[[7, 2]], like=like)
        assert list(data) == ["x", "batch", "continuous", "y"]
        assert data["batch"].tolist() == [1, 2]
        assert data["y"].tolist() == [1, 0]
        assert data.levels("batch") == ("a", "b", "c")
        assert np.allclose(data.take([0, 1])["x"], cells.layers["raw"][[7, 2]])
        assert np.allclose(data["continuous"][:, 0], cells.obs["age"].iloc[[7, 2]])

    def test_genes_in_another_order_and_others_besides(self, cells, like):
        more = anndata.concat([cells, renamed(cells, "h")], axis="var", merge="same")
        data = from_anndata(more[:, ["h2", "g3", "g1", "h0", "g0", "g2"]], like=like)
        assert np.allclose(data.take(range(12))["x"], cells.layers["raw"])

    def test_genes_that_are_not_there(self, cells, like):
        with pytest.raises(DataError, match=r"2 of the 4 genes that were fitted.*'g1', 'g3'"):
            from_anndata(cells[:, ["g0", "g2"]], like=like)

    def test_labels_that_are_not_there_are_missing(self, cells, like):
        del cells.obs["sex"]
        assert list(from_anndata(cells, like=like)) == ["x", "batch", "continuous"]

    def test_a_column_of_another_name(self, cells, like):
        cells.obs["patient"] = cells.obs.pop("donor")
        assert from_anndata(cells, batch="patient", like=like)["batch"].tolist() == [1, 0, 2, 1] * 3
        with pytest.raises(DataError, match="no column 'donor'"):
            from_anndata(cells, like=like)

    def test_a_batch_that_was_not_fitted_is_refused_by_name(self, cells, like):
        cells.obs["donor"] = list("abcd" * 3)
        with pytest.raises(DataError, match=r"'donor'.*holds 'd' at row 3.*were are 'a', 'b', 'c'"):
            from_anndata(cells, like=like)

    def test_a_label_that_was_not_fitted(self, cells, like):
        cells.obs["sex"] = ["f", "x"] * 6
        with pytest.raises(DataError, match=r"holds 'x' at row 1.*unlabelled=\['x'\]"):
            from_anndata(cells, like=like)
        labels = from_anndata(cells, like=like, unlabelled=["x"])["y"]
        assert labels.tolist() == [0, -1] * 6

    def test_a_fit_and_the_functions_take_an_anndata(self, cells, like):
        if not hasattr(like, "schema"):
            return
        data = from_anndata(cells, like=like)
        assert like.elbo(cells).mean == like.elbo(data).mean
        ours = vaeppl.singlecell.get_normalized_expression(like, cells[[3, 1]], n_samples=2)
        assert list(ours.index) == ["c3", "c1"] and list(ours.columns) == ["g0", "g1", "g2", "g3"]
        theirs = vaeppl.singlecell.get_latent_representation(like, data)
        assert np.allclose(vaeppl.singlecell.get_latent_representation(like, cells), theirs)
        assert vaeppl.plots.embedding(like, cells, labels="y").get_xlabel() == "z[0]"


def renamed(cells, letter):
    other = cells.copy()
    other.var_names = [name.replace("g", letter) for name in cells.var_names]
    return other


def test_a_single_batch_need_not_be_named_again():
    fit = a_fit(from_anndata(annotated(donor=["a"] * 12), batch="donor"))
    new = annotated()
    del new.obs["donor"]
    assert list(from_anndata(new, like=fit)) == ["x"]


def test_a_column_of_numbers_as_batch():
    data = from_anndata(annotated(donor=[1004, 7, 1004] * 4), batch="donor")
    assert data["batch"].tolist() == [1, 0, 1] * 4
    assert data.levels("batch") == ("7", "1004")


def test_a_list_is_asked_for():
    with pytest.raises(TypeError, match="lists of columns"):
        from_anndata(annotated(), categorical="sex")


class Watched(scipy.sparse.csr_matrix):
    """Counts that note how many cells were made dense at once."""

    most = 0

    def toarray(self, *args, **kwargs):
        Watched.most = max(Watched.most, self.shape[0])
        return super().toarray(*args, **kwargs)


class TestSparseCountsStaySo:
    """From AnnData by way of a fit to its reading, a batch at a time is dense."""

    CELLS, GENES, AT_ONCE = 3000, 50, 256

    @pytest.fixture
    def cells(self):
        noise = np.random.default_rng(0)
        counts = noise.poisson(0.3, (self.CELLS, self.GENES)) + np.eye(self.CELLS, self.GENES)
        counts[:, 0] += 1
        obs = {"donor": np.arange(self.CELLS) % 2, "kind": list("ab") * (self.CELLS // 2)}
        index = [f"c{i}" for i in range(self.CELLS)]
        cells = anndata.AnnData(
            scipy.sparse.csr_matrix(np.float32(counts)), obs=pd.DataFrame(obs, index=index)
        )
        cells.obs["donor"] = cells.obs["donor"].map({0: "x", 1: "y"})
        return cells

    @pytest.fixture(autouse=True)
    def small_passes(self, monkeypatch):
        from vaeppl.checks import values
        from vaeppl.data import batches, columns
        from vaeppl.reading import evidence, predictive
        from vaeppl.singlecell import cells, expression

        few = self.AT_ONCE * self.GENES
        monkeypatch.setattr(cells, "VALUES_AT_ONCE", few)
        monkeypatch.setattr(columns, "_CHUNK_VALUES", few)
        monkeypatch.setattr(batches, "_VALUES_AT_ONCE", few)
        monkeypatch.setattr(expression, "ENTRIES_AT_ONCE", few)
        monkeypatch.setattr(evidence, "ENTRIES_AT_ONCE", few)
        monkeypatch.setattr(values, "CHUNK", self.AT_ONCE)
        monkeypatch.setattr(predictive, "ROWS_AT_ONCE", self.AT_ONCE)
        Watched.most = 0

    def everything(self, data, adata=None):
        """Take the whole way."""
        fit = vaeppl.fit(
            SCVI.for_data(data, latent_dim=2, hidden=(4,)), data, epochs=1, progress=False
        )
        cells = data if adata is None else adata
        sc = vaeppl.singlecell
        sc.get_latent_representation(fit, cells)
        sc.get_normalized_expression(fit, cells, n_samples=1, transform_batch=["x", "y"])
        sc.get_latent_library_size(fit, cells, n_samples=2)
        sc.predictive_check(fit, cells, num_samples=1)
        mask = np.arange(self.CELLS) < self.CELLS // 2
        sc.differential_expression(fit, cells, mask, n_samples=20)
        fit.elbo(cells)
        fit.evidence(cells, num_particles=2)
        return fit

    def test_in_memory(self, cells):
        data = from_anndata(cells, batch="donor")
        column = data._columns["x"]
        object.__setattr__(column, "store", Watched(column.store))
        self.everything(data)
        assert 0 < Watched.most <= self.AT_ONCE

    @pytest.mark.parametrize("layer", [None, "counts"])
    @pytest.mark.parametrize("form", ["csr", "dense"])
    def test_on_disk(self, cells, tmp_path, layer, form, monkeypatch):
        from vaeppl.data import stores

        if form == "dense":
            cells.X = cells.X.toarray()
        if layer is not None:
            cells.layers[layer] = cells.X
            cells.X = np.log1p(cells.X)
        cells.write_h5ad(tmp_path / "cells.h5ad")
        read, most = stores.read_rows, [0]

        def noted(store, rows):
            most[0] = max(most[0], len(rows))
            assert len(rows) <= self.AT_ONCE
            assert type(store).__name__ in ("_CSRDataset", "Dataset"), type(store)
            return read(store, rows)

        monkeypatch.setattr("vaeppl.data.columns.read_rows", noted)
        data = from_anndata(tmp_path / "cells.h5ad", layer=layer, batch="donor")
        assert data.is_lazy("x")
        fit = self.everything(data)
        assert 0 < most[0] <= self.AT_ONCE
        again = vaeppl.load(fit.save(tmp_path / "fit"))
        assert again.elbo().mean == pytest.approx(fit.elbo(data).mean)  # it knows its file

    def test_a_backed_anndata(self, cells, tmp_path):
        cells.write_h5ad(tmp_path / "cells.h5ad")
        backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        data = from_anndata(backed, batch="donor")
        assert type(data._columns["x"].store).__name__ == "_CSRDataset"
        fit = self.everything(data, backed)
        order = list(reversed(cells.var_names))
        other = cells[:, order].copy()
        other.write_h5ad(tmp_path / "other.h5ad")
        there = anndata.read_h5ad(tmp_path / "other.h5ad", backed="r")
        turned = from_anndata(there, like=fit)
        assert type(turned._columns["x"].store).__name__ == "_SomeGenes"
        rows = [5, 1, 2000]
        assert np.allclose(turned.take(rows)["x"], cells.X[rows].toarray())

    def test_columns_compressed_on_disk_are_refused(self, cells, tmp_path):
        cells.X = cells.X.tocsc()
        cells.write_h5ad(tmp_path / "cells.h5ad")
        with pytest.raises(DataError, match=r"compressed by columns.*tocsr"):
            from_anndata(tmp_path / "cells.h5ad", batch="donor")
        assert from_anndata(cells).is_lazy("x")

    def test_the_layer_of_a_file_that_holds_counts_is_named(self, cells, tmp_path):
        cells.layers["raw"] = cells.X.copy()
        cells.X = np.log1p(cells.X)
        cells.write_h5ad(tmp_path / "cells.h5ad")
        with pytest.raises(ColumnError, match="layer 'raw' looks like counts"):
            from_anndata(tmp_path / "cells.h5ad")
