"""Corruptions C(x̃ | x): noise put on rows that an auto-encoder learns to take off again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .config import Configurable
from .errors import by_name

__all__ = ["Corruption", "GaussianNoise", "Masking", "SaltAndPepper", "available", "get"]


class Corruption(Configurable, nn.Module):
    """Base of the corruptions: ``forward`` draws x̃ of the shape of x.

    Examples
    --------
    >>> import torch
    >>> class Shift(Corruption):
    ...     def forward(self, x):
    ...         return x + torch.randint(0, 2, x.shape[:-1] + (1,))
    >>> Shift()(torch.zeros(4, 3)).shape
    torch.Size([4, 3])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Draw x̃ given x; a subclass writes it."""
        raise TypeError(f"{type(self).__name__} has no method `forward(x)`: write C(x̃ | x)")


class GaussianNoise(Corruption):
    """x̃ ~ N(x, s² I), for reals.

    Parameters
    ----------
    sd
        s, in the unit of the data.
    """

    def __init__(self, sd: float = 0.5) -> None:
        super().__init__()
        if sd <= 0:
            raise ValueError(f"the sd of a noise is > 0; given {sd}")
        self.sd = sd

    def forward(self, x: Tensor) -> Tensor:
        """Add the noise."""
        return x + self.sd * torch.randn_like(x)


class SaltAndPepper(Corruption):
    """Each entry is drawn anew with some probability, all values alike.

    Parameters
    ----------
    share
        Probability that an entry is drawn anew (it may then come out as it was).
    values
        What it may become: 0 and 1, or the codes ``range(K)`` of categories.
    """

    def __init__(self, share: float = 0.3, values: Sequence[float] = (0.0, 1.0)) -> None:
        super().__init__()
        self.share = _probability(share)
        if len(values) < 2:
            raise ValueError(f"values are two or more; given {values!r}")
        self.register_buffer("values", torch.tensor([float(v) for v in values]), persistent=False)

    values: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Draw some entries anew."""
        anew = self.values[torch.randint(len(self.values), x.shape, device=x.device)]
        drawn = torch.rand(x.shape, device=x.device) < self.share
        return torch.where(drawn, anew.to(x.dtype), x)


class Masking(Corruption):
    """Each entry is put out with some probability (Vincent et al. 2008).

    Parameters
    ----------
    share
        Probability that an entry is put out.
    value
        What it is set to.
    """

    def __init__(self, share: float = 0.3, value: float = 0.0) -> None:
        super().__init__()
        self.share, self.value = _probability(share), value

    def forward(self, x: Tensor) -> Tensor:
        """Put some entries out."""
        out = torch.rand(x.shape, device=x.device) < self.share
        return torch.where(out, torch.as_tensor(self.value, dtype=x.dtype, device=x.device), x)


def _probability(share: float) -> float:
    if not 0 < share <= 1:
        raise ValueError(f"share is a probability above 0; given {share}")
    return share


_NAMED: dict[str, type[Corruption]] = {
    "gaussian": GaussianNoise,
    "salt_and_pepper": SaltAndPepper,
    "masking": Masking,
}


def available() -> list[str]:
    """List the names that :func:`get` knows."""
    return sorted(_NAMED)


def get(name: str | Corruption, *args: Any, **kwargs: Any) -> Corruption:
    """Return a corruption by its name; one is returned as it is.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists them.

    Examples
    --------
    >>> get("masking", 0.5).share
    0.5
    """
    return by_name("corruption", _NAMED, Corruption, name, *args, **kwargs)
