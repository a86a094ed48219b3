"""How well sources are told apart: the Amari distance of an unmixing from a mixing matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arrays import off_torch

__all__ = ["amari_distance"]


def amari_distance(unmixing: Any, mixing: Any) -> float:
    r"""Return how far an unmixing matrix is from undoing a mixing, whatever order and scale.

    With P = B A, which is a scaled permutation where each source is found:

    .. math::
        \frac{1}{2K(K-1)} \left( \sum_i \Big( \sum_j \frac{|P_{ij}|}{\max_k |P_{ik}|} - 1 \Big)
        + \sum_j \Big( \sum_i \frac{|P_{ij}|}{\max_k |P_{kj}|} - 1 \Big) \right)

    Parameters
    ----------
    unmixing
        B, ``(K, D)``.
    mixing
        A, ``(D, K)``.

    Returns
    -------
    float
        From 0, all sources are found, to 1.

    Raises
    ------
    ValueError
        If the shapes do not match, or a row or a column of P is zero or not finite.

    References
    ----------
    Amari, Cichocki and Yang (1996), "A new learning algorithm for blind signal separation".

    Examples
    --------
    >>> mixing = np.array([[1.0, 2.0], [0.5, -1.0]])
    >>> amari_distance(np.linalg.inv(mixing)[::-1] * 3, mixing)
    0.0
    >>> amari_distance(np.eye(2), np.array([[1.0, 1.0], [1.0, -1.0]]))
    1.0
    """
    b, a = (np.asarray(off_torch(m), dtype=float) for m in (unmixing, mixing))
    if b.ndim != 2 or b.shape != a.shape[::-1] or len(b) < 2:
        raise ValueError(
            "unmixing is (K, D) and mixing (D, K), for two sources or more; given shapes "
            f"{b.shape} and {a.shape}"
        )
    p = np.abs(b @ a)
    if not (np.isfinite(p).all() and p.max(0).all() and p.max(1).all()):
        raise ValueError("a row or a column of unmixing @ mixing is zero or not finite")
    excess = (p / p.max(1, keepdims=True)).sum() + (p / p.max(0, keepdims=True)).sum() - 2 * len(p)
    return float(excess / (2 * len(p) * (len(p) - 1)))
