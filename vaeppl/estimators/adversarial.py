"""Densities that are not known, by classifiers: total correlation, and the KL of implicit guides.

A classifier that tells draws of p from draws of q, trained by logistic regression, has at its
optimum the logit log p - log q (Sugiyama et al. 2012). It stands here for

- the total correlation of the codes: q(z) against Π_j q(z_j) (FactorVAE: Kim & Mnih 2018, eq. 2);
- the KL of a guide that can be drawn from but has no density: q(z | x) against p(z) (adversarial
  variational Bayes: Mescheder, Nowozin & Geiger 2017, eq. 3.3).

The classifier belongs to the estimator, and takes steps of its own whenever a gradient is asked
for. It is made at the first call, and is not a part of a saved fit. Where it lags behind, the
objective is wrong by as much, and no bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.poutine as poutine
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import StoryError
from ..nets import MLP
from .particles import ParticleEstimator
from .regularised import Codes, Penalised, codes
from .sites import is_beside_the_story, sample_sites, weighted_log_prob

__all__ = ["Adversarial", "Classifier", "FactorTC"]


class Classifier:
    """A network and its optimiser: learns the logit of one sample against another.

    Parameters
    ----------
    hidden
        Sizes of its hidden layers.
    lr
        Learning rate of its Adam.

    Examples
    --------
    >>> classifier = Classifier((8,))
    >>> classifier.learn(torch.randn(50, 2) + 3, torch.randn(50, 2), steps=5)
    >>> classifier.logit(torch.zeros(4, 2)).shape
    torch.Size([4])
    """

    def __init__(self, hidden: Sequence[int] = (256, 256), lr: float = 1e-3) -> None:
        if lr <= 0:
            raise ValueError(f"lr is above 0; given {lr}")
        self.hidden, self.lr = tuple(hidden), lr
        self.net: nn.Module | None = None

    def _made(self, like: Tensor) -> nn.Module:
        if self.net is None:
            self.net = MLP(like.shape[-1], 1, hidden=self.hidden).to(like)
            self.optimizer = torch.optim.Adam(self.net.parameters(), lr=self.lr, betas=(0.5, 0.9))
        return self.net

    def logit(self, rows: Tensor) -> Tensor:
        """Return the logit of each row; its gradient is that of the rows alone."""
        net = self._made(rows)
        fixed = {n: p.detach() for n, p in net.named_parameters()}
        value: Tensor = torch.func.functional_call(net, fixed, (rows,))
        return value.squeeze(-1)

    def learn(self, ones: Tensor, noughts: Tensor, *, steps: int = 1) -> None:
        """Take steps toward telling the first sample from the second."""
        ones, noughts = ones.detach(), noughts.detach()
        net = self._made(ones)
        with torch.enable_grad():
            for _ in range(steps):
                a, b = net(ones).squeeze(-1), net(noughts).squeeze(-1)
                loss = F.softplus(-a).mean() + F.softplus(b).mean()
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()


OWN_STEPS = "its estimator trains a classifier of its own, with steps of another optimiser"


class FactorTC(Penalised):
    """FactorVAE: ELBO - γ N TC, the total correlation by a classifier (Kim & Mnih 2018).

    Parameters
    ----------
    num_particles
        Draws for each row.
    strength
        γ.
    hidden, lr
        Of the classifier.
    steps
        Steps of the classifier for each gradient.
    """

    no_graph = OWN_STEPS

    def __init__(
        self,
        num_particles: int = 1,
        *,
        strength: float = 10.0,
        hidden: Sequence[int] = (256, 256),
        lr: float = 1e-3,
        steps: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(num_particles, **options)
        if strength < 0 or steps < 1:
            raise ValueError(f"strength is >= 0 and steps at least 1; given {strength} and {steps}")
        self.strength, self.steps = strength, steps
        self.classifier = Classifier(hidden, lr)

    def penalise(self, found: Codes, model_trace: Any) -> Tensor:
        """Return γ times the mean logit of q(z) against the product of its dimensions."""
        z = found.values
        if z.shape[0] < 2:
            raise StoryError("FactorTC shuffles the codes of a batch: it needs two rows or more")
        if torch.is_grad_enabled():
            order = torch.rand(z.shape, device=z.device).argsort(0)
            self.classifier.learn(z, z.gather(0, order), steps=self.steps)
        return self.strength * self.classifier.logit(z).mean()


class Adversarial(ParticleEstimator):
    """The ELBO of a guide without a density: its KL by a classifier.

    Of the guide only the draws are used, so its site may be a ``Delta`` at what a network made of
    data and noise. The classifier sees each row's columns beside its latents, all in one.

    Parameters
    ----------
    num_particles
        Draws for each row.
    hidden, lr
        Of the classifier.
    steps
        Steps of the classifier for each gradient.

    Attributes
    ----------
    report : dict of str to 0-dim Tensor
        ``"bound"``, ``"reconstruction"`` and ``"kl"`` as the classifier has it.
    """

    takes_marked = False
    no_graph = OWN_STEPS

    def __init__(
        self,
        num_particles: int = 1,
        *,
        hidden: Sequence[int] = (256, 256),
        lr: float = 1e-3,
        steps: int = 5,
        **options: Any,
    ) -> None:
        super().__init__(num_particles, **options)
        if steps < 1:
            raise ValueError(f"steps is at least 1; given {steps}")
        self.steps, self.classifier = steps, Classifier(hidden, lr)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the ELBO, the KL estimated by the classifier."""
        reconstruction: Any = 0.0
        beside: Any = 0.0
        kl: Any = 0.0
        share = 1 / self.num_particles
        side_by_side = self.num_particles if self.vectorize_particles else 1
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            for site in sample_sites(model_trace):
                if site["is_observed"]:
                    term = weighted_log_prob(site).sum() * share
                    if is_beside_the_story(site):
                        beside = beside + term
                    else:
                        reconstruction = reconstruction + term
            found = codes(guide_trace, "Adversarial")
            _check_all(guide_trace, found)
            rows = _rows(args, kwargs, found)
            z = torch.cat([rows, found.values], -1)
            if torch.is_grad_enabled():
                for _ in range(self.steps):
                    prior = _prior(model, found, args, kwargs)
                    prior = prior.repeat(len(z) // len(prior), 1)
                    self.classifier.learn(z, torch.cat([rows, prior], -1))
            kl = kl + found.rows * self.classifier.logit(z).mean() * share * side_by_side
        terms = {"bound": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}
        self.report = {name: term.detach() for name, term in terms.items()}
        loss: Tensor = kl - reconstruction - beside
        return loss


def _check_all(guide_trace: Any, found: Codes) -> None:
    """Refuse latents that are no codes of rows."""
    known = {s["name"] for s in found.sites}
    for site in sample_sites(guide_trace):
        if not site["is_observed"] and site["name"] not in known:
            raise StoryError(
                f"Adversarial needs latents of rows that can be reparametrised; {site['name']!r} "
                "is none: use estimator='elbo'"
            )


def _rows(args: Any, kwargs: Any, found: Codes) -> Tensor:
    """Return the columns of each row and particle side by side, ``(K B, ...)``."""
    columns = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
    like = found.values
    if not columns:
        return like.new_zeros(len(like), 0)
    flat = torch.cat([c.reshape(len(c), -1).to(like) for c in columns], -1)
    return flat.repeat(len(like) // len(flat), 1)


@torch.no_grad()
def _prior(model: Any, found: Codes, args: Any, kwargs: Any) -> Tensor:
    """Draw the latents of each row from the story, ``(B, D)``."""
    story = poutine.trace(poutine.uncondition(model)).get_trace(*args, **kwargs)
    parts = []
    for site in found.sites:
        if site["name"] not in story.nodes:
            raise StoryError(f"the model does not draw {site['name']!r}, which the guide draws")
        node = story.nodes[site["name"]]
        parts.append(node["value"].reshape(node["fn"].batch_shape.numel(), -1))
    return torch.cat(parts, -1)
