"""Prediction for rows that were never seen: the process given all encoded rows, then decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data import Data, as_data, minibatches
from ..distributions import centre
from ..errors import ColumnError, StoryError
from ..pair import as_pair
from ..reading import tracing
from .factorise import cholesky
from .inputs import finite_column
from .weights import Weights, WeightSums, values_given

__all__ = ["Prediction", "posterior", "predict", "weight_sums"]

ROWS_AT_ONCE = 1024
MOST_SORTED = 2**24  # numbers that torch.quantile takes


@dataclass(frozen=True)
class Prediction:
    """What the story says of rows of which only the columns of the kernel are known.

    Attributes
    ----------
    z_mean, z_sd : Tensor
        Mean and standard deviation of z given the encoded rows, ``(N, L)``; α is a part of it.
    x_mean : Tensor
        Mean of x at the mean of z, ``(N, x_dim)``.
    z, x_given_z, x : Tensor or None
        Draws, jointly for all rows, ``(num_samples, N, ...)``: of z, of the mean of x given z, and
        of x. The mean over ``x_given_z`` estimates E[x], which errs least in the mean square.
    """

    z_mean: Tensor
    z_sd: Tensor
    x_mean: Tensor
    z: Tensor | None = None
    x_given_z: Tensor | None = None
    x: Tensor | None = None

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Return lower and upper ends of an interval for each entry of x, ``(N, x_dim)``.

        Quantiles of the draws of x, so that they hold the uncertainty of z and the noise of x.

        Parameters
        ----------
        level
            Probability of the interval; half of the rest lies on either side.

        Raises
        ------
        ValueError
            If the prediction has no draws, or the level is no probability.
        """
        if self.x is None:
            raise ValueError("an interval needs draws: gp.predict(..., num_samples=500)")
        if not 0 < level < 1:
            raise ValueError(f"level is a probability between 0 and 1; given {level}")
        ends = torch.tensor([0.5 - level / 2, 0.5 + level / 2]).to(self.x)
        rows = max(1, MOST_SORTED * self.x.shape[1] // self.x.numel())
        found = [part.quantile(ends, dim=0) for part in self.x.split(rows, dim=1)]
        lower, upper = torch.cat(found, dim=1)
        return lower, upper


def posterior(source: Any, data: Any) -> Weights:
    """Return the weights of the process given q(z | x) of all rows of some data.

    ::

        u^l ~ N(M m^l, S + M diag(s^l)² Mᵀ),   S = (I + Vᵀ D⁻¹ V)⁻¹,  M = S Vᵀ D⁻¹

    with m and s of the encoder: p(u | Z) with Z as uncertain as q says.

    Parameters
    ----------
    source
        A fit of :class:`~vaeppl.models.GPVAE` or :class:`~vaeppl.models.ExactGPVAE`, or the story.
    data
        Rows with ``x`` and the columns of the kernel.
    """
    return weight_sums(source, data).weights()


def weight_sums(source: Any, data: Any) -> WeightSums:
    """Encode all rows, and add up what their latents say of the weights."""
    pair = as_pair(source)
    story = _story(pair)
    sums = WeightSums()
    with tracing.quiet(pair):
        for batch in _parts(tracing.resident(pair, data)):
            w = {name: batch[name] for name in story.given_columns}
            q = story.q_z(batch["x"])
            factor, diagonal = story.features(w)
            sums.add(factor, diagonal, q.mean, q.variance)
    return sums


def predict(
    source: Any,
    given: Any,
    data: Any = None,
    *,
    weights: Weights | None = None,
    num_samples: int = 0,
    seed: int = 0,
) -> Prediction:
    """Predict rows of which only the columns of the kernel are known.

    Parameters
    ----------
    source
        A fit of :class:`~vaeppl.models.GPVAE` or :class:`~vaeppl.models.ExactGPVAE`, or the story.
    given
        The columns of the kernel, for the rows to predict.
    data
        Rows to learn from, with ``x``; those that were fitted if ``None``. They may be more than
        those: other views of an object that is new, say.
    weights
        What :func:`posterior` made of such rows, to save encoding them again.
    num_samples
        Draws of z and x to return besides the means.
    seed
        Fixes the draws.

    Returns
    -------
    Prediction

    Raises
    ------
    ColumnError
        If there are no rows to learn from, a column is missing, or one holds NaN or infinity.
    StoryError
        If the story has no Gaussian process.
    """
    pair = as_pair(source)
    story = _story(pair)
    if num_samples < 0:
        raise ValueError(f"num_samples is the number of draws, 0 or more; given {num_samples}")
    if weights is None:
        known = data if data is not None else getattr(source, "train", None)
        if not isinstance(known, (Data, dict)) and data is None:
            raise ColumnError("there are no rows to learn from: pass data=, with x and the columns")
        weights = posterior(source, known)
    columns = as_data(given)
    missing = [c for c in story.given_columns if c not in columns]
    if missing:
        raise ColumnError(
            f"the kernel is on column {missing[0]!r}, which `given` lacks: it has "
            f"{', '.join(map(repr, columns.keys()))}"
        )
    for name in story.given_columns:
        finite_column(columns, name)
    rows = columns.columns(*story.given_columns).to(pair.device, dtype=pair.dtype)
    with tracing.quiet(pair, seed=seed):
        draws = _draw(weights, num_samples)
        parts = [_predict_part(story, w, weights, draws) for w in _parts(rows)]
    return _joined(parts)


def _story(pair: Any) -> Any:
    story = pair.source[0]
    if not hasattr(story, "q_z") or not hasattr(story, "features"):
        raise StoryError(
            f"{pair.name} has no Gaussian process to predict with: pass a fit of GPVAE or "
            "ExactGPVAE"
        )
    return story


def _parts(rows: Data) -> Any:
    for batch in minibatches(rows, min(ROWS_AT_ONCE, len(rows)), shuffle=False):
        yield batch.columns


def _draw(weights: Weights, num: int) -> Tensor:
    """Draw weights, ``(num, L, H)``, shared by all rows."""
    if not num:
        return weights.mean.new_zeros(0, *weights.mean.shape)
    tril = cholesky(weights.covariance, "covariance of the weights")
    noise = torch.randn(num, *weights.mean.shape, 1, dtype=tril.dtype, device=tril.device)
    return weights.mean + (tril @ noise).squeeze(-1)


def _predict_part(story: Any, w: Any, weights: Weights, draws: Tensor) -> Prediction:
    factor, diagonal = (t.double() for t in story.features(w))
    mean, sd = predictive_moments(weights, factor, diagonal)
    like = story.log_alpha.dtype
    x_mean = centre(story.p_x(mean.to(like)))
    if not len(draws):
        return Prediction(mean.to(like), sd.to(like), x_mean)
    z = values_given(draws.unsqueeze(-3), factor, diagonal).sample().to(like)
    x = [story.p_x(one) for one in z]
    return Prediction(
        mean.to(like),
        sd.to(like),
        x_mean,
        z,
        torch.stack([centre(p) for p in x]),
        torch.stack([p.sample() for p in x]),
    )


def predictive_moments(weights: Weights, factor: Tensor, diagonal: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of z, ``(N, L)``, under weights that are uncertain."""
    mean = values_given(weights.mean, factor, diagonal).mean
    spread = (factor @ weights.covariance * factor).sum(-1).mT
    rest = diagonal.unsqueeze(-1) if diagonal.ndim == 1 else diagonal.mT
    return mean, (spread.clamp(min=0.0) + rest).sqrt()


def _joined(parts: list[Prediction]) -> Prediction:
    def along(name: str, dim: int) -> Any:
        values = [getattr(p, name) for p in parts]
        return None if values[0] is None else torch.cat(values, dim=dim)

    means = {name: along(name, 0) for name in ("z_mean", "z_sd", "x_mean")}
    return Prediction(**means, **{name: along(name, 1) for name in ("z", "x_given_z", "x")})
