"""Section of RESULTS.md on the time of a training step."""

from __future__ import annotations

from typing import Any

from tables import Rows, provenance, table

CONTESTANTS = {
    "pyro_eager": "`pyro.infer.SVI`",
    "vaeppl_eager": "`fit`, eager",
    "pytorch_compiled": "by hand, `torch.compile`",
    "pytorch_one_graph": "by hand, one graph",
    "vaeppl_compiled": "`fit(compile=True)`",
    "vaeppl_compiled_bare": "its step alone",
}


def speed(result: dict[str, Any]) -> str:
    """Ratios of CPU time to the loop written by hand and compiled."""
    rows: Rows = result["rows"]
    lines = []
    for case in sorted({r["case"] for r in rows}):
        mine = {r["contestant"]: r for r in rows if r["case"] == case}
        by_hand = f"{mine['pytorch_compiled']['median_cpu_ms']:.2f}"
        ratios = [
            f"{mine[c]['cpu_ratio_to_compiled_pytorch']:.2f}" if c in mine else ""
            for c in CONTESTANTS
        ]
        ratios[4] = f"**{ratios[4]}**"
        lines.append([case, by_hand, *ratios])
    return (
        "## A training step: time against hand-written PyTorch\n\n"
        "CPU time of a step over that of a loop written by hand under `torch.compile` with fused "
        f"Adam (in ms in the second column); medians of {rows[0]['rounds']} interleaved rounds, "
        "batch 128, one thread, on a busy machine. `fit` holds everything that an epoch does: "
        "batches, schedules, reports.\n\n"
        f"{table(['case', 'ms', *CONTESTANTS.values()], lines)}\n\n{provenance(result)}"
    )


SECTIONS = {"speed": speed}
