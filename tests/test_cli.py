"""The command line, as a user types it."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from vaeppl import cli

STORY = '''
"""A story of one's own."""
import pyro, pyro.distributions as dist, torch
from vaeppl import rows
from vaeppl.models import VAE

class MyVAE(VAE):
    def model(self, x=None):
        with rows(x):
            prior = dist.StudentT(4.0, torch.zeros(self.prior.latent_dim), 1.0)
            z = pyro.sample("z", prior.to_event(1))
            pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)
'''


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Type a command in an empty folder; return its exit status and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def typed(*words):
        monkeypatch.setattr(sys, "argv", ["vaeppl", *map(str, words)])
        monkeypatch.setattr(cli.console, "width", 120, raising=False)
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out + err

    return typed


SMALL = ("--set", "hidden=[16]", "--set", "latent_dim=2", "--epochs", 2)


def test_lists_of_models_and_data(run):
    code, text = run("models")
    assert code == 0 and "vaeppl.models.VAE" in text
    code, text = run("data")
    assert code == 0 and "digits" in text and "mnist" in text


def test_fit_evaluate_and_plot_a_named_model_on_named_data(run, tmp_path):
    code, text = run("fit", "vae", "--data", "digits", *SMALL, "--out", "r")
    assert code == 0, text
    assert "Binomial(total_count=16)" in text
    folder = tmp_path / "r"
    assert {"config.json", "history.csv", "weights.safetensors"} <= {
        p.name for p in folder.iterdir()
    }
    assert len(pd.read_csv(folder / "history.csv")) == 2
    code, text = run("evaluate", "r", "--num-particles", 20)
    assert code == 0, text
    assert "log evidence" in text
    summary = json.loads((folder / "evaluation.json").read_text())
    assert summary["rows"] == 1797
    assert summary["log_evidence"] >= summary["elbo"]
    code, text = run("plot", "r")
    assert code == 0, text
    assert list((folder / "plots").glob("*.png"))


def test_a_users_own_file_and_table_work_the_same_way(run, tmp_path):
    (tmp_path / "my_story.py").write_text(STORY)
    frame = pd.DataFrame(
        {"a": [0.1, 0.5, 0.9] * 10, "b": [1.5, -2.0, 0.3] * 10, "c": ["u", "v", "w"] * 10}
    )
    frame.to_csv(tmp_path / "my.csv", index=False)
    code, text = run("fit", "my_story.py:MyVAE", "--data", "my.csv", *SMALL, "--out", "r")
    assert code == 0, text
    assert "Mixed" in text
    code, text = run("evaluate", "r", "--num-particles", 10)
    assert code == 0, text
    (tmp_path / "my_story.py").write_text(STORY + "\n# edited\n")
    code, text = run("evaluate", "r")
    assert code == 1 and "has changed since the run" in text
    code, text = run("evaluate", "r", "--model", "my_story.py:MyVAE", "--num-particles", 10)
    assert code == 0, text


def test_chosen_columns_likelihood_prior_and_held_out_rows(run, tmp_path):
    code, text = run(
        "fit", "vae", "--data", "wine", "--likelihood", "student_t:5,scale=predicted",
        "--prior", "mixture:3", "--valid", "0.2", "--kl-weight", "linear", "--out", "r", *SMALL,
    )  # fmt: skip
    assert code == 0, text
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    arguments = config["model"]["config"]["arguments"]
    assert arguments["likelihood"]["arguments"]["df"] == 5
    assert arguments["prior"]["arguments"]["components"] == 3
    assert "held-out" in text


def test_resume(run, tmp_path):
    fit = ("fit", "vae", "--data", "digits", *SMALL, "--out", "r")
    assert run(*fit)[0] == 0
    code, text = run(*fit)
    assert code == 1 and "pass resume=True" in text
    assert run(*fit, "--resume")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fit", "vea"), "did you mean 'vae'"),
        (("fit", "vae", "--data", "digit"), "digits"),
        (("fit", "vae", "--data", "none.csv"), "none.csv"),
        (("fit", "vae", "--likelihood", "poison"), "did you mean 'poisson'"),
        (("fit", "vae", "--prior", "laplac"), "did you mean 'laplace'"),
        (("fit", "vae", "--set", "latent=3"), "did you mean 'latent_dim'"),
        (("fit", "vae", "--set", "latent_dim"), "NAME=VALUE"),
        (("fit", "vae", "--likelihood", "bernoulli"), "0 or 1"),
        (("fit", "vae", "--batch-size", "5000"), "1797"),
        (("fit", "none.py:Story"), "no file"),
        (("evaluate", "nowhere"), "no config.json"),
        (("evaluate",), "Missing argument"),
    ],
)
def test_bad_input_is_one_sentence(run, tmp_path, words, message):
    code, text = run(*words)
    assert code != 0
    assert message in text.replace("\n", " ")
    assert "Traceback" not in text
    assert not (tmp_path / "runs").exists()


def test_help_answers_without_loading_torch():
    code = """
import sys
sys.argv = ["vaeppl", "--help"]
from vaeppl.cli import main
try:
    main()
finally:
    print("loaded" if "torch" in sys.modules else "not loaded")
"""
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert out.strip().endswith("not loaded")


def test_a_conditional_model_takes_its_columns_by_name(run, tmp_path):
    code, text = run(
        "fit", "cvae", "--data", "digits", "--column", "x=y", "--column", "y=x", *SMALL,
        "--out", "r",
    )  # fmt: skip
    assert code == 0, text
    arguments = json.loads((tmp_path / "r" / "config.json").read_text())["model"]["config"][
        "arguments"
    ]
    assert arguments["condition"]["arguments"] == {"num_classes": 10}
    assert arguments["likelihood"]["arguments"] == {"total_count": 16}
    code, text = run("evaluate", "r", "--num-particles", 5)
    assert code == 0, text
    code, text = run("plot", "r")
    assert code == 0, text


def test_a_story_without_evidence_is_evaluated_and_drawn_as_far_as_it_goes(run, tmp_path):
    code, text = run("fit", "autoencoder", "--data", "digits", *SMALL, "--out", "r")
    assert code == 0, text
    code, text = run("evaluate", "r")
    assert code == 0 and "rows have none under this story" in text, text
    assert "objective" in text and "ELBO" not in text
    summary = json.loads((tmp_path / "r/evaluation.json").read_text())
    assert summary["log_evidence"] is None and summary["kl"] == 0
    assert not (tmp_path / "r/evidence.csv").exists()
    code, text = run("plot", "r")
    assert code == 0, text
    drawn = {p.stem for p in (tmp_path / "r/plots").iterdir()}
    assert "reconstructions" in drawn and not drawn & {"samples", "evidence", "chain"}


def test_few_labels_are_kept_scored_and_drawn(run, tmp_path):
    words = ("--labels-per-class", 10, *SMALL, "--out", "r", "--quiet")
    code, text = run("fit", "m2", "--data", "digits", *words)
    assert code == 0, text
    code, text = run("evaluate", "r", "--num-particles", 5)
    assert code == 0, text
    assert "labels: error" in text and "(100 rows)" in text  # the others stay hidden
    assert (
        0 <= json.loads((tmp_path / "r/evaluation.json").read_text())["label_error_percent"] <= 100
    )
    code, text = run("plot", "r")
    assert code == 0, text
    assert {"confusion.png", "analogies.png"} <= {p.name for p in (tmp_path / "r/plots").iterdir()}


def test_an_estimator_that_cannot_sum_out(run):
    words = ("--labels-per-class", 10, *SMALL, "--estimator", "trace_elbo")
    code, text = run("fit", "m2", "--data", "digits", *words)
    assert code == 1
    assert "cannot sum out 'y'" in text and "'trace_enum_elbo'" in text
