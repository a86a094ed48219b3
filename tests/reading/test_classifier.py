"""A classifier on latents: what it is given, and what it refuses."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
from sklearn.svm import SVC, LinearSVC

import vaeppl
from vaeppl import LatentClassifier
from vaeppl.data import Data
from vaeppl.errors import ColumnError, StoryError
from vaeppl.models import CVAE, VAE


class Story:
    """z = A x in the mean of the guide: the latents are known numbers of the rows."""

    scale = torch.tensor([1.0, 5.0, 1e-2])

    def model(self, x=None):
        with vaeppl.rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with vaeppl.rows(x):
            pyro.sample("z", dist.Normal(self.scale * x + 3.0, 0.1).to_event(1))


def clusters(n=120, seed=0, few=None):
    """Three classes; the third entry of x is pure noise."""
    chance = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = chance.normal(size=(n, 3))
    x[:, :2] += np.array([[-3, 0], [3, 0], [0, 4]])[y]
    data = Data({"x": x, "y": y})
    return data if few is None else data.few_labels(per_class=few)


def features(data, fitted_to=None):
    """The features that a classifier should see."""
    z = Story.scale[:2].double() * data["x"][:, :2].double()
    base = z if fitted_to is None else Story.scale[:2].double() * fitted_to["x"][:, :2].double()
    return ((z - base.mean(0)) / base.std(0, correction=0)).numpy()


@pytest.mark.parametrize("classifier", ["svm", "logistic", KNeighborsClassifier(3)])
def test_classes_that_lie_apart_are_told_apart(classifier):
    trained = LatentClassifier(Story(), classifier).fit(clusters(few=5))
    new = clusters(seed=1)
    p = trained.predict_proba(new)
    assert p.shape == (120, 3) and p.dtype == torch.float32
    assert torch.allclose(p.sum(1), torch.ones(120))
    assert float((trained.predict(new) == new["y"]).double().mean()) > 0.95


def test_the_classifier_sees_standardised_means_of_the_latents_in_use():
    data, new = clusters(few=5), clusters(30, seed=1)
    knn = KNeighborsClassifier(4)
    p = LatentClassifier(Story(), knn, standardise=True).fit(data).predict_proba(new)
    known = (data["y"] >= 0).numpy()
    # Mean and sd are those of all rows; the third latent has an sd of 0.01 and is left out.
    own = KNeighborsClassifier(4).fit(features(data)[known], data["y"][known].numpy())
    expected = own.predict_proba(features(new, data))
    assert np.allclose(p.numpy(), expected)
    assert not hasattr(knn, "classes_")  # a copy was trained


def test_features_do_not_depend_on_the_unit_of_a_latent():
    data, new = clusters(few=5), clusters(30, seed=1)

    class Stretched(Story):
        scale = torch.tensor([100.0, 0.2, 1e-2])

    class Enlarged(Story):
        scale = 5 * Story.scale

    def probabilities(story, **options):
        return LatentClassifier(story, "logistic", **options).fit(data).predict_proba(new)

    standard = [probabilities(story(), standardise=True) for story in (Story, Stretched)]
    assert torch.allclose(*standard, atol=1e-4)
    # Else they have one unit for all: a latent that varies more weighs more.
    assert torch.allclose(probabilities(Story()), probabilities(Enlarged()), atol=1e-4)
    assert not torch.allclose(probabilities(Story()), probabilities(Stretched()), atol=1e-2)


@pytest.mark.parametrize(
    "classifier",
    [
        LabelSpreading(kernel="knn", n_neighbors=15),
        SelfTrainingClassifier(KNeighborsClassifier(1)),
        make_pipeline(StandardScaler(), LabelSpreading(kernel="knn", n_neighbors=7)),
    ],
)
def test_a_semi_supervised_classifier_gets_all_rows(classifier):
    data = clusters(few=1)
    trained = LatentClassifier(Story(), classifier).fit(data)
    assert float((trained.predict(data) == clusters()["y"]).double().mean()) > 0.9
    last = trained.classifier[-1] if hasattr(trained.classifier, "steps") else trained.classifier
    assert len(last.transduction_) == 120


def test_of_data_with_splits_the_train_part_is_learnt():
    data = clusters(few=None).split(valid=20, test=40, seed=0)
    p = LatentClassifier(Story(), KNeighborsClassifier(1)).fit(data).predict_proba(data)
    q = LatentClassifier(Story(), KNeighborsClassifier(1)).fit(data.train).predict_proba(data)
    assert torch.equal(p, q)


def test_a_seed_fixes_a_classifier_that_has_none_of_its_own():
    data = clusters(few=5)
    forest = RandomForestClassifier(5)
    a, b, c = (
        LatentClassifier(Story(), forest, seed=s).fit(data).predict_proba(data) for s in (1, 1, 2)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert forest.random_state is None


def test_any_fit_and_any_column_will_do():
    side = torch.arange(60) % 2
    data = {"x": torch.randn(60, 3), "y": side[:, None].expand(60, 6).float(), "side": side}
    cvae = vaeppl.fit(CVAE(3, 6, 2, hidden=(8,)), data, epochs=100, lr=1e-2, progress=False)
    trained = LatentClassifier(cvae, "logistic", column="side").fit(data)
    assert float((trained.predict(data) == data["side"]).double().mean()) > 0.9


def test_latents_out_of_use_are_told_of():
    class Collapsed(Story):
        scale = torch.tensor([1e-3, 1e-4, 1e-2])

    with pytest.warns(UserWarning, match=r"no latent of Collapsed is in use: .* of 0.0091 at most"):
        LatentClassifier(Collapsed(), "logistic").fit(clusters())

    class Constant(Story):
        scale = torch.zeros(3)

    with pytest.raises(StoryError, match="no latent of Constant varies over the rows"):
        LatentClassifier(Constant()).fit(clusters())


# --- what it refuses ---


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (None, "there is no column 'y' of labels in data 'data', but 'x'"),
        ([-1] * 6, "column 'y' has no label in 6 rows"),
        ([0, 0, 2, 2, -1, -1], r"class 1 of column 'y' has no labelled row.*largest label is 2"),
        ([0, 0, 0, -1, -1, -1], "class 1 of column 'y' has no labelled row"),
    ],
)
def test_labels_that_are_not_there_are_named(y, words):
    columns = {"x": torch.randn(6, 3)} | ({} if y is None else {"y": y})
    with pytest.raises(ColumnError, match=words):
        LatentClassifier(Story()).fit(columns)


def test_a_guide_that_sees_the_label_is_refused():
    data = {"x": torch.randn(6, 3), "y": torch.randn(6, 6)}
    cvae = CVAE(3, 6, 2, likelihood="normal", hidden=(8,))
    with pytest.raises(StoryError, match="guide of CVAE needs the column 'y'"):
        LatentClassifier(cvae)._features(Data(data))


def test_classifiers_that_are_none_are_named():
    for given, error, words in (
        ("svc", ValueError, r"unknown classifier 'svc': did you mean 'svm'"),
        (SVC, TypeError, r"a classifier is 'svm' or 'logistic', or an object of scikit-learn"),
        (3, TypeError, "given 3"),
        (LinearSVC(), TypeError, r"LinearSVC has no predict_proba; wrap it: Calibrated"),
    ):
        with pytest.raises(error, match=words):
            LatentClassifier(Story(), given)
    wrapped = LatentClassifier(Story(), CalibratedClassifierCV(LinearSVC(), cv=2))
    assert wrapped.fit(clusters(few=5)).predict_proba(clusters()).shape == (120, 3)


def test_it_is_trained_before_it_is_asked():
    with pytest.raises(ValueError, match=r"call \.fit\(data\) first"):
        LatentClassifier(VAE(6, 2, hidden=(4,))).predict_proba({"x": torch.zeros(3, 6)})


def test_probabilities_that_are_none_are_not_returned():
    trained = LatentClassifier(Story(), LabelSpreading(gamma=1e5)).fit(clusters(few=2))
    with pytest.raises(ValueError, match=r"LabelSpreading gives .* rows no probability; a kernel"):
        trained.predict_proba({"x": clusters()["x"] + 50.0})
