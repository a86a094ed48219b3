"""Classifiers against the class probabilities that are known: Gaussian classes."""

import numpy as np
import pytest
from scipy.special import softmax

from vaeppl.reading import cross_validated
from vaeppl.reading.cross_validated import LogisticRegression, SupportVectorMachine

MEANS = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.7]])


def gaussians(n, num_classes=3, seed=0):
    """Rows of classes N(mean_k, I), all alike in number, and their exact p(y | x)."""
    chance = np.random.default_rng(seed)
    y = np.arange(n) % num_classes
    means = MEANS[:num_classes]
    x = means[y] + chance.normal(size=(n, 2))
    exact = softmax(-((x[:, None] - means) ** 2).sum(-1) / 2, axis=1)
    return x, y, exact


def log_loss(p, y):
    return -np.log(p[np.arange(len(y)), y]).mean()


# An SVM learns where the classes meet; one temperature makes good probabilities of that, not exact.
@pytest.mark.parametrize(
    ("kind", "nats"), [(LogisticRegression, 0.03), (SupportVectorMachine, 0.08)]
)
@pytest.mark.parametrize("num_classes", [2, 3])
def test_probabilities_approach_the_exact_ones(kind, nats, num_classes):
    x, y, _ = gaussians(600, num_classes)
    new_x, new_y, exact = gaussians(3000, num_classes, seed=1)
    p = kind(0).fit(x, y).predict_proba(new_x)
    assert p.shape == (3000, num_classes) and np.allclose(p.sum(1), 1)
    assert log_loss(p, new_y) - log_loss(exact, new_y) < nats
    assert abs(p - exact).mean() < 0.08


def test_logistic_regression_is_exact_in_the_limit():
    x, y, _ = gaussians(20_000, 2)
    _, _, exact = gaussians(20_000, 2)
    assert abs(LogisticRegression(0).fit(x, y).predict_proba(x) - exact).max() < 0.03


def test_one_row_of_a_class_leaves_nothing_to_validate_on():
    x, y = np.array([[-2.0], [2.0], [2.5]]), np.array([0, 1, 1])
    machine = SupportVectorMachine(0).fit(x, y)
    assert machine.temperature == 1.0 and machine.trained.get_params()["estimator__C"] == 1.0
    assert machine.predict_proba(x).argmax(1).tolist() == [0, 1, 1]
    assert LogisticRegression(0).fit(x, y).trained.get_params()["C"] == 1.0


def test_classes_that_cannot_be_told_apart_get_a_high_temperature():
    chance = np.random.default_rng(0)
    x, y = chance.normal(size=(300, 2)), np.arange(300) % 2
    p = SupportVectorMachine(0).fit(x, y).predict_proba(chance.normal(size=(100, 2)))
    assert abs(p - 0.5).max() < 0.2


def test_few_rows_told_apart_without_an_error_do_not_make_certain():
    x, y = np.arange(12.0)[:, None] + 100.0 * (np.arange(12) > 5)[:, None], np.arange(12) // 6
    p = SupportVectorMachine(0).fit(x / 50, y).predict_proba(x / 50)
    assert p.max(1).mean() == pytest.approx(1 - 0.5 / 13, abs=0.02)  # 12 rows, and half a wrong one


def test_the_order_of_decision_values_is_kept():
    x, y, _ = gaussians(90)
    machine = SupportVectorMachine(0).fit(x, y)
    values = machine.trained.decision_function(x)
    assert np.array_equal(values.argsort(1), machine.predict_proba(x).argsort(1))


def test_the_rows_to_choose_by_have_the_classes_in_proportion(monkeypatch):
    monkeypatch.setattr(cross_validated, "ROWS_TO_CHOOSE_BY", 30)
    y = np.repeat([0, 1, 2], [200, 99, 1])
    few = cross_validated._some(y, 0)
    assert np.bincount(y[few]).tolist() == [20, 10, 1]
    x, y, exact = gaussians(400)
    assert abs(SupportVectorMachine(0).fit(x, y).predict_proba(x) - exact).mean() < 0.2


def test_a_seed_fixes_everything():
    x, y, _ = gaussians(60)
    first, again = (SupportVectorMachine(3).fit(x, y).predict_proba(x) for _ in range(2))
    assert np.array_equal(first, again)
