"""The linear-Gaussian VAE is probabilistic PCA, whose evidence is known in closed form."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import vaeppl
from vaeppl.likelihoods import Normal
from vaeppl.models import VAE
from vaeppl.training.schedules import Cosine


def ppca_data(n=400, d=6, latent=2, noise=0.5, seed=3):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(d, latent)) * np.array([2.0, 1.2])
    x = rng.normal(size=(n, latent)) @ w.T + noise * rng.normal(size=(n, d)) + rng.normal(size=d)
    return torch.as_tensor(x)


def maximum_log_likelihood(x, latent):
    """Tipping & Bishop 1999, eqs. 4 and 8: the maximum over W, the mean and σ², per row."""
    d = x.shape[1]
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = eigenvalues[latent:].mean()
    log_det = eigenvalues[:latent].log().sum() + (d - latent) * noise.log()
    return float(-(d * math.log(2 * math.pi) + log_det + d) / 2)


def log_evidence(vae, x):
    """log N(x | b, W Wᵀ + σ² I) of a linear VAE, for each row."""
    layer = vae.decoder.layers[0]
    w, b = layer.weight.detach().double(), layer.bias.detach().double()
    likelihood = vae.likelihood(torch.zeros(1, b.numel()).to(layer.weight))
    variance = likelihood.base_dist.scale.detach().double()[0].square()
    covariance = w @ w.T + torch.diag(variance)
    return dist.MultivariateNormal(b, covariance).log_prob(x)


def linear_vae(d=6, latent=2, **kwargs):
    return VAE(d, latent, likelihood=Normal("learnt"), hidden=(), **kwargs)


@pytest.fixture(scope="module")
def fitted():
    x = ppca_data()
    fit = vaeppl.fit(
        linear_vae(guide_family="full_rank"),
        {"x": x},
        epochs=2500,
        batch_size=400,
        lr=0.1,
        lr_schedule=Cosine(1.0, 0.0),
        seed=0,
        progress=False,
    )
    return fit, x


def test_fit_reaches_the_maximum_likelihood_evidence(fitted):
    fit, x = fitted
    assert float(log_evidence(fit.model, x).mean()) == pytest.approx(
        maximum_log_likelihood(x, 2), abs=0.01
    )


def test_the_guide_is_tight_at_the_maximum(fitted):
    # Lucas et al. 2019: at its maximum the ELBO of a linear VAE equals the evidence.
    fit, x = fitted
    assert fit.elbo({"x": x}, num_particles=200).mean == pytest.approx(
        maximum_log_likelihood(x, 2), abs=0.02
    )


def test_evidence_agrees_with_the_closed_form(fitted):
    fit, x = fitted
    report = fit.evidence({"x": x}, num_particles=300, seed=1)
    exact = log_evidence(fit.model, x).numpy()
    z = (report.rows["log_evidence"] - exact) / report.rows["mc_se"]
    assert abs(report.mean - exact.mean()) < 3 * report.mc_se + 1e-4
    assert (z.abs() < 3).mean() > 0.97
    assert report.share_unreliable == 0.0


def test_posterior_means_span_the_principal_subspace(fitted):
    fit, x = fitted
    z = fit.encode({"x": x})["z"].double()
    centred = x - x.mean(0)
    scores = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
    fitted_scores = z @ torch.linalg.lstsq(z - z.mean(0), scores).solution
    residual = scores - (fitted_scores - fitted_scores.mean(0))
    assert float(residual.square().mean() / scores.square().mean()) < 1e-3


def exact_pair(w, b, sigma):
    """Linear-Gaussian story and its exact posterior."""
    latent = w.shape[1]
    precision = torch.eye(latent).to(w) + w.T @ w / sigma**2
    covariance = torch.linalg.inv(precision)
    tril = torch.linalg.cholesky(covariance)

    def model(x=None):
        with vaeppl.rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(latent).to(w), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ w.T + b, sigma).to_event(1), obs=x)

    def guide(x):
        mean = (x - b) @ w @ covariance / sigma**2
        with vaeppl.rows(x):
            pyro.sample("z", dist.MultivariateNormal(mean, scale_tril=tril))

    return model, guide


def test_with_the_exact_posterior_every_weight_is_the_evidence():
    torch.manual_seed(0)
    w, b, sigma = torch.randn(5, 2).double(), torch.randn(5).double(), 0.7
    x = torch.randn(30, 5).double()
    model, guide = exact_pair(w, b, sigma)
    data = vaeppl.data.Data({"x": x}, dtype=torch.float64)
    torch.set_default_dtype(torch.float64)
    try:
        report = vaeppl.evidence(model, data, guide=guide, num_particles=20)
        bound = vaeppl.elbo(model, data, guide=guide, num_particles=3000)
    finally:
        torch.set_default_dtype(torch.float32)
    exact = dist.MultivariateNormal(b, w @ w.T + sigma**2 * torch.eye(5).double()).log_prob(x)
    assert np.allclose(report.rows["log_evidence"], exact, atol=1e-10)
    assert np.allclose(report.rows["mc_se"], 0, atol=1e-10)
    # log p = ELBO + KL(q || posterior), and that KL is zero here.
    assert np.allclose(report.rows["elbo"], exact, atol=1e-10)
    assert np.allclose(bound.rows["elbo"], exact, atol=0.3)


def test_the_gap_between_evidence_and_elbo_is_the_kl_to_the_posterior():
    torch.manual_seed(0)
    w, b, sigma = torch.randn(4, 2).double(), torch.zeros(4).double(), 0.8
    x = torch.randn(10, 4).double()
    model, _ = exact_pair(w, b, sigma)
    q = dist.Normal(torch.tensor([0.3, -0.2]).double(), torch.tensor([0.6, 0.9]).double())

    def guide(x):
        with vaeppl.rows(x):
            pyro.sample("z", q.expand([len(x), 2]).to_event(1))

    covariance = torch.linalg.inv(torch.eye(2).double() + w.T @ w / sigma**2)
    posterior = dist.MultivariateNormal((x - b) @ w @ covariance / sigma**2, covariance)
    wide = dist.MultivariateNormal(q.loc.expand(10, 2), torch.diag(q.scale**2).expand(10, 2, 2))
    gap = torch.distributions.kl_divergence(wide, posterior)
    exact = dist.MultivariateNormal(b, w @ w.T + sigma**2 * torch.eye(4).double()).log_prob(x)
    torch.set_default_dtype(torch.float64)
    try:
        data = vaeppl.data.Data({"x": x}, dtype=torch.float64)
        report = vaeppl.elbo(model, data, guide=guide, num_particles=20_000)
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.allclose(report.rows["elbo"], exact - gap, atol=0.1)
