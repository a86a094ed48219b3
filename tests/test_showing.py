"""What a story says: its density by hand, its sites, its diagram."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import vaeppl
from vaeppl import rows
from vaeppl.errors import StoryError
from vaeppl.models import CVAE, M2, VAE, HierarchicalVAE


@pytest.mark.parametrize(
    ("story", "density", "guide"),
    [
        (VAE(6, 2, hidden=(4,)), "p(z, x) = ∏ₙ p(zₙ) p(xₙ | zₙ)", "q(z | x) = ∏ₙ q(zₙ | xₙ)"),
        (
            HierarchicalVAE(6, (3, 2), hidden=(4,)),
            "p(z2, z1, x) = ∏ₙ p(z2ₙ) p(z1ₙ | z2ₙ) p(xₙ | z1ₙ)",
            "q(z1, z2 | x) = ∏ₙ q(z1ₙ | xₙ) q(z2ₙ | z1ₙ)",
        ),
        (
            M2(6, 3, 2, hidden=(4,)),
            "p(y, z, x) = ∏ₙ p(yₙ) p(zₙ) p(xₙ | yₙ, zₙ)",
            "q(y, z | x) = ∏ₙ q(yₙ | xₙ) q(zₙ | xₙ, yₙ)",
        ),
    ],
)
def test_densities_by_hand(story, density, guide):
    shown = vaeppl.show(story)
    assert (shown.density, shown.guide_density) == (density, guide)


def test_a_conditional_story_needs_rows():
    data = {"x": torch.randn(20, 3), "y": (torch.rand(20, 6) < 0.4).float()}
    shown = vaeppl.show(CVAE(3, 6, 2, hidden=(4,)), data)
    assert shown.density == "p(z, y | x) = ∏ₙ p(zₙ | xₙ) p(yₙ | xₙ, zₙ)"
    assert shown.given == ("x",) and shown.draws["y"].shape == (3, 6)
    with pytest.raises(StoryError, match="pass data="):
        vaeppl.show(CVAE(3, 6, 2))


def story(x=None):
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    unit = pyro.param("unit", torch.tensor(2.0))
    with rows(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(unit * z, sigma), obs=x)


def guide(x):
    pyro.sample("sigma", dist.LogNormal(pyro.param("m", torch.tensor(0.0)), 1.0))
    with rows(x):
        pyro.sample("z", dist.Normal(x, 1.0))


def test_sites_and_the_parameters_that_they_reach(tmp_path):
    shown = vaeppl.show(story, {"x": torch.randn(30)}, guide=guide)
    assert shown.density == "p(σ, z, x) = p(σ) ∏ₙ p(zₙ) p(xₙ | σ, zₙ)"
    in_model = shown.sites[shown.sites["in"] == "model"]
    assert list(in_model["what"]) == ["latent", "latent", "observed"]
    assert in_model.loc["x", "parameters"] == "unit (1)" and in_model.loc["z", "parameters"] == ""
    assert in_model.loc["z", "shape"] == "30 |"
    assert "┌ rows: n = 1, …, 30" in str(shown) and "(σ) ~ HalfNormal" in shown.drawing
    assert r"\prod_{n=1}^{30}" in shown.latex
    assert "digraph" in shown.save(tmp_path / "story.dot").read_text()
    assert shown.save(tmp_path / "story.txt").read_text() == str(shown)
    assert dict(pyro.get_param_store().items()) == {}


def test_a_mixture_is_shown_with_its_components():
    prior = vaeppl.priors.MixtureOfNormals(5)
    shown = vaeppl.show(VAE(6, 2, prior=prior, hidden=(4,)))
    told = "MixtureSameFamily(components=5 × Normal(loc=learnt, scale=learnt), weights=learnt)"
    assert shown.sites.loc["z", "distribution"].iloc[0] == told

    def model(x=None):
        mu = pyro.sample("mu", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with rows(x):
            three = dist.MixtureSameFamily(dist.Categorical(torch.ones(3) / 3), dist.Normal(mu, 2))
            pyro.sample("x", three, obs=x)

    def q(x):
        pyro.sample("mu", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    shown = vaeppl.show(model, {"x": torch.randn(9)}, guide=q)
    told = "MixtureSameFamily(components=3 × Normal(loc=f(mu), scale=2), weights=0.3333)"
    assert shown.sites.loc["x", "distribution"] == told
    assert shown.density == "p(μ, x) = p(μ) ∏ₙ p(xₙ | μ)"
