"""Analogies against exact means: what is held, what follows the label."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import vaeppl
from vaeppl.data import Data
from vaeppl.errors import ColumnError, StoryError
from vaeppl.likelihoods import Categorical
from vaeppl.models import CVAE, M2, VAE, Regression

MU = torch.tensor([[0.0, 0.0], [5.0, 1.0], [-5.0, 2.0]])


class Shifted:
    """y ~ Categorical(1/3), z ~ N(0, I), x ~ N(μ_y + z, I): q(z | x, y) has mean (x - μ_y) / 2."""

    def model(self, x=None, y=None):
        with vaeppl.rows(x, y):
            y = pyro.sample("y", dist.Categorical(torch.ones(3) / 3), obs=y)
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(MU[y.long()] + z, 1.0).to_event(1), obs=x)

    def guide(self, x, y=None):
        with vaeppl.rows(x, y):
            if y is None:
                y = pyro.sample("y", dist.Categorical(logits=-(x[:, None] - MU).square().sum(-1)))
            pyro.sample("z", dist.Normal((x - MU[y.long()]) / 2, 0.7).to_event(1))


X = torch.tensor([[0.4, 0.6], [5.2, 1.4], [-4.0, 2.0]])
Y = torch.arange(3)
EXACT = ((X - MU) / 2)[:, None] + MU


def test_the_label_runs_while_the_rest_is_held():
    assert torch.allclose(vaeppl.analogies(Shifted(), {"x": X, "y": Y}), EXACT)
    two = vaeppl.analogies(Shifted(), {"x": X, "y": Y}, [2, 0])
    assert torch.allclose(two, EXACT[:, [2, 0]])


@pytest.mark.parametrize("y", [None, torch.tensor([-1, 1, -1]), torch.full((3,), torch.nan)])
def test_rows_without_a_label_get_the_most_probable_one(y):
    data = {"x": X} | ({} if y is None else {"y": y})
    assert torch.allclose(vaeppl.analogies(Shifted(), data), EXACT)


class Layered:
    """z2 ~ N(0, 1), z1 ~ N(z2 + 10 y, 1), x ~ N(z1, 1): z1 lies between the label and the data."""

    def model(self, x=None, y=None):
        with vaeppl.rows(x, y):
            y = pyro.sample("y", dist.Categorical(torch.ones(2) / 2), obs=y)
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2 + 10.0 * y, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(self, x, y):
        with vaeppl.rows(x, y):
            pyro.sample("z1", dist.Normal(x, 0.1))
            pyro.sample("z2", dist.Normal((x - 10.0 * y) / 3, 0.1))


def test_latents_between_the_label_and_the_data_follow_it():
    data = {"x": torch.tensor([3.0, 13.0]), "y": torch.tensor([0, 1])}
    assert torch.allclose(vaeppl.analogies(Layered(), data), torch.tensor([[1.0, 11.0]] * 2))


@pytest.mark.parametrize("learnt_prior", [True, False])
def test_a_conditional_story_holds_its_latents_though_their_prior_has_the_label(learnt_prior):
    cvae = CVAE(1, 6, 2, condition=Categorical(3), learnt_prior=learnt_prior, hidden=(8,))
    data = {"x": torch.arange(5) % 3, "y": (torch.rand(5, 6) < 0.5).float()}
    made = vaeppl.analogies(cvae, data, column="x")
    z = vaeppl.encode(cvae, data)["z"]
    indicators = torch.eye(3)[:, None].expand(3, 5, 3)
    with torch.no_grad():
        h = cvae.decoder(torch.cat([indicators, z.expand(3, 5, 2)], -1))
    assert torch.allclose(made, torch.sigmoid(h).transpose(0, 1), atol=1e-5)
    own = made[torch.arange(5), data["x"]]
    assert torch.allclose(own, vaeppl.reconstruct(cvae, data)["y"], atol=1e-5)
    as_floats = {"x": data["x"][:, None].float(), "y": data["y"]}
    assert torch.allclose(vaeppl.analogies(cvae, as_floats, column="x"), made)


def test_m2_of_any_form_of_labels():
    m2 = M2(6, 3, 2, hidden=(8,))
    x = (torch.rand(5, 6) < 0.5).float()
    made = vaeppl.analogies(m2, {"x": x, "y": torch.tensor([0, 1, 2, -1, 1])})
    assert made.shape == (5, 3, 6)
    assert ((made > 0) & (made < 1)).all()


def test_the_callers_data_are_left_alone_and_seeds_fix_draws():
    y = torch.tensor([-1, 1, 2])
    data = Data({"x": X, "y": y})
    first, again = (vaeppl.analogies(Shifted(), data, seed=3) for _ in range(2))
    assert torch.equal(first, again) and y.tolist() == [-1, 1, 2]


def test_what_is_wrong_is_named():
    x = torch.zeros(4, 6)
    with pytest.raises(StoryError, match="unknown column of VAE 'y'"):
        vaeppl.analogies(VAE(6, 2, hidden=(4,)), {"x": x, "y": torch.arange(4)})
    with pytest.raises(ColumnError, match="VAE takes no column but 'x'"):
        vaeppl.analogies(VAE(6, 2, hidden=(4,)), {"x": x}, column="x")
    label = Regression(6, 1, likelihood=Categorical(3), hidden=(4,))
    with pytest.raises(StoryError, match="Regression observes no column but 'y'"):
        vaeppl.analogies(label, {"x": x, "y": torch.arange(4) % 3})
    given = CVAE(1, 6, 2, condition=Categorical(3), hidden=(4,))
    with pytest.raises(StoryError, match="CVAE is given 'x' and has no distribution"):
        vaeppl.analogies(given, {"x": torch.full((4,), -1), "y": x}, column="x")
