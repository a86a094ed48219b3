"""What every test starts from: one thread, one seed, and an empty store of Pyro's parameters."""

from __future__ import annotations

import os

import pyro
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("vaeppl", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("vaeppl")


def pytest_collection_modifyitems(items):
    if os.environ.get("VAEPPL_DATA_DIR"):
        return
    skip = pytest.mark.skip(reason="VAEPPL_DATA_DIR is not set: there is no data cache to read")
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _fresh_start():
    """Seed every test, and let none leave parameters behind in Pyro's global store."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    validates = torch.distributions.Distribution._validate_args
    yield
    assert torch.distributions.Distribution._validate_args == validates
    left = sorted(pyro.get_param_store().keys())
    pyro.clear_param_store()
    assert not left, f"the test leaves parameters in Pyro's global store: {left}"


@pytest.fixture
def double():
    """Make float64 the default type, for comparisons with exact answers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
