"""Facts about the pictures of labels: they show the numbers they claim to."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import vaeppl
from vaeppl import plots
from vaeppl.data import Data, Field
from vaeppl.errors import CheckpointError, StoryError
from vaeppl.likelihoods import Categorical
from vaeppl.models import CVAE, M2, VAE, Regression
from vaeppl.models.m1 import M1
from vaeppl.plots._tiles import SMALLEST_TILE

matplotlib.use("Agg")

H, W, NAMES = 2, 3, ("ant", "bee", "cow")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def data():
    noise = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    x = (torch.rand(60, H * W, generator=noise) < 0.2 + 0.3 * y[:, None]).float()
    levels = (Field("y", "categorical", NAMES),)
    return Data({"x": x, "y": y}, fields={"y": levels}, image_shape={"x": (H, W)}, name="toy")


def fitted(model, data):
    return vaeppl.fit(model, data, epochs=2, lr=1e-2, progress=False)


@pytest.fixture(scope="module")
def m2(data):
    return fitted(M2(H * W, 3, 2, hidden=(8,)), data.few_labels(per_class=10))


def tiles(ax, across):
    """Cut the canvas of a picture back into its tiles, one number a pixel."""
    canvas = np.ma.filled(ax.images[0].get_array().astype(float), np.nan)
    down, zoom = int(ax.get_ylim()[0]), -(-SMALLEST_TILE // max(H, W))
    cells = canvas.reshape(down, H * zoom + 1, across, W * zoom + 1).swapaxes(1, 2)
    return cells[:, :, : H * zoom : zoom, : W * zoom : zoom].reshape(down, across, H * W)


def report(n=400, k=4, seed=0):
    p = np.random.default_rng(seed).dirichlet(np.full(k, 0.5), n)
    return vaeppl.classification_report(p, np.random.default_rng(seed).integers(k, size=n))


# --- calibration and confusion ---


def test_points_of_a_calibration_are_its_table():
    scores = report()
    ax = plots.calibration(scores, bins=6)
    table = scores.calibration(6)
    points = ax.collections[-1]
    assert np.allclose(points.get_offsets(), table[["confidence", "accuracy"]])
    assert (np.argsort(points.get_sizes()) == np.argsort(table["count"], kind="stable")).all()
    ends = np.array([line[:, 1] for line in ax.collections[0].get_segments()])
    assert np.allclose(ends[:, 1] - ends[:, 0], 4 * table["accuracy_se"])
    assert np.allclose(ax.lines[0].get_xydata(), [[0, 0], [1, 1]])


def test_cells_of_a_confusion_are_its_counts():
    scores = report()
    ax = plots.confusion(scores)
    counts = scores.confusion.to_numpy()
    written = {text.get_position(): int(text.get_text()) for text in ax.texts}
    assert written == {(j, i): counts[i, j] for i in range(4) for j in range(4) if counts[i, j]}
    assert np.allclose(ax.images[0].get_array(), counts / counts.sum(1, keepdims=True))
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "1", "2", "3"]


def test_a_class_that_no_row_has_and_many_classes_are_drawn():
    ax = plots.confusion(vaeppl.classification_report(np.eye(3)[[0, 1, 1]], [0, 1, 1]))
    assert np.isfinite(ax.images[0].get_array()).all()
    many = plots.confusion(report(k=40))
    assert not many.texts and len(many.get_xticklabels()) == 20


def test_of_a_fit_the_predictions_are_scored_and_classes_bear_their_names(m2, data):
    scores = m2.score_labels(data)
    ax = plots.confusion(m2, data)
    shares = scores.confusion.div(scores.confusion.sum(axis=1), axis=0)
    assert np.allclose(ax.images[0].get_array(), shares)
    assert [t.get_text() for t in ax.get_yticklabels()] == list(NAMES)
    assert f"of {len(data)} rows" in ax.get_title()
    exact = plots.calibration(m2, data, num_particles=5)
    by_story = m2.score_labels(data, num_particles=5).calibration()
    assert np.allclose(exact.collections[-1].get_offsets(), by_story[["confidence", "accuracy"]])


# --- analogies ---


def test_each_line_starts_with_the_data_and_runs_through_the_labels(m2, data):
    ax = plots.analogies(m2, data, num=4, seed=2)
    shown = tiles(ax, 4)
    x = data["x"].numpy()
    rows = [np.flatnonzero((x == first).all(1)) for first in shown[:, 0]]
    assert all(len(found) for found in rows)
    made = vaeppl.analogies(m2, data).numpy()
    for found, line in zip(rows, shown, strict=True):
        assert any(np.allclose(made[row], line[1:], atol=1e-5) for row in found)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["data", *NAMES]
    some = plots.analogies(m2, data, num=2, labels=[2, 0])
    assert [t.get_text() for t in some.get_xticklabels()] == ["data", "cow", "ant"]


def test_analogies_say_what_they_need(m2, data):
    bare = {"x": data["x"], "y": data["y"]}
    with pytest.raises(StoryError, match=r"'x' holds no pictures.*image_shape"):
        plots.analogies(m2, bare)
    assert plots.analogies(m2, bare, num=2, image_shape=(H, W))
    with pytest.raises(StoryError, match="unknown column of VAE 'y'"):
        plots.analogies(VAE(H * W, 2, hidden=(4,)), data)


# --- all of them ---


def test_every_picture_is_drawn_where_asked(m2, data):
    _, axes = plt.subplots(3)
    drawn = [
        plots.calibration(m2, data, axes[0]),
        plots.confusion(m2, data, axes[1]),
        plots.analogies(m2, data, 3, axes[2]),
    ]
    assert all(a is b for a, b in zip(drawn, axes, strict=True))
    assert plt.get_fignums() == [1]
    assert all(a.get_title() for a in drawn)


def test_a_model_without_data_asks_for_them():
    model = M2(H * W, 3, 2, hidden=(8,))
    for picture in (plots.calibration, plots.confusion, plots.analogies):
        with pytest.raises(CheckpointError, match="pass data="):
            picture(model)


LABELS, ANALOGIES = {"confusion", "calibration"}, {"analogies"}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: M2(H * W, 3, 2, hidden=(8,)), LABELS | ANALOGIES),
        (lambda: VAE(H * W, 2, hidden=(4,)), set()),
        (lambda: M1(H * W, 2, classifier="logistic", hidden=(8,)), LABELS),
    ],
)
def test_save_all_draws_what_suits(make, expected, data, tmp_path):
    few = data.few_labels(per_class=10)
    fit = vaeppl.fit(make(), few, epochs=60, batch_size=20, lr=2e-2, progress=False)
    saved = {path.stem for path in plots.save_all(fit, tmp_path, few)}
    assert saved & (LABELS | ANALOGIES) == expected
    no_labels = {path.stem for path in plots.save_all(fit, tmp_path, data.columns("x"))}
    assert not no_labels & LABELS
    assert all((tmp_path / f"{name}.png").stat().st_size > 1000 for name in saved)


def test_save_all_draws_analogies_of_a_given_label_and_scores_of_a_drawn_one(data, tmp_path):
    swapped = data.rename({"x": "y", "y": "x"})
    cvae = fitted(CVAE(1, H * W, 2, condition=Categorical(3), hidden=(8,)), swapped)
    assert {p.stem for p in plots.save_all(cvae, tmp_path)} & (LABELS | ANALOGIES) == ANALOGIES
    column = data.with_column("y", data["y"][:, None], fields=data.fields("y"))
    regression = fitted(Regression(H * W, 1, likelihood=Categorical(3), hidden=(8,)), column)
    assert {p.stem for p in plots.save_all(regression, tmp_path)} >= LABELS
