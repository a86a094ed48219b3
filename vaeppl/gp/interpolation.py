"""The baseline without a process: linear interpolation between the latents of a VAE."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..data import as_data
from ..errors import ColumnError
from ..pair import as_pair
from ..reading.predictive import encode
from ..reading.sites import column_means

__all__ = ["interpolate"]


def interpolate(
    source: Any,
    given: Any,
    data: Any = None,
    *,
    view: str,
    group: str,
    period: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Predict unseen views of an object by interpolating its latents linearly (LIVAE).

    The latents of a new view lie on the line between those of the nearest views of the same object
    on either side; beyond the first and the last they are those of the nearest.

    Parameters
    ----------
    source
        A fit of :class:`~vaeppl.models.VAE`, or any story with one latent vector ``z`` a row.
    given
        Rows to predict: the columns ``view`` and ``group``.
    data
        Rows to learn from, with ``x`` too; those that were fitted if ``None``.
    view
        Column of numbers along which to interpolate: an angle, a time.
    group
        Column of codes that says which rows are of one object.
    period
        Where views go round: 2π for angles.

    Returns
    -------
    z, x_mean : Tensor
        Latents ``(N, L)``, and the mean of ``x`` given them ``(N, x_dim)``.

    Raises
    ------
    ColumnError
        If a column is missing, or an object to predict was never seen.

    Examples
    --------
    >>> import torch
    >>> from vaeppl.models import VAE
    >>> rows = {"x": torch.rand(3, 4), "angle": torch.tensor([0.0, 1.0, 2.0]),
    ...         "object": torch.zeros(3).long()}
    >>> new = {"angle": torch.tensor([0.25]), "object": torch.tensor([0])}
    >>> vae = VAE(4, 2, likelihood="normal", hidden=(3,))
    >>> z, x = interpolate(vae, new, rows, view="angle", group="object")
    >>> z.shape, x.shape
    (torch.Size([1, 2]), torch.Size([1, 4]))
    """
    pair = as_pair(source)
    known, new = as_data(source.train if data is None else data), as_data(given)
    for name in (view, group):
        for rows, what in ((known, "rows to learn from"), (new, "rows to predict")):
            if name not in rows:
                raise ColumnError(f"the {what} have no column {name!r}, but {list(rows.keys())}")
    z = encode(source, known)["z"]
    found = torch.stack(
        [
            _at(z, known[view].double(), known[group] == code, value, period, code)
            for value, code in zip(new[view].double(), new[group], strict=True)
        ]
    )
    absent = {c: known[c][:1].expand(len(found), *known.shape(c)) for c in pair.required}
    return found, column_means(pair, {"z": found}, len(found), given=absent)["x"]


def _at(
    z: Tensor, views: Tensor, mine: Tensor, value: Tensor, period: float | None, code: Tensor
) -> Tensor:
    """Interpolate the latents of an object's rows at a view."""
    if not bool(mine.any()):
        raise ColumnError(f"object {int(code)} has no row to learn from")
    offset, z = views[mine] - value, z[mine]
    if period is not None:
        offset = torch.cat([offset % period, offset % period - period])
        z = torch.cat([z, z])
    below = torch.where(offset <= 0, offset, -torch.inf)
    above = torch.where(offset >= 0, offset, torch.inf)
    i, j = int(below.argmax()), int(above.argmin())
    if below[i].isinf() or above[j].isinf():
        return z[j] if below[i].isinf() else z[i]
    gap = above[j] - below[i]
    share = float(-below[i] / gap) if gap > 0 else 0.0
    return torch.lerp(z[i], z[j], share)
