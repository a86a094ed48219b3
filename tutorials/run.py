"""Run the tutorials: execute notebooks in place, or only check that they execute."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

HERE = Path(__file__).resolve().parent
FAILURES = (CellExecutionError, CellTimeoutError, DeadKernelError)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # in tracebacks, for a terminal
CELL_SECONDS = 600  # a cell that takes longer hangs
# Without ipywidgets, tqdm advises to install them as Pyro is imported: nothing that a page needs.
QUIET = "ignore:IProgress not found"
# Notes of when a cell ran would make each run differ from the last.
VOLATILE = ("execution", "collapsed", "scrolled")


def notebooks(folder: Path = HERE) -> list[Path]:
    """Return the notebooks of a folder, in order."""
    return sorted(folder.glob("*.ipynb"))


def execute(path: Path) -> nbformat.NotebookNode:
    """Return the notebook with the outputs of a fresh run; the file is left as it is.

    Raises
    ------
    CellExecutionError, CellTimeoutError, DeadKernelError
        A cell failed, hung, or took the kernel down.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.resolve().parent)}},
        extra_arguments=["--log-level=ERROR"],
    )
    quiet = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), QUIET]))
    client.execute(env={**os.environ, "PYTHONWARNINGS": quiet})
    for cell in notebook.cells:
        for key in VOLATILE:
            cell.metadata.pop(key, None)
    # One line, whichever Python ran it.
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook whole or not at all."""
    text = nbformat.writes(notebook)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        Path(name).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def run(path: Path, *, check: bool) -> bool:
    """Execute a notebook, write it unless ``check``, and tell whether it ran without error."""
    started = time.perf_counter()
    print(f"{path.name}: running ...", flush=True)
    try:
        notebook = execute(path)
    except FAILURES as error:
        seconds = time.perf_counter() - started
        print(f"{path.name}: FAILED after {seconds:.0f} s; the file is unchanged", flush=True)
        print(COLOUR.sub("", str(error)).rstrip(), file=sys.stderr, flush=True)
        return False
    seconds = time.perf_counter() - started
    if check:
        print(f"{path.name}: ok in {seconds:.0f} s", flush=True)
        return True
    write(notebook, path)
    kilobytes = path.stat().st_size / 1024
    print(f"{path.name}: ok in {seconds:.0f} s, written ({kilobytes:.0f} kB)", flush=True)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the notebooks named on the command line, or all; return the number that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="those of this folder if none")
    parser.add_argument("--check", action="store_true", help="execute, and write nothing")
    options = parser.parse_args(arguments)
    paths = options.notebooks or notebooks()
    if not paths:
        parser.error(f"there is no notebook in {HERE}")
    if missing := [str(p) for p in paths if not p.is_file()]:
        parser.error(f"no such notebook: {', '.join(missing)}")
    failed = [p.name for p in paths if not run(p, check=options.check)]
    print(f"{len(paths) - len(failed)} of {len(paths)} notebooks ran without error", flush=True)
    return len(failed)


if __name__ == "__main__":
    raise SystemExit(min(main(), 1))
