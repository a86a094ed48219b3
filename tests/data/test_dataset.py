"""Facts about `Data`: what goes in comes out, and bad input is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaeppl.data import Data, DataError, Field, SplitError

small = settings(max_examples=40, deadline=None)


@st.composite
def rows_and_index(draw):
    """Number of rows, and some row numbers, negative ones and repeats included."""
    n = draw(st.integers(1, 12))
    return n, draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=20))


@small
@given(rows_and_index(), st.integers(0, 2**31 - 1))
def test_take_is_indexing(case, seed):
    n, index = case
    x = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    y = np.arange(n)
    batch = Data({"x": x, "y": y}).take(index)
    assert np.array_equal(batch["x"].numpy(), x[index])
    assert batch["y"].tolist() == y[index].tolist()


@small
@given(rows_and_index(), st.data())
def test_select_composes_like_indexing(case, more):
    n, first = case
    k = len(first)
    second = more.draw(st.lists(st.integers(-k, k - 1), min_size=1, max_size=9))
    data = Data({"y": np.arange(n)})
    twice = data.select(first).select(second)
    assert twice["y"].tolist() == np.arange(n)[first][second].tolist()


@small
@given(st.integers(3, 60), st.integers(0, 1), st.integers(0, 1), st.integers(0, 99))
def test_split_is_a_partition_fixed_by_the_seed(n, n_valid, n_test, seed):
    data = Data({"y": np.arange(n)})
    split = data.split(valid=n_valid, test=n_test, seed=seed)
    parts = [split.splits[name].tolist() for name in split.splits]
    assert sorted(row for part in parts for row in part) == list(range(n))
    assert split.has_split("valid") == bool(n_valid) and split.has_split("test") == bool(n_test)
    again = data.split(valid=n_valid, test=n_test, seed=seed)
    assert [again.splits[name].tolist() for name in again.splits] == parts


def test_split_of_a_seed_never_changes():
    # If this fails, published splits (frey_faces among them) have changed.
    split = Data({"y": np.arange(10)}).split(valid=2, test=2, seed=0)
    assert split.splits["valid"].tolist() == [2, 8]
    assert split.splits["test"].tolist() == [4, 9]


def test_split_by_fraction_and_count():
    split = Data({"y": np.arange(50)}).split(valid=0.1, test=7)
    assert (len(split.train), len(split.valid), len(split.test)) == (38, 5, 7)
    assert split.train.name == "data.train"
    assert split.train["y"].tolist() == split.splits["train"].tolist()


@pytest.mark.parametrize("sizes", [(0.6, 0.5), (1.0, 0.1), (-1, 0.1), (True, 0), (5, 5), (-0.1, 0)])
def test_impossible_splits(sizes):
    with pytest.raises(DataError, match="valid"):
        Data({"y": np.arange(10)}).split(valid=sizes[0], test=sizes[1])


def test_train_of_unsplit_data_is_the_data_and_others_are_missing():
    data = Data({"y": [1, 2]})
    assert data.train is data
    assert not hasattr(data, "valid")
    with pytest.raises(SplitError, match=r"was never split.*split\(valid"):
        _ = data.test


def test_train_is_read_once_and_a_run_of_rows_shares_memory():
    x = torch.randn(10, 2)
    data = Data({"x": x}, splits={"train": np.arange(2, 9), "test": [0, 1, 9]})
    assert data.train is data.train
    assert data.train["x"].data_ptr() == x[2].data_ptr()
    assert torch.equal(data.test["x"], x[[0, 1, 9]])


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.zeros(3, np.uint8), torch.int64),
        (np.zeros(3, bool), torch.int64),
        (np.zeros((3, 2), bool), torch.float32),
        (np.zeros((3, 2), np.int16), torch.float32),
        (np.zeros((3, 2), np.uint16), torch.float32),
        (np.zeros(3, np.uint64), torch.int64),
        (np.zeros((3, 2), ">f8"), torch.float32),
        (np.zeros((3, 2), np.float16), torch.float32),
        (torch.zeros(3, dtype=torch.bfloat16), torch.float32),
        ([0, 1, 2], torch.int64),
        ([0.5, 1, 2], torch.float32),
        (np.array([1, 2.5, 3], dtype=object), torch.float32),
    ],
)
def test_types_that_a_model_sees(values, dtype):
    data = Data({"x": values})
    assert data["x"].dtype == dtype
    assert data.take([0])["x"].dtype == dtype


def test_bytes_stay_bytes_in_memory_and_scale_gives_the_unit_interval():
    data = Data({"x": np.array([[0, 255], [51, 102]], np.uint8)}, scale={"x": 255})
    assert data._columns["x"].store.dtype == torch.uint8
    assert torch.allclose(data["x"], torch.tensor([[0.0, 1.0], [0.2, 0.4]]))
    assert data["x"].max() == 1 and data.kind("x") == "unit"


def test_float64_on_demand():
    x = np.array([[1 / 3], [2 / 3]])
    assert Data({"x": x})["x"].dtype == torch.float32
    data = Data({"x": x, "n": np.array([[1], [2]])}, dtype=torch.float64)
    assert data["x"].numpy().tolist() == x.tolist()
    assert data.take([1])["n"].dtype == torch.float64
    assert data.to(dtype=torch.float32)["x"].dtype == torch.float32


def test_plain_columns_are_not_copied():
    x = torch.randn(4, 2)
    assert Data({"x": x})["x"].data_ptr() == x.data_ptr()


def test_masks_slices_and_arrays_are_rows():
    data = Data({"y": np.arange(5)})
    for index in (slice(None, None, -2), np.array([4, 2, 0]), torch.tensor([4, 2, 0]), (4, -3, 0)):
        assert data.take(index)["y"].tolist() == [4, 2, 0]
    assert data.select(np.arange(5) > 2)["y"].tolist() == [3, 4]
    assert data.take([])["y"].shape == (0,)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ([5], "no row 5"),
        ([-6], "no row -6"),
        ([True], "mask has 1 entries"),
        ([[0]], "1-D"),
        (0, "1-D"),
        ([0.5], "integers or booleans"),
        (["a"], "integers or booleans"),
    ],
)
def test_rows_that_do_not_exist(index, words):
    with pytest.raises(DataError, match=words):
        Data({"y": np.arange(5)}).take(index)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, "without a column"),
        ({"x": []}, "without a row"),
        ({"x": [1, 2], "y": [1]}, "'x' has 2, 'y' has 1"),
        ({"x": 3.0}, "single number"),
        ({"x": np.zeros((2, 0))}, "no component"),
        ({"x": ["a", "b"]}, "'a' at row 0.*from_frame"),
        ({"x": np.array([1.0, "b"], dtype=object)}, "'b' at row 1"),
        ({"x": [[1.0], [None]]}, "None at row 1.*NaN"),
        ({"x": [[1.0], [1.0, 2.0]]}, "rectangular"),
        ({"x": np.zeros(2, complex)}, "complex"),
        ({"x": torch.zeros(2, dtype=torch.complex64)}, "complex"),
        ({"x": np.array(["2020-01-01"], "M8[D]")}, "dates"),
        ({"x": torch.eye(2).to_sparse()}, "sparse torch"),
        ({"": [1]}, "non-empty string"),
        ({3: [1]}, "non-empty string"),
        ([1, 2], "mapping"),
    ],
)
def test_bad_columns(columns, words):
    with pytest.raises(DataError, match=words):
        Data(columns)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fields": {"z": []}}, "fields names column 'z'"),
        ({"fields": {"x": [Field("a", "real")] * 3}}, "2 components but 3 fields"),
        ({"field_names": {"x": ["a"]}}, "2 components but 1 names"),
        ({"image_shape": {"x": (2, 2)}}, "no image"),
        ({"splits": {"train": [7]}}, "split 'train'.*no row 7"),
        ({"dtype": torch.int64}, "floating type"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(DataError, match=words):
        Data({"x": np.zeros((3, 2))}, **options)


def test_bad_kind():
    with pytest.raises(DataError, match="'colour'"):
        Field("a", "colour")


def test_unknown_columns_are_met_with_the_nearest():
    data = Data({"angle": [1.0]})
    for ask in (lambda: data["angel"], lambda: data.kind("angel"), lambda: data.columns("angel")):
        with pytest.raises(DataError, match="did you mean 'angle'"):
            ask()


def test_columns_by_name():
    data = Data({"x": [[1.0], [2.0]], "y": [0, 1]}).split(valid=0, test=1)
    assert list(data) == ["x", "y"] and "x" in data and "z" not in data
    assert data.columns("y").keys() == ("y",)
    renamed = data.rename({"x": "u"}).with_column("w", [5, 6])
    assert renamed.keys() == ("u", "y", "w") and renamed.has_split("train")
    assert dict(renamed.items())["w"].tolist() == [5, 6]
    with pytest.raises(DataError, match="one name"):
        data.rename({"x": "y"})
    with pytest.raises(DataError, match="'w' has 3"):
        data.with_column("w", [1, 2, 3])


def test_transform_reaches_every_reading_but_not_the_store():
    x = torch.tensor([[1.0], [4.0], [9.0]])
    data = Data({"x": x}).transform("x", lambda batch, generator: batch.sqrt()).split(0, 1)
    assert data["x"].flatten().tolist() == [1, 2, 3]
    assert data.take([2])["x"].item() == 3
    assert torch.equal(data.train["x"], x[data.splits["train"]].sqrt())
    assert x.flatten().tolist() == [1, 4, 9]


@pytest.mark.parametrize(
    ("fn", "words"),
    [(lambda b, g: b.sum(), "keep the shape"), (lambda b, g: 3, "returned int")],
)
def test_bad_transforms(fn, words):
    with pytest.raises(DataError, match=words):
        Data({"x": [[1.0, 2.0]]}).transform("x", fn)


def test_dynamic_binarisation_has_the_intensities_as_means():
    p = torch.tensor([[0.0, 0.2, 0.5, 0.9, 1.0]])
    data = Data({"x": p.expand(20_000, 5).clone()}).binarize()
    x = data.take(slice(None), generator=torch.Generator().manual_seed(1))["x"]
    assert set(x.unique().tolist()) <= {0.0, 1.0}
    # Five standard errors of a mean of 20,000 Bernoulli draws are below 0.018.
    assert torch.allclose(x.mean(0), p[0], atol=0.018)
    assert data.kind("x") == "binary"


def test_dynamic_binarisation_is_anew_for_each_batch_and_fixed_by_the_generator():
    data = Data({"x": torch.full((50, 8), 0.5)}).binarize().split()
    draws = [
        data.train.take(range(9), generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    ]
    assert torch.equal(draws[0]["x"], draws[1]["x"])
    assert not torch.equal(draws[0]["x"], draws[2]["x"])


def test_static_binarisation_is_drawn_once():
    data = Data({"x": torch.full((50, 8), 0.5)})
    one, same, other = (data.binarize(how="static", seed=s) for s in (3, 3, 4))
    assert torch.equal(one["x"], same["x"]) and not torch.equal(one["x"], other["x"])
    assert torch.equal(one["x"], one["x"])
    assert one._columns["x"].store.dtype == torch.uint8
    assert torch.equal(one.select([4, 2])["x"], one["x"][[4, 2]])
    assert 0.3 < float(one["x"].mean()) < 0.7


def test_threshold_binarisation():
    data = Data({"x": [[0.5, 0.51], [0.0, 1.0]]}, image_shape={"x": (1, 2)})
    binary = data.binarize(how="threshold")
    assert binary["x"].tolist() == [[0, 1], [0, 1]]
    assert binary.image_shape == {"x": (1, 2)}


@pytest.mark.parametrize("how", ["dynamic", "static", "threshold"])
def test_binarisation_keeps_missing_values(how):
    x = Data({"x": [[float("nan"), 1.0], [0.0, 0.0]]}).binarize(how=how)["x"]
    assert x.isnan().tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("how", ["dynamic", "static", "threshold"])
def test_zeros_and_ones_are_certain(how):
    data = Data({"x": [[0.0, 1.0]], "y": [1]}, scale={"x": 1})
    assert data.binarize("y", how)["y"].tolist() == [1]
    assert data.binarize("x", how)["x"].tolist() == [[0, 1]]


def test_scaling_leaves_the_store_alone():
    x = torch.tensor([[2.0], [4.0]])
    data = Data({"x": x}, scale={"x": 2})
    for _ in range(2):
        assert data["x"].flatten().tolist() == data.take([0, 1])["x"].flatten().tolist() == [1, 2]
    assert x.flatten().tolist() == [2, 4]


def test_binarisation_needs_the_unit_interval():
    with pytest.raises(DataError, match=r"holds 3.*scale"):
        Data({"x": [[0.0, 3.0]]}).binarize()
    with pytest.raises(DataError, match="did you mean 'dynamic'"):
        Data({"x": [[0.0]]}).binarize(how="dynamical")


def test_first_nonfinite_tells_where():
    x = np.zeros((4, 3))
    assert Data({"x": x}).first_nonfinite("x") is None
    x[2, 1], x[3, 0] = np.inf, np.nan
    assert Data({"x": x}).first_nonfinite("x") == (2, 1, float("inf"))
    assert Data({"y": [1, 2]}).first_nonfinite("y") is None


def test_fingerprint_tells_data_apart():
    x = np.arange(12.0).reshape(6, 2)
    base = Data({"x": x}).fingerprint()
    assert base == Data({"x": torch.tensor(x, dtype=torch.float32)}, name="b").fingerprint()
    changed = x.copy()
    changed[3, 1] += 1e-3
    others = [
        Data({"x": changed}),
        Data({"z": x}),
        Data({"x": x[:5]}),
        Data({"x": x.astype(int)}),
        Data({"x": x}, scale={"x": 2}),
        Data({"x": x / 11}).binarize(),
    ]
    assert len({base, *(o.fingerprint() for o in others)}) == 7


def test_reports_name_every_column():
    levels = (Field("y", "categorical", ("<a>", "b")),)
    data = Data(
        {"x": [[0.1, np.nan], [3.0, 4.0]], "y": [0, 1]}, fields={"y": levels}, name="toy"
    ).split(0, 1)
    table = data.describe().set_index("column")
    assert table.loc["x", "missing"] == 1 and table.loc["x", "kind"] == "positive"
    assert (table.loc["x", "min"], table.loc["x", "max"]) == (pytest.approx(0.1), 4)
    assert table.loc["y", "dtype"] == "int64" and table.loc["y", "shape"] == ()
    text = repr(data)
    assert "'toy': 2 rows (train 1, test 1)" in text and "2 levels" in text
    assert "<a>" not in data._repr_html_() and "toy" in data._repr_html_()
    assert data.levels("y") == ("<a>", "b") and data.levels("x") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_values_and_draws_are_there():
    data = Data({"x": torch.rand(20, 3), "y": np.arange(20)}).binarize()
    for there in (data.to("cuda"), data):
        batch = there.take([3, 1], "cuda", torch.Generator().manual_seed(0))
        assert batch["x"].is_cuda and batch["y"].tolist() == [3, 1]
    assert data.to("cuda").split().train.take([0])["x"].is_cuda
