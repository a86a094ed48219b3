"""What a story depends on beside tensors is found, and a change of it is named."""

import random
import re

import numpy as np
import pytest
import torch

from vaeppl.models import VAE
from vaeppl.training.python_state import difference, plain_state, reachable_tensors

SCALE = 2.0


def uses_a_global(x):
    return SCALE * x


class Settings:
    def __init__(self):
        self.flags = {"deep": [1, {"er": "text"}]}


def change_training(vae):
    vae.encoder.eval()


def change_requires_grad(vae):
    vae.decoder.layers[0].weight.requires_grad_(False)


def change_attribute(vae):
    vae.likelihood.x_dim = 7


def change_nested(vae):
    vae.settings.flags["deep"][1]["er"] = "other"


def change_array(vae):
    vae.array[1] = 5.0


def change_generator(vae):
    vae.generator.normal()


def change_python_generator(vae):
    vae.random.random()


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (change_training, "encoder.training was True and is False"),
        (change_requires_grad, "weight.*requires_grad was True and is False"),
        (change_attribute, "likelihood.x_dim was 6 and is 7"),
        (change_nested, r"flags\['deep'\]\[1\]\['er'\] was 'text' and is 'other'"),
        (change_array, "array was"),
        (change_generator, "generator was"),
        (change_python_generator, "random was"),
    ],
)
def test_changes_are_seen_and_named(change, path):
    vae = VAE(6, 2, hidden=(8,))
    vae.settings, vae.array = Settings(), np.arange(3.0)
    vae.generator, vae.random = np.random.default_rng(0), random.Random(0)
    before = plain_state({"model": vae.model})
    assert difference(before, plain_state({"model": vae.model})) == ""
    change(vae)
    changed = difference(before, plain_state({"model": vae.model}))
    assert re.search(path, changed), changed


def test_a_new_and_a_lost_value_are_named():
    assert difference({}, {"a": 1}) == "a is new"
    assert difference({"a": 1}, {}) == "a is gone"


def test_nan_is_itself():
    assert difference({"a": float("nan")}, {"a": float("nan")}) == ""


def test_globals_and_what_is_closed_over(monkeypatch):
    factor = 3.0

    def story(x, power=2):
        return uses_a_global(x) * factor**power

    before = plain_state({"story": story})
    assert {2.0, 3.0} <= set(before.values())
    monkeypatch.setitem(globals(), "SCALE", 5.0)
    assert "SCALE was 2.0 and is 5.0" in difference(before, plain_state({"story": story}))


def test_tensors_are_found_once_each():
    vae = VAE(6, 2, hidden=(8,))
    vae.kept = vae.again = torch.zeros(3)
    found = reachable_tensors({"model": vae.model, "guide": vae.guide})
    assert sum(t is vae.kept for t in found) == 1
    assert {id(p) for p in vae.parameters()} <= {id(t) for t in found}


def test_what_refers_to_itself_ends():
    loop = []
    loop.append(loop)
    assert plain_state({"loop": loop}) == {}
