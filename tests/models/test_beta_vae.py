"""Objectives that disentangle: what β does to a linear story is known exactly."""

import math

import pytest
import torch

import vaeppl
from vaeppl import likelihoods
from vaeppl.estimators import DIP, ELBO, BetaTC, Capacity, FactorTC
from vaeppl.models import VAE, BetaVAE

VARIANCES = torch.tensor([9.0, 4.0, 2.0])


def real(n=1000):
    """Return rows whose covariance is diag(VARIANCES), exactly, but for a rotation."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=g, dtype=torch.double)
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / n)).T
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.double))
    return {"x": ((white * VARIANCES.sqrt()) @ rotation).float()}


@pytest.mark.parametrize(("beta", "active"), [(1.0, 3), (3.0, 2), (6.0, 1)])
def test_beta_prunes_the_axes_whose_variance_is_below_beta_times_that_of_the_noise(beta, active):
    """A linear decoder with noise of variance 1 keeps what varies more than β.

    Along an axis of variance λ it has w² = λ - β, and KL = log(λ / β) / 2 nats: pPCA with noise of
    variance β (Lucas et al. 2019, section 5; Tipping & Bishop 1999, equation 7).
    """
    vae = BetaVAE(3, 3, likelihood=likelihoods.Normal(1.0), hidden=())
    options = {"batch_size": 1000, "epochs": 500, "lr": 0.05, "lr_schedule": "cosine"}
    data = real()
    estimator = vae.objective("beta", kl_weight=beta)
    fit = vaeppl.fit(vae, data, estimator=estimator, progress=False, **options)
    assert fit.active_units(data)["active"].sum() == active
    weights = vae.decoder.layers[0].weight.detach()
    squares = torch.linalg.svdvals(weights) ** 2
    assert torch.allclose(squares, (VARIANCES - beta).clamp(min=0), atol=0.1)
    kl = sum(0.5 * math.log(v / beta) for v in VARIANCES.tolist() if v > beta)
    assert fit.elbo(data).kl == pytest.approx(kl, abs=0.02)


def test_the_story_is_that_of_a_vae():
    data = {"x": (torch.rand(20, 6) < 0.5).float()}
    ours, theirs = BetaVAE(6, 2, hidden=(4,)), VAE(6, 2, hidden=(4,))
    theirs.load_state_dict(ours.state_dict())
    assert vaeppl.elbo(ours, data).mean == vaeppl.elbo(theirs, data).mean


@pytest.mark.parametrize(
    ("name", "options", "cls"),
    [
        ("beta", {"kl_weight": 2.0}, ELBO),
        ("capacity", {"capacity": 3.0, "steps": 10}, Capacity),
        ("tc", {"beta": 3.0}, BetaTC),
        ("factor", {"strength": 3.0}, FactorTC),
        ("dip", {"kind": "ii"}, DIP),
    ],
)
def test_each_objective_names_its_estimator_and_fits(name, options, cls):
    estimator = BetaVAE.objective(name, **options)
    assert type(estimator) is cls
    data = {"x": (torch.rand(60, 6) < 0.5).float()}
    fit = vaeppl.fit(
        BetaVAE(6, 2, hidden=(4,)), data, estimator=estimator, epochs=2, progress=False
    )
    assert math.isfinite(fit.elbo(data).mean)


def test_options_reach_the_estimator():
    assert BetaVAE.objective("beta").kl_weight == 4.0
    assert BetaVAE.objective("capacity", capacity=3.0).capacity == 3.0
    assert BetaVAE.objective("tc", beta=3.0).weights == (1.0, 3.0, 1.0)
    assert BetaVAE.objective("dip", kind="ii").kind == "ii"


def test_bad_arguments():
    with pytest.raises(ValueError, match="unknown objective 'bta'"):
        BetaVAE.objective("bta")
    with pytest.raises(ValueError, match="unknown option of 'dip' 'beta'"):
        BetaVAE.objective("dip", beta=3.0)
