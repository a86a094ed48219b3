"""Sprites: each combination of the factors once, in the picture that it should give."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import h5py
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from vaeppl import plots, representation
from vaeppl.data import DataError, DownloadError, Remote, info, load, register, registry
from vaeppl.data.sets.sprites import FACTORS, SHAPES

matplotlib.use("Agg")

SMALL = {"size": 16, "scales": 2, "orientations": 2, "positions": 3}


@pytest.fixture(scope="module")
def sprites():
    return load("sprites")


def pictures(data):
    return data["x"].numpy().reshape(len(data), *data.image_shape["x"])


def rows_where(data, **levels):
    codes = data["factors"].numpy()
    chosen = [codes[:, FACTORS.index(name)] == level for name, level in levels.items()]
    return np.flatnonzero(np.logical_and.reduce(chosen))


def test_each_combination_of_factors_is_there_once(sprites):
    codes = sprites["factors"].numpy().astype(int)
    assert len(sprites) == 3 * 3 * 4 * 8 * 8 == len(np.unique(codes, axis=0))
    assert codes.max(0).tolist() == [2, 2, 3, 7, 7] and codes.min() == 0
    assert codes[:2].tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]  # y changes first


def test_each_picture_differs_so_that_it_tells_its_factors(sprites):
    assert len(np.unique(sprites["x"].numpy(), axis=0)) == len(sprites)


def test_columns_say_what_they_hold(sprites):
    assert sprites.kind("x") == "binary" and sprites.image_shape == {"x": (24, 24)}
    fields = sprites.fields("factors")
    assert tuple(f.name for f in fields) == FACTORS
    assert fields[0].levels == SHAPES and fields[2].levels == ("0.0", "22.5", "45.0", "67.5")
    assert info("sprites").cached and not info("sprites").files


def test_metrics_and_plots_know_the_names_of_the_factors(sprites):
    z = sprites["factors"].double()
    score = representation.mig(z, sprites.columns("factors"))
    assert tuple(score.parts.index) == FACTORS and float(score) == pytest.approx(1)
    ax = plots.factor_matrix(score)
    assert [text.get_text() for text in ax.get_xticklabels()] == list(FACTORS)
    plt.close(ax.figure)


def test_sprites_grow_with_scale_and_stay_inside(sprites):
    x = pictures(sprites)
    area = x.sum((1, 2))
    for shape in range(3):
        sizes = [area[rows_where(sprites, shape=shape, scale=s)].mean() for s in range(3)]
        assert sizes[0] < sizes[1] < sizes[2]
    assert area.min() > 0
    # Of the largest, the corner of a turned square touches no more than the outermost pixels.
    assert x[rows_where(sprites, x=3, y=3)][:, [0, -1]].sum() == 0


@pytest.mark.parametrize("shape", range(3))
def test_x_and_y_move_the_sprite_right_and_down(sprites, shape):
    x = pictures(sprites)
    at = np.arange(24) + 0.5
    for name, axis in (("x", 1), ("y", 2)):
        centres = []
        for level in range(8):
            some = x[rows_where(sprites, shape=shape, **{name: level})]
            mass = some.sum(axis)
            centres.append(float((mass @ at / mass.sum(1)).mean()))
        steps = np.diff(centres)
        assert steps == pytest.approx(24 * (1 - 2 * 0.28) / 7, abs=0.25)


def test_squares_ellipses_and_hearts_have_their_symmetries():
    data = load("sprites", size=64, scales=2, orientations=2, positions=3)
    square, ellipse, heart = (
        pictures(data)[rows_where(data, shape=s, scale=1, orientation=0, x=1, y=1)][0]
        for s in range(3)
    )
    assert (square == square.T).all() and (square == np.rot90(square)).all()
    assert (ellipse == ellipse[::-1, ::-1]).all() and (ellipse != ellipse.T).any()
    assert (heart == heart[:, ::-1]).all() and (heart != heart[::-1]).any()
    # Areas in units of the square's: 2 r², π r² / 2.
    assert ellipse.sum() / square.sum() == pytest.approx(np.pi / 4, rel=0.1)
    # A heart is wide above and pointed below.
    rows = np.flatnonzero(heart.any(1))
    assert heart[rows[3]].sum() > 4 * heart[rows[-2]].sum()


def test_orientation_turns_to_the_left():
    data = load("sprites", size=64, scales=2, orientations=2, positions=3)  # 0 and 45 degrees
    ellipse = pictures(data)[rows_where(data, shape=1, scale=1, orientation=1, x=1, y=1)][0]
    assert (ellipse == ellipse.T[::-1, ::-1]).all()  # about the diagonal that rises to the right
    row, column = np.nonzero(ellipse)
    assert np.corrcoef(row, column)[0, 1] < -0.3


def test_it_is_the_same_each_time_and_of_the_size_asked_for():
    first, second = load("sprites", **SMALL), load("sprites", **SMALL)
    assert first["x"].equal(second["x"]) and first["factors"].equal(second["factors"])
    assert len(first) == 3 * 2 * 2 * 3 * 3 and first.shape("x") == (256,)
    many = load("sprites", size=4, scales=2, orientations=2, positions=300)
    assert int(many["factors"].max()) == 299


@pytest.mark.parametrize("option", ["size", "scales", "orientations", "positions"])
def test_bad_sizes(option):
    for bad in (1, 2.5, True):
        with pytest.raises(DataError, match=f"{option}={bad!r}; expected a whole number"):
            load("sprites", **{option: bad})


# --- dSprites, with a stand-in for the file ---


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A file of 24 pictures, laid out as the published one."""
    monkeypatch.setenv("VAEPPL_DATA_DIR", str(tmp_path))
    entry = info("dsprites")
    path = tmp_path / "dsprites" / entry.files[0].file
    path.parent.mkdir()
    codes = np.indices((1, 3, 2, 2, 2, 1)).reshape(6, -1).T
    pixels = (np.random.default_rng(0).random((24, 64, 64)) < 0.1).astype(np.uint8)
    with h5py.File(path, "w") as file:
        file["imgs"] = pixels
        file["latents/classes"] = codes
        file["latents/values"] = codes / 2.0
    monkeypatch.setattr(registry, "_sets", dict(registry._sets))
    checksum = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    register(replace(entry, files=(replace(entry.files[0], checksum=checksum),)))
    return path, pixels, codes


def test_dsprites_are_read_without_the_colour(stand_in, monkeypatch):
    _, pixels, codes = stand_in
    monkeypatch.setattr("vaeppl.data.sets.sprites._BLOCK", 7)
    data = load("dsprites", rows=None)
    assert (pictures(data) == pixels).all() and data.kind("x") == "binary"
    assert (data["factors"].numpy() == codes[:, 1:]).all()
    assert data.fields("factors")[1].levels == ("0.0", "0.5")
    assert data.image_shape == {"x": (64, 64)}


def test_some_dsprites_are_drawn_with_their_factors(stand_in):
    _, pixels, codes = stand_in
    data = load("dsprites", rows=10, seed=3)
    assert len(data) == 10
    for picture, row in zip(pictures(data), data["factors"].numpy(), strict=True):
        match = (pixels == picture).all((1, 2))
        assert match.sum() == 1 and (codes[match][0, 1:] == row).all()
    assert not data["x"].equal(load("dsprites", rows=10, seed=4)["x"])
    with pytest.raises(DataError, match="rows=0; expected a whole number"):
        load("dsprites", rows=0)


def test_a_file_of_another_layout_is_refused(stand_in):
    path, *_ = stand_in
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((2, 64, 64), np.uint8)
    checksum = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    entry = info("dsprites")
    register(replace(entry, files=(Remote(path.name, None, checksum),)))
    with pytest.raises(DownloadError, match=r"cannot read .*; delete it and load again"):
        load("dsprites")


# --- 3D Shapes, with a stand-in for the file ---


@pytest.fixture
def stand_in_3d(tmp_path, monkeypatch):
    """A file of 32 coloured pictures, laid out as the published one."""
    monkeypatch.setenv("VAEPPL_DATA_DIR", str(tmp_path))
    entry = info("shapes3d")
    path = tmp_path / "shapes3d" / entry.files[0].file
    path.parent.mkdir()
    codes = np.indices((2, 2, 2, 1, 4, 1)).reshape(6, -1).T
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 64, 3), dtype=np.uint8)
    with h5py.File(path, "w") as file:
        file["images"] = pixels
        file["labels"] = codes / np.array([10, 10, 10, 1, 1, 1])
    monkeypatch.setattr(registry, "_sets", dict(registry._sets))
    checksum = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    register(replace(entry, files=(replace(entry.files[0], checksum=checksum),)))
    return pixels, codes


def test_shapes3d_are_read_in_colour_with_their_factors(stand_in_3d):
    pixels, codes = stand_in_3d
    whole = load("shapes3d", rows=None, size=64)
    stored = np.moveaxis(pixels, -1, 1).reshape(32, -1)
    assert np.allclose(255 * whole["x"].numpy(), stored, atol=1e-4)
    assert (whole["factors"].numpy() == codes).all()
    assert whole.fields("factors")[4].levels == ("cube", "cylinder", "sphere", "capsule")
    small = load("shapes3d", rows=5, seed=1)
    assert small.shape("x") == (3 * 32 * 32,) and len(small) == 5
    row = np.flatnonzero((codes == small["factors"].numpy()[0]).all(1))[0]
    block = pixels[row, 2:4, 4:6, 1].mean()  # of green, the second row of blocks and the third
    assert abs(255 * float(small["x"][0].reshape(3, 32, 32)[1, 1, 2]) - block) <= 0.51


def test_bad_options_of_shapes3d(stand_in_3d):
    for size in (0, 24, 2.0):
        with pytest.raises(DataError, match="whole number that divides 64"):
            load("shapes3d", size=size)
