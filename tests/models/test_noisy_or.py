"""The noisy-OR network against sums over all sets of causes, by hand."""

from itertools import product

import pytest
import torch

import vaeppl
from vaeppl.estimators import ELBO
from vaeppl.models import NoisyOR
from vaeppl.pair import Pair

D, K = 4, 3


def story(inference="enumerated", seed=0, **sizes):
    torch.manual_seed(seed)
    model = NoisyOR(D, K, inference=inference, hidden=(8,)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def sets():
    return torch.tensor(list(product((0.0, 1.0), repeat=K)), dtype=torch.double)


def joint(model, x):
    """Return p(x, z) of each row and each set of causes, from probabilities of failure."""
    fails, pi, leak = 1 - model.strength, model.prevalence, model.leak
    parts = []
    for z in sets():
        p_z = torch.where(z == 1, pi, 1 - pi).prod()
        off = (1 - leak) * (fails**z).prod(1)
        parts.append(p_z * torch.where(x == 1, 1 - off, off).prod(1))
    return torch.stack(parts, 1)


def rows(n=16):
    g = torch.Generator().manual_seed(1)
    return {"x": (torch.rand(n, D, generator=g) < 0.5).double()}


def test_the_elbo_of_the_enumerated_guide_is_the_evidence():
    model, data = story(), rows()
    exact = joint(model, data["x"]).sum(1).log()
    bound = vaeppl.elbo(model, data)
    assert torch.allclose(torch.as_tensor(bound.rows["elbo"].to_numpy()), exact, atol=1e-6)
    report = vaeppl.evidence(model, data, num_particles=2)
    assert report.mean == pytest.approx(exact.mean().item(), abs=1e-6) and report.mc_se < 1e-6


def test_its_gradient_is_that_of_the_evidence():
    model, x = story(), rows()["x"]
    pair = Pair(model)
    with pair.active():
        loss = ELBO().differentiable_loss(pair.model, pair.guide, x=x)
    ours = torch.autograd.grad(loss, list(model.parameters()))
    rate = (
        torch.nn.functional.softplus(model.raw_leak)
        + 1e-6
        + sets() @ (torch.nn.functional.softplus(model.raw_weights).T)
    )
    log_x = (x[:, None] * (-torch.expm1(-rate)).log() - (1 - x[:, None]) * rate).sum(-1)
    z, logits = sets(), model.prior_logits
    log_z = (z * logits.sigmoid().log() + (1 - z) * (-logits).sigmoid().log()).sum(1)
    theirs = torch.autograd.grad(-(log_z + log_x).logsumexp(1).sum(), list(model.parameters()))
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


def test_the_causes_of_a_row_are_those_of_bayes_rule():
    model, data = story(), rows()
    weights = joint(model, data["x"])
    posterior = (weights @ sets()) / weights.sum(1, keepdim=True)
    assert torch.allclose(model.causes(data["x"]), posterior, atol=1e-9)
    best = sets()[weights.argmax(1)]
    assert torch.equal(vaeppl.encode(model, data)["z"], best)


def test_one_cause_explains_another_away():
    model = story()
    with torch.no_grad():
        model.raw_weights[:] = -20.0
        model.raw_weights[0, :2] = 3.0  # two causes of the first finding
    on = torch.zeros(1, D).double()
    on[0, 0] = 1
    weights = joint(model, on)[0] / joint(model, on).sum()
    first, second = sets()[:, 0] == 1, sets()[:, 1] == 1
    given_second = weights[first & second].sum() / weights[second].sum()
    q = model.q(on)
    p = q.logits.exp()[0]
    assert p[first & second].sum() / p[second].sum() == pytest.approx(given_second.item())
    assert given_second < model.causes(on)[0, 0]


def test_the_amortised_guide_is_scored_as_by_hand():
    model, data = story("amortised"), rows(6)
    log_joint = joint(model, data["x"]).log()
    with torch.no_grad():
        q = torch.sigmoid(model.encoder(data["x"]))[:, None]
    each = torch.where(sets() == 1, q, 1 - q).prod(-1)
    exact = (each * (log_joint - each.log())).sum(1)
    bound = vaeppl.elbo(model, data, num_particles=20_000)
    spread = (each * (log_joint - each.log()) ** 2).sum(1) - exact**2
    error = torch.as_tensor(bound.rows["elbo"].to_numpy()) - exact
    assert (error.abs() < 4 * (spread / 20_000).sqrt()).all()
    evidence = vaeppl.evidence(model, data, num_particles=20_000)
    assert evidence.mean == pytest.approx(log_joint.logsumexp(1).mean().item(), abs=0.01)
    assert torch.allclose(model.causes(data["x"]), q[:, 0])


def planted(n=3000):
    """Return rows of a network of three causes of three findings each, two of them shared."""
    strength = torch.zeros(7, 3)
    strength[0:3, 0] = strength[2:5, 1] = strength[4:7, 2] = 0.9
    g = torch.Generator().manual_seed(0)
    z = (torch.rand(n, 3, generator=g) < torch.tensor([0.3, 0.4, 0.2])).float()
    off = 0.98 * ((1 - strength) ** z[:, None]).prod(-1)
    return {"x": (torch.rand(n, 7, generator=g) >= off).float()}, strength


@pytest.mark.parametrize(
    ("inference", "options"),
    [("enumerated", {}), ("amortised", {"estimator": "score_function", "num_particles": 8})],
)
def test_a_planted_network_is_found(inference, options):
    data, strength = planted()
    model = NoisyOR(7, 3, inference=inference)
    options |= {"lr": 0.05, "lr_schedule": "cosine", "progress": False, "seed": 1}
    vaeppl.fit(model, data, epochs=30, batch_size=150, **options)
    order = [int((model.strength - s[:, None]).abs().sum(0).argmin()) for s in strength.T]
    assert sorted(order) == [0, 1, 2]
    assert (model.strength[:, order] - strength).abs().max() < 0.15
    assert torch.allclose(model.prevalence[order], torch.tensor([0.3, 0.4, 0.2]), atol=0.05)
    assert (model.leak - 0.02).abs().max() < 0.03


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inference": "exact"}, "unknown inference"),
        ({"latent_dim": 0}, "at least 1"),
        ({"latent_dim": 15}, "give inference='amortised'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        NoisyOR(**{"x_dim": 6, **arguments})


def test_findings_are_zero_or_one():
    with pytest.raises(vaeppl.errors.ColumnError, match="'x'"):
        vaeppl.fit(NoisyOR(3, 2), {"x": torch.full((10, 3), 2.0)}, epochs=1, progress=False)
