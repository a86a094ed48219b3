"""Published file formats, written here in small and read back."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from vaeppl.data import DownloadError
from vaeppl.data.parsers import read_amat, read_expression_table, read_idx

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def idx(array, shape=None):
    """Bytes of the IDX format."""
    sizes = np.array(array.shape if shape is None else shape, dtype=">u4")
    return bytes([0, 0, 8, len(sizes)]) + sizes.tobytes() + array.tobytes()


def test_idx_round_trip(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx(IMAGES)))
    assert np.array_equal(read_idx(path), IMAGES)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no gzip",
        gzip.compress(idx(IMAGES))[:-12],
        gzip.compress(b"\x00\x00\x0d\x01"),
        gzip.compress(idx(IMAGES, (2, 3, 5))),
    ],
    # A gzip file holds the time at which it was made, which must not get into a test's name.
    ids=["empty", "no gzip", "truncated", "no sizes", "other sizes"],
)
def test_damaged_idx_is_named(tmp_path, body):
    (tmp_path / "images.gz").write_bytes(body)
    with pytest.raises(DownloadError, match=r"images.gz"):
        read_idx(tmp_path / "images.gz")


@pytest.mark.parametrize("text", ["0 1 0\n1 1 1\n", "0 1 0 \r\n1 1 1 ", "010\n111"])
def test_amat(tmp_path, text):
    (tmp_path / "bits.amat").write_text(text)
    assert read_amat(tmp_path / "bits.amat", 3).tolist() == [[0, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize("text", ["", "0 1\n", "0 1 2\n", "<html>"])
def test_bad_amat_is_named(tmp_path, text):
    (tmp_path / "bits.amat").write_text(text)
    with pytest.raises(DownloadError, match=r"bits.amat"):
        read_amat(tmp_path / "bits.amat", 3)


def test_expression_table(tmp_path, expression):
    sparse = pytest.importorskip("scipy.sparse")
    (tmp_path / "table.txt").write_text(expression)
    parts = read_expression_table(tmp_path / "table.txt")
    counts = sparse.csr_array((parts["data"], parts["indices"], parts["indptr"]), parts["shape"])
    assert counts.toarray().tolist() == [[0, 250], [3, 0], [0, 1]]
    assert parts["gene_names"].tolist() == ["Tspan12", "Npy"]
    assert parts["cell:level1class"].tolist()[1] == "pyramidal CA1"
    assert parts["cell:age"].tolist() == ["2", "3", "4"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("250\t0\t1", "250\t0", "line 8"),
        ("250\t0\t1", "250\tx\t1", "line 8"),
        ("250\t0\t1", "250\t0\t1\t1", "line 8"),
        (None, "", "right file"),
    ],
)
def test_bad_expression_table(tmp_path, expression, old, new, words):
    (tmp_path / "table.txt").write_text(expression.replace(old, new) if old else new)
    with pytest.raises(DownloadError, match=words):
        read_expression_table(tmp_path / "table.txt")
