"""Write RESULTS.md from results/*.json: the published figure beside ours, command and date.

python benchmarks/report.py
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from vaeppl.files import read_json, write_whole

HERE = Path(__file__).parent
Rows = list[dict[str, Any]]


def table(header: list[str], lines: list[list[Any]]) -> str:
    """Return a Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(str(c) for c in row) + " |" for row in rows)


def spread(values: list[float], digits: int = 1) -> str:
    """Return mean ± s.e. over seeds, or the number alone where there is one seed."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values) / len(values) ** 0.5:.{digits}f}"


def provenance(result: dict[str, Any]) -> str:
    """Say where the figures of a section come from."""
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    return f"Command: `{result['command']}` ({result['date']}; {result['hardware']}; {versions})."


def mnist_evidence(result: dict[str, Any]) -> str:
    """MNIST within a budget of CPU seconds."""
    header = ["network", "epochs", "CPU seconds", "NLL (500 samples)", "ELBO", "KL", "active units"]
    lines: list[list[Any]] = [
        [
            "hand-written loop, batch 100, lr 1e-3 → 1e-4",
            91,
            330,
            "91.35",
            "-95.65",
            "",
            "21 of 50",
        ],
    ]
    for r in result["rows"]:
        lines.append(
            [
                f"`vaeppl.fit`, batch {r['batch_size']}, lr {r['lr']} cosine, seed {r['seed']}",
                r["epochs"],
                r["cpu_seconds"],
                f"**{r['nll']:.2f}** ± {r['nll_se']:.2f}",
                f"{r['elbo']:.2f}",
                f"{r['kl']:.2f}",
                f"{r['active_units']} of {r['latents']}",
            ]
        )
    return (
        "## MNIST, stochastic binarisation: VAE 784-200-200-50, tanh, one core\n\n"
        "Nats per row on the 10,000 test images, binarised once; ± is the standard error over "
        "rows. Trained on the 60,000 training images, binarised anew at each epoch; the output "
        "bias starts at the data's mean; batch size and learning rate were chosen on 5,000 "
        "validation images. The published figure for this network is 86.76 (19 active units; Burda "
        "et al. 2016, table 1, k = 1), after 3,280 epochs at batch 20 and with 5,000 samples.\n\n"
        f"{table(header, lines)}\n\n{provenance(result)}"
    )


def frey_faces(result: dict[str, Any]) -> str:
    """Frey faces: the lower bound against the number of latents."""
    rows: Rows = result["rows"]
    header = ["latents", "seeds", "train ELBO", "test ELBO", "test log p(x)", "active units",
              "CPU seconds a fit"]  # fmt: skip
    lines = []
    for latents in sorted({r["latents"] for r in rows}):
        group = [r for r in rows if r["latents"] == latents]
        lines.append(
            [
                latents,
                len(group),
                spread([r["train_elbo"] for r in group]),
                spread([r["test_elbo"] for r in group]),
                spread([r["log_evidence"] for r in group]),
                spread([r["active_units"] for r in group]),
                spread([r["cpu_seconds"] for r in group], 0),
            ]
        )
    return (
        "## Frey faces: lower bound against the number of latents\n\n"
        "Protocol of Kingma & Welling 2014, figure 2 (which gives curves, not numbers): one hidden "
        "layer of 200 tanh units, a Gaussian likelihood with predicted scale, batches of 100. "
        "Nats per image of 560 pixels in [0, 1], densities, so above zero; 1573 images fitted, 196 "
        "held out for choosing the epoch, 196 for the test. ± is the standard error over seeds. "
        "Two departures: the Gaussian's mean is linear and not squashed into (0, 1), and the "
        "weights are those of the best epoch on the held-out images. Fitted before the random "
        "streams of `fit` were separated: the command gives the same within the spread over seeds, "
        "not digit for digit.\n\n"
        f"{table(header, lines)}\n\n{provenance(result)}"
    )


def cvae_quadrants(result: dict[str, Any]) -> str:
    """Hole filling: CVAE against a network alone."""
    header = ["quadrants given", "method", "log p(rest given)", "gain over NN", "best epoch",
              "CPU seconds"]  # fmt: skip
    lines = [
        [
            r["quadrants"],
            r["method"],
            f"{r['log_likelihood']:.2f} ± {r['se']:.2f}",
            "" if r["method"] == "NN" else f"**{r['gain']:.2f}** ± {r['gain_se']:.2f}",
            f"{r['best_epoch']} of {r['epochs']}",
            r["cpu_seconds"],
        ]
        for r in sorted(result["rows"], key=lambda r: (r["quadrants"], r["method"] != "NN"))
    ]
    particles = max(r["num_particles"] for r in result["rows"])
    pictures = " ".join(
        f"![{count} given](results/cvae_quadrants_{count}.png)"
        for count in sorted({r["quadrants"] for r in result["rows"]})
    )
    return (
        "## Hole filling on MNIST: conditional log-likelihood of the rest of an image\n\n"
        "Protocol of Sohn, Lee & Yan 2015: 1, 2 or 3 quadrants of a binarised image are given "
        "(lower left, then upper left, then lower right). Nats per image on the 10,000 test "
        f"images; exact for the network (NN), importance sampling with {particles} particles for "
        "the CVAE, which bounds it from below. ± is the standard error over images; the gain is "
        "paired by image. Both have hidden layers of 500 and 500; the CVAE has 30 latents. Draws "
        "of the CVAE are shown as their mean given z.\n\n"
        f"{table(header, lines)}\n\n{pictures}\n\n{provenance(result)}"
    )


SECTIONS = {
    "mnist_evidence": mnist_evidence,
    "frey_faces": frey_faces,
    "cvae_quadrants": cvae_quadrants,
}


def main() -> None:
    parts = [
        "# Results\n\nGenerated by `python benchmarks/report.py` from `benchmarks/results/*.json`. "
        "Each figure stands with the command that gave it and what it was measured on."
    ]
    for name, section in SECTIONS.items():
        path = HERE / "results" / f"{name}.json"
        if path.exists():
            parts.append(section(read_json(path)))
    text = "\n\n".join(parts) + "\n"
    write_whole(HERE / "RESULTS.md", lambda p: p.write_text(text, encoding="utf-8"))
    print(HERE / "RESULTS.md")


if __name__ == "__main__":
    main()
