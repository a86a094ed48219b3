"""Tables of RESULTS.md: Markdown, spreads over seeds, and where figures come from."""

from __future__ import annotations

from statistics import mean, stdev
from typing import Any

Rows = list[dict[str, Any]]


def table(header: list[str], lines: list[list[Any]]) -> str:
    """Return a Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(str(c) for c in row) + " |" for row in rows)


def spread(values: list[float], digits: int = 1) -> str:
    """Return mean ± s.e. over seeds, or the number alone where there is one seed."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values) / len(values) ** 0.5:.{digits}f}"


def provenance(result: dict[str, Any]) -> str:
    """Say where the figures of a section come from."""
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    return f"Command: `{result['command']}` ({result['date']}; {result['hardware']}; {versions})."
