"""The checks before a fit: columns, values, and that model and guide match."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from pyro.infer.autoguide import AutoGuide

from ..columns import check_columns
from ..data import Data
from ..errors import ColumnError, StoryError
from ..estimators.sites import points
from ..model import Model
from ..pair import Pair
from ..reading.tracing import quiet
from ..strata import check_labels, strata
from ..training.seeds import seeded
from . import sites, supports
from .case import Case, DoesNotRun, latents, make_case, store_apart
from .findings import Finding
from .values import check_values

__all__ = ["Checked", "check", "check_all_rows", "check_batch_size", "find_faults"]

CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (*sites.CHECKS, *supports.CHECKS)


@dataclass
class Checked:
    """What the checks found out on the way.

    Attributes
    ----------
    scaled : bool
        Whether the story scales its rows up to the full data, as ``vaeppl.rows`` does.
    enumerated : tuple of str
        Latents that the guide marks to be summed out.
    points : tuple of str
        Latents that the guide sets to a value, without a density.
    cases : list of Case
        What was looked at: the rows of which the same columns are there, apart.
    """

    scaled: bool = True
    enumerated: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    cases: list[Case] = field(default_factory=list, repr=False)


def check(pair: Pair, data: Data, *, batch_size: int | None = None, to_fit: bool = True) -> Checked:
    """Check everything that can be checked before training; raise at the first fault.

    Parameters
    ----------
    pair
        The model and its guide.
    data
        The rows it will be fitted to.
    batch_size
        Rows in a minibatch; not checked if ``None``.
    to_fit
        Whether the story will be fitted to them; else labels may be missing throughout, and the
        model's own ``check_data`` is not asked.

    Returns
    -------
    Checked

    Raises
    ------
    ColumnError
        A column is missing, or has values that the model's likelihood does not accept.
    StoryError
        Model and guide do not match, or do not run on the first rows.
    """
    checked = Checked()
    for finding in find_faults(pair, data, checked, batch_size=batch_size, to_fit=to_fit):
        if finding.severity == "error":
            raise finding.error()
    return checked


def find_faults(
    pair: Pair,
    data: Data,
    checked: Checked,
    *,
    batch_size: int | None = None,
    to_fit: bool = True,
    estimator: str = "elbo",
) -> Iterator[Finding]:
    """Yield what is wrong with a pair on some data, and note in ``checked`` what was learnt.

    Raises
    ------
    ColumnError, StoryError
        For what makes it impossible to look any further.
    """
    if isinstance(own := pair.source[-1], Model) and type(own).guide is Model.guide:
        own.guide()  # says what to write
    check_columns(pair, data)
    if batch_size is not None:
        check_batch_size(batch_size, len(data))
        check_all_rows(pair, batch_size, len(data), to_fit=to_fit)
    check_labels(pair, data, to_fit=to_fit)
    if to_fit and callable(own := getattr(pair.source[0], "check_data", None)):
        own(data)
    apart = strata(pair, data)
    looked_at: set[str] = set()
    marked: dict[str, None] = {}
    for stratum in apart:
        columns = data.columns(*stratum.columns)
        part = columns if len(apart) == 1 else columns.select(stratum.rows)
        with seeded(0):  # columns may be drawn as they are read
            case = make_case(pair, part, batch_size, estimator=estimator)
            found = list(_in_one_case(case))
        yield from found
        if case.model is None:
            return
        checked.cases.append(case)
        marked |= dict.fromkeys(
            n for n, s in latents(case.guide).items() if s["infer"].get("enumerate")
        )
        checked.enumerated = tuple(marked)
        checked.points = tuple(dict.fromkeys((*checked.points, *points(case.guide))))
        checked.scaled = case.few == case.full or sites.rows_are_scaled(case)
        if len(apart) > 1 and not checked.scaled:
            yield _must_scale(pair)
        with seeded(0):
            wrong = list(check_values(pair, data, case.model, leave_out=looked_at))
        yield from wrong
        if not any(f.severity == "error" for f in (*found, *wrong)):
            yield from _cannot_be_scored(case)
        looked_at |= set(stratum.columns) & set(case.model.nodes)


def _in_one_case(case: Case) -> Iterator[Finding]:
    """Run guide and model on the first rows, and compare their sites."""
    with quiet(case.pair, case.full), store_apart():
        try:
            if isinstance(case.pair.source[-1], AutoGuide):
                faults = list(sites.check_autoguide(case, case.run("model")))
                yield from faults
                if faults:
                    return
            try:
                case.guide = case.run("guide")
            except DoesNotRun:
                yield from _values_to_blame(case)
                raise
            case.model = case.run("model", replayed=case.guide)
        except DoesNotRun as failure:
            yield from _draws_to_blame(case) or [failure.finding]
            return
        for one in CHECKS:
            yield from one(case)


def _cannot_be_scored(case: Case) -> Iterator[Finding]:
    try:
        with quiet(case.pair, case.full):
            case.score_all()
    except DoesNotRun as failure:
        yield failure.finding


def _draws_to_blame(case: Case) -> list[Finding]:
    """Return how the guide's draws differ in shape from the model's own, with which it runs."""
    if case.guide is None:
        return []
    try:
        alone = replace(case, model=case.run("model"))
    except DoesNotRun:
        return []
    return list(sites.check_events(alone))


def _values_to_blame(case: Case) -> list[Finding]:
    """Return the values that the likelihood refuses: the better message where the guide fails."""
    try:
        return list(check_values(case.pair, case.data, case.run("model")))
    except DoesNotRun:
        return []


def _must_scale(pair: Pair) -> Finding:
    return Finding(
        "error",
        "strata-not-scaled",
        f"{pair.name} has rows with and without {', '.join(pair.partly_observed)}, so it must "
        "scale them",
        "labelled and unlabelled rows come in shares of their own",
        "write `with vaeppl.rows(...):` in model and guide",
    )


def check_batch_size(batch_size: int, rows: int) -> None:
    """Check that a minibatch has between one row and all of them."""
    if not 1 <= batch_size <= rows:
        raise ColumnError(
            f"batch_size is {batch_size}, but the data have {rows} rows; "
            f"give a number from 1 to {rows}"
        )


def check_all_rows(pair: Pair, batch_size: int, rows: int, *, to_fit: bool = True) -> None:
    """Check that a story whose rows depend on each other is fitted to all of them at once."""
    if not pair.couples_rows:
        return
    if not to_fit:
        raise StoryError(
            f"the rows of {pair.name} depend on each other, so rows that are held out have no ELBO "
            "of their own: give valid=False, and compare predictions of them instead"
        )
    if batch_size != rows:
        raise StoryError(
            f"the rows of {pair.name} depend on each other, so it is fitted to all of them at "
            f"once: give batch_size={rows}, not {batch_size}; or fit the same story with its rows "
            "apart, whose minibatches are unbiased"
        )
