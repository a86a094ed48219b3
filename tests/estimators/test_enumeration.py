"""Latents that are summed out, against sums by hand."""

import math
from itertools import product

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Bernoulli, Normal

import vaeppl
from vaeppl import rows
from vaeppl.errors import StoryError
from vaeppl.estimators import ELBO
from vaeppl.models import M2, M2Gumbel
from vaeppl.pair import Pair

N, D, K, L = 7, 5, 3, 2
MARK = {"enumerate": "parallel"}


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)
    with pyro.get_param_store().scope():
        yield


def m2(cls=M2, labels=K, **options):
    return cls(D, labels, L, hidden=(6,), **options).double()


def binary(n=N):
    return (torch.rand(n, D) < 0.5).double()


def gradients(value, model):
    return torch.autograd.grad(value, list(model.parameters()), allow_unused=True)


def assert_same(ours, theirs, model):
    """Value and gradient agree to 1e-6."""
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-6)
    for mine, other in zip(gradients(ours, model), gradients(theirs, model), strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-6)


def labelled_bound(model, x, y, noise):
    """L(x, y) of Kingma et al. 2014, equation 6, of each row, for one draw of z."""
    q = model.q(model.encoder(x, F.one_hot(y, model.num_labels).double())).base_dist
    z = q.loc + q.scale * noise
    logits = model.decoder(F.one_hot(y, model.num_labels).double(), z)
    kl = torch.distributions.kl_divergence(Normal(q.loc, q.scale), Normal(0.0, 1.0)).sum(-1)
    return Bernoulli(logits=logits).log_prob(x).sum(-1) - math.log(model.num_labels) - kl


def unlabelled_bound(model, x, noise):
    """U(x), equation 7: the sum over labels, by hand."""
    log_q = model.classifier(x).log_softmax(-1)
    total = 0.0
    for k in range(model.num_labels):
        y = torch.full((len(x),), k)
        total = total + log_q[:, k].exp() * (labelled_bound(model, x, y, noise[k]) - log_q[:, k])
    return total


def same_noise(*shape):
    pyro.set_rng_seed(5)
    noise = torch.normal(torch.zeros(shape).double(), torch.ones(shape).double())
    pyro.set_rng_seed(5)
    return noise


def loss_of(elbo, model, **columns):
    return elbo.differentiable_loss(model.model, model.guide, **columns)


# --- M2 ---


def test_unlabelled_bound_and_gradient_are_the_sum_over_labels():
    model, x = m2(), binary()
    by_hand = unlabelled_bound(model, x, same_noise(K, N, L)).sum()
    loss = loss_of(ELBO(max_plate_nesting=1), model, x=x)
    assert_same(-loss, by_hand, model)


def test_labelled_bound_and_classification_term():
    model, x, y = m2(alpha=0.3), binary(), torch.arange(N) % K
    bound = labelled_bound(model, x, y, same_noise(N, L)).sum()
    log_q = model.classifier(x).log_softmax(-1).gather(1, y[:, None]).sum()
    elbo = ELBO(max_plate_nesting=1)
    loss = loss_of(elbo, model, x=x, y=y)
    assert_same(-loss, bound + 0.3 * log_q, model)
    # What is reported is the story's alone.
    assert elbo.report["elbo"].item() == pytest.approx(bound.item(), abs=1e-6)


def test_monte_carlo_mode_is_pyros_trace_enum_elbo():
    model, x = m2(), binary()
    same_noise(K, N, L)
    ours = loss_of(ELBO(analytic_kl=False, max_plate_nesting=1), model, x=x)
    pyro.set_rng_seed(5)
    theirs = loss_of(pyro.infer.TraceEnum_ELBO(max_plate_nesting=1), model, x=x)
    assert_same(ours, theirs, model)


def test_with_one_label_the_unlabelled_bound_is_the_labelled_one():
    model, x = m2(labels=1), binary()
    elbo = ELBO(max_plate_nesting=1)
    pyro.set_rng_seed(3)
    unlabelled = loss_of(elbo, model, x=x)
    pyro.set_rng_seed(3)
    labelled = loss_of(elbo, model, x=x, y=torch.zeros(N).long())
    assert_same(unlabelled, labelled, model)


@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_the_kl_weight_goes_on_both_kls_and_not_on_the_report(beta):
    model, x = m2(), binary()
    elbo = ELBO(kl_weight=beta, max_plate_nesting=1)
    loss = loss_of(elbo, model, x=x)
    report = {name: term.item() for name, term in elbo.report.items()}
    assert -loss.item() == pytest.approx(report["reconstruction"] - beta * report["kl"], abs=1e-9)
    assert report["elbo"] == pytest.approx(report["reconstruction"] - report["kl"])
    assert elbo.site_kl.keys() == {"y", "z"}
    log_q = model.classifier(x).log_softmax(-1)
    kl_y = (log_q.exp() * (log_q + math.log(K))).sum()
    assert elbo.site_kl["y"].item() == pytest.approx(kl_y.item(), abs=1e-9)


@pytest.mark.parametrize("vectorize", [True, False])
def test_particles_average(vectorize):
    model, x = m2(), binary()
    many = ELBO(4000 if vectorize else 300, vectorize_particles=vectorize)
    noise = torch.randn(4000, K, N, L).double()
    with torch.no_grad(), pyro.validation_enabled(False):
        by_hand = torch.stack([unlabelled_bound(model, x, e).sum() for e in noise[:2000]])
        ours = -many.loss(model.model, model.guide, x=x)
    se = by_hand.std() / math.sqrt(min(2000, many.num_particles) / 2)
    assert abs(ours - by_hand.mean()) < 4 * se


def test_free_bits_are_refused():
    model = m2()
    with pytest.raises(StoryError, match="free bits are not known for latents that are summed out"):
        loss_of(ELBO(free_bits=0.1), model, x=binary())


# --- drawing instead ---


@pytest.mark.parametrize("cls", [M2, M2Gumbel])
def test_drawn_labels_give_the_same_bound_on_average(cls):
    model, x = m2(cls), binary()
    exact = ELBO(2000)
    drawn = ELBO(2000, enumerate=False)
    with pyro.validation_enabled(False), torch.no_grad():
        twin = m2(M2)
        twin.load_state_dict(model.state_dict())
        want = torch.tensor([-exact.loss(twin.model, twin.guide, x=x) for _ in range(10)])
        have = torch.tensor([-drawn.loss(model.model, model.guide, x=x) for _ in range(10)])
    se = math.hypot(want.std() / 10**0.5, have.std() / 10**0.5)
    assert abs(want.mean() - have.mean()) < 4 * se


def test_score_function_gradient_of_the_classifier_is_unbiased():
    model, x = m2(), binary(3)
    weight = model.classifier.layers[-1].bias
    slopes = {}
    for name, elbo, number in (
        ("summed", ELBO(500), 20),
        ("drawn", ELBO(500, enumerate=False), 40),
    ):
        with pyro.validation_enabled(False):
            draws = [
                torch.autograd.grad(loss_of(elbo, model, x=x), weight)[0] for _ in range(number)
            ]
        draws = torch.stack(draws)
        slopes[name] = draws.mean(0), draws.std(0) / number**0.5
    error = (slopes["summed"][0] - slopes["drawn"][0]).abs()
    se = (slopes["summed"][1] ** 2 + slopes["drawn"][1] ** 2).sqrt()
    assert (error < 4 * se).all()


# --- a discrete mixture, whose evidence is known ---


class Mixture(nn.Module):
    """y ~ Categorical, x ~ N(m_y, 1); the guide may be the exact posterior."""

    def __init__(self, exact):
        super().__init__()
        self.exact = exact
        self.logits, self.loc = nn.Parameter(torch.randn(K)), nn.Parameter(2 * torch.randn(K))
        self.slope = nn.Parameter(torch.randn(K))
        self.double()

    def joint(self, x):
        return self.logits.log_softmax(-1) + Normal(self.loc, 1.0).log_prob(x[:, None])

    def model(self, x=None):
        with rows(x):
            y = pyro.sample("y", dist.Categorical(logits=self.logits))
            pyro.sample("x", dist.Normal(self.loc[y], 1.0), obs=x)

    def guide(self, x):
        logits = self.joint(x) if self.exact else x[:, None] * self.slope
        with rows(x):
            pyro.sample("y", dist.Categorical(logits=logits), infer={**MARK})


def test_on_a_mixture_the_bound_is_tight_with_the_exact_posterior_and_below_without():
    x = torch.randn(N).double()
    for exact in (True, False):
        story = Mixture(exact)
        evidence = story.joint(x).logsumexp(-1).sum().item()
        bound = -ELBO().loss(story.model, story.guide, x)
        if exact:
            assert bound == pytest.approx(evidence, abs=1e-9)
        else:
            assert bound < evidence - 1e-3


@pytest.mark.parametrize("exact", [True, False])
def test_evidence_of_a_mixture_is_exact_whatever_the_guide(exact):
    story, x = Mixture(exact), torch.randn(N).double()
    report = vaeppl.evidence(story, {"x": x}, num_particles=2)
    want = story.joint(x).logsumexp(-1).detach()
    torch.testing.assert_close(torch.tensor(report.rows["log_evidence"].values), want)
    log_q = torch.log_softmax(story.joint(x) if exact else x[:, None] * story.slope, -1)
    elbo = (log_q.exp() * (story.joint(x) - log_q)).sum(-1).detach()
    torch.testing.assert_close(torch.tensor(report.rows["elbo"].values), elbo)
    split = vaeppl.elbo(story, {"x": x})
    torch.testing.assert_close(torch.tensor(split.rows["elbo"].values), elbo)


def test_the_mode_and_the_mean_over_labels():
    """encode gives the most probable label, and means over the labels."""

    class Offset(Mixture):
        def model(self, x=None):
            with rows(x):
                y = pyro.sample("y", dist.Categorical(logits=self.logits))
                z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.loc[y] + z.sum(-1), 1.0), obs=x)

        def guide(self, x):
            with rows(x):
                y = pyro.sample(
                    "y", dist.Categorical(logits=x[:, None] * self.slope), infer={**MARK}
                )
                z = torch.stack([self.loc[y] + x, self.loc[y] - x], -1)
                pyro.sample("z", dist.Normal(z, 0.1).to_event(1))

    story, x = Offset(False), torch.randn(N).double()
    encoded = vaeppl.encode(story, {"x": x})
    q = (x[:, None] * story.slope).softmax(-1)
    assert torch.equal(encoded["y"], q.argmax(-1))
    mean = (q * story.loc).sum(-1)
    torch.testing.assert_close(encoded["z"], torch.stack([mean + x, mean - x], -1).detach())


# --- several sites ---


class TwoCauses(nn.Module):
    """a ~ Bernoulli, b | a ~ Categorical, x | a, b ~ N; both summed out, b's guide given a."""

    def __init__(self):
        super().__init__()
        self.a, self.q_a = nn.Parameter(torch.randn(())), nn.Parameter(torch.randn(N))
        self.b, self.q_b = nn.Parameter(torch.randn(2, K)), nn.Parameter(torch.randn(2, K))
        self.loc = nn.Parameter(torch.randn(2, K))
        self.double()

    def model(self, x=None):
        with rows(x):
            a = pyro.sample("a", dist.Bernoulli(logits=self.a)).long()
            b = pyro.sample("b", dist.Categorical(logits=self.b[a]))
            pyro.sample("x", dist.Normal(self.loc[a, b], 1.0), obs=x)

    def guide(self, x):
        with rows(x):
            a = pyro.sample("a", dist.Bernoulli(logits=self.q_a), infer={**MARK}).long()
            pyro.sample("b", dist.Categorical(logits=self.q_b[a]), infer={**MARK})

    def terms(self, x):
        """log p(x, a, b) and log q(a, b) of each row, for all values."""
        for a, b in product(range(2), range(K)):
            sign = 1 if a else -1
            log_p = F.logsigmoid(sign * self.a) + self.b.log_softmax(-1)[a, b]
            log_p = log_p + Normal(self.loc[a, b], 1.0).log_prob(x)
            yield log_p, F.logsigmoid(sign * self.q_a) + self.q_b.log_softmax(-1)[a, b]


@pytest.mark.parametrize("analytic", [True, False])
@pytest.mark.parametrize("particles", [1, 3])
def test_two_sites_that_depend_on_each_other(analytic, particles):
    story, x = TwoCauses(), torch.randn(N).double()
    by_hand = sum((q.exp() * (p - q)).sum() for p, q in story.terms(x))
    elbo = ELBO(particles, analytic_kl=analytic)
    assert_same(-loss_of(elbo, story, x=x), by_hand, story)
    log_p = torch.stack([p for p, _ in story.terms(x)]).logsumexp(0).detach()
    report = vaeppl.evidence(story, {"x": x}, num_particles=3)
    torch.testing.assert_close(torch.tensor(report.rows["log_evidence"].values), log_p)


def test_a_latent_in_a_plate_of_its_own_is_drawn_or_refused():
    """Evidence row by row needs a sum over the entries' values inside a product over entries."""

    class Entries(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(()))

        def model(self, x=None):
            plate = rows(x)
            with pyro.plate("entries", 2, dim=-2), plate:
                pyro.sample("b", dist.Bernoulli(logits=self.logits))
            with plate:
                pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)

        def guide(self, x):
            with pyro.plate("entries", 2, dim=-2), rows(x):
                pyro.sample("b", dist.Bernoulli(logits=self.logits), infer={**MARK})

    with pytest.raises(StoryError, match="must stand in the plate of rows alone"):
        vaeppl.evidence(Entries(), {"x": torch.randn(3)}, num_particles=2)


# --- what no estimator may pass over ---


@pytest.mark.parametrize("name", ["trace_elbo", "trace_mean_field_elbo", "score_function"])
def test_estimators_that_do_not_sum_out(name):
    data = {"x": binary(12), "y": torch.arange(12) % (K + 1) - 1}
    model = m2()
    if name == "score_function":
        vaeppl.fit(model, data, estimator=name, epochs=1, progress=False)
        return
    with pytest.raises(
        StoryError, match=r"cannot sum out 'y'.*estimator='elbo'.*'trace_enum_elbo'"
    ):
        vaeppl.fit(model, data, estimator=name, epochs=1, progress=False)


@pytest.mark.parametrize("name", ["iwae", "vimco", "renyi", "miwae", "wake_sleep", "tvo"])
def test_estimators_with_weights_fit_labels_that_are_missing(name):
    """What the history has is the bound; the classifier's term is not a part of it."""
    data = {"x": binary(12), "y": torch.arange(12) % (K + 1) - 1}
    pyro.set_rng_seed(0)
    estimator = {"estimator": name, "num_particles": 50, "lr": 1e-12, "batch_size": 12}
    fit = vaeppl.fit(m2(), data, epochs=1, progress=False, **estimator)
    bound = fit.history["elbo"].iloc[-1]
    assert fit.elbo(num_particles=500).mean - 0.05 < bound < fit.evidence().mean + 0.2


@pytest.mark.parametrize("name", ["beta_tc", "factor_tc", "dip", "mmd"])
def test_codes_that_are_several_for_a_row(name):
    data = {"x": binary(12), "y": torch.arange(12) % (K + 1) - 1}
    with pytest.raises(StoryError, match="one code for each row; 'z' has one for each value"):
        vaeppl.fit(m2(), data, estimator=name, epochs=1, progress=False)


def test_to_find_the_plates_pyros_estimator_takes_no_draws():
    data = {"x": binary(12), "y": torch.arange(12) % (K + 1) - 1}
    known = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    fits = []
    for estimator in (known, "trace_enum_elbo"):
        pyro.set_rng_seed(0)
        fits.append(vaeppl.fit(m2(), data, estimator=estimator, epochs=3, progress=False))
    assert fits[0].history["elbo"].tolist() == fits[1].history["elbo"].tolist()


def test_the_same_noise_serves_a_run_that_goes_on():
    """To find the number of plates is no draw: the next numbers are the same."""
    story, x = Mixture(False), torch.randn(N).double()
    pair = Pair(story)
    pyro.set_rng_seed(1)
    with pair.active():
        ELBO().loss(pair.model, pair.guide, x=x)
    after = torch.rand(())
    pyro.set_rng_seed(1)
    assert torch.equal(after, torch.rand(()))
