"""The comparison at the command line."""

from __future__ import annotations

import matplotlib
import pandas as pd
import pytest
from typer.testing import CliRunner

from vaeppl import estimators
from vaeppl.cli import app

matplotlib.use("Agg")

STORY = """
import pyro, torch, pyro.distributions as dist
from torch import nn
import vaeppl
from vaeppl import rows


class Line(vaeppl.Model):
    def __init__(self):
        super().__init__()
        self.a, self.log_s = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(0.0))

    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with rows(x):
            pyro.sample("z", dist.Normal(self.a * x, self.log_s.exp()))
"""


@pytest.fixture
def run(tmp_path):
    """Run the command on a small story and table, and return what it printed."""
    (tmp_path / "story.py").write_text(STORY)
    pd.DataFrame({"x": [0.1 * i - 1 for i in range(40)]}).to_csv(tmp_path / "t.csv", index=False)

    def invoke(*arguments):
        fixed = [str(tmp_path / "story.py:Line"), "--data", str(tmp_path / "t.csv")]
        fixed += ["--column", "x=x", "--epochs", "2"]
        return CliRunner().invoke(app, ["compare-estimators", *fixed, *arguments])

    return invoke


def test_both_modes_with_tables_and_pictures(run, tmp_path):
    out = tmp_path / "out"
    options = ["--estimators", "elbo,iwae,score_function", "--mode", "both", "--seeds", "2"]
    result = run(*options, "--repeats", "4", "--num-particles", "2,4", "--out", str(out))
    assert result.exit_code == 0, result.output
    frozen = pd.read_csv(out / "frozen.csv", index_col=0)
    assert list(frozen.index)[:2] == ["elbo, K=2", "elbo, K=4"]
    trained = pd.read_csv(out / "trained.csv", index_col=0)
    assert (
        trained.loc["iwae, K=4", "seeds"] == 2 and trained.loc["score_function, K=2", "seeds"] == 0
    )
    names = {p.name for p in out.iterdir()}
    assert {"gaps.png", "curves_by_step.png", "signal_to_noise_guide.png", "elpd.csv"} <= names
    assert "iwae, K=2" in result.output


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--mode", "half", "--mode is frozen, trained or both"),
        ("--num-particles", "a", "whole numbers by commas, at least 1; given 'a'"),
        ("--num-particles", "0", "whole numbers by commas, at least 1; given '0'"),
        ("--num-particles", "4,-1", "whole numbers by commas, at least 1; given '4,-1'"),
        ("--num-particles", "2.5", "whole numbers by commas, at least 1; given '2.5'"),
        ("--epochs", "0", "--epochs is at least 1; given 0"),
        ("--seeds", "0", "--seeds is at least 1; given 0"),
        ("--repeats", "1", "--repeats is at least 2; given 1"),
    ],
)
def test_bad_options_are_refused_before_anything_is_fitted(
    run, monkeypatch, option, value, message
):
    monkeypatch.setattr("vaeppl.training.fit.fit", None)
    result = run("--mode", "both", option, value)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", "").split())


def test_a_wrong_name_is_told_before_anything_is_fitted(run, monkeypatch):
    monkeypatch.setattr("vaeppl.training.fit.fit", None)
    assert "did you mean 'iwae'" in str(run("--estimators", "iwa", "--mode", "frozen").exception)


def test_it_says_at_which_weights_it_is_frozen(run):
    options = ["--estimators", "elbo", "--repeats", "2", "--num-particles", "2"]
    result = run("--mode", "frozen", *options)
    assert result.output.startswith("frozen: at the weights of a fit by the ELBO; epochs 1, seed 0")
    help_text = CliRunner().invoke(app, ["compare-estimators", "--help"], terminal_width=300).output
    assert "half of --epochs, made first" in " ".join(help_text.replace("│", "").split())


@pytest.mark.parametrize("mode", ["frozen", "trained"])
def test_where_no_estimator_can_be_compared_it_fails_and_says_why(run, mode):
    few = ["--repeats", "2", "--seeds", "1", "--num-particles", "2"]
    result = run("--mode", mode, "--estimators", "score_function,trace_enum_elbo", *few)
    assert result.exit_code == 1
    said = " ".join(result.output.split())
    assert "score_function: every latent can be reparametrised" in said
    assert "trace_enum_elbo: no latent is marked to be enumerated" in said
    assert "no estimator could be compared" in said
    result = run("--mode", mode, "--estimators", "score_function,elbo", *few)
    assert result.exit_code == 0 and "score_function: every latent can be" in result.output


def test_every_estimator_is_listed():
    result = CliRunner().invoke(app, ["estimators"])
    assert result.exit_code == 0
    found = result.output.replace(" ", "").replace("\n", "")
    assert all(name[:8] in found for name in estimators.available())


def test_a_guide_that_is_made_from_the_story_takes_gaps(tmp_path):
    rows = ["a,b", *(f"{i / 7},{i % 5}" for i in range(20)), "1.5,"]
    (tmp_path / "gaps.csv").write_text("\n".join(rows))
    command = ["compare-estimators", "vae", "--data", str(tmp_path / "gaps.csv")]
    command += ["--estimators", "elbo", "--set", "likelihood=normal", "--set", "latent_dim=1"]
    command += ["--mode", "both", "--repeats", "2", "--seeds", "1", "--epochs", "1"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1
    assert "takes no missing" in refused.output + str(refused.exception)
    told = CliRunner().invoke(app, [*command, "--guide", "auto"])
    assert told.exit_code == 0, told.output
