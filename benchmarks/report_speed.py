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
        "batch 128, one thread. `fit` holds everything that an epoch does: "
        "batches, schedules, reports.\n\n"
        f"{table(['case', 'ms', *CONTESTANTS.values()], lines)}\n\n{provenance(result)}"
    )


def peers(result: dict[str, Any]) -> str:
    """Compare epochs of other trainers."""
    rows: Rows = result["rows"]
    lines = [
        [r["tool"], r["seconds_per_epoch"], r["ms_per_step"], f"**{r['ratio_to_lightning']:.2f}**"]
        for r in sorted(rows, key=lambda r: r["seconds_per_epoch"])
    ]
    return (
        "## An epoch of a VAE: other trainers\n\n"
        f"784-400-20, {rows[0]['rows']:,} rows of black and white pixels, batches of 128, Adam; "
        "each tool trains by its own means (Lightning with a step written by hand), in turns; "
        "medians, and the ratio to Lightning.\n\n"
        f"{table(['tool', 'seconds an epoch', 'ms a step', 'ratio'], lines)}\n\n"
        f"{provenance(result)}"
    )


def loading(result: dict[str, Any]) -> str:
    """Compare counts in memory with counts on disk."""
    lines = [
        [r["way"], r["ms_per_step"], f"**{r['ratio_to_memory']:.2f}**"]
        for r in sorted(result["rows"], key=lambda r: r["ratio_to_memory"])
    ]
    return (
        "## What reading costs: sparse counts that are mapped from a file\n\n"
        "The compiled step of scVI, 2,000 genes, batches of 128 cells; medians over epochs in "
        "turns.\n\n"
        f"{table(['counts', 'ms a step', 'ratio'], lines)}\n\n{provenance(result)}"
    )


def speed_growth(result: dict[str, Any]) -> str:
    """Tell how the time of a step grows."""
    rows: Rows = result["rows"]
    lines = []
    for name in ("rows", "columns", "latents", "particles"):
        for size in sorted({r["size"] for r in rows if r["grows"] == name}):
            mine = {
                r["compiled"]: r["ms_per_step"]
                for r in rows
                if (r["grows"], r["size"]) == (name, size)
            }
            lines.append([name, f"{size:,}", mine.get(False, ""), mine.get(True, "")])
    return (
        "## How the time of a step grows\n\n"
        "A VAE with a hidden layer of 100 and black and white pixels, batches of 128; one size "
        "changes at a time from 12,800 rows, 200 columns, 10 latents and 1 particle.\n\n"
        "![growth](results/speed_growth.png)\n\n"
        f"{table(['what grows', 'to', 'eager, ms a step', 'compiled'], lines)}\n\n"
        f"{provenance(result)}"
    )


def overhead(result: dict[str, Any]) -> str:
    """Tell what ``fit`` adds to its steps."""
    lines = [
        [
            r["what"],
            f"{1000 * r['bare_seconds'] / r['steps']:.2f}",
            f"{1000 * (r['epoch_seconds'] - r['bare_seconds']) / r['steps']:.3f}",
            f"**{r['overhead_percent']:.1f}**",
        ]
        for r in result["rows"]
    ]
    return (
        "## What `fit` adds to its compiled steps\n\n"
        "Wall time of an epoch of 60,000 rows, batches of 128 gathered from memory, history, "
        "progress and checkpoints written, over that of its steps on batches that are there "
        f"already; medians of {result['rows'][0]['rounds']} rounds in turns, one thread.\n\n"
        f"{table(['case', 'ms a step', 'ms added', 'percent'], lines)}\n\n{provenance(result)}"
    )


def start_up(result: dict[str, Any]) -> str:
    """Tell how long a start takes."""
    lines = [[f"`{r['what']}`", r["seconds"], r["cpu_seconds"]] for r in result["rows"]]
    return (
        "## Start-up\n\n"
        "Seconds of a process of its own, files in the system's cache; medians of "
        f"{result['rows'][0]['rounds']} rounds in turns.\n\n"
        f"{table(['what', 'seconds', 'CPU seconds'], lines)}\n\n{provenance(result)}"
    )


SECTIONS = {
    "overhead": overhead,
    "start_up": start_up,
    "speed": speed,
    "speed_growth": speed_growth,
    "peers": peers,
    "loading": loading,
}
