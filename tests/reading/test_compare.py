"""Stories side by side: exact differences, and what cannot be compared."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import vaeppl
from vaeppl import plots, rows
from vaeppl.data.errors import SplitError
from vaeppl.errors import StoryError
from vaeppl.models import CVAE, PPCA, VAE
from vaeppl.pair import Pair
from vaeppl.reading.held_out import held_out_part, rows_fitted

torch.manual_seed(0)
X = torch.randn(200)
FAMILIES = {"near": dist.Normal(0.1, 1.0), "wide": dist.Normal(0.0, 2.0), "far": dist.Normal(1, 1)}


def pair_of(fn):
    def model(x=None):
        with rows(x):
            pyro.sample("x", fn, obs=x)

    def guide(x=None):
        pass

    return Pair(model, guide)


def test_differences_and_their_errors_are_those_of_the_rows():
    fits = [pair_of(fn) for fn in FAMILIES.values()]
    found = vaeppl.compare(*fits, data={"x": X}, names=list(FAMILIES), num_particles=2)
    exact = {name: fn.log_prob(X).double().numpy() for name, fn in FAMILIES.items()}
    assert list(found.table.index) == ["near", "wide", "far"]
    for name, values in exact.items():
        line = found.table.loc[name]
        apart = values - exact["near"]
        assert line["elpd"] == pytest.approx(values.mean(), abs=1e-5)
        assert line["difference"] == pytest.approx(apart.mean(), abs=1e-5)
        if name != "near":
            assert line["difference_se"] == pytest.approx(apart.std(ddof=1) / 200**0.5, rel=1e-4)
    assert np.isnan(found.table.loc["near", "difference_se"])
    p = found.checks.loc["mean"]
    assert p["far"] > 0.99 and 0.02 < p["near"] < 0.999
    assert (
        "evidence of 200 rows," in repr(found)
        and "near" in repr(found)
        and found.to_rich().row_count == 3
    )
    ax = plots.comparison(found)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["far", "wide", "near"]


def test_fits_are_compared_on_the_test_rows():
    data = vaeppl.data.Data({"x": (torch.rand(100, 6) < 0.4).float()}).split(valid=0.0, test=0.3)
    fits = [vaeppl.fit(VAE(6, d, hidden=(4,)), data, epochs=1, progress=False) for d in (1, 2)]
    found = vaeppl.compare(*fits, data=data, num_particles=30, num_samples=0)
    assert len(found.rows) == 30 and set(found.table.index) == {"VAE 1", "VAE 2"}
    assert (found.table["seconds"] > 0).all() and found.checks.empty
    assert found.table.loc["VAE 2", "units"] == 2


def fit_of(data, **options):
    return vaeppl.fit(PPCA(3, 1), data, epochs=1, progress=False, **options)


@pytest.mark.filterwarnings("ignore:.*Pareto")
def test_the_head_says_whether_the_rows_were_fitted():
    data = vaeppl.data.Data({"x": torch.randn(50, 3)})
    held, every = fit_of(data, valid=0.2, seed=1), fit_of(data)

    def head(*fits, rows):
        found = vaeppl.compare(*fits, data=rows, num_particles=2, num_samples=0)
        return repr(found).splitlines()[0]

    part = data.split(valid=0.2, test=0, seed=1)
    assert head(every, every, rows=data).startswith("evidence of 50 rows that were fitted,")
    assert head(held, held, rows=data).startswith(
        "evidence of 50 rows, 40 of which equal rows that were fitted,"
    )
    assert head(held, held, rows=part.valid).startswith("held-out evidence of 10 rows,")
    assert head(held, held, rows=part).startswith("held-out evidence of 10 rows,")
    assert head(held, every, rows=part.valid).startswith("evidence of 10 rows that were fitted,")
    assert head(held, PPCA(3, 1), rows=part.valid).startswith("evidence of 10 rows,")
    other = {"x": torch.randn(20, 3)}
    assert head(held, every, rows=other).startswith("held-out evidence of 20 rows,")


def test_equal_rows_are_no_proof_where_many_are_equal():
    data = vaeppl.data.Data({"x": torch.randint(0, 2, (50, 3)).float()}).split(test=0.3)
    fit = vaeppl.fit(VAE(3, 1, hidden=(4,)), data, epochs=1, progress=False)
    assert rows_fitted(fit, data.test) is None
    assert rows_fitted(fit, data.test, of=data) == 0
    assert rows_fitted(fit, data.train) == len(data.train)


def test_rows_held_out_by_a_share_are_found_again():
    data = vaeppl.data.Data({"x": torch.randn(50, 3)})
    split = data.split(valid=0.1, test=0.3, seed=5)
    held = fit_of(data, valid=0.2, seed=1)
    part, name = held_out_part(held, data)
    there = data.split(valid=0.2, test=0, seed=1)
    assert name == "valid" and torch.equal(part["x"], there.valid["x"])
    assert torch.equal(held_out_part(held, data, "train")[0]["x"], held.train["x"])
    assert len(held_out_part(held, data, "all")[0]) == 50
    other = vaeppl.data.Data({"x": torch.randn(50, 3)})
    assert held_out_part(held, other)[1] == "all"
    assert held_out_part(fit_of(split), split)[1] == "test"
    # A share of the train part: the test part is still that of the data.
    part, name = held_out_part(share := fit_of(split, valid=0.5), split)
    assert name == "test" and torch.equal(part["x"], split.test["x"])
    assert len(held_out_part(share, split, "valid")[0]) == 15
    assert held_out_part(fit_of(data.split(valid=0.2, test=0)), data.split(test=0))[1] == "valid"
    with pytest.raises(SplitError, match=r"fit with --valid 0\.2"):
        held_out_part(fit_of(data), data, "valid")


def test_rows_drawn_anew_are_not_said_to_be_held_out():
    data = vaeppl.data.Data({"x": torch.rand(50, 3)}).binarize("x", "dynamic")
    fit = vaeppl.fit(VAE(3, 1, hidden=(4,)), data, epochs=1, progress=False)
    assert rows_fitted(fit, data) == 50
    assert rows_fitted(fit, data.select(torch.arange(20))) is None


def test_what_cannot_be_compared():
    one = VAE(6, 2, hidden=(4,))
    x = (torch.rand(20, 6) < 0.4).float()
    with pytest.raises(StoryError, match="two stories or more"):
        vaeppl.compare(one, data={"x": x})
    with pytest.raises(StoryError, match="data= holds"):
        vaeppl.compare(one, one)
    with pytest.raises(StoryError, match="2 different names"):
        vaeppl.compare(one, one, data={"x": x}, names=["a", "a"])
    with pytest.raises(StoryError, match="densities of different columns"):
        vaeppl.compare(one, CVAE(6, 6, 2, hidden=(4,)), data={"x": x, "y": x})
    with pytest.warns(UserWarning, match="comparable only where the columns are whole numbers"):
        vaeppl.compare(
            one, VAE(6, 2, likelihood="normal", hidden=(4,)), data={"x": x}, num_particles=5
        )
