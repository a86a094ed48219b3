"""Factor analysis against scikit-learn's, and units that do not matter."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import FactorAnalysis as ByEM

import vaeppl
from vaeppl.models import PPCA, FactorAnalysis

UNITS = torch.tensor([1.0, 100.0, 0.01, 3.0, 1.0, 20.0, 0.5])
OPTIONS = {"epochs": 800, "batch_size": 400, "lr": 0.05, "lr_schedule": "cosine", "seed": 0}


def data(units=UNITS):
    g = torch.Generator().manual_seed(5)
    w = torch.randn(7, 2, generator=g)
    noise = torch.linspace(0.3, 1.2, 7)
    x = torch.randn(400, 2, generator=g) @ w.T + noise * torch.randn(400, 7, generator=g)
    return {"x": (x + 2) * units}


@pytest.fixture(scope="module")
def fitted():
    rows = data()
    return vaeppl.fit(FactorAnalysis.for_data(rows), rows, progress=False, **OPTIONS)


def test_the_maximum_is_that_of_scikit_learn(fitted):
    x = data()["x"].double().numpy() / UNITS.numpy()
    em = ByEM(2, tol=1e-10, max_iter=5000, svd_method="lapack").fit(x)
    covariance = fitted.model.weights @ fitted.model.weights.T
    ours = (covariance / torch.outer(UNITS, UNITS)).detach().numpy()
    assert np.allclose(ours, em.components_.T @ em.components_, atol=0.02)
    noise = (fitted.model.noise / UNITS).detach().numpy()
    assert np.allclose(noise**2, em.noise_variance_, atol=0.02)
    jacobian = float(UNITS.log().sum())
    assert fitted.evidence(num_particles=20).mean + jacobian == pytest.approx(em.score(x), abs=1e-3)


def test_posterior_means_are_the_factor_scores(fitted):
    x = data()["x"].double().numpy() / UNITS.numpy()
    em = ByEM(2, tol=1e-10, max_iter=5000, svd_method="lapack").fit(x)
    ours, theirs = fitted.encode()["z"].double().numpy(), em.transform(x)
    # They differ by a rotation.
    rotation = np.linalg.lstsq(ours, theirs, rcond=None)[0]
    assert np.allclose(rotation @ rotation.T, np.eye(2), atol=0.02)
    assert np.allclose(ours @ rotation, theirs, atol=0.03)


def test_units_do_not_matter_as_they_do_to_ppca(fitted):
    plain = data(torch.ones(7))
    same = vaeppl.fit(FactorAnalysis.for_data(plain), plain, progress=False, **OPTIONS)
    jacobian = float(UNITS.log().sum())
    ours = fitted.evidence(num_particles=20).mean + jacobian
    assert ours == pytest.approx(same.evidence(num_particles=20).mean, abs=2e-3)
    in_units, without = (PPCA.closed_form(d, 2).evidence().mean for d in (data(), plain))
    assert abs(in_units + jacobian - without) > 1
    assert ours > without


def test_bad_arguments():
    with pytest.raises(ValueError, match="latent_dim is from 1 to x_dim - 1"):
        FactorAnalysis(4, 4)
    with pytest.raises(ValueError, match="a unit is > 0"):
        FactorAnalysis(3, 1, unit=[1.0, 0.0, 1.0])
