"""Probabilistic PCA: the closed form, and its fit by gradients, which comes to the same."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA

import vaeppl
from vaeppl.errors import ColumnError
from vaeppl.models import PPCA
from vaeppl.pair import Pair


def data(n=300, d=6, k=2, noise=0.5, unit=1.0):
    g = torch.Generator().manual_seed(3)
    w = torch.randn(d, k, generator=g) * torch.tensor([2.0, 1.2])[:k]
    x = torch.randn(n, k, generator=g) @ w.T + noise * torch.randn(n, d, generator=g)
    return {"x": unit * (x + torch.arange(d))}


def evidence(model, x):
    """log N(x; b, W Wᵀ + σ² I)."""
    w, b, s = (v.detach().double() for v in (model.weights, model.mean, model.noise))
    covariance = w @ w.T + s**2 * torch.eye(len(b)).double()
    return dist.MultivariateNormal(b, covariance).log_prob(x.double())


def degrees(a, b):
    a, b = (np.asarray(m.detach().double()) for m in (a, b))
    return float(np.rad2deg(subspace_angles(a, b)).max())


@pytest.fixture(scope="module")
def exact():
    return PPCA.closed_form(data(), latent_dim=2)


class TestClosedForm:
    def test_against_scikit_learn(self, exact):
        x = data()["x"]
        pca = PCA(2).fit(x.numpy())
        assert degrees(exact.model.weights, torch.tensor(pca.components_.T)) < 1e-2
        # Scikit-learn divides by N - 1.
        variance = pca.noise_variance_ * (len(x) - 1) / len(x)
        assert exact.model.noise.item() ** 2 == pytest.approx(variance, rel=1e-4)
        gram = exact.model.weights.detach().T @ exact.model.weights.detach()
        assert torch.allclose(gram, torch.diag(gram.diagonal()), atol=1e-3)
        assert gram[0, 0] > gram[1, 1]

    def test_no_change_of_a_parameter_raises_the_likelihood(self, exact):
        x, model = data()["x"].double(), PPCA.closed_form(data(), latent_dim=2).model.double()
        w, b, s = (v.detach() for v in (model.weights, model.mean, model.noise))
        best = _log_likelihood(x, w, b, s)
        for seed in range(20):
            torch.manual_seed(seed)
            moved = [v + 0.02 * torch.randn_like(v) for v in (w, b, s)]
            assert _log_likelihood(x, *moved) < best

    def test_the_gradient_vanishes(self, exact):
        fit = PPCA.closed_form(data(), latent_dim=2)
        pair = fit.pair
        with pair.active():
            loss = vaeppl.estimators.ELBO().differentiable_loss(pair.model, pair.guide, **data())
        for gradient in torch.autograd.grad(loss / 300, list(fit.model.parameters())):
            assert gradient.abs().max() < 1e-4

    def test_it_is_read_and_kept_as_any_fit(self, exact, tmp_path):
        x = data()["x"]
        report = exact.evidence()
        assert np.allclose(report.rows["log_evidence"], evidence(exact.model, x), atol=1e-4)
        assert report.rows["mc_se"].max() < 1e-4
        assert exact.stopped == "solved" and len(exact.history) == 0
        again = vaeppl.load(exact.save(tmp_path))
        assert torch.equal(again.encode({"x": x})["z"], exact.encode()["z"])
        assert again.stopped == "solved"

    def test_scores_are_those_of_pca_but_for_their_length(self, exact):
        x = data()["x"]
        z = exact.encode()["z"].numpy()
        scores = PCA(2).fit_transform(x.numpy())
        correlation = np.corrcoef(z.T, scores.T)[:2, 2:]
        assert np.allclose(np.abs(correlation), np.eye(2), atol=1e-3)

    def test_rows_without_noise_are_refused(self):
        flat = torch.randn(50, 2) @ torch.randn(2, 5)
        with pytest.raises(ColumnError, match="no noise is left"):
            PPCA.closed_form({"x": flat}, latent_dim=2)
        with pytest.raises(ColumnError, match="no noise is left"):
            PPCA.closed_form({"x": torch.randn(3, 5)}, latent_dim=2)

    def test_more_columns_than_rows(self):
        x = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
        fit = PPCA.closed_form({"x": x}, latent_dim=3)
        eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T.double(), correction=0)).flip(0)
        assert fit.model.noise.item() ** 2 == pytest.approx(float(eigenvalues[3:].mean()), rel=1e-4)


def _log_likelihood(x, w, b, s):
    covariance = w @ w.T + s**2 * torch.eye(len(b)).double()
    return float(dist.MultivariateNormal(b, covariance).log_prob(x).sum())


@pytest.mark.parametrize("unit", [1.0, 1e-3, 1e4])
def test_gradients_reach_the_closed_form_in_any_unit(unit):
    rows = data(unit=unit)
    exact = PPCA.closed_form(rows, latent_dim=2)
    options = {"epochs": 400, "batch_size": 300, "lr": 0.05, "lr_schedule": "cosine"}
    fit = vaeppl.fit(PPCA.for_data(rows), rows, seed=1, progress=False, **options)
    assert degrees(fit.model.weights, exact.model.weights) < 0.1
    assert fit.model.noise.item() == pytest.approx(exact.model.noise.item(), rel=1e-3)
    ours, best = (f.evidence(num_particles=20).mean for f in (fit, exact))
    assert ours == pytest.approx(best, abs=1e-3)
    assert fit.history["elbo"].iloc[-1] == pytest.approx(best, abs=1e-2)


def test_the_elbo_is_the_evidence_whatever_is_drawn(exact):
    pair, rows = Pair(PPCA(6, 2)), data()
    exact = evidence(pair.source[0], rows["x"]).sum()
    with pair.active(), torch.no_grad():
        for seed in range(5):
            torch.manual_seed(seed)
            elbo = -vaeppl.estimators.ELBO().loss(pair.model, pair.guide, **rows)
            assert elbo == pytest.approx(float(exact), rel=1e-5)


def test_rows_of_several_splits_use_the_train_split():
    rows = vaeppl.data.Data(data()).split(test=0.3, valid=0, seed=0)
    fit = PPCA.closed_form(rows, latent_dim=2)
    assert torch.allclose(fit.model.mean, rows.train["x"].mean(0), atol=1e-5)
    assert math.isfinite(fit.evidence(rows.test).mean)


def test_a_constant_column_does_no_harm():
    rows = data()
    rows["x"][:, 2] = 7.0
    fit = PPCA.closed_form(rows, latent_dim=2)
    assert fit.model.weights[2].abs().max() < 1e-4
    assert fit.model.mean[2].item() == pytest.approx(7.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 6}, "latent_dim is from 1 to x_dim - 1"),
        ({"latent_dim": 0}, "latent_dim is from 1 to x_dim - 1"),
        ({"unit": 0.0}, "a unit is > 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PPCA(**{"x_dim": 6, **arguments})
