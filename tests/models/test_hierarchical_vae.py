"""The hierarchical VAE: one layer is a VAE, and a linear one has posteriors that are known."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import vaeppl
from vaeppl import guides, likelihoods
from vaeppl.estimators import ELBO
from vaeppl.models import VAE, HierarchicalVAE
from vaeppl.models.hierarchical_vae import product
from vaeppl.pair import Pair

GUIDES = ("bottom_up", "ladder")


def binary(n=60, d=6):
    return {"x": (torch.rand(n, d, generator=torch.Generator().manual_seed(0)) < 0.4).float()}


@pytest.mark.parametrize("inference", GUIDES)
def test_one_layer_is_a_vae(inference):
    deep = HierarchicalVAE(6, (3,), inference=inference, hidden=(8, 5))
    runs = [
        vaeppl.fit(m, binary(), epochs=3, seed=4, batch_size=20, progress=False, compile=False)
        for m in (deep, VAE(6, 3, hidden=(8, 5)))
    ]
    ours, theirs = runs
    assert ours.history["elbo"].tolist() == theirs.history["elbo"].tolist()
    assert torch.equal(ours.encode(binary())["z1"], theirs.encode(binary())["z"])
    first, second = (r.evidence(binary(), num_particles=30).rows for r in runs)
    assert first.equals(second)


class TestLinear:
    """z_2 ~ N(0, 1), z_1 | z_2 ~ N(a z_2 + c, s²), x | z_1 ~ N(w z_1 + b, σ²)."""

    a, c, s, sigma = 1.5, 0.4, 0.7, 0.5
    w, b = torch.tensor([1.2, -0.8, 0.5]), torch.tensor([0.3, 0.0, -1.0])

    def story(self, inference):
        """Return the story with the guide set to the exact posterior."""
        noise = likelihoods.Normal(self.sigma)
        deep = HierarchicalVAE(3, (1, 1), inference=inference, likelihood=noise, hidden=())
        v1 = self.s**2
        # x tells of z_1 what N(m, t²) does, m = w·(x - b) / w·w and t² = σ² / w·w.
        ww = float(self.w @ self.w)
        t2 = self.sigma**2 / ww
        _set(deep.decoders[0].layers[0], self.w[:, None], self.b)
        _set(deep.p[0].head, *_head([[self.a]], [self.c], [self.s]))
        up, shift = self.w / ww, float(self.w @ self.b) / ww
        if inference == "ladder":
            gain = self.a / (self.a**2 + v1 + t2)  # of z_2, from m
            rest = 1 - gain * self.a
            _set(deep.q[0].head, *_head([up.tolist()], [-shift], [t2**0.5]))
            weight, bias = gain * up, -gain * (shift + self.c)
            _set(deep.q[1].head, *_head([weight.tolist()], [float(bias)], [rest**0.5]))
        else:
            prior = self.a**2 + v1  # variance of z_1
            share = prior / (prior + t2)
            weight, bias = share * up, -share * shift + (1 - share) * self.c
            _set(
                deep.q[0].head,
                *_head([weight.tolist()], [float(bias)], [(share * t2) ** 0.5]),
            )
            gain = self.a / prior
            rest = 1 - gain * self.a
            _set(deep.q[1].head, *_head([[gain]], [-gain * self.c], [rest**0.5]))
        return deep

    def evidence(self, x):
        along = torch.outer(self.w, self.w) * (self.a**2 + self.s**2)
        covariance = along + self.sigma**2 * torch.eye(3)
        return dist.MultivariateNormal(self.w * self.c + self.b, covariance).log_prob(x)

    @pytest.mark.parametrize("inference", GUIDES)
    def test_with_the_exact_posterior_every_weight_is_the_evidence(self, inference, double):
        deep = self._doubled(inference)
        x = torch.randn(20, 3)
        data = vaeppl.data.Data({"x": x}, dtype=torch.float64)
        report = vaeppl.evidence(deep, data, num_particles=30)
        exact = self.evidence(x).numpy()
        assert np.allclose(report.rows["log_evidence"], exact, atol=1e-6)
        assert (report.rows["mc_se"] < 1e-6).all()

    def _doubled(self, inference):
        self.w, self.b = type(self).w.double(), type(self).b.double()
        return self.story(inference)

    @pytest.mark.parametrize("inference", GUIDES)
    def test_the_kl_of_the_layers_is_that_of_the_joint_posterior(self, inference, double):
        deep = self._doubled(inference)
        x = torch.randn(20, 3)
        data = vaeppl.data.Data({"x": x}, dtype=torch.float64)
        bound = vaeppl.elbo(deep, data, num_particles=4000)
        assert list(bound.site_kl) == ["z2", "z1"]  # that of the story, whatever the guide's
        assert np.allclose(bound.rows["elbo"], self.evidence(x).numpy(), atol=0.15)
        # KL of the chain: exact for each layer, whichever way it is drawn.
        posterior, prior = self._joint(x)
        kl = torch.distributions.kl_divergence(posterior, prior)
        assert np.allclose(bound.rows["kl"], kl.numpy(), atol=0.15)
        assert bound.kl == pytest.approx(sum(bound.site_kl.values()))

    def _joint(self, x):
        """Posterior and prior of (z_1, z_2)."""
        precision = torch.tensor(
            [
                [1 / self.s**2, -self.a / self.s**2],
                [-self.a / self.s**2, 1 + (self.a / self.s) ** 2],
            ]
        )
        prior = dist.MultivariateNormal(torch.tensor([self.c, 0.0]), precision_matrix=precision)
        more = precision.clone()
        more[0, 0] += float(self.w @ self.w) / self.sigma**2
        shift = torch.zeros(len(x), 2)
        shift[:, 0] = (x - self.b) @ self.w / self.sigma**2
        natural = precision @ prior.loc + shift
        mean = torch.linalg.solve(more, natural.T).T
        return dist.MultivariateNormal(mean, precision_matrix=more), prior

    @pytest.mark.parametrize("inference", GUIDES)
    def test_posterior_means_of_all_layers(self, inference, double):
        deep = self._doubled(inference)
        x = torch.randn(20, 3)
        encoded = vaeppl.encode(deep, vaeppl.data.Data({"x": x}, dtype=torch.float64))
        means = self._joint(x)[0].mean
        assert torch.allclose(encoded["z1"], means[:, :1], atol=1e-6)
        assert torch.allclose(encoded["z2"], means[:, 1:], atol=1e-6)


def _set(layer: nn.Linear, weight, bias):
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(weight))
        layer.bias.copy_(torch.as_tensor(bias))


def _head(weight, bias, scale):
    """Return weights of a head that puts out a linear mean and a constant scale."""
    scale = torch.tensor(scale) - guides.SCALE_FLOOR
    raw = scale + (-torch.expm1(-scale)).log()  # softplus backwards
    weight = torch.as_tensor(weight)
    return torch.cat([weight, torch.zeros_like(weight)]), torch.cat([torch.tensor(bias), raw])


def test_a_product_of_normals(double):
    a = dist.Normal(torch.tensor([0.3, -1.0]), torch.tensor([0.5, 2.0])).to_event(1)
    b = dist.Normal(torch.tensor([1.0, 0.2]), torch.tensor([1.5, 0.1])).to_event(1)
    z = torch.randn(50, 2)
    ratio = a.log_prob(z) + b.log_prob(z) - product(a, b).log_prob(z)
    assert torch.allclose(ratio, ratio[:1].expand(50), atol=1e-10)


@pytest.mark.parametrize("inference", GUIDES)
def test_the_exact_kl_and_that_from_draws_have_one_mean(inference):
    deep = HierarchicalVAE(6, (4, 3, 2), inference=inference, hidden=(8,))
    pair, data = Pair(deep), binary(5)
    with pair.active(), torch.no_grad():
        exact, drawn = (
            ELBO(4000, analytic_kl=kind, vectorize_particles=True, max_plate_nesting=1)
            for kind in (True, False)
        )
        values = [e.loss(pair.model, pair.guide, **data) for e in (exact, drawn)]
    assert values[0] == pytest.approx(values[1], abs=0.3)
    assert set(exact.site_kl) == {"z1", "z2", "z3"}
    if inference == "ladder":  # in the order of the story, each KL is exact: none is below zero
        assert all(kl >= 0 for kl in exact.site_kl.values())


@pytest.mark.parametrize("inference", GUIDES)
def test_batch_norm_couples_rows_while_training_only(inference):
    deep = HierarchicalVAE(6, (4, 2), inference=inference, hidden=(8,), norm="batch")
    # A last batch of a single row has no variance.
    run = vaeppl.fit(deep, binary(21), epochs=30, lr=0.01, batch_size=10, progress=False)
    assert run.history["elbo"].iloc[-1] > run.history["elbo"].iloc[0]
    data = binary(21)
    alone = run.encode({"x": data["x"][:1]})
    together = run.encode(data)
    assert all(torch.allclose(alone[s], together[s][:1], atol=1e-5) for s in ("z1", "z2"))
    report = run.evidence(data, num_particles=100)
    assert (report.rows["log_evidence"] >= report.rows["elbo"] - 1e-6).all()


def test_three_layers_learn_and_tell_which_units_are_in_use():
    digits = vaeppl.data.load("digits").split(seed=0)
    binomial = likelihoods.Binomial(16)
    deep = HierarchicalVAE(64, (8, 4, 2), inference="ladder", likelihood=binomial, hidden=(32,))
    annealed = vaeppl.training.schedules.Linear(0.0, 1.0, share=0.5)
    run = vaeppl.fit(deep, digits, epochs=6, lr=5e-3, kl_weight=annealed, progress=False)
    units = run.active_units(digits.test).groupby("site")["active"].agg(["sum", "size"])
    assert units["size"].to_dict() == {"z1": 8, "z2": 4, "z3": 2}
    assert units.loc["z1", "sum"] >= 4
    assert "z3" in repr(run.elbo(digits.test)) and "z1" in repr(run.elbo(digits.test))
    assert run.sample(3)["z3"].shape == (3, 2)


def test_each_layer_has_the_hidden_layers_asked_for():
    deep = HierarchicalVAE(784, (100, 50), hidden=((200, 150), (100, 80)), activation="tanh")
    shapes = [
        [tuple(p.shape) for p in net.parameters() if p.ndim == 2]
        for net in (*deep.encoders, *deep.decoders)
    ]
    assert shapes == [
        [(200, 784), (150, 200)],
        [(100, 100), (80, 100)],
        [(150, 100), (200, 150), (784, 200)],
        [(80, 50), (100, 80)],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inference": "top_down"}, "unknown inference 'top_down'"),
        ({"inference": "ladder", "guide_family": "flow"}, "guide_family='diagonal'"),
        ({"latent_dims": 5}, "the size of each layer"),
        ({"latent_dims": ()}, "the size of each layer"),
        ({"latent_dims": (0, 3)}, "the size of each layer"),
        ({"hidden": ((8,), (8,), (8,))}, "one for each of the 2 layers"),
        ({"norm": "bath"}, "did you mean 'batch'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        HierarchicalVAE(**{"x_dim": 6, "latent_dims": (3, 2), **arguments})
