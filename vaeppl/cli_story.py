"""The commands for a story of one's own: new, show and check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .cli_arguments import (
    Columns,
    DataOptions,
    GuideName,
    LikelihoodName,
    ModelName,
    PriorName,
    Settings,
    build_story,
    load_data,
)

__all__ = ["check", "new", "show"]

DataName = Annotated[str, typer.Option("--data", help="A name (see `vaeppl data`), or a file.")]


def new(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The file to write: my_story.py.")],
    source: Annotated[
        str, typer.Option("--from", help="A name (see `vaeppl models`), or FILE.py:Class.")
    ] = "vae",
    name: Annotated[
        str | None, typer.Option(help="Name of the class; made of the file's if not given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Copy a model into a file of your own, to be edited."""
    from .copying import class_name_for, copy_model

    if context.args:
        other = context.args[0]
        written, model = (other, file) if other.endswith(".py") else (file, other)
        raise typer.BadParameter(
            f"it takes one file, and the model by --from: vaeppl new {written} --from {model}"
        )
    path = copy_model(source, file, name=name, overwrite=force)
    written = name or class_name_for(path)
    console = Console()
    console.print(f"written: {path}, with the class {written}", soft_wrap=True)
    console.print(
        f"next: edit it, then vaeppl check {path}:{written} --data DATA   "
        f"vaeppl fit {path}:{written} --data DATA",
        soft_wrap=True,
    )


def show(
    model: ModelName,
    data: DataName = "digits",
    out: Annotated[
        Path | None, typer.Option(help="File for the plate diagram: story.svg, .png or .pdf.")
    ] = None,
    draws: Annotated[int, typer.Option(help="Rows to draw from the story.")] = 3,
    latex: Annotated[bool, typer.Option("--latex", help="The joint density in LaTeX.")] = False,
    likelihood: LikelihoodName = None,
    prior: PriorName = None,
    settings: Settings = None,
    data_options: DataOptions = None,
    columns: Columns = None,
) -> None:
    """Show a story on one screen: diagram, sites, joint density, parameters and draws."""
    from .showing import show as show_story

    rows = load_data(data, data_options, columns)
    story, _ = build_story(model, rows, settings, likelihood, prior)
    shown = show_story(story, rows, num_draws=draws)
    console = Console()
    console.print(shown)
    if latex:
        console.print(shown.latex, soft_wrap=True, markup=False, highlight=False)
    if out is not None:
        console.print(f"written: {shown.save(out)}", soft_wrap=True)


def check(
    model: ModelName,
    data: DataName = "digits",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for tools.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Only what a fit checks too.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Let warnings count as errors.")] = False,
    estimator: Annotated[str, typer.Option(help="The estimator that a fit will use.")] = "elbo",
    guide: GuideName = None,
    likelihood: LikelihoodName = None,
    prior: PriorName = None,
    settings: Settings = None,
    data_options: DataOptions = None,
    columns: Columns = None,
) -> None:
    """Look for what is wrong with a story; the exit status is 1 where there is an error."""
    from .checks import check_story

    rows = load_data(data, data_options, columns)
    story, _ = build_story(model, rows, settings, likelihood, prior)
    report = check_story(story, rows, guide=guide, estimator=estimator, fast_only=fast)
    if as_json:
        print(report.to_json())
    else:
        Console().print(report)
    raise typer.Exit(report.exit_code(strict=strict))
