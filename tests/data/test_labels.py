"""Facts about few labels: how many are left, where, and that a seed means the same ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vaeppl
from vaeppl.data import Data, DataError, Field, SplitError, from_origin
from vaeppl.data.labels import label_codes
from vaeppl.models import VAE


def labelled(num_classes, rows_a_class, seed=0):
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(num_classes), rows_a_class))
    return Data({"x": np.arange(len(y))[:, None] / 1.0, "y": y})


def counts(data):
    """Labels left of each class."""
    y = data["y"]
    return torch.bincount(y[y >= 0]).tolist()


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 5), st.integers(0, 99))
def test_each_class_keeps_as_many_labels_and_every_label_is_true(k, per_class, spare, seed):
    data = labelled(k, per_class + spare, seed)
    few = data.few_labels(per_class=per_class, seed=seed)
    assert few["y"].dtype == torch.int64
    assert counts(few) == [per_class] * k
    kept = few["y"] >= 0
    assert torch.equal(few["y"][kept], data["y"][kept])
    assert (few["y"][~kept] == -1).all()
    assert torch.equal(few["x"], data["x"])
    assert torch.equal(data.few_labels(per_class=per_class, seed=seed)["y"], few["y"])


@given(st.integers(1, 7), st.integers(0, 20), st.integers(0, 9))
def test_a_total_is_spread_as_evenly_as_can_be(k, more, seed):
    left = counts(labelled(k, 30).few_labels(total=k + more, seed=seed))
    assert sum(left) == k + more and max(left) - min(left) <= 1


def test_fewer_labels_are_among_more_and_other_seeds_give_others():
    data = labelled(3, 20)
    two, nine = (data.few_labels(per_class=n, seed=4)["y"] >= 0 for n in (2, 9))
    assert (nine | ~two).all()
    assert not torch.equal(data.few_labels(per_class=9, seed=5)["y"] >= 0, nine)


def test_rows_of_a_seed_never_change():
    # If this fails, published results with few labels have changed.
    kept = labelled(2, 6).few_labels(per_class=2, seed=0)["y"] >= 0
    assert kept.nonzero().squeeze(1).tolist() == [2, 4, 8, 11]


def test_every_row_is_as_likely_to_keep_its_label():
    data = Data({"y": [0, 0, 0, 0, 1, 1]})
    kept = [(data.few_labels(per_class=1, seed=s)["y"] >= 0).double() for s in range(2000)]
    share = torch.stack(kept).mean(0)
    assert torch.allclose(share, torch.tensor([0.25] * 4 + [0.5] * 2).double(), atol=0.04)


def test_only_the_train_part_loses_labels():
    data = labelled(3, 20).split(valid=10, test=12, seed=1)
    few = data.few_labels(per_class=2)
    assert counts(few.train) == [2, 2, 2]
    for part in ("valid", "test"):
        assert torch.equal(getattr(few, part)["y"], getattr(data, part)["y"])
    odd = Data({"y": [0, 1]}, splits={"test": [1]})
    with pytest.raises(SplitError, match="no 'train' split"):
        odd.few_labels(per_class=1)


@pytest.mark.parametrize(
    "hidden", [np.array([0, 1, -1, 0, 1, -1]), np.array([0, 1, np.nan, 0, 1, -1.0])]
)
def test_hidden_labels_stay_hidden(hidden):
    few = Data({"y": hidden}).few_labels(per_class=2)
    assert few["y"].tolist() == [0, 1, -1, 0, 1, -1]


def test_lazy_columns_and_columns_of_one_entry(tmp_path):
    y = np.arange(40, dtype=np.uint8) % 4
    np.save(tmp_path / "y.npy", y)
    mapped = Data({"y": np.load(tmp_path / "y.npy", mmap_mode="r"), "x": np.zeros((40, 2))})
    assert mapped.is_lazy("y")
    from_disk = mapped.few_labels(per_class=3, seed=2)["y"]
    assert torch.equal(from_disk, Data({"y": y}).few_labels(per_class=3, seed=2)["y"])
    some = mapped.select(np.arange(20, 40)).few_labels(per_class=5)
    assert torch.equal(some["y"], torch.from_numpy(y[20:].astype(np.int64)))
    one_entry = Data({"y": y[:, None].astype(float)}).few_labels(per_class=3, seed=2)
    assert torch.equal(one_entry["y"], from_disk)


def test_the_column_keeps_its_names_and_is_categorical():
    levels = (Field("y", "categorical", ("no", "yes")),)
    named = Data({"y": [0, 1, 1]}, fields={"y": levels}).few_labels(per_class=1)
    assert named.levels("y") == ("no", "yes")
    assert Data({"y": [0, 1, 1]}).few_labels(per_class=1).kind("y") == "categorical"


# --- had again ---


def test_data_can_be_had_again_in_whatever_order_the_steps_were_taken():
    digits = vaeppl.data.load("digits")
    few, split = {"per_class": 5, "seed": 3}, {"valid": 0.2, "test": 0.2, "seed": 1}
    for data in (
        digits.few_labels(**few),
        digits.split(**split).few_labels(**few),
        digits.few_labels(**few).split(**split),
        digits.few_labels(per_class=50).few_labels(total=73, seed=9),
        digits.split(**split).few_labels(**few).split(test=0.5, valid=0.1),
    ):
        again = from_origin(json.loads(json.dumps(data.origin)))
        assert torch.equal(again["y"], data["y"])
        assert again.splits.keys() == data.splits.keys()
        assert all(torch.equal(again.splits[k], data.splits[k]) for k in data.splits)
    assert labelled(2, 5).few_labels(per_class=1).origin is None


def test_a_loaded_fit_reads_its_few_labels_again(tmp_path):
    digits = vaeppl.data.load("digits").split(seed=1).few_labels(per_class=4, seed=2)
    fit = vaeppl.fit(
        VAE(64, 2, likelihood="poisson", hidden=(8,)), digits, epochs=1, progress=False
    )
    again = vaeppl.load(fit.save(tmp_path))
    assert torch.equal(again._rows(None)["y"], digits.train["y"])


# --- bad input ---


@pytest.mark.parametrize(
    ("y", "options", "words"),
    [
        ([0, 1], {"column": "label", "per_class": 1}, r"no column 'label'.*there are: 'y'"),
        ([0.5, 1.0], {"per_class": 1}, r"column 'y' has 0.5 at row 0; labels are whole numbers"),
        ([0, -2], {"per_class": 1}, "has -2 at row 1"),
        ([0.0, np.inf], {"per_class": 1}, "has inf at row 1"),
        ([[0, 1], [1, 0]], {"per_class": 1}, r"shape \(2,\) a row.*one label a row"),
        ([0, 0, 2, 2], {"per_class": 2}, "class 1 of column 'y' has 0 labelled rows, but 2"),
        ([0, 0, 1], {"per_class": 2}, "class 1 of column 'y' has 1 labelled rows, but 2"),
        ([-1, -1], {"per_class": 1}, "no label left"),
        ([0, 1], {}, "one of per_class .* and total"),
        ([0, 1], {"per_class": 1, "total": 2}, "one of per_class .* and total"),
        ([0, 1], {"per_class": 0}, "per_class=0; expected a whole number, at least 1"),
        ([0, 1], {"per_class": 1.0}, "per_class=1.0"),
        ([0, 1, 2], {"total": 2}, r"at least 3, as many as there are classes \(3\)"),
    ],
)
def test_bad_input_is_named(y, options, words):
    with pytest.raises(DataError, match=words):
        Data({"y": np.array(y)}).few_labels(**options)


def test_codes_of_every_form_are_the_same():
    codes = torch.tensor([2, -1, 0])
    indicators = torch.tensor([[0, 0, 1.0], [torch.nan] * 3, [1.0, 0, 0]])
    for form in (codes, codes.float(), codes[:, None], torch.tensor([2, torch.nan, 0]), indicators):
        assert torch.equal(label_codes(form), codes)
    with pytest.raises(DataError, match=r"shape \(3,\) a row; labels are one number a row"):
        label_codes(torch.ones(2, 3))
