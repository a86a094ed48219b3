"""The evidence lower bound, with its split into reconstruction and KL, and weights on the KL.

For a model p(x, z) and a guide q(z | x)::

    ELBO = E_q[log p(x | z)] - Σ_s E_q[ KL( q(z_s | pa_q) || p(z_s | pa_p) ) ]

the sum running over the latent sites s. The objective that is maximised may weigh the KL::

    E_q[log p(x | z)] - β Σ_j max(λ, KL_j)

with β the KL weight (β-VAE: Higgins et al. 2017; annealing: Bowman et al. 2016, Sønderby et al.
2016) and λ the free bits (Kingma et al. 2016, eq. 15). What is *reported* is always the ELBO.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.infer.trace_elbo import _compute_log_r
from pyro.infer.util import Dice, get_plate_stacks, is_validation_enabled
from pyro.ops import packed
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from ..errors import StoryError

__all__ = ["ELBO"]

Site = Any  # a node of a Pyro trace: a dictionary
PARTICLES = "num_particles_vectorized"  # the name Pyro gives to the plate of particles


class ELBO(Trace_ELBO):
    """Evidence lower bound; the default estimator of :func:`vaeppl.fit`.

    Drop-in for :class:`pyro.infer.Trace_ELBO` (in ``SVI`` too). Three things are added: the KL of
    a site is exact where torch or Pyro knows it *and* the order of the sites makes it valid; the
    KL may be weighted, on model and guide alike; and ``report`` holds the terms of the last call.

    Parameters
    ----------
    num_particles
        Draws from the guide for each row.
    analytic_kl
        Use the exact KL of a site where it is known and valid; ``False``: Monte Carlo throughout.
    kl_weight
        β, a number or a 0-dim tensor. It changes the objective, never the report.
    free_bits
        λ in nats: each latent dimension (where the KL factorises; else each site) may cost this
        much, on average over the rows, at no loss.
    enumerate
        Sum out the discrete latents that the guide marks ``infer={"enumerate": "parallel"}`` (as
        :func:`pyro.infer.config_enumerate` does); ``False``: draw them, as all others.
    vectorize_particles
        Draw the particles side by side, in a plate, rather than one after another.
    max_plate_nesting
        As in Pyro; found by running the pair once if not given.

    Attributes
    ----------
    report : dict of str to 0-dim Tensor
        Terms of the last estimate, of the *full* data, in nats, without weights: ``"elbo"``,
        ``"reconstruction"``, ``"kl"``, and ``"global"``, the part of the ELBO that belongs to no
        plate (minus the KL of global latents).
    site_kl : dict of str to 0-dim Tensor
        The KL of each latent site, likewise.

    Notes
    -----
    The exact KL of a site given its parents is valid when every latent that precedes it in the
    model is drawn before it in the guide too; a bottom-up guide of a top-down model breaks this,
    and then the site's KL is estimated from the draws. So it is where model and guide scale or
    mask the site differently: each log-probability then has its own weight, as in Pyro.

    Sites that cannot be reparametrised get the score-function estimator of Pyro. With several
    particles side by side, its baseline for a particle is the mean over the others, row by row
    (Mnih & Rezende 2016, section 2.4, of the ELBO): still unbiased, and of far lower variance.

    What the guide draws beside the latents (auxiliary variables, ``pyro.factor``) is a part of
    log q, and so of the KL. An *observed* site of the model that is marked
    ``infer={"objective_only": True}`` is a term of the objective, but not of the story: no report
    has it, and the KL weight leaves it alone.

    Examples
    --------
    >>> import torch, pyro.distributions as dist, pyro
    >>> def model(x):
    ...     with pyro.plate("rows", 3):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("rows", 3):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
    >>> elbo = ELBO()
    >>> loss = elbo.loss(model, guide, torch.zeros(3))
    >>> sorted(elbo.report)
    ['elbo', 'global', 'kl', 'reconstruction']
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        analytic_kl: bool = True,
        kl_weight: float | Tensor = 1.0,
        free_bits: float = 0.0,
        enumerate: bool = True,
        vectorize_particles: bool = True,
        max_plate_nesting: float = float("inf"),
    ) -> None:
        if num_particles < 1:
            raise ValueError(f"num_particles is at least 1; given {num_particles}")
        if free_bits < 0:
            raise ValueError(f"free_bits are nats >= 0; given {free_bits}")
        super().__init__(
            num_particles=num_particles,
            vectorize_particles=vectorize_particles and num_particles > 1,
            max_plate_nesting=max_plate_nesting,
        )
        self.analytic_kl, self.kl_weight, self.free_bits = analytic_kl, kl_weight, free_bits
        self.enumerate = enumerate
        self.report: dict[str, Tensor] = {}
        self.site_kl: dict[str, Tensor] = {}

    # --- the interface of pyro.infer.ELBO ---

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return an estimate of minus the objective, without gradients."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Estimate minus the objective, and add its gradient to the parameters' ``grad``."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return float(loss.detach())

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the objective; its gradient is an estimate of the objective's."""
        self.report, self.site_kl = {}, {}
        particles = self._get_traces(model, guide, args, kwargs)
        losses = [self._particle_loss(p, q) / self.num_particles for p, q in particles]
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def _guess_max_plate_nesting(self, model: Any, guide: Any, args: Any, kwargs: Any) -> None:
        """Find it as Pyro does, without the log line."""
        # A run that is resumed guesses anew, and must not draw other numbers for that.
        with without_log("pyro.infer.elbo"), torch.random.fork_rng():
            super()._guess_max_plate_nesting(model, guide, args, kwargs)

    def _get_traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Iterator[Any]:
        """Trace all particles."""
        if self.enumerate and self.max_plate_nesting == float("inf"):
            self._guess_max_plate_nesting(model, guide, args, kwargs)
        yield from super()._get_traces(model, guide, args, kwargs)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        """Trace the guide and the model against it; log-probabilities are computed as needed."""
        if self.enumerate:
            # The model's values go to the left of the guide's, as in TraceEnum_ELBO.
            left = -1 - int(self.max_plate_nesting)
            guide, model = EnumMessenger(first_available_dim=left)(guide), EnumMessenger()(model)
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        replayed = poutine.replay(model, trace=guide_trace)
        model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
        guide_trace = prune_subsample_sites(guide_trace)
        model_trace = prune_subsample_sites(model_trace)
        if is_validation_enabled():
            for trace in (guide_trace, model_trace):
                trace.compute_log_prob()
                for site in sample_sites(trace):
                    check_site_shape(site, self.max_plate_nesting)
        return model_trace, guide_trace

    # --- one particle (or all of them, in a plate) ---

    def _particle_loss(self, model_trace: Any, guide_trace: Any) -> Tensor:
        _check_drawn(model_trace, guide_trace)
        if any(is_enumerated(s) for s in sample_sites(guide_trace)):
            return self._enumerated_loss(model_trace, guide_trace)
        if not all(s["fn"].has_rsample for s in sample_sites(guide_trace)):
            return self._score_function_loss(model_trace, guide_trace)
        objective: Any = 0.0
        for site in sample_sites(model_trace):
            if site["is_observed"]:
                term = log_prob_sum(site)
                self._note("reconstruction", term, site)
                objective = objective + term
        exact = exact_kl_sites(model_trace, guide_trace) if self.analytic_kl else set()
        for q_site in sample_sites(guide_trace):
            p_site = _counterpart(q_site, model_trace)
            if p_site is not None and not _same_weights(p_site, q_site):
                total = log_prob_sum(q_site) - log_prob_sum(p_site)
                weighted = self.kl_weight * total
            else:
                kl, by_dim = kl_terms(p_site, q_site, q_site["name"] in exact)
                total = _total(kl, q_site)
                spared = self.free_bits > 0 and p_site is not None and _is_local(q_site)
                weighted = self.kl_weight * (self._spare(kl, by_dim, q_site) if spared else total)
            self._note("kl", total, q_site)
            objective = objective - weighted
        return -objective

    def _spare(self, kl: Tensor, by_dim: Tensor | None, site: Site) -> Tensor:
        """Return Σ_j max(λ, KL_j), KL_j being the mean over the rows, for all the full data."""
        weight = scale_and_mask(torch.ones_like(kl), site["scale"], site["mask"])
        terms = kl.unsqueeze(-1) if by_dim is None else by_dim
        # Not a product alone: what is masked may be NaN.
        terms = torch.where(weight.unsqueeze(-1) > 0, terms * weight.unsqueeze(-1), 0.0)
        rows = weight.sum()
        tiny = torch.finfo(rows.dtype).tiny
        means = terms.sum(tuple(range(kl.ndim))) / rows.clamp(min=tiny)
        return rows * means.clamp(min=self.free_bits).sum()

    def _enumerated_loss(self, model_trace: Any, guide_trace: Any) -> Tensor:
        """Return minus the objective, each term weighted by q of the values it was computed for.

        The weights, and the score function of what is drawn and not reparametrised, are Pyro's
        (:class:`pyro.infer.util.Dice`).
        """
        if self.free_bits:
            raise StoryError("free bits are not known for latents that are summed out")
        guide_trace.compute_score_parts()
        guide_trace.pack_tensors()
        model_trace.symbolize_dims(guide_trace.plate_to_symbol)
        ordering = {
            s["name"]: frozenset(f for f in s["cond_indep_stack"] if f.vectorized)
            for trace in (model_trace, guide_trace)
            for s in sample_sites(trace)
        }
        dice = Dice(guide_trace, ordering)

        def expected(term: Tensor, site: Site) -> Tensor:
            cost = packed.pack(term, _symbols(site, model_trace, guide_trace))
            mean: Tensor = torch.as_tensor(
                dice.compute_expectation({ordering[site["name"]]: [cost]})
            )
            return mean

        objective: Any = 0.0
        for site in sample_sites(model_trace):
            if site["is_observed"]:
                term = expected(weighted_log_prob(site), site)
                self._note("reconstruction", term, site)
                objective = objective + term
        exact = exact_kl_sites(model_trace, guide_trace) if self.analytic_kl else set()
        for q_site in sample_sites(guide_trace):
            p_site = _counterpart(q_site, model_trace)
            if p_site is not None and not _same_weights(p_site, q_site):
                total = expected(weighted_log_prob(q_site), q_site)
                total = total - expected(weighted_log_prob(p_site), p_site)
            else:
                kl, _ = kl_terms(p_site, q_site, q_site["name"] in exact)
                total = expected(scale_and_mask(kl, q_site["scale"], q_site["mask"]), q_site)
            self._note("kl", total, q_site)
            objective = objective - self.kl_weight * total
        return -objective

    def _score_function_loss(self, model_trace: Any, guide_trace: Any) -> Tensor:
        """Pyro's surrogate, for guides with sites that cannot be reparametrised."""
        if self.free_bits:
            raise StoryError(
                "free bits need latents that can be reparametrised; the guide has some that cannot"
            )
        model_trace.compute_log_prob()
        guide_trace.compute_score_parts()
        for site in sample_sites(model_trace):
            if site["is_observed"]:
                self._note("reconstruction", site["log_prob_sum"], site)
        for q_site in sample_sites(guide_trace):
            p_site = _counterpart(q_site, model_trace)
            log_p = 0.0 if p_site is None else p_site["log_prob_sum"]
            self._note("kl", q_site["log_prob_sum"] - log_p, q_site)
            _weigh(q_site, self.kl_weight)
            if p_site is not None:
                _weigh(p_site, self.kl_weight)
        return _surrogate_loss(model_trace, guide_trace)

    def _note(self, term: str, value: Tensor, site: Site) -> None:
        """Add a term of this particle to the report, if it belongs to the story."""
        if is_beside_the_story(site):
            return
        value = value.detach() / self.num_particles
        zero = torch.zeros_like(value)
        if not self.report:
            self.report = dict.fromkeys(("elbo", "reconstruction", "kl", "global"), zero)
        signed = value if term == "reconstruction" else -value
        self.report[term] = self.report[term] + value
        self.report["elbo"] = self.report["elbo"] + signed
        if not _is_local(site):
            self.report["global"] = self.report["global"] + signed
        if term == "kl":
            self.site_kl[site["name"]] = self.site_kl.get(site["name"], zero) + value


@contextmanager
def without_log(name: str) -> Iterator[None]:
    """Leave out what a logger would say below a warning."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def sample_sites(trace: Any) -> Iterator[Site]:
    """Yield the sample sites of a trace in the order in which they were drawn."""
    return (s for s in trace.nodes.values() if s["type"] == "sample")


def is_enumerated(site: Site) -> bool:
    """Tell whether a site's value holds all its values, side by side."""
    return site["infer"].get("_enumerate_dim") is not None


def is_beside_the_story(site: Site) -> bool:
    """Tell whether an observed site is a term of the objective alone, and not of p(x, z)."""
    return bool(site["is_observed"] and site["infer"].get("objective_only"))


def weighted_log_prob(site: Site) -> Tensor:
    """Return log p of a site, scaled and masked, for each element of its batch."""
    log_p = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_p, site["scale"], site["mask"])


def log_prob_sum(site: Site) -> Tensor:
    """Return log p of a site, scaled and masked, summed over the batch."""
    return weighted_log_prob(site).sum()


def _symbols(site: Site, model_trace: Any, guide_trace: Any) -> dict[int, str]:
    """Return the symbols of the dimensions that a term of a site may have, those of p and of q."""
    return {
        dim: symbol
        for trace in (model_trace, guide_trace)
        if site["name"] in trace.nodes
        for dim, symbol in trace.nodes[site["name"]]["infer"]["_dim_to_symbol"].items()
    }


def _counterpart(q_site: Site, model_trace: Any) -> Site | None:
    """Return the model's site of a latent; ``None`` for what the guide alone has."""
    return None if q_site["is_observed"] else model_trace.nodes.get(q_site["name"])


def _check_drawn(model_trace: Any, guide_trace: Any) -> None:
    """Refuse a latent of the model that the guide does not draw: its ELBO would have no meaning."""
    for site in sample_sites(model_trace):
        if not site["is_observed"] and site["name"] not in guide_trace.nodes:
            raise StoryError(
                f"site {site['name']!r} is latent in the model, but the guide does not draw it; "
                "draw it there, or sum it out with pyro.infer.config_enumerate and "
                "estimator='trace_enum_elbo'"
            )


def _same_weights(p_site: Site, q_site: Site) -> bool:
    """Tell whether model and guide scale and mask a latent alike."""
    return all(_alike(p_site[what], q_site[what]) for what in ("scale", "mask"))


def _alike(p: Any, q: Any) -> bool:
    if isinstance(p, Tensor) and isinstance(q, Tensor):
        # Values are compared only where time does not matter: on a GPU a comparison waits.
        same = p.shape == q.shape
        return p is q or (same and (not is_validation_enabled() or torch.equal(p, q)))
    return not isinstance(p, Tensor) and not isinstance(q, Tensor) and p == q


def _is_local(site: Site) -> bool:
    """Tell whether a site stands in a plate other than that of the particles."""
    return any(frame.name != PARTICLES for frame in site["cond_indep_stack"])


def _total(kl: Tensor, site: Site) -> Tensor:
    return scale_and_mask(kl, site["scale"], site["mask"]).sum()


def exact_kl_sites(model_trace: Any, guide_trace: Any) -> set[str]:
    """Name the latents all of whose predecessors in the model precede them in the guide too."""
    guide_order = [s["name"] for s in sample_sites(guide_trace)]
    earlier_in_model: set[str] = set()
    valid = set()
    for site in sample_sites(model_trace):
        name = site["name"]
        if name in guide_trace.nodes:
            if earlier_in_model <= set(guide_order[: guide_order.index(name)]):
                valid.add(name)
            earlier_in_model.add(name)
    return valid


def kl_terms(p_site: Site | None, q_site: Site, exact: bool) -> tuple[Tensor, Tensor | None]:
    """Return the KL of a site for each element of its batch and, if it factorises, by dimension."""
    q, value = q_site["fn"], q_site["value"]
    if p_site is None:  # an auxiliary variable of the guide
        return q.log_prob(value), None
    p = p_site["fn"]
    same_form = isinstance(q, Independent) and isinstance(p, Independent)
    if same_form and q.reinterpreted_batch_ndims == p.reinterpreted_batch_ndims == 1:
        by_dim = _kl(p.base_dist, q.base_dist, value, exact)
        return by_dim.sum(-1), by_dim
    return _kl(p, q, value, exact), None


def _kl(p: Any, q: Any, value: Tensor, exact: bool) -> Tensor:
    """KL(q || p), exactly if that is wanted and known, else log q - log p at the draw."""
    # Of a point mass the draw is exact, and Pyro's closed form forgets its log_density.
    if exact and not isinstance(getattr(q, "base_dist", q), Delta):
        try:
            kl: Tensor = kl_divergence(q, p)
            return kl.expand(torch.broadcast_shapes(kl.shape, q.batch_shape))
        except NotImplementedError:
            pass
    difference: Tensor = q.log_prob(value) - p.log_prob(value)
    return difference


def _baseline(weight: Tensor, site: Site) -> Tensor | float:
    """Return the mean of the weight over the other particles; 0 where there is one only."""
    frame = next((f for f in site["cond_indep_stack"] if f.name == PARTICLES), None)
    if frame is None or weight.ndim < -frame.dim or (count := weight.shape[frame.dim]) < 2:
        return 0.0
    return (weight.sum(frame.dim, keepdim=True) - weight) / (count - 1)


def _weigh(site: Site, weight: float | Tensor) -> None:
    """Multiply the log-probability of a latent site, and what its gradient is made of, by β."""
    site["log_prob"] = site["log_prob"] * weight
    site["log_prob_sum"] = site["log_prob_sum"] * weight
    if "score_parts" in site:
        parts = site["score_parts"]
        site["score_parts"] = parts._replace(
            log_prob=parts.log_prob * weight, entropy_term=parts.entropy_term * weight
        )


def _surrogate_loss(model_trace: Any, guide_trace: Any) -> Tensor:
    """Return minus the ELBO, with the gradient of the score-function surrogate."""
    value: Any = 0.0
    surrogate: Any = 0.0
    log_r = _compute_log_r(model_trace, guide_trace)
    stacks = get_plate_stacks(guide_trace)
    for site in sample_sites(guide_trace):
        if _counterpart(site, model_trace) is None:  # Pyro leaves these out of the weights
            log_r.add((stacks[site["name"]], -site["log_prob"].detach()))
    for site in sample_sites(model_trace):
        value = value + site["log_prob_sum"].detach()
        surrogate = surrogate + site["log_prob_sum"]
    for site in sample_sites(guide_trace):
        _, score, entropy = site["score_parts"]
        value = value - site["log_prob_sum"].detach()
        surrogate = surrogate - torch.as_tensor(entropy).sum()
        if isinstance(score, Tensor):
            weight = log_r.sum_to(site["cond_indep_stack"])
            weight = weight - _baseline(weight, site)
            surrogate = surrogate + (weight * score).sum()
    return -(value + surrogate - surrogate.detach())
