"""What is said of the evidence and of the ELBO of rows: a line for each, and a mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ELBOReport", "EvidenceReport"]


@dataclass(frozen=True)
class _Report:
    """A table with one line a row of data, and its mean with a standard error."""

    rows: pd.DataFrame
    num_particles: int

    def _mean_se(self, column: str) -> tuple[float, float]:
        values = self.rows[column]
        return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


@dataclass(frozen=True)
class EvidenceReport(_Report):
    """The evidence of a fit.

    Attributes
    ----------
    rows : pandas.DataFrame
        For each row of data: ``log_evidence`` (nats), ``mc_se`` (its Monte-Carlo standard error),
        ``elbo`` (mean log-weight), ``ess`` (effective sample size), ``pareto_k``.
    num_particles : int
        Draws for each row.
    density : str
        What was estimated: ``"p(x)"``, or ``"p(y | x)"`` where the story is given x.
    """

    density: str = "p(x)"

    @property
    def mean(self) -> float:
        """Mean log-evidence per row, in nats."""
        return self._mean_se("log_evidence")[0]

    @property
    def se(self) -> float:
        """Standard error of the mean over rows (sampling of the rows)."""
        return self._mean_se("log_evidence")[1]

    @property
    def mc_se(self) -> float:
        """Standard error of the mean from the finite number of particles alone.

        Too small where Pareto k is above 0.7: the weights that matter may not have been drawn.
        """
        return float((self.rows["mc_se"] ** 2).sum() ** 0.5) / len(self.rows)

    @property
    def share_unreliable(self) -> float:
        """Share of rows with Pareto k above 0.7, whose estimate is not to be trusted.

        NaN where there are too few particles to tell (fewer than 25).
        """
        k = self.rows["pareto_k"]
        return float("nan") if k.isna().all() else float((k > 0.7).mean())

    @property
    def reliability(self) -> str:
        """What the Pareto k of the rows say, in words."""
        share = self.share_unreliable
        return "unknown" if math.isnan(share) else f"> 0.7 for {share:.1%} of rows"

    def __repr__(self) -> str:
        return (
            f"log {self.density} = {self.mean:.2f} ± {_number(self.se)} nats/row "
            f"({len(self.rows)} rows, {self.num_particles} particles, Monte Carlo ± "
            f"{self.mc_se:.2g}); ELBO {self.rows['elbo'].mean():.2f}; Pareto k {self.reliability}"
        )


@dataclass(frozen=True)
class ELBOReport(_Report):
    """The ELBO of a fit.

    Attributes
    ----------
    rows : pandas.DataFrame
        For each row of data, in nats: ``elbo``, ``reconstruction`` (E_q[log p(x | z)]), ``kl``,
        and the KL of each latent site as ``kl[site]``, in the order of the model.
    num_particles : int
        Draws for each row.
    points : tuple of str
        Latents of rows that the guide sets to a value, without a density: then ``elbo`` is an
        objective, with log p(x, z) at that value, and bounds nothing.
    """

    points: tuple[str, ...] = ()

    @property
    def called(self) -> str:
        """What ``elbo`` is: ``"ELBO"``, or ``"objective"`` where there are points."""
        return "objective" if self.points else "ELBO"

    @property
    def mean(self) -> float:
        """Mean ELBO per row, in nats."""
        return self._mean_se("elbo")[0]

    @property
    def se(self) -> float:
        """Standard error of the mean over rows."""
        return self._mean_se("elbo")[1]

    @property
    def reconstruction(self) -> float:
        """Mean of E_q[log p(x | z)] per row."""
        return self._mean_se("reconstruction")[0]

    @property
    def kl(self) -> float:
        """Mean KL per row."""
        return self._mean_se("kl")[0]

    @property
    def site_kl(self) -> dict[str, float]:
        """Mean KL per row of each latent site: of each layer of a hierarchical model, say."""
        sites = (c for c in self.rows.columns if c.startswith("kl["))
        return {column[3:-1]: float(self.rows[column].mean()) for column in sites}

    def __repr__(self) -> str:
        each = self.site_kl
        parts = " + ".join(f"{name} {kl:.2f}" for name, kl in each.items())
        split = f" = {parts}" if len(each) > 1 else ""
        which = f"latent{'s' * (len(self.points) > 1)} {', '.join(map(repr, self.points))}"
        are = "are set to values" if len(self.points) > 1 else "is set to a value"
        why = f" ({which} {are}: log p(x, z) there, no bound of log p(x))" if self.points else ""
        return (
            f"{self.called} = {self.mean:.2f} ± {_number(self.se)} nats/row (reconstruction "
            f"{self.reconstruction:.2f}, KL {self.kl:.2f}{split}; {len(self.rows)} rows){why}"
        )


def _number(value: float) -> str:
    """Return a standard error in words; a single row has none."""
    return "?" if math.isnan(value) else f"{value:.2f}"
