"""Models found by name or in a file, and built for the data at hand."""

from __future__ import annotations

import hashlib
import json
import random
import sys

import pytest
import torch

import vaeppl.models
from vaeppl import Model, catalogue, likelihoods
from vaeppl.catalogue import build_for, entries, find, likelihood_for, source_of
from vaeppl.data import Data, DataError, Field
from vaeppl.errors import StoryError
from vaeppl.models import VAE

STORY = '''
"""A story of one's own."""
from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist

from vaeppl import Model, rows
from vaeppl.models import VAE


@dataclass
class Settings:
    scale: float = 1.0


class Mine(Model):
    def __init__(self, x_dim=1, scale=2.0):
        super().__init__()
        self.x_dim, self.scale = x_dim, scale

    def model(self, x=None):
        with rows(x):
            pyro.sample("x", dist.Normal(0.0, self.scale).expand([self.x_dim]).to_event(1), obs=x)

    def guide(self, x=None):
        pass
'''


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "modules", dict(sys.modules))

    def write(name, text=STORY):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


# --- by name ---


def test_every_line_of_the_catalogue_is_a_model():
    for entry in entries():
        cls = find(entry.name)
        assert issubclass(cls, Model) and cls is getattr(vaeppl.models, entry.class_name)
        assert cls is find(entry.class_name) and source_of(cls) is None
        assert entry.story and entry.source


def test_names_do_not_mind_case():
    assert find("vae") is find("VAE") is find("Vae") is VAE


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(StoryError, match="unknown model 'vea': did you mean 'vae'"):
        find("vea")


# --- in a file ---


def test_a_file_may_import_what_stands_beside_it(file):
    helper = file("helper_beside_it.py", "SCALE = 3.0\n")
    path = file("story_with_helper.py", STORY + "\nfrom helper_beside_it import SCALE\n")
    before = list(sys.path)
    find(str(path))
    assert sys.path == before
    assert sys.modules["helper_beside_it"].__file__ == str(helper)


def test_a_file_with_one_model_needs_no_class_name(file):
    path = file("lone_story.py")
    cls = find(str(path))
    assert cls.__name__ == "Mine" and find(f"{path}:Mine").__name__ == "Mine"
    assert cls.__module__ == "lone_story"
    model = build_for(cls, Data({"x": [[1.0, 2.5], [0.5, 3.0]]}))
    assert model.config() == {"x_dim": 2, "scale": 2.0}
    source = source_of(cls)
    assert source == {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_an_edited_file_is_run_again(file):
    find(str(file("lone_story.py")))
    cls = find(str(file("lone_story.py", STORY.replace("scale=2.0", "scale=5.0"))))
    assert cls().scale == 5.0


@pytest.mark.parametrize("name", ["random.py", "json.py", "torch.py", "conftest.py"])
def test_a_file_hides_no_module(file, name):
    """A story in random.py must not become what ``import random`` gives to everyone else."""
    before = {n: sys.modules.get(n) for n in ("random", "json", "torch", "conftest")}
    cls = find(str(file(name)))
    assert cls().scale == 2.0
    assert all(sys.modules.get(n) is m for n, m in before.items() if m is not None)
    assert random.random() < 1 and json.loads("1") == 1


def test_files_of_one_name_in_two_folders_are_two_modules(file):
    first = find(str(file("a/story_of_two.py")))
    second = find(str(file("b/story_of_two.py", STORY.replace("scale=2.0", "scale=5.0"))))
    assert first is not second and (first().scale, second().scale) == (2.0, 5.0)
    assert sys.modules[first.__module__].Mine is first
    assert sys.modules[second.__module__].Mine is second
    assert source_of(first)["file"] != source_of(second)["file"]


def test_a_file_that_does_not_run_leaves_no_half_module(file):
    path = file("broken_story.py", "raise ZeroDivisionError('as written')")
    with pytest.raises(ZeroDivisionError, match="as written"):
        find(str(path))
    assert "broken_story" not in sys.modules


@pytest.mark.parametrize(
    ("text", "reference", "message"),
    [
        (STORY, ":Main", "unknown class 'Main': did you mean 'Mine'"),
        (STORY + "\n\nclass Other(Mine):\n    pass\n", "", r"2 classes of .*\['Mine', 'Other'\]"),
        ("x = 1", "", "holds no model: write a class of vaeppl.Model"),
        ("from vaeppl.models import VAE", ":VAE", "holds no model"),
        (None, "", "there is no file"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(file, tmp_path, text, reference, message):
    path = tmp_path / "absent.py" if text is None else file("told_story.py", text)
    with pytest.raises(StoryError, match=message):
        find(f"{path}{reference}")


# --- built for data ---


def test_widths_are_taken_from_the_data():
    data = Data({"x": torch.rand(20, 3, 4), "y": torch.arange(20)})

    class Both(Model):
        def __init__(self, x_dim, y_dim=7, z_dim=2, likelihood="none"):
            super().__init__()

    assert build_for(Both, data, {"likelihood": None}).config() == {
        "x_dim": 12, "y_dim": 1, "z_dim": 2, "likelihood": None,
    }  # fmt: skip
    assert build_for(Both, data, {"x_dim": 5}).config()["x_dim"] == 5
    chosen = build_for(Both, data).config()["likelihood"]
    assert isinstance(chosen, likelihoods.ContinuousBernoulli)


def test_unknown_arguments_are_refused():
    data = Data({"x": [[0.0, 1.0]]})
    with pytest.raises(StoryError, match="unknown argument of VAE 'laten_dim': did you"):
        build_for(VAE, data, {"laten_dim": 3})

    class Any(Model):
        def __init__(self, **options):
            super().__init__()

    assert build_for(Any, data, {"anything": 1}).config() == {"anything": 1}


def described(likelihood):
    if isinstance(likelihood, likelihoods.Mixed):
        parts = zip(likelihood.sizes, likelihood.parts, strict=True)
        return [(n, type(p).__name__) for n, p in parts]
    return type(likelihood).__name__


real = Field("a", "real")
CASES = {
    "binary": ([[0, 1], [1, 0]], None, "Bernoulli"),
    "counts": ([[0, 7], [2, 1]], None, "NegativeBinomial"),
    "counts out of a total": ([[0, 7], [2, 1]], [Field("x", "count", total=9)], "Binomial"),
    "unit": ([[0.2, 1.0], [0.0, 0.7]], None, "ContinuousBernoulli"),
    "real": ([[-0.2, 1.0], [10.0, 0.7]], None, "Normal"),
    "positive": ([[0.2, 1.5], [10.0, 0.7]], None, "Normal"),
    "one number a row": ([-1.5, 2.5, 0.3], None, "Normal"),
    "labels": ([0, 2, 1], [Field("x", "categorical")], "Categorical"),
    "mixed": (
        [[0.5, 1, 0, 7, 0.5], [-1.5, 0, 2, 1, 0.2]],
        [real, Field("b", "binary"), Field("c", "categorical"), Field("d", "count"),
         Field("e", "unit")],
        [(1, "Normal"), (1, "Bernoulli"), (1, "Categorical"), (1, "NegativeBinomial"),
         (1, "Normal")],
    ),
    "two totals": (
        [[0, 7], [2, 1]],
        [Field("a", "count", total=3), Field("b", "count", total=9)],
        [(1, "Binomial"), (1, "Binomial")],
    ),
    "categories with other levels": (
        [[0, 3, 1], [1, 2, 0]],
        [Field("a", "categorical", ("u", "v")), Field("b", "categorical", tuple("wxyz")),
         Field("c", "categorical", tuple("wxyz"))],
        [(1, "Categorical"), (2, "Categorical")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("values", "fields", "expected"), CASES.values(), ids=CASES)
def test_the_likelihood_follows_what_the_column_holds(values, fields, expected):
    data = Data({"x": values}, fields=None if fields is None else {"x": fields})
    chosen = likelihood_for(data, "x")
    assert described(chosen) == expected
    # It accepts the values that it was chosen for.
    x = data["x"].reshape(len(data), -1)
    bound = chosen.bind(x.shape[1])
    h = torch.zeros(len(data), bound.num_params)
    assert bound(h).log_prob(x).isfinite().all()
    assert bound.features(x).shape == (len(data), bound.num_features)


def test_the_likelihood_has_the_sizes_of_the_data():
    data, fields = CASES["categories with other levels"][:2]
    mixed = likelihood_for(Data({"x": data}, fields={"x": fields}), "x")
    assert [p.num_classes for p in mixed.parts] == [2, 4]
    total = likelihood_for(Data({"x": [[0, 7]]}, fields={"x": [Field("x", "count", total=9)]}), "x")
    assert total.total_count == 9
    one_level = Data({"x": [[0], [0]]}, fields={"x": [Field("x", "categorical", ("only",))]})
    assert likelihood_for(one_level, "x").num_classes == 2


def test_measurements_get_their_own_unit_where_some_are_missing():
    x = 1e4 * torch.randn(200, 2) + 1e5
    x[3, 0] = float("nan")
    normal = likelihood_for(Data({"x": x}), "x")
    z = normal.bind(2).features(x)
    torch.testing.assert_close(z.nanmean(0), torch.zeros(2), atol=1e-3, rtol=0)
    assert normal.per_column and normal.unit.isfinite().all()


def test_the_likelihood_is_chosen_for_whatever_fit_takes():
    counts = torch.tensor([[0.0, 3.0], [2.0, 9.0]])
    assert isinstance(likelihood_for({"x": counts}, "x"), likelihoods.NegativeBinomial)
    with pytest.raises(DataError, match="no column 'y'"):
        likelihood_for({"x": counts}, "y")


def test_a_model_for_the_digits():
    model = build_for(catalogue.find("vae"), vaeppl.data.load("digits"), {"latent_dim": 2})
    assert isinstance(model.likelihood, likelihoods.Binomial) and model.likelihood.x_dim == 64


def test_the_number_of_labels_is_that_of_the_data():
    data = Data({"x": [[0, 1], [1, 1], [1, 0]], "y": [2, -1, 0]})
    assert build_for(find("m2"), data).num_labels == 3
    assert build_for(find("m2"), data, {"num_labels": 5}).num_labels == 5


def test_a_file_named_without_its_ending(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_story.py").write_text(STORY)
    with pytest.raises(StoryError, match=r"did you mean the file my_story\.py"):
        find("my_story")
    with pytest.raises(StoryError, match="holds 1 class of"):
        find("my_story.py:Other")
