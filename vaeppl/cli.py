"""The command line: it parses, calls the Python functions and prints."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from . import cli_estimators, cli_story
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
    value,
)

if TYPE_CHECKING:
    import pandas as pd

    from .data import Data
    from .fitted import Fit

app = typer.Typer(
    help="Variational auto-encoders as generative stories: fit, evaluate and look at them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
app.command(context_settings={"allow_extra_args": True})(cli_story.new)
for command in (cli_story.show, cli_story.check):
    app.command()(command)

Run = Annotated[Path, typer.Argument(help="Folder of a run.")]
OtherData = Annotated[str | None, typer.Option(help="Other rows; those of the run if not given.")]
Split = Annotated[
    str | None,
    typer.Option(help="train, valid, test or all; if not given test, else valid, else all."),
]
ModelFile = Annotated[
    str | None, typer.Option(help="FILE.py:Class, where the model's file has moved.")
]


@app.command()
def models() -> None:
    """List the models of the zoo."""
    from .catalogue import entries

    table = Table("name", "class", "story", "source")
    for entry in entries():
        table.add_row(entry.name, f"vaeppl.models.{entry.class_name}", entry.story, entry.source)
    console.print(table)


@app.command()
def data() -> None:
    """List the data sets that can be had by name."""
    from . import data as vdata

    _print_frame(vdata.describe_sets())
    console.print(f"Cache: {vdata.cache_dir()} (set VAEPPL_DATA_DIR to move it)", soft_wrap=True)


@app.command()
def fit(
    model: ModelName,
    data: Annotated[str, typer.Option(help="A name (see `vaeppl data`), or a file.")] = "digits",
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 100,
    seed: Annotated[int, typer.Option(help="Fixes weights, order and draws.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; runs/MODEL-DATA if not given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a killed run.")] = False,
    batch_size: Annotated[int | None, typer.Option(help="Rows in a minibatch.")] = None,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    lr_schedule: Annotated[str, typer.Option(help="constant, cosine or linear.")] = "constant",
    estimator: Annotated[str, typer.Option(help="Estimator of the ELBO.")] = "elbo",
    num_particles: Annotated[int, typer.Option(help="Draws for each row and step.")] = 1,
    kl_weight: Annotated[str, typer.Option(help="A number, or linear (0 to 1).")] = "1.0",
    free_bits: Annotated[float, typer.Option(help="Nats free for each latent dimension.")] = 0.0,
    clip_norm: Annotated[float | None, typer.Option(help="Largest norm of a gradient.")] = None,
    valid: Annotated[
        float | None, typer.Option(help="Share of rows held out, to watch and to compare on.")
    ] = None,
    test: Annotated[
        float | None, typer.Option(help="Share of rows held out for the end, of data not split.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a rise.")
    ] = None,
    likelihood: LikelihoodName = None,
    prior: PriorName = None,
    guide: GuideName = None,
    labels_per_class: Annotated[
        int | None, typer.Option(help="Hide all labels of column y but so many of each class.")
    ] = None,
    settings: Settings = None,
    data_options: DataOptions = None,
    columns: Columns = None,
    accelerator: Annotated[str, typer.Option(help="cpu, gpu or auto.")] = "auto",
    devices: Annotated[int, typer.Option(help="How many devices.")] = 1,
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed, ...")] = "32-true",
    compile: Annotated[
        str, typer.Option(help="Compile the training step: auto (long runs), true or false.")
    ] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Fit a model to data, and write the run into a folder."""
    from .training.fit import fit as fit_model

    rows = load_data(data, data_options, columns)
    if test is not None:
        if rows.splits:
            raise typer.BadParameter(f"--test: {rows.name} has a split already; leave it out")
        rows, valid = rows.split(valid=valid or 0, test=test, seed=seed), None
    if labels_per_class is not None:
        rows = rows.few_labels("y", per_class=labels_per_class, seed=seed)
    story, chosen = build_story(model, rows, settings, likelihood, prior)
    if chosen:
        console.print(f"likelihood chosen from the data: {story.likelihood}", soft_wrap=True)
    folder = out or Path("runs") / f"{type(story).__name__.lower()}-{Path(data).stem}"
    result = fit_model(
        story,
        rows,
        guide=guide,
        epochs=epochs,
        seed=seed,
        out=folder,
        resume=resume,
        batch_size=batch_size,
        lr=lr,
        lr_schedule=lr_schedule,
        estimator=estimator,
        num_particles=num_particles,
        kl_weight=value(kl_weight),
        free_bits=free_bits,
        clip_norm=clip_norm,
        valid=valid,
        patience=patience,
        accelerator=accelerator,
        devices=devices,
        precision=precision,
        compile=value(compile),
        progress=not quiet,
    )
    console.print(str(result), soft_wrap=True)
    console.print(f"next: vaeppl evaluate {folder}   vaeppl plot {folder}", soft_wrap=True)


@app.command()
def evaluate(
    run: Run,
    data: OtherData = None,
    split: Split = None,
    num_particles: Annotated[int, typer.Option(help="Draws for each row.")] = 500,
    seed: Annotated[int, typer.Option(help="Fixes the draws.")] = 0,
    model: ModelFile = None,
    data_options: DataOptions = None,
    columns: Columns = None,
) -> None:
    """Print ELBO, evidence and active units of a run, and write them into its folder."""
    from .files import write_json, write_whole
    from .reading.held_out import held_out_part, rows_fitted, words_of_rows
    from .reading.prediction import can_predict
    from .reading.weights import has_evidence

    result, rows = _load_run(run, model, data, data_options, columns)
    part, name = held_out_part(result, rows, split)
    fitted = rows_fitted(result, part, rows if name == "test" else None)
    console.print(f"{result} on {words_of_rows(len(part), [fitted])} ({name})", soft_wrap=True)
    elbo = result.elbo(part)
    evidence = None
    if has_evidence(result.pair, part):
        evidence = result.evidence(part, num_particles=num_particles, seed=seed, progress=_shows())
    units = result.active_units(part)
    table = Table("quantity", "nats per row", "s.e. over rows", "note")
    if evidence is None:
        table.add_row("log evidence", "none", "", "rows have none under this story and guide")
    else:
        table.add_row("log evidence", f"{evidence.mean:.2f}", f"{evidence.se:.2f}",
                      f"{num_particles} particles, Monte Carlo ± {evidence.mc_se:.2g}")  # fmt: skip
    table.add_row(elbo.called, f"{elbo.mean:.2f}", f"{elbo.se:.2f}", "")
    table.add_row("reconstruction", f"{elbo.reconstruction:.2f}", "", "")
    table.add_row("KL", f"{elbo.kl:.2f}", "", "")
    console.print(table)
    active = f"active units: {int(units.active.sum())} of {len(units)}"
    reliability = "" if evidence is None else f"; Pareto k {evidence.reliability}"
    console.print(f"{active}{reliability}", soft_wrap=True)
    labels = result.score_labels(part) if can_predict(result, part) else None
    if labels is not None:
        seen = f"; {words_of_rows(len(part), [fitted])}" if fitted else ""
        console.print(f"labels: {labels}{seen}", soft_wrap=True)
    share = math.nan if evidence is None else evidence.share_unreliable
    summary = {
        "split": name,
        "rows": len(part),
        "rows_fitted": fitted,
        "num_particles": num_particles,
        "seed": seed,
        "log_evidence": None if evidence is None else evidence.mean,
        "log_evidence_se": None if evidence is None else evidence.se,
        "log_evidence_mc_se": None if evidence is None else evidence.mc_se,
        "elbo": elbo.mean,
        "elbo_se": elbo.se,
        "reconstruction": elbo.reconstruction,
        "kl": elbo.kl,
        "active_units": int(units.active.sum()),
        "latent_units": len(units),
        # JSON has no NaN; null says that there were too few particles to tell.
        "share_pareto_k_above_0.7": None if math.isnan(share) else share,
        "label_error_percent": None if labels is None else labels.error_percent,
    }
    write_json(run / "evaluation.json", summary)
    written = [run / "evaluation.json"]
    if evidence is not None:
        write_whole(run / "evidence.csv", evidence.rows.to_csv)
        written.append(run / "evidence.csv")
    console.print(f"written: {', '.join(map(str, written))}", soft_wrap=True)


@app.command()
def plot(
    run: Run,
    data: OtherData = None,
    split: Split = None,
    model: ModelFile = None,
    data_options: DataOptions = None,
    columns: Columns = None,
) -> None:
    """Draw the pictures of a run into its folder."""
    from . import plots
    from .reading.held_out import held_out_part

    result, rows = _load_run(run, model, data, data_options, columns)
    part, _ = held_out_part(result, rows, split)
    for path in plots.save_all(result, run / "plots", part):
        console.print(str(path), soft_wrap=True)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of two runs or more.")],
    data: OtherData = None,
    split: Split = None,
    num_particles: Annotated[int, typer.Option(help="Draws for each row.")] = 500,
    seed: Annotated[int, typer.Option(help="Fixes the draws.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for table and picture.")] = None,
    data_options: DataOptions = None,
    columns: Columns = None,
) -> None:
    """Compare runs on held-out rows: evidence, predictive checks, active units and cost."""
    from .files import write_whole
    from .plots import comparison
    from .reading.compare import compare as compare_fits
    from .reading.held_out import held_out_part

    loaded = [_load_run(run, None, data, data_options, columns) for run in runs]
    part, name = held_out_part(*loaded[0], split)
    given = loaded[0][1] if name == "test" else part
    called = [str(run) for run in runs]
    options: dict[str, Any] = {"num_particles": num_particles, "seed": seed}
    found = compare_fits(*(fit for fit, _ in loaded), data=given, names=called, **options)
    console.print(f"{found.head} ({name})", soft_wrap=True)
    console.print(found.to_rich())
    if not found.checks.empty:
        console.print("p-values of predictive checks (near 0 or 1: the story misses it)")
        _print_frame(found.checks.round(3).reset_index())
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "comparison.csv", lambda p: found.table.to_csv(p))
        picture: Any = comparison(found).figure
        picture.savefig(out / "comparison.png", bbox_inches="tight")
        console.print(f"written: {out / 'comparison.csv'}, {out / 'comparison.png'}")


app.command("compare-estimators")(cli_estimators.compare_estimators)
app.command("estimators")(cli_estimators.list_estimators)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 200,
    seed: Annotated[int, typer.Option(help="Fixes weights, order and draws.")] = 0,
) -> None:
    """Fit a VAE to real images of digits, estimate its evidence, and draw what it learnt."""
    import shutil

    from . import plots
    from .data import load
    from .likelihoods import Binomial
    from .models import VAE
    from .training.fit import fit as fit_model

    digits = load("digits").split(valid=0.1, test=0.1, seed=0)
    console.print(
        "1797 images of digits, 8 × 8; each pixel counts the ink of a 4 × 4 block, 0 to 16:\n"
        "  z ~ N(0, I₂),   x | z ~ Binomial(16, sigmoid f(z))",
        soft_wrap=True,
    )
    if (out / "config.json").is_file():
        shutil.rmtree(out)
    story = VAE(64, latent_dim=2, likelihood=Binomial(16), hidden=(256, 256))
    result = fit_model(
        story, digits, epochs=epochs, seed=seed, lr=2e-3, lr_schedule="cosine", out=out
    )
    console.print(str(result.elbo(digits.test)) + " on held-out digits", soft_wrap=True)
    console.print(str(result.evidence(digits.test, num_particles=1000)), soft_wrap=True)
    paths = plots.save_all(result, out / "plots", digits.test)
    console.print(f"pictures: {out / 'plots'}", soft_wrap=True)
    for path in paths:
        console.print(f"  {path}", soft_wrap=True)


def _load_run(
    run: Path,
    model: str | None,
    data: str | None,
    options: list[str] | None,
    columns: list[str] | None,
) -> tuple[Fit, Data]:
    """Return a run's fit, and the data it was fitted to or those asked for."""
    from . import catalogue
    from .data import from_origin
    from .errors import CheckpointError
    from .fitted import RunFolder, load

    config = RunFolder(run).read_config()
    described = config["model"].get("source")
    classes = None
    if model is not None or described is not None:
        cls = (
            catalogue.find(model)
            if model is not None
            else catalogue.find_unchanged(described, config["model"]["name"])
        )
        classes = {config["model"]["config"]["class"]: cls}
    result = load(run, classes=classes)
    if data is not None:
        # Levels and genes have the codes and the order of the cells that were fitted.
        like = {"like": result.schema, "optional": result.pair.partly_observed}
        rows = load_data(data, options, columns, **(like if data.endswith(".h5ad") else {}))
    elif config["data"].get("origin"):
        rows = from_origin(config["data"]["origin"])
    else:
        raise CheckpointError(f"{run} does not say where its data came from; give --data")
    return result, rows


def _shows() -> bool:
    return sys.stderr.isatty()


def _print_frame(frame: pd.DataFrame) -> None:
    table = Table(*[str(c) for c in frame.columns])
    for line in frame.itertuples(index=False):
        table.add_row(*[str(v) for v in line])
    console.print(table)


def main() -> None:
    """Run the command line; an error that the user can mend is one sentence, not a traceback."""
    try:
        app()
    except (ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
        if "--debug" in sys.argv or not _is_ours(error):
            raise
        Console(stderr=True).print(f"[red]error:[/red] {error}", soft_wrap=True, markup=True)
        sys.exit(1)


def _is_ours(error: BaseException) -> bool:
    """Tell whether an error was raised by vaeppl itself, rather than deep in a library."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    module = traceback.tb_frame.f_globals.get("__name__", "") if traceback is not None else ""
    return str(module).startswith("vaeppl")


if __name__ == "__main__":
    main()
