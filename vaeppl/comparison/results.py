"""What a comparison of estimators returns: tidy tables, in words and in colour."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_whole

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

__all__ = ["FrozenComparison", "Reference", "TrainedComparison"]


COLUMNS = (
    *("num_particles", "value", "value_se", "gap", "gap_se"),
    *(
        f"{group}_{what}"
        for group in ("model", "guide")
        for what in ("bias", "bias_se", "cosine", "variance", "snr")
    ),
    *("ess", "milliseconds", "megabytes", "variance_x_ms", "reason"),
)


@dataclass(frozen=True)
class Reference:
    """The best estimate of the evidence of the rows compared on; NaN if q has no density.

    Attributes
    ----------
    evidence, evidence_se : float
        log p(x) per row by importance sampling, in nats, and its Monte-Carlo standard error.
    num_particles : int
        Draws for each row.
    pareto_k, share_unreliable : float
        Median Pareto k of the rows' weights, and the share of rows where it is above 0.7.
    given : tuple of str
        Latents that all rows share: the evidence is then that of a row given the guide's
        distribution of them, which no estimator is to reach, so that there are no gaps.
    """

    evidence: float
    evidence_se: float
    num_particles: int
    pareto_k: float
    share_unreliable: float
    given: tuple[str, ...] = ()


@dataclass(frozen=True)
class FrozenComparison:
    """Estimators at one set of parameters.

    Attributes
    ----------
    table : pandas.DataFrame
        A line an estimator, indexed by its label; per row of data, in nats:

        - ``num_particles``; ``value`` with ``value_se``, its Monte-Carlo standard error;
          ``gap``, evidence less value, with ``gap_se``; the value is that of the bound: of an
          objective with a penalty, the ELBO;
        - for the parameters of model and guide, ``model_…`` and ``guide_…``: ``bias`` of the mean
          gradient relative to the reference's length, with the size it would have from noise
          alone, ``bias_se``; ``cosine`` of their angle; ``variance`` of one gradient, summed over
          the parameters; ``snr``, its signal-to-noise ratio. The reference is the gradient of
          log p(x) for the model and that of the ELBO for the guide: a guide that follows another
          objective is not wrong by its ``guide_bias``, only different;
        - ``ess``, effective sample size of so many particles; ``milliseconds`` for a loss and its
          gradient, the median; ``megabytes`` kept for the backward pass; ``variance_x_ms``;
        - ``reason``, why it does not fit the story, and then nothing else.
    reference : Reference
        The best estimate of the evidence.
    repeats, rows : int
        Gradients taken of each estimator, and rows of data.
    """

    table: pd.DataFrame
    reference: Reference
    repeats: int
    rows: int

    @classmethod
    def of(cls, lines: list[dict[str, Any]], *given: Any, **known: Any) -> FrozenComparison:
        """Build it from the lines of its table."""
        import pandas as pd

        table = pd.DataFrame(lines).set_index("estimator")
        return cls(table.reindex(columns=list(COLUMNS)), *given, **known)

    def to_rich(self) -> Group:
        """Return the table for a terminal: the values, the gradients, and reasons against."""
        from rich.console import Group

        values = {
            "value": "value",
            "gap": "gap",
            "ess": "ESS",
            "milliseconds": "ms",
            "megabytes": "MB",
        }
        gradients = {
            "model_bias": "bias, model",
            "model_snr": "SNR, model",
            "guide_cosine": "cosine, guide",
            "guide_snr": "SNR, guide",
            "variance_x_ms": "variance × ms",
        }
        with_se = {"value": "value_se", "gap": "gap_se", "model_bias": "model_bias_se"}
        able = self.table[self.table["reason"] == ""]
        parts: list[Any] = []
        if len(able):
            parts.append(_rich(able, values, with_se, self._caption()))
            parts.append(_rich(able, gradients, with_se, "gradients, per row"))
        if len(able) < len(self.table):
            parts.append(_reasons(self.table))
        return Group(*parts)

    @property
    def compared(self) -> int:
        """Estimators that could be compared."""
        return int((self.table["reason"] == "").sum())

    def _caption(self) -> str:
        r = self.reference
        known = (
            f"evidence {r.evidence:.3f} ± {r.evidence_se:.2g} ({r.num_particles} particles, "
            f"Pareto k > 0.7 for {r.share_unreliable:.0%} of rows)"
        )
        if r.given:
            known += f", given q of {', '.join(r.given)}, which rows share: no gap can be told"
        if r.evidence != r.evidence:
            known = "the guide has no density, so the evidence is not known"
        return f"nats per row, {self.rows} rows, {self.repeats} repeats; {known}"

    def save(self, folder: str | Path) -> Path:
        """Write the table into a folder, as ``frozen.csv``."""
        return _save(folder, {"frozen": self.table})

    def __repr__(self) -> str:
        return f"FrozenComparison({len(self.table)} estimators; {self._caption()})"


@dataclass(frozen=True)
class TrainedComparison:
    """Fits of one model from the same initial weights, each by another estimator.

    Attributes
    ----------
    table : pandas.DataFrame
        A line an estimator: held-out ``evidence`` per row after the last step, mean over seeds,
        with ``evidence_sd`` and ``evidence_se`` over the seeds; ``at_equal_seconds``, when the
        quickest estimator was done; held-out ``elbo``; ``active_units``; ``seconds`` of training;
        ``seeds`` that came through, ``failed`` that did not; ``reason``.
    runs : pandas.DataFrame
        A line a fit: ``estimator``, ``seed``, the same quantities, and ``reason`` if it failed.
    curves : pandas.DataFrame
        Held-out ``evidence`` per row by ``estimator``, ``seed``, ``epoch``, ``step`` and
        ``seconds`` of training, all by the same bound of few particles.
    pointwise : pandas.DataFrame
        log p(x_n) of each held-out row under each estimator's fits, averaged over the seeds.
    """

    table: pd.DataFrame
    runs: pd.DataFrame
    curves: pd.DataFrame
    pointwise: pd.DataFrame

    def compare(self) -> pd.DataFrame:
        """Rank the estimators by the held-out rows, as ``arviz.compare`` does for models.

        Returns
        -------
        pandas.DataFrame
            A line an estimator, best first: ``rank``; ``elpd``, the mean of log p(x_n), with
            ``se`` over the rows; ``elpd_diff`` from the best, with ``dse``, the standard error of
            the rows' differences. It is per row, where ArviZ gives sums; and rows are all that it
            knows of: what another seed would change is in ``table``.
        """
        import pandas as pd

        means = self.pointwise.mean().sort_values(ascending=False)
        count = len(self.pointwise)
        lines = []
        for rank, label in enumerate(means.index):
            difference = self.pointwise[means.index[0]] - self.pointwise[label]
            lines.append(
                {
                    "estimator": label,
                    "rank": rank,
                    "elpd": means[label],
                    "se": self.pointwise[label].std(ddof=1) / count**0.5,
                    "elpd_diff": difference.mean(),
                    "dse": difference.std(ddof=1) / count**0.5,
                }
            )
        columns = ["estimator", "rank", "elpd", "se", "elpd_diff", "dse"]
        return pd.DataFrame(lines, columns=columns).set_index("estimator")

    @property
    def compared(self) -> int:
        """Estimators of which a fit came through."""
        return int((self.table["seeds"] > 0).sum())

    def to_rich(self) -> Group:
        """Return the table for a terminal, and below it what failed and why."""
        from rich.console import Group

        shown = {
            "evidence": "evidence, equal steps",
            "at_equal_seconds": "equal seconds",
            "elbo": "ELBO",
            "active_units": "active units",
            "seconds": "seconds",
            "seeds": "seeds",
        }
        caption = "nats per held-out row; ± is the standard error over seeds"
        done = self.table[self.table["seeds"] > 0]
        parts: list[Any] = []
        if len(done):
            parts.append(_rich(done, shown, {"evidence": "evidence_se"}, caption))
        if (self.table["reason"] != "").any():
            parts.append(_reasons(self.table))
        return Group(*parts)

    def save(self, folder: str | Path) -> Path:
        """Write all tables into a folder, as CSV."""
        tables = {
            "trained": self.table,
            "runs": self.runs,
            "curves": self.curves,
            "pointwise": self.pointwise,
            "elpd": self.compare(),
        }
        return _save(folder, tables)

    def __repr__(self) -> str:
        done = self.table[self.table["seeds"] > 0]
        best = done["evidence"].idxmax() if len(done) else None
        word = "none came through" if best is None else f"best held-out evidence: {best}"
        return f"TrainedComparison({len(self.table)} estimators; {word})"


def _rich(
    table: pd.DataFrame, shown: dict[str, str], with_se: dict[str, str], caption: str
) -> Table:
    from rich.table import Column, Table
    from rich.text import Text

    # Names are never cut short, however narrow the terminal: two estimators would look the same.
    longest = max(map(len, ["estimator", *map(str, table.index)]))
    first = Column("estimator", no_wrap=True, min_width=longest)
    there = {c: title for c, title in shown.items() if c in table}
    rich = Table(first, *there.values(), caption=caption)
    for label, line in table.iterrows():
        rich.add_row(Text(str(label)), *(_cell(line, c, with_se.get(c)) for c in there))
    return rich


def _reasons(table: pd.DataFrame) -> Text:
    """Return why estimators could not be compared, or not under every seed, a line each."""
    from rich.text import Text

    lines = []
    for label, line in table[table["reason"] != ""].iterrows():
        seeds, failed = line.get("seeds", 0), line.get("failed", 0)
        share = f"{failed} of {failed + seeds} fits failed: " if seeds else ""
        lines.append(f"{label}: {share}{line['reason']}")
    return Text("\n".join(["not compared, or not wholly:", *lines]) if lines else "")


def _cell(line: pd.Series, column: str, se: str | None) -> str:
    value = line[column]
    if value != value:
        return ""
    text = f"{value:.0f}" if column == "seeds" else f"{value:.4g}"
    if se is not None and se in line and line[se] == line[se]:
        digits = 2 if abs(value) >= 10 else 3
        text = f"{value:.{digits}f} ± {line[se]:.2g}"
    return text


def _save(folder: str | Path, tables: dict[str, pd.DataFrame]) -> Path:
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_whole(path / f"{name}.csv", lambda p, t=table: t.to_csv(p))  # type: ignore[misc]
    return path
