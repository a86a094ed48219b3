"""Which latent depends on what under the posterior: the inverse of a story's graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

__all__ = ["ORDERS", "invert"]

ORDERS = ("upwards", "downwards")


def invert(
    parents: Mapping[str, Sequence[str]],
    latents: Sequence[str],
    *,
    order: str = "upwards",
    first: Collection[str] = (),
) -> dict[str, tuple[str, ...]]:
    """Return what each latent must be conditioned on, so that no dependence is lost.

    Latents are taken out of the moral graph one by one; a latent that is taken out depends on its
    neighbours at that time, which become neighbours of each other. A factorisation
    q = ∏ q(z | parents) along the result can be any posterior of the story, with the fewest edges
    for that order (Webb, Golinski, Zinkov et al. 2018, "Faithful inversion of generative models").

    Parameters
    ----------
    parents
        What each latent and each observed site depends on in the story, latents or data.
    latents
        The latents, in the story's order.
    order
        ``"upwards"``: those nearest to the data are drawn first, against the story's order;
        ``"downwards"``: in the story's order.
    first
        Latents that are drawn before all others (discrete ones).

    Returns
    -------
    dict of str to tuple of str
        In the order in which they are to be drawn, what each depends on: data, and latents drawn
        before.

    Examples
    --------
    >>> chain = {"w": [], "z": ["w"], "x": ["z"]}
    >>> invert(chain, ["w", "z"])
    {'z': ('x',), 'w': ('z',)}
    >>> invert(chain, ["w", "z"], order="downwards")
    {'w': ('x',), 'z': ('x', 'w')}
    """
    if order not in ORDERS:
        raise ValueError(f"order is {' or '.join(map(repr, ORDERS))}; given {order!r}")
    near = _moral_graph(parents)
    taken = list(latents) if order == "upwards" else list(latents)[::-1]
    found = {}
    for name in sorted(taken, key=lambda n: n in first):  # what is drawn first is taken out last
        neighbours = near.pop(name, set())
        for one in neighbours:
            near[one] |= neighbours - {one}
            near[one].discard(name)
        found[name] = neighbours
    places = {n: i for i, n in enumerate(dict.fromkeys([*near, *parents]))}  # data first
    return {n: tuple(sorted(found[n], key=places.__getitem__)) for n in reversed(found)}


def _moral_graph(parents: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """Connect each site with its parents, and the parents with each other."""
    names = dict.fromkeys([*parents, *(p for ps in parents.values() for p in ps)])
    near: dict[str, set[str]] = {n: set() for n in names}
    for name, above in parents.items():
        for one, other in combinations(dict.fromkeys([*above, name]), 2):
            near[one].add(other)
            near[other].add(one)
    return near
