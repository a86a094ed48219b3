"""Predicted labels against exact posteriors, by each way there is to predict them."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats

import vaeppl
from vaeppl.data import Data
from vaeppl.errors import ColumnError, StoryError
from vaeppl.likelihoods import Categorical
from vaeppl.models import CVAE, M1, VAE, Regression
from vaeppl.reading import prediction

PI, MU, SD = torch.tensor([0.7, 0.3]), torch.tensor([-1.0, 1.5]), 0.5
X = torch.linspace(-3, 3, 13)


class Mixture:
    """y ~ Categorical(π), z ~ N(0, 1), x ~ N(μ_y + z, σ²), so that x | y ~ N(μ_y, 1 + σ²).

    q(z | x, y) is exact; q(y | x) is a sigmoid of a slope of its own.
    """

    partly_observed = ("y",)

    def __init__(self, widen=1.0):
        self.widen = widen

    def model(self, x=None, y=None):
        with vaeppl.rows(x, y):
            y = pyro.sample("y", dist.Categorical(PI), obs=y)
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(MU[y.long()] + z, SD), obs=x)

    def guide(self, x, y=None):
        with vaeppl.rows(x, y):
            if y is None:
                logits = torch.stack([-x, x], -1)
                infer = {"enumerate": "parallel"}
                y = pyro.sample("y", dist.Categorical(logits=logits), infer=infer)
            mean, sd = (x - MU[y.long()]) / (1 + SD**2), self.widen * SD / math.sqrt(1 + SD**2)
            pyro.sample("z", dist.Normal(mean, sd))


class OneHotMixture(Mixture):
    """The same story, its label as indicators."""

    def model(self, x=None, y=None):
        with vaeppl.rows(x, y):
            y = pyro.sample("y", dist.OneHotCategorical(PI), obs=y)
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(y @ MU + z, SD), obs=x)

    def guide(self, x, y=None):
        with vaeppl.rows(x, y):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=torch.stack([-x, x], -1)))
            mean, sd = (x - y @ MU) / (1 + SD**2), SD / math.sqrt(1 + SD**2)
            pyro.sample("z", dist.Normal(mean, sd))


def by_bayes(x):
    """p(y | x) of the mixture."""
    density = stats.norm(MU.numpy(), math.sqrt(1 + SD**2)).pdf(x[:, None].numpy()) * PI.numpy()
    return torch.as_tensor(density / density.sum(1, keepdims=True)).float()


def mean_sigmoid(mean, sd=1.0):
    """E[sigmoid(z)], z ~ N(mean, sd²)."""

    def integrand(z):
        return stats.norm(mean, sd).pdf(z) / (1 + math.exp(-z))

    return integrate.quad(integrand, mean - 9 * sd, mean + 9 * sd)[0]


# --- the guide's own q(y | x) ---


@pytest.mark.parametrize("story", [Mixture, OneHotMixture])
def test_the_guide_classifies_where_it_draws_the_label(story):
    probs = vaeppl.predict_proba(story(), {"x": X})
    assert torch.allclose(probs[:, 1], torch.sigmoid(2 * X), atol=1e-6)
    assert torch.equal(vaeppl.predict(story(), {"x": X}), (X > 0).long())


@pytest.mark.parametrize("y", [torch.zeros(13).long(), torch.full((13,), torch.nan)])
def test_the_labels_of_the_data_are_withheld(y):
    with_labels = vaeppl.predict_proba(Mixture(), {"x": X, "y": y})
    assert torch.equal(with_labels, vaeppl.predict_proba(Mixture(), {"x": X}))


def drawn_after(x=None, y=None):
    """z ~ N(0, 1), y ~ Bernoulli(sigmoid z), x ~ N(z, 1)."""
    with vaeppl.rows(x, y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Bernoulli(logits=z), obs=y)
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def drawn_after_guide(x, y=None):
    """The exact q(z | x) = N(x/2, 1/2), then y given z."""
    with vaeppl.rows(x, y):
        z = pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        if y is None:
            pyro.sample("y", dist.Bernoulli(logits=z))


def test_latents_before_the_label_are_averaged_over():
    exact = torch.tensor([mean_sigmoid(float(x) / 2, 0.5**0.5) for x in X])
    options = {"guide": drawn_after_guide, "seed": 1}
    probs = vaeppl.predict_proba(drawn_after, {"x": X}, num_samples=4000, **options)
    assert torch.allclose(probs[:, 1], exact.float(), atol=0.01)
    assert torch.allclose(probs.sum(1), torch.ones(13))
    default = vaeppl.predict_proba(drawn_after, {"x": X}, **options)
    assert torch.allclose(default[:, 1], exact.float(), atol=0.06)


def test_a_latent_class_that_is_no_column_is_predicted_too():
    def model(x=None):
        with vaeppl.rows(x):
            k = pyro.sample("k", dist.Categorical(PI))
            pyro.sample("x", dist.Normal(MU[k], 1.0), obs=x)

    def guide(x):
        with vaeppl.rows(x):
            pyro.sample("k", dist.Categorical(logits=torch.stack([-x, x], -1)))

    probs = vaeppl.predict_proba(model, {"x": X}, "k", guide=guide)
    assert torch.allclose(probs[:, 1], torch.sigmoid(2 * X), atol=1e-6)


# --- the story's own p(y | x) ---


@pytest.mark.parametrize("story", [Mixture, OneHotMixture])
def test_importance_sampling_is_exact_where_the_guide_of_the_rest_is(story):
    probs = vaeppl.predict_proba(story(), {"x": X, "y": torch.zeros(13).long()}, num_particles=1)
    assert torch.allclose(probs, by_bayes(X), atol=1e-4)


def test_importance_sampling_converges_to_the_posterior():
    wide = Mixture(widen=1.5)
    off = [
        float((vaeppl.predict_proba(wide, {"x": X}, num_particles=k) - by_bayes(X)).abs().max())
        for k in (10, 4000)
    ]
    assert off[1] < 0.01 < off[0]


def test_importance_sampling_where_the_label_comes_after_the_latents():
    exact = torch.tensor([mean_sigmoid(float(x) / 2, 0.5**0.5) for x in X])
    probs = vaeppl.predict_proba(drawn_after, {"x": X}, guide=drawn_after_guide, num_particles=4000)
    assert torch.allclose(probs[:, 1], exact.float(), atol=0.01)


# --- a label that the story draws given the other columns ---


def test_regression_is_its_softmax():
    model = Regression(3, 1, likelihood=Categorical(4), hidden=(8,))
    x = torch.randn(20, 3)
    with torch.no_grad():
        exact = model.network(x).softmax(-1)
    for y in ({}, {"y": torch.zeros(20, 1)}, {"y": torch.zeros(20)}):
        assert torch.allclose(vaeppl.predict_proba(model, {"x": x, **y}), exact, atol=1e-6)
    assert torch.allclose(vaeppl.predict_proba(model, {"x": x}, num_particles=2), exact, atol=1e-6)


def test_a_bernoulli_is_a_label_of_two_values():
    model = Regression(3, 1, hidden=(8,))
    x = torch.randn(20, 3)
    with torch.no_grad():
        exact = torch.sigmoid(model.network(x)[:, 0])
    assert torch.allclose(vaeppl.predict_proba(model, {"x": x})[:, 1], exact, atol=1e-6)


class Conditional:
    """z | x ~ N(x, 1), y ~ Bernoulli(sigmoid z); a guide that needs y, and is the prior."""

    def model(self, x, y=None):
        with vaeppl.rows(x, y):
            z = pyro.sample("z", dist.Normal(x, 1.0))
            pyro.sample("y", dist.Bernoulli(logits=z), obs=y)

    def guide(self, x, y):
        with vaeppl.rows(x, y):
            pyro.sample("z", dist.Normal(x, 1.0))


@pytest.mark.parametrize("options", [{"num_samples": 4000}, {"num_particles": 4000}])
def test_a_conditional_story_averages_over_its_prior(options):
    exact = torch.tensor([mean_sigmoid(float(x)) for x in X]).float()
    probs = vaeppl.predict_proba(Conditional(), {"x": X}, **options)
    assert torch.allclose(probs[:, 1], exact, atol=0.015)


def test_a_cvae_of_a_label_is_near_its_own_evidence():
    torch.manual_seed(0)
    cvae = CVAE(3, 1, 2, likelihood=Categorical(4), hidden=(8,))
    x = {"x": torch.randn(6, 3)}
    by_draws = vaeppl.predict_proba(cvae, x, num_samples=3000)
    by_weights = vaeppl.predict_proba(cvae, x, num_particles=3000)
    assert torch.allclose(by_draws, by_weights, atol=0.02)
    assert vaeppl.predict_proba(cvae, x).shape == (6, 4)


def test_weights_that_rows_share_come_from_the_guide():
    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(0.0, 10.0))
        with vaeppl.rows(x, y):
            pyro.sample("y", dist.Bernoulli(logits=w * x), obs=y)

    def guide(x, y):
        pyro.sample("w", dist.Normal(2.0, 1e-4))

    probs = vaeppl.predict_proba(model, {"x": X}, guide=guide, num_samples=3)
    assert torch.allclose(probs[:, 1], torch.sigmoid(2 * X), atol=1e-3)


# --- rows, seeds, chunks ---


def test_rows_at_once_do_not_matter(monkeypatch):
    whole = vaeppl.predict_proba(Mixture(), {"x": X})
    exact = vaeppl.predict_proba(Mixture(), {"x": X}, num_particles=3)
    monkeypatch.setattr(prediction, "ROWS_AT_ONCE", 4)
    monkeypatch.setattr(prediction, "ENTRIES_AT_ONCE", 12)
    assert torch.equal(vaeppl.predict_proba(Mixture(), {"x": X}), whole)
    in_fours = vaeppl.predict_proba(Mixture(), {"x": X}, num_particles=3)
    assert torch.allclose(in_fours, exact, atol=1e-4)


def test_seeds_fix_the_draws_and_the_callers_stream_is_left_alone():
    torch.manual_seed(5)
    a, b, c = (
        vaeppl.predict_proba(drawn_after, {"x": X}, guide=drawn_after_guide, seed=s)
        for s in (1, 1, 2)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)


# --- a classifier outside the story ---


@pytest.fixture(scope="module")
def digits():
    return vaeppl.data.load("digits").split(valid=0, test=0.3, seed=0).few_labels(per_class=20)


@pytest.fixture(scope="module")
def m1(digits):
    model = M1(64, 5, classifier="logistic", likelihood="poisson", hidden=(32,))
    return vaeppl.fit(model, digits, epochs=10, lr=1e-2, progress=False)


def test_m1_is_its_classifier_on_the_fitted_rows(m1, digits):
    own = vaeppl.LatentClassifier(m1, "logistic").fit(digits.train)
    assert torch.equal(vaeppl.predict_proba(m1, digits.test), own.predict_proba(digits.test))
    assert m1.score_labels(digits.test).error_percent < 40  # of 90 by chance


def test_the_classifier_of_a_fit_is_trained_once_and_a_loaded_fit_trains_its_own(
    m1, digits, tmp_path, monkeypatch
):
    before = m1.predict_proba(digits.test)
    again = vaeppl.load(m1.save(tmp_path))
    assert torch.equal(again.predict_proba(digits.test), before)
    monkeypatch.setattr(vaeppl.LatentClassifier, "fit", None)
    assert torch.equal(m1.predict_proba(digits.test), before)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json", "history.csv", "weights.safetensors",
    ]  # fmt: skip


def test_a_model_alone_has_no_rows_to_train_its_classifier_on(digits):
    with pytest.raises(StoryError, match=r"pass the Fit, or train one.*LatentClassifier"):
        vaeppl.predict_proba(M1(64, 5), digits)


def test_particles_are_not_for_a_classifier_outside_the_story(m1, digits):
    with pytest.raises(ValueError, match="label that is a part of the story"):
        m1.predict_proba(digits.test, num_particles=10)


# --- scores ---


def test_rows_without_a_label_are_not_scored():
    y = torch.where(X > 1, 1, -1)
    report = vaeppl.score_labels(Mixture(), {"x": X, "y": y})
    assert len(report.labels) == int((X > 1).sum())
    assert report.log_loss == pytest.approx(-float(torch.sigmoid(2 * X[X > 1]).log().mean()))
    with pytest.raises(ColumnError, match="column 'y' of data 'data' has no label"):
        vaeppl.score_labels(Mixture(), {"x": X, "y": torch.full((13,), -1)})


def test_bayes_is_calibrated_on_draws_of_the_story():
    draws = vaeppl.sample(Mixture(), 20_000, seed=2)
    report = vaeppl.score_labels(Mixture(), draws, num_particles=1)
    assert report.ece < 0.01
    best = report.error_percent
    assert vaeppl.score_labels(Mixture(), draws).error_percent > best  # that of the guide


# --- what cannot be predicted ---


def needs_label_guide(x, y):
    with vaeppl.rows(x, y):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))


def test_what_cannot_be_predicted_is_told():
    x = torch.zeros(4, 6)
    with pytest.raises(StoryError, match=r"VAE draws no label 'y' .*it has none.*LatentClassifier"):
        vaeppl.predict_proba(VAE(6, 2, hidden=(4,)), {"x": x, "y": torch.arange(4)})
    with pytest.raises(ColumnError, match="VAE takes no column but 'x'"):
        vaeppl.predict_proba(VAE(6, 2, hidden=(4,)), {"x": x}, "x")
    label = CVAE(1, 6, 2, condition=Categorical(3), hidden=(4,))
    with pytest.raises(StoryError, match="CVAE is given 'x' and has no distribution for it"):
        vaeppl.predict_proba(label, {"x": torch.arange(4) % 3, "y": x}, "x")
    with pytest.raises(StoryError, match="Regression draws no label 'y' of the rows; it has none"):
        vaeppl.predict_proba(Regression(6, 3, hidden=(4,)), {"x": x})
    with pytest.raises(StoryError, match=r"draws no label 'z' of the rows; it has 'y'"):
        vaeppl.predict_proba(Mixture(), {"x": X}, "z", num_particles=5)
    with pytest.raises(ColumnError, match="'x' beside 'y'; the data have none of them"):
        vaeppl.predict_proba(Mixture(), {"y": torch.zeros(4)})
    with pytest.raises(ValueError, match="num_particles is a whole number, at least 1; given 0"):
        vaeppl.predict_proba(Mixture(), {"x": X}, num_particles=0)


def test_a_label_beside_observed_columns_asks_for_particles():
    data = {"x": X}
    with pytest.raises(StoryError, match=r"observes 'x' too.*num_particles=100"):
        vaeppl.predict_proba(drawn_after, data, guide=needs_label_guide)
    exact = torch.tensor([mean_sigmoid(float(x) / 2, 0.5**0.5) for x in X])
    options = {"guide": needs_label_guide, "num_particles": 3000}
    probs = vaeppl.predict_proba(drawn_after, data, **options)
    assert torch.allclose(probs[:, 1], exact.float(), atol=0.015)


def test_can_predict_tells_without_failing(m1, digits):
    assert prediction.can_predict(m1, digits.test)
    assert prediction.can_predict(Mixture(), {"x": X, "y": np.where(X > 0, 1, -1)})
    assert not prediction.can_predict(Mixture(), {"x": X, "y": torch.full((13,), -1)})
    assert not prediction.can_predict(Mixture(), {"x": X})
    assert not prediction.can_predict(M1(64, 5), digits)
    unlabelled = Data({"x": torch.zeros(4, 6), "y": torch.rand(4)})
    assert not prediction.can_predict(VAE(6, 2, hidden=(4,)), unlabelled)
