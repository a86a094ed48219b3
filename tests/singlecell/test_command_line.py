"""Cells at the command line: from an .h5ad file to a fit, its evaluation, and other cells."""

import json
import sys

import anndata
import numpy as np
import pandas as pd
import pytest

from vaeppl import cli

SMALL = ("--set", "hidden=[8]", "--set", "latent_dim=2", "--epochs", 1, "--quiet")
COLUMNS = ("--data-option", "layer=counts", "--column", "batch=donor")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Type a command in a folder with cells; return its exit status and what it printed."""
    noise = np.random.default_rng(0)
    counts = np.float32(noise.poisson(3.0, (60, 5)) + 1)
    obs = {"donor": list("abc") * 20, "cell_type": ["T", "B", "unknown"] * 20}
    obs |= {"age": noise.normal(size=60), "depth": noise.normal(size=60)}
    index = [f"c{i}" for i in range(60)]
    cells = anndata.AnnData(np.log1p(counts), obs=pd.DataFrame(obs, index=index))
    cells.layers["counts"] = counts
    cells.write_h5ad(tmp_path / "cells.h5ad")
    cells[cells.obs["donor"] == "c"][:, ::-1].copy().write_h5ad(tmp_path / "other.h5ad")
    strange = cells[:3].copy()
    strange.obs["donor"] = list("abz")
    strange.write_h5ad(tmp_path / "strange.h5ad")
    monkeypatch.chdir(tmp_path)

    def typed(*words):
        monkeypatch.setattr(sys, "argv", ["vaeppl", *map(str, words)])
        monkeypatch.setattr(cli.console, "width", 120, raising=False)
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, " ".join((out + err).split())

    return typed


def test_a_fit_of_a_file(run, tmp_path):
    code, text = run("fit", "scvi", "--data", "cells.h5ad", *COLUMNS, *SMALL, "--out", "r")
    assert code == 0, text
    arguments = json.loads((tmp_path / "r/config.json").read_text())["model"]["config"]["arguments"]
    assert (arguments["x_dim"], arguments["num_batches"]) == (5, 3)
    columns = json.loads((tmp_path / "r/columns.json").read_text())
    assert columns["batch"] == {"names": ["donor"], "levels": [["a", "b", "c"]], "layer": None}
    assert columns["x"]["layer"] == "counts"
    code, text = run("evaluate", "r", "--num-particles", 5)
    assert code == 0 and "log evidence" in text, text
    code, text = run("plot", "r")
    assert code == 0 and "learning_curve.png" in text, text


def test_other_cells_have_the_codes_and_the_genes_of_those_that_were_fitted(run):
    assert run("fit", "scvi", "--data", "cells.h5ad", *COLUMNS, *SMALL, "--out", "r")[0] == 0
    code, text = run("evaluate", "r", "--data", "other.h5ad", "--num-particles", 5)
    assert code == 0 and "on 20 rows" in text, text
    code, text = run("evaluate", "r", "--data", "strange.h5ad", "--num-particles", 5)
    assert code == 1 and "'donor' of adata.obs holds 'z' at row 2" in text


def test_labels_and_covariates(run, tmp_path):
    more = ("--column", "y=cell_type", "--column", "continuous=age,depth")
    code, text = run("fit", "scanvi", "--data", "cells.h5ad", *COLUMNS, *more, *SMALL, "--out", "r")
    assert code == 0, text
    columns = json.loads((tmp_path / "r/columns.json").read_text())
    assert columns["y"]["levels"] == [["B", "T"]]
    assert columns["continuous"]["names"] == ["age", "depth"]
    arguments = json.loads((tmp_path / "r/config.json").read_text())["model"]["config"]["arguments"]
    assert (arguments["num_labels"], arguments["continuous_dim"]) == (2, 2)


@pytest.mark.parametrize("words", [("--likelihood", "nb"), ("--set", "likelihood=nb")])
def test_a_likelihood_by_its_name(run, tmp_path, words):
    code, text = run("fit", "scvi", "--data", "cells.h5ad", *COLUMNS, *SMALL, *words, "--out", "r")
    assert code == 0, text
    config = json.loads((tmp_path / "r/config.json").read_text())
    assert config["model"]["config"]["arguments"]["likelihood"] == "nb"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*COLUMNS, "--likelihood", "negative_binomial"), "Known: nb, poisson, zinb"),
        ((*COLUMNS[:2], "--column", "batch=donr"), "no column 'donr'; did you mean 'donor'"),
        (("--data-option", "layer=count"), "no layer 'count'; did you mean 'counts'"),
        (("--column", "batch=donor"), "layer 'counts' looks like counts: pass layer='counts'"),
        ((*COLUMNS, "--column", "x=counts"), "give layer='counts'"),
        ((*COLUMNS, "--prior", "laplace"), "unknown argument of SCVI 'prior'"),
    ],
)
def test_bad_input_is_one_sentence(run, words, message):
    code, text = run("fit", "scvi", "--data", "cells.h5ad", *words, *SMALL)
    assert code == 1
    assert message in text
    assert "Traceback" not in text


def test_the_simulated_cells(run):
    small = ("--data-option", "cells=100", "--data-option", "genes=20")
    code, text = run("fit", "scvi", "--data", "simulated_cells", *small, *SMALL, "--out", "r")
    assert code == 0, text
