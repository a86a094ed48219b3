"""The Gaussian-process prior VAE against dense formulas and GPyTorch's exact process."""

import math

import gpytorch
import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from torch.distributions import MultivariateNormal, kl_divergence

import vaeppl
from vaeppl import gp
from vaeppl.data import Data
from vaeppl.errors import ColumnError, StoryError
from vaeppl.estimators import ELBO
from vaeppl.likelihoods import Normal
from vaeppl.models import GPVAE, VAE, ExactGPVAE
from vaeppl.pair import Pair

pytestmark = pytest.mark.usefixtures("double")
N, L, D = 40, 3, 5
VIEWS = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)


@pytest.fixture(autouse=True)
def own_param_store():
    """Plain Pyro, which some of these tests use, fills the global store."""
    with pyro.get_param_store().scope():
        yield


def columns(n=N, seed=0):
    g = torch.Generator().manual_seed(seed)
    objects = torch.randn(6, 2, generator=g, dtype=torch.float64)
    return {
        "x": torch.randn(n, D, generator=g, dtype=torch.float64),
        "angle": VIEWS[torch.randint(8, (n,), generator=g)],
        "features": objects[torch.randint(6, (n,), generator=g)],
    }


def kernel(**options):
    view = gp.On("angle", "periodic", period_length=2 * math.pi, fixed=["period_length"], **options)
    return view * gp.On("features", "linear")


def story(cls, w, **options):
    options = {
        "kernel": kernel(),
        "latent_dim": L,
        "hidden": (7,),
        "likelihood": Normal(0.3),
    } | options
    torch.manual_seed(1)
    return cls.for_data(w, **options)


def dense(model, w):
    """K + αI between all rows."""
    inputs = gp.matrix(model.kernel, w)
    return (gp.covariance(model.kernel, inputs) + model.alpha * torch.eye(len(inputs))).detach()


def moments(model, x):
    q = model.q_z(x)
    return q.mean.detach(), q.stddev.detach()


def dense_kl(model, w, k=None):
    m, s = moments(model, w["x"])
    k = dense(model, w) if k is None else k
    q = MultivariateNormal(m.mT, torch.diag_embed(s.mT**2))
    return kl_divergence(q, MultivariateNormal(torch.zeros(len(m)), k)).sum()


def report(model, w, full=None, seed=3, **options):
    pair, elbo = Pair(model), ELBO(**options)
    with pair.active(full), torch.no_grad():
        torch.manual_seed(seed)
        elbo.differentiable_loss(pair.model, pair.guide, **w)
        torch.manual_seed(seed)
        trace = poutine.trace(pair.guide).get_trace(**w)
    return elbo, trace


# --- the terms of the bound ---


def test_the_exact_bound_is_the_dense_formula():
    w = columns()
    model = story(ExactGPVAE, w)
    elbo, trace = report(model, w)
    assert float(elbo.report["kl"]) == pytest.approx(float(dense_kl(model, w)), rel=1e-8)
    z = trace.nodes["z"]["value"].mT
    scored = dist.Normal(model.decoder(z).detach(), 0.3).log_prob(w["x"]).sum()
    assert float(elbo.report["reconstruction"]) == pytest.approx(float(scored), abs=1e-8)
    m, s = moments(model, w["x"])
    torch.manual_seed(3)
    assert torch.allclose(z, m + s * torch.randn(L, N).mT, atol=1e-12)


def test_pyros_own_estimator_finds_the_closed_form():
    w = columns()
    model = story(ExactGPVAE, w)
    elbo, _ = report(model, w)
    torch.manual_seed(3)
    model.eval()  # or Pyro warns that it does not store what is fixed
    theirs = pyro.infer.TraceMeanField_ELBO().loss(model.model, model.guide, **w)
    assert -theirs == pytest.approx(float(elbo.report["elbo"]), abs=1e-7)


def test_above_800_rows_nothing_is_approximated():
    w = columns(900)
    model = story(ExactGPVAE, w)
    elbo, _ = report(model, w)
    assert float(elbo.report["kl"]) == pytest.approx(float(dense_kl(model, w)), rel=1e-8)


def test_rows_go_through_the_networks_in_parts_without_a_change():
    w = columns()
    found = []
    for rows_at_once in (512, 7):
        model = story(ExactGPVAE, w, rows_at_once=rows_at_once)
        pair = Pair(model)
        with pair.active(N):
            torch.manual_seed(0)
            ELBO().differentiable_loss(pair.model, pair.guide, **w).backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    whole, parts = found
    assert all(torch.allclose(whole[n], parts[n], atol=1e-9) for n in whole)


@pytest.mark.parametrize("batch_shape", [(), (L,)])
def test_features_are_made_in_parts_without_a_change(batch_shape, monkeypatch):
    w, found = columns(), []
    options = {"batch_shape": list(batch_shape)} if batch_shape else {}
    for rows in (8192, 9):
        monkeypatch.setattr("vaeppl.models.gpvae.PART", rows)
        model = story(ExactGPVAE, w, kernel=kernel(**options))
        pair = Pair(model)
        with pair.active(N):
            torch.manual_seed(0)
            ELBO().differentiable_loss(pair.model, pair.guide, **w).backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
        v, d = model.features({c: w[c] for c in model.given_columns})
        assert v.shape == (*batch_shape, N, 16) and d.shape == (*batch_shape, N)
    whole, parts = found
    assert all(torch.allclose(whole[n], parts[n], atol=1e-9) for n in whole)


def value(tensor):
    return float(tensor.detach())


def weight_bound(model, w):
    """KL terms of the bound in weight space, with the expectation over q(u) in closed form."""
    v, d = model.features(w)
    m, s = moments(model, w["x"])
    q = model.q_u().base_dist
    kl_u = kl_divergence(q, MultivariateNormal(torch.zeros(v.shape[1]), torch.eye(v.shape[1])))
    loc = v @ q.loc.mT
    spread = torch.einsum("nh,lhk,nk->nl", v, q.covariance_matrix, v)
    d = d.unsqueeze(-1)
    kl_z = 0.5 * ((s**2 + (m - loc) ** 2 + spread) / d - 1 - (s**2 / d).log())
    return kl_u.sum() + kl_z.sum()


def test_the_bound_in_weight_space_is_the_dense_formula_given_the_weights():
    w = columns()
    model = story(GPVAE, w)
    model.warm_start(w)
    elbo, trace = report(model, w)
    u = trace.nodes["u"]["value"]
    v, d = (t.detach() for t in model.features(w))
    m, s = moments(model, w["x"])
    given_u = dist.Normal(v @ u.mT, d.sqrt().unsqueeze(-1))
    kl_z = kl_divergence(dist.Normal(m, s), given_u).sum()
    q = model.q_u.to(u).requires_grad_(False)().base_dist
    prior = MultivariateNormal(torch.zeros_like(q.loc), torch.eye(q.loc.shape[1]))
    assert float(elbo.site_kl["z"]) == pytest.approx(float(kl_z), abs=1e-8)
    assert float(elbo.site_kl["u"]) == pytest.approx(float(kl_divergence(q, prior).sum()), abs=1e-8)


def test_the_bounds_of_the_two_routes_differ_by_what_a_q_of_u_alone_costs():
    # KL_weights - KL_exact = E_q(Z) KL(q(u) || p(u | Z)), which is ½ tr(S⁻¹ Cov M Z) at the best q.
    w = columns()
    exact = story(ExactGPVAE, w)
    apart = exact.rows_apart(w)
    v, d = exact.features(w)
    _, s = moments(exact, w["x"])
    over = v / d.unsqueeze(-1)
    covariance = torch.linalg.inv(torch.eye(v.shape[1]) + over.mT @ v)
    gap = sum(
        0.5 * torch.trace(covariance @ over.mT @ (s[:, i : i + 1] ** 2 * over)) for i in range(L)
    )
    assert value(weight_bound(apart, w)) == pytest.approx(value(dense_kl(exact, w) + gap), abs=1e-6)
    # It is the best: any step away raises it.
    best = value(weight_bound(apart, w))
    for p in apart.q_u.parameters():
        kept = p.data.clone()
        p.data.add_(0.01 * torch.randn_like(p).tril(0 if p.ndim == 3 else p.ndim))
        assert value(weight_bound(apart, w)) > best
        p.data.copy_(kept)
    gradients = torch.autograd.grad(weight_bound(apart, w), list(apart.q_u.parameters()))
    assert all(g.abs().max() < 1e-4 for g in gradients)


def test_the_bounds_agree_where_the_encoder_is_certain():
    # With q(Z) a point mass the cost of the gap is nil, but for the entropy, which both have.
    w = columns()
    exact = story(ExactGPVAE, w)
    with torch.no_grad():
        exact.q.head.weight[L:] = 0
        exact.q.head.bias[L:] = -18.0  # softplus and floor: 1e-4
    apart = exact.rows_apart(w)
    assert value(weight_bound(apart, w)) == pytest.approx(float(dense_kl(exact, w)), abs=1e-4)


def test_the_routes_agree_with_the_full_process_on_features_of_full_rank():
    # As many points as rows: V Vᵀ is K itself, whatever the kernel.
    w = {"x": torch.randn(20, D), "time": torch.rand(20)}
    options = {"kernel": gp.On("time", "matern", nu=0.5, lengthscale=0.3), "num_inducing": 20}
    exact = story(ExactGPVAE, w, **options)
    assert exact.rank == 20
    elbo, _ = report(exact, w)
    assert float(elbo.report["kl"]) == pytest.approx(float(dense_kl(exact, w)), abs=1e-6)
    new = {"time": torch.linspace(-0.2, 1.2, 9)}
    k = dense(exact, w)
    m, s = moments(exact, w["x"])
    inputs = gp.matrix(exact.kernel, w)
    across = gp.covariance(exact.kernel, gp.matrix(exact.kernel, new), inputs)
    gain = across @ torch.linalg.inv(k)
    variance = 1 + exact.alpha - (gain * across).sum(-1)
    variance = variance.unsqueeze(-1) + gain.square() @ s.square()
    for model in (exact, exact.rows_apart(w)):
        found = gp.predict(model, new, data=w)
        assert torch.allclose(found.z_mean, gain @ m, atol=1e-7)
        assert torch.allclose(found.z_sd.square(), variance, atol=1e-7)


# --- minibatches ---


def test_a_bound_of_minibatches_is_unbiased():
    # Given the same u and z, log p - log q of the batches of a partition averages to that of all.
    w = columns()
    model = story(GPVAE, w)
    model.warm_start(w)
    pair = Pair(model)

    def log_ratio(batch, values, full):
        with pair.active(full), torch.no_grad():
            guide = poutine.condition(pair.guide, data=values)
            story_ = poutine.condition(pair.model, data=values)
            traces = [poutine.trace(f).get_trace(**batch) for f in (story_, guide)]
            return traces[0].log_prob_sum() - traces[1].log_prob_sum()

    with pair.active(N), torch.no_grad():
        trace = poutine.trace(pair.guide).get_trace(**w)
    u, z = trace.nodes["u"]["value"], trace.nodes["z"]["value"]
    whole = log_ratio(w, {"u": u, "z": z}, N)
    parts = [
        log_ratio({c: v[i] for c, v in w.items()}, {"u": u, "z": z[i]}, N)
        for i in torch.randperm(N).split(8)
    ]
    assert float(torch.stack(parts).mean()) == pytest.approx(float(whole), abs=1e-8)


def test_the_gradient_of_minibatches_is_unbiased():
    w = columns()
    model = story(GPVAE, w)
    with torch.no_grad():
        model.q.head.weight[L:] = 0
        model.q.head.bias[L:] = -30.0
        model.q_u.raw.diagonal(dim1=-2, dim2=-1).fill_(-30.0)  # draws are means, to 1e-5
    pair = Pair(model)

    def gradient(batch):
        model.zero_grad()
        with pair.active(N):
            ELBO().differentiable_loss(pair.model, pair.guide, **batch).backward()
        return [p.grad.clone() for p in (model.q_u.loc, *model.decoder.parameters())]

    whole = gradient(w)
    parts = [gradient({c: v[i] for c, v in w.items()}) for i in torch.randperm(N).split(10)]
    for mean, exact in zip(zip(*parts, strict=True), whole, strict=True):
        scale = float(exact.abs().max())
        assert torch.allclose(torch.stack(mean).mean(0), exact, atol=0.02 * scale)


# --- a linear decoder: GPyTorch's exact process ---


class OneProcess(gpytorch.models.ExactGP):
    def __init__(self, inputs, targets, likelihood, kernel):
        super().__init__(inputs, targets, likelihood)
        self.mean_module, self.covar_module = gpytorch.means.ZeroMean(), kernel

    def forward(self, inputs):
        return gpytorch.distributions.MultivariateNormal(
            self.mean_module(inputs), self.covar_module(inputs)
        )


def exact_process(inputs, targets, kernel_, noise):
    likelihood = gpytorch.likelihoods.GaussianLikelihood(
        noise_constraint=gpytorch.constraints.GreaterThan(1e-12)
    )
    likelihood.noise = noise
    return OneProcess(inputs, targets, likelihood, kernel_), likelihood


def linear_story(n=60, sigma=0.4):
    """x = w z + b + σ ε with one latent and one column, all hyperparameters away from default."""
    w = {"x": torch.randn(n, 1), "time": torch.rand(n)}
    model = story(
        ExactGPVAE,
        w,
        kernel=gp.On("time", "matern", nu=1.5, lengthscale=0.4),
        num_inducing=n,
        latent_dim=1,
        hidden=(),
        likelihood=Normal(sigma),
        alpha=0.05,
    )
    return model, w, model.decoder.layers[0].weight.item(), model.decoder.layers[0].bias.item()


def test_with_a_linear_decoder_the_evidence_is_that_of_an_exact_process():
    model, w, slope, shift = linear_story()
    noise = slope**2 * value(model.alpha) + 0.4**2
    kernel_ = ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5))
    kernel_.base_kernel.lengthscale, kernel_.outputscale = 0.4, slope**2
    inputs, targets = w["time"].unsqueeze(-1), w["x"].squeeze(-1) - shift
    process, likelihood = exact_process(inputs, targets, kernel_, noise)
    process.train(), likelihood.train()
    marginal = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, process)
    evidence = value(marginal(process(inputs), targets)) * len(inputs)

    # Evidence of the story: log p(x, z) - log p(z | x), the same at any z.
    precision = torch.linalg.inv(dense(model, w)) + slope**2 / 0.4**2 * torch.eye(60)
    mean = torch.linalg.solve(precision, slope / 0.4**2 * targets)
    posterior = MultivariateNormal(mean, precision_matrix=precision)
    for seed in range(3):
        torch.manual_seed(seed)
        z = torch.randn(1, 60)
        joint = poutine.trace(poutine.condition(model.model, data={"z": z})).get_trace(**w)
        found = joint.log_prob_sum() - posterior.log_prob(z).sum()
        assert value(found) == pytest.approx(evidence, abs=1e-5)

    # ELBO = evidence - KL(q || posterior), E_q[log p(x | z)] being known here.
    elbo, _ = report(model, w)
    m, s = moments(model, w["x"])
    scored = dist.Normal(slope * m + shift, 0.4).log_prob(w["x"]).sum()
    expected = scored - (slope * s).square().sum() / (2 * 0.4**2)
    gap = kl_divergence(
        MultivariateNormal(m.squeeze(-1), torch.diag(s.squeeze(-1) ** 2)), posterior
    )
    bound = value(expected - elbo.report["kl"])
    assert bound == pytest.approx(evidence - float(gap), abs=1e-5)


def test_with_a_linear_decoder_predictions_are_those_of_an_exact_process(monkeypatch):
    model, w, slope, shift = linear_story()
    noise = slope**2 * value(model.alpha) + 0.4**2
    kernel_ = ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5))
    kernel_.base_kernel.lengthscale, kernel_.outputscale = 0.4, slope**2
    inputs, targets = w["time"].unsqueeze(-1), w["x"].squeeze(-1) - shift
    process, likelihood = exact_process(inputs, targets, kernel_, noise)
    process.eval(), likelihood.eval()
    new = torch.linspace(-0.3, 1.3, 11)
    with torch.no_grad(), gpytorch.settings.fast_pred_var(False):
        exact = process(new.unsqueeze(-1)).mean

    # The best diagonal q has the exact posterior mean; the process given it predicts exactly.
    precision = torch.linalg.inv(dense(model, w)) + slope**2 / 0.4**2 * torch.eye(60)
    mean = torch.linalg.solve(precision, slope / 0.4**2 * targets)
    best = dist.Normal(mean.unsqueeze(-1), precision.diagonal().rsqrt().unsqueeze(-1)).to_event(1)
    monkeypatch.setattr(type(model), "q_z", lambda self, x: best)
    monkeypatch.setattr(gp.prediction, "ROWS_AT_ONCE", 60)
    found = gp.predict(model, {"time": new}, data=w)
    # Beyond the data the inducing points, which are the rows, do not span the kernel's variance,
    # but the mean given the rows is exact all the same.
    assert torch.allclose(found.x_mean.squeeze(-1) - shift, exact, atol=1e-6)


def test_predictions_for_fixed_latents_are_gpytorchs():
    w = columns(900)
    model = story(GPVAE, w)
    with torch.no_grad():
        model.q.head.weight[L:] = 0
        model.q.head.bias[L:] = -30.0
    z = moments(model, w["x"])[0]
    inputs = gp.matrix(model.kernel, w)
    new = columns(30, seed=9)
    found = gp.predict(model, new, data=w)
    for i in range(L):
        process, likelihood = exact_process(inputs, z[:, i], model.kernel, value(model.alpha))
        process.eval(), likelihood.eval()
        with (
            torch.no_grad(),
            gpytorch.settings.max_cholesky_size(10_000),
            gpytorch.settings.fast_computations(False, False, False),
        ):
            exact = likelihood(process(gp.matrix(model.kernel, new)))
        assert torch.allclose(found.z_mean[:, i], exact.mean, atol=1e-5)
        assert torch.allclose(found.z_sd[:, i].square(), exact.variance, atol=1e-5)


def test_draws_of_a_prediction_have_its_moments():
    w = columns()
    model = story(GPVAE, w)
    found = gp.predict(model, columns(6, seed=4), data=w, num_samples=4000)
    assert found.z.shape == (4000, 6, L) and found.x.shape == found.x_given_z.shape == (4000, 6, D)
    assert torch.allclose(found.z.mean(0), found.z_mean, atol=0.1 * float(found.z_sd.max()))
    assert torch.allclose(found.z.std(0), found.z_sd, rtol=0.1)
    again = gp.predict(model, columns(6, seed=4), data=w, num_samples=4000)
    assert torch.equal(found.x, again.x)


def test_an_interval_is_that_of_the_normal_where_all_is_normal(monkeypatch):
    model, w, slope, shift = linear_story()
    found = gp.predict(model, {"time": torch.linspace(0, 3, 5)}, data=w, num_samples=40_000)
    mean, sd = slope * found.z_mean + shift, (slope**2 * found.z_sd**2 + 0.4**2).sqrt()
    for level, width in ((0.9, 1.644854), (0.5, 0.674490)):
        lower, upper = found.interval(level)
        assert torch.allclose(lower, mean - width * sd, atol=0.03)
        assert torch.allclose(upper, mean + width * sd, atol=0.03)
    monkeypatch.setattr("vaeppl.gp.prediction.MOST_SORTED", 80_000)  # so: two rows at a time
    assert all(torch.equal(a, b) for a, b in zip(found.interval(0.5), (lower, upper), strict=True))
    with pytest.raises(ValueError, match="level is a probability between 0 and 1; given 90"):
        found.interval(90)
    with pytest.raises(ValueError, match=r"an interval needs draws: gp.predict"):
        gp.predict(model, {"time": torch.zeros(1)}, data=w).interval()


def test_a_kernel_of_each_latent_dimension_is_as_many_processes():
    w = columns()
    lengths = torch.tensor([0.5, 1.0, 2.0]).reshape(L, 1, 1)
    base = RBFKernel(batch_shape=torch.Size([L]))
    base.lengthscale = lengths
    own = gp.On("angle", base) * gp.On("features", "linear")
    for cls in (ExactGPVAE, GPVAE):
        model = story(cls, w, kernel=own)
        model.warm_start(w)
        prediction = gp.predict(model, columns(5, seed=2), data=w)
        for i in range(L):
            single = RBFKernel()
            single.lengthscale = float(lengths[i])
            other = story(cls, w, kernel=gp.On("angle", single) * gp.On("features", "linear"))
            alone = gp.predict(other, columns(5, seed=2), data=w)
            assert torch.allclose(prediction.z_mean[:, i], alone.z_mean[:, i], atol=1e-8)
            assert torch.allclose(prediction.z_sd[:, i], alone.z_sd[:, i], atol=1e-8)
    exact = story(ExactGPVAE, w, kernel=own)
    elbo, _ = report(exact, w)
    m, s = moments(exact, w["x"])
    q = MultivariateNormal(m.mT, torch.diag_embed(s.mT**2))
    dense_kls = kl_divergence(q, MultivariateNormal(torch.zeros(N), dense(exact, w)))
    assert float(elbo.report["kl"]) == pytest.approx(float(dense_kls.sum()), rel=1e-8)


# --- fitting ---


def smooth_data(n=120):
    time = torch.linspace(0, 1, n)
    z = torch.stack([(6 * time).sin(), (9 * time).cos()], -1)
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(2, D, generator=g, dtype=torch.float64)
    return {"x": z @ mix + 0.1 * torch.randn(n, D, generator=g, dtype=torch.float64), "time": time}


@pytest.mark.parametrize(("cls", "batch_size"), [(GPVAE, 30), (ExactGPVAE, 120)])
def test_a_fit_learns_and_predicts_between_rows(cls, batch_size):
    data = smooth_data()
    seen = torch.arange(120) % 3 != 1
    known = {c: v[seen] for c, v in data.items()}
    held = {c: v[~seen] for c, v in data.items()}
    model = story(
        cls, known, kernel=gp.On("time", "rbf", lengthscale=0.1), latent_dim=2, hidden=(),
        likelihood=Normal("learnt"), num_inducing=15,
    )  # fmt: skip
    size = min(batch_size, len(known["x"]))
    epochs = 150 if cls is GPVAE else 400
    fit = vaeppl.fit(
        model, Data(known, dtype=torch.float64), epochs=epochs, batch_size=size, lr=0.02,
        progress=False,
    )  # fmt: skip
    assert fit.history["elbo"].iloc[-1] > fit.history["elbo"].iloc[0] + 5
    found = gp.predict(fit, held)
    error = (found.x_mean - held["x"]).square().mean()
    assert float(error) < 0.03  # the noise alone is 0.01, the variance of the data 1.4


def test_a_story_above_a_vae_starts_where_the_vae_ended():
    data = smooth_data()
    vae = vaeppl.fit(VAE(D, 2, likelihood=Normal(0.3), hidden=(6,)), data, epochs=3, progress=False)
    for frozen in (True, False):
        for cls in (GPVAE, ExactGPVAE):
            above = cls.above(vae, data, kernel=gp.On("time", "rbf"), frozen=frozen)
            x = data["x"].to(torch.get_default_dtype())
            q = vae.model.q(vae.model.encoder(x))
            assert torch.allclose(above.q_z(x).mean, q.mean)
            learnt = {n.split(".")[0] for n, p in above.named_parameters() if p.requires_grad}
            assert ("encoder" in learnt) == (not frozen) and "kernel" in learnt
            before = [p.detach().clone() for p in above.decoder.parameters()]
            size = {"batch_size": 120} if cls is ExactGPVAE else {}
            vaeppl.fit(above, data, epochs=2, progress=False, **size)
            after = list(above.decoder.parameters())
            assert frozen == all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any(p.requires_grad is False for p in vae.model.parameters())


def test_the_closed_form_starts_the_weights_near_their_best():
    data = smooth_data()
    cold = story(GPVAE, data, kernel=gp.On("time", "rbf", lengthscale=0.2), latent_dim=2)
    warm = story(GPVAE, data, kernel=gp.On("time", "rbf", lengthscale=0.2), latent_dim=2)
    warm.warm_start(data)
    assert value(weight_bound(warm, data)) < value(weight_bound(cold, data)) - 1


def test_the_story_with_rows_apart_can_be_read():
    data = smooth_data(30)
    exact = story(ExactGPVAE, data, kernel=gp.On("time", "rbf"), latent_dim=2, num_inducing=6)
    fit = vaeppl.fit(
        exact, Data(data, dtype=torch.float64), batch_size=30, epochs=2, progress=False
    )
    for read in (fit.elbo, fit.evidence, fit.encode, fit.reconstruct, fit.posterior_predictive):
        with pytest.raises(StoryError, match=r"depend on each other.*rows_apart\(data\)"):
            read()
    apart = fit.model.rows_apart(data)
    report_ = vaeppl.evidence(apart, data, num_particles=50)
    assert len(report_.rows) == 30 and (report_.rows["log_evidence"] >= report_.rows["elbo"]).all()
    assert vaeppl.encode(apart, data)["z"].shape == (30, 2)
    assert fit.sample(4, given={"time": data["time"][:4]})["x"].shape == (4, D)


def test_draws_from_the_prior_are_alike_where_the_kernel_says_so():
    time = torch.tensor([0.0, 0.001, 5.0])
    for cls in (GPVAE, ExactGPVAE):
        model = story(
            cls, {"x": torch.zeros(3, D), "time": time}, kernel=gp.On("time", "rbf"), alpha=1e-3
        )
        draws = [vaeppl.sample(model, 3, given={"time": time}, seed=s)["z"] for s in range(300)]
        z = torch.stack([d.mT if cls is ExactGPVAE else d for d in draws])[..., 0]
        r = torch.corrcoef(z.T)
        assert r[0, 1] > 0.98 and abs(float(r[0, 2])) < 0.2


# --- bad input ---


def test_a_kernel_on_a_column_that_is_not_there_is_named():
    w = columns()
    with pytest.raises(ColumnError, match="on column 'time', which the data lack"):
        GPVAE.for_data(w, kernel=gp.On("time", "rbf"))
    model = story(GPVAE, w)
    with pytest.raises(ColumnError, match="the data have no 'angle'"):
        vaeppl.fit(model, {"x": w["x"], "features": w["features"]}, epochs=1)
    with pytest.raises(ColumnError, match="`given` lacks"):
        gp.predict(model, {"angle": w["angle"]}, data=w)
    with pytest.raises(ColumnError, match="no rows to learn from"):
        gp.predict(model, w)
    with pytest.raises(ValueError, match="conditional on 'angle', 'features': pass given="):
        vaeppl.sample(model, 3)
    with pytest.raises(ColumnError, match="nothing for a kernel to be on"):
        GPVAE.for_data({"x": w["x"]})
    with pytest.raises(StoryError, match="the kernel is on 'x', which the story explains"):
        GPVAE.for_data(w, kernel=gp.On("x", "rbf") * gp.On("angle", "rbf"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_kernel_on_values_that_are_missing_names_the_row(value):
    w = columns()
    bad = {**w, "angle": w["angle"].index_fill(0, torch.tensor(3), value)}
    with pytest.raises(ColumnError, match=f"column 'angle' holds {value} at row 3; a kernel on it"):
        GPVAE.for_data(bad, kernel=kernel())
    model = story(GPVAE, w)
    with pytest.raises(ColumnError, match=f"column 'angle' holds {value} at row 3"):
        vaeppl.fit(model, bad, epochs=1, progress=False)
    with pytest.raises(ColumnError, match=f"column 'angle' holds {value} at row 3; a kernel on it"):
        gp.predict(model, bad, data=w)


def test_a_kernel_without_a_batch_shape_serves_all_latents_and_one_of_another_size_is_refused():
    w = columns()
    v, _ = story(GPVAE, w).features({c: w[c] for c in ("angle", "features")})
    assert v.shape == (N, 16)
    with pytest.raises(StoryError, match=r"batch shape \(4,\); give batch_shape=\[3\]"):
        story(GPVAE, w, kernel=kernel(batch_shape=[L + 1]))


def test_what_has_no_process_predicts_nothing():
    w = columns()
    with pytest.raises(StoryError, match="VAE has no Gaussian process to predict with"):
        gp.predict(VAE(D, 2, hidden=(4,)), w, data=w)
    with pytest.raises(ValueError, match="num_samples is the number of draws, 0 or more; given -1"):
        gp.predict(story(GPVAE, w), w, data=w, num_samples=-1)


def test_the_exact_story_takes_all_rows_and_no_others():
    w = columns()
    model = story(ExactGPVAE, w)
    with pytest.raises(StoryError, match="give batch_size=40, not 10; or fit the same story"):
        vaeppl.fit(model, w, epochs=1, batch_size=10, progress=False)
    with pytest.raises(StoryError, match="give valid=False"):
        vaeppl.fit(model, w, epochs=1, batch_size=36, valid=0.1, progress=False)


def test_too_many_rows_for_the_exact_story_are_sent_to_the_other(monkeypatch):
    monkeypatch.setattr("vaeppl.models.gpvae.MOST_NUMBERS", 100)
    w = columns()
    with pytest.raises(StoryError, match=r"40 rows of a kernel of rank 16 .* fit GPVAE"):
        vaeppl.fit(story(ExactGPVAE, w), w, epochs=1, batch_size=N, progress=False)


@pytest.mark.parametrize("alpha", [0.0, -1.0, 1e-9, math.nan])
def test_an_alpha_that_leaves_rows_singular_is_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha is at least 1e-06"):
        story(GPVAE, columns(), alpha=alpha)


@pytest.mark.parametrize("cls", [GPVAE, ExactGPVAE])
@pytest.mark.parametrize("what", ["duplicate rows", "singular features", "tiny alpha", "constant"])
def test_degenerate_processes_keep_finite_gradients(cls, what):
    w = columns()
    options = {}
    if what == "duplicate rows":
        w = {c: torch.cat([v[:20], v[:20]]) for c, v in w.items()}
    elif what == "singular features":
        w["features"] = torch.cat([w["features"], w["features"][:, :1]], -1)
    elif what == "tiny alpha":
        options["alpha"] = 1e-6
    else:
        w["features"] = torch.ones(N, 1)
    model = story(cls, w, **options)
    with torch.no_grad():
        model.log_alpha.sub_(20.0 if what == "tiny alpha" else 0.0)
    model.warm_start(w)
    pair = Pair(model)
    with pair.active(N):
        loss = ELBO().differentiable_loss(pair.model, pair.guide, **w)
        loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    found = gp.predict(model, w, data=w)
    assert found.z_mean.isfinite().all() and (found.z_sd > 0).all()


def test_a_vae_with_another_guide_is_no_start():
    data = smooth_data(20)
    vae = vaeppl.fit(
        VAE(D, 2, likelihood=Normal(), guide_family="full_rank", hidden=(4,)),
        data, epochs=1, progress=False,
    )  # fmt: skip
    other = vaeppl.fit(
        GPVAE.for_data(data, kernel=gp.On("time", "rbf"), latent_dim=2, hidden=(4,)),
        data, epochs=1, progress=False,
    )  # fmt: skip
    for below in (vae, other, VAE(D, 2, hidden=(4,))):
        with pytest.raises(StoryError, match="a fit of VAE with the diagonal guide family"):
            GPVAE.above(below, data, kernel=gp.On("time", "rbf"))


def test_codes_beyond_the_table_are_named_before_the_fit():
    w = {"x": torch.randn(9, D), "object": torch.arange(9)}
    model = story(GPVAE, w, kernel=gp.On("object", "linear", features=gp.Table(5, 2)))
    with pytest.raises(ColumnError, match="the table has 5 levels, the codes run from 0 to 8"):
        vaeppl.fit(model, w, epochs=1, progress=False)


def test_by_default_there_is_a_kernel_on_each_other_column():
    w = {**columns(), "object": torch.arange(N) % 4}
    model = GPVAE.for_data(w, latent_dim=2, hidden=(4,))
    assert model.given_columns == ("angle", "features", "object")
    vaeppl.fit(model, w, epochs=1, progress=False)


def test_a_fit_is_loaded_with_its_kernel(tmp_path):
    w = columns()
    fit = vaeppl.fit(story(GPVAE, w), Data(w, dtype=torch.float64), epochs=1, progress=False)
    again = vaeppl.load(fit.save(tmp_path))
    new = columns(4, seed=3)
    first, second = (gp.predict(f, new, data=w).x_mean for f in (fit, again))
    assert torch.equal(first, second)
