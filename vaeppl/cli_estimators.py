"""The commands about estimators: compare them, and list them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .cli_arguments import Columns, DataOptions, GuideName, ModelName, Settings, load_data, pairs

__all__ = ["compare_estimators", "list_estimators"]

MODES = ("frozen", "trained", "both")


def compare_estimators(
    model: ModelName,
    data: Annotated[str, typer.Option(help="A name (see `vaeppl data`), or a file.")] = "digits",
    estimators: Annotated[
        str | None, typer.Option(help="Names, by commas (see `vaeppl estimators`).")
    ] = None,
    num_particles: Annotated[str, typer.Option(help="Draws for each row; several: 1,8,64.")] = "8",
    mode: Annotated[
        str,
        typer.Option(
            help="trained (fits by each); frozen (at one set of weights: those of a fit by the "
            "ELBO for half of --epochs, made first); or both."
        ),
    ] = "trained",
    epochs: Annotated[
        int, typer.Option(help="Passes over the data; half as many, by the ELBO, before frozen.")
    ] = 50,
    seeds: Annotated[int, typer.Option(help="Fits by each estimator.")] = 5,
    jobs: Annotated[int, typer.Option(help="Fits side by side.")] = 1,
    repeats: Annotated[int, typer.Option(help="Gradients at the frozen weights.")] = 100,
    seed: Annotated[int, typer.Option(help="Fixes draws and splits.")] = 0,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    out: Annotated[Path | None, typer.Option(help="Folder for tables and pictures.")] = None,
    guide: GuideName = None,
    settings: Settings = None,
    data_options: DataOptions = None,
    columns: Columns = None,
) -> None:
    """Compare estimators of the evidence bound: which trains this model best, and why."""
    from . import catalogue
    from .comparison import DEFAULT
    from .comparison import compare_estimators as compare
    from .comparison.candidates import candidates
    from .plots.estimators import save_comparison
    from .training.fit import fit as fit_model

    if mode not in MODES:
        raise typer.BadParameter(f"--mode is frozen, trained or both; given {mode!r}")
    counts = _counts(num_particles)
    _at_least(1, epochs=epochs, seeds=seeds)
    _at_least(2, repeats=repeats)  # of one gradient no variance is known
    names = DEFAULT if estimators is None else [e.strip() for e in estimators.split(",")]
    common: dict[str, Any] = {
        "estimators": names,
        "num_particles": counts if len(counts) > 1 else counts[0],
        "seed": seed,
        "progress": sys.stderr.isatty(),
    }
    candidates(names, common["num_particles"])  # a wrong name is told before anything is fitted
    rows = load_data(data, data_options, columns)
    cls = catalogue.find(model)
    console = Console()
    found = []
    if mode != "trained":
        # At weights half way: neither those of the start nor those of one estimator's end.
        half = max(1, epochs // 2)
        story = catalogue.build_for(cls, rows.train, pairs(settings))
        how: dict[str, Any] = {"epochs": half, "seed": seed, "lr": lr}
        fitted = fit_model(story, rows, guide=guide, progress=False, **how)
        words = f"frozen: at the weights of a fit by the ELBO; epochs {half}, seed {seed}"
        found.append((words, compare(fitted, rows, repeats=repeats, **common)))
    if mode != "frozen":
        story = catalogue.build_for(cls, rows.train, pairs(settings))
        common |= {"epochs": epochs, "lr": lr, "seeds": seeds, "jobs": jobs}
        words = f"trained: fits by each estimator; epochs {epochs}, seeds {seeds}"
        found.append((words, compare(story, rows, guide=guide, mode="trained", **common)))
    for words, one in found:
        console.print(words, soft_wrap=True)
        console.print(one.to_rich())
        if out is not None:
            one.save(out)
            for path in save_comparison(one, out):
                console.print(str(path), soft_wrap=True)
    if out is not None:
        console.print(f"written: {out}", soft_wrap=True)
    if any(one.compared == 0 for _, one in found):
        text = "[red]error:[/red] no estimator could be compared; the reasons are below the table"
        Console(stderr=True).print(text, soft_wrap=True)
        raise typer.Exit(1)


def _counts(text: str) -> list[int]:
    """Return numbers of particles that were typed, by commas."""
    try:
        counts = [int(k) for k in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise typer.BadParameter(
            f"--num-particles takes whole numbers by commas, at least 1; given {text!r}"
        )
    return counts


def _at_least(least: int, **options: int) -> None:
    for name, value in options.items():
        if value < least:
            raise typer.BadParameter(f"--{name} is at least {least}; given {value}")


def list_estimators() -> None:
    """List the estimators of the evidence bound, and what each is good for."""
    from . import estimators as known

    table = Table("name", "account", show_lines=True)
    for name in known.available():
        table.add_row(name, known.about(name))
    Console().print(table)
