"""Quantile residuals: exact where all is normal, uniform where the story is true."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch

import vaeppl
from vaeppl import rows
from vaeppl.errors import StoryError
from vaeppl.pair import Pair

torch.manual_seed(0)
N, W, SIGMA = 400, torch.tensor([1.0, -0.8, 0.5]), 0.7
X = torch.randn(N, 1) * W + SIGMA * torch.randn(N, 3)


def linear(sigma, likelihood=None):
    """z ~ N(0, 1), x | z ~ N(W z, sigma²), with its exact posterior as the guide."""
    variance = 1 / (1 + W @ W / sigma**2)

    def model(x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) * W, sigma).to_event(1), obs=x)

    def guide(x):
        with rows(x):
            x = x.nan_to_num()
            pyro.sample("z", dist.Normal(variance * (x @ W) / sigma**2, 1.3 * variance.sqrt()))

    return Pair(model, guide)


def exact_pit(x):
    """Φ of each entry under the normal that it has given the others."""
    covariance = torch.outer(W, W) + SIGMA**2 * torch.eye(3)
    precision = torch.linalg.inv(covariance)
    pit = torch.empty_like(x)
    for d in range(3):
        others = [e for e in range(3) if e != d]
        mean = -(x[:, others] @ precision[d, others]) / precision[d, d]
        pit[:, d] = dist.Normal(mean, precision[d, d] ** -0.5).cdf(x[:, d])
    return pit.numpy()


def test_each_entry_is_judged_by_its_conditional_given_the_others():
    report = vaeppl.quantile_residuals(linear(SIGMA), {"x": X}, num_particles=4000)
    assert np.abs(report.pit - exact_pit(X)).max() < 0.08
    assert np.abs(report.pit - exact_pit(X)).mean() < 0.01
    assert (report.table["p_value"] > 0.01).all()
    assert report.table["sd"].between(0.9, 1.1).all()
    assert "quantile residuals of 400 rows" in repr(report)


@pytest.mark.parametrize(("sigma", "sure"), [(0.35, True), (1.4, False)])
def test_a_story_too_sure_or_too_vague_is_seen(sigma, sure):
    table = vaeppl.quantile_residuals(linear(sigma), {"x": X}).table
    assert (table["sd"] > 1.2).all() if sure else (table["sd"] < 0.8).all()
    assert (table["p_value"] < 1e-3).all()


def test_counts_and_codes_have_uniform_pit():
    rate, probs = torch.tensor([0.3, 4.0]), torch.tensor([0.2, 0.5, 0.3])
    counts = torch.poisson(rate.expand(N, 2))
    codes = torch.multinomial(probs, N, replacement=True).float().unsqueeze(-1)

    def model(x=None):
        with rows(x):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            parts = [dist.Poisson(rate), dist.Categorical(probs.unsqueeze(0))]
            batch = torch.Size([N if x is None else len(x)])
            parts = [p.expand([*batch, *p.batch_shape]).to_event(1) for p in parts]
            pyro.sample("x", vaeppl.likelihoods.MixedColumns(parts), obs=x)

    def guide(x):
        with rows(x):
            pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x)]))

    report = vaeppl.quantile_residuals(
        Pair(model, guide), {"x": torch.cat([counts, codes], 1)}, num_particles=300
    )
    for pit in report.pit.T:
        assert scipy.stats.kstest(pit, "uniform").pvalue > 0.005


def test_what_cannot_be():
    with pytest.raises(StoryError, match="observes x, not 'y'"):
        vaeppl.quantile_residuals(linear(1.0), {"x": X}, column="y")

    def model(x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = z.unsqueeze(-1) * W
            pyro.sample("x", dist.MultivariateNormal(loc, torch.eye(3)), obs=x)

    def guide(x):
        with rows(x):
            pyro.sample("z", dist.Normal(x[:, 0], 1.0))

    with pytest.raises(StoryError, match="entries depend on each other"):
        vaeppl.quantile_residuals(Pair(model, guide), {"x": X})
