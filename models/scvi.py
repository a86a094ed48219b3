"""Counts of RNA in single cells: scVI (Lopez, Regier, Cole, Jordan & Yosef 2018).

The story of a cell n, seen in batch s_n (a donor, a plate), for the genes g = 1, …, G::

    z_n                   ~ N(0, I)                       state of the cell
    log ℓ_n | s_n         ~ N(m_s, v_s²)                  library size: counts that are to be had
    ρ_n                   = softmax(f_w(z_n, s_n))        share of each gene, Σ_g ρ_ng = 1
    π_n                   = sigmoid(f_h(z_n, s_n))        probability that a gene is missed
    x_ng | z_n, ℓ_n, s_n  ~ ZINB(mean ℓ_n ρ_ng, dispersion θ_g, gate π_ng)

that is, x_ng is 0 with probability π_ng, and else a negative binomial of mean μ = ℓ_n ρ_ng and
variance μ + μ²/θ_g. Everything is in log space: log μ = log ℓ + log ρ. The guide is amortised, and
that of the library size starts at the total that was counted::

    q(z_n | x_n, s_n)        = N(a(x_n, s_n), diag b(x_n, s_n)²)
    q(log ℓ_n | x_n, s_n)    = N(log Σ_g x_ng + c(x_n, s_n), d(x_n, s_n)²),  c = 0 at the start

(The published guide has no such term, and must learn the logarithm of a total: it does not get
there within the usual number of steps, and the likelihood suffers.)

:class:`SCANVI` has cell types above z, known in some cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from vaeppl import Model, guides, row_share, rows, singlecell
from vaeppl.data import as_data
from vaeppl.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from vaeppl.errors import ColumnError, unknown_name
from vaeppl.guides import SCALE_FLOOR
from vaeppl.nets import joint_feature_net
from vaeppl.priors import StandardNormal

# Adam moves every parameter by the same step, and log θ has farther to go than a weight: it is
# learnt in units of 10.
LOG_THETA_UNIT = 10.0
LOG_THETA_LIMIT = 15.0  # from θ = exp(15) on, counts are Poisson to every digit of float32
NARROW = -3.0  # softplus(-3) = 0.05: about the sd of log ℓ given a few hundred counts


class SCVI(Model):
    """Single-cell variational inference: counts of genes, given a state and a library size.

    =============== ======= ================== =================================================
    site            symbol  shape              what it is
    =============== ======= ================== =================================================
    ``log_theta``   log θ   of the genes       log dispersion; a site where it has a prior only
    ``z``           z_n     ``(latent_dim,)``  state of the cell, no unit
    ``log_library`` log ℓ_n ``(1,)``           log library size, of ℓ in counts
    ``x``           x_n     ``(x_dim,)``       counts
    =============== ======= ================== =================================================

    The other columns are given, and s_n is all of them: ``batch``, codes 0, …, S-1 (may be left out
    where S is 1); ``categorical``, (N, C), codes of C further factors; ``continuous``, (N, D),
    covariates, which enter as they are. A gene that is never seen does no harm.

    Settings that did well on held-out cells of three data sets, at 120 epochs: ``batch_size=128``,
    ``lr=3e-3`` and ``lr_schedule="cosine"``; neither a KL that is warmed up nor a norm was of use.

    Parameters
    ----------
    x_dim
        G, the number of genes.
    latent_dim
        Number of entries of z.
    num_batches
        S.
    categories
        Number of levels of each factor in ``categorical``.
    continuous_dim
        D.
    likelihood
        ``"zinb"``; ``"nb"``: no gene is missed, π = 0; ``"poisson"``: nor overdispersed, θ = ∞.
    dispersion
        ``"gene"``: θ_g; ``"gene-batch"``: θ_sg; ``"gene-cell"``: θ_ng = exp(f_θ(z_n, s_n)).
    library
        ``"latent"``; ``"observed"``: ℓ_n is Σ_g x_ng, and no part of the ELBO.
    library_mean, library_sd
        m_s and v_s, a number for all batches or one for each. :meth:`for_data` takes them from the
        data; N(8, 1.5²) says little, 160 to 56,000 counts in 95% of the cells.
    theta_prior
        Mean and standard deviation of a normal prior on each log θ, which is then latent with a
        normal posterior of its own; ``None``: θ is a parameter.
    hidden
        Hidden layers of both networks; the decoder has them in reverse order.
    norm, dropout
        Of the hidden layers, as in :class:`~vaeppl.nets.MLP`; dropout in the encoder only.
    guide_family
        Family of q(z | x, s), as in :class:`~vaeppl.models.VAE`.

    Examples
    --------
    >>> import torch, vaeppl
    >>> cells = {"x": torch.poisson(4 * torch.rand(60, 30)), "batch": torch.arange(60) % 2}
    >>> scvi = SCVI.for_data(cells, latent_dim=3, hidden=(16,))
    >>> fit = vaeppl.fit(scvi, cells, epochs=1, seed=0, progress=False)
    >>> fit.encode(cells)["z"].shape
    torch.Size([60, 3])
    """

    likelihood_columns = MappingProxyType({})
    library_mean: Tensor
    library_sd: Tensor

    def __init__(
        self,
        x_dim: int,
        latent_dim: int = 10,
        *,
        num_batches: int = 1,
        categories: Sequence[int] = (),
        continuous_dim: int = 0,
        likelihood: str = "zinb",
        dispersion: str = "gene",
        library: str = "latent",
        library_mean: float | Sequence[float] = 8.0,
        library_sd: float | Sequence[float] = 1.5,
        theta_prior: Sequence[float] | None = None,
        hidden: Sequence[int] = (128,),
        norm: str | None = None,
        dropout: float = 0.1,
        guide_family: str | guides.Family = "diagonal",
    ) -> None:
        super().__init__()
        self.kind = _one_of("likelihood", likelihood, "zinb", "nb", "poisson")
        self.dispersion = _one_of("dispersion", dispersion, "gene", "gene-batch", "gene-cell")
        self.library = _one_of("library", library, "latent", "observed")
        self.num_batches, self.categories = num_batches, tuple(categories)
        self.continuous_dim, self.theta_prior = continuous_dim, theta_prior
        self.register_buffer("library_mean", _of_batches(library_mean, num_batches))
        self.register_buffer("library_sd", _of_batches(library_sd, num_batches))

        s_dim = num_batches + sum(categories) + continuous_dim
        layers: dict[str, Any] = {"activation": "relu", "norm": norm}
        self.z_prior = StandardNormal().bind(latent_dim)
        self.decoder = joint_feature_net((latent_dim, s_dim), hidden[::-1], **layers)
        self.f_w = nn.Linear(self.decoder.out_dim, x_dim)
        if self.kind == "zinb":
            self.f_h = nn.Linear(self.decoder.out_dim, x_dim)
        self._make_dispersion(x_dim)

        self.encoder = joint_feature_net((x_dim, s_dim), hidden, dropout=dropout, **layers)
        self.q_z = guides.get(guide_family).bind(self.encoder.out_dim, latent_dim)
        if self.library == "latent":
            self.c_and_d = nn.Linear(self.encoder.out_dim, 2)
            nn.init.zeros_(self.c_and_d.weight)
            nn.init.zeros_(self.c_and_d.bias)

    def _make_dispersion(self, x_dim: int) -> None:
        """Create log θ, what puts it out, or its posterior."""
        shape = (self.num_batches, x_dim) if self.dispersion == "gene-batch" else (x_dim,)
        if self.theta_prior is not None:
            if self.kind == "poisson" or self.dispersion == "gene-cell":
                raise ValueError(
                    "theta_prior is for dispersions of genes, and there are none with "
                    f"likelihood={self.kind!r} and dispersion={self.dispersion!r}"
                )
            start = torch.full(shape, self.theta_prior[0] / LOG_THETA_UNIT)
            self.q_theta_mean = nn.Parameter(start)
            self.q_theta_raw = nn.Parameter(torch.full(shape, NARROW))
        elif self.kind != "poisson" and self.dispersion == "gene-cell":
            self.f_theta = nn.Linear(self.decoder.out_dim, x_dim)
        elif self.kind != "poisson":
            self.log_theta_units = nn.Parameter(torch.zeros(shape))

    @classmethod
    def for_data(cls, data: Any, **options: Any) -> Any:
        """Build the story for some cells: numbers of genes, batches and levels, and log totals.

        Parameters
        ----------
        data
            Rows, as in :func:`vaeppl.fit`; of data with splits, the train part is looked at.
        **options
            Arguments of the constructor, which come before what the data say.

        Raises
        ------
        ColumnError
            If ``x`` does not hold counts, a cell has none, or a factor holds no codes.
        """
        cells = as_data(data).train
        found = singlecell.sizes_for(cells, cls.partly_observed)
        story = cls(**{**found, **options})
        story.check_data(cells)
        return story

    def check_data(self, data: Any) -> None:
        """Check that every cell has counts, and that factors hold the levels that are known.

        Raises
        ------
        ColumnError
            The message says in which row what is wrong.
        """
        singlecell.check_cells(as_data(data), self.num_batches, self.categories)

    def model(
        self,
        x: Tensor | None = None,
        batch: Tensor | None = None,
        categorical: Tensor | None = None,
        continuous: Tensor | None = None,
    ) -> None:
        """p(θ), and for each cell p(z) p(ℓ | s) p(x | z, ℓ, θ, s)."""
        log_theta = self.log_theta()
        if self.theta_prior is not None:
            log_theta = pyro.sample("log_theta", self.p_log_theta())
        with rows(x, batch, categorical, continuous):
            s = self.given(batch, categorical, continuous)
            z = pyro.sample("z", self.z_prior())
            with poutine.mask(mask=self.library == "latent"):
                log_l = pyro.sample("log_library", self.p_library(s))
            h = self.decoder(z, s)
            log_rho = self.f_w(h).log_softmax(-1)
            logit_pi = self.logit_pi(h)
            theta = self.theta(log_theta, h, s)
            pyro.sample("x", self.p_x(log_l + log_rho, theta, logit_pi), obs=x)

    def guide(
        self,
        x: Tensor,
        batch: Tensor | None = None,
        categorical: Tensor | None = None,
        continuous: Tensor | None = None,
    ) -> None:
        """q(θ), and for each cell q(z | x, s) q(ℓ | x, s)."""
        if self.theta_prior is not None:
            pyro.sample("log_theta", self.q_log_theta())
        with rows(x, batch, categorical, continuous):
            s = self.given(batch, categorical, continuous)
            h = self.encoder(torch.log1p(x), s)
            pyro.sample("z", self.q_z(h))
            with poutine.mask(mask=self.library == "latent"):
                pyro.sample("log_library", self.q_library(x, h))

    def given(
        self, batch: Tensor | None, categorical: Tensor | None, continuous: Tensor | None
    ) -> Tensor:
        """Return s: indicators of the batch and of the other factors, and the covariates."""
        like = self.library_mean
        parts = [like.new_ones(1)]
        if self.num_batches > 1 or batch is not None:
            parts = [_indicators("batch", batch, self.num_batches)]
        for i, levels in enumerate(self.categories):
            codes = None if categorical is None else categorical[..., i]
            parts.append(_indicators("categorical", codes, levels))
        if self.continuous_dim:
            parts.append(_there("continuous", continuous))
        shape = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
        return torch.cat([p.to(like).expand(*shape, -1) for p in parts], dim=-1)

    def log_theta(self) -> Any:
        """Return log θ of genes, (G,), or of batches and genes, where it is a parameter."""
        if hasattr(self, "log_theta_units"):
            return LOG_THETA_UNIT * self.log_theta_units
        return None

    def p_log_theta(self) -> TorchDistribution:
        """p(log θ), alike for all genes."""
        mean, sd = self.theta_prior or (0.0, 1.0)
        like = torch.ones_like(self.q_theta_mean)
        return dist.Normal(mean * like, sd * like).to_event(like.ndim)

    def q_log_theta(self) -> TorchDistribution:
        """q(log θ), each its own."""
        scale = F.softplus(self.q_theta_raw) + SCALE_FLOOR
        return dist.Normal(LOG_THETA_UNIT * self.q_theta_mean, scale).to_event(scale.ndim)

    def p_library(self, s: Tensor) -> TorchDistribution:
        """p(log ℓ | s), by batch."""
        batch = s[..., : self.num_batches]
        return dist.Normal(batch @ self.library_mean, batch @ self.library_sd).to_event(1)

    def q_library(self, x: Tensor, h: Tensor) -> TorchDistribution:
        """q(log ℓ | x, s) about the total of the counts; the total itself where ℓ is observed."""
        log_total = x.sum(-1, keepdim=True).clamp(min=1.0).log()  # a cell without counts has a 0
        if self.library == "observed":
            return dist.Delta(log_total).to_event(1)
        c, raw = self.c_and_d(h).chunk(2, dim=-1)
        return dist.Normal(log_total + c, F.softplus(raw + NARROW) + SCALE_FLOOR).to_event(1)

    def logit_pi(self, h: Tensor) -> Any:
        """Logit of π; none where no gene is missed."""
        return self.f_h(h) if self.kind == "zinb" else None

    def theta(self, log_theta: Any, h: Tensor, s: Tensor) -> Any:
        """θ of genes, of genes and batches, or of genes and cells; none of a Poisson."""
        if self.kind == "poisson":
            return None
        if self.dispersion == "gene-cell":
            log_theta = self.f_theta(h)
        elif self.dispersion == "gene-batch":
            log_theta = (s[..., None, : self.num_batches] @ log_theta).squeeze(-2)
        return log_theta.clamp(-LOG_THETA_LIMIT, LOG_THETA_LIMIT).exp()

    def p_x(self, log_mu: Tensor, theta: Any, logit_pi: Any) -> TorchDistribution:
        """p(x | μ, θ, π), independent over the genes."""
        if self.kind == "poisson":
            return Poisson(log_mean=log_mu).to_event(1)
        if self.kind == "nb":
            return NegativeBinomial(theta, log_mean=log_mu).to_event(1)
        counts = ZeroInflatedNegativeBinomial(theta, log_mean=log_mu, gate_logits=logit_pi)
        return counts.to_event(1)


class SCANVI(SCVI):
    """scVI with cell types, known in some cells (after Xu et al. 2021, scANVI).

    The label comes first, and says where the state of the cell lies; all else is as in SCVI::

        y_n        ~ Categorical(1/K, …, 1/K)
        z_n | y_n  ~ N(m_y, diag v_y²)

    so that the posterior of a label given the state is known by Bayes' rule, and is its guide::

        q(z_n | x_n, s_n) q(y_n | z_n),    q(y | z) = p(y | z) ∝ p(y) p(z | y)

    Where the label is missing it is summed out exactly. As in M2, the objective has the further
    term α · N · mean over labelled cells of log q(y_n | z_n), the site ``y_given_z``, which is no
    part of the story. (The paper has a second latent between y and z, and a network for q(y | z).)

    Parameters
    ----------
    x_dim, latent_dim, **options
        As in :class:`SCVI`.
    num_labels
        K; the column ``y`` holds 0, …, K-1, and -1 or NaN where the label is missing.
    alpha
        α.

    Examples
    --------
    >>> import torch, vaeppl
    >>> cells = {"x": torch.poisson(4 * torch.rand(60, 30)), "y": torch.arange(60) % 3 - 1}
    >>> scanvi = SCANVI.for_data(cells, latent_dim=3, hidden=(16,))
    >>> fit = vaeppl.fit(scanvi, cells, epochs=1, seed=0, progress=False)
    >>> fit.predict_proba(cells).shape
    torch.Size([60, 2])
    """

    partly_observed = ("y",)

    def __init__(
        self,
        x_dim: int,
        num_labels: int,
        latent_dim: int = 10,
        *,
        alpha: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(x_dim, latent_dim, **options)
        self.num_labels, self.alpha = num_labels, alpha
        self.label_mean = nn.Parameter(torch.randn(num_labels, latent_dim))
        self.label_log_sd = nn.Parameter(torch.zeros(num_labels, latent_dim))

    def model(
        self,
        x: Tensor | None = None,
        batch: Tensor | None = None,
        categorical: Tensor | None = None,
        continuous: Tensor | None = None,
        y: Tensor | None = None,
    ) -> None:
        """p(θ), and for each cell p(y) p(z | y) p(ℓ | s) p(x | z, ℓ, θ, s)."""
        log_theta = self.log_theta()
        if self.theta_prior is not None:
            log_theta = pyro.sample("log_theta", self.p_log_theta())
        plate = rows(x, batch, categorical, continuous, y)
        with plate:
            s = self.given(batch, categorical, continuous)
            label = pyro.sample("y", self.p_y(), obs=y)
            z = pyro.sample("z", self.p_z(label))
            with poutine.mask(mask=self.library == "latent"):
                log_l = pyro.sample("log_library", self.p_library(s))
            h = self.decoder(z, s)
            log_rho = self.f_w(h).log_softmax(-1)
            logit_pi = self.logit_pi(h)
            theta = self.theta(log_theta, h, s)
            pyro.sample("x", self.p_x(log_l + log_rho, theta, logit_pi), obs=x)
            if self.alpha and x is not None and y is not None:
                with poutine.scale(scale=self.alpha / row_share(plate)):
                    infer: Any = {"objective_only": True}
                    pyro.sample("y_given_z", self.q_y(z), obs=y, infer=infer)

    def guide(
        self,
        x: Tensor,
        batch: Tensor | None = None,
        categorical: Tensor | None = None,
        continuous: Tensor | None = None,
        y: Tensor | None = None,
    ) -> None:
        """q(θ), and for each cell q(z | x, s) q(ℓ | x, s) and, if it is missing, q(y | z)."""
        if self.theta_prior is not None:
            pyro.sample("log_theta", self.q_log_theta())
        with rows(x, batch, categorical, continuous, y):
            s = self.given(batch, categorical, continuous)
            h = self.encoder(torch.log1p(x), s)
            z = pyro.sample("z", self.q_z(h))
            if y is None:
                pyro.sample("y", self.q_y(z), infer={"enumerate": "parallel"})
            with poutine.mask(mask=self.library == "latent"):
                pyro.sample("log_library", self.q_library(x, h))

    def p_y(self) -> TorchDistribution:
        """p(y): all labels alike."""
        return dist.Categorical(logits=torch.zeros_like(self.label_mean[:, 0]))

    def p_z(self, y: Tensor) -> TorchDistribution:
        """p(z | y), for labels of any shape."""
        y = y.long()
        return dist.Normal(self.label_mean[y], self.label_log_sd[y].exp()).to_event(1)

    def q_y(self, z: Tensor) -> TorchDistribution:
        """q(y | z), which is p(y | z)."""
        labels = torch.arange(self.num_labels, device=z.device)
        return dist.Categorical(logits=self.p_z(labels).log_prob(z.unsqueeze(-2)))


def _one_of(what: str, given: str, *known: str) -> str:
    if given not in known:
        raise ValueError(unknown_name(what, str(given), known))
    return given


def _of_batches(value: float | Sequence[float], num_batches: int) -> Tensor:
    """Return a number for each batch, (S, 1)."""
    numbers = torch.as_tensor(value, dtype=torch.get_default_dtype())
    if numbers.ndim and numbers.shape != (num_batches,):
        raise ValueError(
            f"a library size has one number for each of the {num_batches} batches, or one for all; "
            f"given {numbers.numel()}"
        )
    return numbers.expand(num_batches).clone().unsqueeze(-1)


def _there(column: str, values: Tensor | None) -> Tensor:
    if values is None:
        raise ColumnError(f"the story was built with column {column!r}, which is not given")
    return values


def _indicators(column: str, codes: Tensor | None, levels: int) -> Tensor:
    """Turn codes (...) into indicators (..., levels)."""
    codes = _there(column, codes).long()
    try:
        return F.one_hot(codes, levels)
    except RuntimeError as error:
        raise ColumnError(singlecell.unknown_level(column, codes, levels)) from error
