"""A story as a statistician writes it: symbols and joint densities, in Unicode and in LaTeX."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from .structure import Node, base_of

__all__ = ["density", "distribution", "symbol"]

GREEK = dict(
    zip(
        [
            "alpha",
            "beta",
            "gamma",
            "delta",
            "epsilon",
            "zeta",
            "eta",
            "theta",
            "iota",
            "kappa",
            "lambda",
            "mu",
            "nu",
            "xi",
            "pi",
            "rho",
            "sigma",
            "tau",
            "phi",
            "chi",
            "psi",
            "omega",
        ],
        "αβγδεζηθικλμνξπρστφχψω",
        strict=True,
    )
)
SUBSCRIPTS = dict(zip("aehijklmnoprstuvx0123456789", "ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ₀₁₂₃₄₅₆₇₈₉", strict=True))
ROWS = "rows"


def index_of(plate: str) -> str:
    """Return the letter that counts the elements of a plate: n for rows."""
    return "n" if plate == ROWS else plate[0]


def symbol(name: str, indices: Sequence[str] = (), *, latex: bool = False) -> str:
    r"""Return a site's symbol with the indices of its plates.

    Examples
    --------
    >>> symbol("z", ["n"]), symbol("log_theta"), symbol("z1", ["n"])
    ('zₙ', 'log θ', 'z1ₙ')
    >>> symbol("sigma", latex=True), symbol("z1", ["n"], latex=True)
    ('\\sigma', 'z^{(1)}_{n}')
    """
    log, base = ("log ", name[4:]) if name.startswith("log_") and name[4:] else ("", name)
    if latex:
        return _latex_symbol(log, base, indices)
    base = GREEK.get(base, base)
    if not indices:
        return log + base
    short = all(i in SUBSCRIPTS for i in indices) and len(base) <= 2
    end = "".join(SUBSCRIPTS[i] for i in indices) if short else "_" + "".join(indices)
    return f"{log}{base}{end}"


def _latex_symbol(log: str, base: str, indices: Sequence[str]) -> str:
    letters, digits = base.rstrip("0123456789"), base[len(base.rstrip("0123456789")) :]
    if letters in GREEK:
        letters = f"\\{letters}"
    elif len(letters) != 1:
        letters, digits = f"\\mathrm{{{base.replace('_', chr(92) + '_')}}}", ""
    above = f"^{{({digits})}}" if digits else ""
    below = f"_{{{''.join(indices)}}}" if indices else ""
    return f"{chr(92) + 'log ' if log else ''}{letters}{above}{below}"


def distribution(node: Node) -> str:
    """Return a site's distribution with what its numbers depend on.

    Examples
    --------
    >>> import torch, pyro, pyro.distributions as dist
    >>> from vaeppl.structure import read_structure
    >>> nodes = read_structure(lambda: pyro.sample("mu", dist.Normal(0.0, 2.0)), {})
    >>> distribution(nodes["mu"])
    'Normal(loc=0, scale=2)'
    """
    base = base_of(node.fn)
    kind = type(base).__name__.removesuffix("Distribution")
    if hasattr(base, "parts"):
        sizes: Iterable[int] = getattr(base, "sizes", [])
        told = [
            f"{n} × {type(base_of(p)).__name__}" for n, p in zip(sizes, base.parts, strict=False)
        ]
        return f"{kind}({', '.join(told)})"
    if not node.arguments:
        return f"{kind}(f({', '.join(node.parents)}))" if node.parents else kind
    return f"{kind}({', '.join(f'{n}={v}' for n, v in node.arguments.items())})"


def density(
    nodes: Mapping[str, Node],
    columns: Sequence[str],
    *,
    letter: str = "p",
    num_rows: int | None = None,
    latex: bool = False,
) -> str:
    r"""Return the joint density that a model or a guide tells.

    Parameters
    ----------
    nodes
        The sites, in order.
    columns
        What the density is conditional on.
    letter
        ``"p"`` for a model, ``"q"`` for a guide.
    num_rows
        N, where it is to be shown.
    latex
        LaTeX instead of Unicode.

    Examples
    --------
    >>> import torch, pyro, pyro.distributions as dist
    >>> from vaeppl import rows
    >>> from vaeppl.structure import read_structure
    >>> def model(x=None):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     with rows(x):
    ...         z = pyro.sample("z", dist.Normal(mu, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> nodes = read_structure(model, {"x": torch.zeros(3)})
    >>> density(nodes, [])
    'p(μ, z, x) = p(μ) ∏ₙ p(zₙ | μ) p(xₙ | zₙ)'
    >>> density(nodes, [], latex=True)
    'p(\\mu, z, x) = p(\\mu) \\, \\prod_{n} p(z_{n} \\mid \\mu) \\, p(x_{n} \\mid z_{n})'
    """
    bar, space = (r" \mid ", r" \, ") if latex else (" | ", " ")

    def indexed(name: str) -> str:
        if name not in nodes:
            return symbol(name, ["n"], latex=latex)  # a column: one value a row
        plates = [index_of(frame.name) for frame in nodes[name].plates]
        return symbol(name, plates, latex=latex)

    def conditional(left: str, right: Iterable[str]) -> str:
        given = ", ".join(right)
        return f"{letter}({left}{bar}{given})" if given else f"{letter}({left})"

    told = []
    for plates, group in itertools.groupby(
        nodes.values(), key=lambda n: tuple(f.name for f in n.plates)
    ):
        product = "".join(_product(p, num_rows, latex) for p in plates)
        factors = [conditional(indexed(n.name), map(indexed, n.parents)) for n in group]
        told.append(product + space.join(factors))
    names = ", ".join(symbol(n, latex=latex) for n in nodes)
    whole = conditional(names, [symbol(c, latex=latex) for c in columns])
    return f"{whole} = {space.join(told)}" if told else f"{letter} = 1"


def _product(plate: str, num_rows: int | None, latex: bool) -> str:
    index = index_of(plate)
    if latex:
        top = f"^{{{num_rows}}}" if num_rows and plate == ROWS else ""
        return f"\\prod_{{{index}{'=1' if top else ''}}}{top} "
    return f"∏{SUBSCRIPTS.get(index, '_' + index)} "
