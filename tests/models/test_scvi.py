"""The counts of single cells: the story against formulas by hand, and what it asks of cells."""

import json
import math

import numpy as np
import pyro.poutine as poutine
import pytest
import torch
from scipy import stats
from scipy.special import expit, logsumexp

import vaeppl
import vaeppl.singlecell
from vaeppl.catalogue import build_for, find
from vaeppl.data import Data
from vaeppl.errors import ColumnError
from vaeppl.models import SCANVI, SCVI
from vaeppl.pair import Pair

CELLS, GENES, BATCHES = 7, 5, 3
OPTIONS = {"num_batches": BATCHES, "library_mean": [1.0, 2.0, 3.0], "library_sd": [0.5, 0.6, 0.7]}


@pytest.fixture(autouse=True)
def in_float64():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def cells(**columns):
    """Return a few cells of three batches."""
    noise = torch.Generator().manual_seed(1)
    x = torch.poisson(6 * torch.rand(CELLS, GENES, generator=noise), generator=noise)
    return {"x": x + torch.eye(CELLS)[:, :GENES], "batch": torch.arange(CELLS) % BATCHES, **columns}


def story(cls=SCVI, **options):
    """Return a small story whose parameters are all away from where they start."""
    made = cls(GENES, latent_dim=2, hidden=(4,), dropout=0.0, **{**OPTIONS, **options})
    for name, parameter in made.named_parameters():
        parameter.data += (0.05 if "theta" in name else 0.5) * torch.randn(parameter.shape)
    return made


def traced(model, columns):
    """Return values and log-probabilities of the sites of guide and model on some cells."""
    pair = Pair(model)
    with pair.active(), torch.no_grad():
        guide = poutine.trace(pair.guide).get_trace(**columns)
        trace = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(**columns)
    for each in (guide, trace):
        each.compute_log_prob()
    return guide, trace


def by_hand(model, columns, trace):
    """Write the log joint of each cell in the words of the paper, with NumPy and SciPy."""
    number = {name: p.detach().numpy() for name, p in model.named_parameters()}
    x, batch = columns["x"].numpy(), columns["batch"].numpy()
    z = trace.nodes["z"]["value"].numpy()
    log_l = trace.nodes["log_library"]["value"].numpy()
    s = np.eye(BATCHES)[batch]
    first = "decoder.layers.0."
    joined = np.concatenate([z, s], 1) @ number[first + "weight"].T + number[first + "bias"]
    h = np.maximum(joined, 0)

    def linear(name):
        return h @ number[name + ".weight"].T + number[name + ".bias"]

    w = linear("f_w")
    mu = np.exp(log_l + w - logsumexp(w, axis=1, keepdims=True))
    log_p = stats.norm.logpdf(z).sum(1)
    if model.library == "latent":
        m, v = (np.array(OPTIONS[k])[batch] for k in ("library_mean", "library_sd"))
        log_p += stats.norm.logpdf(log_l[:, 0], m, v)
    if model.kind == "poisson":
        return log_p + stats.poisson.logpmf(x, mu).sum(1)
    theta = np.exp(
        linear("f_theta")
        if model.dispersion == "gene-cell"
        else trace.nodes["log_theta"]["value"].numpy()
        if model.theta_prior
        else 10 * number["log_theta_units"]
    )
    theta = theta[batch] if model.dispersion == "gene-batch" else theta
    nb = stats.nbinom.logpmf(x, theta, theta / (theta + mu))
    if model.kind == "zinb":
        pi = expit(linear("f_h"))
        nb = np.log(pi * (x == 0) + (1 - pi) * np.exp(nb))
    return log_p + nb.sum(1)


@pytest.mark.parametrize("library", ["latent", "observed"])
@pytest.mark.parametrize(
    "options",
    [
        {"likelihood": likelihood, "dispersion": dispersion}
        for likelihood in ("zinb", "nb")
        for dispersion in ("gene", "gene-batch", "gene-cell")
    ]
    + [
        {"likelihood": "poisson"},
        {"theta_prior": (0.3, 0.8)},
        {"theta_prior": (0.3, 0.8), "dispersion": "gene-batch"},
    ],
)
def test_the_log_joint_is_that_of_the_paper(options, library):
    model, columns = story(library=library, **options), cells()
    _, trace = traced(model, columns)
    sites = [n for n in ("z", "log_library", "x") if n in trace.nodes]
    ours = sum(trace.nodes[n]["log_prob"] for n in sites)
    assert np.allclose(ours, by_hand(model, columns, trace), rtol=0, atol=1e-8)
    if model.theta_prior:
        log_theta = trace.nodes["log_theta"]
        theirs = stats.norm.logpdf(log_theta["value"], 0.3, 0.8).sum()
        assert float(log_theta["log_prob_sum"]) == pytest.approx(theirs, abs=1e-8)


def test_an_observed_library_is_the_total_and_is_not_scored():
    model, columns = story(library="observed"), cells()
    guide, trace = traced(model, columns)
    assert torch.allclose(trace.nodes["log_library"]["value"].exp(), columns["x"].sum(1)[:, None])
    assert float(trace.nodes["log_library"]["log_prob_sum"]) == 0
    assert float(guide.nodes["log_library"]["log_prob_sum"]) == 0
    report = vaeppl.elbo(model, columns)
    assert (report.rows["kl[log_library]"] == 0).all()


def test_the_guide_of_a_library_starts_at_the_total():
    made = SCVI(GENES, **OPTIONS)
    log_l = vaeppl.encode(made, cells())["log_library"]
    assert torch.allclose(log_l[:, 0], cells()["x"].sum(1).log())


def test_a_large_dispersion_is_a_poisson():
    negative = story(likelihood="nb")
    poisson = story(likelihood="poisson")
    negative.log_theta_units.data.fill_(1.5)
    poisson.load_state_dict({n: negative.state_dict()[n] for n in poisson.state_dict()})
    ours, theirs = (vaeppl.elbo(m, cells(), seed=3).rows["elbo"] for m in (negative, poisson))
    assert np.allclose(ours, theirs, atol=1e-3)


def test_a_prior_on_the_dispersion_costs_exactly_its_kl():
    model = story(theta_prior=(0.3, 0.8))
    pair = Pair(model)
    with pair.active(1000):
        elbo = vaeppl.estimators.ELBO()
        elbo.loss(pair.model, pair.guide, **cells())
    q = model.q_log_theta().base_dist
    m, v = q.loc.detach(), q.scale.detach()
    kl = (0.8 / v).log() + (v**2 + (m - 0.3) ** 2) / (2 * 0.8**2) - 0.5
    assert float(elbo.report["global"]) == pytest.approx(-float(kl.sum()), rel=1e-10)
    assert float(elbo.site_kl["log_theta"]) == pytest.approx(float(kl.sum()), rel=1e-10)


@torch.no_grad()
def test_a_missing_label_is_summed_out():
    model, columns = story(SCANVI, num_labels=3), cells()
    pair, elbo = Pair(model), vaeppl.estimators.ELBO(analytic_kl=False)
    with pair.active():
        torch.manual_seed(5)
        bound = -elbo.loss(pair.model, pair.guide, **columns)
        torch.manual_seed(5)
        labelled = [{**columns, "y": torch.full((CELLS,), label)} for label in range(3)]
        guide = poutine.trace(pair.guide).get_trace(**labelled[0])
        guide.compute_log_prob()
        joint = []
        for given in labelled:
            trace = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(**given)
            trace.compute_log_prob()
            joint.append(sum(trace.nodes[n]["log_prob"] for n in ("y", "z", "log_library", "x")))
    # As q(y | z) is p(y | z), the bound of a draw of z is log Σ_y p(y, z, ℓ, x) - log q(z, ℓ).
    log_q = guide.nodes["z"]["log_prob"] + guide.nodes["log_library"]["log_prob"]
    by_hand = (torch.stack(joint).logsumexp(0) - log_q).sum()
    assert bound == pytest.approx(float(by_hand), abs=1e-8)


def test_the_posterior_of_a_label_is_that_of_bayes():
    model = story(SCANVI, num_labels=3)
    z = torch.randn(4, 2)
    mean, sd = model.label_mean.detach(), model.label_log_sd.exp().detach()
    density = np.stack([stats.norm.pdf(z, mean[k], sd[k]).prod(1) for k in range(3)], 1)
    theirs = density / density.sum(1, keepdims=True)
    assert np.allclose(model.q_y(z).probs.detach(), theirs, atol=1e-12)


def test_labels_are_learnt():
    torch.set_default_dtype(torch.float32)
    noise = torch.Generator().manual_seed(0)
    kinds = torch.arange(300) % 3
    rate = 2 + 20 * torch.eye(3)[kinds].repeat_interleave(4, 1)
    x = torch.poisson(rate, generator=noise)
    labels = torch.where(torch.arange(300) < 30, kinds, -1)
    data = {"x": x, "y": labels}
    model = SCANVI.for_data(data, latent_dim=2, hidden=(32,))
    fit = vaeppl.fit(model, data, epochs=20, lr=1e-2, progress=False)
    assert fit.score_labels({"x": x, "y": kinds}).error_percent < 3


class TestCovariates:
    def test_they_enter_side_by_side(self):
        model = story(categories=[2, 4], continuous_dim=2)
        s = model.given(
            torch.tensor([2, 0]), torch.tensor([[1, 3], [0, 0]]), torch.tensor([[0.5, 2.0]] * 2)
        )
        assert s.tolist() == [
            [0, 0, 1, 0, 1, 0, 0, 0, 1, 0.5, 2.0],
            [1, 0, 0, 1, 0, 1, 0, 0, 0, 0.5, 2.0],
        ]

    def test_a_single_batch_needs_no_column(self):
        made = SCVI(GENES, hidden=(4,))
        one = {**cells(), "batch": torch.zeros(CELLS, dtype=torch.int64)}
        with_it, without = (vaeppl.elbo(made, d).rows["elbo"] for d in (one, {"x": one["x"]}))
        assert np.allclose(with_it, without, atol=1e-10)
        assert vaeppl.sample(made, 3)["x"].shape == (3, GENES)

    @pytest.mark.parametrize("column", ["batch", "categorical", "continuous"])
    def test_one_that_is_not_given(self, column):
        model = story(categories=[2], continuous_dim=1)
        columns = cells(categorical=torch.zeros(CELLS, 1), continuous=torch.zeros(CELLS, 1))
        columns.pop(column)
        with pytest.raises(ValueError, match=f"built .*column '{column}'"):
            vaeppl.fit(model, columns, progress=False)

    def test_a_batch_that_was_not_fitted(self):
        new = cells(batch=torch.tensor([0, 1, 2, 0, 3, 1, 2]))
        with pytest.raises(ColumnError, match=r"'batch' holds 3 at row 4.*codes 0 to 2"):
            vaeppl.encode(story(), new)
        with pytest.raises(ColumnError, match="'batch' holds 3 at row 4"):
            story().check_data(new)

    def test_the_library_of_a_batch_has_its_own_prior(self):
        draws = vaeppl.sample(story(), 3000, given={"batch": torch.arange(3000) % 3})
        log_l = draws["log_library"][:, 0]
        for s in range(BATCHES):
            mean, sd = OPTIONS["library_mean"][s], OPTIONS["library_sd"][s]
            assert abs(log_l[s::3].mean() - mean) < 5 * sd / math.sqrt(1000)
            assert log_l[s::3].std() == pytest.approx(sd, rel=0.1)


class TestForData:
    def test_it_takes_sizes_and_log_totals(self):
        data = cells(categorical=torch.tensor([[0, 1]] * 6 + [[2, 0]]), continuous=torch.ones(7, 2))
        config = SCVI.for_data(data).config()
        log_totals = data["x"].sum(1).log()
        assert (config["x_dim"], config["num_batches"]) == (GENES, BATCHES)
        assert (config["categories"], config["continuous_dim"]) == ([3, 2], 2)
        for s in range(BATCHES):
            mine = log_totals[s::BATCHES]
            assert config["library_mean"][s] == pytest.approx(float(mine.mean()), abs=1e-5)
            assert config["library_sd"][s] == pytest.approx(float(mine.std()), abs=1e-5)
        json.dumps(config)

    def test_what_is_given_comes_first(self):
        made = SCVI.for_data(cells(), library_mean=4.0, latent_dim=3)
        assert made.library_mean.flatten().tolist() == [4.0] * BATCHES
        assert made.config()["latent_dim"] == 3

    def test_labels(self):
        data = Data(cells(y=torch.tensor([0, -1, 3, -1, 1, 2, 0])))
        assert SCANVI.for_data(data).num_labels == 4

    def test_the_catalogue_builds_for_data(self):
        made = build_for(find("scvi"), Data(cells()), {"likelihood": "nb"})
        assert made.num_batches == BATCHES
        assert made.kind == "nb"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x: torch.log1p(x), "no count: these look normalised and logged"),
            (lambda x: x / x.sum(1, keepdim=True) * 1e4, "no count: these look normalised;"),
            (lambda x: x - x.mean(0), "no count: these look scaled or centred"),
            (lambda x: torch.where(torch.arange(CELLS)[:, None] == 3, 0.0, x),
             "1 of 7 cells have no count at all, the first at row 3"),
        ],
    )  # fmt: skip
    def test_what_holds_no_counts(self, change, message):
        data = cells()
        with pytest.raises(ColumnError, match=message):
            SCVI.for_data({**data, "x": change(data["x"])})

    def test_no_counts_at_all(self):
        with pytest.raises(ColumnError, match="no column 'x' of counts, but 'counts'"):
            SCVI.for_data({"counts": torch.ones(3, 2)})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"likelihood": "znb"}, "did you mean 'zinb'"),
            ({"dispersion": "genes"}, "did you mean 'gene'"),
            ({"library": "seen"}, "unknown library 'seen'"),
            ({"library_mean": [1.0, 2.0]}, "for each of the 3 batches"),
            ({"likelihood": "poisson", "theta_prior": (0, 1)}, "theta_prior is for"),
            ({"dispersion": "gene-cell", "theta_prior": (0, 1)}, "theta_prior is for"),
        ],
    )
    def test_bad_arguments(self, options, message):
        with pytest.raises(ValueError, match=message):
            story(**options)


def test_a_gene_that_is_never_seen_does_no_harm():
    torch.set_default_dtype(torch.float32)
    x = torch.cat([cells()["x"].float(), torch.zeros(CELLS, 2)], 1)
    data = {"x": x}
    fit = vaeppl.fit(SCVI.for_data(data, hidden=(8,)), data, epochs=200, lr=1e-2, progress=False)
    assert fit.history["elbo"].notna().all()
    assert vaeppl.reconstruct(fit, data)["x"][:, -2:].max() < 0.2


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
def test_no_nan_whatever_the_scale_of_the_counts(likelihood, scale):
    torch.set_default_dtype(torch.float32)
    noise = torch.Generator().manual_seed(0)
    rate = scale * torch.rand(200, 40, generator=noise) ** 4 + 1e-2 / 40
    x = torch.poisson(rate, generator=noise)
    x[:, 0] += 1
    data = {"x": x}
    model = SCVI.for_data(data, likelihood=likelihood)
    fit = vaeppl.fit(model, data, epochs=5, lr=1e-2, progress=False)
    assert np.isfinite(fit.history["elbo"]).all()


@pytest.mark.slow
def test_counts_of_the_story_itself_give_its_parameters_back():
    torch.set_default_dtype(torch.float32)
    truth = SCVI(40, 2, hidden=(16,), likelihood="nb", library_sd=0.4)
    truth.f_w.weight.data *= 3
    truth.f_w.bias.data.normal_()
    truth.log_theta_units.data = 0.1 + 0.1 * torch.randn(40)
    drawn = vaeppl.sample(truth, 3000, seed=1)
    data = {"x": drawn["x"]}
    model = SCVI.for_data(data, latent_dim=2, hidden=(64,), dropout=0.0, likelihood="nb")
    fit = vaeppl.fit(model, data, epochs=40, lr=1e-2, lr_schedule="cosine", progress=False)
    theirs, ours = (m.log_theta().detach() for m in (truth, model))
    assert stats.spearmanr(theirs, ours)[0] > 0.97
    assert (ours - theirs).abs().median() < 0.1
    with torch.no_grad():
        h = truth.decoder(drawn["z"], truth.given(None, None, None))
        rho = truth.f_w(h).softmax(-1).numpy()
    shares = vaeppl.singlecell.get_normalized_expression(fit, data).to_numpy()
    assert stats.spearmanr(shares.ravel(), rho.ravel())[0] > 0.97
    assert np.median(np.abs(shares / rho - 1)) < 0.15
    sizes = vaeppl.singlecell.get_latent_library_size(fit, data)["mean"]
    assert stats.spearmanr(sizes, drawn["log_library"][:, 0])[0] > 0.9


@pytest.mark.data
@pytest.mark.parametrize("name", ["zeisel3", "cellbench", "pbmc8k"])
def test_no_nan_on_real_counts(name):
    torch.set_default_dtype(torch.float32)
    cells = vaeppl.data.load(name).select(range(300))
    for seed in range(3):
        fit = vaeppl.fit(SCVI.for_data(cells), cells, epochs=2, seed=seed, progress=False)
        assert np.isfinite(fit.history["elbo"]).all()
