"""A copy of any model is a file of its own, that works as the original does."""

import ast

import pytest
import torch

import vaeppl
from vaeppl import catalogue
from vaeppl.errors import StoryError
from vaeppl.models import VAE

NAMES = [entry.name for entry in catalogue.entries()]


@pytest.mark.parametrize("name", NAMES)
def test_every_model_is_copied_into_one_class_that_imports_public_names(name, tmp_path):
    path = vaeppl.copy_model(name, tmp_path / "my_story.py")
    cls = catalogue.find(f"{path}:MyStory")
    assert cls.__name__ == "MyStory" and cls.__module__ != catalogue.find(name).__module__
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level  # nothing relative
            names = [*(node.module or "").split("."), *(a.name for a in node.names)]
            assert not any(n.startswith("_") and n != "__future__" for n in names)
    assert catalogue.find(name).__name__ not in [
        n.name for n in tree.body if isinstance(n, ast.ClassDef)
    ]


def test_a_copy_gives_the_numbers_of_the_original(tmp_path):
    data = {"x": (torch.rand(40, 6) < 0.4).float()}
    cls = catalogue.find(str(vaeppl.copy_model(VAE, tmp_path / "mine.py", name="Mine")))
    ours, theirs = (
        vaeppl.fit(c(6, 2, hidden=(8,)), data, epochs=2, seed=1, progress=False) for c in (VAE, cls)
    )
    assert ours.elbo(data).mean == theirs.elbo(data).mean


def test_a_copy_of_a_copy(tmp_path):
    first = vaeppl.copy_model("vae", tmp_path / "first.py")
    second = vaeppl.copy_model(f"{first}:First", tmp_path / "second.py")
    assert catalogue.find(str(second)).__name__ == "Second"


def test_what_cannot_be_copied(tmp_path):
    with pytest.raises(StoryError, match="another meaning"):
        vaeppl.copy_model("vae", tmp_path / "a.py", name="MLP")
    with pytest.raises(StoryError, match=r"add \.py"):
        vaeppl.copy_model("vae", tmp_path / "a.txt")
