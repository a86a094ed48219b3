"""What the README shows, runs."""

import re
from pathlib import Path

import matplotlib
import pytest

import vaeppl
from vaeppl.catalogue import entries

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch):
    matplotlib.use("Agg")
    fit = vaeppl.fit

    def short(*args, **kwargs):
        return fit(*args, **{**kwargs, "epochs": 2, "progress": False})

    monkeypatch.setattr(vaeppl, "fit", short, raising=False)


def test_the_example_on_top():
    names: dict = {}
    exec(BLOCKS[0], names)
    assert len(names["fit"].history) == 2


def test_the_edits():
    names: dict = {}
    exec("from vaeppl.models import VAE\nfrom vaeppl.nets import ConvDecoder, ConvEncoder", names)
    for block in (b for b in BLOCKS if "likelihoods, priors" in b or "class Scaled" in b):
        exec(block, names)
    import torch

    noise = vaeppl.likelihoods.Normal(scale=1.0)
    story = names["Scaled"](6, 2, likelihood=noise, hidden=(8,))
    data = {"x": torch.randn(40, 6)}
    assert vaeppl.check(story, data).findings == ()
    run = vaeppl.fit(story, data)
    assert (run.history["global"] < 0).all()


def test_a_guide_from_the_story_alone():
    import torch

    names = {"vaeppl": vaeppl, "story": vaeppl.models.VAE(6, 2, hidden=(8,))}
    names["data"] = {"x": (torch.rand(40, 6) < 0.5).float()}
    exec(next(b for b in BLOCKS if 'guide="auto"' in b), names)
    assert len(names["fit"].history) == 2


def test_few_labels():
    names: dict = {"vaeppl": vaeppl}
    exec("from vaeppl.likelihoods import Binomial", names)
    exec(next(b for b in BLOCKS if "few_labels" in b), names)
    assert set(names["fit"].encode(names["digits"].test)) == {"y", "z"}


def test_correlated_rows():
    names: dict = {"vaeppl": vaeppl}
    exec(next(b for b in BLOCKS if "gp.predict" in b), names)
    assert bool((names["lower"] < names["upper"]).all()) and len(names["lower"]) == len(
        names["turned"].valid
    )


@pytest.mark.data
def test_the_data(tmp_path, monkeypatch):
    (tmp_path / "table.csv").write_text("length,mass,species\n1.0,2.0,a\n1.5,2.5,b\n")
    monkeypatch.chdir(tmp_path)
    exec(next(b for b in BLOCKS if "data.available" in b), {"vaeppl": vaeppl})


def test_every_model_stands_in_the_table():
    for entry in entries():
        assert f"| `{entry.name}` | `vaeppl.models.{entry.class_name}` |" in README


def test_the_comparison_of_estimators(monkeypatch):
    compare = vaeppl.compare_estimators

    def short(*args, mode="frozen", **kwargs):
        less = {"epochs": 1, "seeds": 1, "evidence_particles": 10} if mode == "trained" else {}
        few = {"estimators": ["elbo", "iwae"], "repeats": 2, "reference_particles": 8}
        return compare(*args, mode=mode, **{**kwargs, **few, **less})

    monkeypatch.setattr(vaeppl, "compare_estimators", short, raising=False)
    names: dict = {}
    exec(BLOCKS[0], names)
    block = next(b for b in BLOCKS if "compare_estimators" in b)
    exec(block.replace("VAE(64,", "VAE(64, 2, hidden=(8,),"), names)
    assert (names["trained"].table["reason"] == "").all()
    assert list(names["frozen"].table.index) == ["elbo", "iwae"]


def test_every_command_is_one():
    from typer.main import get_command

    from vaeppl.cli import app

    shown = set(re.findall(r"^vaeppl ([\w-]+)", README, flags=re.MULTILINE))
    assert shown <= set(get_command(app).commands)


def test_deep_stories_and_codes():
    names: dict = {"vaeppl": vaeppl}
    exec("from vaeppl.likelihoods import Binomial", names)
    block = next(b for b in BLOCKS if "BetaVAE" in b)
    exec(block.replace('["factors"])', '["factors"], repeats=1, trees=2)'), names)
    assert list(names["deep"].elbo().site_kl) == ["z2", "z1"]
