"""All checks of a story, on demand: ``vaeppl.check``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..data import as_data
from ..errors import ColumnError, StoryError
from ..guides import guide_for
from ..pair import as_pair
from . import behaviour, fast, gradients, prior
from .case import Case, DoesNotRun
from .findings import Finding, Report
from .lines import line_of_error

__all__ = ["check"]

OF_CASES: tuple[Callable[[Case], Iterator[Finding]], ...] = (*behaviour.CHECKS, *prior.CHECKS)
BEFORE_A_FIT = 6  # columns, batch size, labels, runs, values, scaling: beside fast.CHECKS


def check(
    model: Any,
    data: Any,
    *,
    guide: Any = None,
    estimator: str = "elbo",
    batch_size: int | None = None,
    fast_only: bool = False,
) -> Report:
    """Look for what is wrong with a story, its guide and its data, and say how to mend it.

    A fit does the fast part by itself, and raises the first error. This does all of it: whether
    rows leak into each other, whether the guide looks at the data, whether a gradient reaches every
    parameter, whether the story can be drawn from and draws are of the data's size, whether
    densities stay finite.

    Parameters
    ----------
    model, data, guide
        As in :func:`vaeppl.fit`; of data with splits, the train part is looked at.
    estimator
        The estimator that the fit will use, by name.
    batch_size
        Rows in a minibatch; at most 128 if not given.
    fast_only
        Whether to leave it at what a fit does.

    Returns
    -------
    Report
        Findings with severity, site, line, what, why and how to mend it; ``report.ok``.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(200, 12) < 0.3).float()
    >>> print(check(VAE(12, 2, hidden=(16,)), {"x": x}))
    VAE: nothing wrong (25 checks)
    """
    rows = as_data(data).train
    try:
        pair = as_pair(model, guide_for(model, guide, rows))
    except (StoryError, ColumnError) as error:
        return Report(type(model).__name__, (_from_error(error),), 1)
    done = len(fast.CHECKS) + BEFORE_A_FIT
    checked = fast.Checked()
    found: list[Finding] = []
    try:
        size = len(rows) if pair.couples_rows else min(128, len(rows))
        options: Any = {"batch_size": batch_size or size, "estimator": estimator}
        found += fast.find_faults(pair, rows, checked, **options)
    except (StoryError, ColumnError) as error:
        found.append(_from_error(error))
    if not fast_only and not any(f.severity == "error" for f in found):
        found += _slowly(checked.cases)
        done += len(OF_CASES) + len(gradients.CHECKS)
    return Report(pair.name, tuple(_once(found)), done)


def _slowly(cases: list[Case]) -> Iterator[Finding]:
    """Yield what is found by running the story many times."""
    for case in cases:
        for one in OF_CASES:
            try:
                yield from one(case)
            except DoesNotRun as failure:
                yield failure.finding
    for several in gradients.CHECKS:
        yield from several(cases)


def _once(findings: list[Finding]) -> Iterator[Finding]:
    """Leave out what was found before in rows with other columns."""
    seen: set[Any] = set()
    for finding in findings:
        key = (finding.code, finding.site, finding.line)
        # An ELBO that cannot be computed says no more than the error that was told at its line.
        told = finding.code == "no-elbo" and finding.line in {line for _, _, line in seen}
        if key not in seen and not told:
            seen.add(key)
            yield finding


def _from_error(error: Exception) -> Finding:
    """Return an error that ends all checks as a finding."""
    what, _, mend = str(error).partition("; ")
    of_column = isinstance(error, ColumnError)
    code = "column" if of_column else "story"
    return Finding("error", code, what, "", mend, line=line_of_error(error), of_column=of_column)
