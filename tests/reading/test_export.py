"""Facts about the export: the numbers in it are those of the story, under the right names."""

from __future__ import annotations

import math
import types

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray

import vaeppl
from vaeppl import rows
from vaeppl.data import Data, Field
from vaeppl.models import VAE
from vaeppl.reading import export, inference_data
from vaeppl.reading.export import to_arviz

N, D, K, S = 9, 3, 2, 6


@pytest.fixture
def data():
    x = (torch.rand(N, D, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    return Data({"x": x, "y": torch.arange(N) % 2}, field_names={"x": ["a", "b", "c"]})


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return VAE(D, K, hidden=(4,))


def story(x=None, u=None):
    """A regression with a global latent, a plate besides that of the rows, and a given column."""
    theta = pyro.sample("theta", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    items, people = pyro.plate("items", 2, dim=-2), rows(x, u)
    with items:
        difficulty = pyro.sample("difficulty", dist.Normal(0.0, 1.0))
        with people:
            score = pyro.sample("score", dist.Normal(difficulty, 1.0))
    with people:
        z = pyro.sample("z", dist.Normal(theta.sum(-1), 1.0))
        mean = score.sum(-2, keepdim=score.ndim > 2) + z + u
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def story_guide(x=None, u=None):
    pyro.sample("theta", dist.Normal(torch.zeros(3), 0.1).to_event(1))
    items, people = pyro.plate("items", 2, dim=-2), rows(x, u)
    with items:
        pyro.sample("difficulty", dist.Normal(0.5, 1.0))
        with people:
            pyro.sample("score", dist.Normal(0.0, 1.0))
    with people:
        pyro.sample("z", dist.Normal(x, 1.0))


def test_log_probabilities_are_those_of_the_exported_draws(vae, data):
    tree = to_arviz(vae, data, num_samples=S)
    z = torch.as_tensor(tree.posterior["z"].values[0])
    with torch.no_grad():
        log_p_x = vae.likelihood(vae.decoder(z)).log_prob(data["x"])
        log_p_z = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        log_q = vae.q(vae.encoder(data["x"])).log_prob(z)
    assert np.allclose(tree.log_likelihood["x"].values[0], log_p_x, atol=1e-5)
    log_weight = log_p_x + log_p_z - log_q
    assert np.allclose(tree.sample_stats["log_weight"].values[0], log_weight, atol=1e-5)


def test_weights_average_to_the_evidence_of_factor_analysis():
    # With the exact posterior as guide every weight is p(x), whatever the draw.
    def model(x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x=None):
        with rows(x):
            pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))

    x = torch.linspace(-2.0, 2.0, N)
    weight = to_arviz(model, {"x": x}, guide=guide, num_samples=S).sample_stats["log_weight"]
    exact = dist.Normal(0.0, math.sqrt(2.0)).log_prob(x)
    assert np.allclose(weight.values, exact.numpy(), atol=1e-5)


def test_groups_dimensions_and_labels(vae, data):
    tree = to_arviz(vae, data, num_samples=S, prior_samples=4)
    assert tree.posterior["z"].dims == ("chain", "draw", "row", "z_dim")
    assert tree.posterior["z"].shape == (1, S, N, K)
    assert tree.posterior_predictive["x"].shape == (1, S, N, D)
    assert tree.log_likelihood["x"].dims == ("chain", "draw", "row")
    assert tree.prior["z"].shape == (1, 4, N, K)
    assert tree.prior_predictive["x"].shape == (1, 4, N, D)
    assert tree.observed_data["x"].dims == ("row", "x_dim")
    assert tree.observed_data["x"].coords["x_dim"].values.tolist() == ["a", "b", "c"]
    assert np.array_equal(tree.observed_data["x"].values, data["x"].numpy())


def test_prior_can_be_left_out(vae, data):
    tree = to_arviz(vae, data, num_samples=2, prior_samples=0)
    assert not hasattr(tree, "prior") and not hasattr(tree, "prior_predictive")


def test_latents_outside_the_rows_are_shared_by_all_batches(monkeypatch):
    data = {"x": torch.randn(7), "u": torch.zeros(7)}
    monkeypatch.setattr(export, "ENTRIES_AT_ONCE", 3 * S)  # three rows at once
    tree = to_arviz(story, data, guide=story_guide, num_samples=S, prior_samples=2)
    dims = {name: variable.dims[2:] for name, variable in tree.posterior.data_vars.items()}
    assert dims == {
        "theta": ("theta_dim",),
        "difficulty": ("items",),
        "score": ("row", "items"),
        "z": ("row",),
    }
    assert {n: v.dims[2:] for n, v in tree.prior.data_vars.items()} == dims
    assert list(tree.constant_data) == ["u"]
    # log p(x | z, score) recomputed from the exported draws, all batches alike
    mean = tree.posterior["z"] + tree.posterior["score"].sum("items")
    log_p = dist.Normal(torch.as_tensor(mean.values), 1.0).log_prob(data["x"])
    assert np.allclose(tree.log_likelihood["x"].values, log_p.numpy(), atol=1e-5)
    # theta enters the prior of z in every batch, as exported
    z, theta = (torch.as_tensor(tree.posterior[n].values) for n in ("z", "theta"))
    score, easy = (torch.as_tensor(tree.posterior[n].values) for n in ("score", "difficulty"))
    ratio = dist.Normal(theta.sum(-1, keepdim=True), 1.0).log_prob(z)
    ratio = ratio - dist.Normal(data["x"], 1.0).log_prob(z)
    ratio = ratio + dist.Normal(easy[:, :, None], 1.0).log_prob(score).sum(-1)
    ratio = ratio - dist.Normal(0.0, 1.0).log_prob(score).sum(-1)
    weight = torch.as_tensor(tree.sample_stats["log_weight"].values)
    assert torch.allclose(weight, (log_p + ratio).double(), atol=1e-4)


def test_a_story_that_runs_for_one_draw_only_is_exported_too(monkeypatch):
    def one_at_a_time(x=None, u=None):
        with rows(x, u):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.reshape(len(z)) + u, 1.0), obs=x)

    def its_guide(x=None, u=None):
        pyro.sample("theta", dist.Normal(0.0, 1.0))
        with rows(x, u):
            pyro.sample("z", dist.Normal(x, 1.0))

    data = {"x": torch.randn(7), "u": torch.zeros(7)}
    monkeypatch.setattr(export, "ENTRIES_AT_ONCE", 3 * S)
    tree = to_arviz(one_at_a_time, data, guide=its_guide, num_samples=S)
    assert tree.posterior["z"].shape == (1, S, 7) and tree.posterior["theta"].shape == (1, S)
    z = torch.as_tensor(tree.posterior["z"].values)
    assert len(z.unique()) == S * 7
    log_p = dist.Normal(z, 1.0).log_prob(data["x"])
    assert np.allclose(tree.log_likelihood["x"].values, log_p.numpy(), atol=1e-5)


def test_same_seed_same_numbers_and_other_seed_others(vae, data):
    one, two, other = (to_arviz(vae, data, num_samples=2, seed=s) for s in (0, 0, 1))
    assert one.posterior["z"].equals(two.posterior["z"])
    assert not one.posterior["z"].equals(other.posterior["z"])


def test_max_rows_keeps_the_numbers_of_the_rows(vae, data):
    tree = to_arviz(vae, data, num_samples=2, max_rows=4)
    kept = tree.observed_data["row"].values
    assert len(kept) == 4 and (np.diff(kept) > 0).all()
    assert np.array_equal(tree.observed_data["x"].values, data["x"].numpy()[kept])


def test_levels_of_categories_are_noted():
    def model(c=None):
        with rows(c):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("c", dist.Categorical(logits=torch.stack([0 * z, z], -1)), obs=c)

    def guide(c=None):
        with rows(c):
            pyro.sample("z", dist.Normal(c.float(), 1.0))

    field = Field("c", "categorical", ("no", "yes"))
    data = Data({"c": torch.tensor([0, 1, 1])}, fields={"c": [field]})
    tree = to_arviz(model, data, guide=guide, num_samples=2)
    assert tree.observed_data["c"].attrs["levels"] == ["no", "yes"]


def test_too_large_an_export_is_refused_with_the_way_out(vae, data, monkeypatch):
    monkeypatch.setattr(export, "LARGEST", 500)
    with pytest.raises(ValueError, match=r"9 rows × \(100 draws × 7 .* max_rows=") as refused:
        to_arviz(vae, data)
    rows_that_fit = int(str(refused.value).split("max_rows=")[1].split()[0])
    monkeypatch.setattr(export, "LARGEST", 11000)
    to_arviz(vae, data, max_rows=rows_that_fit)


@pytest.mark.parametrize("wrong", [{"num_samples": 0}, {"prior_samples": -1}, {"max_rows": 0}])
def test_impossible_numbers_are_refused(vae, data, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        to_arviz(vae, data, **wrong)


def test_arviz_can_work_with_it(vae, data):
    arviz = inference_data.import_arviz()
    tree = to_arviz(vae, data, num_samples=20)
    summary = arviz.summary(tree, var_names=["z"])
    assert len(summary) == N * K


def test_round_trip_through_netcdf(vae, data, tmp_path):
    pytest.importorskip("h5netcdf")
    arviz = inference_data.import_arviz()
    tree = to_arviz(vae, data, num_samples=3)
    path = tmp_path / "fit.nc"
    tree.to_netcdf(str(path))
    again = arviz.from_netcdf(str(path))
    assert np.array_equal(again.posterior["z"].values, tree.posterior["z"].values)
    assert again.observed_data["x_dim"].values.tolist() == ["a", "b", "c"]


def test_a_fit_exports_the_rows_it_was_fitted_to(vae, data):
    fit = vaeppl.fit(vae, data, epochs=1, progress=False, valid=False)
    assert fit.to_arviz(num_samples=2).posterior.sizes["row"] == N


def test_since_arviz_1_the_same_groups_are_a_data_tree(monkeypatch):
    groups = {"posterior": {"z": (("chain", "draw"), np.zeros((1, 5)))}, "prior": {}}
    monkeypatch.setattr(
        inference_data, "import_arviz", lambda: types.SimpleNamespace(__version__="1.0.0")
    )
    tree = inference_data.assemble(groups, {}, attrs={"model": "VAE"})
    assert isinstance(tree, xarray.DataTree)
    assert list(tree.children) == ["posterior"]
    assert tree["posterior"].attrs == {"model": "VAE"}


def test_dimensions_that_disagree_are_refused():
    values = np.zeros((1, 5))
    with pytest.raises(ValueError):
        inference_data.assemble({"posterior": {"z": (("chain", "draw", "row"), values)}}, {})
