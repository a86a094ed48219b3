"""Auto-encoders: PCA in the linear case, and chains whose stationary law is known."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA

import vaeppl
from vaeppl import corruptions, likelihoods
from vaeppl.errors import StoryError
from vaeppl.estimators import ELBO
from vaeppl.models import AutoEncoder
from vaeppl.pair import Pair

FULL = {"batch_size": 500, "lr_schedule": "cosine", "progress": False}


def real(n=500, d=5):
    g = torch.Generator().manual_seed(2)
    x = torch.randn(n, 2, generator=g) @ torch.randn(2, d, generator=g)
    x = x + 0.3 * torch.randn(n, d, generator=g)
    return {"x": x - x.mean(0)}


def objective(model, data, training=False):
    model.train(training)
    pair = Pair(model)
    with pair.active():
        return -ELBO().differentiable_loss(pair.model, pair.guide, **data)


@pytest.mark.parametrize("tied", [False, True])
def test_a_linear_one_finds_the_principal_subspace(tied):
    """Baldi & Hornik 1989."""
    noise = likelihoods.Normal(1.0)
    ae = AutoEncoder(5, 2, likelihood=noise, hidden=(), tied=tied)
    fit = vaeppl.fit(ae, real(), epochs=400, lr=0.03, **FULL)
    x = real()["x"]
    pca = PCA(2).fit(x.numpy())
    made = fit.reconstruct()["x"]
    best = torch.as_tensor(pca.inverse_transform(pca.transform(x.numpy())))
    assert (made - best).square().mean() < 1e-4
    with torch.no_grad():
        directions = ae.decoder(torch.eye(2)) - ae.decoder(torch.zeros(1, 2))
    assert np.rad2deg(subspace_angles(pca.components_.T, directions.numpy().T)).max() < 1


def test_tied_weights_are_those_of_the_encoder_transposed():
    ae = AutoEncoder(6, 3, tied=True, hidden=(4,), activation="tanh")
    first, last = (m for m in ae.encoder.layers if isinstance(m, torch.nn.Linear))
    z = torch.randn(7, 3)
    h = torch.tanh(z @ last.weight + ae.decoder.biases[0])
    assert torch.allclose(ae.decoder(z), h @ first.weight + ae.decoder.biases[1], atol=1e-6)
    names = {n for n, _ in ae.named_parameters()}
    assert sum(p.ndim == 2 for p in ae.parameters()) == 2
    assert {n for n in ae.state_dict() if "weight" in n} == {n for n in names if "weight" in n}
    data = {"x": (torch.rand(50, 6) < 0.5).float()}
    fit = vaeppl.fit(ae, data, epochs=3, progress=False)
    assert torch.equal(first.weight, ae.decoder._linear[1].weight)
    assert fit.history["elbo"].iloc[-1] > fit.history["elbo"].iloc[0]


def test_a_tied_one_is_saved_and_loaded(tmp_path):
    data = {"x": (torch.rand(50, 6) < 0.5).float()}
    fit = vaeppl.fit(AutoEncoder(6, 3, tied=True, hidden=(4,)), data, epochs=2, progress=False)
    again = vaeppl.load(fit.save(tmp_path))
    assert torch.equal(again.reconstruct(data)["x"], fit.reconstruct(data)["x"])


class TestObjective:
    x = torch.randn(20, 5)

    def test_plain(self):
        ae = AutoEncoder(5, 3, likelihood=likelihoods.Normal(0.5), hidden=(8,))
        made = ae.decoder(ae.encoder(self.x))
        by_hand = dist.Normal(made, 0.5).log_prob(self.x).sum()
        assert objective(ae, {"x": self.x}).item() == pytest.approx(by_hand.item(), rel=1e-5)

    def test_sparse(self):
        ae = AutoEncoder(5, 3, likelihood=likelihoods.Normal(0.5), hidden=(8,), prior="laplace")
        z = ae.encoder(self.x)
        penalty = 2**0.5 * z.abs().sum() - z.numel() * math.log(2**0.5 / 2)
        by_hand = dist.Normal(ae.decoder(z), 0.5).log_prob(self.x).sum() - penalty
        assert objective(ae, {"x": self.x}).item() == pytest.approx(by_hand.item(), rel=1e-5)

    def test_the_code_may_be_activated(self):
        ae = AutoEncoder(5, 30, hidden=(), activation="relu", activate_code=True)
        assert (ae.code(self.x) >= 0).all() and (ae.code(self.x) == 0).any()

    def test_rows_are_corrupted_while_training_only(self):
        ae = AutoEncoder(5, 3, likelihood=likelihoods.Normal(0.5), corruption="gaussian")
        plain = [objective(ae, {"x": self.x}).item() for _ in range(2)]
        noisy = [objective(ae, {"x": self.x}, training=True).item() for _ in range(2)]
        assert plain[0] == plain[1] and noisy[0] != noisy[1]
        assert torch.equal(vaeppl.encode(ae, {"x": self.x})["z"], ae.code(self.x).detach())


class TestDiscreteChain:
    """One column of four categories: every conditional can be told exactly."""

    share, p = 0.5, torch.tensor([0.5, 0.3, 0.15, 0.05])

    @property
    def corruption(self):
        """C[i, j] = C(x̃ = j | x = i)."""
        return (1 - self.share) * torch.eye(4) + self.share / 4

    def story(self, walkback=1):
        return AutoEncoder(
            1,
            4,
            likelihood=likelihoods.Categorical(4),
            corruption=corruptions.SaltAndPepper(self.share, range(4)),
            walkback=walkback,
            hidden=(),
        )

    def with_conditional(self, table, walkback=1):
        """Return a story with p(x = i | x̃ = j) of the table, ``(j, i)``."""
        ae = self.story(walkback)
        with torch.no_grad():
            ae.encoder.layers[0].weight.copy_(torch.eye(4))
            ae.encoder.layers[0].bias.zero_()
            ae.decoder.layers[0].weight.copy_(table.log().T)
            ae.decoder.layers[0].bias.zero_()
        return ae

    def conditional(self, corruption):
        """Return the true p(x | x̃), ``(j, i)``."""
        joint = self.p[:, None] * corruption
        return (joint / joint.sum(0)).T

    def table(self, ae):
        with torch.no_grad():
            codes = torch.arange(4.0)[:, None]
            return ae.likelihood(ae.decoder(ae.code(codes))).base_dist.probs[:, 0]

    def stationary(self, transition):
        values, vectors = torch.linalg.eig(transition.double().T)
        v = vectors[:, (values.real - 1).abs().argmin()].real
        return (v / v.sum()).float()

    def test_with_the_true_conditional_the_chain_has_the_law_of_the_data(self):
        ae = self.with_conditional(self.conditional(self.corruption))
        assert torch.allclose(self.table(ae), self.conditional(self.corruption), atol=1e-5)
        start = {"x": torch.full((20_000, 1), 3.0)}
        states = vaeppl.chain(ae, start, steps=15).states[:, :, 0]
        shares = [torch.bincount(s.long(), minlength=4) / 20_000 for s in states]
        assert torch.allclose(shares[-1], self.p, atol=4 * 0.5 / 20_000**0.5)
        one_step = self.corruption[3] @ self.conditional(self.corruption)
        assert torch.allclose(shares[1], one_step, atol=4 * 0.5 / 20_000**0.5)

    def test_any_chain_has_the_law_that_its_transitions_have(self):
        table = torch.softmax(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)), -1)
        ae = self.with_conditional(table)
        exact = self.stationary(self.corruption @ table)
        assert not torch.allclose(exact, self.p, atol=0.1)
        states = vaeppl.chain(ae, {"x": torch.zeros(20_000, 1)}, steps=20).states[-1, :, 0]
        shares = torch.bincount(states.long(), minlength=4) / 20_000
        assert torch.allclose(shares, exact, atol=4 * 0.5 / 20_000**0.5)

    def test_a_trained_chain_has_the_law_of_the_data(self):
        x = torch.multinomial(self.p, 5000, replacement=True)[:, None].float()
        shares = torch.bincount(x[:, 0].long(), minlength=4) / 5000
        fit = vaeppl.fit(
            self.story(), {"x": x}, epochs=30, lr=0.05, lr_schedule="cosine", progress=False
        )
        law = self.stationary(self.corruption @ self.table(fit.model))
        assert torch.allclose(law, shares, atol=0.02)

    def walk(self, table, k):
        """Return C̃[i, j], the probability that a walk of 1, …, k steps from i ends in j."""
        ends = [self.corruption]
        for _ in range(k - 1):
            ends.append(ends[-1] @ table @ self.corruption)
        return torch.stack(ends).mean(0)

    def test_the_walk_is_that_of_its_transitions(self):
        table = torch.softmax(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)), -1)
        ae = self.with_conditional(table, walkback=3)
        for i in range(4):
            ends = ae.walk(torch.full((20_000, 1), float(i)))[:, 0]
            shares = torch.bincount(ends.long(), minlength=4) / 20_000
            exact = self.walk(table, 3)[i]
            assert torch.allclose(shares, exact, atol=4 * 0.5 / 20_000**0.5)

    def test_the_objective_of_walkback_is_the_mean_over_its_steps(self):
        table = torch.softmax(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)), -1)
        ae = self.with_conditional(table, walkback=3)
        x = torch.multinomial(self.p, 40_000, replacement=True)[:, None].float()
        shares = torch.bincount(x[:, 0].long(), minlength=4) / 40_000
        exact = (shares[:, None] * self.walk(table, 3) * table.log().T).sum()
        with torch.no_grad():
            ours = objective(ae, {"x": x}, training=True) / 40_000
        assert ours.item() == pytest.approx(exact.item(), abs=0.02)

    def test_a_chain_trained_with_walkback_has_the_law_of_the_data_on_the_same_walk(self):
        x = torch.multinomial(self.p, 5000, replacement=True)[:, None].float()
        shares = torch.bincount(x[:, 0].long(), minlength=4) / 5000
        fit = vaeppl.fit(
            self.story(3), {"x": x}, epochs=30, lr=0.05, lr_schedule="cosine", progress=False
        )
        table = self.table(fit.model)
        law = self.stationary(self.walk(table, 3) @ table)
        assert torch.allclose(law, shares, atol=0.02)


class TestLinearNormalChain:
    """x ~ N(0, diag v), x̃ = x + s ε: the true conditional is linear and normal."""

    v, s = torch.tensor([4.0, 1.0, 0.25]), 0.8

    def stationary(self, ae):
        """Return the variances of the law of the chain x' = a (x + s ε) + b + σ ε'."""
        weights = ae.decoder.layers[0].weight @ ae.encoder.layers[0].weight
        noise = ae.likelihood(torch.zeros(1, 3)).base_dist.scale[0] ** 2
        a, identity = weights.detach(), torch.eye(9)
        added = self.s**2 * a @ a.T + torch.diag(noise.detach())
        covariance = torch.linalg.solve(identity - torch.kron(a, a), added.flatten())
        return covariance.reshape(3, 3)

    def story(self):
        noise = likelihoods.Normal(per_column=True)
        c = corruptions.GaussianNoise(self.s)
        return AutoEncoder(3, 3, likelihood=noise, corruption=c, hidden=())

    def test_the_chain_of_the_true_conditional(self):
        ae, gain = self.story(), self.v / (self.v + self.s**2)
        with torch.no_grad():
            for net, weight in ((ae.encoder, torch.eye(3)), (ae.decoder, torch.diag(gain))):
                net.layers[0].weight.copy_(weight)
                net.layers[0].bias.zero_()
            ae.likelihood.log_scale.copy_(((gain * self.s**2).sqrt() - 1e-4).log())
        assert torch.allclose(self.stationary(ae), torch.diag(self.v), atol=1e-3)
        states = vaeppl.chain(ae, {"x": torch.full((5000, 3), 6.0)}, steps=60).states[-1]
        assert torch.allclose(states.var(0), self.v, rtol=0.08)
        assert (states.mean(0).abs() < 4 * (self.v / 5000).sqrt()).all()

    def test_a_trained_one(self):
        g = torch.Generator().manual_seed(0)
        x = torch.randn(2000, 3, generator=g) * self.v.sqrt()
        options = {"epochs": 60, "batch_size": 100, "lr": 0.02, "lr_schedule": "cosine"}
        fit = vaeppl.fit(self.story(), {"x": x}, progress=False, **options)
        law = self.stationary(fit.model)
        assert torch.allclose(law.diagonal(), x.var(0), rtol=0.15)


def test_a_flat_prior_cannot_be_drawn_from_and_gives_no_evidence():
    data = {"x": (torch.rand(20, 6) < 0.5).float()}
    ae = AutoEncoder(6, 2, hidden=(4,))
    with pytest.raises(StoryError, match="flat prior, from which no code can be drawn"):
        vaeppl.sample(ae, 3)
    for prior in (None, "normal"):
        with pytest.raises(StoryError, match="sets 'z' to a point"):
            vaeppl.evidence(AutoEncoder(6, 2, hidden=(4,), prior=prior), data)
    shown = vaeppl.show(ae, data)
    assert shown.density == "p(z, x) = ∏ₙ p(zₙ) p(xₙ | zₙ)" and not shown.draws
    bound = vaeppl.elbo(ae, data)
    assert (bound.rows["kl"] == 0).all()
    assert str(bound).startswith("objective = ") and "no bound of log p(x)" in str(bound)
    assert "latent-is-a-point" not in vaeppl.check(ae, data).codes  # it is so by design


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"walkback": 0, "corruption": "gaussian"}, "walkback is a number of steps"),
        ({"walkback": 3}, "more need a corruption"),
        ({"tied": True, "likelihood": likelihoods.Normal("predicted")}, "give tied=False"),
        ({"corruption": "maskin"}, "did you mean 'masking'"),
        ({"latent_dim": 0}, "at least one dimension"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        AutoEncoder(**{"x_dim": 6, **arguments})


def test_the_check_says_in_the_storys_own_words_why_it_cannot_be_drawn_from():
    found = vaeppl.check(AutoEncoder(6, 2, hidden=(4,)), {"x": (torch.rand(50, 6) < 0.4).float()})
    (note,) = [f for f in found.findings if f.code == "cannot-be-drawn"]
    assert note.severity == "note" and note.mend == ""
    assert "flat prior, from which no code can be drawn: give prior='normal'" in note.what
