"""The ELBO less a penalty on the codes: total correlation and moments.

All maximise ELBO - N · penalty, N being the rows, and report the ELBO itself. With q(z) the mean
of q(z | x_n) over the rows, the KL of the ELBO is (Chen et al. 2018, eq. 2)::

    E_n KL(q(z | x_n) || p(z)) = I(x; z)  +  KL(q(z) || Π_j q(z_j))  +  Σ_j KL(q(z_j) || p(z_j))
                                 mutual      total correlation         by dimension
                                 information

=================  =====================================================================
β-TC               weights on the three terms, q(z) from the batch (Chen et al. 2018)
DIP                (co)variances of the codes pulled to the identity (Kumar et al. 2018)
=================  =====================================================================

:mod:`.capacity` holds the KL at a value instead, and :mod:`.discrepancy` replaces it. What a
penalty makes of a batch depends on its size: none of these bounds the evidence.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent

from ..errors import StoryError
from .elbo import ELBO
from .sites import PARTICLES, Site, is_enumerated, is_local, sample_sites

__all__ = ["DIP", "BetaTC", "Codes", "Penalised", "codes"]


class Codes(NamedTuple):
    """The reparametrised latents of the rows, side by side.

    Attributes
    ----------
    values : Tensor
        Shape ``(K B, D)``: particles and rows, all dimensions of all latents.
    sites : list
        The guide's sites that they come from.
    rows : Tensor
        N, rows for which they stand; 0-dim.
    """

    values: Tensor
    sites: list[Site]
    rows: Tensor


def codes(guide_trace: Any, name: str) -> Codes:
    """Return the codes of a guide's trace.

    Raises
    ------
    StoryError
        If there are none, or they stand in several plates, or are masked, or there are several for
        a row.
    """
    sites = []
    for site in sample_sites(guide_trace):
        if site["is_observed"] or not is_local(site) or is_enumerated(site):
            continue
        if site["fn"].has_rsample:
            plates = [f for f in site["cond_indep_stack"] if f.name != PARTICLES]
            if len(plates) != 1 or site["mask"] is not None:
                raise StoryError(
                    f"{name} needs latents in the plate of rows alone, unmasked; {site['name']!r} "
                    f"stands in {', '.join(f.name for f in plates)}"
                )
            if site["fn"].batch_shape.numel() > math.prod(f.size for f in site["cond_indep_stack"]):
                raise StoryError(
                    f"{name} needs one code for each row; {site['name']!r} has one for each value "
                    "of a latent that is summed out: use estimator='elbo'"
                )
            sites.append(site)
    if not sites:
        raise StoryError(f"{name} needs a latent of each row that can be reparametrised")
    parts = [_flat(s["value"], s) for s in sites]
    first = sites[0]
    particles = max((f.size for f in first["cond_indep_stack"] if f.name == PARTICLES), default=1)
    ones = torch.ones(first["fn"].batch_shape, dtype=parts[0].dtype, device=parts[0].device)
    return Codes(torch.cat(parts, -1), sites, (ones * first["scale"]).sum() / particles)


def _flat(value: Tensor, site: Site) -> Tensor:
    """Return ``(K B, D)`` of a site's values or moments."""
    return value.reshape(site["fn"].batch_shape.numel(), -1)


class Penalised(ELBO):
    """Base: the ELBO less N times a penalty.

    Attributes
    ----------
    penalty : 0-dim Tensor
        That of the last call, per row.
    """

    penalty: Tensor

    @abstractmethod
    def penalise(self, found: Codes, model_trace: Any) -> Tensor:
        """Return the penalty per row, 0-dim."""

    def _particle_loss(self, model_trace: Any, guide_trace: Any) -> Tensor:
        loss = super()._particle_loss(model_trace, guide_trace)
        found = codes(guide_trace, type(self).__name__)
        penalty = self.penalise(found, model_trace)
        self.penalty = penalty.detach()
        side_by_side = self.num_particles if self.vectorize_particles else 1
        return loss + side_by_side * found.rows * penalty


class BetaTC(Penalised):
    """Weights on mutual information, total correlation and KL by dimension (Chen et al. 2018).

    The density q(z) of the codes is estimated from the batch: by minibatch-weighted sampling,
    q(z_i) ≈ 1/(N B) Σ_j q(z_i | x_j), which is biased downwards, or stratified: the row's own
    density has weight 1/N, and those of the others share the rest, which is unbiased.

    Parameters
    ----------
    num_particles
        Draws for each row; they are taken one after another.
    beta
        Weight of the total correlation.
    mutual_information, by_dimension
        Weights of the other two terms.
    sampling
        ``"weighted"`` or ``"stratified"``.

    Attributes
    ----------
    terms : dict of str to 0-dim Tensor
        The three terms of the last call, per row, without weights.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        beta: float = 6.0,
        mutual_information: float = 1.0,
        by_dimension: float = 1.0,
        sampling: str = "stratified",
        **options: Any,
    ) -> None:
        super().__init__(num_particles, **{**options, "vectorize_particles": False})
        if sampling not in ("weighted", "stratified"):
            raise ValueError(f"sampling is 'weighted' or 'stratified'; given {sampling!r}")
        weights = (mutual_information, beta, by_dimension)
        if min(weights) < 0:
            raise ValueError(f"weights are >= 0; given {weights}")
        self.weights, self.sampling = weights, sampling
        self.terms: dict[str, Tensor] = {}

    def penalise(self, found: Codes, model_trace: Any) -> Tensor:
        """Return the terms times what their weights exceed 1 by."""
        log_w = self._log_weights(len(found.values), found.rows)
        joint: Any = 0.0
        pairs = []  # of each site: (i, j, dimension), log q(z_i | x_j)
        prior: Any = 0.0
        for site in found.sites:
            pairs.append(_pairwise(site))
            joint = joint + site["fn"].log_prob(site["value"])
            p_site = model_trace.nodes.get(site["name"])
            if p_site is None:
                raise StoryError(f"BetaTC knows no prior of {site['name']!r}")
            prior = prior + p_site["fn"].log_prob(site["value"])
        each = torch.cat(pairs, -1)
        whole = (each.sum(-1) + log_w).logsumexp(1)
        product = (each + log_w[..., None]).logsumexp(1).sum(-1)
        terms = (joint - whole, whole - product, product - prior)
        means = [t.mean() for t in terms]
        names = ("mutual_information", "total_correlation", "by_dimension")
        self.terms = {n: m.detach() for n, m in zip(names, means, strict=True)}
        return sum(
            (torch.as_tensor((w - 1) * m) for w, m in zip(self.weights, means, strict=True)),
            each.new_zeros(()),
        )

    def _log_weights(self, batch: int, rows: Tensor) -> Tensor:
        """Return the log-weight of row j in the density of the code of row i, ``(B, B)``."""
        if batch < 2:
            raise StoryError("BetaTC takes the density of the codes from a batch: 2 rows or more")
        if self.sampling == "weighted":
            return -(rows * batch).log().expand(batch, batch)
        # Chen et al. 2018, appendix C.2, give one of the others a weight of its own; with the same
        # for all, the mean is the same, and a batch that is the whole data has no error.
        itself = torch.eye(batch, dtype=torch.bool, device=rows.device)
        return torch.where(itself, 1 / rows, (rows - 1) / (rows * (batch - 1))).log()


def _pairwise(site: Site) -> Tensor:
    """Return log q(z_i | x_j) by dimension, ``(i, j, D)``."""
    fn = site["fn"]
    if not isinstance(fn, Independent) or fn.reinterpreted_batch_ndims != 1:
        raise StoryError(
            f"BetaTC needs a guide that factorises over dimensions; {site['name']!r} is drawn from "
            f"{type(fn).__name__}: use Normal(...).to_event(1), guide_family='diagonal'"
        )
    log_q: Tensor = fn.base_dist.log_prob(site["value"].unsqueeze(-2))
    return log_q


class DIP(Penalised):
    """Moments of the codes pulled to the identity (Kumar, Sattigeri & Balakrishnan 2018).

    ::

        λ Σ_{i≠j} C_ij² + λ_d Σ_i (C_ii - 1)²

    Parameters
    ----------
    num_particles
        Draws for each row.
    off_diagonal, diagonal
        λ and λ_d.
    kind
        ``"i"``: C is the covariance of the codes' means; ``"ii"``: of the codes themselves, the
        mean covariance of q added to it.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        off_diagonal: float = 10.0,
        diagonal: float = 100.0,
        kind: str = "i",
        **options: Any,
    ) -> None:
        super().__init__(num_particles, **options)
        if kind not in ("i", "ii"):
            raise ValueError(f"kind is 'i' or 'ii'; given {kind!r}")
        if off_diagonal < 0 or diagonal < 0:
            raise ValueError(f"weights are >= 0; given {off_diagonal} and {diagonal}")
        self.off_diagonal, self.diagonal, self.kind = off_diagonal, diagonal, kind

    def penalise(self, found: Codes, model_trace: Any) -> Tensor:
        """Return the penalty on the covariance matrix."""
        try:
            means = torch.cat([_flat(s["fn"].mean, s) for s in found.sites], -1)
            spread = torch.cat([_flat(s["fn"].variance, s) for s in found.sites], -1).mean(0)
        except NotImplementedError:
            raise StoryError(
                "DIP needs a guide whose mean and variance are known: guide_family='diagonal'"
            ) from None
        centred = means - means.mean(0)
        covariance = centred.T @ centred / len(means)
        if self.kind == "ii":
            covariance = covariance + torch.diag(spread)
        squared = covariance.square()
        off = squared.sum() - squared.diagonal().sum()
        return self.off_diagonal * off + self.diagonal * (covariance.diagonal() - 1).square().sum()
