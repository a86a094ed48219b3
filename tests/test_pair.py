"""A model and its guide as one module: functions and classes, with parameters of their own."""

from __future__ import annotations

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import nn
from torch.distributions import constraints

from vaeppl import rows
from vaeppl.errors import StoryError
from vaeppl.estimators import ELBO
from vaeppl.fitted import Fit
from vaeppl.models import VAE
from vaeppl.pair import Pair, as_pair
from vaeppl.training.state import State

X = torch.randn(20)


def model(x=None):
    mu = pyro.param("mu", torch.tensor(0.5))
    with rows(x):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x=None):
    scale = pyro.param("scale", torch.tensor(0.7), constraint=constraints.positive)
    with rows(x):
        pyro.sample("z", dist.Normal(x / 2, scale))


def networks():
    """Functions whose networks are known to Pyro by ``pyro.module``, all by the same names."""
    decoder, encoder = nn.Linear(1, 3), nn.Linear(3, 2)

    def model(x=None):
        pyro.module("decoder", decoder)
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x=None):
        pyro.module("encoder", encoder)
        loc, raw = encoder(x).chunk(2, -1)
        with rows(x):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return model, guide


def descend(pair, batch, steps=200, lr=0.1):
    optimizer = torch.optim.Adam(pair.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    elbo = ELBO()
    with pair.active():
        for _ in range(steps):
            optimizer.zero_grad()
            elbo.differentiable_loss(pair.model, pair.guide, **batch).backward()
            optimizer.step()
            schedule.step()
        return elbo.loss(pair.model, pair.guide, **batch)


def test_pyro_param_with_a_constraint_is_learnt():
    """x ~ N(mu, 2): the best mu is the mean, the best scale of q(z | x) is sqrt(1/2)."""
    torch.manual_seed(3)
    x = 2.0 + 2**0.5 * torch.randn(400)
    pair = Pair(model, centred)
    pair.initialise({"x": x})
    assert sorted(n for n, _ in pair.named_parameters()) == ["stored.mu", "stored.scale"]
    descend(pair, {"x": x}, steps=300)
    with pair.active():
        assert pyro.param("mu").item() == pytest.approx(x.mean().item(), abs=0.05)
        assert pyro.param("scale").item() == pytest.approx(0.5**0.5, abs=0.05)
    assert pair.stored["scale"].item() == pytest.approx(0.5 * math.log(0.5), abs=0.1)


def centred(x=None):
    scale = pyro.param("scale", torch.tensor(0.3), constraint=constraints.positive)
    with rows(x):
        mu = pyro.param("mu", torch.tensor(0.5)).detach()
        pyro.sample("z", dist.Normal((x + mu) / 2, scale))


def test_two_pairs_of_the_same_names_share_nothing():
    pyro.param("mu", torch.tensor(-9.0))
    pyro.param("decoder$$$weight", torch.zeros(3, 1))
    before = {k: v.clone() for k, v in pyro.get_param_store().items()}
    x = torch.randn(50, 3) + 2
    first, second = Pair(*networks()), Pair(*networks())
    first.initialise({"x": x})
    second.initialise({"x": x})
    mine = {id(p) for p in first.parameters()}
    assert len(mine) == 4 and not mine & {id(p) for p in second.parameters()}
    untouched = {k: v.clone() for k, v in second.state_dict().items()}
    start = {k: v.clone() for k, v in first.state_dict().items()}
    descend(first, {"x": x}, steps=20)
    assert all(torch.equal(v, untouched[k]) for k, v in second.state_dict().items())
    assert all(not torch.equal(v, start[k]) for k, v in first.state_dict().items())
    one, two = Pair(model, guide), Pair(model, guide)
    for pair in (one, two):
        pair.initialise({"x": X})
        with pair.active():
            assert pyro.param("mu").item() == 0.5
    descend(one, {"x": X}, steps=5)
    with two.active():
        assert pyro.param("mu").item() == 0.5
    now = dict(pyro.get_param_store().items())
    assert now.keys() == before.keys() and all(torch.equal(now[k], before[k]) for k in now)
    pyro.clear_param_store()


def test_the_store_is_restored_after_an_error():
    pair = Pair(model, guide)
    pair.initialise({"x": X})
    with pytest.raises(ZeroDivisionError), pair.active():
        assert "mu" in pyro.get_param_store()
        raise ZeroDivisionError
    assert "mu" not in pyro.get_param_store()


def test_initialise_restores_the_random_state():
    pair, state = Pair(*networks()), torch.get_rng_state()
    pair.initialise({"x": torch.randn(5, 3, generator=torch.Generator().manual_seed(0))})
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.grad is not None for p in pair.parameters())
    assert all(p.requires_grad for p in pair.parameters())


def test_a_second_initialise_changes_nothing():
    pair = Pair(model, guide)
    pair.initialise({"x": X})
    before = {n: id(p) for n, p in pair.named_parameters()}
    pair.initialise({"x": X})
    assert {n: id(p) for n, p in pair.named_parameters()} == before


@pytest.mark.parametrize("name", ["values", "type", "training", "a.b", "net.weight"])
def test_any_name_of_a_parameter_will_do(name):
    def q(x=None):
        pyro.param(name, torch.tensor(1.5))

    pair = Pair(lambda x=None: None, q)
    pair.initialise({"x": X})
    pair.stored.load_state_dict({k: v + 1 for k, v in pair.stored.state_dict().items()})
    with pair.active():
        assert pyro.param(name).item() == 2.5


def test_state_reaches_the_functions():
    """What is loaded into the pair is what the functions see, and after a move too."""
    one, two = Pair(model, guide), Pair(model, guide)
    for pair in (one, two):
        pair.initialise({"x": X})
    descend(one, {"x": X}, steps=10)
    two.load_state_dict(one.state_dict())
    for pair in (two.double(), copy.deepcopy(one).double()):
        with pair.active():
            assert pyro.param("mu").dtype == torch.float64
            assert pyro.param("mu").item() == one.stored["mu"].item()


@pytest.mark.parametrize("family", [AutoNormal, AutoMultivariateNormal])
def test_an_autoguide_of_a_global_latent(family):
    """The posterior of a normal mean: N(n x̄ / (n + 1), 1 / (n + 1))."""

    def global_mean(x=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with rows(x):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    x = torch.randn(30) + 1.0
    auto = family(global_mean)
    pair = Pair(global_mean, auto)
    assert pair.columns == ("x",)
    pair.initialise({"x": x})
    assert len(list(pair.parameters())) >= 2
    descend(pair, {"x": x}, steps=250)
    with pair.active():
        lower, upper = auto.quantiles([0.1587, 0.8413])["mu"]
    assert ((lower + upper) / 2).item() == pytest.approx(x.sum().item() / 31, abs=0.05)
    assert ((upper - lower) / 2).item() == pytest.approx(31**-0.5, abs=0.03)


def test_a_model_is_a_pair_by_itself():
    vae = VAE(6, 2)
    pair = Pair(vae)
    assert (pair.name, pair.columns, pair.takes_missing) == ("VAE", ("x",), False)
    assert {id(p) for p in pair.parameters()} == {id(p) for p in vae.parameters()}
    assert all(n.startswith("story.") for n in pair.state_dict())
    x = torch.ones(3, 6)
    assert pair.batch({"x": x, "label": x}).keys() == {"x"}
    assert as_pair(pair) is pair and as_pair(vae).source == (vae,)
    assert as_pair(Fit(pair, State(), {})) is pair


def test_bound_methods_of_one_module_are_a_pair():
    vae = VAE(6, 2)
    pair = Pair(vae.model, vae.guide)
    assert {id(p) for p in pair.parameters()} == {id(p) for p in vae.parameters()}


def test_any_object_with_both_methods_is_a_pair():
    class Story:
        takes_missing = True
        model, guide = staticmethod(model), staticmethod(guide)

    pair = Pair(Story())
    assert pair.takes_missing and pair.name == "Story" and pair.columns == ("x",)


def test_columns_that_cannot_be_done_without():
    pair = Pair(lambda x, y=None, w=None: None, lambda x, y, w=None: None)
    assert pair.required == ("x",) and pair.required_to_fit == ("x", "y")
    assert Pair(VAE(3)).required == () and Pair(VAE(3)).required_to_fit == ("x",)


def test_device_and_dtype():
    assert Pair(VAE(3, 1).double()).dtype == torch.float64
    empty = Pair(lambda x=None: None, lambda x=None: None)
    assert (empty.dtype, empty.device.type) == (torch.float32, "cpu")


def test_model_and_guide_must_take_the_same_columns():
    with pytest.raises(StoryError, match=r"the model \('x',\), the guide \('x', 'y'\)"):
        Pair(lambda x=None: None, lambda x, y: None)
    assert Pair(lambda x, y: None, lambda y, x: None).columns == ("x", "y")


@pytest.mark.parametrize("source", [model, nn.Linear(2, 2), 3])
def test_a_model_without_a_guide_is_refused(source):
    with pytest.raises(StoryError, match="has no guide"):
        Pair(source)


def test_a_class_is_not_an_object_of_it():
    with pytest.raises(StoryError, match=r"VAE is a class: pass an object of it, VAE\(...\)"):
        Pair(VAE)


def test_networks_of_functions_go_to_evaluation_and_are_saved_with_their_buffers():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))

    def model(x=None):
        pyro.module("network", network)
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with rows(x):
            pyro.sample("z", dist.Normal(network(x), 1.0).to_event(1))

    pair = Pair(model, guide)
    pair.initialise({"x": torch.randn(8, 3)})
    assert [n for n, _ in pair.named_parameters()] == [
        "networks.network.0.weight",
        "networks.network.0.bias",
        "networks.network.1.weight",
        "networks.network.1.bias",
    ]
    assert "networks.network.1.running_mean" in pair.state_dict()
    pair.eval()
    assert not network.training


def test_a_folder_is_to_be_loaded_first(tmp_path):
    with pytest.raises(StoryError, match=r"vaeppl\.load\('runs/a'\)"):
        as_pair("runs/a")
    with pytest.raises(StoryError, match=r"vaeppl\.load"):
        as_pair(tmp_path)


def test_a_guide_that_is_no_function():
    with pytest.raises(StoryError, match=r"An automatic guide is learnt.*vaeppl.fit"):
        Pair(VAE(3, 1), "auto")
    with pytest.raises(StoryError, match=r"guide= is a function or a module.*given 3"):
        Pair(VAE(3, 1), 3)
