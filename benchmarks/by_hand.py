"""Losses as one would write them in plain PyTorch, on the networks of a story.

Minus the ELBO of a batch, per row: the same bound that the story has, without Pyro.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from m2_step import ByHand
from torch import Tensor

Columns = dict[str, Tensor]


def batches(columns: Columns, size: int, steps: int) -> list[Columns]:
    """Return minibatches; rows with and without a label have their share of each."""
    order = torch.arange(size * steps).view(size, steps).T  # every ``steps``-th row
    return [{name: values[index] for name, values in columns.items()} for index in order]


def parts(columns: Columns, data: Columns) -> list[tuple[Columns, int]]:
    """Return the rows without a label and those with one, each with how many rows it stands for."""
    if "y" not in columns:
        return [(columns, len(data["x"]))]
    there = columns["y"] >= 0
    known = int((data["y"] >= 0).sum())
    apart: list[tuple[Columns, int]] = [({"x": columns["x"][~there]}, len(data["x"]) - known)]
    return [*apart, ({n: v[there] for n, v in columns.items()}, known)]


def draw(loc: Tensor, scale: Tensor) -> Tensor:
    return loc + scale * torch.randn_like(scale)


def code(vae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    loc, raw = vae.q.head(vae.encoder(x)).chunk(2, -1)
    return loc, F.softplus(raw) + 1e-4


def kl(loc: Tensor, scale: Tensor) -> Tensor:
    return 0.5 * (loc**2 + scale**2 - 1 - 2 * scale.log()).sum()


def normal_vae(vae: Any, columns: Columns) -> Tensor:
    """Gaussian with a scale that is learnt."""
    x = columns["x"]
    loc, scale = code(vae, x)
    mean = vae.decoder(draw(loc, scale))
    sd = vae.likelihood.log_scale.exp() + 1e-4
    log_p = -0.5 * ((x - mean) / sd) ** 2 - sd.log() - 0.5 * math.log(2 * math.pi)
    return (kl(loc, scale) - log_p.sum()) / len(x)


def bernoulli_vae(vae: Any, columns: Columns) -> Tensor:
    """Black and white pixels."""
    x = columns["x"]
    loc, scale = code(vae, x)
    logits = vae.decoder(draw(loc, scale))
    nll = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return (nll + kl(loc, scale)) / len(x)


def iwae(vae: Any, columns: Columns) -> Tensor:
    """Importance-weighted bound of 50 draws."""
    x = columns["x"]
    loc, scale = code(vae, x)
    noise = torch.randn(50, *loc.shape)
    z = loc + scale * noise
    logits = vae.decoder(z)
    nll = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
    log_w = -nll.sum(-1) - 0.5 * (z**2 - noise**2).sum(-1) + scale.log().sum(-1)
    return -(log_w.logsumexp(0) - math.log(50)).mean()


def m2(story: Any, columns: Columns) -> Tensor:
    """Labels summed out where they are missing."""
    x, y = columns["x"], columns["y"]
    # As in every batch here: the rows without a label come first, 102 of 128.
    hand = ByHand.__new__(ByHand)
    hand.m2, hand.labels = story, torch.eye(10)
    return hand.loss(x[:102], x[102:], y[102:])


def scvi(story: Any, columns: Columns) -> Tensor:
    """Zero-inflated negative binomial, its formula that of scvi-tools; latent library size."""
    x = columns["x"]
    s = x.new_ones(1)
    h = story.encoder(torch.log1p(x), s)
    loc, raw = story.q_z.head(h).chunk(2, -1)
    scale = F.softplus(raw) + 1e-4
    total = x.sum(-1, keepdim=True).clamp(min=1.0).log()
    c, raw = story.c_and_d(h).chunk(2, -1)
    l_loc, l_scale = total + c, F.softplus(raw - 3.0) + 1e-4
    h = story.decoder(draw(loc, scale), s)
    mu = (draw(l_loc, l_scale) + story.f_w(h).log_softmax(-1)).exp()
    theta = (10.0 * story.log_theta_units).clamp(-15.0, 15.0).exp()
    log_p = log_zinb(x, mu, theta, story.f_h(h)).sum()
    mean, sd = story.library_mean, story.library_sd
    ratio = (l_scale / sd) ** 2
    kl_l = 0.5 * (ratio + ((l_loc - mean) / sd) ** 2 - 1 - ratio.log()).sum()
    return (kl(loc, scale) + kl_l - log_p) / len(x)


def log_zinb(x: Tensor, mu: Tensor, theta: Tensor, gate: Tensor, eps: float = 1e-8) -> Tensor:
    softplus = F.softplus(-gate)
    log_theta, log_both = torch.log(theta + eps), torch.log(theta + mu + eps)
    zero = -gate + theta * (log_theta - log_both)
    positive = (
        -softplus
        + zero
        + x * (torch.log(mu + eps) - log_both)
        + torch.lgamma(x + theta)
        - torch.lgamma(theta)
        - torch.lgamma(x + 1)
    )
    return torch.where(x < eps, F.softplus(zero) - softplus, positive)


def gpvae(story: Any, columns: Columns) -> Tensor:
    """Gaussian-process prior in weight space: RBF over time, times features of each subject."""
    x, time, who = columns["x"], columns["time"].double().unsqueeze(-1), columns["who"]
    on_time, on_who = story.kernel.kernels
    points = on_time.inducing.double()
    width = F.softplus(on_time.base.raw_lengthscale)
    gram = rbf(points, points, width) + 1e-10 * torch.eye(len(points), dtype=torch.float64)
    tril = torch.linalg.cholesky_ex(gram)[0]
    near = torch.linalg.solve_triangular(tril, rbf(points, time, width), upper=False).mT
    variance = F.softplus(on_who.base.raw_variance).squeeze()
    features = on_who.features.weight[who].double() * variance.sqrt()
    v = (near.unsqueeze(-1) * features.unsqueeze(-2)).flatten(-2)
    rest = (features.square().sum(-1) - v.square().sum(-1)).clamp(min=0.0)
    d = (rest + story.log_alpha.exp()).float().unsqueeze(-1)

    u_loc, raw = story.q_u.loc, story.q_u.raw
    diagonal = F.softplus(raw.diagonal(dim1=-2, dim2=-1)) + 1e-5
    tril = raw.tril(-1) + torch.diag_embed(diagonal)
    u = u_loc + (tril @ torch.randn_like(u_loc).unsqueeze(-1)).squeeze(-1)
    kl_u = 0.5 * (tril.square().sum() + u_loc.square().sum() - u_loc.numel())
    kl_u = kl_u - diagonal.log().sum()

    loc, scale = code(story, x)
    logits = story.decoder(draw(loc, scale))
    nll = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    away = loc - v.float() @ u.mT
    kl_z = 0.5 * ((scale**2 + away**2) / d - 1 + d.log() - 2 * scale.log()).sum()
    return (nll + kl_z) / len(x) + kl_u / (10 * len(x))  # the batch is a tenth of the rows


def rbf(a: Tensor, b: Tensor, width: Tensor) -> Tensor:
    return (-0.5 * ((a - b.mT) / width) ** 2).exp()
