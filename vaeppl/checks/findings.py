"""What a check finds: one finding a fault, and the report that lists them."""

from __future__ import annotations

import json
import linecache
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from ..errors import ColumnError, StoryError

__all__ = ["Finding", "Line", "Report"]

STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold blue"}


@dataclass(frozen=True)
class Line:
    """A line of a file.

    Examples
    --------
    >>> str(Line("/somewhere/my_story.py", 42))
    '/somewhere/my_story.py:42'
    """

    file: str
    number: int

    def __str__(self) -> str:
        path = Path(self.file)
        here = Path.cwd()
        return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{self.number}"

    @property
    def text(self) -> str:
        """What stands on the line."""
        return linecache.getline(self.file, self.number).strip()


@dataclass(frozen=True)
class Finding:
    """One fault of a story, and how to mend it.

    Attributes
    ----------
    severity : str
        ``"error"``: the story does not run, or its numbers would be wrong; ``"warning"``: they
        are likely not to be what was meant; ``"note"``: worth knowing.
    code : str
        Short name of the kind of fault, which stays the same.
    what, why, mend : str
        What is wrong, why it matters, and what to write instead.
    site : str or None
        The site, column or parameter it is about.
    line : Line or None
        Where to mend it.
    of_column : bool
        Whether it is the data that are at fault: then a ``ColumnError`` is raised.
    """

    severity: str
    code: str
    what: str
    why: str
    mend: str
    site: str | None = None
    line: Line | None = None
    of_column: bool = False

    def error(self) -> ValueError:
        """Return the finding as what a fit raises: one sentence, with the line to mend."""
        where = "" if self.line is None else f" ({self.line})"
        what = f"{self.what}; {self.mend}" if self.mend else self.what
        return (ColumnError if self.of_column else StoryError)(f"{what}{where}")

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as JSON."""
        return {
            "severity": self.severity,
            "code": self.code,
            "site": self.site,
            "file": None if self.line is None else self.line.file,
            "line": None if self.line is None else self.line.number,
            "what": self.what,
            "why": self.why,
            "mend": self.mend,
        }

    def __rich__(self) -> Text:
        told = Text(f"{self.severity:8}", style=STYLES[self.severity])
        told.append(self.what)
        if self.line is not None:
            told.append(f"\n  at {self.line}", style="cyan")
            if self.line.text:
                told.append(f"   {self.line.text}", style="dim")
        if self.why:
            told.append(f"\n  why  {self.why}")
        if self.mend:
            told.append("\n  mend ").append(self.mend, style="green")
        return told


@dataclass(frozen=True)
class Report:
    """What was found in a story; prints as text, and as a table of dictionaries in JSON.

    Attributes
    ----------
    name : str
        The story's name.
    findings : tuple of Finding
        Errors first.
    checks : int
        How many kinds of fault were looked for.
    """

    name: str
    findings: tuple[Finding, ...] = ()
    checks: int = 0
    _order: dict[str, int] = field(
        default_factory=lambda: {s: i for i, s in enumerate(STYLES)}, repr=False
    )

    def __post_init__(self) -> None:
        ordered = sorted(self.findings, key=lambda f: self._order[f.severity])
        object.__setattr__(self, "findings", tuple(ordered))

    @property
    def ok(self) -> bool:
        """Whether there is no error and no warning."""
        return not any(f.severity in ("error", "warning") for f in self.findings)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The errors alone."""
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The warnings alone."""
        return tuple(f for f in self.findings if f.severity == "warning")

    @property
    def codes(self) -> tuple[str, ...]:
        """The kinds of fault that were found."""
        return tuple(f.code for f in self.findings)

    def exit_code(self, *, strict: bool = False) -> int:
        """Return 1 where there is an error (or, if strict, a warning), else 0."""
        return int(bool(self.errors) or (strict and not self.ok))

    def raise_errors(self) -> None:
        """Raise the first error, if there is one."""
        for finding in self.errors:
            raise finding.error()

    def to_json(self) -> str:
        """Return the report as JSON: name, whether it is sound, and the findings."""
        findings = [f.as_dict() for f in self.findings]
        return json.dumps({"story": self.name, "ok": self.ok, "findings": findings}, indent=2)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.findings
        yield Text(self._last_words(), style="bold")

    def _last_words(self) -> str:
        counted = [
            f"{n} {severity}{'s' * (n > 1)}"
            for severity in STYLES
            if (n := sum(f.severity == severity for f in self.findings))
        ]
        return f"{self.name}: {', '.join(counted) or 'nothing wrong'} ({self.checks} checks)"

    def __str__(self) -> str:
        console = Console(width=100, color_system=None, force_terminal=False)
        with console.capture() as capture:
            console.print(self)
        return capture.get().rstrip("\n")


def first_error(findings: Iterable[Finding]) -> list[Finding]:
    """Raise the first error of some findings; return the others."""
    kept = []
    for finding in findings:
        if finding.severity == "error":
            raise finding.error()
        kept.append(finding)
    return kept
