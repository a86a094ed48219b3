"""Missing entries: filled in given the rest of their row, and how well that goes where it is known.

Entries are missing at random: that one is missing tells nothing of its value beyond what the rest
of the row does. Then a fit that leaves them out is sound, and what they were is drawn from
p(x_missing | x_there).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data import Data, as_data
from ..errors import ColumnError, unknown_name, whole_number
from ..pair import Pair, as_pair
from .imputed import Imputed
from .predictive import posterior_predictive

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["METHODS", "hide_entries", "impute", "score_imputation"]

METHODS = ("mean", "draws", "importance", "gibbs")


def impute(
    source: Any,
    data: Any,
    *,
    guide: Any = None,
    method: str = "importance",
    num_samples: int = 20,
    num_particles: int = 100,
    steps: int = 20,
    seed: int = 0,
) -> Imputed:
    """Fill in missing entries (NaN) given the rest of their row.

    Parameters
    ----------
    source, data, guide, seed
        As in :func:`vaeppl.evidence`; the fit must take missing entries
        (``vaeppl.fit(..., guide="auto")`` on data that have some).
    method
        ``"draws"``: z ~ q(z | x_there), x_missing ~ p(x | z), as good as the guide is;
        ``"importance"``: z among ``num_particles`` draws by their weights, so that with many it is
        drawn from p(z | x_there) whatever the guide (Mattei & Frellsen 2019, MIWAE);
        ``"gibbs"``: ``"draws"`` again and again, each given the completed row of the one before
        (Rezende, Mohamed & Wierstra 2014, appendix F; "pseudo", as the guide is not exact);
        ``"mean"``: one completed table, with the mean of draws by importance, or their most
        frequent value for codes.
    num_samples
        Completed tables (multiple imputation), or draws of which the mean is taken.
    num_particles
        K, for ``"importance"`` and ``"mean"``.
    steps
        Rounds, for ``"gibbs"``.

    Returns
    -------
    Imputed
        A dict of str to Tensor: each column with missing entries, completed,
        ``(num_samples, N, *event)``, or ``(N, *event)`` for ``"mean"``. Entries that are there are
        as they were. Its ``summary(level=0.9)`` is a table with a line for each missing entry.

    Raises
    ------
    ColumnError
        If nothing is missing, or the fit was made for complete rows.

    Examples
    --------
    >>> import vaeppl
    >>> from vaeppl.models import VAE
    >>> x = torch.randn(50, 3)
    >>> x[::5, 1] = torch.nan
    >>> story = VAE(3, 2, likelihood="normal", hidden=(8,))
    >>> fit = vaeppl.fit(story, {"x": x}, guide="auto", epochs=1, progress=False)
    >>> filled = impute(fit, {"x": x}, num_samples=4)
    >>> filled["x"].shape, list(filled.summary().columns)[:4]
    (torch.Size([4, 50, 3]), ['mean', 'sd', 'lower', 'upper'])
    """
    if method not in METHODS:
        raise ValueError(unknown_name("method", method, METHODS))
    pair, rows = as_pair(source, guide), as_data(data)
    gaps = _gaps(pair, rows)
    if method == "gibbs":
        return Imputed.of(_gibbs(pair, rows, gaps, num_samples, steps, seed), gaps, rows)
    particles = None if method == "draws" else num_particles
    drawn = _filled(pair, rows, gaps, num_samples, particles, seed)
    if method == "mean":
        drawn = {c: _centre(rows, c, values) for c, values in drawn.items()}
    return Imputed.of(drawn, gaps, rows)


def _gaps(pair: Pair, rows: Data) -> dict[str, Tensor]:
    """Return which entries are missing, by column."""
    names = [c for c in pair.columns if c in rows and c not in pair.partly_observed]
    gaps = {c: rows[c].isnan() for c in names if rows[c].is_floating_point()}
    gaps = {c: gap for c, gap in gaps.items() if gap.any()}
    if not gaps:
        raise ColumnError(f"nothing is missing in {', '.join(map(repr, names))}: no entry is NaN")
    if not pair.takes_missing:
        raise ColumnError(
            f"{pair.name} was fitted to complete rows, so its guide cannot look at rows with "
            "entries missing: fit it anew with guide='auto' to rows some of whose entries are NaN, "
            "or with guide=vaeppl.guides.AutoAmortizedGuide(model, data, missing=True)"
        )
    return gaps


def _filled(
    pair: Pair,
    rows: Data,
    gaps: dict[str, Tensor],
    num_samples: int,
    num_particles: int | None,
    seed: int,
) -> dict[str, Tensor]:
    drawn = posterior_predictive(
        pair, rows, num_samples=num_samples, num_particles=num_particles, seed=seed
    )
    return {c: torch.where(gap, drawn[c].to(rows[c]), rows[c]) for c, gap in gaps.items()}


def _gibbs(
    pair: Pair, rows: Data, gaps: dict[str, Tensor], chains: int, steps: int, seed: int
) -> dict[str, Tensor]:
    """Walk some chains side by side, as further rows."""
    whole_number("steps", steps, 1)
    taken = [c for c in pair.columns if c in rows]
    tiled = Data({c: rows[c].repeat(chains, *[1] * (rows[c].ndim - 1)) for c in taken})
    many = {c: gap.repeat(chains, *[1] * (gap.ndim - 1)) for c, gap in gaps.items()}
    state = tiled
    for step in range(steps):
        drawn = posterior_predictive(pair, state, seed=seed + step)
        done = {c: torch.where(g, drawn[c][0].to(tiled[c]), tiled[c]) for c, g in many.items()}
        state = Data({**{c: tiled[c] for c in taken}, **done})
    return {c: state[c].reshape(chains, *rows[c].shape) for c in gaps}


def _centre(rows: Data, column: str, drawn: Tensor) -> Tensor:
    """Return the mean of draws; of codes, the most frequent."""
    fields = rows.fields(column)
    codes = torch.tensor([f.kind in ("binary", "categorical") for f in fields])
    mean = drawn.mean(0)
    if not codes.any():
        return mean
    codes = codes.reshape(mean.shape[1:]) if len(fields) > 1 else codes.squeeze()
    return torch.where(codes, drawn.mode(0).values, mean)


def hide_entries(data: Any, share: float = 0.1, *, column: str = "x", seed: int = 0) -> Data:
    """Hide entries of a column completely at random, as NaN, so that their values can be checked.

    Parameters
    ----------
    data
        Rows.
    share
        Of the entries that are there.
    column
        A column of reals, counts or codes.
    seed
        Fixes which.

    Examples
    --------
    >>> hidden = hide_entries({"x": torch.zeros(100, 4)}, 0.25)
    >>> int(hidden["x"].isnan().sum())
    100
    """
    if not 0 < share < 1:
        raise ValueError(f"share is between 0 and 1; given {share}")
    rows = as_data(data)
    values = rows[column].clone()
    values = values if values.is_floating_point() else values.to(torch.get_default_dtype())
    flat = values.view(-1)
    there = (~flat.isnan()).nonzero().squeeze(1)
    order = torch.randperm(len(there), generator=torch.Generator().manual_seed(seed))
    flat[there[order[: round(share * len(there))]]] = torch.nan
    return rows.with_column(
        column, values, fields=rows.fields(column), image_shape=rows.image_shape.get(column)
    )


def score_imputation(
    source: Any,
    hidden: Any,
    truth: Any,
    *,
    guide: Any = None,
    column: str = "x",
    level: float = 0.9,
    **options: Any,
) -> pd.DataFrame:
    """Compare imputed entries with the values that were hidden.

    Parameters
    ----------
    source, guide
        As in :func:`impute`; fitted to ``hidden``, or to other rows.
    hidden
        Rows with entries hidden by :func:`hide_entries`.
    truth
        The same rows before.
    column
        Which column.
    level
        Of the intervals whose coverage is asked for.
    **options
        Of :func:`impute`, but ``method="mean"``.

    Returns
    -------
    pandas.DataFrame
        A line for each field of the column: ``hidden`` (how many), ``error`` (root mean square of
        imputed mean - truth; of codes, the share that is wrong), ``baseline`` (the same for the
        mean or the most frequent code of the entries that are there) and ``coverage``
        (share of truths within the intervals; about ``level`` where the story is right).

    Examples
    --------
    >>> import vaeppl
    >>> from vaeppl.models import VAE
    >>> truth = {"x": torch.randn(60, 2)}
    >>> hidden = hide_entries(truth, 0.2)
    >>> story = VAE(2, 1, likelihood="normal", hidden=(4,))
    >>> fit = vaeppl.fit(story, hidden, guide="auto", epochs=1, progress=False)
    >>> list(score_imputation(fit, hidden, truth).columns)
    ['hidden', 'error', 'baseline', 'coverage']
    """
    import pandas as pd

    rows, whole = as_data(hidden), as_data(truth)
    gap = rows[column].isnan() & ~whole[column].to(rows[column]).isnan()
    drawn = impute(source, rows, guide=guide, **options)[column]
    width = max(1, gap[0].numel())
    drawn, gap = drawn.reshape(len(drawn), -1, width), gap.reshape(-1, width)
    true, seen = (d[column].to(drawn).reshape(-1, width) for d in (whole, rows))
    fields = rows.fields(column)
    lines = []
    for entry in range(width):
        where, field = gap[:, entry], fields[entry if len(fields) > 1 else 0]
        if where.any():
            codes = field.kind in ("binary", "categorical")
            told = _score(drawn[:, where, entry], true[where, entry], seen[:, entry], codes, level)
            lines.append({"entry": field.name or str(entry), "hidden": int(where.sum()), **told})
    return pd.DataFrame(lines).set_index("entry")


def _score(
    drawn: Tensor, true: Tensor, seen: Tensor, codes: bool, level: float
) -> dict[str, float]:
    there = seen[~seen.isnan()]
    if codes:
        wrong = (drawn.mode(0).values != true).double().mean()
        baseline = (there.mode().values != true).double().mean()
        return {"error": float(wrong), "baseline": float(baseline), "coverage": float("nan")}
    tails = drawn.new_tensor([(1 - level) / 2, (1 + level) / 2])
    low, high = drawn.quantile(tails, dim=0)
    return {
        "error": float((drawn.mean(0) - true).square().mean().sqrt()),
        "baseline": float((there.mean() - true).square().mean().sqrt()),
        "coverage": float(((low <= true) & (true <= high)).double().mean()),
    }
