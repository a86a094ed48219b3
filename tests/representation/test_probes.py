"""Linear probes and label efficiency: limits that are known, and which rows they learn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vaeppl.errors import ColumnError
from vaeppl.representation import label_efficiency, linear_probe

NOISE = np.random.default_rng(0).standard_normal((300, 3))
LABELS = np.arange(300) % 3
CLOUDS = NOISE + 6 * np.eye(3)[LABELS]


class Recorder:
    """A classifier that keeps what it was trained on, and always says the first class."""

    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def __init__(self, seed):
        self.seed = seed

    def fit(self, features, labels):
        type(self).seen.append((features, labels))
        self.classes = len(np.unique(labels))
        return self

    def predict_proba(self, features):
        return np.eye(self.classes)[np.zeros(len(features), dtype=int)]


@pytest.fixture
def recorder():
    Recorder.seen = []
    return Recorder


def test_classes_that_lie_apart_are_read_and_noise_is_not():
    assert float(linear_probe(CLOUDS, LABELS)) == 1
    assert float(linear_probe(NOISE, LABELS, repeats=5)) == pytest.approx(1 / 3, abs=0.1)


def test_classes_around_others_need_more_than_a_line():
    from sklearn.neighbors import KNeighborsClassifier

    angle = np.linspace(0, 2 * np.pi, 300)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1) * np.where(LABELS == 0, 1, 3)[:, None]
    assert float(linear_probe(ring, LABELS == 0)) < 0.75
    near = linear_probe(ring, LABELS == 0, classifier=lambda seed: KNeighborsClassifier(1))
    assert float(near) > 0.95


def test_constant_codes_score_the_commonest_label():
    labels = (np.arange(300) % 4 == 0).astype(int)
    assert float(linear_probe(np.ones((300, 2)), labels)) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("standardise", [False, True])
def test_order_sign_common_scale_and_shift_do_not_matter(standardise):
    codes = NOISE + np.eye(3)[LABELS]
    other = -1e-4 * codes[:, [2, 0, 1]] + 3
    first, second = (
        float(linear_probe(z, LABELS, standardise=standardise)) for z in (codes, other)
    )
    assert first == pytest.approx(second, abs=0.03)


def test_codes_of_small_variance_are_seen_once_standardised(recorder):
    codes = CLOUDS * [1, 1, 1e-3]
    linear_probe(codes, LABELS, test_share=0, classifier=recorder)
    linear_probe(codes, LABELS, test_share=0, classifier=recorder, standardise=True)
    (common, _), (own, _) = recorder.seen
    assert own.std(0) == pytest.approx(1) and common.std(0)[2] < 1e-2
    assert np.square(common.std(0)).mean() == pytest.approx(1)


def test_rows_without_a_label_are_left_out():
    hidden = np.where(np.arange(300) < 150, LABELS, -1)
    score = linear_probe(CLOUDS, hidden)
    assert score.settings["rows"] == 150 and float(score) == 1
    assert float(linear_probe(CLOUDS, np.where(hidden < 0, np.nan, hidden))) == 1
    assert float(linear_probe(torch.tensor(CLOUDS), torch.tensor(LABELS))) == 1


def test_repeats_hold_out_other_rows_and_are_fixed_by_the_seed(recorder):
    score = linear_probe(NOISE, LABELS, repeats=3, seed=5)
    assert score.parts.index.tolist() == [5, 6, 7]
    assert float(score) == pytest.approx(score.parts.mean())
    again = linear_probe(NOISE, LABELS, repeats=3, seed=5)
    assert score.parts.equals(again.parts)


def test_labels_are_drawn_evenly_and_the_few_are_among_the_many(recorder):
    codes = np.arange(300.0)[:, None]
    table = label_efficiency(
        codes, LABELS, [4, 9, 31], repeats=2, classifier=recorder, test_share=0.5
    )
    assert table["labels"].tolist() == [4, 9, 31] and table["test_rows"].unique() == [150]
    for first in (0, 3):
        counts = [np.bincount(y) for _, y in recorder.seen[first : first + 3]]
        assert [sorted(c) for c in counts] == [[1, 1, 2], [3, 3, 3], [10, 10, 11]]
        sets = [set(x[:, 0]) for x, _ in recorder.seen[first : first + 3]]
        assert sets[0] < sets[1] < sets[2]
    assert recorder.seen[0][0].tolist() != recorder.seen[3][0].tolist()


def test_more_labels_tell_more_and_the_band_holds_the_mean():
    codes = NOISE + 1.5 * np.eye(3)[LABELS]
    table = label_efficiency(codes, LABELS, repeats=4)
    assert table["labels"].tolist() == [3, 6, 15, 30, 60, 150]  # 1, 2, 5, ... of 75 of each class
    assert table["accuracy"].iloc[-1] > table["accuracy"].iloc[0] + 0.05
    assert ((table["low"] <= table["accuracy"]) & (table["accuracy"] <= table["high"])).all()
    assert table["level"].unique() == [0.9]
    assert table.equals(label_efficiency(codes, LABELS, repeats=4))


def test_bad_input():
    with pytest.raises(ColumnError, match="no labels were given"):
        linear_probe(CLOUDS, None)
    with pytest.raises(ColumnError, match="no row has a label"):
        linear_probe(CLOUDS, np.full(300, -1))
    with pytest.raises(ColumnError, match="all labels are 2; two classes"):
        linear_probe(CLOUDS, np.full(300, 2))
    with pytest.raises(ColumnError, match="300 rows of latents, but 10 labels"):
        linear_probe(CLOUDS, LABELS[:10])
    with pytest.raises(ColumnError, match="are no numbers; number them first"):
        linear_probe(CLOUDS, LABELS.astype(str))
    with pytest.raises(ColumnError, match="hold nan at row 7"):
        linear_probe(np.where(np.arange(300)[:, None] == 7, np.nan, CLOUDS), LABELS)
    with pytest.raises(ValueError, match="repeats is at least 1"):
        linear_probe(CLOUDS, LABELS, repeats=0)
    with pytest.raises(ColumnError, match="2 labels are fewer than the 3 classes"):
        label_efficiency(CLOUDS, LABELS, [2])
    with pytest.raises(ColumnError, match=r"take 100 of each class, .* ask for 225 at most"):
        label_efficiency(CLOUDS, LABELS, [300])
