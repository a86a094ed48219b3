"""Cholesky factors of covariances: in float64, with jitter by one rule."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import StoryError
from .evaluation import writing_a_graph

__all__ = ["JITTERS", "cholesky", "cholesky_of_precision"]

# Shares of the mean variance that are added to the diagonal, tried in turn. The first is there
# always: a pivot below it would be rounding, and gradients through the factor would be noise.
JITTERS = (1e-10, 1e-8, 1e-6, 1e-4)


def cholesky(covariance: Tensor, what: str = "covariance") -> Tensor:
    """Return the lower Cholesky factor of a covariance, computed in float64.

    A share of the mean variance is added to the diagonal: 1e-10, and where that is not enough (a
    lengthscale far above the distance of the points, points that coincide) 1e-8, 1e-6 and 1e-4.

    Parameters
    ----------
    covariance
        Shape ``(..., Q, Q)``.
    what
        What it is, for the message.

    Returns
    -------
    Tensor
        Shape ``(..., Q, Q)``, float64.

    Raises
    ------
    StoryError
        If even the largest jitter does not make it positive definite.

    Examples
    --------
    >>> import torch
    >>> cholesky(torch.ones(3, 3))[:, 0]
    tensor([1.0000, 1.0000, 1.0000], dtype=torch.float64)
    """
    covariance = covariance.double()
    variance = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    identity = torch.eye(covariance.shape[-1], dtype=torch.float64, device=covariance.device)
    if writing_a_graph():
        return _without_a_look(covariance, variance * identity)
    for jitter in JITTERS:
        factor, failed = torch.linalg.cholesky_ex(covariance + jitter * variance * identity)
        if not bool(failed.any()):
            return factor
    finite = bool(covariance.isfinite().all())
    why = (
        "it is not positive semi-definite; is it a valid kernel?"
        if finite
        else "it holds NaN or infinity; a lengthscale or variance has become 0 or infinite. Lower "
        "lr, or give clip_norm"
    )
    raise StoryError(
        f"the {what} has no Cholesky factor, even with {JITTERS[-1]:g} of its variance added to "
        f"the diagonal: {why}"
    )


def _without_a_look(covariance: Tensor, diagonal: Tensor) -> Tensor:
    """Return the same factor by operations alone; NaN where there is none."""
    with torch.no_grad():
        chosen = torch.full_like(covariance.diagonal(dim1=-2, dim2=-1).mean(), torch.nan)
        for jitter in JITTERS[::-1]:
            _, failed = torch.linalg.cholesky_ex(covariance + jitter * diagonal)
            chosen = torch.where(failed.any(), chosen, jitter)
    factor, _ = torch.linalg.cholesky_ex(covariance + chosen * diagonal)
    return factor


def cholesky_of_precision(u: Tensor, gram: Tensor | None = None) -> Tensor:
    """Return the lower Cholesky factor of I + Uᵀ U, without jitter, as no pivot is below 1.

    Parameters
    ----------
    u
        Shape ``(..., N, H)``, float64.
    gram
        Uᵀ U, where it is known already.
    """
    gram = u.mT @ u if gram is None else gram
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(gram + identity)
    if writing_a_graph():
        return torch.where(failed.any(), torch.nan, factor)
    if bool(failed.any()):
        return cholesky(gram + identity, "matrix I + Uᵀ U of a process")
    return factor
