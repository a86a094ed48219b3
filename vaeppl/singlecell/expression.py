"""What a fit says of expression: shares of genes, denoised counts, library sizes, states of cells.

Names, and what is returned, follow scvi-tools where it has a function for the same. The story needs
a site ``log_library`` and a site ``x`` whose distribution has a ``log_mean``, as that of
:class:`~vaeppl.models.SCVI` does: the share of a gene is then log ρ = log μ - log ℓ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.poutine as poutine
import torch
from torch import Tensor

from ..data import Data
from ..data.kinds import component_names
from ..data.schema import schema_of
from ..errors import StoryError, unknown_name
from ..pair import Batch, Pair, as_pair
from ..reading import tracing
from ..reading.predictive import encode
from ..reading.resampling import check_particles, posterior_draws
from .annotated import cell_names, cells_of
from .cells import unknown_level

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "gene_names",
    "get_denoised_counts",
    "get_latent_library_size",
    "get_latent_representation",
    "get_normalized_expression",
    "shares",
]

ENTRIES_AT_ONCE = 2**22  # cells × genes that a pass may hold: 16 MB in float32


def get_latent_representation(
    source: Any, data: Any = None, *, n_samples: int | None = None, seed: int = 0
) -> np.ndarray:
    """Return the state of each cell: the posterior mean of z, or draws of it.

    Parameters
    ----------
    source
        A :class:`~vaeppl.Fit` or a model.
    data
        Cells, as in :func:`vaeppl.fit`, all of which are used; or an AnnData, which is read as that
        of the fit was; or ``None``, those that were fitted.
    n_samples
        ``None``: the mean; a number: that many draws.
    seed
        Fixes the draws.

    Returns
    -------
    ndarray
        ``(N, latent_dim)``, or ``(n_samples, N, latent_dim)``.

    Examples
    --------
    >>> from vaeppl.models import SCVI
    >>> get_latent_representation(SCVI(6, 2, hidden=(4,)), {"x": torch.ones(5, 6)}).shape
    (5, 2)
    """
    cells = cells_of(source, data)
    return np.asarray(encode(source, cells, num_samples=n_samples, seed=seed)["z"].cpu())


def get_normalized_expression(
    source: Any,
    data: Any = None,
    *,
    transform_batch: Any = None,
    library_size: float | str = 1.0,
    n_samples: int | None = None,
    num_particles: int | None = None,
    return_mean: bool = True,
    level: float | None = None,
    seed: int = 0,
) -> Any:
    """Return the expression of each gene in each cell: library_size × ρ, given the counts.

    Parameters
    ----------
    source, data, seed
        As in :func:`get_latent_representation`.
    transform_batch
        What would be seen in another batch, at the same z: a code or the name of a level. Several:
        the mean over them, the batch-corrected expression. ``None``: each cell's own batch.
    library_size
        Counts of a cell, to which the shares are brought; ``"latent"``: its own ℓ, of which a draw
        goes with each draw of z.
    n_samples
        Draws from the posterior of each cell; ``None``: 25, or 200 where an interval is asked for.
    num_particles
        ``None``: draws of the guide, which is narrower than the posterior if the ELBO was all that
        was fitted. A number, say 500: each draw is taken from that many by importance weights, as
        in :func:`vaeppl.encode`. The weights of the networks are held at their fit in both, so that
        of few cells intervals stay too narrow.
    return_mean
        Whether to return their mean, or the draws.
    level
        Probability of an interval for each entry, which leaves as much out below as above;
        ``None``: the mean alone.

    Returns
    -------
    pandas.DataFrame or ndarray
        ``(N, G)`` with a column for each gene, and a line for each cell, by its name where the data
        are an AnnData; the draws are an array ``(n_samples, N, G)``. With ``level`` three such
        tables side by side: ``table["mean"]``, ``table["lower"]``, ``table["upper"]``.

    Examples
    --------
    >>> from vaeppl.models import SCVI
    >>> scvi = SCVI(6, 2, hidden=(4,))
    >>> table = get_normalized_expression(scvi, {"x": torch.ones(5, 6)}, library_size=1e4)
    >>> table.sum(axis=1).round().tolist()
    [10000.0, 10000.0, 10000.0, 10000.0, 10000.0]
    >>> table = get_normalized_expression(scvi, {"x": torch.ones(5, 6)}, level=0.9)
    >>> bool((table["lower"] <= table["upper"]).all(axis=None))
    True
    """
    if isinstance(library_size, str) and library_size != "latent":
        raise ValueError(unknown_name("library_size", library_size, ["latent", "a number"]))
    _check_level(level, return_mean)
    if n_samples is None:
        n_samples = 25 if level is None else 200
    _check_samples(n_samples)
    check_particles(num_particles)
    pair, cells = as_pair(source), cells_of(source, data)
    held = 1 if level is None else n_samples  # draws of a batch, side by side
    parts = []
    with tracing.quiet(pair, seed=seed):
        batches = tracing.batches(pair, cells, max(1, rows_at_once(cells) // held))
        codes = batch_codes(cells, transform_batch)
        for batch in batches:
            traces = _draws(pair, batch, n_samples, num_particles)
            drawn = (_scaled(pair, batch, t, codes, library_size) for t in traces)
            parts.append(_told(drawn, return_mean, level))
    found = {name: values.cpu().numpy() for name, values in batches.joined(parts).items()}
    if not return_mean:
        return np.moveaxis(found["draws"], 1, 0)
    import pandas as pd

    names = {"index": cell_names(data), "columns": gene_names(cells)}
    tables = {n: pd.DataFrame(v, **names).rename_axis("cell") for n, v in found.items()}
    return tables["mean"] if level is None else pd.concat(tables, axis=1)


def get_denoised_counts(source: Any, data: Any = None, **options: Any) -> Any:
    """Return what would be counted on average if no gene were missed: μ = ℓ ρ, given the counts.

    Parameters
    ----------
    source, data, **options
        As in :func:`get_normalized_expression`, with each cell's own library size.

    Returns
    -------
    pandas.DataFrame or ndarray
        Likewise.

    Examples
    --------
    >>> from vaeppl.models import SCVI
    >>> get_denoised_counts(SCVI(6, 2, hidden=(4,)), {"x": torch.ones(5, 6)}).shape
    (5, 6)
    """
    return get_normalized_expression(source, data, library_size="latent", **options)


def get_latent_library_size(
    source: Any,
    data: Any = None,
    *,
    n_samples: int = 200,
    num_particles: int | None = None,
    level: float = 0.9,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the posterior of each cell's library size ℓ, in counts.

    Parameters
    ----------
    source, data, seed
        As in :func:`get_latent_representation`.
    n_samples
        Draws from the posterior of each cell.
    num_particles
        As in :func:`get_normalized_expression`.
    level
        Probability of the interval, which leaves as much out below as above.

    Returns
    -------
    pandas.DataFrame
        A line a cell: ``mean``, ``sd``, ``lower``, ``upper``, and the ``observed`` total.

    Examples
    --------
    >>> from vaeppl.models import SCVI
    >>> sizes = get_latent_library_size(SCVI(6, 2, hidden=(4,)), {"x": torch.ones(5, 6)})
    >>> list(sizes.columns)
    ['mean', 'sd', 'lower', 'upper', 'observed']
    """
    import pandas as pd

    _check_level(level)
    _check_samples(n_samples)
    check_particles(num_particles)
    pair, cells = as_pair(source), cells_of(source, data)
    parts = []
    with tracing.quiet(pair, seed=seed):
        batches = tracing.batches(pair, cells, rows_at_once(cells))
        for batch in batches:
            traces = _draws(pair, batch, n_samples, num_particles)
            draws = torch.cat([_log_library(pair, t) for t in traces], dim=-1).exp()
            tails = torch.tensor([0.5 - level / 2, 0.5 + level / 2]).to(draws)
            lower, upper = draws.quantile(tails, dim=-1)
            columns = (draws.mean(-1), draws.std(-1), lower, upper, batch["x"].sum(-1))
            names = ("mean", "sd", "lower", "upper", "observed")
            parts.append(dict(zip(names, columns, strict=True)))
    found = {name: values.cpu().numpy() for name, values in batches.joined(parts).items()}
    return pd.DataFrame(found, index=cell_names(data)).rename_axis("cell")


def shares(pair: Pair, batch: Batch, codes: Sequence[int | None]) -> Tensor:
    """Draw log ρ of some cells once, ``(B, G)``: their shares, averaged over batches if several.

    Must be called with the pair active.
    """
    return _shares_and_library(pair, batch, next(_draws(pair, batch, 1, None)), codes)[0]


def _draws(pair: Pair, batch: Batch, n_samples: int, num_particles: int | None) -> Iterator[Any]:
    """Draw the latents of some cells, as traces of the guide."""
    return posterior_draws(pair, batch, [poutine.Trace()] * n_samples, num_particles)


def _shares_and_library(
    pair: Pair, batch: Batch, guide: Any, codes: Sequence[int | None]
) -> tuple[Tensor, Tensor]:
    log_l = _log_library(pair, guide)
    found = []
    for code in codes:
        given = dict(batch)
        if code is not None:
            given["batch"] = torch.full((len(batch["x"]),), code, device=batch["x"].device)
        story = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(**given)
        found.append(_log_mean(pair, story) - log_l)
    if len(found) == 1:
        return found[0], log_l
    return torch.stack(found).logsumexp(0) - float(np.log(len(found))), log_l


def _scaled(
    pair: Pair, batch: Batch, guide: Any, codes: Sequence[int | None], library_size: float | str
) -> Tensor:
    log_rho, log_l = _shares_and_library(pair, batch, guide, codes)
    if library_size == "latent":
        return (log_rho + log_l).exp()
    return log_rho.exp() * float(library_size)


def _mean(draws: Iterable[Tensor]) -> Tensor:
    """Return the mean of draws, one of which is held at a time."""
    total: Any = 0.0
    count = 0
    for count, draw in enumerate(draws, 1):  # noqa: B007
        total = total + draw
    mean: Tensor = total / count
    return mean


def _told(draws: Iterable[Tensor], mean: bool, level: float | None) -> dict[str, Tensor]:
    """Return what is wanted of the draws of some cells, by name."""
    if mean and level is None:
        return {"mean": _mean(draws)}
    held = torch.stack(list(draws), dim=1)
    if level is None:
        return {"draws": held}
    # NumPy's, as torch's takes only so many numbers.
    bounds = np.quantile(held.cpu().numpy(), [0.5 - level / 2, 0.5 + level / 2], axis=1)
    lower, upper = torch.from_numpy(bounds).to(held)
    return {"mean": held.mean(1), "lower": lower, "upper": upper}


def _log_library(pair: Pair, trace: Any) -> Tensor:
    if "log_library" not in trace.nodes:
        raise StoryError(f"{pair.name} has no site 'log_library', the log library size of a cell")
    value: Tensor = trace.nodes["log_library"]["value"]
    return value


def _log_mean(pair: Pair, trace: Any) -> Tensor:
    fn = trace.nodes["x"]["fn"]
    while not hasattr(fn, "log_mean") and hasattr(fn, "base_dist"):
        fn = fn.base_dist
    if not hasattr(fn, "log_mean"):
        raise StoryError(
            f"site 'x' of {pair.name} is a {type(fn).__name__}, which has no log_mean: take one of "
            "vaeppl.distributions"
        )
    log_mean: Tensor = fn.log_mean
    return log_mean


def batch_codes(data: Data, transform_batch: Any) -> list[int | None]:
    """Return the codes of the batches that are asked for; ``[None]`` for each cell's own.

    Raises
    ------
    ValueError
        There is no batch of that name.
    """
    if transform_batch is None:
        return [None]
    several = isinstance(transform_batch, (list, tuple))
    wanted = list(transform_batch) if several else [transform_batch]
    if not wanted:
        raise ValueError("transform_batch names no batch; give None for each cell's own")
    levels = (data.levels("batch") if "batch" in data else None) or ()
    return [_code(name, levels) for name in wanted]


def _code(batch: Any, levels: Sequence[str]) -> int:
    if isinstance(batch, str):
        if batch not in levels:
            raise ValueError(unknown_name("batch", batch, levels))
        return list(levels).index(batch)
    if levels and not 0 <= int(batch) < len(levels):
        raise ValueError(unknown_level("batch", torch.tensor([int(batch)]), len(levels)))
    return int(batch)


def gene_names(data: Data) -> list[str]:
    """Return the names of the genes, without a look at the counts."""
    known = schema_of(data, ["x"])
    return list(known["x"].names if known else component_names("x", data._column("x")))


def rows_at_once(data: Data) -> int:
    """Return how many cells a pass may hold."""
    return max(1, ENTRIES_AT_ONCE // max(1, int(np.prod(data.shape("x")))))


def _check_level(level: float | None, return_mean: bool = True) -> None:
    if level is None:
        return
    if not 0 < level < 1:
        raise ValueError(f"level is a probability between 0 and 1, such as 0.9; given {level}")
    if not return_mean:
        raise ValueError("draws have no interval: give level= or return_mean=False, not both")


def _check_samples(n_samples: int) -> None:
    if n_samples < 1:
        raise ValueError(f"n_samples is at least 1; given {n_samples}")
