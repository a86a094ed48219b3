"""The evidence lower bound, with its split into reconstruction and KL, and weights on the KL.

For a model p(x, z) and a guide q(z | x)::

    ELBO = E_q[log p(x | z)] - Σ_s E_q[ KL( q(z_s | pa_q) || p(z_s | pa_p) ) ]

the sum running over the latent sites s. The objective that is maximised may weigh the KL::

    E_q[log p(x | z)] - β Σ_j max(λ, KL_j)

with β the KL weight (β-VAE: Higgins et al. 2017; annealing: Bowman et al. 2016, Sønderby et al.
2016) and λ the free bits (Kingma et al. 2016, eq. 15). What is *reported* is always the ELBO.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import Dice
from pyro.ops import packed
from torch import Tensor

from ..errors import StoryError
from .kl import exact_kl_sites, kl_terms, total_kl
from .particles import ParticleEstimator
from .score import surrogate_loss, weigh
from .sites import (
    Site,
    counterpart,
    is_beside_the_story,
    is_enumerated,
    is_local,
    log_prob_sum,
    model_order,
    same_weights,
    sample_sites,
    symbols,
    weighted_log_prob,
)
from .sites import without_log as without_log

__all__ = ["ELBO"]


class ELBO(ParticleEstimator):
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
    draws
        Where the noise of the particles comes from: ``"independent"``, ``"antithetic"`` or
        ``"sobol"``.

    Attributes
    ----------
    report : dict of str to 0-dim Tensor
        Terms of the last estimate, of the *full* data, in nats, without weights: ``"elbo"``,
        ``"reconstruction"``, ``"kl"``, and ``"global"``, the part of the ELBO that belongs to no
        plate (minus the KL of global latents).
    site_kl : dict of str to 0-dim Tensor
        The KL of each latent site, likewise, in the order of the model.

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
        **options: Any,
    ) -> None:
        if free_bits < 0:
            raise ValueError(f"free_bits are nats >= 0; given {free_bits}")
        super().__init__(num_particles, **options)
        self.analytic_kl, self.kl_weight, self.free_bits = analytic_kl, kl_weight, free_bits
        self.site_kl: dict[str, Tensor] = {}

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the objective; its gradient is an estimate of the objective's."""
        self.report, self.site_kl = {}, {}
        losses = []
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            losses.append(self._particle_loss(model_trace, guide_trace) / self.num_particles)
            self.site_kl = {s: self.site_kl[s] for s in model_order(self.site_kl, model_trace)}
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    # --- one particle (or all of them, in a plate) ---

    def _particle_loss(self, model_trace: Any, guide_trace: Any) -> Tensor:
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
            p_site = counterpart(q_site, model_trace)
            if p_site is not None and not same_weights(p_site, q_site):
                total = log_prob_sum(q_site) - log_prob_sum(p_site)
                weighted = self.kl_weight * total
            else:
                kl, by_dim = kl_terms(p_site, q_site, q_site["name"] in exact)
                total = total_kl(kl, q_site)
                spared = self.free_bits > 0 and p_site is not None and is_local(q_site)
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
            cost = packed.pack(term, symbols(site, model_trace, guide_trace))
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
            p_site = counterpart(q_site, model_trace)
            if p_site is not None and not same_weights(p_site, q_site):
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
            p_site = counterpart(q_site, model_trace)
            log_p = 0.0 if p_site is None else p_site["log_prob_sum"]
            self._note("kl", q_site["log_prob_sum"] - log_p, q_site)
            weigh(q_site, self.kl_weight)
            if p_site is not None:
                weigh(p_site, self.kl_weight)
        return surrogate_loss(model_trace, guide_trace)

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
        if not is_local(site):
            self.report["global"] = self.report["global"] + signed
        if term == "kl":
            self.site_kl[site["name"]] = self.site_kl.get(site["name"], zero) + value
