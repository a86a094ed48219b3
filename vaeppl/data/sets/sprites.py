"""Pictures of known factors: sprites, of shape, scale, orientation and place, and 3D Shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..columns import Field
from ..dataset import Data
from ..download import Files, Remote
from ..errors import DataError, DownloadError
from ..registry import DataSet, register

__all__: list[str] = []

FACTORS = ("shape", "scale", "orientation", "x", "y")
SHAPES = ("square", "ellipse", "heart")


# Drawn here

SMALLEST = 0.6  # scale of the smallest sprites; the largest have 1
RADIUS = 0.28  # of the circle around the largest sprites, in sides of the picture


def _sprites(
    files: Files,
    *,
    size: int = 24,
    scales: int = 3,
    orientations: int = 4,
    positions: int = 8,
) -> Data:
    for name, number, least in (
        ("size", size, 4),
        ("scales", scales, 2),
        ("orientations", orientations, 2),
        ("positions", positions, 2),
    ):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise DataError(f"{name}={number!r}; expected a whole number, at least {least}")
    scale = np.linspace(SMALLEST, 1.0, scales)
    # Over a quarter turn, after which a square looks the same again.
    angle = np.arange(orientations) * (90.0 / orientations)
    place = np.linspace(RADIUS, 1 - RADIUS, positions) * size
    pictures = [
        _pictures(shape, RADIUS * size * s, np.deg2rad(a), place, size)
        for shape in SHAPES
        for s in scale
        for a in angle
    ]
    values = (scale.round(3), angle.round(3), place.round(3), place.round(3))
    numbers = [len(SHAPES), *(len(value) for value in values)]
    codes = np.indices(numbers).reshape(len(numbers), -1).T
    return _with_factors(np.concatenate(pictures), codes, (SHAPES, *values), size)


def _pictures(shape: str, radius: float, angle: float, place: np.ndarray, size: int) -> np.ndarray:
    """Return a sprite at all places, ``(places², size²)``; y, from the top, changes first."""
    pixel = np.arange(size) + 0.5
    right = ((pixel - place[:, None]) / radius)[:, None, None, :]
    down = ((pixel - place[:, None]) / radius)[None, :, :, None]
    across = right * np.cos(angle) - down * np.sin(angle)
    up = -right * np.sin(angle) - down * np.cos(angle)
    inside: np.ndarray = _inside(shape, across, up)
    return inside.reshape(-1, size * size).astype(np.uint8)


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Tell which points of the unit circle lie in an upright shape."""
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) <= np.sqrt(0.5)
    if shape == "ellipse":
        return np.square(x) + np.square(y / 0.5) <= 1
    # The curve (x² + y² - 1)³ = x² y³ is 2.3 wide and high; it is brought into the circle.
    x, y = 1.3 * x, 1.3 * y + 0.12
    inner = np.square(x) + np.square(y) - 1
    return inner**3 <= np.square(x) * y**3


def _with_factors(
    pictures: np.ndarray, codes: np.ndarray, levels: Sequence[Iterable[Any]], size: int
) -> Data:
    """Put black-and-white pictures and factors together as data."""
    return Data(
        {"x": pictures, "factors": np.ascontiguousarray(codes, dtype=np.int16)},
        fields={"x": [Field("x", "binary")], "factors": _fields(FACTORS, levels)},
        image_shape={"x": (size, size)},
    )


def _fields(factors: Sequence[str], levels: Sequence[Iterable[Any]]) -> list[Field]:
    names = [tuple(str(value) for value in level) for level in levels]
    return [Field(f, "categorical", n) for f, n in zip(factors, names, strict=True)]


register(
    DataSet(
        "sprites",
        "Square, ellipse and heart of known scale, orientation and place; options size, scales, "
        "orientations, positions",
        "2304 x 576 (24 x 24), 0 or 1, with 5 factors; each combination of factors once",
        "Apache-2.0 (drawn by vaeppl)",
        "after Matthey et al. (2017), dSprites, https://github.com/deepmind/dsprites-dataset",
        _sprites,
    )
)


# dSprites

_DSPRITES = Remote(
    "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5",
    "https://github.com/deepmind/dsprites-dataset/raw/master/"
    "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5",
    "sha256:729fa22e884c9c500e1f17415d580746b4c5894fbbb780a1319bbcfa39a745bb",
)
_BLOCK = 2**14  # pictures read at once: 64 MB


def _dsprites(files: Files, *, rows: int | None = 50_000, seed: int = 0) -> Data:
    import h5py

    path = files.path(_DSPRITES.file)
    try:
        with h5py.File(path, "r") as file:
            chosen = _some_rows(len(file["imgs"]), rows, seed)
            pictures = _read_some(file["imgs"], chosen)
            # The first factor is the colour, always white.
            codes = np.asarray(file["latents/classes"])[chosen, 1:]
            values = np.asarray(file["latents/values"])[chosen, 1:]
    except (OSError, KeyError) as error:
        raise DownloadError(f"cannot read {path} ({error}); delete it and load again") from error
    levels: list[Iterable[Any]] = [SHAPES, *(np.unique(column).round(4) for column in values.T[1:])]
    size = pictures.shape[-1]
    return _with_factors(pictures.reshape(len(pictures), -1), codes, levels, size)


def _some_rows(number: int, rows: int | None, seed: int) -> np.ndarray:
    if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
        raise DataError(f"rows={rows!r}; expected a whole number, at least 1, or None for all")
    if rows is None or rows >= number:
        return np.arange(number)
    return np.sort(np.random.RandomState(seed).permutation(number)[:rows])


def _read_some(
    store: Any, chosen: np.ndarray, change: Callable[[np.ndarray], np.ndarray] = lambda p: p
) -> np.ndarray:
    """Read rows in runs, as those of a compressed file cannot be had one by one; change them."""
    parts = []
    for first in range(0, len(store), _BLOCK):
        here = chosen[(first <= chosen) & (chosen < first + _BLOCK)]
        if len(here):
            parts.append(change(store[first : first + _BLOCK][here - first]))
    return np.concatenate(parts)


register(
    DataSet(
        "dsprites",
        "dSprites: square, ellipse and heart; a random draw, or all with option rows=None (3 GB)",
        "50000 of 737280 x 4096 (64 x 64), 0 or 1, with 5 factors",
        "Apache-2.0",
        "Matthey et al. (2017), dSprites, https://github.com/deepmind/dsprites-dataset",
        _dsprites,
        (_DSPRITES,),
    )
)


# 3D Shapes

FACTORS_3D = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
SHAPES_3D = ("cube", "cylinder", "sphere", "capsule")
_SHAPES_3D = Remote(
    "3dshapes.h5",
    "https://storage.googleapis.com/3d-shapes/3dshapes.h5",
    "sha256:0a0f6ed98baff276a50f3a081a7434d788da63cb135a98189b2a5b5769be1785",
)


def _shapes3d(files: Files, *, rows: int | None = 20_000, size: int = 32, seed: int = 0) -> Data:
    import h5py

    path = files.path(_SHAPES_3D.file)
    try:
        with h5py.File(path, "r") as file:
            side = file["images"].shape[1]
            if isinstance(size, bool) or not isinstance(size, int) or size < 1 or side % size:
                raise DataError(f"size={size!r}; expected a whole number that divides {side}")
            chosen = _some_rows(len(file["images"]), rows, seed)
            pictures = _read_some(file["images"], chosen, lambda p: _shrunk(p, size))
            values = np.asarray(file["labels"])
    except (OSError, KeyError) as error:
        raise DownloadError(f"cannot read {path} ({error}); delete it and load again") from error
    levels = [np.unique(column) for column in values.T]
    codes = [np.searchsorted(found, v) for found, v in zip(levels, values[chosen].T, strict=True)]
    named = [
        SHAPES_3D if f == "shape" else v.round(3) for f, v in zip(FACTORS_3D, levels, strict=True)
    ]
    return Data(
        {"x": pictures.reshape(len(pictures), -1), "factors": np.stack(codes, 1).astype(np.int16)},
        fields={"x": [Field("x", "unit")], "factors": _fields(FACTORS_3D, named)},
        scale={"x": 255},
    )


def _shrunk(pictures: np.ndarray, size: int) -> np.ndarray:
    """Return means of blocks of pixels, colours first: ``(N, 3, size, size)``."""
    number, side, _, colours = pictures.shape
    block = side // size
    blocks = pictures.reshape(number, size, block, size, block, colours).mean((2, 4))
    return np.moveaxis(blocks, -1, 1).round().astype(np.uint8)


register(
    DataSet(
        "shapes3d",
        "3D Shapes, in colour; a random draw, or all with option rows=None; option size up to 64",
        "20000 of 480000 x 3072 (3 x 32 x 32), in [0, 1], with 6 factors",
        "Apache-2.0",
        "Burgess and Kim (2018), 3D Shapes, https://github.com/deepmind/3d-shapes",
        _shapes3d,
        (_SHAPES_3D,),
    )
)
