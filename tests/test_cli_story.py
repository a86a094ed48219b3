"""The commands for a story of one's own: new, show and check, as a user types them."""

import json
import sys

import pytest

from vaeppl import cli

BERNOULLI = 'pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)'


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Type a command in an empty folder; return its exit status and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")

    def typed(*words):
        monkeypatch.setattr(sys, "argv", ["vaeppl", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out + err

    return typed


def test_new_show_check_and_fit(run, tmp_path):
    code, text = run("new", "my_story.py", "--from", "vae")
    assert code == 0 and "with the class MyStory" in text
    small = ("my_story.py:MyStory", "--data", "digits", "--set", "latent_dim=2")
    code, text = run("show", *small, "--out", "story.dot", "--latex")
    assert code == 0, text
    assert "p(z, x) = ∏ₙ p(zₙ) p(xₙ | zₙ)" in text and "n = 1, …, 1797" in text
    assert "\\prod_{n=1}^{1797}" in text and "digraph" in (tmp_path / "story.dot").read_text()
    code, text = run("check", *small)
    assert code == 0 and "MyStory: nothing wrong" in text
    code, text = run("fit", *small, "--set", "hidden=[8]", "--epochs", 1, "--out", "r", "--quiet")
    assert code == 0, text


def test_a_fault_has_its_line_and_an_exit_status(run, tmp_path):
    run("new", "my_story.py")
    story = tmp_path / "my_story.py"
    text = story.read_text()
    assert BERNOULLI in text
    story.write_text(text.replace(", obs=x)", ")"))
    number = next(
        i for i, line in enumerate(story.read_text().splitlines(), 1) if 'sample("x"' in line
    )
    code, text = run("check", "my_story.py", "--data", "digits")
    assert code == 1 and f"my_story.py:{number}" in text and "obs=x" in text
    code, text = run("check", "my_story.py", "--data", "digits", "--json", "--fast")
    told = json.loads(text)
    assert code == 1 and [f["line"] for f in told["findings"]] == [number]
    code, text = run("fit", "my_story.py", "--data", "digits", "--epochs", 1)
    assert code == 1 and f"my_story.py:{number}" in text.replace("\n", "")


def test_a_guide_from_the_story_alone_is_there_when_the_run_is_read(run):
    small = ("--data", "digits", "--set", "hidden=[8]", "--guide", "auto")
    code, text = run("check", "vae", *small)
    assert code == 0, text
    code, text = run("fit", "vae", *small, "--epochs", 1, "--out", "r", "--quiet")
    assert code == 0, text
    code, text = run("evaluate", "r", "--num-particles", 5)
    assert code == 0 and "log evidence" in text, text
    code, text = run("fit", "vae", "--guide", "best")
    assert code == 1 and "guide is 'auto'" in text


def test_runs_are_compared(run, tmp_path):
    small = ("--data", "digits", "--set", "hidden=[8]", "--epochs", 1, "--quiet")
    for width in (1, 2):
        options = ("--set", f"latent_dim={width}", "--out", f"r{width}")
        assert run("fit", "vae", *small, *options)[0] == 0
    code, text = run("compare", "r1", "r2", "--num-particles", 30, "--out", "c")
    assert code == 0, text
    assert "r1" in text and "difference" in text and "were fitted" in text
    assert {p.name for p in (tmp_path / "c").iterdir()} == {"comparison.csv", "comparison.png"}


def test_rows_that_were_held_out_are_those_compared(run):
    small = ("--data", "wine", "--set", "hidden=[8]", "--epochs", 1, "--quiet")
    assert run("fit", "vae", *small, "--valid", 0.2, "--out", "a")[0] == 0
    assert run("fit", "vae", *small, "--valid", 0.2, "--seed", 1, "--out", "b")[0] == 0
    assert run("fit", "vae", *small, "--test", 0.25, "--valid", 0.1, "--out", "c")[0] == 0
    code, text = run("evaluate", "a", "--num-particles", 5)
    assert code == 0 and "on 36 held-out rows (valid)" in text, text
    code, text = run("evaluate", "a", "--num-particles", 5, "--split", "all")
    assert code == 0 and "on 178 rows, 142 of which equal rows that were fitted (all)" in text, text
    code, text = run("evaluate", "c", "--num-particles", 5)
    assert code == 0 and "on 44 held-out rows (test)" in text, text
    code, text = run("compare", "a", "a", "--num-particles", 5)
    assert code == 1 and "different names" in text
    code, text = run("compare", "a", "b", "--num-particles", 5)
    assert code == 0 and "evidence of 36 rows, " in text and "of which equal rows" in text, text
    assert "k > 0.7" in text
    assert run("fit", "vae", *small, "--out", "d")[0] == 0
    code, text = run("evaluate", "d", "--split", "valid")
    assert code == 1 and "--valid 0.2" in text
    code, text = run("evaluate", "d", "--num-particles", 5)
    assert code == 0 and "on 178 rows that were fitted (all)" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("new", "my_story.py", "--from", "vea"), "did you mean 'vae'"),
        (("new", "my_story"), "add .py"),
        (("new", "vae", "my_story.py"), "vaeppl new my_story.py --from vae"),
        (("new", "my-story.py"), "such as my_story.py"),
        (("new", "1.py"), "such as my_1.py"),
        (("new", "none/my_story.py"), "there is no folder none"),
        (("new", "my_story.py", "--name", "my story"), "is no name for a class"),
        (("show", "vae", "--out", "story.gif"), "a diagram is .svg"),
        (("check", "none.py:Story"), "no file"),
        (("check", "vae", "--data", "digit"), "digits"),
    ],
)
def test_bad_input_is_one_sentence(run, words, message):
    code, text = run(*words)
    assert code != 0
    assert message in text.replace("\n", " ")
    assert "Traceback" not in text


def test_a_file_that_is_there_is_kept(run):
    assert run("new", "my_story.py")[0] == 0
    code, text = run("new", "my_story.py")
    assert code == 1 and "is there already" in text
    assert run("new", "my_story.py", "--force", "--from", "cvae")[0] == 0
