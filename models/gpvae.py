"""The Gaussian-process prior VAE (Casale, Dalca, Saglietti, Listgarten & Fusi 2018).

Rows are not independent: what is known of a row beside x_n (its object, its angle, its time) is
w_n, and latents of rows with like w are alike. For each latent dimension l = 1, …, L::

    z^l        ~ GP(0, k(w, w') + α δ)       over all rows; k is any kernel of GPyTorch
    x_n | z_n  ~ p(x_n | h = f(z_n))         likelihood, its parameters put out by a network f

and the guide is that of a VAE::

    q(z_n | x_n) = N(m(g(x_n)), diag s(g(x_n))²)

The kernel is used as K = V Vᵀ + diag: V_n holds H features of w_n (:func:`vaeppl.gp.low_rank`), and
never is there an N × N matrix. So the story can also be told in weight space, where the rows are
independent given H weights for each latent dimension, and may come in minibatches::

    u^l             ~ N(0, I_H)
    z_nl | u^l      ~ N(V_n u^l, d_n),       d_n = α + what V_n V_nᵀ lacks of k(w_n, w_n)

The first is :class:`ExactGPVAE`, the second :class:`GPVAE`, with a guide q(u) of its own. They are
one story. Their bounds differ by what a q(u) that does not depend on Z costs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from gpytorch.kernels import Kernel
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from vaeppl import Model, gp, guides, likelihoods, rows
from vaeppl.data import as_data
from vaeppl.errors import ColumnError, StoryError
from vaeppl.nets import MLP, feature_net, output_dim

ALPHA_FLOOR = 1e-6  # α below it leaves K singular to working precision
MOST_NUMBERS = 2**28  # entries of V that ExactGPVAE takes: 1 GB in float32, and a few such at once
PART = 8192  # rows whose V is computed together


class GPVAE(Model):
    """VAE with a Gaussian-process prior, fitted by minibatches.

    ====== ====== ======================= ==================================================
    site   symbol shape                   what it is
    ====== ====== ======================= ==================================================
    ``u``  u      ``(latent_dim, H)``     weights of the process, of all rows; no unit
    ``z``  z_n    ``(latent_dim,)`` a row latent vector, no unit
    ``x``  x_n    ``(x_dim,)`` a row      data, in the unit of the column ``x``
    ====== ====== ======================= ==================================================

    The columns that the kernel is on are given, and never drawn. What :func:`vaeppl.evidence` and
    :func:`vaeppl.elbo` say of a row is given q(u), which has seen the rows that were fitted.

    Parameters
    ----------
    x_dim
        Number of entries in a row of ``x``.
    latent_dim
        L, the number of entries of z.
    kernel
        k, on columns: ``gp.On("angle", "periodic") * gp.On("object_features", "linear")``. See
        :class:`vaeppl.gp.On`; :meth:`for_data` chooses inducing points.
    alpha
        α to start with: the variance of z that the kernel does not explain.
    learn_alpha
        Whether α is learnt.
    likelihood
        p(x | h), from :mod:`vaeppl.likelihoods`, or its name.
    hidden, activation, encoder, decoder
        As in :class:`~vaeppl.models.VAE`.

    Examples
    --------
    >>> import torch, vaeppl
    >>> data = {"x": torch.randn(60, 5), "time": torch.linspace(0, 1, 60)}
    >>> kernel = gp.On("time", "rbf", lengthscale=0.2)
    >>> story = GPVAE.for_data(data, kernel=kernel, latent_dim=2, num_inducing=8, hidden=(8,))
    >>> fit = vaeppl.fit(story, data, epochs=1, progress=False)
    >>> gp.predict(fit, {"time": torch.tensor([0.5, 1.1])}).x_mean.shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        x_dim: int,
        latent_dim: int = 16,
        *,
        kernel: Kernel,
        alpha: float = 0.1,
        learn_alpha: bool = True,
        likelihood: str | likelihoods.Likelihood = "normal",
        hidden: Sequence[int] = (400,),
        activation: str = "relu",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not alpha >= ALPHA_FLOOR:
            raise ValueError(
                f"alpha is at least {ALPHA_FLOOR:g}, or the covariance of the latents is singular "
                f"where rows are alike; given {alpha}"
            )
        self.latent_dim = latent_dim
        self.likelihood = likelihoods.get(likelihood).bind(x_dim)
        features, params = self.likelihood.num_features, self.likelihood.num_params
        if encoder is None:
            encoder = feature_net(features, hidden, activation)
        if decoder is None:
            decoder = MLP(latent_dim, params, hidden=hidden[::-1], activation=activation)
        self.encoder, self.decoder = encoder, decoder
        self.q = guides.DiagonalNormal().bind(output_dim(self.encoder, features), latent_dim)

        self.log_alpha = nn.Parameter(torch.tensor(math.log(alpha)), requires_grad=learn_alpha)
        self.kernel = gp.bound(kernel, latent_dim)
        self.given_columns = gp.columns_of(self.kernel)
        if "x" in self.given_columns:
            raise StoryError(
                "the kernel is on 'x', which the story explains: put it on other columns"
            )
        self.rank = gp.rank(self.kernel)
        self._make_weights()

    def _make_weights(self) -> None:
        self.q_u = gp.WeightsGuide(self.latent_dim, self.rank)

    def model(self, x: Tensor | None = None, **w: Tensor) -> None:
        """p(u), and p(z | u, w) p(x | z) for each row."""
        v, d = self.features(w)
        u = pyro.sample("u", gp.weights_prior(self.q_u.loc))
        with rows(x, *w.values()):
            z = pyro.sample("z", gp.values_given(u, v, d))
            pyro.sample("x", self.p_x(z), obs=x)

    def guide(self, x: Tensor, **w: Tensor) -> None:
        """q(u), and q(z | x) for each row."""
        pyro.sample("u", self.q_u())
        with rows(x, *w.values()):
            pyro.sample("z", self.q_z(x))

    @property
    def alpha(self) -> Tensor:
        """α, the variance of z that the kernel does not explain."""
        return self.log_alpha.exp().clamp(min=ALPHA_FLOOR)

    def features(self, w: Any) -> tuple[Tensor, Tensor]:
        """Return V and d of rows with columns w, so that K + αI = V Vᵀ + diag d."""
        return self._features_at(gp.matrix(self.kernel, w))

    def _features_at(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        v, rest = gp.low_rank(self.kernel, inputs)
        like = self.log_alpha
        return v.to(like.dtype), (rest + self.alpha).to(like.dtype)

    def q_z(self, x: Tensor) -> TorchDistribution:
        """q(z | x), independent over rows and latent dimensions."""
        return self.q(self.encoder(self.likelihood.features(x)))

    def p_x(self, z: Tensor) -> TorchDistribution:
        """p(x | z)."""
        return self.likelihood(self.decoder(z))

    @classmethod
    def for_data(
        cls, data: Any, *, kernel: Kernel | None = None, num_inducing: int = 32, **options: Any
    ) -> Any:
        """Build the story for some data: sizes, and the inducing points of the kernel.

        Parameters
        ----------
        data
            Rows, as in :func:`vaeppl.fit`; of data with splits, the train part is looked at.
        kernel
            As in the constructor. If not given, the sum of a kernel on each column other than
            ``x``: RBF for numbers, eight learnt features of each level for codes.
        num_inducing
            At most so many inducing points for each kernel on a column.
        **options
            Other arguments of the constructor.

        Raises
        ------
        ColumnError
            If the kernel is on a column that the data lack, or there is none but ``x``.
        """
        found = as_data(data).train
        kernel = _additive(found) if kernel is None else kernel
        columns = found.columns(*_there(gp.columns_of(kernel), found))
        kernel = gp.for_data(kernel, columns.take(torch.arange(len(columns))), num_inducing)
        return cls(**{"x_dim": math.prod(found.shape("x")), **options, "kernel": kernel})

    def check_data(self, data: Any) -> None:
        """Check that the columns of the kernel are there, and hold what it was built for.

        Raises
        ------
        ColumnError
            The message says what is wrong.
        """
        found = as_data(data)
        columns = found.columns(*_there(self.given_columns, found))
        with torch.no_grad():
            for index in torch.arange(len(columns)).split(4096):
                self.features(columns.take(index, device=self.log_alpha.device))

    @classmethod
    def above(
        cls, vae: Any, data: Any, *, kernel: Kernel, frozen: bool = False, **options: Any
    ) -> Any:
        """Build the story above a fitted VAE, whose networks are copied.

        Parameters
        ----------
        vae
            A fit of :class:`~vaeppl.models.VAE` with the diagonal guide family.
        data, kernel, **options
            As in :meth:`for_data`.
        frozen
            Whether networks and likelihood stay as they are, so that the process is fitted to the
            latents of the VAE (the paper's GPPVAE-dis); ``False``: all is fitted from there on
            (GPPVAE-joint).

        Returns
        -------
        GPVAE
            With q(u) at its best given these latents.
        """
        below = vae.model
        given = below.config() if isinstance(below, Model) else {}
        if given.get("guide_family") != "diagonal":
            raise StoryError(
                "the story below is a fit of VAE with the diagonal guide family: "
                "vaeppl.fit(VAE(...), data)"
            )
        story = cls.for_data(
            data,
            kernel=kernel,
            encoder=copy.deepcopy(below.encoder),
            decoder=copy.deepcopy(below.decoder),
            **{k: given[k] for k in ("latent_dim", "likelihood")},
            **options,
        )
        for name in ("likelihood", "q"):
            getattr(story, name).load_state_dict(getattr(below, name).state_dict())
        for name in ("likelihood", "encoder", "decoder", "q"):
            getattr(story, name).requires_grad_(not frozen)
        story.warm_start(data)
        return story

    def warm_start(self, data: Any) -> None:
        """Set q(u) to the best one, in closed form, given q(z | x) of all rows."""
        self.q_u.set(gp.weight_sums(self, as_data(data).train).conditional())


class ExactGPVAE(GPVAE):
    """VAE with a Gaussian-process prior, fitted to all rows at once.

    ====== ====== ========================= ================================================
    site   symbol shape                     what it is
    ====== ====== ========================= ================================================
    ``z``  z^l    ``(N,)``, in the plate    latent dimension l of all rows, no unit
                  ``latents``
    ``x``  x_n    ``(x_dim,)`` a row        data, in the unit of the column ``x``
    ====== ====== ========================= ================================================

    The weights are integrated out, and the KL from N rows to the process is exact. Rows depend on
    each other, so that ``batch_size`` is the number of rows, and no ELBO or evidence is a row's
    own: read :meth:`rows_apart` instead. Rows go through the networks in parts, so that memory is
    a few times N (H + L) numbers beside the data, and what a part needs.

    Parameters
    ----------
    x_dim, latent_dim, **options
        As in :class:`GPVAE`.
    rows_at_once
        Rows that go through the networks together.

    Examples
    --------
    >>> import torch, vaeppl
    >>> data = {"x": torch.randn(60, 5), "time": torch.linspace(0, 1, 60)}
    >>> kernel = gp.On("time", "rbf", lengthscale=0.2)
    >>> story = ExactGPVAE.for_data(data, kernel=kernel, latent_dim=2, hidden=(8,))
    >>> fit = vaeppl.fit(story, data, batch_size=60, epochs=1, progress=False)
    >>> gp.predict(fit, {"time": torch.tensor([0.5, 1.1])}).x_mean.shape
    torch.Size([2, 5])
    """

    couples_rows = True

    def __init__(
        self, x_dim: int, latent_dim: int = 16, *, rows_at_once: int = 512, **options: Any
    ) -> None:
        super().__init__(x_dim, latent_dim, **options)
        self.rows_at_once = rows_at_once

    def _make_weights(self) -> None:
        """None: they are integrated out."""

    def model(self, x: Tensor | None = None, **w: Tensor) -> None:
        """p(z | w) for each latent dimension, and p(x | z) for each row."""
        v, d = self.features(w)
        with pyro.plate("latents", self.latent_dim, dim=-1):
            z = pyro.sample("z", gp.LowRankNormal(v, d))
        with rows(x, *w.values()):
            pyro.sample("x", self.p_x(z.mT), obs=x)

    def guide(self, x: Tensor, **w: Tensor) -> None:
        """q(z | x) for each row, by latent dimension."""
        mean, sd = gp.in_parts(self._moments, self.rows_at_once, x).mT.split(self.latent_dim)
        with pyro.plate("latents", self.latent_dim, dim=-1):
            pyro.sample("z", dist.Normal(mean, sd).to_event(1))

    def _features_at(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """V and d, in parts where there are many rows: the gradient computes each again."""
        if len(inputs) <= PART:
            return super()._features_at(inputs)
        v_and_d = gp.in_parts(self._beside, PART, inputs)
        return v_and_d[..., :-1].movedim(0, -2), v_and_d[..., -1].movedim(0, -1)

    def _beside(self, inputs: Tensor) -> Tensor:
        """V and d side by side, rows first."""
        v, d = super()._features_at(inputs)
        return torch.cat([v, d.unsqueeze(-1)], dim=-1).movedim(-2, 0)

    def p_x(self, z: Tensor) -> TorchDistribution:
        """p(x | z), in parts where there are many rows."""
        if z.ndim > 2 or len(z) <= self.rows_at_once:
            return super().p_x(z)
        return gp.InParts(super().p_x, z, self.rows_at_once)

    def _moments(self, x: Tensor) -> Tensor:
        """Return mean and standard deviation of q(z | x) side by side, ``(N, 2 L)``."""
        q = self.q_z(x).base_dist
        return torch.cat([q.loc, q.scale], dim=-1)

    def check_data(self, data: Any) -> None:
        """Check the columns of the kernel, and that V is not too large.

        Raises
        ------
        ColumnError
            If a column is not as it should be.
        StoryError
            If there are too many rows for the rank of the kernel.
        """
        count, numbers = len(as_data(data)), self.rank * math.prod(self.kernel.batch_shape)
        if count * numbers > MOST_NUMBERS:
            raise StoryError(
                f"{count} rows of a kernel of rank {numbers} are more than ExactGPVAE holds "
                f"({MOST_NUMBERS // numbers} rows): fit GPVAE, the same story by minibatches; or "
                "give the kernel fewer inducing points"
            )
        super().check_data(data)

    def warm_start(self, data: Any) -> None:
        """Nothing: there is no q(u)."""

    def rows_apart(self, data: Any) -> GPVAE:
        """Return the same story in weight space, with the best q(u) given q(z | x) of these rows.

        It can be read as any other: ELBO, evidence, encodings, pictures. Networks and kernel are
        copies.
        """
        options = {k: v for k, v in self.config().items() if k != "rows_at_once"}
        story = GPVAE(**copy.deepcopy(options))
        story.load_state_dict(self.state_dict(), strict=False)
        story.to(self.log_alpha.device).to(self.log_alpha.dtype).eval()
        story.warm_start(data)
        return story


def _there(names: Sequence[str], data: Any) -> Sequence[str]:
    for name in names:
        if name not in data:
            raise ColumnError(
                f"the kernel is on column {name!r}, which the data lack: they have "
                f"{', '.join(map(repr, data.keys()))}"
            )
    return names


def _additive(data: Any) -> Kernel:
    """Return the sum of a kernel on each column other than ``x``."""
    parts: list[Any] = []
    for name in data.keys():  # noqa: SIM118
        if name == "x":
            continue
        if data.kind(name) == "categorical" and not data.shape(name):
            levels = int(data[name].max()) + 1
            parts.append(gp.On(name, "linear", features=gp.Table(levels, 8)))
        else:
            values = torch.as_tensor(data[name]).double()
            parts.append(gp.On(name, "rbf", lengthscale=float(values.std()) or 1.0))
    if not parts:
        raise ColumnError("the data have no column but 'x', and so nothing for a kernel to be on")
    return parts[0] if len(parts) == 1 else gp.Sum(*parts)
