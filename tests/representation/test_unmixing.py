"""The Amari distance: its extremes, and what it does not mind."""

import numpy as np
import pytest
import torch

from vaeppl.representation import amari_distance


def test_order_sign_and_scale_do_not_matter():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(5, 3))
    unmixing = np.linalg.pinv(mixing)
    assert amari_distance(unmixing, mixing) == pytest.approx(0, abs=1e-12)
    changed = unmixing[[2, 0, 1]] * np.array([[-3.0], [0.1], [7.0]])
    assert amari_distance(changed, mixing) == pytest.approx(0, abs=1e-12)
    other = rng.normal(size=(3, 5))
    first = amari_distance(other, mixing)
    assert 0 < first < 1
    assert amari_distance(other[[1, 2, 0]] * -1, mixing) == pytest.approx(first)
    assert amari_distance(torch.tensor(other), torch.tensor(mixing)) == pytest.approx(first)


def test_by_hand():
    p = np.array([[1.0, 0.5], [0.25, -2.0]])
    # Rows: 1 + .5, .125 + 1; columns: 1 + .25, .25 + 1; four ones are taken off.
    assert amari_distance(p, np.eye(2)) == pytest.approx((1.5 + 1.125 + 1.25 + 1.25 - 4) / 4)


@pytest.mark.parametrize(
    ("unmixing", "mixing", "message"),
    [
        (np.eye(3), np.eye(2), r"given shapes \(3, 3\) and \(2, 2\)"),
        (np.eye(1), np.eye(1), "two sources or more"),
        (np.diag([1.0, 0.0]), np.eye(2), "zero or not finite"),
        (np.diag([1.0, np.nan]), np.eye(2), "zero or not finite"),
    ],
)
def test_bad_input(unmixing, mixing, message):
    with pytest.raises(ValueError, match=message):
        amari_distance(unmixing, mixing)
