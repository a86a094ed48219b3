"""Simulated cells: the counts are those of the expression that is said to be true."""

import numpy as np
import pytest

from vaeppl.data import DataError, load
from vaeppl.data.sets.simulated_cells import DONORS, MIX, TYPES


@pytest.fixture(scope="module")
def cells():
    return load("simulated_cells", cells=4000, genes=100)


def test_columns(cells):
    assert (len(cells), cells.shape("x"), cells.shape("rho")) == (4000, (100,), (100,))
    assert cells.kind("x") == "count" and (cells["x"].sum(1) > 0).all()
    assert cells.levels("batch") == DONORS and cells.levels("y") == TYPES
    assert np.allclose(cells["rho"].sum(1), 1, atol=1e-5)
    assert cells.fields("x")[3].name == cells.fields("rho")[3].name == "gene3"


def test_the_types_are_mixed_as_said(cells):
    for donor, mix in enumerate(MIX):
        kinds = cells["y"][cells["batch"] == donor]
        shares = np.bincount(kinds, minlength=len(TYPES)) / len(kinds)
        assert np.abs(shares - mix).max() < 0.05
        assert (shares[mix == 0] == 0).all()


def test_the_counts_are_those_of_the_library_and_the_shares(cells):
    x, rho, library = (cells[name].numpy().astype(float) for name in ("x", "rho", "library"))
    ratio = x.sum(1) / library
    assert ratio.mean() == pytest.approx(1, abs=0.02)
    # Fold changes of types within a donor, whose own effect drops out but for the sum to 1.
    kind, donor = cells["y"].numpy(), cells["batch"].numpy()
    share = x / x.sum(1, keepdims=True)
    expressed = rho.mean(0) > 2e-3
    for own in range(len(DONORS)):
        one, two = ((kind == k) & (donor == own) for k in (1, 3))
        seen, true = (np.log2(s[one].mean(0) / s[two].mean(0))[expressed] for s in (share, rho))
        assert np.corrcoef(seen, true)[0, 1] > 0.98
        assert np.abs(seen - seen.mean() - true + true.mean()).mean() < 0.15


def test_the_seed_fixes_them():
    one, again, other = (load("simulated_cells", cells=50, seed=s) for s in (1, 1, 2))
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("options", [{"cells": 5}, {"genes": 2.5}, {"seed": -1}, {"cells": True}])
def test_bad_options(options):
    with pytest.raises(DataError, match=f"{next(iter(options))}=.*expected a whole number"):
        load("simulated_cells", **options)
