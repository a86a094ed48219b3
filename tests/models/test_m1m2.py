"""M1+M2: its bound against a sum by hand, and the story built above a fitted M1."""

import math

import pyro
import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

import vaeppl
from vaeppl.errors import StoryError
from vaeppl.estimators import ELBO
from vaeppl.models import M1, M1M2

N, D, K, F, L = 6, 5, 3, 4, 2


def normal(shape):
    return torch.normal(torch.zeros(shape).double(), torch.ones(shape).double())


def bound_by_hand(model, x, noise_z, noise_v):
    """Sum over labels of q(y | z) [log p(x, z, y) - log q(z | x) q(y | z)] less the KL of v."""
    q_z = model.q(model.encoder(x)).base_dist
    z = q_z.loc + q_z.scale * noise_z
    log_q = model.classifier(z).log_softmax(-1)
    total = Bernoulli(logits=model.decoder(z)).log_prob(x).sum(-1) - Normal(
        q_z.loc, q_z.scale
    ).log_prob(z).sum(-1)
    for k in range(K):
        y = torch.eye(K).double()[torch.full((N,), k)]
        q_v = model.q_style(model.style_encoder(y, z)).base_dist
        v = q_v.loc + q_v.scale * noise_v[k]
        p_z = model.features(model.style_decoder(y, v))
        kl = kl_divergence(Normal(q_v.loc, q_v.scale), Normal(0.0, 1.0)).sum(-1)
        log_joint = p_z.log_prob(z) - math.log(K) - kl - log_q[:, k]
        total = total + log_q[:, k].exp() * log_joint
    return total.sum()


def test_the_bound_and_its_gradient_are_the_sum_over_labels():
    torch.manual_seed(0)
    model = M1M2(D, K, L, F, hidden=(7,), feature_hidden=(8,)).double()
    for parameter in model.parameters():  # away from where all labels are alike
        torch.nn.init.normal_(parameter, std=0.3)
    x = (torch.rand(N, D) < 0.5).double()
    pyro.set_rng_seed(4)
    noise = normal((N, F)), normal((K, N, L))
    by_hand = bound_by_hand(model, x, *noise)
    pyro.set_rng_seed(4)
    with pyro.get_param_store().scope():
        ours = -ELBO(max_plate_nesting=1).differentiable_loss(model.model, model.guide, x=x)
    torch.testing.assert_close(ours, by_hand, rtol=1e-9, atol=1e-6)
    used = list(model.parameters())
    for mine, other in zip(
        torch.autograd.grad(ours, used), torch.autograd.grad(by_hand, used), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-6)


@pytest.fixture(scope="module")
def m1():
    fit = vaeppl.fit(M1(D, F, hidden=(8,)), _rows(), epochs=60, lr=1e-2, seed=0, progress=False)
    with torch.no_grad():  # the mean of one feature does not depend on the data
        fit.model.q.head.weight[1] = 0.0
        fit.model.q.head.bias[1] = 0.0
    return fit


def _rows():
    """Rows of two clusters, so that few features are in use."""
    torch.manual_seed(1)
    which = torch.arange(200) % 2
    p = torch.where(which[:, None] == 1, torch.tensor(0.9), torch.tensor(0.1)).expand(-1, D)
    return {"x": torch.bernoulli(p), "y": torch.where(torch.arange(200) < 20, which, -1)}


def test_above_an_m1_its_networks_are_copied_and_features_in_disuse_left_out(m1):
    story = M1M2.above(m1, 2, 2, hidden=(6,))
    in_use = m1.active_units()["active"].to_numpy()
    assert 0 < in_use.sum() < F
    x = _rows()["x"]
    q, below = story.q(story.encoder(x)), m1.model.q(m1.model.encoder(x))
    assert torch.allclose(q.mean, below.mean[:, in_use])
    assert torch.allclose(q.base_dist.scale, below.base_dist.scale[:, in_use])
    z = torch.zeros(3, F)
    z[:, in_use] = torch.randn(3, int(in_use.sum()))
    assert torch.allclose(story.decoder(z[:, in_use]), m1.model.decoder(z), atol=1e-6)


@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_copied_stays_as_it_was_or_is_fitted_with_the_rest(m1, frozen):
    story = M1M2.above(m1, 2, 2, hidden=(6,), frozen=frozen)
    before = {k: v.clone() for k, v in story.state_dict().items()}
    fit = vaeppl.fit(story, _rows(), epochs=2, batch_size=50, progress=False)
    changed = {k for k, v in fit.model.state_dict().items() if not torch.equal(v, before[k])}
    below = {k for k in before if k.split(".")[0] in ("encoder", "q", "decoder")}
    assert (changed & below == set()) if frozen else (below <= changed)
    assert any(k.startswith("style_decoder") for k in changed)


def test_the_same_seed_gives_the_same_story(m1):
    first, second = (M1M2.above(m1, 2, 2, hidden=(6,), seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(v, second[k]) for k, v in first.items())


def test_labels_of_two_clusters_are_found(m1):
    story = M1M2.above(m1, 2, 2, hidden=(6,))
    fit = vaeppl.fit(story, _rows(), epochs=30, lr=1e-2, batch_size=50, progress=False)
    truth = {"x": _rows()["x"], "y": torch.arange(200) % 2}
    assert fit.score_labels(truth).error_percent < 5


def test_features_of_another_guide_family_are_refused():
    fit = vaeppl.fit(
        M1(D, 2, hidden=(8,), guide_family="full_rank"), _rows(), epochs=1, progress=False
    )
    with pytest.raises(StoryError, match="need the diagonal guide family"):
        M1M2.above(fit, 2)
