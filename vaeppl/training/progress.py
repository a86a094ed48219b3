"""What a fit shows while it runs: a bar on a terminal or in a notebook, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["ProgressBar"]


class ProgressBar:
    """Epochs done, and the ELBO with its split, per row and in nats.

    Parameters
    ----------
    epochs
        Epochs in all.
    start
        Epochs done already.
    enabled
        ``False`` shows nothing.
    called
        What is shown: no ELBO where the guide sets a latent to a value.
    """

    def __init__(
        self, epochs: int, start: int = 0, *, enabled: bool = True, called: str = "ELBO"
    ) -> None:
        self.epochs, self.enabled, self.called = epochs, enabled, called
        self.bar: Any = None
        self.last_line = start
        if enabled and (sys.stderr.isatty() or "ipykernel" in sys.modules):
            from tqdm.auto import tqdm

            self.bar = tqdm(total=epochs, initial=start, unit="epoch", dynamic_ncols=True)

    def update(self, record: Mapping[str, float]) -> None:
        """Show the record of an epoch that has ended."""
        if not self.enabled:
            return
        text = in_words(record, self.called)
        done = int(record["epoch"])
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(1)
        elif done == self.epochs or done >= self.last_line + max(1, self.epochs // 10):
            self.last_line = done
            print(f"epoch {done}/{self.epochs}  {text}", file=sys.stderr, flush=True)

    def close(self, message: str = "") -> None:
        """End the bar, and say why the fit stopped if it is worth a word."""
        if self.bar is not None:
            self.bar.close()
        if self.enabled and message:
            print(message, file=sys.stderr, flush=True)


def in_words(record: Mapping[str, float], called: str = "ELBO") -> str:
    """Return a record as a line.

    Examples
    --------
    >>> in_words({"epoch": 1, "elbo": -101.25, "reconstruction": -81.0, "kl": 20.25})
    'ELBO -101.25 nats/row (reconstruction -81.00, KL 20.25)'
    """
    line = f"{called} {record['elbo']:.2f} nats/row"
    if "kl" in record:
        line += f" (reconstruction {record['reconstruction']:.2f}, KL {record['kl']:.2f})"
    if "valid_elbo" in record:
        line += f", held-out {record['valid_elbo']:.2f}"
    return line
