"""Random parts of the rows: to train on, to choose by, and to report on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .errors import DataError

__all__ = ["random_parts"]


def random_parts(n: int, valid: float | int, test: float | int, seed: int) -> dict[str, Tensor]:
    """Draw the rows of the train, valid and test part.

    Parameters
    ----------
    n : int
        Number of rows.
    valid, test : float or int
        A fraction of the rows below 1, or a number of rows; 0 for no such part.
    seed : int
        The same seed gives the same parts.

    Returns
    -------
    dict of str to Tensor of int64
        Row numbers in increasing order, of the parts that are not empty.

    Raises
    ------
    DataError
        If no row is left to train on.

    Examples
    --------
    >>> {name: len(rows) for name, rows in random_parts(10, 0.2, 3, seed=0).items()}
    {'train': 5, 'valid': 2, 'test': 3}
    """
    n_valid, n_test = _part_size("valid", valid, n), _part_size("test", test, n)
    if n_valid + n_test >= n:
        raise DataError(
            f"valid={valid} and test={test} take {n_valid} + {n_test} of {n} rows, which "
            "leaves none to train on"
        )
    # RandomState's stream is frozen for good, so a seed means the same split in every version.
    order = np.random.RandomState(seed).permutation(n)
    parts = {
        "train": order[n_valid + n_test :],
        "valid": order[:n_valid],
        "test": order[n_valid : n_valid + n_test],
    }
    return {k: torch.from_numpy(np.sort(rows)) for k, rows in parts.items() if len(rows)}


def _part_size(name: str, size: float | int, n: int) -> int:
    """Count the rows of a part given as a fraction or a number."""
    if isinstance(size, bool) or size < 0 or (isinstance(size, float) and size >= 1):
        raise DataError(
            f"{name}={size!r}; expected a fraction of the rows in [0, 1) or a whole number of rows"
        )
    return round(size * n) if isinstance(size, float) else int(size)
