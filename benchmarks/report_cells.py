"""Sections of RESULTS.md on single cells."""

from __future__ import annotations

from typing import Any

from tables import Rows, provenance, spread, table


def single_cell(result: dict[str, Any]) -> str:
    """Single-cell counts, on the split of the comparison with scvi-tools."""
    reference = {  # scvi-tools 1.4.2: marginal log-likelihood of its best recipe at 120 epochs
        "zeisel3": "-857.4", "cellbench": "-2195", "pbmc8k": "-112.0",
    }  # fmt: skip
    header = ["data", "story", "scvi-tools", "log p(x)", "ELBO", "ARI", "NMI", "silhouette",
              "epochs", "seed", "seconds an epoch"]  # fmt: skip
    lines = [
        [
            r["data"],
            r["story"],
            reference.get(r["data"], ""),
            f"**{r['marginal_ll']:.1f}** ± {r['marginal_ll_se']:.1f}",
            f"{r['test_elbo']:.1f}",
            f"{r['ari']:.3f}",
            f"{r['nmi']:.3f}",
            f"{r['silhouette']:.3f}",
            r["epochs"],
            r["seed"],
            f"{r['seconds_per_epoch']:.2f}",
        ]
        for r in result["rows"]
    ]
    return (
        "## Single-cell counts: scVI\n\n"
        "Nats per held-out cell (a tenth of the cells, drawn by NumPy's RandomState(0)), 1,000 "
        "importance samples; ± is the standard error over cells. 10 latents, one hidden layer of "
        "128, batches of 128, ZINB; k-means on the means of q(z) of all cells. Settings were "
        "chosen on a ninth of the training cells. The figures of scvi-tools 1.4.2 are means over "
        "2 or 3 seeds on the same split, network and epochs, with an observed library on zeisel3 "
        "and cellbench, which was its best. Pareto k is above 0.7 for most cells of zeisel3 and "
        "cellbench, so these are lower bounds. Seconds are those of a busy machine.\n\n"
        f"{table(header, lines)}\n\n{provenance(result)}"
    )


def count_distributions(result: dict[str, Any]) -> str:
    """Compare zero-inflated counts with the usual formulas."""
    rows: Rows = result["rows"]
    columns = [c for c in rows[0] if not isinstance(rows[0][c], (dict, list))]
    lines = [[r.get(c, "") for c in columns] for r in rows]
    return (
        "## Zero-inflated negative binomial: forward and backward\n\n"
        "128 cells × 2,000 genes, float32, interleaved.\n\n"
        f"{table(columns, lines)}\n\n{provenance(result)}"
    )


def scvi_tools(result: dict[str, Any]) -> str:
    """Side by side: likelihood and clusters, and then time and memory."""
    rows: Rows = result["rows"]
    header = ["data", "tool", "seeds", "log p(x)", "ELBO", "ARI", "NMI", "silhouette",
              "batch mixing"]  # fmt: skip
    lines = []
    for data, tool in sorted({(r["data"], r["tool"]) for r in rows if r["kind"] == "fit"}):
        mine = [r for r in rows if (r["kind"], r["data"], r["tool"]) == ("fit", data, tool)]
        mixing = [r["batch_mixing"] for r in mine if r["batch_mixing"] is not None]
        lines.append(
            [
                data,
                tool,
                len(mine),
                f"**{spread([r['marginal_ll'] for r in mine])}**",
                spread([r["test_elbo"] for r in mine]),
                *(spread([r[k] for r in mine], 3) for k in ("ari", "nmi", "silhouette")),
                spread(mixing, 3) if mixing else "",
            ]
        )
    return (
        "## Side by side with scvi-tools\n\n"
        "scvi-tools 1.4.2 on the same cells, split, network (10 latents, hidden layer of 128), "
        "batches of 128 and 120 epochs; each tool computes its own held-out log-likelihood per "
        "cell, in nats, by 1,000 importance samples. Learning rates differ: scvi-tools runs with "
        "its own (1e-3), ours with 3e-3 and a cosine. With an observed library the likelihood is "
        "given the total of each cell. k-means on the means of q(z) of all cells; silhouette of "
        "the cell types; batch mixing within cell types, over its value by chance. ± is the "
        f"standard error over seeds.\n\n{table(header, lines)}\n\n{_cost(rows)}"
        f"{provenance(result)}"
    )


def _cost(rows: Rows) -> str:
    """Seconds of an epoch and peaks of memory, where there are some."""
    timed = [r for r in rows if r["kind"] == "time"]
    if not timed:
        return ""
    peaks = {(r["data"], r["tool"]): r for r in rows if r["kind"] == "memory"}
    lines = []
    for r in timed:
        peak = peaks.get((r["data"], r["tool"]), {})
        lines.append(
            [
                r["data"],
                r["tool"],
                f"{r['seconds_per_epoch']:.3f}",
                f"{r['ms_per_step']:.2f}",
                f"**{r['ratio_to_scvi_tools']:.2f}**",
                peak.get("peak_mb", ""),
                peak.get("peak_mb_of_fit", ""),
            ]
        )
    header = ["data", "tool", "seconds an epoch", "ms a step", "ratio", "peak MB", "of the fit"]
    return (
        f"Time: medians over the later epochs of {timed[0]['rounds']} rounds, in which the tools "
        "take turns. Peak memory is that of a process that makes one short fit; the fit's share is "
        "above what was held after the data were read and the libraries imported.\n\n"
        f"{table(header, lines)}\n\n"
    )


def scvi_stability(result: dict[str, Any]) -> str:
    """Count fits that stayed finite, with the spread of their ELBOs."""
    rows: Rows = result["rows"]
    lines = []
    for data in sorted({r["data"] for r in rows}):
        mine = [r for r in rows if r["data"] == data]
        elbos = [r["elbo"] for r in mine if r["elbo"] is not None]
        finite = sum(r["finite"] for r in mine)
        lines.append(
            [data, f"**{finite} of {len(mine)}**", spread(elbos, 2), min(elbos), max(elbos)]
        )
    header = ["data", "finite fits", "last ELBO, mean ± s.e.", "lowest", "highest"]
    return (
        "## scVI at default settings: does every fit stay finite?\n\n"
        f"All cells, {rows[0]['epochs']} epochs, nothing set but the seed; every ELBO and every "
        f"parameter is looked at.\n\n{table(header, lines)}\n\n{provenance(result)}"
    )


def scvi_recovery(result: dict[str, Any]) -> str:
    """Tell what is found again of the weights and latents that counts were drawn from."""
    header = ["likelihood", "cells", "hidden units", "fitted by", "draws", "ρ: corr., error",
              "ℓ: corr., error", "θ: corr., error", "90 % intervals of ρ", "of ℓ"]  # fmt: skip
    lines = [
        [
            r["likelihood"],
            r["cells"],
            r["hidden"],
            r["stage"],
            r["draws"],
            *(
                f"{r[f'{name}_correlation']:.3f}, {r[f'{name}_error']:.3f}"
                for name in ("rho", "library", "theta")
            ),
            f"**{r['rho_coverage']:.3f}**",
            f"**{r['library_coverage']:.3f}**",
        ]
        for r in sorted(
            result["rows"],
            key=lambda r: (r["likelihood"], r["hidden"], r["cells"], r["stage"], r["draws"]),
        )
    ]
    return (
        "## scVI: finding what counts were drawn from\n\n"
        "100 genes and about 300 counts a cell, drawn from a story with two latents and 16 hidden "
        "units; ρ, ℓ, θ are shares of genes, library sizes and dispersions. Rank correlation and "
        "median relative error of posterior means, and how often intervals between the 5 % "
        "and 95 % quantiles of 1,000 draws hold the truth, at 500 of the fitted cells. "
        "The ELBO makes a guide too narrow, and bends the story to it; some epochs of the "
        "importance-weighted bound mend both. Draws resampled by their importance weights are "
        "those of the posterior under the fitted networks, which are held at their fit: where "
        "they hold the truth less often than they say, it is the networks that are off.\n\n"
        f"{table(header, lines)}\n\n{provenance(result)}"
    )


def scvi_growth(result: dict[str, Any]) -> str:
    """Cost against the number of cells."""
    header = ["cells", "counts above 0", "seconds an epoch", "ms a step", "seconds before",
              "peak MB of the fit"]  # fmt: skip
    lines = [
        [
            f"{r['cells']:,}",
            f"{r['nonzero']:,}",
            r["seconds_per_epoch"],
            r["ms_per_step"],
            r["seconds_before"],
            r["peak_mb"],
        ]
        for r in sorted(result["rows"], key=lambda r: r["cells"])
    ]
    return (
        "## scVI: how the cost grows with the cells\n\n"
        "2,000 genes, sparse counts memory-mapped from disk, batches of 128, one epoch, each size "
        "in a process of its own. Before the epoch every count is looked at once. Memory is the "
        "peak of the fit above what was held when the data were open, without pages of the file "
        f"that the system caches.\n\n{table(header, lines)}\n\n{provenance(result)}"
    )


SECTIONS = {
    "single_cell": single_cell,
    "scvi_tools": scvi_tools,
    "scvi_stability": scvi_stability,
    "scvi_recovery": scvi_recovery,
    "scvi_growth": scvi_growth,
    "count_distributions": count_distributions,
}
