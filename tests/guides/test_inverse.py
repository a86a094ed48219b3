"""The inverse of a story's graph: by hand, and no dependence is lost."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaeppl.guides.inverse import invert

CHAIN = {"w": [], "z": ["w"], "x": ["z"]}
COMMON = {"a": [], "b": [], "x": ["a", "b"]}
TREE = {"c": [], "a": ["c"], "b": ["c"], "x": ["a"], "y": ["b"]}


@pytest.mark.parametrize(
    ("parents", "latents", "options", "expected"),
    [
        ({"z": [], "x": ["z"]}, ["z"], {}, {"z": ("x",)}),
        (CHAIN, ["w", "z"], {}, {"z": ("x",), "w": ("z",)}),
        (CHAIN, ["w", "z"], {"order": "downwards"}, {"w": ("x",), "z": ("w", "x")}),
        # Two causes of one effect depend on each other once it is seen.
        (COMMON, ["a", "b"], {}, {"b": ("x",), "a": ("b", "x")}),
        (COMMON, ["a", "b"], {"first": ["a"]}, {"a": ("x",), "b": ("a", "x")}),
        # What a latent's branch sees tells of the other branch through their common cause.
        (TREE, ["c", "a", "b"], {}, {"b": ("x", "y"), "a": ("b", "x"), "c": ("a", "b")}),
        # A column that is given is looked at where it enters the prior.
        ({"z": ["c"], "x": ["z"]}, ["z"], {}, {"z": ("x", "c")}),
        ({"z": [], "x": []}, ["z"], {}, {"z": ()}),
    ],
)
def test_by_hand(parents, latents, options, expected):
    found = invert(parents, latents, **options)
    assert {n: set(p) for n, p in found.items()} == {n: set(p) for n, p in expected.items()}
    assert list(found) == list(expected)  # in the order in which they are drawn


def normal_story(parents, rng):
    """Return the covariance of a linear-Gaussian story with that graph."""
    names = list(parents)
    weights = np.zeros((len(names), len(names)))
    for name, above in parents.items():
        for p in above:
            weights[names.index(name), names.index(p)] = rng.normal() + 2
    mixing = np.linalg.inv(np.eye(len(names)) - weights)
    return names, mixing @ mixing.T


@given(st.integers(0, 1000), st.sampled_from(["upwards", "downwards"]))
def test_the_posterior_of_any_linear_gaussian_story_factorises_along_it(seed, order):
    """Each latent given its parents there is independent of all else that was drawn before."""
    rng = np.random.default_rng(seed)
    count = rng.integers(2, 6)
    names = [f"v{i}" for i in range(count)]
    parents = {n: [p for p in names[:i] if rng.random() < 0.5] for i, n in enumerate(names)}
    latents = [n for n in names if rng.random() < 0.7]
    names, covariance = normal_story(parents, rng)
    known = [n for n in names if n not in latents]
    for name, above in invert(parents, latents, order=order).items():
        assert set(above) <= set(known)
        few, all_known = (
            1 / np.linalg.inv(covariance[np.ix_(i, i)])[-1, -1]
            for i in ([names.index(n) for n in [*kept, name]] for kept in (above, known))
        )
        assert few == pytest.approx(all_known, rel=1e-6)  # nothing that is left out tells more
        known.append(name)


def test_every_order_covers_every_latent():
    for order, first in itertools.product(("upwards", "downwards"), ([], ["a"], ["c", "b"])):
        assert set(invert(TREE, ["c", "a", "b"], order=order, first=first)) == {"a", "b", "c"}


def test_an_unknown_order():
    with pytest.raises(ValueError, match="'upwards' or 'downwards'; given 'sideways'"):
        invert(CHAIN, ["w"], order="sideways")
