"""``vaeppl.compare_estimators``: one model and guide, every estimator of its evidence bound."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

from ..data import Data, as_data
from ..errors import ColumnError, whole_number
from ..fitted import Fit
from ..guides import guide_for
from ..pair import as_pair
from .candidates import candidates
from .frozen import compare_frozen
from .results import FrozenComparison, TrainedComparison
from .trained import compare_trained

__all__ = ["DEFAULT", "compare_estimators"]

DEFAULT = ("elbo", "elbo_monte_carlo", "stl", "iwae", "dreg", "piwae", "wake_sleep", "tvo")
MODES = ("frozen", "trained")


def compare_estimators(
    model: Any,
    data: Any,
    *,
    guide: Any = None,
    estimators: Any = DEFAULT,
    num_particles: int | Sequence[int] = 8,
    mode: str = "frozen",
    seed: int = 0,
    rows: int = 64,
    repeats: int = 100,
    reference_particles: int = 2048,
    seeds: int | Sequence[int] = 5,
    evidence_particles: int = 500,
    jobs: int = 1,
    progress: bool = False,
    **settings: Any,
) -> FrozenComparison | TrainedComparison:
    """Compare estimators of the evidence bound on one model and guide.

    Two modes. ``"frozen"`` keeps the parameters as they are, and asks of each estimator what its
    value and its gradient are worth there. ``"trained"`` fits a copy of the model by each, under
    several seeds, from the same initial weights and in the same order of rows, and compares the
    evidence of held-out rows. An estimator that does not fit the story is a line with the reason.

    Parameters
    ----------
    model
        A :class:`~vaeppl.Fit`, a model, or a model function with its ``guide``. It is left as it
        is.
    data
        As in :func:`vaeppl.fit`. Where it has splits, ``"frozen"`` takes rows of the train split,
        and ``"trained"`` fits the train split and scores the test split (or the valid split);
        a fifth of the rows is held out where there are none.
    guide
        The guide, where ``model`` is a function; ``"auto"``: one that is made from the story, and
        for ``"trained"`` anew under each seed.
    estimators
        Names from :func:`vaeppl.estimators.available`, pairs ``(name, options)``, ready-made
        estimators, or a mapping from labels to such.
    num_particles
        Draws for each row where options do not say; several numbers: each estimator with each.
    mode
        ``"frozen"`` or ``"trained"``.
    seed
        Fixes the draws, and in ``"trained"`` what is held out where data have no splits.
    rows, repeats, reference_particles
        Frozen: rows compared on, gradients taken of each estimator, and particles of the reference
        for evidence and gradients.
    seeds, evidence_particles, jobs
        Trained: how many seeds, or which; particles of the held-out evidence; fits side by side,
        by joblib (inside ``joblib.parallel_config`` they go to its backend, Dask or Ray say).
    progress
        Say what is being done.
    **settings
        Trained: further arguments of :func:`vaeppl.fit`, such as ``epochs`` and ``lr``.

    Returns
    -------
    FrozenComparison or TrainedComparison
        Tidy tables; :mod:`vaeppl.plots` draws them.

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(60, 6) < 0.5).float()
    >>> found = vaeppl.compare_estimators(
    ...     VAE(6, 2, hidden=(4,)), {"x": x}, estimators=["elbo", "iwae"], repeats=10
    ... )
    >>> list(found.table.index), bool((found.table.gap > 0).all())
    (['elbo', 'iwae'], True)
    """
    if mode not in MODES:
        raise ValueError(f"mode is 'frozen' or 'trained'; given {mode!r}")
    _check_counts(rows=rows, repeats=repeats, reference_particles=reference_particles)
    chosen = candidates(estimators, num_particles)
    rows_of = as_data(data)
    pair = as_pair(model, guide_for(model, guide, rows_of, seed=seed))
    with _notes(progress) as note:
        if mode == "frozen":
            if settings:
                raise TypeError(f"{', '.join(settings)}: settings of a fit; give mode='trained'")
            return compare_frozen(
                pair,
                rows_of.train,
                chosen,
                rows=rows,
                repeats=repeats,
                reference_particles=reference_particles,
                seed=seed,
                note=note,
            )
        if isinstance(model, Fit):
            raise ValueError(
                "mode='trained' fits the model anew: give the model itself, as it was constructed"
            )
        train, test = _split(rows_of, seed)
        numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
        if not numbers:
            raise ValueError("give at least one seed")
        return compare_trained(
            pair,
            (model, guide) if isinstance(guide, str) else pair.source,
            train,
            test,
            chosen,
            seeds=numbers,
            particles=evidence_particles,
            jobs=jobs,
            note=note,
            settings=settings,
        )


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        whole_number(name, value, 2)


def _split(data: Data, seed: int) -> tuple[Data, Data]:
    """Return the rows to fit and the rows to score."""
    for name in ("test", "valid"):
        if data.has_split(name):
            return data.train, getattr(data, name)
    if data.splits:
        raise ColumnError(f"the data have splits ({', '.join(data.splits)}), but no test or valid")
    parts = data.split(valid=0, test=0.2, seed=seed)
    return parts.train, parts.test


@contextmanager
def _notes(progress: bool) -> Any:
    """Yield a function that shows what is being done."""
    if not progress:
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:

        def note(text: str) -> None:
            status.update(text)

        yield note
