"""Ways through the latent space: from one code to another, and along one dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import unknown_name
from ._arrays import as_codes, off_torch

__all__ = ["interpolate", "traverse"]

KINDS = ("linear", "spherical")
LEAST_SINE = 1e-6  # of the angle between two codes; below it their great circle is not told


def interpolate(start: Any, end: Any, steps: int = 8, *, kind: str = "linear") -> np.ndarray:
    r"""Return codes on the way from one to another, both ends among them.

    With t from 0 to 1 in equal steps:

    .. math::
        \text{linear: } (1 - t)\, z_0 + t\, z_1, \qquad
        \text{spherical: } \frac{\sin((1 - t) Ω)}{\sin Ω}\, z_0 + \frac{\sin(t Ω)}{\sin Ω}\, z_1,

    with Ω the angle between the two. Under a normal prior of many dimensions codes lie near a
    sphere, and the middle of a straight line far inside it, where no data come from; the great
    circle stays on it.

    Parameters
    ----------
    start, end
        Codes, ``(D,)`` or, for several ways at once, ``(N, D)``.
    steps
        Codes on the way, 2 or more.
    kind
        ``"linear"`` or ``"spherical"``. Codes of the same direction have a straight line in both.

    Returns
    -------
    ndarray
        ``(steps, D)`` or ``(steps, N, D)``.

    Raises
    ------
    ColumnError
        If a code is not finite.
    ValueError
        If shapes differ, or a great circle is asked for where there is none: to or from 0, or
        between opposite codes.

    References
    ----------
    Shoemake (1985), "Animating rotation with quaternion curves"; White (2016), "Sampling
    generative networks", section 2.

    Examples
    --------
    >>> interpolate([1.0, 0.0], [0.0, 1.0], 3).tolist()
    [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    >>> interpolate([1.0, 0.0], [0.0, 1.0], 3, kind="spherical").round(3).tolist()
    [[1.0, 0.0], [0.707, 0.707], [0.0, 1.0]]
    """
    if kind not in KINDS:
        raise ValueError(unknown_name("kind of interpolation", kind, KINDS))
    if steps < 2:
        raise ValueError(f"steps is at least 2, the two ends; given {steps}")
    several = np.ndim(start) > 1
    z0, z1 = (_as_rows(z) for z in (start, end))
    if z0.shape != z1.shape:
        raise ValueError(f"the ends have shapes {np.shape(start)} and {np.shape(end)}")
    t = np.linspace(0, 1, steps)[:, None, None]
    w0, w1 = (1 - t, t) if kind == "linear" else _great_circle(z0, z1, t)
    way: np.ndarray = w0 * z0 + w1 * z1
    way[0], way[-1] = z0, z1
    return way if several else way[:, 0]


def traverse(code: Any, dimension: int, values: Sequence[float]) -> np.ndarray:
    """Return a code with one entry run through values, the others held fixed.

    Parameters
    ----------
    code
        ``(D,)``.
    dimension
        The entry that changes; negative numbers count from the end.
    values
        What it is set to.

    Returns
    -------
    ndarray
        ``(len(values), D)``.

    Examples
    --------
    >>> traverse([0.5, 0.5], 1, [-1.0, 0.0, 1.0]).tolist()
    [[0.5, -1.0], [0.5, 0.0], [0.5, 1.0]]
    """
    z = _as_rows(code)
    if len(z) != 1:
        raise ValueError(f"one code is traversed, of shape (D,); given {np.shape(code)}")
    if not -z.shape[1] <= dimension < z.shape[1]:
        raise ValueError(f"there is no dimension {dimension} in a code of {z.shape[1]}")
    way = np.repeat(z, len(values), axis=0)
    way[:, dimension] = values
    return way


def _as_rows(code: Any) -> np.ndarray:
    z = np.asarray(off_torch(code))
    return as_codes(z[None] if z.ndim == 1 else z, "codes")


def _great_circle(z0: np.ndarray, z1: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of both ends, ``(steps, N, 1)``."""
    norms = np.linalg.norm(z0, axis=1) * np.linalg.norm(z1, axis=1)
    if (norms == 0).any():
        raise ValueError('0 has no direction, so there is no great circle: take kind="linear"')
    # The angle from the chord and its opposite: exact for small angles, where arccos is not.
    u0, u1 = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (z0, z1))
    across, along = (np.linalg.norm(d, axis=1, keepdims=True) for d in (u0 - u1, u0 + u1))
    angle = 2 * np.arctan2(across, along)
    sine = np.sin(angle)
    if ((sine < LEAST_SINE) & (angle > 1)).any():
        raise ValueError('opposite codes have no one great circle: take kind="linear"')
    same = sine < LEAST_SINE
    safe = np.where(same, 1.0, sine)
    w0 = np.where(same, 1 - t, np.sin((1 - t) * angle) / safe)
    w1 = np.where(same, t, np.sin(t * angle) / safe)
    return w0, w1
