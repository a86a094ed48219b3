"""Estimators by name: what each estimates, and what it says of itself."""

from __future__ import annotations

import logging

import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.optim
import pytest
import torch

from vaeppl import estimators, rows
from vaeppl.estimators import ELBO


def model(x):
    with rows(x):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    """The posterior, so that each estimate is the evidence whatever is drawn."""
    with rows(x):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))


BOUNDS = [name for name in estimators.available() if estimators.bounds_evidence(name)]


@pytest.mark.parametrize("name", BOUNDS)
def test_every_bound_is_the_evidence_at_the_posterior(name):
    x = torch.randn(4)
    options = {"num_particles": 2000, "vectorize_particles": True, "max_plate_nesting": 1}
    if name == "vimco":
        options["num_particles"] = 200
    if name == "trace_enum_elbo":
        options["strict_enumeration_warning"] = False
    estimator = estimators.get(name, **options)
    exact = -dist.Normal(0.0, 2**0.5).log_prob(x).sum().item()
    assert estimator.loss(model, guide, x) == pytest.approx(exact, abs=0.2)
    assert estimator.num_particles == options["num_particles"]


@pytest.mark.parametrize("name", estimators.available())
def test_every_estimator_fits_by_svi(name):
    """A loss that can be differentiated, and gradients that pyro.infer.SVI can follow."""
    x = torch.randn(8)

    def learnt_guide(x):
        slope = pyro.param("slope", torch.tensor(0.3))
        scale = pyro.param("scale", torch.tensor(0.9), constraint=dist.constraints.positive)
        with rows(x):
            pyro.sample("z", dist.Normal(slope * x[:, None], scale).to_event(1))

    def vector_model(x):
        shift = pyro.param("shift", torch.tensor(0.5))
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.squeeze(-1) + shift, 1.0), obs=x)

    options = {"num_particles": 4}
    if name == "trace_enum_elbo":
        options["strict_enumeration_warning"] = False
    estimator = estimators.get(name, **options)
    with pyro.get_param_store().scope():
        loss = estimator.differentiable_loss(vector_model, learnt_guide, x=x)
        assert loss.ndim == 0 and loss.isfinite()
        svi = pyro.infer.SVI(
            vector_model, learnt_guide, pyro.optim.Adam({"lr": 0.01}), loss=estimator
        )
        before = {n: p.detach().clone() for n, p in pyro.get_param_store().items()}
        for _ in range(3):
            assert isinstance(svi.step(x=x), float)
        after = dict(pyro.get_param_store().items())
        assert all((after[n] != before[n]).all() for n in before), (before, after)
        assert len(before) == 3
        assert isinstance(svi.evaluate_loss(x=x), float) or name == "trace_graph_elbo"


@pytest.mark.parametrize("name", estimators.available())
def test_every_estimator_gives_an_account_of_itself(name):
    assert len(estimators.about(name).split()) >= 10
    assert isinstance(estimators.get(name), pyro.infer.ELBO)


def test_options_reach_the_estimator():
    elbo = estimators.get("elbo_monte_carlo", num_particles=3, free_bits=0.2)
    assert isinstance(elbo, ELBO) and not elbo.analytic_kl
    assert (elbo.num_particles, elbo.free_bits) == (3, 0.2)
    assert estimators.get("elbo").analytic_kl


def test_an_estimator_is_returned_as_it_is():
    elbo = ELBO(3)
    assert estimators.get(elbo) is elbo
    with pytest.raises(ValueError, match="given has its options already: give free_bits to its"):
        estimators.get(elbo, free_bits=0.5)


def test_unknown_names_and_options_are_refused():
    with pytest.raises(ValueError, match="unknown estimator 'ebo': did you mean 'elbo'"):
        estimators.get("ebo")
    with pytest.raises(ValueError, match="unknown estimator"):
        estimators.about("ebo")
    with pytest.raises(ValueError, match=r"unknown option of 'elbo' 'alpha'.*num_particles"):
        estimators.get("elbo", alpha=0.5)
    with pytest.raises(ValueError, match="unknown option of 'trace_elbo'"):
        estimators.get("trace_elbo", free_bits=0.5)


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
@pytest.mark.parametrize("name", estimators.available())
def test_none_writes_a_log_line_in_plain_pyro(name, caplog):
    """Pyro says at the first step how many plates it has guessed."""
    log = logging.getLogger("pyro.infer.elbo")
    log.addHandler(caplog.handler)

    def story(x):
        shift = pyro.param("shift", torch.tensor(0.1))
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1) + shift, 1.0), obs=x)

    def guide_of_row(x):
        place = pyro.param("place", torch.zeros(2))
        with rows(x):
            pyro.sample("z", dist.Normal(place, 1.0).expand([len(x), 2]).to_event(1))

    try:
        with caplog.at_level(logging.INFO, logger=log.name):
            elbo = estimators.get(name, num_particles=4)
            pyro.infer.SVI(story, guide_of_row, pyro.optim.Adam({}), elbo).step(torch.randn(8))
    finally:
        log.removeHandler(caplog.handler)
        pyro.clear_param_store()
    assert not caplog.records
