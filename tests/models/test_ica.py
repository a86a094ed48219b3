"""ICA: sources are recovered, and its bound is the likelihood of ICA where noise vanishes."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import FastICA

import vaeppl
from vaeppl.models import ICA
from vaeppl.representation import amari_distance

OPTIONS = {"epochs": 80, "batch_size": 200, "lr": 0.03, "lr_schedule": "cosine", "seed": 0}


def mixture(n=2000, k=4, d=4, seed=0):
    torch.manual_seed(seed)
    s = torch.distributions.Laplace(0.0, 2**-0.5).sample((n, k))
    mixing = torch.linalg.qr(torch.randn(d, k)).Q @ torch.diag(torch.linspace(1.0, 3.0, k))
    return s, mixing @ torch.linalg.qr(torch.randn(k, k)).Q, torch.arange(float(d))


@pytest.fixture(scope="module")
def fitted():
    s, mixing, mean = mixture()
    data = {"x": s @ mixing.T + mean}
    return vaeppl.fit(ICA.for_data(data), data, progress=False, **OPTIONS), s, mixing, mean


def test_the_mixing_is_undone(fitted):
    fit, _, mixing, mean = fitted
    distance = amari_distance(fit.model.unmixing, mixing)
    assert distance < 0.05
    fast = FastICA(4, whiten="unit-variance", random_state=0).fit(fit.train["x"].numpy())
    assert distance < amari_distance(fast.components_, mixing) + 0.005
    assert amari_distance(torch.linalg.pinv(ICA.for_data(fit.train).weights), mixing) > 0.1
    assert torch.allclose(fit.model.mean, mean, atol=0.15)


def test_sources_are_recovered_with_their_scale(fitted):
    fit, s, _, _ = fitted
    found = fit.encode()["s"].numpy()
    correlation = np.abs(np.corrcoef(found.T, s.numpy().T)[:4, 4:])
    assert (correlation.max(0) > 0.99).all()
    assert found.std(0) == pytest.approx(np.ones(4), abs=0.1)


def test_with_little_noise_the_evidence_is_the_likelihood_of_ica(double):
    s, mixing, mean = mixture(n=50)
    ica = ICA(4).double()
    with torch.no_grad():
        ica.raw_weights.copy_(mixing)
        ica.raw_mean.copy_(mean)
        ica.log_noise.fill_(math.log(1e-4))
    data = vaeppl.data.Data({"x": s @ mixing.T + mean}, dtype=torch.float64)
    exact = torch.distributions.Laplace(0.0, 2**-0.5).log_prob(s).sum(-1)
    exact = exact - torch.linalg.slogdet(mixing).logabsdet
    assert np.allclose(vaeppl.evidence(ica, data).rows["log_evidence"], exact, atol=1e-2)
    assert np.allclose(vaeppl.elbo(ica, data).rows["elbo"], exact, atol=1e-2)


def test_noise_and_more_columns_than_sources():
    s, mixing, mean = mixture(k=2, d=5)
    data = {"x": s @ mixing.T + mean + 0.3 * torch.randn(2000, 5)}
    fit = vaeppl.fit(ICA.for_data(data, latent_dim=2), data, progress=False, **OPTIONS)
    assert amari_distance(fit.model.unmixing, mixing) < 0.05
    assert fit.model.noise.item() == pytest.approx(0.3, rel=0.05)
    report = fit.evidence(num_particles=200)
    assert report.share_unreliable < 0.05
    assert 0 <= report.mean - fit.elbo().mean < 0.25


def test_normal_sources_cannot_be_told_apart_but_do_no_harm():
    data = {"x": torch.randn(300, 3)}
    fit = vaeppl.fit(ICA.for_data(data), data, epochs=5, progress=False)
    assert fit.encode()["s"].isfinite().all()


def test_bad_arguments():
    with pytest.raises(ValueError, match="1 to 3 sources in 3 columns; given latent_dim=4"):
        ICA(3, 4)
    with pytest.raises(ValueError, match="a unit is > 0"):
        ICA(3, unit=-1.0)
