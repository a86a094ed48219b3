"""Sections of RESULTS.md on deep stories and on what representations are worth."""

from __future__ import annotations

from statistics import mean, stdev
from typing import Any

from scipy.stats import spearmanr
from tables import Rows, provenance, spread, table

SCORES = {
    "mig": "MIG",
    "sap": "SAP",
    "dci_disentanglement": "DCI dis.",
    "dci_completeness": "DCI com.",
    "modularity": "modularity",
    "explicitness": "explicitness",
    "beta_vae_score": "BetaVAE",
    "factor_vae_score": "FactorVAE",
}


def band(values: list[float]) -> str:
    """Return the mean over seeds, and the least and the largest."""
    return f"{mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def disentangling(result: dict[str, Any]) -> str:
    """Metrics of several objectives on sprites, and how they rank the fits."""
    rows: Rows = result["rows"]
    methods = sorted({r["method"] for r in rows}, key=_order)
    header = ["objective", "ELBO", "KL", "units in use", "total correlation", *SCORES.values()]
    lines = []
    for method in methods:
        group = [r for r in rows if r["method"] == method]
        line: list[Any] = [method, *(spread([r[n] for r in group]) for n in ("elbo", "kl"))]
        line.append(spread([r["active_units"] for r in group]))
        line.append(spread([r["total_correlation"] for r in group], 2))
        lines.append(line + [band([r[name] for r in group]) for name in SCORES])
    ranks = spearmanr([[r[name] for name in SCORES] for r in rows]).statistic
    correlations = [
        [f"**{label}**", *(f"{value:.2f}" for value in ranks[i, :i])] + [""] * (len(SCORES) - i - 1)
        for i, label in enumerate(SCORES.values())
        if i
    ]
    seeds = len({r["seed"] for r in rows})
    return (
        "## Disentangling on sprites: what each objective does, by every metric\n\n"
        "Embedded sprites (2304 pictures of 24 x 24: shape, scale, orientation, x, y), fitted and "
        "judged on the same rows; VAE 576-256-128-8, "
        f"{rows[0]['epochs']} epochs of batches of 128, {seeds} seeds; means of q(z | x), 20 bins; "
        "mean, least and largest over seeds (± is the standard error). Strengths of the penalties "
        "were not tuned. Published medians are on dSprites (737,280 pictures, 300,000 steps, 50 "
        "seeds) and are not to be compared with these.\n\n"
        f"{table(header, lines)}\n\n"
        f"Rank correlation of the metrics among themselves over the {len(rows)} fits (Locatello et "
        "al. 2019, figure 2, find mild ones for most, and strong ones for MIG and DCI):\n\n"
        f"{table(['', *list(SCORES.values())[:-1]], correlations)}\n\n{provenance(result)}"
    )


def _order(method: str) -> tuple[bool, float, str]:
    """Put the sweep of β first, in its order."""
    sweep = method.startswith("β =")
    return (not sweep, float(method.split("=")[1]) if sweep else 0.0, method)


def deep(result: dict[str, Any]) -> str:
    """Which layers each guide brings into use."""
    names = {"bottom_up": "bottom-up", "ladder": "ladder"}
    layers = [f"z{layer}" for layer in range(1, 6)]
    header = ["guide", "aids", "epochs", "seeds", "ELBO", "NLL", *(f"units {z}" for z in layers),
              *(f"KL {z}" for z in layers), "CPU seconds"]  # fmt: skip
    groups: dict[tuple[str, str, int], Rows] = {}
    for r in result["rows"]:
        groups.setdefault((r["aids"], r["inference"], r["epochs"]), []).append(r)
    order = ["none", "warm-up", "BN", "BN + warm-up"]
    lines = []
    for (aids, inference, epochs), rows in sorted(
        groups.items(), key=lambda g: (order.index(g[0][0]), g[0][1])
    ):
        nll = [r["nll"] for r in rows]
        lines.append(
            [
                names[inference],
                aids,
                epochs,
                len(rows),
                f"{mean(r['elbo'] for r in rows):.2f}",
                f"**{mean(nll):.2f}**" + (f" ± {stdev(nll):.2f}" if len(rows) > 1 else ""),
                *(f"{mean(r['active_units'][z] for r in rows):.0f}" for z in layers),
                *(f"{mean(r['kl'][z] for r in rows):.2f}" for z in layers),
                round(mean(r["cpu_seconds"] for r in rows)),
            ]
        )
    one = result["rows"][0]
    return (
        "## Deep stories on MNIST: bottom-up guide against ladder\n\n"
        "Latents 64-32-16-8-4 (Sønderby et al. 2016), one hidden layer of 256-128-64-32-32 between "
        "them where the paper has two; stochastic binarisation, batches of 256; aids are batch "
        "normalisation and a KL annealed over the first 30 % of the epochs. ELBO on the 10,000 "
        f"test images, NLL on {one['rows']:,} of them with {one['num_particles']} samples (s.e. "
        f"over the rows {one['nll_se']:.1f}); means over seeds, ± their s.d. A unit is in use "
        "where its posterior mean varies by more than 0.01; in a layer that is drawn given another "
        "it varies with that one too, so read it with the layer's KL. The published figure of the "
        "ladder is 81.74, after 2,000 epochs. The ladder needs both aids: with one or none it is "
        "behind the bottom-up guide. Without them p(z_l | z_l+1) narrows early (after 12 epochs of "
        "15,000 images its sd in layers 2 and 3 is 0.04, that of what the pass up proposes 3 to "
        "5), and q, the product of the two, no longer hears the data. Each aid by itself: "
        f"`--seeds 0 --aids warm-up BN`.\n\n{table(header, lines)}\n\n"
        f"{provenance(result)}"
    )


def label_efficiency(result: dict[str, Any]) -> str:
    """Accuracy of one classifier against the number of labels, by representation."""
    rows: Rows = result["rows"]
    sizes = sorted({r["labels"] for r in rows})
    lines = []
    for method in ("pixels", "PCA", "AE", "DAE", "VAE"):
        group = {r["labels"]: r for r in rows if r["method"] == method}
        if group:
            cells = [
                f"{100 * group[n]['accuracy']:.1f} ({100 * group[n]['low']:.1f} to "
                f"{100 * group[n]['high']:.1f})"
                for n in sizes
            ]
            first = next(iter(group.values()))
            lines.append([method, first["dimensions"], *cells, first["cpu_seconds"]])
    header = ["codes", "dimensions", *(f"{n} labels" for n in sizes), "CPU seconds"]
    one = rows[0]
    return (
        "## Label efficiency on MNIST: accuracy in percent\n\n"
        "Representations learnt from 20,000 training images without labels (binarised once), "
        f"{one['epochs']} epochs; networks 784-400-200-50; the denoising auto-encoder (DAE) sees "
        "pixels drawn anew with probability 0.4. Logistic regression on so many labels of test "
        f"images, judged on {one['test_rows']:,} others; mean and 90 % band over "
        f"{one['repeats']} draws of the labels.\n\n{table(header, lines)}\n\n{provenance(result)}"
    )


def mnist_latents(result: dict[str, Any]) -> str:
    """MNIST: the lower bound against the number of latents."""
    header = ["latents", "passes", "train bound", "test bound", "KL", "units in use",
              "CPU seconds"]  # fmt: skip
    lines = [
        [
            r["latents"],
            r["epochs"],
            f"{r['train_elbo']:.2f}",
            f"**{r['test_elbo']:.2f}** ± {r['test_elbo_se']:.2f}",
            f"{r['kl']:.2f}",
            r["active_units"],
            r["cpu_seconds"],
        ]
        for r in sorted(result["rows"], key=lambda r: r["latents"])
    ]
    return (
        "## MNIST: lower bound against the number of latents\n\n"
        "Protocol of Kingma & Welling 2014, figure 2 (which gives curves, not numbers): one "
        "hidden layer of 500 tanh units, batches of 100, one draw. "
        "Adam with a cosine schedule in place of Adagrad; 55,000 images, binarised anew at each "
        "pass; nats per image, ± over test rows. Few passes: with 200 latents "
        "many that are of no use are still in use, at two nats; the paper's curves are far longer, "
        "and say that they cost nothing in the end.\n\n"
        f"{table(header, lines)}\n\n{provenance(result)}"
    )


SECTIONS = {
    "mnist_latents": mnist_latents,
    "deep": deep,
    "disentangling": disentangling,
    "label_efficiency": label_efficiency,
}
