"""Tables, AnnData and files become the same columns that a statistician would write by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vaeppl.data import Data, DataError, Field, as_data, from_anndata, from_frame

pd = pytest.importorskip("pandas")

TABLE = pd.DataFrame(
    {
        "length": [1.5, np.nan, 3.0],
        "rings": [4, 5, 6],
        "sex": ["m", None, "f"],
        "size": pd.Categorical(["S", "L", "S"], categories=["S", "M", "L"], ordered=True),
        "alive": [True, False, True],
        "parity": pd.array([1, None, 0], dtype="Int64"),
        "mixed": np.array([1, None, 2.5], dtype=object),
        "answer": np.array([True, None, False], dtype=object),
        "void": np.array([None] * 3, dtype=object),
        "when": pd.to_datetime(["2020-01-01"] * 3),
        "odd": [{}, {}, {}],
    }
)
NAN = float("nan")


@pytest.mark.parametrize(
    ("column", "values", "field"),
    [
        ("length", [1.5, NAN, 3.0], Field("length", "positive")),
        ("rings", [4, 5, 6], Field("rings", "count")),
        ("sex", [1, NAN, 0], Field("sex", "categorical", ("f", "m"))),
        ("size", [0, 2, 0], Field("size", "categorical", ("S", "M", "L"))),
        ("alive", [1, 0, 1], Field("alive", "binary")),
        ("parity", [1, NAN, 0], Field("parity", "binary")),
        ("mixed", [1, NAN, 2.5], Field("mixed", "positive")),
        ("answer", [1, NAN, 0], Field("answer", "binary")),
        ("void", [NAN, NAN, NAN], Field("void", "real")),
    ],
)
def test_columns_of_a_table(column, values, field):
    data = from_frame(TABLE, {"x": column})
    assert data.shape("x") == ()
    np.testing.assert_array_equal(data["x"].numpy(), values)
    assert data.fields("x") == (field,)
    assert data["x"].dtype == (torch.float32 if NAN in values else torch.int64)


def test_several_columns_make_one_of_many_fields():
    data = from_frame(TABLE, {"x": ["length", "sex"], "y": "rings", "z": ["rings"]})
    np.testing.assert_array_equal(data["x"].numpy(), [[1.5, 1], [NAN, NAN], [3, 0]])
    assert data.kind("x") == "mixed" and [f.name for f in data.fields("x")] == ["length", "sex"]
    assert data.shape("y") == () and data.shape("z") == (1,)


def test_all_columns_by_default_and_double_precision_on_demand():
    table = pd.DataFrame({"a": [1 / 3, 0.1], "b": [2.0, -3.0]})
    assert from_frame(table).shape("x") == (2,)
    exact = as_data(table, dtype=torch.float64)["x"]
    assert exact.numpy().tolist() == table.to_numpy().tolist()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"x": "lenght"}, "did you mean 'length'"),
        ({"x": ["when"]}, "holds dates"),
        ({"x": "odd"}, "holds {} at row 0"),
        ({"x": []}, "no column of the table"),
        (["length"], "must map"),
    ],
)
def test_bad_columns_of_a_table(columns, words):
    with pytest.raises(DataError, match=words):
        from_frame(TABLE, columns)


def test_a_table_with_a_name_twice():
    with pytest.raises(DataError, match="several columns"):
        from_frame(pd.DataFrame([[1, 2]], columns=["a", "a"]), {"x": "a"})


def test_text_given_as_a_column_points_to_from_frame():
    with pytest.raises(DataError, match=r"'m' at row 0.*from_frame"):
        Data({"x": TABLE["sex"]})


@pytest.fixture
def cells():
    anndata = pytest.importorskip("anndata")
    sparse = pytest.importorskip("scipy.sparse")
    counts = np.array([[0, 3], [1, 0], [5, 2]], dtype=np.float32)
    adata = anndata.AnnData(np.log1p(counts), layers={"counts": sparse.csr_matrix(counts)})
    adata.var_names = ["Npy", "Sst"]
    adata.obs["type"] = pd.Categorical(["a", "b", "a"])
    adata.obs["age"] = [1.5, 2.5, 3.5]
    return adata


def test_anndata(cells):
    data = from_anndata(cells, "counts", obs={"y": "type", "age": "age"})
    assert data.is_lazy("x") and data.take([2])["x"].tolist() == [[5, 2]]
    assert data.fields("x") == (Field("Npy", "count"), Field("Sst", "count"))
    assert data["y"].tolist() == [0, 1, 0] and data.levels("y") == ("a", "b")
    assert data["age"].tolist() == [1.5, 2.5, 3.5]
    assert from_anndata(cells).kind("x") == "real" and list(as_data(cells)) == ["x"]


def test_bad_anndata(cells):
    with pytest.raises(DataError, match="did you mean 'counts'"):
        from_anndata(cells, "count")
    with pytest.raises(DataError, match="no column 'tipe'"):
        from_anndata(cells, obs={"y": "tipe"})
    del cells.X
    with pytest.raises(DataError, match="no X"):
        from_anndata(cells)


@pytest.mark.parametrize("backed", [False, True])
def test_h5ad(cells, tmp_path, backed):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    data = as_data(tmp_path / "cells.h5ad", obs={"y": "type"}, backed=backed)
    assert data.name == "cells" and data.is_lazy("x") == backed
    assert torch.equal(data.take([2, 0])["x"], torch.tensor(cells.X[[2, 0]]))


def test_npz(tmp_path):
    np.savez(tmp_path / "set.npz", a=np.eye(3), names=np.array(["u", "v"]))
    data = as_data(tmp_path / "set.npz", columns={"x": "a"})
    assert data.name == "set" and torch.equal(data["x"], torch.eye(3))
    with pytest.raises(DataError, match="there is no column 'b'"):
        as_data(tmp_path / "set.npz", columns=["b"])
    with pytest.raises(DataError, match="'u' at row 0"):
        as_data(str(tmp_path / "set.npz"))


def test_npz_with_pickles_is_refused(tmp_path):
    np.savez(tmp_path / "set.npz", a=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"set.npz.*allow_pickle"):
        as_data(tmp_path / "set.npz")


def test_csv_and_tsv(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,u\n2,v\n")
    (tmp_path / "t.tsv").write_text("1\tu\n2\tv\n")
    data = as_data(tmp_path / "t.csv", columns={"x": "a", "y": "b"})
    assert data["x"].tolist() == [1, 2] and data.levels("y") == ("u", "v")
    assert as_data(tmp_path / "t.tsv", columns={"x": "0"}, header=None)["x"].tolist() == [1, 2]


@pytest.mark.parametrize("suffix", ["npz", "h5ad"])
@pytest.mark.parametrize("keep", [0, 40])
def test_files_cut_short_are_named(cells, tmp_path, suffix, keep):
    path = tmp_path / f"file.{suffix}"
    if suffix == "npz":
        np.savez(path, x=np.zeros((50, 3)))
    else:
        cells.write_h5ad(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * keep // 100])
    with pytest.raises(DataError, match=f"cannot read .*file.{suffix}"):
        as_data(path)


def test_an_empty_csv_is_named(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match=r"empty.csv"):
        as_data(tmp_path / "empty.csv")


def test_mappings_and_data():
    data = as_data({"a": [1, 2], "b": [3, 4]}, columns={"x": "b"})
    assert data.keys() == ("x",) and as_data(data) is data
    assert as_data(data, columns={"z": "x"}).keys() == ("z",)
    assert as_data("digits", columns="x").keys() == ("x",)
    assert as_data({"x": [0.1]}, dtype=torch.float64)["x"].dtype == torch.float64


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("digit", {}, "did you mean 'digits'.*'mnist'"),
        ("nowhere.npz", {}, "no file nowhere.npz"),
        (3, {}, "cannot make data of an int"),
        ({"x": [1]}, {"sep": ","}, "unknown options"),
        ({"x": [1]}, {"columns": ["y"]}, "no column 'y'"),
        ("digits", {"binarise": "static"}, "no option 'binarise'"),
    ],
)
def test_bad_sources(source, options, words):
    with pytest.raises(DataError, match=words):
        as_data(source, **options)


def test_a_file_of_unknown_kind(tmp_path):
    (tmp_path / "x.xlsx").write_text("")
    with pytest.raises(DataError, match="ending in"):
        as_data(tmp_path / "x.xlsx")
