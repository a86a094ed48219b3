"""Columns as the inputs of kernels, and points that are spread over them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ColumnError

__all__ = ["column_of", "finite_column", "spread"]


def column_of(columns: Any, name: str) -> Tensor:
    """Return a column as ``(N, D)``, float64."""
    if name not in columns:
        raise ColumnError(
            f"the kernel is on column {name!r}, which the data lack: they have "
            f"{', '.join(map(repr, columns))}"
        )
    x = torch.as_tensor(columns[name])
    return (x.unsqueeze(-1) if x.ndim == 1 else x.flatten(1)).double()


def finite_column(columns: Any, name: str) -> Tensor:
    """Return a column as ``(N, D)``, float64, after a look at its values."""
    x = column_of(columns, name)
    bad = torch.nonzero(~x.isfinite())
    if len(bad):
        row, entry = bad[0].tolist()
        raise ColumnError(
            f"column {name!r} holds {x[row, entry].item()} at row {row}; a kernel on it needs "
            "finite values: drop the row or fill the entry"
        )
    return x


def spread(x: Tensor, num: int) -> Tensor:
    """Return at most ``num`` points among rows ``(N, D)``: all distinct ones, or as spread."""
    distinct = torch.unique(x, dim=0)
    if len(distinct) <= num:
        return distinct
    if x.shape[1] == 1:
        return torch.quantile(distinct, torch.linspace(0, 1, num).to(x), dim=0)
    from sklearn.cluster import KMeans

    few = distinct[torch.linspace(0, len(distinct) - 1, min(len(distinct), 5000)).long()]
    means = KMeans(num, n_init=1, random_state=0).fit(few.cpu().numpy())
    return torch.as_tensor(means.cluster_centers_).to(x)
