"""The contract of a model: the plate of rows, initial weights by seed, and Pyro's own tools."""

from __future__ import annotations

import copy
import pickle
import threading

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

from vaeppl import Model, likelihoods, priors, row_count, rows
from vaeppl.errors import StoryError
from vaeppl.estimators import ELBO
from vaeppl.model import column_names
from vaeppl.models import VAE
from vaeppl.pair import Pair


class Mean(Model):
    """x ~ N(mu, 1) with a global mean."""

    def __init__(self, width=2, *, scale=1.0):
        super().__init__()
        self.net = nn.Linear(width, width)
        self.register_buffer("offset", torch.randn(width))
        self.scale = scale

    def model(self, x=None, y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, self.scale))
        with rows(x, y):
            pyro.sample("x", dist.Normal(mu, 1.0).expand([2]).to_event(1), obs=x)

    def guide(self, x=None, y=None):
        pyro.sample("mu", dist.Normal(self.net(x).mean(), 1.0))


class Wider(Mean):
    def __init__(self, extra=3):
        super().__init__(width=4)
        self.head = nn.Linear(4, extra)


class Widest(Wider):
    def __init__(self):
        super().__init__(extra=5)
        self.prior = priors.MixtureOfNormals(3).bind(2)


class Renamed(Wider):
    """A subclass without a constructor of its own."""


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# --- the plate of rows ---


@given(st.integers(1, 7), st.integers(1, 1000))
def test_a_minibatch_is_scaled_to_the_full_data(batch, full):
    """log p of B of N rows counts N/B times, wherever the plate stands."""
    full = max(full, batch)
    x = torch.randn(batch, 2)
    model = Mean()
    with row_count(full):
        trace = poutine.trace(model.model).get_trace(x)
    mu = trace.nodes["mu"]["value"]
    by_hand = dist.Normal(0.0, 1.0).log_prob(mu)
    by_hand = by_hand + full / batch * dist.Normal(mu, 1.0).log_prob(x).sum()
    torch.testing.assert_close(trace.log_prob_sum(), by_hand, rtol=1e-4, atol=1e-3)
    frame = trace.nodes["x"]["cond_indep_stack"][0]
    assert (frame.name, frame.dim, frame.size) == ("rows", -1, batch)


def test_row_counts_nest_and_are_undone():
    def scale(x):
        with rows(x):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def found(x):
        return poutine.trace(scale).get_trace(x).nodes["x"]["scale"]

    x = torch.zeros(4)
    assert found(x) == 1
    with row_count(40):
        assert found(x) == 10
        with pytest.raises(ZeroDivisionError), row_count(8):
            assert found(x) == 2
            raise ZeroDivisionError
        assert found(x) == 10
        with row_count():
            assert found(x) == 1
        seen = []
        thread = threading.Thread(target=lambda: seen.append(found(x)))
        thread.start()
        thread.join()
        assert seen == [1]  # another thread has a count of its own
    assert found(x) == 1


def test_rows_are_drawn_where_there_is_no_column():
    with row_count(draw=6):
        trace = poutine.trace(Mean().model).get_trace()
    assert trace.nodes["x"]["value"].shape == (6, 2)
    assert poutine.trace(Mean().model).get_trace().nodes["x"]["value"].shape == (1, 2)


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(StoryError, match=r"unequal numbers of rows: \[3, 4\]"):
        Mean().model(torch.zeros(3, 2), torch.zeros(4))


def test_more_rows_than_there_are_is_refused():
    with row_count(3), pytest.raises(StoryError, match="has 5 rows, but the full data have 3"):
        Mean().model(torch.zeros(5, 2))


# --- the contract ---


def test_columns_are_the_arguments_of_the_model():
    assert Mean().columns == ("x", "y")
    assert VAE(3).columns == ("x",)
    assert column_names(lambda a, /, b, *c, d=1, **e: None) == ("b", "d")


def test_a_model_without_a_story_says_so():
    class Silent(Model):
        pass

    with pytest.raises(StoryError, match="Silent has no method `model`"):
        Silent().model()
    with pytest.raises(StoryError, match="Silent has no method `guide`"):
        Silent().guide()


# --- initial weights ---


@pytest.mark.parametrize(
    "make", [Mean, Wider, Widest, Renamed, lambda: VAE(4, 2, prior=priors.MixtureOfNormals(3))]
)
def test_initial_weights_are_drawn_by_seed(make):
    first, second, third = make(), make(), make()
    state = torch.get_rng_state()
    assert first.draw_initial_weights(1) and second.draw_initial_weights(1)
    assert third.draw_initial_weights(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(third))
    for name, buffer in first.named_buffers():
        assert torch.equal(buffer, dict(second.named_buffers())[name])
    # They may be drawn again.
    assert first.draw_initial_weights(2) and torch.equal(weights(first), weights(third))


def test_drawn_weights_have_the_distribution_of_constructed_ones():
    model = VAE(50, 2, hidden=(80,))
    before = model.encoder.layers[0].weight.std()
    model.draw_initial_weights(3)
    assert 0.9 < model.encoder.layers[0].weight.std() / before < 1.1


def permute(model):
    """Leaves sums and sums of squares as they were."""
    with torch.no_grad():
        model.net.weight.copy_(model.net.weight.flip(0))


def train(model):
    loss = model.net(torch.ones(2)).square().sum()
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=1e-4).step()


def load(model):
    model.load_state_dict(Mean().state_dict())


def spoil(model):
    with torch.no_grad():
        model.net.bias[0] = float("nan")


def grow(model):
    model.more = nn.Linear(2, 2)


@pytest.mark.parametrize("touch", [permute, train, load, spoil, grow])
def test_weights_that_were_touched_are_left_alone(touch):
    model = Mean()
    touch(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert not model.draw_initial_weights(5)
    for name, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(7.0), before[name].nan_to_num(7.0))


def test_a_buffer_set_by_hand_stays():
    model = Mean()
    model.offset.fill_(3.0)
    assert model.draw_initial_weights(5)
    assert (model.offset == 3).all()


def test_running_statistics_do_not_keep_the_weights_from_being_drawn():
    encoder = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

    class Normed(Mean):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

    model = Normed()
    model.norm(torch.randn(10, 2))
    assert model.draw_initial_weights(1)
    assert VAE(4, 2, encoder=encoder).draw_initial_weights(1)


def test_moves_do_not_count_as_touching():
    model = Mean().double()
    assert model.draw_initial_weights(1)
    single = Mean()
    single.draw_initial_weights(1)
    torch.testing.assert_close(weights(model).float(), weights(single))


def test_a_users_network_keeps_its_weights():
    encoder = nn.Linear(4, 3)
    model = VAE(4, 2, encoder=encoder)
    before = encoder.weight.clone()
    assert model.draw_initial_weights(1) and model.encoder is encoder
    assert torch.equal(encoder.weight, before)
    shared = nn.Linear(2, 2)
    assert VAE(2, 2, encoder=shared, decoder=shared).draw_initial_weights(1)


def test_copies_are_as_constructed_as_their_original():
    model, touched = Mean(), Mean()
    train(touched)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(weights(twin), weights(model))
        assert twin.draw_initial_weights(1) and not torch.equal(weights(twin), weights(model))
    assert not copy.deepcopy(touched).draw_initial_weights(1)


def test_networks_that_take_their_size_from_the_first_batch():
    class Lazy(Mean):
        def __init__(self):
            super().__init__()
            self.net = nn.LazyLinear(2)

    model = Lazy()
    model.net(torch.zeros(3, 2))
    assert not model.draw_initial_weights(1)


# --- Pyro's own tools ---


def test_plain_svi_trains_the_methods_of_a_model():
    x = (torch.rand(64, 6) < torch.tensor([0.05, 0.95, 0.5, 0.05, 0.95, 0.5])).float()
    vae = VAE(6, 2, hidden=(8,))
    with pyro.get_param_store().scope():
        svi = pyro.infer.SVI(
            vae.model, vae.guide, pyro.optim.Adam({"lr": 0.02}), pyro.infer.Trace_ELBO()
        )
        before = weights(vae)
        losses = [svi.step(x) for _ in range(150)]
    assert sum(losses[-20:]) < 0.85 * sum(losses[:20])
    moved = (weights(vae) - before).abs() > 0
    assert moved.float().mean() > 0.9


class Bayesian(Model):
    """A regression with PyroSample weights and a PyroParam."""

    def __init__(self):
        super().__init__()
        self.line = PyroModule[nn.Linear](1, 1)
        self.line.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 1]).to_event(2))
        self.line.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        self.sigma = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)
        self.loc = nn.Parameter(torch.zeros(2))
        self.log_scale = nn.Parameter(torch.full((2,), -2.0))

    def model(self, t, x=None):
        mean = self.line(t)
        with rows(t, x):
            pyro.sample("x", dist.Normal(mean, self.sigma).to_event(1), obs=x)

    def guide(self, t, x=None):
        scale = self.log_scale.exp()
        weight = dist.Normal(self.loc[:1, None], scale[:1, None]).to_event(2)
        pyro.sample("line.weight", weight)
        pyro.sample("line.bias", dist.Normal(self.loc[1:], scale[1:]).to_event(1))


def test_a_model_with_pyro_sample_and_pyro_param_learns_through_a_pair():
    """The posterior of a line is found, and its noise."""
    t = torch.linspace(-1, 1, 200)[:, None]
    batch = {"t": t, "x": 1.5 * t - 0.5 + 0.1 * torch.randn(200, 1)}
    model = Bayesian()
    pair = Pair(model)
    pair.initialise(batch)
    names = {n for n, _ in pair.named_parameters()}
    assert {"story.sigma_unconstrained", "story.loc", "story.log_scale"} <= names
    elbo = ELBO()
    optimizer = torch.optim.Adam(pair.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 250)
    with pair.active():
        for _ in range(250):
            optimizer.zero_grad()
            elbo.differentiable_loss(pair.model, pair.guide, **batch).backward()
            optimizer.step()
            schedule.step()
    assert model.loc[0].item() == pytest.approx(1.5, abs=0.1)
    assert model.loc[1].item() == pytest.approx(-0.5, abs=0.1)
    assert model.sigma.item() == pytest.approx(0.1, abs=0.03)


def test_likelihood_parameters_are_parameters_of_the_model():
    vae = VAE(3, 2, likelihood=likelihoods.Normal(per_column=True))
    assert "likelihood.log_scale" in dict(vae.named_parameters())
