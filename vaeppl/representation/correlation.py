"""Total correlation of the aggregate posterior: how far the codes are from independent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import ColumnError, unknown_name
from ._arrays import as_codes, varying
from .scores import Score

__all__ = ["total_correlation"]

METHODS = ("gaussian", "weighted", "stratified")
ENTRIES_AT_ONCE = 2**22  # densities held at once: 32 MB
LEAST_EIGENVALUE = 1e-12  # of a correlation matrix; below it codes determine each other


def total_correlation(
    means: Any,
    scales: Any = None,
    *,
    method: str = "gaussian",
    batch_size: int = 1024,
    seed: int = 0,
) -> Score:
    r"""Return the total correlation of the aggregate posterior q(z), in nats.

    .. math::
        \mathrm{TC} = \mathrm{KL}\Bigl( q(z) \Bigm\| \prod_d q(z_d) \Bigr), \quad
        q(z) = \frac1N \sum_n q(z \mid x_n)

    Parameters
    ----------
    means
        Posterior means of the rows, ``(N, D)``, or draws.
    scales
        Standard deviations of q(z | x_n), Gaussian with independent codes, ``(N, D)``. ``None``:
        only the means are judged (``method="gaussian"``).
    method
        ``"gaussian"``: of the normal distribution with the covariance Σ of q(z),
        ½ (Σ_d log Σ_dd - log det Σ). It sees linear dependence only.

        ``"weighted"``: minibatch-weighted sampling. Of M rows in a batch each gives a draw, and
        q(z_i) is estimated by Σ_j q(z_i | x_j) / NM. The weights sum to 1/N rather than 1, so it
        lies above the true value, by (D - 1) log N where one batch holds all rows: good for a
        loss, whose gradient the constant leaves alone.

        ``"stratified"``: the row that gave the draw has weight 1/N, and the other M - 1 rows share
        the rest evenly. Unbiased for q(z), so that only the logarithm biases it; exact but for the
        draws where one batch holds all rows.
    batch_size
        M; all rows if there are fewer. The last, smaller batch is left out.
    seed
        Fixes the batches and the draws.

    Returns
    -------
    Score
        Its ``parts`` are the means of log q(z) and of Σ_d log q(z_d), and for the two methods
        that draw the standard error of their difference over the draws. Constant means count as
        independent of all others; infinite where some codes determine another
        (``method="gaussian"``).

    Raises
    ------
    ColumnError
        If values are not finite, scales are not positive or of another shape, or there are fewer
        than two rows.

    Notes
    -----
    Order, sign, scale and shift of the codes do not matter (scales scaled with the means).

    References
    ----------
    Watanabe (1960), "Information theoretical analysis of multivariate correlation"; Chen, Li,
    Grosse and Duvenaud (2018), "Isolating sources of disentanglement in variational
    autoencoders", section 3.1 and appendix (minibatch-weighted and -stratified sampling).

    Examples
    --------
    >>> import numpy as np
    >>> z = np.array([[-1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]])
    >>> total_correlation(z)
    total_correlation 0.000 (rows=4, method='gaussian')
    >>> twice = total_correlation(z[:2], np.full((2, 2), 0.01), method="stratified")
    >>> round(float(twice), 6)  # log 2: both codes tell the same of two values
    0.693147
    """
    mu = as_codes(means, "means")
    sigma = None if scales is None else as_scales(scales, mu)
    if method not in METHODS:
        raise ValueError(unknown_name("method", method, METHODS))
    if len(mu) < 2:
        raise ColumnError("an aggregate of one row has no correlation; give two rows or more")
    if method == "gaussian":
        return _gaussian(mu, sigma)
    if sigma is None:
        raise ColumnError(
            f"method {method!r} draws from q(z | x): pass its standard deviations as `scales`"
        )
    if batch_size < 2:
        raise ValueError(f"batch_size is at least 2; given {batch_size}")
    return _sampled(mu, sigma, method, min(batch_size, len(mu)), seed)


def as_scales(scales: Any, means: np.ndarray) -> np.ndarray:
    """Return standard deviations as float64, ``(N, D)``, if they are some and fit the means."""
    sigma = as_codes(scales, "scales")
    if sigma.shape != means.shape:
        raise ColumnError(f"scales have shape {sigma.shape}, but means {means.shape}")
    if (sigma <= 0).any():
        row, dimension = np.argwhere(sigma <= 0)[0]
        raise ColumnError(
            f"the scales hold {sigma[row, dimension]} at row {row}, dimension {dimension}; "
            "standard deviations are above 0"
        )
    return sigma


def _gaussian(mu: np.ndarray, sigma: np.ndarray | None) -> Score:
    """Return the total correlation of the normal distribution with q's covariance."""
    import pandas as pd

    varies = varying(mu) if sigma is None else np.ones(mu.shape[1], bool)
    centred = (mu - mu.mean(0))[:, varies]
    covariance = centred.T @ centred / len(mu)
    if sigma is not None:
        covariance = covariance + np.diag(np.square(sigma).mean(0))
    variance = np.diag(covariance)
    # log det Σ = log det of the correlations + Σ_d log Σ_dd.
    eigenvalues = np.linalg.eigvalsh(covariance / np.sqrt(np.outer(variance, variance)))
    singular = varies.any() and eigenvalues[0] < LEAST_EIGENVALUE
    value = math.inf if singular else max(0.0, -0.5 * float(np.log(eigenvalues).sum()))
    marginals = -0.5 * float(np.log(2 * np.pi * np.e * variance).sum())
    parts = pd.Series({"log q(z)": marginals + value, "sum log q(z_d)": marginals})
    settings = {"rows": len(mu), "method": "gaussian"}
    return Score("total_correlation", value, parts, settings=settings)


def _sampled(mu: np.ndarray, sigma: np.ndarray, method: str, batch: int, seed: int) -> Score:
    """Return the estimate from draws of q, batch by batch."""
    import pandas as pd

    chance, rows = np.random.RandomState(seed), len(mu)
    order = chance.permutation(rows)[: rows // batch * batch].reshape(-1, batch)
    draws = mu + sigma * chance.standard_normal(mu.shape)
    weights = _log_weights(rows, batch, method)
    found = [_log_densities(draws[b], mu[b], sigma[b], weights) for b in order]
    joint = np.concatenate([j for j, _ in found])
    marginals = np.concatenate([m for _, m in found])
    value, error = (joint - marginals).mean(), (joint - marginals).std() / math.sqrt(len(joint))
    parts = {"log q(z)": joint.mean(), "sum log q(z_d)": marginals.mean(), "standard error": error}
    settings = {"rows": rows, "method": method, "batch_size": batch, "seed": seed}
    return Score("total_correlation", float(value), pd.Series(parts), settings=settings)


def _log_weights(rows: int, batch: int, method: str) -> np.ndarray:
    """Return the log-weight of row j of a batch in the density of a draw of row i, ``(M, M)``."""
    if method == "weighted":
        return np.full((batch, batch), -math.log(rows * batch))
    others = np.full((batch, batch), math.log((rows - 1) / (rows * (batch - 1))))
    np.fill_diagonal(others, -math.log(rows))
    return others


def _log_densities(
    z: np.ndarray, mu: np.ndarray, sigma: np.ndarray, log_weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return log q(z_i) and Σ_d log q(z_id) of each draw of a batch."""
    from scipy.special import logsumexp

    joint, marginals = [], []
    step = max(1, ENTRIES_AT_ONCE // mu.size)
    constant = np.log(sigma) + 0.5 * math.log(2 * math.pi)
    for first in range(0, len(z), step):
        some = slice(first, first + step)
        log_q = -0.5 * np.square((z[some, None] - mu) / sigma) - constant
        joint.append(logsumexp(log_q.sum(-1) + log_weights[some], axis=1))
        marginals.append(logsumexp(log_q + log_weights[some, :, None], axis=1).sum(-1))
    return np.concatenate(joint), np.concatenate(marginals)
