"""Draws and means: from the prior, of the latents, and of new data."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import vaeppl
from vaeppl.errors import ColumnError
from vaeppl.models import VAE
from vaeppl.reading import predictive


def model(x=None):
    with vaeppl.rows(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    """The exact posterior N(x/2, 1/2)."""
    with vaeppl.rows(x):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))


def shared_model(x=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with vaeppl.rows(x):
        pyro.sample("x", dist.Normal(mu, 0.01), obs=x)


def shared_guide(x):
    pyro.sample("mu", dist.Normal(3.0, 1.0))


X = torch.linspace(-2, 2, 9)
MANY = torch.ones(20_000)


def test_prior_draws_have_the_moments_of_the_story():
    draws = vaeppl.sample(model, 40_000, guide=guide)
    assert float(draws["x"].var()) == pytest.approx(2.0, rel=0.05)
    assert float((draws["x"] * draws["z"]).mean()) == pytest.approx(1.0, rel=0.05)


def test_encode_gives_posterior_means_and_draws():
    assert torch.allclose(vaeppl.encode(model, {"x": X}, guide=guide)["z"], X / 2)
    draws = vaeppl.encode(model, {"x": MANY}, guide=guide, num_samples=2)["z"]
    assert draws.shape == (2, 20_000)
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(draws.var()) == pytest.approx(0.5, abs=0.02)
    assert not torch.equal(draws[0], draws[1])


def test_reconstruct_is_the_mean_of_the_data_at_the_posterior_mean():
    assert torch.allclose(vaeppl.reconstruct(model, {"x": X}, guide=guide)["x"], X / 2)


def test_posterior_predictive_moments():
    draws = vaeppl.posterior_predictive(model, {"x": MANY}, guide=guide, num_samples=2)["x"]
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(draws.var()) == pytest.approx(1.5, abs=0.04)


def test_a_mean_without_a_closed_form_is_averaged():
    flow = VAE(6, 2, guide_family="flow", hidden=(8,))
    x = {"x": (torch.rand(5, 6) < 0.5).float()}
    mean = vaeppl.encode(flow, x)["z"]
    draws = vaeppl.encode(flow, x, num_samples=200)["z"]
    assert torch.allclose(mean, draws.mean(0), atol=0.5)


def test_latents_outside_the_rows_are_shared_by_all_batches(monkeypatch):
    monkeypatch.setattr(predictive, "ROWS_AT_ONCE", 4)
    draws = vaeppl.posterior_predictive(shared_model, {"x": X}, guide=shared_guide, num_samples=50)[
        "x"
    ]
    assert float(draws.std(1).max()) < 0.05  # one mu for all rows of a draw
    assert float(draws.mean(1).std()) == pytest.approx(1.0, rel=0.4)  # another for each draw


def test_new_rows_of_a_fit_take_shared_latents_from_the_guide():
    from_prior = vaeppl.sample(shared_model, 10, guide=shared_guide, seed=3)
    fitted = vaeppl.sample(shared_model, 10, guide=shared_guide, data={"x": X}, seed=3)
    assert abs(float(fitted["mu"]) - 3.0) < 4.0
    assert float(fitted["x"].std()) < 0.05
    assert float(from_prior["mu"]) != float(fitted["mu"])


def test_a_plate_of_as_many_items_as_rows_is_not_taken_for_the_rows():
    def model(x=None):
        with pyro.plate("items", 3, dim=-2):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with vaeppl.rows(x):
            pyro.sample("x", dist.Normal(w.sum() * 0.0, 1.0), obs=x)

    def guide(x):
        with pyro.plate("items", 3, dim=-2):
            pyro.sample("w", dist.Normal(0.0, 1.0))

    x = torch.zeros(3)
    assert vaeppl.encode(model, {"x": x}, guide=guide) == {}
    report = vaeppl.evidence(model, {"x": x}, guide=guide, num_particles=10)
    assert report.mean == pytest.approx(-0.9189, abs=1e-3)


def test_seeds_fix_draws():
    a, b, c = (vaeppl.sample(model, 3, guide=guide, seed=s)["x"] for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_dropout_is_off_while_reading_and_the_mode_is_restored():
    vae = VAE(6, 2, encoder=torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Dropout(0.5)))
    vae.train()
    x = {"x": torch.ones(4, 6)}
    assert torch.equal(vaeppl.encode(vae, x, seed=0)["z"], vaeppl.encode(vae, x, seed=1)["z"])
    assert vae.training


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: vaeppl.sample(model, 0, guide=guide), ValueError, "at least 1"),
        (
            lambda: vaeppl.sample(model, 3, guide=guide, given={"x": X}),
            ValueError,
            "9 rows, but num_rows=3",
        ),
        (lambda: vaeppl.encode(model, {"y": X}, guide=guide), ColumnError, "takes the columns 'x'"),
        (
            lambda: vaeppl.posterior_predictive(model, {"x": X}, guide=guide, num_samples=0),
            ValueError,
            "at least 1",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
