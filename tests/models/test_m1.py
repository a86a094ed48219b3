"""M1: its story is that of a VAE, and its labels stand outside."""

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

import vaeppl
from vaeppl.errors import CheckpointError
from vaeppl.likelihoods import Binomial
from vaeppl.models import VAE
from vaeppl.models.m1 import M1

SMALL = {"likelihood": Binomial(16), "hidden": (32,)}


@pytest.fixture(scope="module")
def digits():
    return vaeppl.data.load("digits").split(valid=0.1, test=0.2, seed=0)


def test_its_story_is_that_of_a_vae(digits):
    options = {"latent_dim": 3, "likelihood": Binomial(16), "hidden": (8, 8)}
    m1, vae = M1(64, **options), VAE(64, activation="softplus", **options)
    runs = [vaeppl.fit(m, digits, epochs=2, seed=4, progress=False) for m in (m1, vae)]
    first, second = (run.history["elbo"] for run in runs)
    assert first.tolist() == second.tolist()


def test_labels_do_not_touch_the_story(digits):
    few = digits.few_labels(per_class=10)
    one, other = (
        vaeppl.fit(M1(64, 3, **SMALL), rows, epochs=1, progress=False) for rows in (digits, few)
    )
    assert one.history["elbo"].tolist() == other.history["elbo"].tolist()


def test_more_labels_make_fewer_errors(digits):
    fits = {
        n: vaeppl.fit(M1(64, 8, **SMALL), digits.few_labels(per_class=n), epochs=30, lr=5e-3,
                      progress=False)
        for n in (2, 40)
    }  # fmt: skip
    errors = {n: fit.score_labels(digits.test).error_percent for n, fit in fits.items()}
    assert errors[40] < 12 and errors[40] < errors[2] < 60


def test_the_classifier_can_be_chosen(digits):
    rows = digits.few_labels(per_class=10)
    fit = vaeppl.fit(
        M1(64, 5, classifier=KNeighborsClassifier(1), **SMALL), rows, epochs=20, lr=1e-2,
        progress=False,
    )  # fmt: skip
    probs = fit.predict_proba(rows.test)
    assert set(probs.unique().tolist()) == {0.0, 1.0}  # of one neighbour
    with pytest.raises(ValueError, match="unknown classifier 'knn'"):
        M1(64, 5, classifier="knn")


def test_a_run_with_a_named_classifier_loads_and_one_with_an_object_asks_for_the_model(
    digits, tmp_path
):
    rows = digits.few_labels(per_class=10)
    for name, classifier in (("a", "logistic"), ("b", KNeighborsClassifier(1))):
        model = M1(64, 4, classifier=classifier, **SMALL)
        fit = vaeppl.fit(model, rows, epochs=10, lr=1e-2, out=tmp_path / name, progress=False)
        if name == "b":
            with pytest.raises(CheckpointError, match=r"KNeighborsClassifier.*model=\.\.\."):
                vaeppl.load(tmp_path / name)
        again = vaeppl.load(tmp_path / name, model=None if name == "a" else model)
        assert torch.equal(again.predict(rows.test), fit.predict(rows.test))
