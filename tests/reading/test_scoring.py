"""Scores of predicted labels against their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

import vaeppl
from vaeppl.errors import ColumnError


def some(n, k, seed):
    chance = np.random.default_rng(seed)
    return chance.dirichlet(np.full(k, 0.5), n), chance.integers(k, size=n)


@given(st.integers(2, 60), st.integers(2, 5), st.integers(0, 99))
def test_scores_are_those_of_scikit_learn(n, k, seed):
    p, y = some(n, k, seed)
    report = vaeppl.classification_report(p, y)
    assert report.error_percent == pytest.approx(100 * (1 - metrics.accuracy_score(y, p.argmax(1))))
    assert report.log_loss == pytest.approx(metrics.log_loss(y, p, labels=range(k)))
    assert report.brier == pytest.approx(((p - np.eye(k)[y]) ** 2).sum(1).mean())
    expected = metrics.confusion_matrix(y, p.argmax(1), labels=range(k))
    assert np.array_equal(report.confusion, expected)
    seen = 1 + max(*y, *p.argmax(1))
    assert np.array_equal(vaeppl.confusion(p.argmax(1), y), expected[:seen, :seen])


def test_the_error_has_its_binomial_standard_error():
    p = torch.tensor([[0.9, 0.1]] * 100)
    y = torch.cat([torch.zeros(80), torch.ones(20)])
    report = vaeppl.classification_report(p, y)
    assert report.error_percent == pytest.approx(20.0)
    assert report.error_percent_se == pytest.approx(100 * (0.2 * 0.8 / 100) ** 0.5)
    assert repr(report) == "error 20.0 ± 4.0 % (100 rows), log loss 0.54, ECE 0.10"


def test_a_probability_that_float32_rounds_to_zero_costs_a_finite_number_of_nats():
    sure = torch.tensor([[200.0, 0.0]]).softmax(-1)
    assert float(sure[0, 1]) == 0.0
    assert vaeppl.classification_report(sure, [1]).log_loss == pytest.approx(87.3, abs=0.1)


def test_labels_drawn_from_the_predictions_are_calibrated_and_sharpened_ones_are_not():
    p = np.random.default_rng(0).dirichlet([0.4] * 4, 50_000)
    y = (p.cumsum(1) < np.random.default_rng(1).random((50_000, 1))).sum(1)
    table = vaeppl.calibration(p, y)
    off = (table["accuracy"] - table["confidence"]).abs() / table["accuracy_se"]
    assert (off < 4).all() and vaeppl.calibration_error(p, y) < 0.01
    sharp = p**3 / (p**3).sum(1, keepdims=True)
    assert vaeppl.calibration_error(sharp, y) > 0.1
    report = vaeppl.classification_report(p, y)
    sharpened = vaeppl.classification_report(sharp, y)
    assert report.log_loss < sharpened.log_loss and report.brier < sharpened.brier  # proper scores


def test_bins_are_closed_above_and_empty_ones_are_left_out():
    p = np.array([[0.5, 0.5], [0.6, 0.4], [0.0, 1.0], [0.35, 0.65]])
    table = vaeppl.calibration(p, [0, 0, 1, 0], bins=10)
    assert table["lower"].tolist() == pytest.approx([0.4, 0.5, 0.6, 0.9])
    assert table["upper"].tolist() == pytest.approx([0.5, 0.6, 0.7, 1.0])
    assert table["count"].tolist() == [1, 1, 1, 1]
    assert table["accuracy"].tolist() == [1, 1, 0, 1]
    assert table["confidence"].tolist() == pytest.approx([0.5, 0.6, 0.65, 1.0])
    assert vaeppl.calibration_error(p, [0, 0, 1, 0]) == pytest.approx((0.5 + 0.4 + 0.65) / 4)


@given(st.integers(1, 40), st.integers(0, 99))
def test_the_bins_hold_every_row_and_the_order_of_rows_is_no_matter(n, seed):
    p, y = some(n, 3, seed)
    table = vaeppl.calibration(p, y, bins=7)
    assert table["count"].sum() == n
    order = np.random.default_rng(seed).permutation(n)
    assert vaeppl.calibration_error(p[order], y[order]) == pytest.approx(
        vaeppl.calibration_error(p, y)
    )


@pytest.mark.parametrize("hidden", [-1, np.nan])
def test_rows_whose_label_is_hidden_are_left_out(hidden):
    p, y = some(50, 3, 0)
    some_hidden = np.where(np.arange(50) < 20, hidden, y)
    report = vaeppl.classification_report(p, some_hidden)
    rest = vaeppl.classification_report(p[20:], y[20:])
    assert repr(report) == repr(rest)
    assert vaeppl.calibration(p, some_hidden).equals(rest.calibration())
    assert vaeppl.confusion(p, some_hidden).equals(rest.confusion)


@pytest.mark.parametrize(
    ("p", "y", "words"),
    [
        ([[0.5, 0.5]], [0, 1], r"shape \(1, 2\); for 2 labels \(2, K\) is expected"),
        ([0.5, 0.5], [0, 1], r"shape \(2,\)"),
        ([[0.5, 0.5]], [2], "label 2 at row 0, but probabilities are of 2 classes, 0, ..., 1"),
        ([[0.5, 0.5]], [-1], "no row has a label"),
    ],
)
def test_bad_input(p, y, words):
    with pytest.raises(ColumnError, match=words):
        vaeppl.classification_report(p, y)
