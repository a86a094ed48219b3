"""Rows that are no islands: what is held out, and that nothing of it is fitted."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from vaeppl.data import load
from vaeppl.data.errors import DataError


def test_digits_are_turned_and_one_angle_is_held_out():
    data = load("rotated_digits")
    assert len(data) == 960 and data.image_shape == {"x": (8, 8)}
    upright = load_digits().images[load_digits().target == 3][:80].reshape(80, 64) / 16
    at_zero = data["angle"] == 0
    assert np.allclose(data["x"][at_zero], upright, atol=1e-6)
    quarter = data["x"][(data["angle"] - np.pi / 2).abs() < 1e-6].reshape(-1, 8, 8)
    assert np.allclose(quarter, np.rot90(upright.reshape(-1, 8, 8), axes=(1, 2)), atol=1e-5)
    held = torch.deg2rad(torch.tensor(150.0))
    assert torch.allclose(data.test["angle"], held) and len(data.test) == 80
    assert not bool(((data.train["angle"] - held).abs() < 1e-3).any())
    assert set(data.train["object"].tolist()) == set(range(80))
    parts = torch.cat(list(data.splits.values()))
    assert torch.equal(parts.sort().values, torch.arange(960))


def test_features_are_principal_components_of_the_upright_digits():
    scores = load("rotated_digits")["object_features"].reshape(80, 12, 6)
    assert torch.equal(scores[:, :1].expand_as(scores), scores)
    covariance = torch.cov(scores[:, 0].T)
    assert torch.allclose(covariance, torch.eye(6) * 80 / 79, atol=1e-4)


def test_visits_to_predict_lie_between_or_behind_those_seen():
    data = load("longitudinal", subjects=15)
    for code in range(15):
        times = {
            name: data.select(rows)["time"][data.select(rows)["subject"] == code]
            for name, rows in data.splits.items()
        }
        assert len(times["valid"]) == 1 and len(times["test"]) == 2
        assert times["train"].min() < times["valid"] < times["train"].max()
        assert times["test"].min() > times["train"].max()
        assert 7 <= sum(map(len, times.values())) <= 12


def test_the_signal_is_what_is_left_without_the_noise():
    data = load("longitudinal")
    residual = data["x"] - data["signal"]
    assert float(residual.std()) == pytest.approx(0.15, rel=0.05)
    assert abs(float(residual.mean())) < 0.01
    assert float(data["signal"].std()) > 5 * 0.15


@pytest.mark.parametrize("name", ["rotated_digits", "longitudinal"])
def test_a_seed_makes_the_same_data(name):
    assert load(name, seed=1).fingerprint() == load(name, seed=1).fingerprint()
    first, second = load(name, seed=1), load(name, seed=2)
    assert not torch.equal(first.splits["train"], second.splits["train"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rotated_digits", {"objects": 1000}, "objects=1000; expected a whole number from 7 to"),
        ("rotated_digits", {"held_out": 12}, "held_out=12; expected a whole number from 0 to 11"),
        ("longitudinal", {"subjects": 1}, "expected 2 or more"),
    ],
)
def test_options_out_of_range_are_named(name, options, message):
    with pytest.raises(DataError, match=message):
        load(name, **options)
