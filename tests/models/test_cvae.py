"""The conditional VAE against its exact evidence, and as users condition it."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import vaeppl
from vaeppl.errors import ColumnError
from vaeppl.likelihoods import Bernoulli, Categorical, Normal
from vaeppl.models import CVAE, Regression
from vaeppl.training import schedules


def linear_data(n=400, seed=0):
    """y = A x + B z + noise: given x, y is normal with covariance B Bᵀ + σ² I."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=g)
    a = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.8, -1.0]])
    b = torch.tensor([[1.5, -1.0, 0.8]])
    noise = 0.5 * torch.randn(n, 3, generator=g)
    return {"x": x, "y": x @ a + torch.randn(n, 1, generator=g) @ b + noise}, a, b


def test_the_evidence_reaches_that_of_the_truth():
    data, a, b = linear_data()
    model = CVAE(2, 3, 1, likelihood=Normal(), hidden=(), learnt_prior=False)
    fit = vaeppl.fit(
        model, data, epochs=400, batch_size=100, lr=0.02, lr_schedule="cosine", progress=False
    )
    # Maximum likelihood of the linear model, by its own parameters in closed form.
    layer = fit.model.decoder.layers[0]
    mean = data["x"] @ layer.weight[:, :2].T + layer.bias
    w = layer.weight[:, 2:]
    variance = fit.model.likelihood(torch.zeros(1, 3)).base_dist.scale[0].square()
    exact = dist.MultivariateNormal(mean, w @ w.T + torch.diag(variance)).log_prob(data["y"])
    report = fit.evidence(data, num_particles=300)
    assert np.allclose(report.mean, exact.mean().item(), atol=3 * report.mc_se + 1e-3)
    truth = dist.MultivariateNormal(data["x"] @ a, b.T @ b + 0.25 * torch.eye(3))
    assert exact.mean().item() > truth.log_prob(data["y"]).mean().item() - 0.01


def test_with_a_standard_prior_and_no_condition_it_is_a_vae():
    y = {"x": torch.zeros(20, 1), "y": (torch.rand(20, 6) < 0.4).float()}
    model = CVAE(1, 6, 2, hidden=(8,), learnt_prior=False)
    draws = vaeppl.sample(model, 5000, given={"x": torch.zeros(5000, 1)})
    assert float(draws["z"].mean()) == pytest.approx(0.0, abs=0.05)
    assert float(draws["z"].std()) == pytest.approx(1.0, abs=0.05)
    assert vaeppl.evidence(model, y, num_particles=20).rows.shape == (20, 5)


def test_a_latent_finds_two_modes_that_regression_averages():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(600, 1, generator=g)
    side = (torch.rand(600, 1, generator=g) < 0.5).float() * 2 - 1
    data = {"x": x, "y": side * (1.0 + x) + 0.1 * torch.randn(600, 1, generator=g)}
    options = {
        "epochs": 120,
        "lr": 0.01,
        "lr_schedule": "cosine",
        "batch_size": 64,
        "progress": False,
    }
    cvae = vaeppl.fit(
        CVAE(1, 1, 1, likelihood=Normal(), hidden=(32,)),
        data,
        kl_weight=schedules.Linear(0.1, 1.0, share=0.5),
        **options,
    )
    flat = vaeppl.fit(Regression(1, 1, likelihood=Normal(), hidden=(32,)), data, **options)
    gain = cvae.evidence(data, num_particles=200).mean - flat.evidence(data, num_particles=2).mean
    assert gain > 0.8
    at_one = cvae.sample(400, given={"x": torch.ones(400, 1)})["y"]
    assert float((at_one > 1).float().mean()) == pytest.approx(0.5, abs=0.2)
    assert float((at_one < -1).float().mean()) == pytest.approx(0.5, abs=0.2)


def test_the_baseline_is_scored_exactly():
    data = {"x": torch.randn(30, 2), "y": (torch.rand(30, 4) < 0.4).float()}
    model = Regression(2, 4, hidden=(8,))
    exact = Bernoulli().bind(4)(model.network(data["x"])).log_prob(data["y"])
    report = vaeppl.evidence(model, data, num_particles=2)
    assert np.allclose(report.rows["log_evidence"], exact.detach(), atol=1e-5)
    assert math.isclose(vaeppl.elbo(model, data).mean, report.mean, abs_tol=1e-4)


def test_labels_as_condition_give_each_class_its_own_draws():
    g = torch.Generator().manual_seed(0)
    label = torch.randint(3, (600,), generator=g)
    means = torch.tensor([-4.0, 0.0, 4.0])
    data = {"x": label, "y": means[label][:, None] + 0.5 * torch.randn(600, 2, generator=g)}
    model = CVAE(1, 2, 1, likelihood=Normal(), condition=Categorical(3), hidden=(16,))
    fit = vaeppl.fit(model, data, epochs=60, lr=0.01, progress=False)
    for k in range(3):
        drawn = fit.sample(300, given={"x": torch.full((300,), k)})["y"]
        assert float(drawn.mean()) == pytest.approx(float(means[k]), abs=0.4)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"y": torch.zeros(20, 6)}, "'x'"),
        ({"x": torch.zeros(20, 2)}, "no 'y'"),
        ({"x": torch.zeros(20, 5), "y": torch.zeros(20, 6)}, "x_dim=2"),
    ],
)
def test_a_missing_or_wrong_condition_is_named(columns, message):
    with pytest.raises(ColumnError, match=message):
        vaeppl.fit(CVAE(2, 6, 2, hidden=(8,)), columns, epochs=1, progress=False)


def test_a_condition_missing_at_prediction_time_is_named():
    with pytest.raises(ValueError, match="given="):
        vaeppl.sample(CVAE(2, 6, 2, hidden=(8,)), 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: vaeppl.evidence(m, {"y": y}), "no 'x'"),
        (lambda m, x, y: vaeppl.encode(m, {"x": x}), "no 'y'"),
        (lambda m, x, y: vaeppl.sample(m, 3, given={"y": y}), "no 'x'"),
        (lambda m, x, y: vaeppl.sample(m, 3, given={"x": x[:, :1]}), "x_dim=2"),
        (lambda m, x, y: vaeppl.sample(m, 3, given={"x": x / 0}), "holds nan at row 0"),
        (lambda m, x, y: vaeppl.evidence(m, {"x": x / 0, "y": y}), "holds nan at row 0"),
    ],
)
def test_reading_names_a_bad_condition_too(call, message):
    with pytest.raises(ColumnError, match=message):
        call(CVAE(2, 4, 2, hidden=(4,)), torch.zeros(3, 2), torch.ones(3, 4))


@pytest.mark.parametrize(
    "make", [lambda: Regression(2, 1, likelihood="normal"), lambda: CVAE(2, 1, likelihood="normal")]
)
def test_a_column_of_single_numbers_is_explained_too(make):
    x = torch.randn(30, 2)
    y = x.sum(-1)
    flat, column = (
        vaeppl.fit(make(), {"x": x, "y": given}, epochs=2, seed=0, progress=False)
        for given in (y, y.unsqueeze(-1))
    )
    assert flat.history["elbo"].tolist() == column.history["elbo"].tolist()
    assert flat.posterior_predictive({"x": x, "y": y}, num_samples=3)["y"].shape == (3, 30, 1)
