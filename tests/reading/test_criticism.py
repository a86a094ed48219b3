"""Facts about predictive checks: p-values are calibrated, and errors say what to mend."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import vaeppl
from vaeppl import rows
from vaeppl.data import Data, Field
from vaeppl.errors import StoryError
from vaeppl.models import VAE
from vaeppl.reading.criticism import default_statistics, posterior_predictive_check


def model(x=None):
    with rows(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def guide(x=None):
    with rows(x):
        pyro.sample("z", dist.Normal(x / 1.25, 0.2**0.5))


def coins(x=None):
    """The probability is shared by all rows, so replications vary more than coins alone do."""
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with rows(x):
        pyro.sample("x", dist.Bernoulli(p), obs=x)


def coins_guide(x=None):
    heads = x.sum()
    pyro.sample("p", dist.Beta(1.0 + heads, 1.0 + len(x) - heads))


noise = np.random.default_rng(0)
NO_TIES = {"mean": lambda x: x.mean() + 1e-6 * noise.random()}


def check(x, **options):
    return posterior_predictive_check(model, {"x": x}, guide=guide, **options)


@pytest.mark.parametrize(("story", "its_guide"), [(model, guide), (coins, coins_guide)])
def test_prior_p_values_are_uniform_when_the_story_is_true(story, its_guide):
    # Then the data are one more replication: their rank among 5 is uniform.
    p = []
    for seed in range(50):
        truth = vaeppl.sample(story, 8, guide=its_guide, seed=1000 + seed)["x"]
        report = posterior_predictive_check(
            story, {"x": truth}, guide=its_guide, statistics=NO_TIES, num_samples=4,
            kind="prior", seed=seed,
        )  # fmt: skip
        p.append(report.table["p_value"].iloc[0])
    values, counts = np.unique(p, return_counts=True)
    assert values.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert ((counts - 10) ** 2 / 10).sum() < 13.3  # χ² with 4 degrees of freedom, 1%


def test_posterior_replications_of_a_conjugate_story_have_their_exact_moments():
    # x̃ | x ~ N(x / 1.25, 0.2 + 0.25) row by row
    x = torch.full((400,), 2.5)
    report = check(x, statistics={"mean": np.mean, "sd": np.std}, num_samples=50)
    assert abs(report.draws["mean"].mean() - 2.0) < 5 * (0.45 / 400 / 50) ** 0.5
    assert abs(report.draws["sd"].mean() - 0.45**0.5) < 0.01


def test_a_misfit_has_an_extreme_p_value():
    x = 5.0 * torch.randn(50, generator=torch.Generator().manual_seed(0))
    table = check(x, kind="prior", num_samples=20).table.set_index("statistic")
    assert table.p_value["sd"] == 0.0
    assert table.observed["sd"] > table.upper["sd"]


def test_ties_count_half():
    report = check(torch.randn(5), statistics={"rows": len}, num_samples=7)
    assert report.table["p_value"].tolist() == [0.5]


def test_the_table_summarises_the_draws():
    report = check(torch.randn(20), num_samples=11)
    for _, line in report.table.iterrows():
        draws = report.draws[line.statistic]
        assert draws.shape == (11,)
        assert line["mean"] == draws.mean()
        assert (line.lower, line.upper) == tuple(np.quantile(draws, [0.05, 0.95]))
    assert "posterior predictive check of column 'x' (11 replications)" in repr(report)


def test_same_seed_same_report():
    x = torch.randn(20)
    one, two, other = (check(x, num_samples=3, seed=s).table for s in (0, 0, 1))
    assert one.equals(two) and not one.equals(other)


def test_missing_entries_are_missing_in_the_replications_too():
    def masked(x=None):
        seen = None if x is None else x.nan_to_num()
        there = torch.tensor(True) if x is None else ~x.isnan()
        with rows(x):
            pyro.sample("x", dist.Normal(0.0, 1.0).mask(there), obs=seen)

    def nothing(x=None):
        pass

    masked.takes_missing = True
    x = torch.tensor([0.0, float("nan"), 1.0])
    count = {"entries": lambda a: np.isfinite(a).sum()}
    report = posterior_predictive_check(
        masked, {"x": x}, guide=nothing, statistics=count, num_samples=4
    )
    assert report.draws["entries"].tolist() == [2.0] * 4
    with pytest.raises(ValueError, match=r"statistic 'm' is NaN .* 1 of its entries NaN.*nanmean"):
        posterior_predictive_check(masked, {"x": x}, guide=nothing, statistics={"m": np.mean})


def test_given_columns_are_held_fixed_in_prior_replications():
    def regression(x=None, u=None):
        with rows(x, u):
            pyro.sample("x", dist.Normal(10.0 * u, 0.1), obs=x)

    def nothing(x=None, u=None):
        pass

    u = torch.arange(5.0)
    report = posterior_predictive_check(
        regression, {"x": 10 * u, "u": u}, guide=nothing, kind="prior", num_samples=3,
        statistics={"last": lambda x: x[-1, 0]},
    )  # fmt: skip
    assert np.allclose(report.draws["last"], 40.0, atol=1.0)
    with pytest.raises(StoryError, match="does not observe column 'u'; it observes x"):
        posterior_predictive_check(
            regression, {"x": u, "u": u}, guide=nothing, column="u", num_samples=1
        )


def test_a_statistic_that_is_no_number_is_named():
    with pytest.raises(ValueError, match=r"statistic 'rows' returned an array of shape \(5, 1\)"):
        check(torch.randn(5), statistics={"rows": lambda x: x})
    with pytest.raises(ValueError, match="statistic 'text' returned an array of type"):
        check(torch.randn(5), statistics={"text": lambda x: "high"})
    with pytest.raises(ValueError, match="statistic 'none' is NaN"):
        check(torch.randn(5), statistics={"none": lambda x: np.nan})


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match="did you mean 'prior'"):
        check(torch.randn(5), kind="priors")
    with pytest.raises(ValueError, match="num_samples"):
        check(torch.randn(5), num_samples=0)


KINDS = {
    "binary": [[0.0, 1.0], [1.0, 1.0]],
    "count": [[0.0, 7.0], [3.0, 1.0]],
    "unit": [[0.1, 0.7], [0.0, 1.0]],
    "real": [[-0.1, 0.7], [0.5, 3.0]],
    "positive": [[0.1, 0.7], [0.5, 3.0]],
    "mixed": [[-0.1, 1.0], [0.5, 0.0]],
}


@pytest.mark.parametrize("kind", KINDS)
def test_default_statistics_are_numbers_and_leave_out_what_is_missing(kind):
    data = Data({"x": KINDS[kind]})
    assert data.kind("x") == kind
    x = data["x"].numpy()
    holed = np.concatenate([x, np.full_like(x, np.nan)])
    statistics = default_statistics(data, "x")
    assert statistics
    for name, statistic in statistics.items():
        assert np.isfinite(statistic(x)), name
        assert statistic(holed) == pytest.approx(statistic(x)), name


def test_shares_of_levels_add_up_to_one():
    field = Field("c", "categorical", ("a", "b", "c"))
    data = Data({"c": torch.tensor([0, 1, 1, 2])}, fields={"c": [field]})
    statistics = default_statistics(data, "c")
    assert list(statistics) == ["share of a", "share of b", "share of c"]
    x = data["c"].numpy()[:, None]
    assert [s(x) for s in statistics.values()] == [0.25, 0.5, 0.25]
    unnamed = Data({"c": torch.tensor([0, 2])}, fields={"c": [Field("c", "categorical")]})
    assert list(default_statistics(unnamed, "c")) == ["share of 0", "share of 2"]


def test_a_fit_is_criticised_on_pictures_too():
    x = (torch.rand(12, 6) < 0.5).float()
    fit = vaeppl.fit(VAE(6, 2, hidden=(4,)), {"x": x}, epochs=1, progress=False)
    for kind in ("posterior", "prior"):
        table = posterior_predictive_check(fit, {"x": x}, num_samples=3, kind=kind).table
        assert table["p_value"].between(0, 1).all()
