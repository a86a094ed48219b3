"""How training went: the ELBO per row of each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from ._style import BLUE, GREY, ORANGE, PURPLE, RED, axes_for, label_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["learning_curve"]

WILD_SHARE = 0.1  # epochs at the start that do not set the limits of a learning curve


def learning_curve(fit: Any, ax: Axes | None = None, *, split: bool = False) -> Axes:
    """Draw the ELBO per row of each epoch, in nats.

    The limits leave out the first tenth of the epochs where they would flatten the rest.

    Parameters
    ----------
    fit : Fit
        Its ``history`` is drawn.
    ax
        Where to draw; a new figure if ``None``.
    split
        Draw the two terms of the ELBO too: reconstruction and -KL.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If the fit has no epoch yet.

    Examples
    --------
    >>> import torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(50, 6) < 0.5).float()
    >>> fit = vaeppl.fit(VAE(6, 2, hidden=(4,)), {"x": x}, epochs=2, progress=False)
    >>> learning_curve(fit).get_ylabel()
    'nats per row'
    """
    history = fit.history
    if not len(history):
        raise ValueError("the fit has no epoch to draw: its history is empty")
    ax = axes_for(ax, (6.0, 3.8))
    curves = _curves(history, split)
    for label, values, style in curves:
        marker = "o" if len(history) == 1 else None
        ax.plot(history.index, values, label=label, marker=marker, **style)
    _limit_to_the_settled(ax, [values for _, values, _ in curves])
    if 0 < fit.best_epoch < len(history):
        ax.axvline(fit.best_epoch, color=GREY, lw=1, ls=":", label=f"best, {fit.best_epoch}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    label_axes(ax, "epoch", "nats per row", f"ELBO of {fit.pair.name} per epoch")
    ax.legend(frameon=False)
    return ax


def _curves(history: Any, split: bool) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
    """Return label, values and style of each curve that the history holds."""
    wanted: list[tuple[str, str, float, dict[str, Any]]] = [
        ("elbo", "ELBO, training rows", 1.0, {"color": BLUE}),
        ("valid_elbo", "ELBO, held-out rows", 1.0, {"color": ORANGE, "ls": "--"}),
    ]
    if split:
        wanted += [
            ("reconstruction", "reconstruction", 1.0, {"color": RED, "ls": "-."}),
            ("kl", "−KL", -1.0, {"color": PURPLE, "ls": ":"}),
        ]
    there = [w for w in wanted if w[0] in history and history[w[0]].notna().any()]
    return [(label, sign * history[key].to_numpy(), style) for key, label, sign, style in there]


def _limit_to_the_settled(ax: Axes, curves: Sequence[np.ndarray]) -> None:
    """Set the lower limit by the epochs after the first tenth."""
    settled = np.concatenate([c[int(np.ceil(WILD_SHARE * len(c))) % len(c) :] for c in curves])
    settled = settled[np.isfinite(settled)]
    if not len(settled):
        return
    top = max(float(np.nanmax(c)) for c in curves)
    bottom = float(settled.min())
    margin = 0.05 * (top - bottom) or 1.0
    ax.set_ylim(bottom - margin, top + margin)
