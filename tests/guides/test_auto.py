"""A guide from the story alone: exact posteriors first, then every kind of latent."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import nn

import vaeppl
from vaeppl import Model, likelihoods, rows
from vaeppl.data import Data
from vaeppl.errors import StoryError
from vaeppl.guides import AutoAmortizedGuide
from vaeppl.models import CVAE, M2, PPCA, VAE, HierarchicalVAE, M2Gumbel
from vaeppl.nets import MLP

torch.manual_seed(0)
N = 200
W = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.3, 0.8], [1.2, -0.7]])
X = torch.randn(N, 2) @ W.T + 0.5 * torch.randn(N, 4)


def linear(x=None):
    """z ~ N(0, I₂), x | z ~ N(W z, 0.5² I₄): the posterior is normal, its mean linear in x."""
    with rows(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ W.T, 0.5).to_event(1), obs=x)


def linear_evidence(x):
    covariance = W @ W.T + 0.25 * torch.eye(4)
    return dist.MultivariateNormal(torch.zeros(4), covariance).log_prob(x)


def set_exactly(guide):
    """Give a full-rank guide without hidden layer the exact posterior."""
    precision = torch.eye(2) + W.T @ W / 0.25
    mean = torch.linalg.inv(precision) @ W.T / 0.25
    tril = torch.linalg.cholesky(torch.linalg.inv(precision))
    head = guide.heads["z"].q.head
    raw = tril.clone()
    raw.diagonal().copy_((tril.diagonal() - 1e-4).expm1().log())
    features = guide.inputs["x"].of_entries  # x enters in its unit
    unit, center = features.unit.expand(4), features.center.expand(4)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:2] = mean * unit
        head.bias[:2] = mean @ center
        head.bias[2:] = raw[torch.tril_indices(2, 2)[0], torch.tril_indices(2, 2)[1]]


def test_the_exact_posterior_of_a_linear_gaussian_story_can_be_told():
    guide = AutoAmortizedGuide(linear, {"x": X}, family="full_rank", hidden=())
    set_exactly(guide)
    pair = vaeppl.pair.Pair(linear, guide)
    report = vaeppl.evidence(pair, {"x": X}, num_particles=5)
    exact = linear_evidence(X)
    found = torch.as_tensor(report.rows["log_evidence"].to_numpy())
    assert torch.allclose(found.float(), exact, atol=1e-3)
    bound = vaeppl.elbo(pair, {"x": X})  # every draw gives the same: the guide is the posterior
    assert bound.mean == pytest.approx(float(exact.mean()), abs=1e-3)


@pytest.mark.parametrize("family", ["full_rank", "low_rank", "flow"])
def test_a_fit_reaches_the_exact_evidence(family):
    guide = AutoAmortizedGuide(linear, {"x": X}, family=family, hidden=())
    run = vaeppl.fit(
        linear, {"x": X}, guide=guide, epochs=150, lr=0.02, lr_schedule="cosine", progress=False
    )
    gap = float(linear_evidence(X).mean()) - run.elbo({"x": X}, num_particles=50).mean
    assert gap + 0.01 >= 0 and gap < 0.03, gap


def test_a_diagonal_guide_has_the_gap_of_the_best_diagonal_one():
    """The ELBO's gap is KL(q || p) of the best diagonal normal: ½ (log ∏ Λ_ii - log |Λ|)."""
    precision = torch.eye(2) + W.T @ W / 0.25
    best = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    guide = AutoAmortizedGuide(linear, {"x": X}, hidden=())
    run = vaeppl.fit(
        linear, {"x": X}, guide=guide, epochs=150, lr=0.02, lr_schedule="cosine", progress=False
    )
    gap = float(linear_evidence(X).mean()) - run.elbo({"x": X}, num_particles=50).mean
    assert gap == pytest.approx(float(best), abs=0.02)


def chain(x=None):
    """w ~ N(0, 1), z | w ~ N(w, 0.5²), x | z ~ N(z, 0.5²)."""
    with rows(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Normal(w, 0.5))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


@pytest.mark.parametrize(
    ("order", "told"), [("upwards", "q(z | x) q(w | z)"), ("downwards", "q(w | x) q(z | x, w)")]
)
def test_a_chain_is_inverted_and_reaches_the_exact_evidence(order, told):
    x = math.sqrt(1.5) * torch.randn(N)
    guide = AutoAmortizedGuide(chain, {"x": x}, hidden=(), order=order)
    assert repr(guide) == told
    run = vaeppl.fit(
        chain, {"x": x}, guide=guide, epochs=500, lr=0.02, lr_schedule="cosine", progress=False
    )
    exact = float(dist.Normal(0.0, math.sqrt(1.5)).log_prob(x).mean())
    assert run.elbo({"x": x}, num_particles=50).mean == pytest.approx(exact, abs=0.02)


def test_a_global_latent_has_its_exact_posterior():
    """mu ~ N(0, 10²), x ~ N(mu, 1): the posterior is N(mean, 1/N), nearly."""

    def model(x=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with rows(x):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    x = 3 + torch.randn(N)
    for shared in ("normal", AutoMultivariateNormal):
        guide = AutoAmortizedGuide(model, {"x": x}, shared=shared)
        vaeppl.fit(
            model,
            {"x": x},
            guide=guide,
            epochs=1500,
            batch_size=N,
            lr=0.05,
            lr_schedule="cosine",
            progress=False,
        )
        with torch.no_grad(), pyro.get_param_store().scope():
            drawn = torch.stack([guide(x=x)["mu"].squeeze() for _ in range(500)])
        assert float(drawn.mean()) == pytest.approx(float(x.mean()), abs=0.03)
        assert float(drawn.std()) == pytest.approx(1 / math.sqrt(N), rel=0.25)


def test_a_prior_far_from_zero_is_where_the_guide_starts():
    def model(x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(7.0, 0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = AutoAmortizedGuide(model, {"x": torch.randn(N)}, hidden=())
    assert float(guide.heads["z"].loc) == 7.0 and float(guide.heads["z"].unit) == 0.5
    q = guide.heads["z"](torch.zeros(3, 1))
    assert q.batch_shape == (3,) and (q.mean.detach() - 7.0).abs().max() < 0.5


# --- every kind of latent ---


def positive(x=None):
    with rows(x):
        z = pyro.sample("z", dist.Gamma(torch.full((2,), 2.0), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ W.T.abs(), 0.5).to_event(1), obs=x)


def simplex(x=None):
    with rows(x):
        z = pyro.sample("z", dist.Dirichlet(torch.ones(2)))
        pyro.sample("x", dist.Normal(z @ W.T, 0.5).to_event(1), obs=x)


def interval(x=None):
    with rows(x):
        z = pyro.sample("z", dist.Uniform(-torch.ones(2), 2.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ W.T, 0.5).to_event(1), obs=x)


def mixture(x=None):
    with rows(x):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.3, 0.4])))
        loc = torch.stack([2.0 * k, 1.0 - k], -1).to(W)
        z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ W.T, 0.5).to_event(1), obs=x)


def indicators(x=None):
    with rows(x):
        k = pyro.sample("k", dist.OneHotCategorical(torch.tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(k @ W.T, 0.5).to_event(1), obs=x)


def causes(x=None):
    with rows(x):
        z = pyro.sample("z", dist.Bernoulli(torch.full((2,), 0.3)).to_event(1))
        pyro.sample("x", dist.Normal(z @ W.T, 0.5).to_event(1), obs=x)


def scaled(x=None):
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("columns", 4, dim=-1):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with rows(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        scale = (0.1 + sigma)[..., None]
        loc = z @ W.T + shift.reshape(*shift.shape[:-1], 1, 4).squeeze(-2)
        pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)


def steps(x=None):
    """A latent for each of four columns, in a plate of its own, and one above them."""
    plate = rows(x)
    with plate:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("steps", 4, dim=-2), plate:
        z = pyro.sample("z", dist.Normal(w, 1.0))
    with plate:
        pyro.sample("x", dist.Normal(z.movedim(-2, -1).unsqueeze(-3), 1.0).to_event(1), obs=x)


def matrix(x=None):
    with rows(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z.flatten(-2), 1.0).to_event(1), obs=x)


def unseen(x=None):
    """v tells nothing of x: its posterior is its prior."""
    with rows(x):
        pyro.sample("v", dist.Normal(1.0, 2.0))
        pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x)


STORIES = {
    "positive": (positive, "diagonal"), "positive-flow": (positive, "flow"),
    "positive-low-rank": (positive, "low_rank"), "simplex": (simplex, "diagonal"),
    "interval": (interval, "full_rank"), "mixture": (mixture, "diagonal"),
    "mixture-flow": (mixture, {"z": "flow"}), "indicators": (indicators, "diagonal"),
    "matrix": (matrix, "diagonal"), "matrix-full-rank": (matrix, "full_rank"),
    "unseen": (unseen, "diagonal"), "chain-flow": (chain, "flow"),
}  # fmt: skip


@pytest.mark.parametrize("name", STORIES)
def test_every_kind_of_latent_is_checked_fitted_and_read(name):
    story, family = STORIES[name]
    data = {"x": X[:, 0] if story is chain else X}
    guide = AutoAmortizedGuide(story, data, family=family, hidden=(8,))
    report = vaeppl.check(story, data, guide=guide)
    assert not report.errors, str(report)
    run = vaeppl.fit(story, data, guide=guide, epochs=2, progress=False)
    found = run.evidence(data, num_particles=20)
    assert math.isfinite(found.mean)
    assert (found.rows["log_evidence"] >= found.rows["elbo"] - 1e-4).all()
    encoded = run.encode(data)
    assert all(v.isfinite().all() for v in encoded.values())


def test_latents_in_a_plate_of_their_own():
    guide = AutoAmortizedGuide(steps, {"x": X}, hidden=(8,))
    assert repr(guide) == "q(z | x) q(w | z)"
    with pyro.get_param_store().scope():
        drawn = guide(x=X)
    assert drawn["z"].shape == (4, N) and drawn["w"].shape == (N,)
    run = vaeppl.fit(steps, {"x": X}, guide=guide, epochs=100, lr=0.02, progress=False)
    covariance = 2 * torch.eye(4) + torch.ones(4, 4)
    exact = dist.MultivariateNormal(torch.zeros(4), covariance).log_prob(X).mean()
    assert run.evidence({"x": X}, num_particles=500).mean == pytest.approx(float(exact), abs=0.1)
    with pytest.raises(StoryError, match=r"family=\{'z': 'diagonal'\}"):
        AutoAmortizedGuide(steps, {"x": X}, family="flow")


def test_discrete_latents_are_summed_out_or_drawn():
    data = {"x": X}
    summed = AutoAmortizedGuide(mixture, data, hidden=(8,))
    assert repr(summed) == "q(k | x) q(z | x, k)"
    assert summed.heads["k"].infer == {"enumerate": "parallel"}
    drawn = AutoAmortizedGuide(mixture, data, hidden=(8,), discrete="sample")
    assert drawn.heads["k"].infer == {}
    run = vaeppl.fit(
        mixture, data, guide=drawn, estimator="score_function", num_particles=4, epochs=1,
        progress=False,
    )  # fmt: skip
    assert math.isfinite(run.elbo(data).mean)
    bits = AutoAmortizedGuide(causes, data, hidden=(8,))  # 2² values: drawn
    assert bits.heads["z"].infer == {}


def test_shared_latents_of_several_supports():
    guide = AutoAmortizedGuide(scaled, {"x": X}, hidden=(8,))
    assert repr(guide) == "q(sigma) q(shift) q(z | x)"
    with pyro.get_param_store().scope():
        drawn = guide(x=X)
    assert drawn["sigma"] > 0 and drawn["shift"].shape == (4,)


def test_a_factor_couples_latents_and_is_no_column():
    def model(x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.factor("pull", -0.1 * z.square().sum(-1))
            pyro.sample("x", dist.Normal(z @ W.T, 0.5).to_event(1), obs=x)

    assert repr(AutoAmortizedGuide(model, {"x": X})) == "q(z | x)"


# --- columns ---


def test_missing_entries_enter_as_zeros_with_a_mask():
    x = X.clone()
    x[::3, 1] = torch.nan
    guide = AutoAmortizedGuide(linear, {"x": x}, hidden=(8,))
    features = guide.inputs["x"]
    seen = features(x)
    assert seen.shape == (N, 8) and seen.isfinite().all()
    assert (seen[::3, 1] == 0).all() and (seen[::3, 5] == 0).all() and (seen[1::3, 5] == 1).all()
    assert AutoAmortizedGuide(linear, {"x": X}).inputs["x"].out_dim == 4
    assert AutoAmortizedGuide(linear, {"x": X}, missing=True).inputs["x"].out_dim == 8


def test_codes_that_are_missing_have_no_indicator():
    x = torch.tensor([[0.0], [2.0], [torch.nan]])

    def model(x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            logits = torch.stack([z, -z, 0 * z], -1).unsqueeze(-2)
            pyro.sample("x", dist.Categorical(logits=logits).to_event(1), obs=x)

    guide = AutoAmortizedGuide(
        model, {"x": (1,)}, features={"x": likelihoods.Categorical(3)}, missing=True
    )
    expected = [[1, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]]
    assert guide.inputs["x"](x).tolist() == expected


def test_a_label_that_is_known_is_looked_at_instead_of_drawn():
    x = (torch.rand(60, 6) < 0.4).float()
    m2 = M2(6, 3, 2, hidden=(8,))
    guide = AutoAmortizedGuide(m2, {"x": x, "y": torch.arange(60) % 3}, hidden=(8,))
    assert repr(guide) == "q(y | x) q(z | x, y)"
    with pyro.get_param_store().scope():
        assert set(guide(x=x)) == {"y", "z"}
        assert set(guide(x=x, y=torch.arange(60) % 3)) == {"z"}
    data = {"x": x, "y": torch.arange(60) % 4 - 1}
    assert not vaeppl.check(m2, data, guide=guide).errors
    run = vaeppl.fit(m2, data, guide=guide, epochs=2, progress=False)
    assert run.predict_proba(data).shape == (60, 3)


def test_a_label_that_is_known_may_be_drawn_as_indicators():
    data = {"x": (torch.rand(60, 6) < 0.4).float(), "y": torch.arange(60) % 4 - 1}
    story = M2Gumbel(6, 3, 2, hidden=(8,))
    guide = AutoAmortizedGuide(story, data, hidden=(8,))
    assert vaeppl.check(story, data, guide=guide).ok
    run = vaeppl.fit(story, data, guide=guide, epochs=1, progress=False)
    assert math.isfinite(run.elbo(data).mean)


def test_conditional_and_deep_stories_of_the_zoo():
    x = (torch.rand(60, 6) < 0.4).float()
    cvae = CVAE(3, 6, 2, hidden=(8,))
    guide = AutoAmortizedGuide(cvae, {"x": torch.randn(60, 3), "y": x}, hidden=(8,))
    assert repr(guide) == "q(z | y, x)"
    assert AutoAmortizedGuide(cvae, {"x": 3, "y": 6}).latents == ("z",)
    deep = HierarchicalVAE(6, (4, 3, 2), hidden=(8,))
    assert repr(AutoAmortizedGuide(deep)) == "q(z1 | x) q(z2 | z1) q(z3 | z2)"
    ppca = PPCA(6, 2)
    assert repr(AutoAmortizedGuide(ppca)) == "q(z | x)"


def test_fit_makes_one_where_it_is_asked_to():
    data = {"x": (torch.rand(60, 6) < 0.4).float()}
    runs = [
        vaeppl.fit(VAE(6, 2, hidden=(8,)), data, guide="auto", epochs=2, seed=3, progress=False)
        for _ in range(2)
    ]
    assert runs[0].elbo(data).mean == runs[1].elbo(data).mean
    with pytest.raises(StoryError, match="guide is 'auto'"):
        vaeppl.fit(VAE(6, 2), data, guide="automatic")


class Own(Model):
    """A story whose author wrote `model` alone."""

    def __init__(self, x_dim: int = 4):
        super().__init__()
        self.decoder = MLP(2, x_dim, hidden=(8,))
        self.auto = AutoAmortizedGuide(self, {"x": x_dim}, hidden=(8,))

    def model(self, x=None):
        sigma = pyro.sample("sigma", dist.LogNormal(0.0, 1.0))
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            scale = sigma[..., None]
            pyro.sample("x", dist.Normal(self.decoder(z), scale).to_event(1), obs=x)

    def guide(self, x):
        self.auto(x=x)


def test_in_a_class_it_is_saved_loaded_and_drawn_by_seed(tmp_path):
    data = {"x": X}
    assert vaeppl.check(Own(), data).ok
    run = vaeppl.fit(Own(), data, epochs=2, seed=1, progress=False)
    same = vaeppl.fit(Own(), data, epochs=2, seed=1, progress=False)
    assert all(
        torch.equal(a, b)
        for a, b in zip(run.model.parameters(), same.model.parameters(), strict=True)
    )
    again = vaeppl.load(run.save(tmp_path / "r"), model=Own())
    assert torch.equal(again.encode(data)["z"], run.encode(data)["z"])


def test_encoders_may_be_given():
    class Squares(nn.Module):
        def forward(self, x):
            return torch.cat([x, x.square()], -1)

    guide = AutoAmortizedGuide(linear, {"x": X}, encoders={"z": Squares()})
    assert guide.heads["z"].q.in_dim == 8
    with pyro.get_param_store().scope():
        assert guide(x=X)["z"].shape == (N, 2)


# --- what cannot be ---


def poisson(x=None):
    with rows(x):
        k = pyro.sample("k", dist.Poisson(3.0))
        pyro.sample("x", dist.Normal(k, 1.0), obs=x)


def misnamed(x=None):
    with rows(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("X", dist.Normal(z, 1.0), obs=x)


def bounds_of_rows(x=None):
    with rows(x):
        a = pyro.sample("a", dist.LogNormal(0.0, 1.0))
        b = pyro.sample("b", dist.Uniform(0.0, a))
        pyro.sample("x", dist.Normal(b, 1.0), obs=x)


@pytest.mark.parametrize(
    ("story", "columns", "options", "message"),
    [
        (poisson, {"x": X[:, 0]}, {}, "'k' \\(Poisson\\) is discrete"),
        (bounds_of_rows, {"x": X[:, 0]}, {}, "'b' lies between bounds that differ"),
        (CVAE(3, 6, 2), None, {}, "pass rows of 'x', 'y'"),
        (misnamed, {"x": X[:, 0]}, {}, "'X' is observed, but bears the name of no column"),
        (linear, {"y": 4}, {}, "no column 'y'"),
        (linear, {"x": X}, {"family": {"w": "flow"}}, "name in family= 'w'"),
        (linear, {"x": X}, {"encoders": {"x": nn.Identity()}}, "name in encoders= 'x'"),
        (linear, {"x": X}, {"discrete": "gumbel"}, "'enumerate' or 'sample'"),
        (linear, {"x": X}, {"shared": "flow"}, "class of pyro.infer.autoguide"),
        (3, {"x": X}, {}, "int is no story"),
    ],
)
def test_what_cannot_be_made_is_said(story, columns, options, message):
    with pytest.raises((StoryError, ValueError), match=message):
        AutoAmortizedGuide(story, columns, **options)


def test_the_seed_settles_where_the_guide_starts():
    """Whatever the weights of the story were drawn from: where it starts depends on them."""
    from vaeppl.priors import MixtureOfNormals

    x, ends = torch.randn(40, 2), []
    for state in (0, 1):
        torch.manual_seed(state)
        story = VAE(2, 1, prior=MixtureOfNormals(2), likelihood="normal", hidden=())
        fit = vaeppl.fit(story, {"x": x}, guide="auto", epochs=2, progress=False)
        ends.append(fit.history["elbo"].tolist())
    assert ends[0] == ends[1]


def test_entries_may_be_missing_in_late_rows_and_in_held_out_ones_alone():
    x = torch.randn(40, 3)
    gap = x.clone()
    gap[-1, 2] = torch.nan
    story = {"x_dim": 3, "latent_dim": 1, "likelihood": "normal", "hidden": (4,)}
    split = Data({"x": gap}, splits={"train": list(range(30)), "valid": list(range(30, 40))})
    for data, valid in (({"x": gap}, None), ({"x": x}, {"x": gap}), (split, None)):
        fit = vaeppl.fit(
            VAE(**story), data, guide="auto", valid=valid, epochs=1, progress=False, batch_size=8
        )
        assert fit.pair.takes_missing
        assert np.isfinite(fit.elbo({"x": gap}).mean)
    assert not vaeppl.fit(
        VAE(**story), {"x": x}, guide="auto", epochs=1, progress=False
    ).pair.takes_missing
