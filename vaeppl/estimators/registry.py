"""The estimators by name, each with what it estimates and when it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.infer

from ..errors import unknown_name
from .elbo import ELBO

__all__ = ["Estimator", "about", "available", "enumerates", "get"]


class Estimator(NamedTuple):
    """A line of the registry: how to make the estimator, and an account of it."""

    make: Callable[..., pyro.infer.ELBO]
    account: str
    enumerates: bool = True


def _monte_carlo(**options: Any) -> ELBO:
    return ELBO(analytic_kl=False, **options)


def _score_function(**options: Any) -> ELBO:
    return ELBO(enumerate=False, **options)


_ESTIMATORS: dict[str, Estimator] = {
    "elbo": Estimator(
        ELBO,
        "The ELBO with the KL of a site exact where it is known and valid, else from the draws. "
        "Unbiased; of lowest variance while q is far from the posterior. Takes a KL weight and "
        "free bits. Discrete latents that the guide marks for it are summed out exactly; others "
        "get a score-function gradient.",
    ),
    "score_function": Estimator(
        _score_function,
        "The ELBO with discrete latents drawn, not summed out: REINFORCE. Unbiased. With one "
        "particle its gradient varies much; with several, each particle's baseline is the mean of "
        "the others, row by row, and cost grows with their number and not with that of the values.",
        enumerates=False,
    ),
    "elbo_monte_carlo": Estimator(
        _monte_carlo,
        "The ELBO from draws alone: log p(x, z) - log q(z | x). Unbiased. Its value varies less "
        "than that of the exact KL when q is near the posterior.",
    ),
    "trace_elbo": Estimator(
        pyro.infer.Trace_ELBO,
        "Pyro's Trace_ELBO: the same estimate as elbo_monte_carlo, without weights or report. "
        "It draws discrete latents, with a score-function gradient and no baseline.",
        enumerates=False,
    ),
    "trace_mean_field_elbo": Estimator(
        pyro.infer.TraceMeanField_ELBO,
        "Pyro's TraceMeanField_ELBO: exact KL. Wrong, with a warning only, for guides whose "
        "latents are drawn in another order than the model's; elbo is right there. It takes no "
        "discrete latents.",
        enumerates=False,
    ),
    "trace_enum_elbo": Estimator(
        pyro.infer.TraceEnum_ELBO,
        "Pyro's TraceEnum_ELBO: sums over discrete latents marked by config_enumerate, exactly. "
        "Its value varies more than that of elbo, as no KL is exact; no weights or report, "
        "so what it gives as the ELBO holds the terms that belong to the objective alone.",
    ),
}


def available() -> list[str]:
    """List the names of the estimators.

    Examples
    --------
    >>> "elbo" in available()
    True
    """
    return list(_ESTIMATORS)


def about(name: str) -> str:
    """Return what an estimator estimates, its bias and its variance, and when it fails."""
    if name not in _ESTIMATORS:
        raise ValueError(unknown_name("estimator", name, _ESTIMATORS))
    return _ESTIMATORS[name].account


def enumerates(name: str) -> bool:
    """Tell whether an estimator sums out the discrete latents that a guide marks for it."""
    about(name)
    return _ESTIMATORS[name].enumerates


def get(estimator: str | pyro.infer.ELBO, **options: Any) -> pyro.infer.ELBO:
    """Return an estimator by name with its options; an estimator is returned as it is.

    Raises
    ------
    ValueError
        If there is none of that name, or it has no such option, or an estimator is given together
        with options.

    Examples
    --------
    >>> get("elbo", num_particles=5).num_particles
    5
    """
    if isinstance(estimator, pyro.infer.ELBO):
        if options:
            raise ValueError(
                f"the {type(estimator).__name__} given has its options already: "
                f"give {', '.join(options)} to its constructor"
            )
        return estimator
    about(estimator)
    try:
        return _ESTIMATORS[estimator].make(**options)
    except TypeError as error:
        raise ValueError(f"estimator {estimator!r} does not take these options: {error}") from None
