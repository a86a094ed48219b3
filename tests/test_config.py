"""Objects to JSON and back: the same architecture, nothing imported but vaeppl's own."""

from __future__ import annotations

import json
import math

import numpy as np
import pyro
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro.nn import PyroModule
from torch import nn

from vaeppl import guides, likelihoods, priors
from vaeppl.config import Configurable, build, opaque_arguments, rebuild, to_config
from vaeppl.errors import CheckpointError
from vaeppl.models import VAE
from vaeppl.nets import MLP, ConvDecoder, ConvEncoder
from vaeppl.training.schedules import Cosine, Linear


def through_json(value):
    return json.loads(json.dumps(to_config(value), allow_nan=False))


class Sized(Configurable):
    def __init__(self, *sizes, bias=True, **more):
        self.sizes, self.bias, self.more = sizes, bias, more


class Named(Configurable):
    def __init__(self, first, /, second, *rest, last=0):
        self.arguments = (first, second, rest, last)


MODELS = {
    "plain": lambda: VAE(6, 2),
    "nested": lambda: VAE(
        6,
        latent_dim=3,
        likelihood=likelihoods.StudentT(3.0, "predicted", center=[0.0] * 6, unit=2.0),
        prior=priors.MixtureOfNormals(4, spread=2.0),
        guide_family=guides.Flow(3, hidden=(5, 5), bins=4),
        hidden=(7, 5),
        activation="tanh",
    ),
    "mixed": lambda: VAE(
        4,
        2,
        likelihood=likelihoods.Mixed(
            [(2, likelihoods.Normal(per_column=True)), (1, likelihoods.Categorical(3)),
             (1, likelihoods.NegativeBinomial())]
        ),
        guide_family="full_rank",
    ),
    "images": lambda: VAE(
        35,
        2,
        likelihood=likelihoods.ContinuousBernoulli(),
        encoder=ConvEncoder((5, 7), 4, channels=(2, 3)),
        decoder=ConvDecoder(2, (5, 7), channels=(3, 2)),
    ),
    "arrays": lambda: VAE(
        np.int64(3), 2, likelihood=likelihoods.Normal(center=torch.zeros(3), unit=np.ones(3))
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_model_is_built_again_from_json(make):
    model = make()
    again = build(through_json(model))
    mine, theirs = model.state_dict(), again.state_dict()
    assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.items()}
    again.load_state_dict(mine)
    x = model.likelihood(torch.zeros(2, model.likelihood.num_params)).sample()
    with torch.random.fork_rng():
        first = model.q(model.encoder(model.likelihood.features(x))).sample()
    second = again.q(again.encoder(again.likelihood.features(x))).sample()
    torch.testing.assert_close(first, second)
    assert type(again.likelihood) is type(model.likelihood)
    # Twice round gives the same configuration.
    assert through_json(again) == through_json(model)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(plain)
def test_plain_values_return_as_they_were(value):
    assert same(build(through_json(value)), value)


def same(a, b):
    if isinstance(b, float) and math.isnan(b):
        return isinstance(a, float) and math.isnan(a)
    if isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in b)
    if isinstance(b, list):
        return len(a) == len(b) and all(same(*pair) for pair in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


def test_a_column_called_class_is_no_object():
    assert build(through_json({"class": ["a", "b"]})) == {"class": ["a", "b"]}
    assert opaque_arguments(to_config({"class": object()})) == ["class (builtins:object)"]


def test_numbers_of_numpy_and_short_arrays_become_plain():
    value = (np.float32(0.5), np.bool_(True), np.arange(3), torch.tensor([[1.5, math.inf]]))
    assert through_json(value) == [0.5, True, [0, 1, 2], [[1.5, {"float": "inf"}]]]
    assert build(through_json(np.float64("nan"))) != build(through_json(np.float64("nan")))
    assert opaque_arguments(to_config([torch.zeros(20_000)])) == ["[0] (torch:Tensor)"]


def test_arguments_by_position_and_beyond_the_signature():
    sized = Sized(3, 4, bias=False, extra={"a": 1})
    assert sized.config() == {"sizes": (3, 4), "bias": False, "extra": {"a": 1}}
    assert Sized().config() == {"bias": True}
    for again in (rebuild(sized), build(through_json(sized), {f"{__name__}:Sized": Sized})):
        assert (tuple(again.sizes), again.bias, again.more) == ((3, 4), False, {"extra": {"a": 1}})
    named = Named(1, 2, 3, 4, last=5)
    assert rebuild(named).arguments == (1, 2, (3, 4), 5)
    assert rebuild(Named(1, second=2)).arguments == (1, 2, (), 0)


def test_constructors_that_are_inherited():
    assert likelihoods.Bernoulli().config() == {}
    assert priors.StandardNormal().config() == {}
    assert isinstance(build(through_json(likelihoods.Poisson())), likelihoods.Poisson)
    assert likelihoods.StudentT(3.0, per_column=True).config() == {
        "df": 3.0, "scale": "learnt", "per_column": True,
    }  # fmt: skip


def test_schedules_are_configurable_too():
    again = build(through_json({"kl": Linear(0.0, 1.0, share=0.3), "lr": Cosine(warm_up=0.1)}))
    assert again["kl"](0.15) == 0.5 and again["lr"](0.05) == 0.5


def test_opaque_arguments_are_named_by_their_path():
    model = VAE(4, 2, encoder=nn.Linear(4, 3), likelihood=likelihoods.Mixed([(4, Own())]))
    config = through_json(model)
    assert opaque_arguments(config, "model") == [
        "model.likelihood.parts[0][1].network (torch.nn.modules.linear:Linear)",
        "model.encoder (torch.nn.modules.linear:Linear)",
    ]
    with pytest.raises(CheckpointError, match=r"an argument of class torch.*:Linear cannot"):
        build(config, {f"{__name__}:Own": Own})


class Own(likelihoods.Normal):
    def __init__(self, network=None):
        super().__init__()
        self.network = network or nn.Linear(1, 1)

    def config(self):
        return {"network": self.network}


@pytest.mark.parametrize(
    "name",
    [
        "os:system", "subprocess:Popen", "builtins:eval", "torch:load", "vaeppl.config:importlib",
        "vaeppl.config:importlib.import_module", "vaeppl.files:os.replace", "vaeppl.nowhere:Thing",
        "vaeppl.models.vae:Nothing", "vaeppl.pair:Pair", "vaepplx.models:VAE", "vaeppl", "", ":",
    ],
)  # fmt: skip
def test_nothing_but_vaeppls_own_is_built(name, monkeypatch):
    touched = []
    monkeypatch.setattr("os.system", touched.append)
    with pytest.raises(CheckpointError, match="is not part of vaeppl"):
        build({"class": name, "arguments": {}})
    assert not touched


def test_a_users_class_is_built_if_it_is_given():
    config = through_json(Sized(bias=False))
    with pytest.raises(CheckpointError, match="Sized is not part of vaeppl"):
        build(config)
    assert build(config, {f"{__name__}:Sized": Sized}).bias is False


def test_rebuild_makes_everything_anew():
    mixture = priors.MixtureOfNormals(3)
    model = VAE(4, 2, prior=mixture, likelihood=likelihoods.Normal(), decoder=MLP(2, 4))
    again = rebuild(model)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in again.parameters()}
    assert again.config()["prior"] is not mixture
    kept = object()
    assert rebuild({"a": [kept, (1, kept)]}) == {"a": [kept, (1, kept)]}


def test_rebuild_leaves_a_users_network_with_its_first_parent():
    """A PyroModule that gets a second parent forgets the context of the first."""
    encoder = PyroModule[nn.Linear](3, 4)
    model = VAE(3, 2, encoder=encoder, likelihood=likelihoods.Normal(1.0))
    context = encoder._pyro_context
    again = rebuild(model)
    assert model.encoder is encoder and encoder._pyro_context is context
    assert torch.equal(again.encoder.weight, encoder.weight) and again.encoder is not encoder


def test_a_bound_object_keeps_its_configuration():
    unbound = likelihoods.Normal(center=[1.0, 2.0])
    assert unbound.bind(2).config() == unbound.config()
    assert build(through_json(unbound.bind(2))).x_dim == 0


def test_pyro_is_left_alone():
    build(through_json(VAE(3, 1)))
    assert not pyro.get_param_store()
