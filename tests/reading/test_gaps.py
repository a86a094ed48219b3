"""The parts of the inference gap, where both are known in closed form."""

from __future__ import annotations

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

import vaeppl
from vaeppl import rows
from vaeppl.errors import StoryError
from vaeppl.models import VAE, AutoEncoder
from vaeppl.pair import as_pair
from vaeppl.reading.collapse import latent_report
from vaeppl.reading.gaps import RowGuide, inference_gaps
from vaeppl.reading.tracing import quiet


class Correlated(vaeppl.Model):
    """z ~ N(0, I₂), x ~ N(W z, I): the posterior is a normal with correlation; q is diagonal.

    The encoder is off by ``shift`` and too wide by ``stretch``, in every row.
    """

    def __init__(self, shift: float = 0.0, stretch: float = 1.0, *, full: bool = False):
        super().__init__()
        self.W = nn.Parameter(torch.tensor([[1.0, 0.8], [0.5, 1.2], [-0.3, 0.9]]))
        self.shift, self.stretch, self.full = shift, stretch, full

    def posterior(self, x):
        precision = torch.eye(2) + self.W.T @ self.W
        return MultivariateNormal(x @ self.W @ precision.inverse(), precision_matrix=precision)

    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.W.T, 1.0).to_event(1), obs=x)

    def guide(self, x):
        p = self.posterior(x)
        # The best diagonal normal has the posterior's mean, and the precision's diagonal.
        sd = p.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt() * self.stretch
        with rows(x):
            if self.full:
                tril = p.scale_tril * self.stretch
                q = dist.MultivariateNormal(p.loc + self.shift, scale_tril=tril)
            else:
                q = dist.Normal(p.loc + self.shift, sd).to_event(1)
            pyro.sample("z", q)

    def gaps(self):
        """KL of the guide, and of the best diagonal normal, from the posterior: of any row."""
        p = self.posterior(torch.zeros(1, 3))
        mean = p.loc[0] + self.shift
        precision = torch.eye(2) + self.W.T @ self.W
        best = MultivariateNormal(p.loc[0], torch.diag(1 / precision.diagonal()))
        scale = 1 / precision.diagonal() * self.stretch**2
        q = MultivariateNormal(mean, torch.diag(scale))
        p = MultivariateNormal(p.loc[0], precision_matrix=precision)
        return kl_divergence(q, p).item(), kl_divergence(best, p).item()


@pytest.mark.parametrize("reference", ["ais", "importance"])
def test_both_parts_are_the_known_ones(reference):
    story, x = Correlated(0.6, 1.4), torch.randn(20, 3)
    report = inference_gaps(
        story, {"x": x}, reference=reference, num_temperatures=60, evaluation_particles=4000
    )
    whole, approximation = story.gaps()
    table = report.table["nats"]
    assert whole > 2 * approximation > 0.1
    assert table["inference"] == pytest.approx(whole, abs=0.08)
    assert table["approximation"] == pytest.approx(approximation, abs=0.05)
    assert table["amortisation"] == pytest.approx(whole - approximation, abs=0.08)
    parts = report.rows["approximation"] + report.rows["amortisation"]
    assert (parts - report.rows["inference"]).abs().max() < 1e-6
    assert "inference gap" in repr(report)


def test_an_encoder_at_its_best_has_no_amortisation_gap():
    story = Correlated()
    report = inference_gaps(story, {"x": torch.randn(10, 3)}, evaluation_particles=4000)
    assert abs(report.table["nats"]["amortisation"]) < 0.02


def test_the_right_family_has_no_approximation_gap():
    story = Correlated(0.5, 1.3, full=True)
    report = inference_gaps(story, {"x": torch.randn(10, 3)}, evaluation_particles=4000)
    assert abs(report.table["nats"]["approximation"]) < 0.02
    assert report.table["nats"]["amortisation"] > 0.2


def test_each_rows_q_starts_where_the_guide_has_it():
    story, x = Correlated(0.3, 1.2), torch.randn(4, 3)
    pair = as_pair(story)
    with quiet(pair):
        own = RowGuide(pair, {"x": x})
        trace = pyro.poutine.trace(own).get_trace(x=x)
        before = pyro.poutine.trace(pair.guide).get_trace(x=x).nodes["z"]["fn"]
    now = trace.nodes["z"]["fn"]
    torch.testing.assert_close(now.mean, before.mean)
    torch.testing.assert_close(now.variance, before.variance)
    assert [tuple(p.shape) for p in own.parameters] == [(4, 2), (4, 2)]


def test_the_model_is_left_as_it_was():
    vae = VAE(6, 2, hidden=(4,))
    before = {n: p.detach().clone() for n, p in vae.named_parameters()}
    x = (torch.rand(5, 6) < 0.5).float()
    state = torch.get_rng_state()
    inference_gaps(vae, {"x": x}, steps=3, num_temperatures=3)
    assert all((p == before[n]).all() and p.grad is None for n, p in vae.named_parameters())
    assert (torch.get_rng_state() == state).all()


# --- latent dimensions ---


class Collapsed(vaeppl.Model):
    """The first dimension follows x; the second stays at its prior."""

    def __init__(self):
        super().__init__()
        self.s = nn.Parameter(torch.tensor([0.4, 1.0]))

    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    def guide(self, x):
        mean = torch.stack([x, torch.zeros_like(x)], -1)
        with rows(x):
            pyro.sample("z", dist.Normal(mean, self.s).to_event(1))


def test_what_each_dimension_costs():
    story, x = Collapsed(), torch.randn(700)
    table = latent_report(story, {"x": x})
    exact = kl_divergence(Normal(x, 0.4), Normal(0.0, 1.0)).mean().item()
    assert table.kl[0] == pytest.approx(exact, rel=1e-4) and table.kl[1] == pytest.approx(0)
    assert table.variance[0] == pytest.approx(x.var().item(), rel=1e-4)
    assert table.active.tolist() == [True, False]
    assert table.collapsed.tolist() == [False, True]


def test_a_latent_that_is_a_number():
    x = torch.randn(50)
    table = latent_report(Number(), {"x": x})
    exact = kl_divergence(Normal(0.5 * x, 0.7), Normal(0.0, 1.0)).mean().item()
    assert table.kl.tolist() == pytest.approx([exact], rel=1e-4)
    assert table.active.tolist() == [True] and table.collapsed.tolist() == [False]
    assert len(vaeppl.active_units(Number(), {"x": x})) == 1


def test_a_point_has_no_kl_and_so_has_not_collapsed_nor_not():
    """Where the code hangs on the row it is active; where it does not, it is not: no more."""

    class Points(Number):
        def __init__(self, slope):
            super().__init__()
            self.slope = slope

        def guide(self, x):
            with rows(x):
                pyro.sample("z", dist.Delta(self.slope * self.a * x))

    for slope, active in ((1.0, True), (0.0, False)):
        line = latent_report(Points(slope), {"x": torch.randn(50)}).iloc[0]
        assert line.active == active and line.kl != line.kl and line.collapsed is pd.NA
        assert line.note == "the guide sets it to a point, which has no KL"
    ae = AutoEncoder(6, 2, hidden=(4,))
    table = latent_report(ae, {"x": (torch.rand(30, 6) < 0.5).float()})
    assert table.kl.isna().all() and table.collapsed.isna().all()


def test_a_label_that_is_summed_out():
    """Its KL is that of its categories together; a Bernoulli of one number has one dimension."""

    class Coin(Number):
        def model(self, x=None):
            with rows(x):
                y = pyro.sample("y", dist.Bernoulli(torch.tensor(0.5)))
                pyro.sample("x", dist.Normal(y, 1.0), obs=x)

        def guide(self, x):
            with rows(x):
                q = dist.Bernoulli(logits=self.a * x)
                pyro.sample("y", q, infer={"enumerate": "parallel"})

    class OneHot(Number):
        def model(self, x=None):
            with rows(x):
                y = pyro.sample("y", dist.OneHotCategorical(torch.ones(3) / 3))
                pyro.sample("x", dist.Normal(y[..., 0], 1.0), obs=x)

        def guide(self, x):
            with rows(x):
                logits = torch.stack([self.a * x, x, -x], -1)
                q = dist.OneHotCategorical(logits=logits)
                pyro.sample("y", q, infer={"enumerate": "parallel"})

    x = torch.randn(50)
    coin = latent_report(Coin(), {"x": x}).iloc[0]
    q = torch.distributions.Bernoulli(logits=0.5 * x)
    exact = kl_divergence(q, torch.distributions.Bernoulli(0.5)).mean().item()
    assert coin.kl == pytest.approx(exact, rel=1e-4) and coin.note == ""
    table = latent_report(OneHot(), {"x": x})
    assert len(table) == 3 and table.kl.isna().all() and table.collapsed.isna().all()
    assert table.note.str.contains("summed out, and its KL does not fall apart").all()


class Number(vaeppl.Model):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.5))

    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with rows(x):
            pyro.sample("z", dist.Normal(self.a * x, 0.7))


def test_a_guide_whose_kl_does_not_fall_apart():
    vae = VAE(6, 2, hidden=(4,), guide_family="full_rank")
    table = latent_report(vae, {"x": (torch.rand(30, 6) < 0.5).float()})
    assert table.kl.isna().all() and table.collapsed.isna().all()
    assert (table.note == "the KL of the site does not fall apart by dimension").all()


# --- bad input ---


def test_bad_input():
    x = {"x": (torch.rand(5, 6) < 0.5).float()}
    flow = VAE(6, 2, hidden=(4,), guide_family="flow")
    with pytest.raises(StoryError, match="of latent 'z' has no parameters that could be a row's"):
        inference_gaps(flow, x)
    with pytest.raises(ValueError, match="reference is 'ais' or 'importance'"):
        inference_gaps(VAE(6, 2, hidden=(4,)), x, reference="exact")
    with pytest.raises(ValueError, match="steps is a whole number, at least 2"):
        inference_gaps(VAE(6, 2, hidden=(4,)), x, steps=1)

    class Chained(Correlated):
        def model(self, x=None):
            with rows(x):
                a = pyro.sample("a", dist.Normal(torch.tensor(0.0), 1.0))
                b = pyro.sample("b", dist.Normal(a, 1.0))
                pyro.sample("x", dist.Normal(b[..., None], 1.0).expand_by([]).to_event(1), obs=x)

        def guide(self, x):
            with rows(x):
                a = pyro.sample("a", dist.Normal(x[:, 0], 1.0))
                pyro.sample("b", dist.Normal(a, 1.0))

    with pytest.raises(StoryError, match="latent 'b' depends on draws of other latents"):
        inference_gaps(Chained(), {"x": torch.randn(4, 1)})


def test_a_story_for_one_draw_at_a_time_has_a_report_too():
    """x @ b has no room for a dimension of draws."""

    def told(product):
        def model(x, y=None):
            b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            with rows(x, y):
                u = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("y", dist.Normal(product(x, b) + u.sum(-1), 0.1), obs=y)

        options = {"guide": "auto", "epochs": 1, "progress": False}
        return vaeppl.latent_report(vaeppl.fit(model, {"x": x, "y": x[:, 0]}, **options), data)

    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    data = {"x": x, "y": x[:, 0]}
    matrix, sums = told(lambda x, b: x @ b), told(lambda x, b: (x * b).sum(-1))
    assert list(matrix["site"]) == ["u", "u"] and (matrix["kl"] >= 0).all()
    assert matrix["kl"].tolist() == pytest.approx(sums["kl"].tolist(), rel=1e-3)
