"""The estimators by name, each with what it estimates and when it fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pyro.infer

from ..errors import unknown_name
from .adversarial import Adversarial, FactorTC
from .capacity import Capacity
from .discrepancy import MMD
from .elbo import ELBO
from .evolution import EvolutionStrategies
from .graph import TraceEnum, TraceGraph
from .importance import CIWAE, IWAE, MIWAE, VIMCO, Renyi, VRMax
from .particles import ParticleEstimator
from .pathwise import PIWAE, STL, DReG, DReGWakeSleep, TailAdaptive
from .regularised import DIP, BetaTC
from .tvo import TVO
from .wake_sleep import WakeSleep

__all__ = ["Estimator", "about", "available", "bounds_evidence", "enumerates", "get", "options"]


class Estimator(NamedTuple):
    """A line of the registry.

    Attributes
    ----------
    make : callable
        From options to the estimator.
    account : str
        What it estimates, its bias, its variance, and when it fails.
    enumerates : bool
        Whether it sums out the discrete latents that a guide marks for it.
    bounds : bool
        Whether its value is an estimate of a bound of the log-evidence.
    """

    make: Callable[..., pyro.infer.ELBO]
    account: str
    enumerates: bool = True
    bounds: bool = True


_ESTIMATORS: dict[str, Estimator] = {
    "elbo": Estimator(
        ELBO,
        "The ELBO with the KL of a site exact where it is known and valid, else from the draws. "
        "Unbiased; of lowest variance while q is far from the posterior. Takes a KL weight and "
        "free bits. Discrete latents that the guide marks for it are summed out exactly; others "
        "get a score-function gradient.",
    ),
    "score_function": Estimator(
        partial(ELBO, enumerate=False),
        "The ELBO with discrete latents drawn, not summed out: REINFORCE. Unbiased. With one "
        "particle its gradient varies much; with several, each particle's baseline is the mean of "
        "the others, row by row, and cost grows with their number and not with that of the values.",
        enumerates=False,
    ),
    "elbo_monte_carlo": Estimator(
        partial(ELBO, analytic_kl=False),
        "The ELBO from draws alone: log p(x, z) - log q(z | x). Unbiased. Its value varies less "
        "than that of the exact KL when q is near the posterior.",
    ),
    "stl": Estimator(
        STL,
        "The ELBO with the gradient along the path of the draws alone (sticking the landing, "
        "Roeder et al. 2017). Unbiased; the variance of the guide's own gradient goes to zero as "
        "q nears the posterior, not that of the model's, nor where guide and model share "
        "parameters; far from it, it may exceed that of the exact KL. Every latent must be "
        "reparametrised.",
        enumerates=False,
    ),
    "iwae": Estimator(
        IWAE,
        "The importance-weighted bound log 1/K Σ w (Burda et al. 2016), row by row. Below log "
        "p(x) by about Var(w) / (2 K p²). The signal-to-noise ratio of the guide's gradient "
        "falls as 1/√K, so that many particles train the model and starve the guide; dreg does "
        "not. Discrete latents get VIMCO's gradient; those marked are summed under q outside the "
        "log, so that q learns of them, and gain nothing from K. Latents of rows and of all data "
        "together are refused: weights would be joint over the rows.",
    ),
    "dreg": Estimator(
        DReG,
        "IWAE with doubly reparametrised gradients (Tucker et al. 2019). The same bound, and an "
        "unbiased gradient of it whose signal-to-noise ratio for the guide grows as √K. Every "
        "latent must be reparametrised, and particles be independent.",
        enumerates=False,
    ),
    "vimco": Estimator(
        VIMCO,
        "IWAE with the score function for every latent, each particle's baseline made of the "
        "others (Mnih & Rezende 2016). Unbiased, for latents of any kind; of far higher variance "
        "than a path, where there is one. At least 2 particles.",
    ),
    "renyi": Estimator(
        Renyi,
        "The variational Rényi bound of order alpha (Li & Turner 2016): the ELBO at 1, IWAE at 0, "
        "above log p(x) perhaps below 0. From few particles it is biased toward the ELBO. "
        "Pyro's RenyiELBO scales a minibatch inside the logarithm and gives discrete latents no "
        "gradient; this one does neither.",
    ),
    "vr_max": Estimator(
        VRMax,
        "The largest log-weight of each row (Li & Turner 2016): one particle's cost for the "
        "backward pass, on a bound near that of IWAE where one weight is most of their sum. "
        "It may exceed log p(x), with enough particles.",
    ),
    "miwae": Estimator(
        MIWAE,
        "The mean of m IWAE bounds of K/m particles (Rainforth et al. 2018): less tight than "
        "IWAE, with a better signal for the guide.",
    ),
    "ciwae": Estimator(
        CIWAE,
        "beta ELBO + (1 - beta) IWAE of the same particles (Rainforth et al. 2018).",
    ),
    "piwae": Estimator(
        PIWAE,
        "The model ascends IWAE and the guide MIWAE, from the same particles (Rainforth et al. "
        "2018): two objectives, one loss; its value is IWAE. Every latent must be reparametrised.",
        enumerates=False,
    ),
    "wake_sleep": Estimator(
        WakeSleep,
        "Reweighted wake-sleep (Bornschein & Bengio 2015), weights normalised row by row: the "
        "model ascends IWAE, the guide descends KL(p || q), by weighted draws (wake) and by "
        "draws of the story (sleep). Biased for finite K, consistent; q covers the posterior "
        "rather than seek a mode. For latents of any kind; fails where K draws never meet the "
        "posterior. Its value is IWAE, every latent drawn.",
        enumerates=False,
    ),
    "dreg_wake_sleep": Estimator(
        DReGWakeSleep,
        "Reweighted wake-sleep, the guide's gradient doubly reparametrised (Tucker et al. 2019): "
        "the same mean as wake_sleep without its sleep phase, and less variance. Every latent "
        "must be reparametrised.",
        enumerates=False,
    ),
    "tvo": Estimator(
        TVO,
        "The thermodynamic variational objective (Masrani et al. 2019): a Riemann sum over the "
        "path from q to the posterior, below log p(x) with rule='left' and above with 'right', "
        "up to the bias of normalised weights. Needs no reparametrised latents; its gradient is "
        "a covariance over the particles, so give it ten or more.",
        enumerates=False,
    ),
    "tail_adaptive": Estimator(
        TailAdaptive,
        "The guide's path weighed by the ranks of the weights (Wang et al. 2018): mass-covering, "
        "and finite whatever the tail. The model ascends the ELBO, which is what is reported; the "
        "guide's objective has no value. Pyro's TraceTailAdaptive_ELBO ranks wrongly and over the "
        "batch. Every latent must be reparametrised.",
        enumerates=False,
    ),
    "evolution": Estimator(
        EvolutionStrategies,
        "The gradient from values alone, at parameters moved at random (Salimans et al. 2017). "
        "Of the ELBO smoothed over sigma; its variance grows with the number of parameters, so "
        "only for small stories, or parts that cannot be differentiated.",
    ),
    "capacity": Estimator(
        Capacity,
        "reconstruction - strength |KL - C| with a capacity C that grows (Burgess et al. 2018). "
        "No bound; reports the ELBO.",
        bounds=False,
    ),
    "beta_tc": Estimator(
        BetaTC,
        "The KL in three terms, of which the total correlation has a weight (Chen et al. 2018). "
        "q(z) is estimated from the batch, so it depends on the batch size. No bound; reports the "
        "ELBO. Needs a guide that factorises over dimensions.",
        bounds=False,
    ),
    "factor_tc": Estimator(
        FactorTC,
        "FactorVAE: the ELBO less the total correlation, by a classifier that learns beside it "
        "(Kim & Mnih 2018). No bound; reports the ELBO. Fails where the classifier lags behind.",
        bounds=False,
    ),
    "dip": Estimator(
        DIP,
        "DIP-VAE: the ELBO less a penalty that pulls the covariance of the codes to the identity "
        "(Kumar et al. 2018). No bound; reports the ELBO.",
        bounds=False,
    ),
    "mmd": Estimator(
        MMD,
        "Reconstruction less the distance of the codes from the prior, by a kernel or the energy "
        "distance (Wasserstein auto-encoder, InfoVAE). No bound; reports the ELBO. It leaves the "
        "guide free to be as narrow as it likes where kl_weight is 0.",
        bounds=False,
    ),
    "adversarial": Estimator(
        Adversarial,
        "The ELBO of a guide without a density, its KL by a classifier (Mescheder et al. 2017). "
        "Right where the classifier is optimal, and else wrong to either side: check it by "
        "reconstruction and draws. It needs the guide's draws alone.",
        enumerates=False,
        bounds=False,
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
        TraceEnum,
        "Pyro's TraceEnum_ELBO: sums over discrete latents marked by config_enumerate, exactly. "
        "Its value varies more than that of elbo, as no KL is exact; no weights or report, "
        "so what it gives as the ELBO holds the terms that belong to the objective alone.",
    ),
    "trace_graph_elbo": Estimator(
        TraceGraph,
        "Pyro's TraceGraph_ELBO, with a loss that can be differentiated: each score is multiplied "
        "by the costs downstream of its latent alone, less a baseline that the guide asks for "
        "(infer={'baseline': ...}). Unbiased; no weights or report.",
        enumerates=False,
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


def _known(name: str) -> Estimator:
    if name not in _ESTIMATORS:
        raise ValueError(unknown_name("estimator", name, _ESTIMATORS))
    return _ESTIMATORS[name]


def about(name: str) -> str:
    """Return what an estimator estimates, its bias and its variance, and when it fails."""
    return _known(name).account


def enumerates(name: str) -> bool:
    """Tell whether an estimator sums out the discrete latents that a guide marks for it."""
    return _known(name).enumerates


def bounds_evidence(name: str) -> bool:
    """Tell whether the value of an estimator is that of a bound of the log-evidence.

    Examples
    --------
    >>> bounds_evidence("iwae"), bounds_evidence("beta_tc")
    (True, False)
    """
    return _known(name).bounds


def options(name: str) -> dict[str, Any]:
    """Return the options of an estimator with their defaults.

    Examples
    --------
    >>> options("ciwae")["beta"]
    0.5
    """
    make = _known(name).make
    fixed = make.keywords if isinstance(make, partial) else {}
    owner: Any = make.func if isinstance(make, partial) else make
    found: dict[str, Any] = {}
    for cls in reversed(owner.__mro__):
        # Only what passes options on has those of its base.
        ours = issubclass(cls, ParticleEstimator)
        if (ours or cls is owner or cls is pyro.infer.ELBO) and "__init__" in cls.__dict__:
            if cls is ParticleEstimator:
                found = {}
            found |= _defaults(cls.__init__)
    return {n: v for n, v in found.items() if n not in fixed}


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    empty = inspect.Parameter.empty
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not empty}


_options_of = options  # where an argument has its name


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
    if inspect.isclass(estimator):
        raise ValueError(f"estimator is a class: pass an object of it, {estimator.__name__}()")
    if isinstance(estimator, pyro.infer.ELBO):
        if not hasattr(estimator, "differentiable_loss"):
            raise ValueError(_without_loss(type(estimator).__name__))
        if options:
            raise ValueError(
                f"the {type(estimator).__name__} given has its options already: "
                f"give {', '.join(options)} to its constructor"
            )
        return estimator
    about(estimator)
    known = _options_of(estimator)
    if unknown := [name for name in options if name not in known]:
        raise ValueError(unknown_name(f"option of {estimator!r}", unknown[0], known))
    return _ESTIMATORS[estimator].make(**options)


def _without_loss(name: str) -> str:
    ours = {"RenyiELBO": "renyi", "TraceTailAdaptive_ELBO": "tail_adaptive"}
    instead = ours.get(name, "elbo")
    return (
        f"{name} of Pyro has no loss that can be differentiated (`differentiable_loss`), which a "
        f"fit takes: use estimator={instead!r}"
    )
