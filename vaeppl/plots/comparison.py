"""Stories side by side: differences of held-out evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._style import BLUE, axes_for, label_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["comparison"]


def comparison(compared: Any, ax: Axes | None = None) -> Axes:
    """Draw how far each story falls behind the best, with two standard errors.

    Parameters
    ----------
    compared : Comparison
        What :func:`vaeppl.compare` returned.
    ax
        Where to draw; a new figure if ``None``.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(50, 6) < 0.3).float()
    >>> runs = [VAE(6, d, hidden=(8,)) for d in (1, 2)]
    >>> compared = vaeppl.compare(*runs, data={"x": x}, names=["one", "two"], num_samples=0)
    >>> comparison(compared).get_xlabel()
    'difference of log p(x) per row from the best (nats)'
    """
    table = compared.table[::-1]  # the best on top
    ax = axes_for(ax, (6.0, 1.2 + 0.4 * len(table)))
    places = range(len(table))
    reach = 2 * table["difference_se"].fillna(0.0)
    ax.errorbar(table["difference"], places, xerr=reach, fmt="o", color=BLUE, capsize=3)
    ax.axvline(0.0, color="0.7", lw=1)
    ax.set_yticks(list(places), [str(name) for name in table.index])
    ax.set_ylim(-0.5, len(table) - 0.5)
    title = f"{len(compared.rows)} rows, ± 2 s.e. of paired differences"
    label_axes(ax, "difference of log p(x) per row from the best (nats)", "", title)
    return ax
