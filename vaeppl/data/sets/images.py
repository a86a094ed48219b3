"""Pictures: digits, MNIST and what is made of it, faces."""

from __future__ import annotations

from importlib import resources

import numpy as np
import torch

from ..columns import Field
from ..dataset import Data
from ..download import Files, Remote, read_npz
from ..errors import DownloadError
from ..parsers import read_amat, read_idx
from ..registry import DataSet, register
from .labels import labels

__all__: list[str] = []

_DIGIT_LEVELS = tuple(str(digit) for digit in range(10))


def _consecutive(sizes: dict[str, int]) -> dict[str, torch.Tensor]:
    """Make splits that follow each other."""
    ends = np.cumsum(list(sizes.values()))
    return {
        name: torch.arange(int(end) - size, int(end))
        for (name, size), end in zip(sizes.items(), ends, strict=True)
    }


def _digits(files: Files) -> Data:
    # Each pixel counts the dark ones of a 4 x 4 block, so 0..16.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Data(
        {"x": bunch.data.astype(np.uint8), "y": bunch.target},
        fields={"x": [Field("x", "count", total=16)], "y": labels(bunch.target_names)},
        image_shape={"x": (8, 8)},
    )


register(
    DataSet(
        "digits",
        "Handwritten digits; pixels count the dark dots of a 4 x 4 block",
        "1797 x 64 (8 x 8), counts 0..16",
        "CC BY 4.0",
        "Alpaydin and Kaynak (1998), UCI Optical Recognition of Handwritten Digits; "
        "comes with scikit-learn",
        _digits,
    )
)


# MNIST and what is made of it

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST = {
    "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
}
_MNIST_FILES = tuple(Remote(file, _MNIST_URL + file, sum_) for file, sum_ in _MNIST.items())


def _mnist(files: Files, *, binarize: str | None = None, seed: int = 0) -> Data:
    pixels = [read_idx(files.path(f"{part}-images-idx3-ubyte.gz")) for part in ("train", "t10k")]
    digits = [read_idx(files.path(f"{part}-labels-idx1-ubyte.gz")) for part in ("train", "t10k")]
    data = Data(
        {"x": np.concatenate(pixels).reshape(-1, 784), "y": np.concatenate(digits)},
        scale={"x": 255},
        fields={"x": [Field("x", "unit")], "y": labels(_DIGIT_LEVELS)},
        image_shape={"x": (28, 28)},
        splits=_consecutive({"train": 55_000, "valid": 5_000, "test": 10_000}),
    )
    return data if binarize is None else data.binarize("x", binarize, seed)


register(
    DataSet(
        "mnist",
        "Handwritten digits; option binarize='dynamic', 'static' or 'threshold'",
        "70000 x 784 (28 x 28), grey values in [0, 1]; train 55000, valid 5000, test 10000",
        "CC BY-SA 3.0",
        "LeCun, Cortes and Burges (1998), http://yann.lecun.com/exdb/mnist/",
        _mnist,
        _MNIST_FILES,
    )
)

_AMAT_URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
_AMAT = {
    "train": "sha256:ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "valid": "sha256:1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "sha256:e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}
_AMAT_FILES = {part: f"binarized_mnist_{part}.amat" for part in _AMAT}
_PACKED = "binarized_mnist_static_packed.npz"


def _binarized_mnist(files: Files) -> Data:
    arrays = files.parsed(_PACKED, lambda: _pack_amat(files))
    parts = ("train", "valid", "test")
    if not set(parts) <= set(arrays):
        raise DownloadError(f"{_PACKED} lacks one of {parts}; delete it and load again")
    columns = {"x": np.concatenate([np.unpackbits(arrays[part], axis=1) for part in parts])}
    fields: dict[str, tuple[Field, ...]] = {"x": (Field("x", "binary"),)}
    # The published set has no labels; a packed file may have them, found by matching to MNIST.
    if all(f"{part}_label" in arrays for part in parts):
        columns["y"] = np.concatenate([arrays[f"{part}_label"] for part in parts])
        fields["y"] = labels(_DIGIT_LEVELS)
    return Data(
        columns,
        fields=fields,
        image_shape={"x": (28, 28)},
        splits=_consecutive({part: len(arrays[part]) for part in parts}),
    )


def _pack_amat(files: Files) -> dict[str, np.ndarray]:
    return {
        part: np.packbits(read_amat(files.path(file), 784), axis=1)
        for part, file in _AMAT_FILES.items()
    }


register(
    DataSet(
        "binarized_mnist",
        "MNIST binarised once and for all, the set of published likelihoods",
        "70000 x 784 (28 x 28), 0 or 1; train 50000, valid 10000, test 10000",
        "CC BY-SA 3.0 (derived from MNIST)",
        "Larochelle and Murray (2011), The Neural Autoregressive Distribution Estimator; "
        "Salakhutdinov and Murray (2008)",
        _binarized_mnist,
        tuple(Remote(_AMAT_FILES[p], _AMAT_URL + _AMAT_FILES[p], s) for p, s in _AMAT.items()),
        parsed=_PACKED,
    )
)

# Rotated threes, after Casale et al. (2018)

_ANGLE_STEP = 22.5  # degrees; 16 angles make a circle


def _rotated_mnist(files: Files) -> Data:
    threes = read_idx(files.path("train-images-idx3-ubyte.gz"))
    with resources.as_file(resources.files("vaeppl.data") / "resources/rotated_mnist3.npz") as path:
        index = read_npz(path)
    parts = ("train", "valid", "test")
    which = np.concatenate([index[f"{part}_id"] for part in parts]).astype(np.int64)
    step = np.concatenate([index[f"{part}_angle"] for part in parts]).astype(np.int64)
    images = _rotate(threes[index["mnist_train_index"]] / 255, which, step)
    angle = np.deg2rad(_ANGLE_STEP * step)
    features = index["pca8"][which]
    return Data(
        {
            "x": images.reshape(len(images), -1),
            "object": which,
            "angle": angle,
            "object_features": features,
        },
        fields={
            "x": [Field("x", "real")],  # spline interpolation overshoots [0, 1]
            "object": labels(range(len(index["mnist_train_index"])), "object"),
            "angle": [Field("angle", "real")],
            "object_features": [Field(f"pca[{i}]", "real") for i in range(features.shape[1])],
        },
        image_shape={"x": (28, 28)},
        splits=_consecutive({part: len(index[f"{part}_id"]) for part in parts}),
    )


def _rotate(digits: np.ndarray, which: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Each image is ``digits[which]`` turned by ``step`` angles; float32 as published."""
    from scipy import ndimage

    images = np.empty((len(which), *digits.shape[1:]), dtype=np.float32)
    for k in np.unique(step):
        rows = step == k
        images[rows] = ndimage.rotate(
            digits[which[rows]], _ANGLE_STEP * k, axes=(2, 1), reshape=False
        )
    return images


register(
    DataSet(
        "rotated_mnist",
        "400 handwritten threes turned by 16 angles, with one angle held out",
        "4960 x 784 (28 x 28), with object, angle and 8 features; train 4050, valid 640, test 270",
        "CC BY-SA 3.0 (derived from MNIST)",
        "Casale et al. (2018), Gaussian Process Prior Variational Autoencoders, section 5.1",
        _rotated_mnist,
        tuple(remote for remote in _MNIST_FILES if remote.file.startswith("train-images")),
        folder="mnist",
    )
)


# Faces

_FREY = Remote(
    "frey_rawface.mat",
    "https://github.com/lawrennd/datasets_mirror/raw/main/brendan_faces/frey_rawface.mat",
    "md5:5aeb024d42b8a6091f30e5eb18c8a48d",
)


def _frey_faces(files: Files) -> Data:
    from scipy.io import loadmat

    path = files.path(_FREY.file)
    try:
        faces = loadmat(path)["ff"].T
    except Exception as error:  # scipy raises many kinds
        raise DownloadError(f"cannot read {path} ({error}); delete it and load again") from error
    data = Data(
        {"x": np.ascontiguousarray(faces)},
        scale={"x": 255},
        fields={"x": [Field("x", "unit")]},
        image_shape={"x": (28, 20)},
    )
    return data.split(valid=0.1, test=0.1, seed=0)


register(
    DataSet(
        "frey_faces",
        "Frames of a film of one face",
        "1965 x 560 (28 x 20), grey values in [0, 1]; train 1573, valid 196, test 196",
        "none stated",
        "Brendan Frey and Sam Roweis, https://cs.nyu.edu/~roweis/data.html",
        _frey_faces,
        (_FREY,),
    )
)
