"""Annealed importance sampling: the evidence of each row where the guide alone is too far off.

Along the path π_β(z) ∝ q0(z)^(1-β) p(x, z)^β, 0 = β_0 < … < β_T = 1, from a start q0 that can be
drawn from (the guide, or the prior), chains take one transition at each β_t that leaves π_{β_t} as
it is. Their weights ::

    log w = Σ_t (β_t - β_{t-1}) [ log p(x, z_{t-1}) - log q0(z_{t-1}) ]

have E[w] = p(x) whatever the number of steps (Neal 2001), so that the mean over chains of log w
is a lower bound of log p(x), and close to it with many temperatures (Wu et al. 2017).

Transitions are Hamiltonian (Neal 2011), all rows and chains side by side, each with its own
acceptance. Pyro's HMC accepts or refuses all rows at once, so it does not serve here. A pilot run
finds step sizes, row by row and temperature by temperature; in the run itself they are fixed, as
adapting them on the way would bias the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions import Delta
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import biject_to

from ..errors import StoryError, whole_number
from ..estimators.pathwise import with_values
from ..estimators.sites import is_beside_the_story, is_point, sample_sites
from ..pair import Batch, Pair, as_pair
from . import tracing
from .evidence import EvidenceReport, _summary, density_of
from .weights import has_proper_priors

__all__ = ["annealed_evidence", "annealed_weights", "hamiltonian"]

State = dict[str, Tensor]
STARTS = ("guide", "prior")
WANTED = 0.65  # share of proposals to be accepted, near the best for leapfrog steps
ROWS_AT_ONCE = 256


class Target:
    """Densities of a batch at unconstrained latents, for all chains side by side.

    Parameters
    ----------
    pair, batch
        The story and its columns. The pair must be active.
    chains
        K.
    start
        ``"guide"`` or ``"prior"``.
    """

    def __init__(self, pair: Pair, batch: Batch, chains: int, start: str) -> None:
        self.pair, self.batch, self.chains = pair, batch, chains
        self.rows = len(next(iter(batch.values())))
        self.depth = tracing.plate_depth(pair, batch)
        self.by_prior = start == "prior"
        self._guide = guide = self._traced(pair.guide)
        self.sites = [s["name"] for s in self._checked(guide)]
        story = self._traced(poutine.replay(pair.model, trace=guide))
        self._check_start(guide, story)
        # A guide that sets a latent to a point knows nothing of where it may lie.
        known = story if self.by_prior else guide
        self.bends = {n: biject_to(known.nodes[n]["fn"].support) for n in self.sites}

    def _checked(self, guide: Any) -> list[dict[str, Any]]:
        latents = tracing.latents(guide, auxiliary=True)
        for site in latents:
            name, fn = site["name"], site["fn"]
            if tracing.rows_frame(site, self.rows) is None:
                raise StoryError(
                    f"latent {name!r} stands outside the plate of rows: rows have no evidence of "
                    "their own to anneal to; use vaeppl.evidence"
                )
            if not site["value"].is_floating_point() or getattr(fn.support, "is_discrete", False):
                raise StoryError(
                    f"latent {name!r} is discrete, and Hamiltonian moves need continuous latents; "
                    "use vaeppl.evidence, which sums it out where the guide marks it"
                )
        if not latents:
            raise StoryError(f"{self.pair.name} has no latents to anneal")
        return latents

    def _check_start(self, guide: Any, story: Any) -> None:
        """Refuse to start where there is no density: weights of such chains mean nothing.

        Raises
        ------
        StoryError
            The guide sets a latent to a point, or the prior to start from is flat.
        """
        proper, whose = has_proper_priors(story), self.pair.name
        if self.by_prior:
            if not proper:
                raise StoryError(
                    f"{whose} has a flat prior, which is no density: it has no draws to start "
                    "from, and rows have no log p(x); give the story a proper prior"
                )
            return
        fixed = [n for n in self.sites if isinstance(_innermost(guide.nodes[n]["fn"]), Delta)]
        if not fixed:
            return
        reason = f"the guide of {whose} sets {fixed[0]!r} to a point, so that log p(x) cannot be "
        reason += "had by annealing from it"
        if is_point(guide.nodes[fixed[0]]):
            reason += ", and there is no bound of it"
        mend = "start from the prior instead: start='prior'"
        if not proper:
            mend = (
                "nor from the prior, which is flat: give the story a proper prior, or compare "
                "what it makes of held-out rows, by reconstruct or posterior_predictive"
            )
        raise StoryError(f"{reason}; {mend}")

    def draw(self) -> State:
        """Draw from the start."""
        by = poutine.uncondition(self.pair.model) if self.by_prior else self.pair.guide
        trace = self._traced(by)
        return {n: self.bends[n].inv(trace.nodes[n]["value"]).detach() for n in self.sites}

    def __call__(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return log p(x, z) and log q0(z), each ``(K, B)``, with respect to the state."""
        values = {n: self.bends[n](u) for n, u in state.items()}
        at = with_values(self._guide, values)
        model = self._traced(poutine.replay(self.pair.model, trace=at))
        volume: Any = 0.0
        for name, u in state.items():
            jacobian = self.bends[name].log_abs_det_jacobian(u, values[name])
            site = self._guide.nodes[name]
            event = range(len(site["fn"].batch_shape), jacobian.ndim)
            volume = volume + self._by_row(jacobian.sum(list(event)) if event else jacobian, site)
        log_p = self._sum(model, lambda s: not is_beside_the_story(s)) + volume
        if self.by_prior:
            return log_p, self._sum(model, lambda s: not s["is_observed"]) + volume
        guide = self._replayed_guide(at)
        return log_p, self._sum(guide, lambda s: True) + volume

    def _replayed_guide(self, at: Any) -> Any:
        if len(self.sites) == 1:
            return at  # nothing in its density can depend on another latent
        return self._traced(poutine.replay(self.pair.guide, trace=at))

    def _traced(self, story: Callable[..., Any]) -> Any:
        """Trace a story with all chains side by side."""
        many = pyro.plate(tracing.PARTICLES, self.chains, dim=-self.depth - 1)(story)
        return prune_subsample_sites(poutine.trace(many).get_trace(**self.batch))

    def _sum(self, trace: Any, wanted: Callable[[Any], bool]) -> Tensor:
        total: Any = 0.0
        for site in sample_sites(trace):
            if wanted(site) and tracing.rows_frame(site, self.rows) is not None:
                total = total + self._by_row(tracing.site_log_prob(site), site)
        return total + torch.zeros(self.chains, self.rows).to(total)

    def _by_row(self, term: Tensor, site: Any) -> Tensor:
        return tracing.row_term(term, site, self.rows, self.depth)


def _innermost(fn: Any) -> Any:
    return getattr(fn, "base_dist", fn)


def hamiltonian(
    log_density: Callable[[State], Tensor],
    state: State,
    step: Tensor,
    scale: State,
    leapfrogs: int,
) -> tuple[State, Tensor]:
    """Take one Hamiltonian transition of every chain and row.

    Parameters
    ----------
    log_density
        From a state to ``(K, B)``.
    state
        Unconstrained latents, ``(K, B, ...)``.
    step
        Step sizes, broadcast to ``(K, B)``.
    scale
        Scale of each latent: momenta have its inverse.
    leapfrogs
        Leapfrog steps.

    Returns
    -------
    state, accepted
        The new state, and the probability with which each proposal was accepted, ``(K, B)``.
    """
    momentum = {n: torch.randn_like(u) for n, u in state.items()}

    def slope(at: State) -> tuple[Tensor, State]:
        with torch.enable_grad():
            leaves = {n: u.detach().requires_grad_() for n, u in at.items()}
            value = log_density(leaves)
            found = torch.autograd.grad(value.sum(), list(leaves.values()))
        return value.detach(), dict(zip(leaves, found, strict=True))

    start, force = slope(state)
    new, p = dict(state), dict(momentum)
    for _ in range(leapfrogs):
        for n in new:
            size = _like(step, new[n]) * scale[n]
            p[n] = p[n] + size / 2 * force[n]
            new[n] = new[n] + size * p[n]
        end, force = slope(new)
        for n in new:
            p[n] = p[n] + _like(step, new[n]) * scale[n] / 2 * force[n]
    energy = end - start
    for n in p:
        kinetic = (momentum[n].square() - p[n].square()) / 2
        energy = energy + kinetic.flatten(2).sum(-1) if kinetic.ndim > 2 else energy + kinetic
    chance = energy.nan_to_num(nan=-torch.inf).clamp(max=0.0).exp()
    taken = torch.rand_like(chance) < chance
    moved = {n: torch.where(_like(taken, u), new[n], u) for n, u in state.items()}
    return moved, chance


def _like(values: Tensor, u: Tensor) -> Tensor:
    """Give values of chains and rows a dimension for each of an event."""
    return values.reshape(*values.shape, *(1,) * (u.ndim - values.ndim))


def annealed_weights(
    pair: Pair,
    batch: Batch,
    *,
    num_chains: int,
    num_temperatures: int,
    leapfrogs: int,
    start: str,
) -> tuple[Tensor, Tensor]:
    """Return the log-weights of chains, ``(K, B)``, and the mean acceptance of each row, ``(B,)``.

    Must be called with the pair active.
    """
    target = Target(pair, batch, num_chains, start)
    betas = _temperatures(num_temperatures)
    pilot = target.draw()
    scale = {n: u.std(0, keepdim=True).clamp(min=1e-6) for n, u in pilot.items()}
    shape = (1, target.rows)
    like = next(iter(pilot.values()))
    steps, step = [], torch.full(shape, 0.5).to(like)
    for beta in betas[1:]:
        pilot, chance = hamiltonian(_at(target, beta), pilot, step, scale, leapfrogs)
        steps.append(step)
        step = step * (0.3 * (chance.mean(0, keepdim=True) - WANTED)).exp()
    state = target.draw()
    log_w: Any = 0.0
    accepted: Any = 0.0
    for before, beta, step in zip(betas, betas[1:], steps, strict=False):
        log_p, log_q = target(state)
        log_w = log_w + (beta - before) * (log_p - log_q).detach()
        if beta < 1:  # a transition after the last weight changes nothing
            state, chance = hamiltonian(_at(target, beta), state, step, scale, leapfrogs)
            accepted = accepted + chance.mean(0) / max(1, num_temperatures - 1)
    return log_w, torch.zeros(target.rows).to(like) + accepted


def _at(target: Target, beta: float) -> Callable[[State], Tensor]:
    def log_density(state: State) -> Tensor:
        log_p, log_q = target(state)
        return beta * log_p + (1 - beta) * log_q

    return log_density


def _temperatures(number: int) -> list[float]:
    """Return β_0, …, β_T, closer together at both ends (a scaled sigmoid, Wu et al. 2017)."""
    ends = [1 / (1 + math.exp(-4 * (2 * t / number - 1))) for t in range(number + 1)]
    return [(e - ends[0]) / (ends[-1] - ends[0]) for e in ends]


def annealed_evidence(
    source: Any,
    data: Any,
    *,
    guide: Any = None,
    num_chains: int = 16,
    num_temperatures: int = 200,
    leapfrogs: int = 5,
    start: str = "guide",
    seed: int = 0,
) -> EvidenceReport:
    """Estimate log p(x_n) of each row by annealed importance sampling.

    It costs about 2 T L evaluations of the story's gradient, and is meant for some hundred rows:
    as the reference by which to judge :func:`vaeppl.evidence` and the guide.

    Parameters
    ----------
    source, data, guide
        As in :func:`vaeppl.evidence`.
    num_chains
        K chains for each row, at least 2.
    num_temperatures
        T.
    leapfrogs
        Leapfrog steps of each transition, L.
    start
        ``"guide"`` or ``"prior"``. From the guide fewer temperatures do; from the prior nothing
        hangs on the guide, which may then set latents to a point.
    seed
        Fixes the draws.

    Returns
    -------
    EvidenceReport
        Its ``rows`` have a column ``acceptance`` more; ``elbo`` is the mean log-weight of the
        chains.

    Raises
    ------
    StoryError
        A latent is discrete or stands outside the plate of rows; or what chains start from has no
        density: a guide that sets a latent to a point, a prior that is flat.

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(4, 6) < 0.5).float()
    >>> report = annealed_evidence(VAE(6, 2, hidden=(4,)), {"x": x}, num_temperatures=5)
    >>> report.rows.shape
    (4, 6)
    """
    import pandas as pd

    if start not in STARTS:
        raise ValueError(f"start is 'guide' or 'prior'; given {start!r}")
    whole_number("num_chains", num_chains, 2)
    whole_number("num_temperatures", num_temperatures, 1)
    whole_number("leapfrogs", leapfrogs, 1)
    pair = as_pair(source, guide)
    parts = []
    with tracing.quiet(pair, seed=seed):
        batches = tracing.batches(pair, data, ROWS_AT_ONCE)
        for batch in batches:
            log_w, accepted = annealed_weights(
                pair,
                batch,
                num_chains=num_chains,
                num_temperatures=num_temperatures,
                leapfrogs=leapfrogs,
                start=start,
            )
            parts.append({**_summary(log_w, log_w), "acceptance": accepted})
        told = density_of(pair, batches.data, batch)
    columns = {n: v.cpu().numpy() for n, v in batches.joined(parts).items()}
    return EvidenceReport(pd.DataFrame(columns).rename_axis("row"), num_chains, told)
