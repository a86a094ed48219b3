"""What every model of the zoo must do, written once."""

import math

import pyro
import pyro.poutine as poutine
import pytest
import torch

import vaeppl
import vaeppl.strata
from vaeppl import likelihoods, priors
from vaeppl.catalogue import entries
from vaeppl.errors import StoryError
from vaeppl.estimators.elbo import is_beside_the_story, sample_sites
from vaeppl.models import (
    CVAE,
    GPVAE,
    ICA,
    M1,
    M1M2,
    M2,
    PPCA,
    SCANVI,
    SCVI,
    VAE,
    AutoEncoder,
    BetaVAE,
    ExactGPVAE,
    FactorAnalysis,
    HierarchicalVAE,
    M2Gumbel,
    NoisyOR,
    Regression,
    SparseCoding,
)
from vaeppl.pair import Pair
from vaeppl.reading.tracing import is_variable, latents


def small_models():
    """Return one or more small models of each entry of the catalogue, with rows of data."""
    binary = {"x": (torch.rand(24, 6) < 0.4).float()}
    real = {"x": torch.randn(24, 6)}
    counts = {"x": torch.poisson(3 * torch.rand(24, 6))}
    mixed = likelihoods.Mixed(
        [(2, likelihoods.Normal()), (1, likelihoods.Categorical(3)), (3, likelihoods.Poisson())]
    )
    table = torch.cat([torch.randn(24, 2), torch.arange(24)[:, None] % 3, counts["x"][:, :3]], 1)
    small = {"hidden": (8,)}
    yield "vae", VAE(6, 2, **small), binary
    yield "beta_vae", BetaVAE(6, 2, **small), binary
    for name in ("full_rank", "flow"):
        yield f"vae-{name}", VAE(6, 2, guide_family=name, **small), binary
    for name, data in (
        ("continuous_bernoulli", {"x": torch.rand(24, 6)}),
        ("normal", real),
        ("student_t", real),
        ("poisson", counts),
        ("negative_binomial", counts),
    ):
        yield f"vae-{name}", VAE(6, 2, likelihood=likelihoods.get(name), **small), data
    yield "vae-mixed", VAE(6, 2, likelihood=mixed, **small), {"x": table}
    for name in priors.available():
        yield f"vae-{name}-prior", VAE(6, 2, prior=priors.get(name), **small), binary

    pairs = {"x": torch.randn(24, 3), "y": binary["x"]}
    yield "cvae", CVAE(3, 6, 2, **small), pairs
    yield "cvae-standard-prior", CVAE(3, 6, 2, learnt_prior=False, **small), pairs
    labelled = {"x": torch.arange(24) % 3, "y": real["x"]}
    label = likelihoods.Categorical(3)
    normal = likelihoods.Normal("predicted")
    yield "cvae-label", CVAE(1, 6, 2, likelihood=normal, condition=label, **small), labelled
    yield "regression", Regression(3, 6, **small), pairs

    yield "m1", M1(6, 2, **small), binary
    some = {**binary, "y": torch.arange(24) % 4 - 1}
    for kind, rows in (("some", some), ("all", {**binary, "y": torch.arange(24) % 3})):
        yield f"m2-{kind}-labels", M2(6, 3, 2, **small), rows
        yield f"m2_gumbel-{kind}-labels", M2Gumbel(6, 3, 2, **small), rows
        yield f"m1m2-{kind}-labels", M1M2(6, 3, 2, 4, feature_hidden=(8,), **small), rows

    cells = {"x": counts["x"] + 1}
    batches = {**cells, "batch": torch.arange(24) % 3}
    factors = {"categorical": torch.arange(48).view(24, 2) % 2, "continuous": torch.randn(24, 1)}
    yield "scvi", SCVI.for_data(cells, latent_dim=2, **small), cells
    for options in (
        {"likelihood": "nb", "dispersion": "gene-cell"},
        {"likelihood": "poisson", "library": "observed"},
        {"dispersion": "gene-batch", "theta_prior": (0.0, 1.0)},
    ):
        data = {**batches, **factors}
        name = "-".join(map(str, options.values()))
        yield f"scvi-{name}", SCVI.for_data(data, latent_dim=2, **options, **small), data
    for kind, labels in (("some", some["y"]), ("all", torch.arange(24) % 3)):
        typed = {**batches, "y": labels}
        yield f"scanvi-{kind}-labels", SCANVI.for_data(typed, latent_dim=2, **small), typed

    for inference in ("bottom_up", "ladder"):
        deep = HierarchicalVAE(6, (4, 3, 2), inference=inference, norm="layer", **small)
        yield f"hierarchical_vae-{inference}", deep, binary
    codes = {"prior": "normal", **small}
    yield "autoencoder", AutoEncoder(6, 2, **codes), binary
    yield "autoencoder-tied", AutoEncoder(6, 2, tied=True, **codes), binary
    noisy = {"corruption": "salt_and_pepper", "walkback": 3}
    yield "autoencoder-denoising", AutoEncoder(6, 2, **noisy, **codes), binary
    yield "noisy_or", NoisyOR(6, 3), binary
    yield "noisy_or-amortised", NoisyOR(6, 3, inference="amortised", **small), binary
    yield "ppca", PPCA(6, 2), real
    yield "factor_analysis", FactorAnalysis(6, 2), real
    yield "ica", ICA(6), real
    yield "sparse_coding", SparseCoding(6, 9, learn_noise=True), real

    timed = {**real, "time": torch.linspace(0, 1, 24), "object": torch.arange(24) % 3}
    table = vaeppl.gp.Table(3, 2)
    kernel = vaeppl.gp.On("time", "rbf", lengthscale=0.3) * vaeppl.gp.On(
        "object", "linear", features=table
    )
    for name, cls in (("gpvae", GPVAE), ("gpvae_exact", ExactGPVAE)):
        yield name, cls.for_data(timed, kernel=kernel, latent_dim=2, num_inducing=5, **small), timed


def target(model, data):
    """Return the column that a model predicts, and the condition under which it does so."""
    if model.partly_observed or "y" not in data:
        return "x", {c: data[c] for c in model.columns if c in data and c not in ("x", "y")}
    return "y", {"x": data["x"]}


def readable(model, data):
    """Return the story with its rows apart, where they depend on each other."""
    return model.rows_apart(data) if model.couples_rows else model


def parts(model, data):
    """Return the data as a story takes them: rows without a label apart, and without the column."""
    pair, data = Pair(model), vaeppl.data.Data(data)
    apart = vaeppl.strata.strata(pair, data)
    return [data.columns(*s.columns).take(s.rows) for s in apart]


torch.manual_seed(0)
MODELS = {name: (model, data) for name, model, data in small_models()}
pytestmark = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def own_param_store():
    """Plain Pyro, which some of these tests use, fills the global store."""
    with pyro.get_param_store().scope():
        yield


def test_every_entry_of_the_catalogue_is_covered(name):
    assert {entry.name for entry in entries()} <= {key.split("-")[0] for key in MODELS}


def test_sites_match_and_bear_the_names_of_columns(name):
    model, data = MODELS[name]
    for columns in parts(model, data):
        guide = poutine.trace(model.guide).get_trace(**columns)
        trace = poutine.trace(poutine.replay(model.model, trace=guide)).get_trace(**columns)
        sites = [s for s in sample_sites(trace) if is_variable(s) and not is_beside_the_story(s)]
        observed = {s["name"] for s in sites if s["is_observed"]}
        latent = {s["name"] for s in latents(guide)}
        assert observed <= set(model.columns)
        assert latent == {s["name"] for s in sites} - observed
        assert all(trace.nodes[n]["cond_indep_stack"] for n in observed)


def test_rows_do_not_leak_into_each_other(name):
    model, data = MODELS[name]
    pair = Pair(readable(model, data))

    def log_prob(columns):
        with pair.active(), torch.no_grad():
            torch.manual_seed(0)
            guide = poutine.trace(pair.guide).get_trace(**columns)
            trace = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(**columns)
            trace.compute_log_prob()
            sites = [s for s in trace.nodes.values() if s["type"] == "sample"]
            return sum(s["log_prob"] for s in sites if s["cond_indep_stack"])

    for columns in parts(model, data):
        other = {c: torch.cat([v[:-1], v[:1]]) for c, v in columns.items()}
        first, second = log_prob(columns), log_prob(other)
        assert torch.allclose(first[:-1], second[:-1], atol=1e-5)


def test_gradients_are_finite_and_reach_every_parameter(name):
    model, data = MODELS[name]
    pair = Pair(model)
    elbo = vaeppl.estimators.ELBO(num_particles=2)
    with pair.active(100):
        for columns in parts(model, data):
            elbo.differentiable_loss(pair.model, pair.guide, **columns).backward()
    for parameter_name, parameter in pair.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        parameter.grad = None


def test_sampling_scoring_and_reading_have_the_right_shapes(name):
    model, data = MODELS[name]
    column, given = target(model, data)
    draws = vaeppl.sample(model, 7, given={c: v[:7] for c, v in given.items()} or None)
    assert draws[column].shape == (7, 6)
    model = readable(model, data)
    assert vaeppl.reconstruct(model, data)[column].shape == (24, 6)
    assert vaeppl.posterior_predictive(model, data, num_samples=2)[column].shape == (2, 24, 6)
    encoded = vaeppl.encode(model, data)
    assert all(v.shape[0] == 24 and v.isfinite().all() for v in encoded.values())


def test_draws_from_the_model_are_data_that_it_accepts(name):
    model, data = MODELS[name]
    column, given = target(model, data)
    drawn = vaeppl.sample(model, 24, given=given or None)[column]
    drawn_data = vaeppl.data.Data({**data, **given, column: drawn})
    vaeppl.checks.check(Pair(model), drawn_data, to_fit=False)


def test_nothing_is_found_wrong_with_it(name):
    model, data = MODELS[name]
    drawn = name == "noisy_or-amortised"  # its causes have no path, which the default would note
    report = vaeppl.check(model, data, estimator="score_function" if drawn else "elbo")
    assert report.ok, str(report)


def test_a_guide_can_be_made_from_its_story_alone(name):
    model, data = MODELS[name]
    if model.couples_rows:
        with pytest.raises(vaeppl.errors.StoryError, match="whose rows stand apart"):
            vaeppl.guides.AutoAmortizedGuide(model, data)
        return
    guide = vaeppl.guides.AutoAmortizedGuide(model, data, hidden=(8,))
    assert math.isfinite(vaeppl.elbo(model, data, guide=guide).mean)


def test_the_evidence_lies_above_the_elbo(name):
    model, data = MODELS[name]
    if isinstance(model, AutoEncoder):  # its guide has no density, and it no evidence
        with pytest.raises(StoryError, match="sets 'z' to a point"):
            vaeppl.evidence(model, data)
        return
    model = readable(model, data)
    report = vaeppl.evidence(model, data, num_particles=200)
    assert (report.rows["log_evidence"] >= report.rows["elbo"] - 1e-6).all()
    bound = vaeppl.elbo(model, data, num_particles=200)
    assert report.rows["elbo"].mean() == pytest.approx(bound.mean, abs=0.5)
    assert (report.rows["elbo"] - bound.rows["elbo"]).abs().max() < 3  # row by row, in order
    assert math.isclose(bound.mean, bound.reconstruction - bound.kl, abs_tol=1e-4)


def test_a_fit_saves_and_loads(name, tmp_path):
    model, data = MODELS[name]
    size = 24 if model.couples_rows else 10
    fit = vaeppl.fit(model, data, epochs=1, batch_size=size, progress=False, out=tmp_path / "run")
    again = vaeppl.load(tmp_path / "run")
    column, given = target(model, data)
    options = {"given": given or None, "data": data}
    ours, theirs = (f.sample(24, **options)[column] for f in (fit, again))
    assert torch.equal(ours, theirs)
    assert again.history.equals(fit.history) or again.history.round(6).equals(fit.history.round(6))
    assert dict(pyro.get_param_store().items()) == {}


def test_plain_pyro_can_fit_it(name):
    model, data = MODELS[name]
    summed = vaeppl.checks.check(Pair(model), vaeppl.data.Data(data)).enumerated
    elbo = pyro.infer.TraceEnum_ELBO() if summed else pyro.infer.Trace_ELBO()
    elbo.strict_enumeration_warning = False  # labelled rows have nothing to sum out
    svi = pyro.infer.SVI(model.model, model.guide, pyro.optim.Adam({"lr": 1e-3}), elbo)
    for columns in parts(model, data):
        assert math.isfinite(svi.step(**columns))
