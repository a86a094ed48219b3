"""Why the ELBO lies below the evidence: the guide's family, or the network that amortises it.

Of each row (Cremer, Li & Duvenaud 2018, eq. 4-6), with q* the member of the guide's family that
is best for the row::

    log p(x) - L[q]   =   log p(x) - L[q*]   +   L[q*] - L[q]
    inference gap         approximation gap      amortisation gap

A large approximation gap asks for a richer family, a large amortisation gap for a larger encoder
or longer training. log p(x) is estimated by annealed importance sampling, q* by optimising the
parameters of each row's q from where the encoder puts them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, transform_to

from ..errors import StoryError, whole_number
from ..estimators import ELBO
from ..pair import Batch, Pair, as_pair
from . import tracing
from .ais import annealed_weights
from .evidence import _weights_and_bounds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GapReport", "RowGuide", "inference_gaps"]

ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class GapReport:
    """The inference gap of each row, in its two parts.

    Attributes
    ----------
    rows : pandas.DataFrame
        For each row, in nats: ``log_evidence``, ``elbo`` of the guide, ``best_elbo`` of the
        family, and ``inference``, ``approximation`` and ``amortisation``, the gaps.
    reference : str
        How the evidence was estimated.
    """

    rows: pd.DataFrame
    reference: str

    @property
    def table(self) -> pd.DataFrame:
        """Mean of each gap per row, with its standard error over the rows, and its share."""
        import pandas as pd

        gaps = self.rows[["inference", "approximation", "amortisation"]]
        means = gaps.mean()
        se = gaps.std(ddof=1) / math.sqrt(len(gaps))
        table = pd.DataFrame({"nats": means, "se": se, "share": means / means["inference"]})
        return table.rename_axis("gap")

    def __repr__(self) -> str:
        mean = self.table["nats"]
        return (
            f"inference gap {mean['inference']:.2f} nats/row = approximation "
            f"{mean['approximation']:.2f} + amortisation {mean['amortisation']:.2f} "
            f"({len(self.rows)} rows; evidence by {self.reference})"
        )


class RowGuide:
    """A guide whose distributions have parameters of each row's own.

    They start where the pair's guide has them, and are unconstrained leaves to be optimised.

    Parameters
    ----------
    pair, batch
        The guide and the columns of the rows. The pair must be active.

    Attributes
    ----------
    parameters : list of Tensor
        What is to be optimised.

    Raises
    ------
    StoryError
        If a latent's distribution has no parameters that could be a row's own (a flow), or they
        hang on the draws of other latents.
    """

    def __init__(self, pair: Pair, batch: Batch) -> None:
        self.guide = pair.guide
        first, again = (poutine.trace(pair.guide).get_trace(**batch) for _ in range(2))
        rows = len(next(iter(batch.values())))
        self.rebuild: dict[str, Callable[[], Any]] = {}
        self.parameters: list[Tensor] = []
        for site in tracing.latents(first, auxiliary=True):
            name = site["name"]
            if tracing.rows_frame(site, rows) is None:
                raise StoryError(f"latent {name!r} stands outside the plate of rows")
            mine: list[Tensor] = []
            theirs: list[Tensor] = []
            self.rebuild[name] = _freed(site["fn"], name, mine)
            _freed(again.nodes[name]["fn"], name, theirs)
            if not all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True)):
                raise StoryError(
                    f"the distribution of latent {name!r} depends on draws of other latents, so it "
                    "has no parameters of a row's own: the gaps are known for guides whose latents "
                    "are independent given the row"
                )
            self.parameters += mine

    def __call__(self, **columns: Any) -> Any:
        """Run the guide with each row's own distributions."""
        with _Replaced(self.rebuild):
            return self.guide(**columns)


class _Replaced(Messenger):
    def __init__(self, rebuild: dict[str, Callable[[], Any]]) -> None:
        super().__init__()
        self.rebuild = rebuild

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.rebuild:
            msg["fn"] = self.rebuild[msg["name"]]()


def _freed(fn: Any, name: str, leaves: list[Tensor]) -> Callable[[], Any]:
    """Return what builds a distribution from leaves of its own, and add these to a list."""
    if isinstance(fn, Independent):
        base, dims = _freed(fn.base_dist, name, leaves), fn.reinterpreted_batch_ndims
        kind = type(fn)
        return lambda: kind(base(), dims)
    names = _parameter_names(fn)
    if names is None:
        raise StoryError(
            f"the {type(fn).__name__} of latent {name!r} has no parameters that could be a row's "
            "own: the gaps are known for guide_family='diagonal', 'full_rank' and other "
            "distributions with parameters"
        )
    kind = type(fn)
    bends: dict[str, tuple[Any, Tensor]] = {}
    for key in names:
        bend = transform_to(kind.arg_constraints[key])
        leaf = bend.inv(getattr(fn, key).detach()).clone().requires_grad_()
        bends[key] = (bend, leaf)
        leaves.append(leaf)
    return lambda: kind(**{k: bend(u) for k, (bend, u) in bends.items()}, validate_args=False)


def _parameter_names(fn: Any) -> list[str] | None:
    """Return the parameters that a distribution is built from; ``None`` if it has none."""
    known = getattr(type(fn), "arg_constraints", None)
    if not isinstance(known, dict) or not known:
        return None
    if isinstance(fn, MultivariateNormal):
        return ["loc", "scale_tril"]
    if "logits" in known:
        return ["logits"]
    return [n for n in known if isinstance(getattr(fn, n, None), Tensor)]


def inference_gaps(
    source: Any,
    data: Any,
    *,
    guide: Any = None,
    steps: int = 300,
    lr: float = 0.02,
    num_particles: int = 16,
    reference: str = "ais",
    num_chains: int = 16,
    num_temperatures: int = 200,
    evaluation_particles: int = 1000,
    seed: int = 0,
) -> GapReport:
    """Split the gap between evidence and ELBO of each row into approximation and amortisation.

    Parameters
    ----------
    source, data, guide
        As in :func:`vaeppl.evidence`; some hundred rows.
    steps, lr, num_particles
        Of the optimisation of each row's q: steps of Adam, its learning rate, which goes to zero
        by a cosine, and draws for each row and step.
    reference
        ``"ais"``: annealed importance sampling from the guide; ``"importance"``: importance
        sampling from the row's best q.
    num_chains, num_temperatures
        Of the annealing.
    evaluation_particles
        Draws for each row by which the ELBOs are estimated (and the evidence, by importance).
    seed
        Fixes the draws.

    Returns
    -------
    GapReport

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(4, 6) < 0.5).float()
    >>> report = inference_gaps(VAE(6, 2, hidden=(4,)), {"x": x}, steps=5, num_temperatures=5)
    >>> list(report.table.index)
    ['inference', 'approximation', 'amortisation']
    """
    import pandas as pd

    if reference not in ("ais", "importance"):
        raise ValueError(f"reference is 'ais' or 'importance'; given {reference!r}")
    for name, value in (("steps", steps), ("evaluation_particles", evaluation_particles)):
        whole_number(name, value, 2)
    pair = as_pair(source, guide)
    parts = []
    with tracing.quiet(pair, seed=seed):
        batches = tracing.batches(pair, data, ROWS_AT_ONCE)
        for batch in batches:
            _, amortised = _weights_and_bounds(pair, batch, evaluation_particles)
            own = RowGuide(pair, batch)
            best = optimise(pair, own, batch, steps=steps, lr=lr, num_particles=num_particles)
            if reference == "ais":
                log_w, _ = annealed_weights(
                    best,
                    batch,
                    num_chains=num_chains,
                    num_temperatures=num_temperatures,
                    leapfrogs=5,
                    start="guide",
                )
            log_p, bound = _weights_and_bounds(best, batch, evaluation_particles)
            weights = log_w if reference == "ais" else log_p
            parts.append(
                {
                    "log_evidence": weights.double().logsumexp(0) - math.log(len(weights)),
                    "elbo": amortised.double().mean(0),
                    "best_elbo": bound.double().mean(0),
                }
            )
    columns = {n: v.cpu().numpy() for n, v in batches.joined(parts).items()}
    rows = pd.DataFrame(columns).rename_axis("row")
    rows["inference"] = rows["log_evidence"] - rows["elbo"]
    rows["approximation"] = rows["log_evidence"] - rows["best_elbo"]
    rows["amortisation"] = rows["best_elbo"] - rows["elbo"]
    words = {"ais": "annealed importance sampling", "importance": "importance sampling"}
    return GapReport(rows, words[reference])


def optimise(
    pair: Pair, own: RowGuide, batch: Batch, *, steps: int, lr: float, num_particles: int
) -> Any:
    """Optimise each row's q, and return the pair with it for its guide."""
    optimizer = torch.optim.Adam(own.parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    elbo = ELBO(num_particles)
    for _ in range(steps):
        with torch.enable_grad():
            loss = elbo.differentiable_loss(pair.model, own, **batch)
            found = torch.autograd.grad(loss, own.parameters)
        for leaf, slope in zip(own.parameters, found, strict=True):
            leaf.grad = slope
        optimizer.step()
        schedule.step()
    return SimpleNamespace(model=pair.model, guide=own, name=pair.name)
