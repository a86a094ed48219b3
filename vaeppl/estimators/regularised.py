"""The ELBO less a penalty on the codes: capacity, total correlation, moments, discrepancy.

All maximise ELBO - N · penalty, N being the rows, and report the ELBO itself. With q(z) the mean
of q(z | x_n) over the rows, the KL of the ELBO is (Chen et al. 2018, eq. 2)::

    E_n KL(q(z | x_n) || p(z)) = I(x; z)  +  KL(q(z) || Π_j q(z_j))  +  Σ_j KL(q(z_j) || p(z_j))
                                 mutual      total correlation         by dimension
                                 information

=================  =============================================================
capacity           γ |KL - C| in the place of the KL (Burgess et al. 2018)
β-TC               weights on the three terms, q(z) from the batch (Chen et al. 2018)
DIP                (co)variances of the codes pulled to the identity (Kumar et al. 2018)
MMD                distance of q(z) from p(z) (Zhao et al. 2019; Tolstikhin et al. 2018)
=================  =============================================================

What a penalty makes of a batch depends on its size: none of these bounds the evidence.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import pyro.poutine as poutine
import torch
from torch import Tensor
from torch.distributions import Independent

from ..errors import StoryError
from .elbo import ELBO
from .sites import PARTICLES, Site, is_enumerated, is_local, sample_sites

__all__ = ["DIP", "MMD", "BetaTC", "Capacity", "Codes", "Penalised", "codes", "mmd"]


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
        If there are none, or they stand in several plates, or are masked.
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


class Capacity(ELBO):
    """The KL is held at a capacity C: reconstruction - γ N |KL / N - C| (Burgess et al. 2018).

    Parameters
    ----------
    num_particles
        Draws for each row.
    capacity
        C at the end, in nats per row.
    strength
        γ.
    steps
        Gradient steps over which C grows from 0, evenly.

    Examples
    --------
    >>> Capacity(capacity=25.0, steps=10_000).current
    tensor(0.)
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        capacity: float = 25.0,
        strength: float = 1000.0,
        steps: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(num_particles, **options)
        if capacity < 0 or strength < 0 or steps < 1:
            raise ValueError(
                "capacity and strength are >= 0 and steps at least 1; given "
                f"{capacity}, {strength} and {steps}"
            )
        self.capacity, self.strength, self.steps = float(capacity), float(strength), steps
        self.taken = torch.zeros(())  # a tensor, so that a compiled step can count
        self._kl: Any = 0.0

    @property
    def current(self) -> Tensor:
        """C as it stands."""
        return self.capacity * (self.taken / self.steps).clamp(max=1.0)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the objective."""
        self._kl = 0.0
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        kl, self._kl = self._kl, 0.0
        if torch.is_grad_enabled():
            self.taken = self.taken.to(loss.device)
            self.taken += 1
        rows = self._rows
        held = rows * (kl / rows - self.current.to(loss)).abs()
        return loss - self.kl_weight * kl + self.strength * held

    def _particle_loss(self, model_trace: Any, guide_trace: Any) -> Tensor:
        if not all(s["fn"].has_rsample or is_enumerated(s) for s in sample_sites(guide_trace)):
            raise StoryError("Capacity needs latents that can be reparametrised or summed out")
        local = [s for s in sample_sites(guide_trace) if is_local(s)]
        if not local:
            raise StoryError("Capacity needs a latent of each row")
        first = local[0]
        size = math.prod(f.size for f in first["cond_indep_stack"] if f.name != PARTICLES)
        self._rows = torch.as_tensor(first["scale"]).mean() * size
        return super()._particle_loss(model_trace, guide_trace)

    def _note(self, term: str, value: Tensor, site: Site) -> None:
        if term == "kl":
            self._kl = self._kl + value / self.num_particles
        super()._note(term, value, site)


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


KERNELS = ("imq", "rbf", "energy")


class MMD(Penalised):
    """The distance of the codes of a batch from draws of the prior (WAE, InfoVAE).

    Maximises reconstruction - β KL - λ N MMD²(q(z), p(z)); with β = 0, as it is unless you say
    otherwise, this is the Wasserstein auto-encoder (Tolstikhin et al. 2018), and with 0 < β < 1
    an InfoVAE (Zhao et al. 2019, eq. 6).

    Parameters
    ----------
    num_particles
        Draws for each row.
    strength
        λ.
    kernel
        ``"imq"``: Σ_s 2Ds/(2Ds + d²) over scales s; ``"rbf"``: exp(-d²/2D); ``"energy"``: -d, so
        that MMD² is the energy distance.
    kl_weight
        β.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        strength: float = 10.0,
        kernel: str = "imq",
        kl_weight: float | Tensor = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(num_particles, kl_weight=kl_weight, **options)
        if strength < 0:
            raise ValueError(f"strength is >= 0; given {strength}")
        if kernel not in KERNELS:
            raise ValueError(f"kernel is one of {', '.join(KERNELS)}; given {kernel!r}")
        self.strength, self.kernel = strength, kernel
        self._prior: dict[str, Tensor] = {}

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the objective."""
        story = poutine.trace(poutine.uncondition(model)).get_trace(*args, **kwargs)
        self._prior = {
            s["name"]: s["value"].reshape(s["fn"].batch_shape.numel(), -1)
            for s in sample_sites(story)
            if not s["infer"].get("was_observed") and hasattr(s["fn"], "batch_shape")
        }
        return super().differentiable_loss(model, guide, *args, **kwargs)

    def penalise(self, found: Codes, model_trace: Any) -> Tensor:
        """Return λ MMD²."""
        names = [s["name"] for s in found.sites]
        if unknown := [n for n in names if n not in self._prior]:
            raise StoryError(f"MMD knows no prior of {unknown[0]!r}")
        prior = torch.cat([self._prior[n] for n in names], -1)
        return self.strength * mmd(found.values, prior, self.kernel)


def mmd(a: Tensor, b: Tensor, kernel: str = "imq") -> Tensor:
    """Estimate the squared maximum mean discrepancy of two samples, without bias.

    Parameters
    ----------
    a, b
        Shapes ``(n, D)`` and ``(m, D)``, n, m >= 2.
    kernel
        As in :class:`MMD`.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> round(float(mmd(x, x + 1, "energy")), 3)
    0.0
    """
    if min(len(a), len(b)) < 2:
        raise StoryError(f"MMD needs two rows or more; given {len(a)} and {len(b)}")

    def k(x: Tensor, y: Tensor) -> Tensor:
        square = (x[:, None] - y[None]).square().sum(-1)
        if kernel == "energy":
            return -(square + 1e-12).sqrt()  # the root has no slope at 0
        if kernel == "rbf":
            return (-square / (2 * x.shape[1])).exp()
        scale = 2.0 * x.shape[1]
        scales = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
        parts = [scale * s / (scale * s + square) for s in scales]
        return torch.stack(parts).sum(0)

    def among(x: Tensor) -> Tensor:
        matrix = k(x, x)
        return (matrix.sum() - matrix.diagonal().sum()) / (len(x) * (len(x) - 1))

    return among(a) + among(b) - 2 * k(a, b).mean()
