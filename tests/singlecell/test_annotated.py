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
    with pytest.raises(ColumnError, match=r"holds 'd' at row 3.*not fitted.*'a', 'b', 'c'"):
        from_anndata(annotated(donor=list("abcd" * 3)), batch="donor", like=fitted)


def test_normalised_values_and_the_layer_that_holds_counts():
    logged = annotated(np.log1p)
    message = r"adata.X: .*look normalised and logged.*layer 'raw' looks like counts.*layer='raw'"
    with pytest.raises(ColumnError, match=message):
        from_anndata(logged)
    assert len(from_anndata(logged, layer="raw")) == 12
    del logged.layers["raw"]
    with pytest.raises(ColumnError, match="no layer looks like counts"):
        from_anndata(logged)
    logged.raw = annotated()
    with pytest.raises(ColumnError, match=r"pass adata.raw.to_adata\(\)"):
        from_anndata(logged)
    cells = annotated()
    cells.layers["scaled"] = cells.layers["raw"] - 2.0
    with pytest.raises(ColumnError, match=r"layer 'scaled': .*scaled or centred.*adata.X looks"):
        from_anndata(cells, layer="scaled")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"batch": "donr"}, DataError, "adata.obs has no column 'donr'; it has 'donor', 'sex'"),
        ({"categorical": ["sx"]}, DataError, "no column 'sx'"),
        ({"continuous": ["ag"]}, DataError, "no column 'ag'"),
        ({"labels": "type"}, DataError, "no column 'type'"),
        ({"layer": "counts"}, DataError, "no layer 'counts'"),
        ({"continuous": ["sex"]}, ColumnError, r"holds no numbers: pass it as categorical"),
        ({"batch": "cell_type"}, ColumnError, "is missing at row 3: drop the cell"),
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
