"""The sets of the zoo: their published sizes and facts, and downloads from end to end."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from vaeppl.data import DownloadError, Remote, available, info, load, register, registry

needs_cache = pytest.mark.skipif(
    "VAEPPL_DATA_DIR" not in os.environ, reason="needs the files of VAEPPL_DATA_DIR"
)


# Sets that come with scikit-learn


def test_digits_are_counts_of_sixteen():
    pytest.importorskip("sklearn")
    data = load("digits")
    assert (len(data), data.shape("x"), data.kind("x")) == (1797, (64,), "count")
    assert (float(data["x"].min()), float(data["x"].max())) == (0, 16)
    assert data.image_shape == {"x": (8, 8)} and data.levels("y")[3] == "3"
    assert data.select([3, 1]).image_shape == {"x": (8, 8)}


@pytest.mark.parametrize(("name", "shape", "levels"), [("wine", 13, 3), ("breast_cancer", 30, 2)])
def test_tables(name, shape, levels):
    pytest.importorskip("sklearn")
    data = load(name)
    assert data.shape("x") == (shape,) and len(data.levels("y")) == levels
    assert data.kind("x") == "real" and data.fields("x")[0].name in ("alcohol", "mean radius")


# From a server to columns, with small stand-ins


def _serve(monkeypatch, server, name, bodies, checked=True):
    """Point an entry's URLs to the server, where small files stand in."""
    remotes = []
    for remote in info(name).files:
        body = bodies[remote.file]
        checksum = f"sha256:{hashlib.sha256(body).hexdigest()}" if checked else None
        remotes.append(Remote(remote.file, server.put(f"/{remote.file}", body), checksum))
    monkeypatch.setattr(registry, "_sets", dict(registry._sets))
    register(replace(info(name), files=tuple(remotes)))


def test_binarized_mnist_is_parsed_once(server, cache, monkeypatch):
    pytest.importorskip("pooch")
    bits = {
        p: np.random.RandomState(i).randint(0, 2, (2 + i, 784))
        for i, p in enumerate(("train", "valid", "test"))
    }
    lines = {p: "\n".join(" ".join(map(str, row)) for row in b) for p, b in bits.items()}
    bodies = {f"binarized_mnist_{p}.amat": text.encode() for p, text in lines.items()}
    _serve(monkeypatch, server, "binarized_mnist", bodies)
    for _ in range(2):
        data = load("binarized_mnist")
        assert list(data) == ["x"] and data.image_shape == {"x": (28, 28)}
        for part, expected in bits.items():
            assert np.array_equal(data._part(part)["x"].numpy(), expected)
        for file in bodies:  # the second start needs the packed form only
            (cache / "binarized_mnist" / file).unlink(missing_ok=True)
    assert len(server.asked) == 3


def test_cortex_from_its_text(server, cache, monkeypatch, expression):
    pytest.importorskip("pooch")
    pytest.importorskip("scipy")
    text = expression.encode()
    _serve(monkeypatch, server, "cortex", {"expression_mRNA_17-Aug-2014.txt": text}, False)
    for _ in range(2):
        data = load("cortex")
        assert data.is_lazy("x") and data.take([1, 0])["x"].tolist() == [[3, 0], [0, 250]]
        assert data.levels("y") == ("interneurons", "pyramidal CA1")
        assert data.take([1])["y"].tolist() == [1] and data.fields("x")[1].name == "Npy"
        assert data.take([0])["subclass"].item() == data.levels("subclass").index("Int10")
    assert len(server.asked) == 1


def test_a_tampered_set_is_refused_with_its_address(server, cache, monkeypatch):
    pytest.importorskip("pooch")
    bodies = {remote.file: b"as published" for remote in info("mnist").files}
    _serve(monkeypatch, server, "mnist", bodies)
    server.files = dict.fromkeys(server.files, b"tampered")
    with pytest.raises(DownloadError, match=r"http://127.0.0.1.*expected sha256"):
        load("mnist")
    assert os.listdir(cache / "mnist") == []


# The real files

SIZES = {
    "mnist": (70_000, (784,), {"train": 55_000, "valid": 5_000, "test": 10_000}),
    "binarized_mnist": (70_000, (784,), {"train": 50_000, "valid": 10_000, "test": 10_000}),
    "frey_faces": (1965, (560,), {"train": 1573, "valid": 196, "test": 196}),
    "rotated_mnist": (4960, (784,), {"train": 4050, "valid": 640, "test": 270}),
    "zeisel3": (1464, (558,), {}),
    "cellbench": (909, (720,), {}),
    "pbmc8k": (7439, (200,), {}),
    "geyser": (272, (2,), {}),
    "abalone": (4177, (8,), {}),
}


@needs_cache
@pytest.mark.data
@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name):
    rows, shape, splits = SIZES[name]
    data = load(name)
    assert (len(data), data.shape("x")) == (rows, shape)
    assert {part: len(index) for part, index in data.splits.items()} == splits
    assert data.name == name and data.first_nonfinite("x") is None


def test_the_sizes_of_every_file_set_are_tested():
    with_files = {name for name in available() if info(name).files}
    assert with_files - {"cortex", "dsprites", "shapes3d"} <= set(SIZES) | {"toy"}


@needs_cache
@pytest.mark.data
def test_mnist_is_the_published_one():
    data = load("mnist")
    assert data._columns["x"].store.dtype == torch.uint8
    # Mean and spread of the training images, as quoted everywhere.
    train = data.select(slice(0, 60_000))._columns["x"].store.float() / 255
    assert float(train.mean()) == pytest.approx(0.1307, abs=1e-4)
    assert float(train.std()) == pytest.approx(0.3081, abs=1e-4)
    assert data.train.take(range(5))["y"].tolist() == [5, 0, 4, 1, 9]
    assert data.test.take(range(5))["y"].tolist() == [7, 2, 1, 0, 4]
    image = data.take([0])["x"]
    assert image.dtype == torch.float32 and 0 <= image.min() < image.max() <= 1


@needs_cache
@pytest.mark.data
@pytest.mark.parametrize("how", ["dynamic", "threshold"])
def test_mnist_binarised(how):
    data = load("mnist", binarize=how)
    assert data.kind("x") == "binary"
    assert set(data.valid.take(range(20))["x"].unique().tolist()) == {0, 1}


@needs_cache
@pytest.mark.data
def test_binarized_mnist_is_mnist_with_coins_thrown():
    data = load("binarized_mnist")
    assert data.kind("x") == "binary" and data._columns["x"].store.dtype == torch.uint8
    # Bernoulli draws keep the mean intensity.
    assert float(data._columns["x"].store.float().mean()) == pytest.approx(0.131, abs=2e-3)


@needs_cache
@pytest.mark.data
def test_rotated_mnist_is_the_published_one():
    pytest.importorskip("scipy")
    folder = os.path.join(os.environ["VAEPPL_DATA_DIR"], "rotated_mnist")
    path = os.path.join(folder, "rotated_mnist3_published.npz")
    if not os.path.isfile(path):
        pytest.skip("needs rotated_mnist3_published.npz")
    published, data = np.load(path), load("rotated_mnist")
    for part, ours in (("test", data.test), ("valid", data.valid)):
        images, aux = published[f"{part}_images"], published[f"{part}_aux"]
        assert np.abs(ours["x"].numpy() - images.reshape(-1, 784)).max() <= 1e-6
        assert np.array_equal(ours["object"].numpy(), aux[:, 0])
        np.testing.assert_allclose(ours["angle"].numpy(), aux[:, 1], atol=1e-6)
        # The scores are of another run of an approximate decomposition.
        np.testing.assert_allclose(ours["object_features"].numpy(), aux[:, 2:], atol=1e-2)
    assert np.allclose(data.test["angle"].numpy(), np.deg2rad(157.5))


@needs_cache
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "batches", "label"),
    [("zeisel3", 1, "interneurons"), ("cellbench", 3, "H1975"), ("pbmc8k", 1, "NK cells")],
)
def test_single_cells(name, batches, label):
    data = load(name)
    assert data.kind("x") == "count" and label in data.levels("y")
    assert len(data.levels("batch")) == batches == len(data["batch"].unique())
    assert int(data["y"].max()) == len(data.levels("y")) - 1


@needs_cache
@pytest.mark.data
def test_tables_of_mixed_columns():
    data = load("abalone")
    assert data.kind("x") == "mixed" and data.fields("x")[0].levels == ("F", "I", "M")
    assert data.kind("y") == "count" and int(data["y"].max()) == 29
    assert load("geyser").levels("y") == ("long", "short")


@needs_cache
@pytest.mark.data
def test_frey_faces_are_pictures():
    data = load("frey_faces")
    assert data.kind("x") == "unit" and data.image_shape == {"x": (28, 20)}
    assert float(data["x"].max()) == pytest.approx(238 / 255)
