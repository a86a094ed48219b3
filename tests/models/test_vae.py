"""The VAE: its arguments, and edits of its story worked out in full."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import vaeppl
from vaeppl import guides, likelihoods, priors, rows
from vaeppl.models import VAE
from vaeppl.nets import ConvDecoder, ConvEncoder


def binary(n=60, d=6):
    return {"x": (torch.rand(n, d, generator=torch.Generator().manual_seed(0)) < 0.4).float()}


def fit(model, data, **kwargs):
    return vaeppl.fit(model, data, **{"epochs": 2, "progress": False, **kwargs})


class TestArguments:
    def test_convolutional_networks(self):
        vae = VAE(
            48,
            3,
            encoder=ConvEncoder((6, 8), 16, channels=(4, 8)),
            decoder=ConvDecoder(3, (6, 8), channels=(8, 4)),
        )
        run = fit(vae, binary(20, 48))
        assert run.evidence(binary(20, 48), num_particles=10).rows.shape == (20, 5)

    def test_networks_of_any_sequence_of_layers(self):
        vae = VAE(6, 2, encoder=nn.Sequential(nn.Linear(6, 5), nn.Tanh()), decoder=nn.Linear(2, 6))
        assert fit(vae, binary()).sample(3)["x"].shape == (3, 6)

    def test_two_hidden_layers_are_mirrored(self):
        vae = VAE(784, 50, hidden=(200, 100))
        encoder = [tuple(p.shape) for p in vae.encoder.parameters() if p.ndim == 2]
        decoder = [tuple(p.shape) for p in vae.decoder.parameters() if p.ndim == 2]
        assert encoder == [(200, 784), (100, 200)]
        assert decoder == [(100, 50), (200, 100), (784, 200)]

    def test_a_family_of_guides_of_ones_own(self):
        class Shared(guides.Family):
            """q(z | h) = N(m(h), s²) with one scale for all rows."""

            def make_parameters(self, in_dim, latent_dim):
                self.head = nn.Linear(in_dim, latent_dim)
                self.log_scale = nn.Parameter(torch.zeros(latent_dim))

            def forward(self, h):
                return dist.Normal(self.head(h), self.log_scale.exp()).to_event(1)

        assert fit(VAE(6, 2, guide_family=Shared()), binary()).stopped == "finished"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"guide_family": "diagnal"}, "did you mean 'diagonal'"),
            ({"activation": "rely"}, "did you mean 'relu'"),
            ({"latent_dim": 0}, "at least one dimension"),
            ({"hidden": (0,)}, "at least one unit"),
            ({"x_dim": 0}, "at least one column"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            VAE(**{"x_dim": 6, **arguments})


class VampVAE(VAE):
    """VAE with a VampPrior (Tomczak & Welling 2018): p(z) = 1/K Σ_k q(z | u_k), u_k learnt."""

    def __init__(self, x_dim, latent_dim=10, *, components=5, **arguments):
        super().__init__(x_dim, latent_dim, **arguments)
        self.pseudo_inputs = nn.Parameter(torch.randn(components, x_dim))

    def vamp_prior(self):
        q = self.q(self.encoder(self.pseudo_inputs.sigmoid()))
        return dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros(len(q.mean))), q)

    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.vamp_prior())
            pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)


class Scaled(VAE):
    """A VAE whose noise has one scale with a prior, shared by all rows."""

    def model(self, x=None):
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        with rows(x):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", dist.Normal(self.decoder(z), sigma).to_event(1), obs=x)

    def guide(self, x):
        loc = pyro.param("loc", torch.tensor(-1.0))
        pyro.sample("sigma", dist.LogNormal(loc, 0.02))
        with rows(x):
            pyro.sample("z", self.q(self.encoder(x)))


class BayesianDecoder(VAE):
    """A VAE whose linear decoder has a prior, by Pyro's own PyroSample."""

    def __init__(self, x_dim, latent_dim):
        super().__init__(x_dim, latent_dim, hidden=(8,))
        layer = pyro.nn.PyroModule[nn.Linear](latent_dim, x_dim)
        layer.weight = pyro.nn.PyroSample(
            dist.Normal(torch.zeros(x_dim, latent_dim), 1.0).to_event(2)
        )
        self.decoder = layer
        self.loc = nn.Parameter(torch.zeros(x_dim, latent_dim))

    def model(self, x=None):
        _ = self.decoder.weight  # drawn here, outside the plate of rows
        super().model(x)

    def guide(self, x):
        pyro.sample("decoder.weight", dist.Normal(self.loc, 0.1).to_event(2))
        super().guide(x)


class TestEdits:
    def test_every_prior_of_the_library_fits(self):
        for name in priors.available():
            run = fit(VAE(6, 2, prior=priors.get(name), hidden=(8,)), binary(), epochs=20, lr=0.02)
            assert run.history["elbo"].iloc[-1] > run.history["elbo"].iloc[0]

    def test_vamp_prior(self):
        vae = VampVAE(6, 2, hidden=(8,))
        z = torch.randn(4, 2)
        q = vae.q(vae.encoder(vae.pseudo_inputs.sigmoid()))
        by_hand = q.log_prob(z[:, None]).logsumexp(-1) - math.log(5)
        assert torch.allclose(vae.vamp_prior().log_prob(z), by_hand, atol=1e-6)
        run = fit(vae, binary(), epochs=40, lr=0.02)
        assert run.history["elbo"].iloc[-1] > run.history["elbo"].iloc[0]
        assert run.sample(3)["z"].shape == (3, 2)

    def test_a_global_scale_finds_the_noise_of_the_data(self):
        noise = 0.5
        g = torch.Generator().manual_seed(0)
        x = torch.randn(400, 1, generator=g) @ torch.tensor([[2.0, -1.0, 1.0, 0.5, 1.5]])
        x = x + noise * torch.randn(400, 5, generator=g)
        vae = Scaled(5, 1, likelihood=likelihoods.Normal(1.0), hidden=())
        run = fit(vae, {"x": x}, epochs=250, lr=0.05, lr_schedule="cosine", batch_size=100)
        assert math.exp(run.pair.state_dict()["stored.loc"]) == pytest.approx(noise, rel=0.1)
        assert (run.history["global"] < 0).all()
        draws = run.sample(5)
        assert draws["sigma"].shape == ()
        assert float(draws["sigma"]) == pytest.approx(noise, rel=0.2)

    def test_a_bayesian_decoder(self):
        run = fit(BayesianDecoder(6, 2), binary(), epochs=60, lr=0.02, batch_size=20)
        assert run.history["elbo"].iloc[-1] > run.history["elbo"].iloc[0]
        assert run.sample(4)["decoder.weight"].shape == (6, 2)
        # A linear layer takes one matrix of weights, so the draws are taken one after another.
        with pytest.warns(UserWarning, match="one after another"):
            report = run.evidence(binary(), num_particles=50)
        assert report.rows["log_evidence"].notna().all()
