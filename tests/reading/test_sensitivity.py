"""Power-scaling: against the exact posteriors of a conjugate story."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import vaeppl
from vaeppl import rows
from vaeppl.pair import Pair
from vaeppl.reading.sensitivity import cjs_distance

torch.manual_seed(0)
ALPHA = 1.25


def conjugate(tau, sigma):
    """z ~ N(0, tau²), x | z ~ N(z, sigma²), with its exact posterior for a guide."""
    precision = 1 / tau**2 + 1 / sigma**2

    def model(x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(0.0, tau))
            pyro.sample("x", dist.Normal(z, sigma), obs=x)

    def guide(x):
        with rows(x):
            pyro.sample("z", dist.Normal(x / sigma**2 / precision, precision**-0.5))

    return Pair(model, guide)


def exact(tau, sigma, x, part):
    """The same from distribution functions on a fine grid, as far out as draws lie."""

    def posterior(a, b):
        precision = a / tau**2 + b / sigma**2
        return dist.Normal(b * x / sigma**2 / precision, precision**-0.5)

    base = posterior(1.0, 1.0)
    z = base.mean + base.stddev * torch.linspace(-3.4, 3.4, 4001)  # as far as 4000 draws
    total = 0.0
    for power in (ALPHA, 1 / ALPHA):
        other = posterior(power, 1.0) if part == "prior" else posterior(1.0, power)
        p, q = (torch.diff(d.cdf(z), prepend=torch.zeros(1)) for d in (base, other))
        total += float(cjs_distance(z, p / p.sum(), q / q.sum()))
    return total / (2 * math.log2(ALPHA))


@pytest.mark.parametrize(("tau", "sigma", "x"), [(1.0, 1.0, 2.0), (0.5, 1.0, 3.0), (5.0, 0.5, 1.0)])
def test_sensitivities_are_those_of_the_exact_posteriors(tau, sigma, x):
    found = vaeppl.prior_sensitivity(
        conjugate(tau, sigma), {"x": torch.full((20,), x)}, num_particles=4000
    ).loc[("z", 0)]
    for part in ("prior", "likelihood"):
        assert found[part] == pytest.approx(exact(tau, sigma, torch.tensor(x), part), abs=0.012)


def test_a_conflict_is_told_and_a_weak_prior_is_not():
    data = {"x": 6 + torch.zeros(5)}
    tight = vaeppl.prior_sensitivity(conjugate(1.0, 1.0), data).loc[("z", 0)]
    assert tight["told"] == "prior-data conflict"
    wide = vaeppl.prior_sensitivity(conjugate(100.0, 1.0), data).loc[("z", 0)]
    assert wide["told"] == "" and wide["prior"] < 0.01 < wide["likelihood"]


def test_latents_that_rows_share():
    def model(x=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 0.1))
        with rows(x):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def guide(x):
        pyro.sample("mu", dist.Normal(0.5, 0.1))

    found = vaeppl.prior_sensitivity(Pair(model, guide), {"x": torch.ones(10)}, num_particles=300)
    line = found.loc[("mu", 0)]
    assert line["prior"] > 0.1 and math.isnan(line["likelihood"])
    assert line["told"] == "strong prior or weak likelihood"


def test_bad_input():
    with pytest.raises(ValueError, match=r"alpha is above 1; given 0\.8"):
        vaeppl.prior_sensitivity(conjugate(1.0, 1.0), {"x": torch.zeros(3)}, alpha=0.8)
