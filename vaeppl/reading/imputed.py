"""Completed tables, and what they say of each entry that was missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..data import Data, Field

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Imputed"]


class Imputed(dict[str, Tensor]):
    """What :func:`vaeppl.impute` returns: each column with missing entries, completed.

    Parameters
    ----------
    tables
        By column, ``(S, N, *event)``; or ``(N, *event)``, one completed table.
    gaps
        By column, which entries were missing, ``(N, *event)``.
    fields
        By column, what each entry of a row is.

    Examples
    --------
    >>> gaps = {"x": torch.tensor([[True, False]])}
    >>> tables = {"x": torch.tensor([[[1.0, 5.0]], [[3.0, 5.0]]])}
    >>> found = Imputed(tables, gaps, {"x": (Field("length", "real"), Field("mass", "real"))})
    >>> found.summary(level=0.5)[["mean", "lower", "upper"]].values.tolist()
    [[2.0, 1.5, 2.5]]
    """

    def __init__(
        self,
        tables: Mapping[str, Tensor],
        gaps: Mapping[str, Tensor],
        fields: Mapping[str, tuple[Field, ...]],
    ) -> None:
        super().__init__(tables)
        self.gaps, self.fields = dict(gaps), dict(fields)

    @classmethod
    def of(cls, tables: Mapping[str, Tensor], gaps: Mapping[str, Tensor], rows: Data) -> Imputed:
        """Return completed tables, with what their columns are called in the data."""
        return cls(tables, gaps, {c: rows.fields(c) for c in tables})

    def summary(self, level: float = 0.9) -> pd.DataFrame:
        """Return a line for each entry that was missing.

        Parameters
        ----------
        level
            Probability of the interval, which leaves as much out below as above.

        Returns
        -------
        pandas.DataFrame
            By ``row``, ``column`` and ``entry`` (the name of the field): ``mean``, ``sd``,
            ``lower``, ``upper`` of the draws; ``code``, the most frequent, and the share
            ``probability`` of it. Codes have these alone, and numbers the others.

        Raises
        ------
        ValueError
            ``level`` is no probability, or there is one completed table only.
        """
        import pandas as pd

        if not 0 < level < 1:
            raise ValueError(f"level is a probability between 0 and 1, such as 0.9; given {level}")
        lines = pd.concat([self._lines(column, level) for column in self], ignore_index=True)
        return lines.set_index(["row", "column", "entry"])

    def _lines(self, column: str, level: float) -> pd.DataFrame:
        import pandas as pd

        gap, fields = self.gaps[column], self.fields[column]
        if self[column].ndim == gap.ndim:
            raise ValueError(
                "one completed table says nothing of how sure its entries are: take several, by "
                "another method than 'mean', say method='importance'"
            )
        where = gap.reshape(len(gap), -1).nonzero()
        missing = [fields[i] for i in where[:, 1].tolist()]
        draws = self[column][:, gap].double().cpu().numpy()
        is_code = np.array([f.kind in ("binary", "categorical") for f in missing])
        return pd.DataFrame(
            {
                "row": where[:, 0].cpu().numpy(),
                "column": column,
                "entry": [f.name for f in missing],
            }
            | {n: np.where(is_code, np.nan, v) for n, v in _of_numbers(draws, level).items()}
            | {n: np.where(is_code, v, np.nan) for n, v in _of_codes(draws).items()}
        )


def _of_numbers(draws: np.ndarray, level: float) -> dict[str, np.ndarray]:
    """Return what draws ``(S, M)`` say of M numbers."""
    lower, upper = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    sd = draws.std(0, ddof=1) if len(draws) > 1 else np.full(draws.shape[1], np.nan)
    return {"mean": draws.mean(0), "sd": sd, "lower": lower, "upper": upper}


def _of_codes(draws: np.ndarray) -> dict[str, np.ndarray]:
    """Return what draws ``(S, M)`` say of M codes."""
    code = torch.from_numpy(draws).mode(0).values.numpy()
    return {"code": code, "probability": (draws == code).mean(0)}
