"""Rows that are no islands: objects seen at several angles, subjects measured at several times."""

from __future__ import annotations

import numpy as np
import torch

from ..columns import Field
from ..dataset import Data
from ..download import Files
from ..errors import DataError
from ..registry import DataSet, register
from .labels import labels

__all__: list[str] = []


# Digits that come with scikit-learn, turned

SEEN_SHARE = 0.75  # of the views of an object that are there to be fitted


def _rotated_digits(
    files: Files,
    *,
    digit: int = 3,
    objects: int = 80,
    angles: int = 12,
    held_out: int = 5,
    features: int = 6,
    seed: int = 0,
) -> Data:
    from scipy import ndimage
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images[bunch.target == digit] / 16
    for name, given, top in (("objects", objects, len(images)), ("held_out", held_out, angles - 1)):
        least = 0 if name == "held_out" else features + 1
        if not least <= given <= top:
            raise DataError(f"{name}={given}; expected a whole number from {least} to {top}")
    images = images[:objects]
    step = 360 / angles
    turned = [
        ndimage.rotate(images, step * k, axes=(2, 1), reshape=False, order=1) for k in range(angles)
    ]
    x = np.stack(turned, axis=1).reshape(objects * angles, 64).astype(np.float32)
    which, view = np.divmod(np.arange(objects * angles), angles)
    rng = np.random.default_rng(seed)
    seen = (rng.random(len(x)) < SEEN_SHARE) & (view != held_out)
    seen[angles * np.arange(objects) + (held_out + 1) % angles] = True  # no object without a view
    return Data(
        {
            "x": x,
            "object": which,
            "angle": np.deg2rad(step * view),
            "object_features": _components(images.reshape(objects, -1), features)[which],
        },
        fields={
            "x": [Field("x", "real")],
            "object": labels(range(objects), "object"),
            "angle": [Field("angle", "real")],
            "object_features": [Field(f"pca[{i}]", "real") for i in range(features)],
        },
        image_shape={"x": (8, 8)},
        splits={
            "train": _where(seen),
            "valid": _where(~seen & (view != held_out)),
            "test": _where(view == held_out),
        },
    )


def _components(images: np.ndarray, count: int) -> np.ndarray:
    """Return principal component scores, each column's largest entry positive."""
    centred = images - images.mean(0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    scores = left[:, :count] * scale[:count]
    signs = np.sign(scores[np.abs(scores).argmax(0), range(count)])
    standard: np.ndarray = scores * signs / scores.std(0)
    return standard


def _where(mask: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.flatnonzero(mask))


register(
    DataSet(
        "rotated_digits",
        "Handwritten digits turned by 12 angles; those at one angle are held out",
        "960 x 64 (8 x 8), with object, angle and 6 features; valid: other views, test: the angle",
        "CC BY 4.0",
        "made from the digits of Alpaydin and Kaynak (1998), after Casale et al. (2018)",
        _rotated_digits,
    )
)


# Subjects at irregular visits, simulated

YEARS = 10.0
FEWEST, MOST = 7, 12  # visits of a subject
LENGTH = 3.0  # years over which a subject's course keeps its shape
NOISE = 0.15


def _longitudinal(files: Files, *, subjects: int = 40, markers: int = 12, seed: int = 0) -> Data:
    if subjects < 2 or markers < 2:
        raise DataError(f"subjects={subjects}, markers={markers}; expected 2 or more of both")
    rng = np.random.default_rng(seed)
    mix, shift = rng.normal(size=(2, markers)), 0.5 * rng.normal(size=markers)
    time, subject, parts = [], [], []
    for i in range(subjects):
        visits = np.sort(rng.uniform(0, YEARS, rng.integers(FEWEST, MOST + 1)))
        time.append(visits)
        subject.append(np.full(len(visits), i))
        parts.append(_parts_of(len(visits), rng))
    at, who, part = np.concatenate(time), np.concatenate(subject), np.concatenate(parts)
    course = np.stack([np.tanh((at - YEARS / 2) / 2), np.cos(2 * np.pi * at / YEARS)], -1)
    for i in range(subjects):
        mine = who == i
        distance = np.subtract.outer(at[mine], at[mine]) / LENGTH
        root = np.linalg.cholesky(np.exp(-0.5 * distance**2) + 1e-8 * np.eye(mine.sum()))
        course[mine] += 0.7 * root @ rng.normal(size=(mine.sum(), 2))
    signal = np.tanh(course @ mix + shift) + 0.3 * (course @ mix)
    data = Data(
        {
            "x": (signal + NOISE * rng.normal(size=signal.shape)).astype(np.float32),
            "time": at,
            "subject": who,
            "signal": signal.astype(np.float32),
        },
        fields={
            "x": [Field(f"marker[{i}]", "real") for i in range(markers)],
            "time": [Field("time", "real")],
            "subject": labels(range(subjects), "subject"),
        },
        splits={name: _where(part == name) for name in ("train", "valid", "test")},
    )
    return data


def _parts_of(visits: int, rng: np.random.Generator) -> np.ndarray:
    """Hold out the last two visits of a subject, and one between others."""
    part = np.full(visits, "train", dtype="<U5")
    part[-2:] = "test"
    part[rng.integers(1, visits - 3)] = "valid"
    return part


register(
    DataSet(
        "longitudinal",
        "Simulated subjects with markers measured at irregular visits",
        "about 380 x 12, with time, subject and the signal without noise; valid: a visit in "
        "between, test: the last two",
        "CC0",
        "simulated here: two latent courses, common and of each subject, behind all markers",
        _longitudinal,
    )
)
