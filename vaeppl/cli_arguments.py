"""What several commands take: data, a model and its arguments, as they are typed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from .data import Data
    from .model import Model

__all__ = [
    "Columns",
    "DataOptions",
    "GuideName",
    "LikelihoodName",
    "ModelName",
    "PriorName",
    "Settings",
    "build_story",
    "load_data",
    "named",
    "pairs",
    "value",
]

ModelName = Annotated[str, typer.Argument(help="A name (see `vaeppl models`), or FILE.py:Class.")]
GuideName = Annotated[
    str | None,
    typer.Option("--guide", help="auto: made from the story, in place of the model's own."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="An argument of the model, NAME=VALUE, e.g. latent_dim=2."),
]
DataOptions = Annotated[
    list[str] | None,
    typer.Option("--data-option", help="An option of the data, NAME=VALUE: binarize=dynamic."),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="A model's column from a table's: x=length,mass or y=rings."),
]
LikelihoodName = Annotated[
    str | None,
    typer.Option(
        "--likelihood", help="Likelihood and its arguments: normal:predicted, binomial:16."
    ),
]
PriorName = Annotated[
    str | None, typer.Option("--prior", help="Prior and its arguments: laplace, mixture:20.")
]


def load_data(
    source: str, options: list[str] | None, columns: list[str] | None, **like: Any
) -> Data:
    """Return the data of that name or file, with the columns that were asked for."""
    from .data import as_data

    chosen = {k: _listed(v) for k, v in (_split(c, "--column") for c in columns or [])}
    return as_data(source, columns=chosen or None, **like, **pairs(options, "--data-option"))


def build_story(
    model: str, rows: Data, settings: list[str] | None, likelihood: str | None, prior: str | None
) -> tuple[Model, bool]:
    """Return a model built for some rows, and whether its likelihood was chosen from them."""
    from . import catalogue, likelihoods, priors

    arguments = pairs(settings)
    cls = catalogue.find(model)
    if prior is not None:
        arguments["prior"] = named(priors.get, prior)
    if likelihood is not None:
        # A model without likelihoods by column has names of its own for them.
        has_own_names = "likelihood" not in cls.likelihood_columns
        arguments["likelihood"] = (
            likelihood if has_own_names else named(likelihoods.get, likelihood)
        )
    story = catalogue.build_for(cls, rows.train, arguments)
    return story, "likelihood" not in arguments and hasattr(story, "likelihood")


def pairs(settings: list[str] | None, flag: str = "--set") -> dict[str, Any]:
    """Return what was given as NAME=VALUE, values read as JSON where they are."""
    return {k: value(v) for k, v in (_split(s, flag) for s in settings or [])}


def _split(text: str, flag: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{flag} takes NAME=VALUE; given {text!r}")
    return name.strip(), value.strip()


def _listed(text: str) -> str | list[str]:
    return text.split(",") if "," in text else text


def value(text: str) -> Any:
    """Return a value that was typed: JSON where it is, else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def named(get: Any, text: str) -> Any:
    """Build an object from ``name:argument,argument,key=value``."""
    name, _, rest = text.partition(":")
    parts = [p for p in rest.split(",") if p]
    positional = [value(p) for p in parts if "=" not in p]
    return get(name, *positional, **pairs([p for p in parts if "=" in p]))
