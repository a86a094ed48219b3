"""The tutorials run, and what is kept of them is a clean page."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

FOLDER = Path(__file__).resolve().parents[1] / "tutorials"
LARGEST = 1.5e6  # bytes of a notebook with its pictures
PRINTS = re.compile(r"^\s*print\(|plt\.subplots\(|vaeppl\.plots\.", re.MULTILINE)
LOCAL_PATH = re.compile(
    r"(?<![\w.:/])/(?:home|root|tmp|work|usr|opt|var|Users|private|mnt)/|[A-Z]:\\"
)


PLACEHOLDER = re.compile(r"@@|\bTODO\b|\bFIXME\b|\bXXX\b")


def load_run():
    spec = importlib.util.spec_from_file_location("tutorials_run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run = load_run()
NOTEBOOKS = run.notebooks()
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def texts(cell):
    """Yield what a cell has put out as text, pictures left out."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        for kind, value in output.get("data", {}).items():
            if kind.startswith("text/"):
                yield value


def assert_clean_outputs(notebook):
    for number, cell in enumerate(code_cells(notebook), start=1):
        for output in cell.outputs:
            assert output.output_type != "error", f"cell {number} failed: {output.get('evalue')}"
            assert output.get("name") != "stderr", f"cell {number} warns: {output.text}"
        for text in texts(cell):
            found = LOCAL_PATH.search(text)
            assert not found, f"cell {number} shows a local path: {text[found.start() :][:80]}"


def shows_something(cell):
    """Tell whether a cell prints, draws, or ends in an expression that is not silenced."""
    if PRINTS.search(re.sub(r"^def .*?(?=^\S|\Z)", "", cell.source, flags=re.M | re.S)):
        return True
    last = cell.source.rstrip().splitlines()[-1]
    return last.startswith(("pd.DataFrame", ")")) and not last.endswith(";")


def test_there_is_a_tutorial():
    assert NOTEBOOKS


@each_notebook
def test_it_runs(path):
    before = path.read_bytes()
    notebook = run.execute(path)
    assert_clean_outputs(notebook)
    assert path.read_bytes() == before


@each_notebook
def test_the_file_is_a_valid_notebook_of_moderate_size(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    assert path.stat().st_size < LARGEST


@each_notebook
def test_the_cells_were_executed_in_order(path):
    counts = [c.execution_count for c in code_cells(nbformat.read(path, as_version=4))]
    assert counts == list(range(1, len(counts) + 1))


@each_notebook
def test_outputs_are_kept_and_clean(path):
    notebook = nbformat.read(path, as_version=4)
    assert_clean_outputs(notebook)
    for number, cell in enumerate(code_cells(notebook), start=1):
        assert cell.outputs or not shows_something(cell), f"cell {number} lost its output"


@each_notebook
def test_nothing_was_left_to_fill_in(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not PLACEHOLDER.search(cell.source), f"a placeholder is left: {cell.source[:80]}"


@each_notebook
def test_every_figure_is_embedded(path):
    for number, cell in enumerate(code_cells(nbformat.read(path, as_version=4)), start=1):
        figures = [o for o in cell.outputs if "<Figure" in o.get("data", {}).get("text/plain", "")]
        assert all("image/png" in o.data for o in figures), f"cell {number} has lost its picture"


# --- run.py ---


@pytest.fixture
def made(tmp_path):
    """Return a function that writes a notebook of the given cells."""

    def make(name, *sources):
        cells = [new_markdown_cell("A page."), *map(new_code_cell, sources)]
        path = tmp_path / name
        nbformat.write(new_notebook(cells=cells), path)
        return path

    return make


def test_run_writes_outputs_in_order(made, capsys):
    path = made("good.ipynb", "a = 1\nprint(a)", "a + 1")
    assert run.main([str(path)]) == 0
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [c.execution_count for c in cells] == [1, 2]
    assert cells[0].outputs[0].text == "1\n"
    assert cells[1].outputs[0].data["text/plain"] == "2"
    assert [p.name for p in path.parent.iterdir()] == ["good.ipynb"]
    assert "good.ipynb: ok" in capsys.readouterr().out


def test_check_writes_nothing_and_counts_failures(made, capsys):
    good, bad = made("good.ipynb", "1 + 1"), made("bad.ipynb", "print(1)", "1 / 0")
    before = [good.read_bytes(), bad.read_bytes()]
    assert run.main(["--check", str(good), str(bad)]) == 1
    assert [good.read_bytes(), bad.read_bytes()] == before
    captured = capsys.readouterr()
    assert "bad.ipynb: FAILED" in captured.out
    assert "ZeroDivisionError" in captured.err
    assert "1 of 2 notebooks ran without error" in captured.out


def test_a_failed_run_leaves_the_file_as_it_was(made):
    bad = made("bad.ipynb", "1 / 0")
    before = bad.read_bytes()
    assert run.main([str(bad)]) == 1
    assert bad.read_bytes() == before


def test_a_write_that_fails_leaves_the_file_as_it_was(made, monkeypatch):
    path = made("good.ipynb", "1 + 1")
    before = path.read_bytes()

    def refuse(source, target):
        raise OSError("no space left")

    monkeypatch.setattr(run.os, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        run.write(new_notebook(), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["good.ipynb"]


def test_a_notebook_that_is_not_there_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run.main([str(tmp_path / "absent.ipynb")])
    assert "absent.ipynb" in capsys.readouterr().err
