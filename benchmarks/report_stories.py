"""Sections of RESULTS.md on stories of one's own: guides made from them, and their checks."""

from __future__ import annotations

from statistics import mean
from typing import Any

from tables import Rows, provenance, spread, table


def auto_guide(result: dict[str, Any]) -> str:
    """Held-out evidence with a guide by hand, and with one made from the story."""
    rows: Rows = result["rows"]
    lines = []
    for case in sorted({r["case"] for r in rows}, key=str.lower):
        mine = [r for r in rows if r["case"] == case]
        lines.append(
            [
                case,
                len(mine),
                spread([r["by_hand"] for r in mine], 2),
                spread([r["auto"] for r in mine], 2),
                spread([r["difference"] for r in mine], 2),
                f"{mean(r['evidence_se'] for r in mine):.2f}",
                f"{sum(r['auto_cpu_s'] for r in mine) / sum(r['by_hand_cpu_s'] for r in mine):.2f}",
            ]
        )
    header = ["story", "seeds", "by hand", "from the story", "difference", "s.e. rows", "time"]
    return (
        "## A guide made from the story alone\n\n"
        "Evidence of held-out rows in nats (500 particles), mean ± s.e. over seeds, of the same "
        "story fitted with its own guide and with `AutoAmortizedGuide` of equal networks; the "
        "standard error over the rows; the ratio of CPU time. Digits (64 counts) for all but "
        "scVI, which has 558 genes of 1,464 cells.\n\n"
        f"{table(header, lines)}\n\n{provenance(result)}"
    )


def fast_check(result: dict[str, Any]) -> str:
    """Seconds of the fast part of the checks."""
    lines = [[r["rows"], f"{r['fast_s']:.3f}", f"{r['full_s']:.2f}"] for r in result["rows"]]
    return (
        "## Checks before a fit\n\nCPU seconds of `vaeppl.check` on a VAE of 784 columns, medians "
        "of 5: the fast part, which every fit does, and all of it.\n\n"
        f"{table(['rows', 'fast part', 'all'], lines)}\n\n{provenance(result)}"
    )


SECTIONS = {"auto_guide": auto_guide, "fast_check": fast_check}
