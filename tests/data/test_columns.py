"""Columns that stay on disk or sparse give the same values as those in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaeppl.data import Data, DataError, minibatches
from vaeppl.data import columns as columns_module
from vaeppl.data.columns import LazyRows, deliver

N, D = 30, 4
DENSE = np.random.RandomState(0).poisson(0.7, size=(N, D)).astype(np.float32)


def _memmap(folder):
    np.save(folder / "x.npy", DENSE)
    return np.load(folder / "x.npy", mmap_mode="r")


def _hdf5(folder):
    h5py = pytest.importorskip("h5py")
    return h5py.File(folder / "x.h5", "w").create_dataset("x", data=DENSE)


def _csr(folder):
    return pytest.importorskip("scipy.sparse").csr_array(DENSE)


def _csc(folder):
    return pytest.importorskip("scipy.sparse").csc_matrix(DENSE.astype(np.uint16))


def _backed(folder, sparse):
    anndata = pytest.importorskip("anndata")
    matrix = _csr(folder) if sparse else DENSE
    anndata.AnnData(matrix).write_h5ad(folder / "x.h5ad")
    return anndata.read_h5ad(folder / "x.h5ad", backed="r").X


STORES = {
    "memmap": _memmap,
    "hdf5": _hdf5,
    "csr": _csr,
    "csc": _csc,
    "backed": lambda folder: _backed(folder, False),
    "backed sparse": lambda folder: _backed(folder, True),
}


@pytest.fixture(params=list(STORES), scope="module")
def store(request, tmp_path_factory):
    return STORES[request.param](tmp_path_factory.mktemp("stores"))


def test_lazy_columns_read_like_resident_ones(store):
    lazy, dense = Data({"x": store}), Data({"x": DENSE})
    assert lazy.is_lazy("x") and not dense.is_lazy("x")

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.integers(-N, N - 1), max_size=12), st.lists(st.integers(0, 9), min_size=1))
    def check(index, inner):
        assert torch.equal(lazy.take(index)["x"], dense.take(index)["x"])
        first = [3, 1, 1, 20, 4, 7, 8, 9, 2, 29]
        parts = [data.select(first).take(inner)["x"] for data in (lazy, dense)]
        assert torch.equal(*parts)

    check()


def test_lazy_columns_tell_the_same_facts(store, monkeypatch):
    # Small chunks, so that facts must be put together.
    monkeypatch.setattr(columns_module, "_CHUNK_VALUES", 7 * D)
    lazy, dense = Data({"x": store}).split(), Data({"x": DENSE}).split()
    assert lazy.kind("x") == dense.kind("x") == "count"
    assert lazy.first_nonfinite("x") is None
    facts = ["shape", "kind", "min", "max", "missing"]
    assert lazy.describe()[facts].equals(dense.describe()[facts])
    assert lazy.train.fields("x") == dense.train.fields("x")
    assert "read by batch" in repr(lazy)
    rows = torch.cat([batch.columns["x"] for batch in minibatches(lazy.train, 7, shuffle=False)])
    assert torch.equal(rows, dense.train["x"])


def test_a_part_of_a_lazy_column_is_a_view(store):
    part = Data({"x": store}).split().train
    assert isinstance(part["x"], LazyRows)
    assert part["x"].shape == (len(part), D) and len(part["x"]) == len(part)
    assert np.array_equal(part["x"][[2, 0]], part.take([2, 0])["x"].numpy())


def test_lazy_binarisation(store):
    binary = DENSE > 0
    for how in ("static", "threshold", "dynamic"):
        data = Data({"x": store}).transform("x", lambda b, g: b.clamp(0, 1)).binarize(how=how)
        assert np.array_equal(data.take(slice(None))["x"].numpy(), binary)


def test_lazy_nonfinite_value_is_found_beyond_the_first_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(columns_module, "_CHUNK_VALUES", 5 * D)
    values = DENSE.copy()
    values[21, 2] = np.nan
    np.save(tmp_path / "x.npy", values)
    data = Data({"x": np.load(tmp_path / "x.npy", mmap_mode="r")})
    row, component, value = data.first_nonfinite("x")
    assert (row, component) == (21, 2) and np.isnan(value)
    assert data.describe()["missing"].item() == 1


def test_lazy_text_is_refused():
    h5py = pytest.importorskip("h5py")
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        file["x"] = ["a", "b"]
        with pytest.raises(DataError, match="expected numbers"):
            Data({"x": file["x"]})


def test_labels_keep_integers_and_scaled_labels_do_not():
    labels = torch.tensor([1, 2], dtype=torch.uint8)
    assert deliver(labels, torch.float32).dtype == torch.int64
    assert Data({"y": labels}, scale={"y": 2})["y"].tolist() == [0.5, 1.0]


def test_read_only_and_reversed_arrays_are_welcome():
    x = np.arange(6.0).reshape(3, 2)[::-1]
    x.flags.writeable = False
    assert Data({"x": x})["x"].tolist() == x.tolist()
