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


def test_bad_options_are_refused(run):
    assert "--mode is frozen, trained or both" in run("--mode", "half").output
    assert "takes whole numbers by commas" in run("--num-particles", "a").output
    assert "did you mean 'iwae'" in str(run("--estimators", "iwa", "--mode", "frozen").exception)


def test_every_estimator_is_listed():
    result = CliRunner().invoke(app, ["estimators"])
    assert result.exit_code == 0
    found = result.output.replace(" ", "").replace("\n", "")
    assert all(name[:8] in found for name in estimators.available())
