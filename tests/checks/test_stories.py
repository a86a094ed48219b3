"""Broken stories, each with the fault that is planted and its line; and sound ones, that pass."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
import torch.nn.functional as F
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.distributions import constraints

import vaeppl
from vaeppl import Model, guides, likelihoods, rows
from vaeppl.checks import check_story
from vaeppl.models import VAE
from vaeppl.nets import MLP

N = 40
torch.manual_seed(0)
X = torch.randn(N, 3)
LABELS = torch.arange(N) % 2
COUNTER = itertools.count()


class Story(Model):
    """z ~ N(0, I₂), x | z ~ N(f(z), 1): sound, and spoilt below."""

    def __init__(self):
        super().__init__()
        self.decoder = MLP(2, 3, hidden=(8,))
        self.encoder = MLP(3, 4, hidden=(8,))

    def p_z(self):
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    def p_x(self, z):
        return dist.Normal(self.decoder(z), 1.0).to_event(1)

    def q_z(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        return dist.Normal(loc, F.softplus(raw) + 1e-3).to_event(1)

    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            pyro.sample("x", self.p_x(z), obs=x)

    def guide(self, x):
        with rows(x):
            pyro.sample("z", self.q_z(x))


# --- sites ---


class SecondLatent(Story):
    def model(self, x=None):
        with rows(x):
            pyro.sample("w", dist.Normal(0.0, 1.0))  # HERE
            z = pyro.sample("z", self.p_z())
            pyro.sample("x", self.p_x(z), obs=x)


class GuideDrawsMore(Story):
    def guide(self, x):
        with rows(x):
            pyro.sample("z", self.q_z(x))
            pyro.sample("w", dist.Normal(x[:, 0], 1.0))  # HERE


class Misspelt(Story):
    def model(self, x=None):
        with rows(x):
            z = pyro.sample("Z", self.p_z())  # HERE
            pyro.sample("x", self.p_x(z), obs=x)


class MisspeltInTheGuide(Story):
    def guide(self, x):
        with rows(x):
            pyro.sample("zz", self.q_z(x))  # HERE


class ObsForgotten(Story):
    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            pyro.sample("x", self.p_x(z))  # HERE


class OtherName(Story):
    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            pyro.sample("x_obs", self.p_x(z), obs=x)  # HERE


class OtherColumn(Story):
    def model(self, x=None, y=None):
        with rows(x, y):
            z = pyro.sample("z", self.p_z())
            pyro.sample("x", self.p_x(z), obs=y)  # HERE

    def guide(self, x, y):
        super().guide(x)


class DerivedValue(Story):
    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            pyro.sample("log_x", self.p_x(z), obs=x.abs().log())  # HERE


class ObservesNothing(Story):
    def model(self, x=None):  # HERE
        with rows(x):
            z = pyro.sample("z", self.p_z())
            self.decoder(z)


# --- shapes ---


class ToEventForgotten(Story):
    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0), obs=x)  # HERE


class ToEventForgottenInTheGuide(Story):
    def guide(self, x):
        with rows(x):
            pyro.sample("z", dist.Normal(self.encoder(x)[:, :1].squeeze(-1), 1.0))  # HERE


class OtherWidth(Story):
    """A latent of one entry would be repeated for both."""

    def guide(self, x):
        with rows(x):
            pyro.sample("z", dist.Normal(self.encoder(x)[:, :1], 1.0).to_event(1))  # HERE


class SingleNumbers(Story):
    """y (N,) against means (N, 1): every row would be scored under every other."""

    def model(self, x, y=None):
        with rows(x, y):
            z = pyro.sample("z", self.p_z())
            pyro.sample("y", dist.Normal(z[..., :1] * self.decoder(z)[..., :1], 1.0), obs=y)  # HERE

    def guide(self, x, y=None):
        super().guide(x)


class OneMeanForAll(Story):
    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            pyro.sample("x", dist.Normal(self.decoder(z)[..., :1], 1.0).to_event(1), obs=x)  # HERE


class OtherNumberOfEntries(Story):
    """Mean and scale from one network that puts out as many numbers as a row has."""

    def __init__(self):
        super().__init__()
        self.decoder = MLP(2, 4, hidden=(8,))

    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            loc, log_scale = self.decoder(z).chunk(2, dim=-1)
            noise = dist.StudentT(4.0, loc, log_scale.exp()).to_event(1)
            pyro.sample("x", noise, obs=x)  # HERE


class CannotBeScored(Story):
    """A distribution whose log-density fails."""

    class Broken(dist.Normal):
        def log_prob(self, value):
            raise RuntimeError("no such number: tensor([1.0, 2.0])")

    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            noise = self.Broken(self.decoder(z), 1.0).to_event(1)
            pyro.sample("x", noise, obs=x)  # HERE


# --- plates and scales ---


class GuideOutsideThePlate(Story):
    def guide(self, x):
        pyro.sample("z", self.q_z(x))  # HERE


class OtherPlate(Story):
    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.q_z(x))  # HERE


class OtherSize(Story):
    def model(self, x=None):
        with pyro.plate("rows", 1000, subsample=torch.arange(len(x))):
            z = pyro.sample("z", self.p_z())
            pyro.sample("x", self.p_x(z), obs=x)  # HERE

    def guide(self, x):
        with pyro.plate("rows", 1000, subsample=torch.arange(len(x))):
            pyro.sample("z", self.q_z(x))


class BetaOnOneSide(Story):
    def guide(self, x):
        with rows(x), poutine.scale(scale=4.0):
            pyro.sample("z", self.q_z(x))  # HERE


class GlobalUnscaled(Story):
    def model(self, x=None):
        sigma = pyro.sample("sigma", dist.LogNormal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            loc = self.decoder(pyro.sample("z", self.p_z()))
            pyro.sample("x", dist.Normal(loc, sigma[..., None]).to_event(1), obs=x)  # HERE

    def guide(self, x):
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("sigma", dist.LogNormal(loc, 0.1))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", self.q_z(x))


# --- supports, and gradients of draws ---


class ScaleWithAPrior(Story):
    prior = dist.HalfNormal(1.0)

    def model(self, x=None):
        sigma = pyro.sample("sigma", self.prior)
        with rows(x):
            loc = self.decoder(pyro.sample("z", self.p_z()))
            scale = 0.1 + sigma.abs()[..., None]
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    def guide(self, x):
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("sigma", dist.LogNormal(loc, 0.1))
        with rows(x):
            pyro.sample("z", self.q_z(x))


class NormalForPositive(ScaleWithAPrior):
    def guide(self, x):
        loc = pyro.param("loc", torch.tensor(9.0))  # no draw is ever negative
        pyro.sample("sigma", dist.Normal(loc, 0.1))  # HERE
        with rows(x):
            pyro.sample("z", self.q_z(x))


class LogNormalForUnit(ScaleWithAPrior):
    prior = dist.Beta(2.0, 2.0)

    def guide(self, x):
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("sigma", dist.LogNormal(loc, 0.1))  # HERE
        with rows(x):
            pyro.sample("z", self.q_z(x))


class LogNormalForReal(Story):
    def guide(self, x):
        with rows(x):
            loc = self.encoder(x)[:, :2]
            pyro.sample("z", dist.LogNormal(loc, 1.0).to_event(1))  # HERE


class Mixture(Story):
    """A component k of two, drawn by the guide."""

    def model(self, x=None):
        with rows(x):
            k = pyro.sample("k", dist.Categorical(torch.ones(2)))
            z = pyro.sample("z", self.p_z())
            shift = torch.stack([k, -k], -1).to(z.dtype)
            pyro.sample("x", self.p_x(z + shift), obs=x)

    def guide(self, x):
        with rows(x):
            pyro.sample("k", dist.Categorical(logits=self.encoder(x)[:, :2]))  # HERE
            pyro.sample("z", self.q_z(x))


class SetsALatent(Story):
    def guide(self, x):
        with rows(x):
            loc, raw = self.encoder(x).chunk(2, -1)
            value = loc + F.softplus(raw) * torch.randn_like(loc)
            pyro.sample("z", dist.Delta(value, event_dim=1))  # HERE


class MoreClasses(Mixture):
    def guide(self, x):
        with rows(x):
            q = dist.Categorical(logits=self.encoder(x)[:, :3])
            pyro.sample("k", q, infer={"enumerate": "parallel"})  # HERE
            pyro.sample("z", self.q_z(x))


class ContinuousForDiscrete(Mixture):
    def guide(self, x):
        with rows(x):
            pyro.sample("k", dist.Normal(self.encoder(x)[:, 0], 1.0))  # HERE
            pyro.sample("z", self.q_z(x))


# --- rows, draws and seeds ---


class CentresTheBatch(Story):
    def guide(self, x):
        with rows(x):
            pyro.sample("z", self.q_z(x - x.mean(0)))  # HERE


class NormalisesTheBatch(Story):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))

    def guide(self, x):
        with rows(x):
            pyro.sample("z", self.q_z(x))  # HERE


class MeanOfTheRows(Story):
    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            pyro.sample("x", self.p_x(z - z.mean(-2, keepdim=True)), obs=x)  # HERE


class Squeezes(Story):
    """One row is squeezed away, and its log-density is another."""

    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            loc = self.decoder(z).unsqueeze(0).squeeze()
            pyro.sample("x", dist.Normal(loc * loc.ndim, 1.0).to_event(1), obs=x)  # HERE


class ConcatenatesAlongOne(Story):
    def __init__(self):
        super().__init__()
        self.decoder = MLP(5, 3, hidden=(8,))

    def model(self, x, y=None):
        with rows(x, y):
            z = pyro.sample("z", self.p_z())
            pyro.sample("y", self.p_x(torch.cat([z, x], 1)), obs=y)  # HERE

    def guide(self, x, y):
        with rows(x, y):
            pyro.sample("z", self.q_z(y))


class MixesDrawsWithRows(Story):
    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            mixed = z.transpose(0, -2).reshape(z.shape)
            pyro.sample("x", self.p_x(mixed), obs=x)  # HERE


class KeepsCount(Story):
    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            pyro.sample("x", self.p_x(z + 0.1 * next(COUNTER)), obs=x)  # HERE


class IgnoresTheData(Story):
    def guide(self, x):
        loc = pyro.param("loc", torch.zeros(2))
        with rows(x):
            pyro.sample("z", dist.Normal(loc.expand(len(x), 2), 1.0).to_event(1))  # HERE


class IgnoresAColumn(Story):
    def model(self, x=None, y=None):  # HERE
        super().model(x)

    def guide(self, x, y=None):
        super().guide(x)


# --- draws and numbers ---


class CannotBeDrawn(Story):
    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))  # HERE
            pyro.sample("x", self.p_x(z), obs=x)


class FarFromTheData(Story):
    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            pyro.sample("x", self.p_x(z), obs=x)  # HERE


class Overflows(Story):
    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            loc = self.decoder(z)
            pyro.sample("x", dist.Normal(loc, (6 * z[..., :1]).exp()).to_event(1), obs=x)  # HERE


class ScaleMayBeNegative(Story):
    def model(self, x=None):
        sigma = pyro.param("sigma", torch.tensor(1.0))
        with rows(x):
            z = pyro.sample("z", self.p_z())
            pyro.sample("x", dist.Normal(self.decoder(z), sigma).to_event(1), obs=x)  # HERE


class NaNGradient(Story):
    """The length of a vector of zeros has no gradient."""

    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            length = (0 * self.decoder(z)).square().sum(-1, keepdim=True).sqrt()
            pyro.sample("x", dist.Normal(self.decoder(z) + length, 1.0).to_event(1), obs=x)


# --- parameters ---


class UnderNoGrad(Story):
    def __init__(self):
        super().__init__()
        self.decoder = MLP(2, 3, hidden=(8,))  # HERE

    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            with torch.no_grad():
                loc = self.decoder(z)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


class Unused(Story):
    def __init__(self):
        super().__init__()
        self.scale_net = nn.Linear(2, 3)  # HERE


class TimesZero(Story):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.ones(3))  # HERE

    def p_x(self, z):
        return dist.Normal(self.decoder(z) + 0 * self.shift, 1.0).to_event(1)


class NotAParameter(Story):
    def __init__(self):
        super().__init__()
        self.__dict__["log_sigma"] = torch.zeros((), requires_grad=True)

    def p_x(self, z):
        return dist.Normal(self.decoder(z), self.log_sigma.exp()).to_event(1)


class NumpyNumbers(Story):
    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            unit = torch.as_tensor(np.ones(3))
            pyro.sample("x", dist.Normal(self.decoder(z) * unit, 1.0).to_event(1), obs=x)  # HERE


BROKEN = {
    SecondLatent: "latent-not-in-guide",
    GuideDrawsMore: "latent-not-in-model",
    Misspelt: "latent-not-in-guide",
    MisspeltInTheGuide: "latent-not-in-guide",
    ObsForgotten: "not-conditioned",
    OtherName: "column-under-another-name",
    OtherColumn: "column-under-another-name",
    DerivedValue: "observes-no-column",
    ObservesNothing: "observes-nothing",
    ToEventForgotten: "does-not-run",
    ToEventForgottenInTheGuide: "event-dims-differ",
    OtherWidth: "event-shapes-differ",
    SingleNumbers: "batch-not-in-plates",
    OneMeanForAll: "width-differs",
    OtherNumberOfEntries: "width-differs",
    CannotBeScored: "does-not-run",
    GuideOutsideThePlate: "batch-not-in-plates",
    OtherPlate: "plates-differ",
    OtherSize: "plate-of-another-size",
    BetaOnOneSide: "scales-differ",
    GlobalUnscaled: "rows-not-scaled",
    NormalForPositive: "supports-differ",
    LogNormalForUnit: "supports-differ",
    LogNormalForReal: "guide-cannot-reach",
    Mixture: "not-reparametrised",
    MoreClasses: "supports-differ",
    ContinuousForDiscrete: "supports-differ",
    SetsALatent: "latent-is-a-point",
    CentresTheBatch: "rows-leak",
    NormalisesTheBatch: "rows-leak",
    MeanOfTheRows: "rows-leak",
    Squeezes: "one-row",
    ConcatenatesAlongOne: "particles",
    MixesDrawsWithRows: "particles",
    KeepsCount: "not-repeatable",
    IgnoresTheData: "guide-ignores-data",
    IgnoresAColumn: "column-unused",
    CannotBeDrawn: "cannot-be-drawn",
    FarFromTheData: "prior-far-from-data",
    Overflows: "overflow",
    ScaleMayBeNegative: "overflow",
    NaNGradient: "gradient-not-finite",
    UnderNoGrad: "no-gradient",
    Unused: "no-gradient",
    TimesZero: "no-gradient",
    NotAParameter: "not-registered",
    NumpyNumbers: "floating-types",
}
WARNINGS = {
    "observes-no-column", "guide-cannot-reach", "not-reparametrised",
    "guide-ignores-data", "column-unused", "cannot-be-drawn", "prior-far-from-data",
    "no-gradient", "not-registered", "floating-types",
}  # fmt: skip
NOTES = {"latent-is-a-point"}
NO_LINE = (NaNGradient, NotAParameter)


def data_for(story):
    if story is FarFromTheData:
        return {"x": 3000 + 500 * X}
    if story is GlobalUnscaled:  # more rows than a minibatch has
        return {"x": X.repeat(5, 1)}
    if story is OtherColumn:
        return {"x": X, "y": X + 1}
    if story is ConcatenatesAlongOne:
        return {"x": X, "y": X + 1}
    if story in (SingleNumbers, IgnoresAColumn):
        return {"x": X, "y": X[:, 0]}
    return {"x": X}


@pytest.mark.parametrize("story", BROKEN, ids=lambda s: s.__name__)
def test_a_planted_fault_is_found_with_its_line(story):
    report = check_story(story(), data_for(story))
    assert BROKEN[story] in report.codes, str(report)
    finding = next(f for f in report if f.code == BROKEN[story])
    if finding.code in WARNINGS:
        assert finding.severity == "warning" and not report.errors, str(report)
    if finding.code in NOTES:
        assert finding.severity == "note" and report.ok, str(report)
    if story not in NO_LINE:
        assert finding.line is not None and finding.line.text.endswith("# HERE"), str(report)
    assert finding.what and finding.why
    assert finding.mend or finding.code == "does-not-run"


@pytest.mark.parametrize("story", BROKEN, ids=lambda s: s.__name__)
def test_nothing_else_is_found(story):
    """A fault is told once, and brings no other findings that hide it."""
    codes = check_story(story(), data_for(story)).codes
    beside = {  # what the same fault does too
        DerivedValue: {"cannot-be-drawn"},
        OtherColumn: {"column-unused", "not-conditioned"},
        OtherSize: {"cannot-be-drawn"},
        IgnoresTheData: {"no-gradient"},
        CentresTheBatch: {"one-row"},
        NormalisesTheBatch: {"one-row"},
        MeanOfTheRows: {"one-row", "particles"},
        Squeezes: {"particles"},
        KeepsCount: {"one-row", "rows-leak", "particles", "column-unused", "guide-ignores-data"},
        UnderNoGrad: {"overflow"},
        NotAParameter: {"no-gradient"},
        GlobalUnscaled: {"cannot-be-drawn"},
        Overflows: {"prior-far-from-data"},
    }.get(story, set())
    assert set(codes) <= {BROKEN[story]} | beside, str(check_story(story(), data_for(story)))


def test_what_is_told_names_the_slip_and_its_mend():
    def told(story):
        return check_story(story(), {"x": X}).findings[0]

    forgotten = told(ToEventForgotten)
    assert "Shape mismatch" in forgotten.what
    assert forgotten.mend.startswith("call .to_event(1) on the distribution of 'x'")
    renamed = told(MisspeltInTheGuide)
    assert "did you mean 'z' in the guide" in renamed.what and "'zz'" in renamed.mend
    assert "did you mean 'z' in the model" in told(Misspelt).what
    assert told(CannotBeScored).what.endswith("RuntimeError: no such number")
    assert "(3,)" in told(OtherNumberOfEntries).what and "(2,)" in told(OtherNumberOfEntries).what


def test_a_guide_that_sets_a_latent_is_told_of_the_adversarial_estimator():
    finding = next(iter(check_story(SetsALatent(), {"x": X})))
    assert finding.what.startswith("the guide of SetsALatent sets 'z' to a value (a Delta)")
    assert "no bound of log p(x)" in finding.why
    assert 'fit with estimator="adversarial"' in finding.mend
    assert not len(check_story(SetsALatent(), {"x": X}, estimator="adversarial"))
    meant = SetsALatent()
    meant.codes_are_points = True
    assert not len(check_story(meant, {"x": X}))


def test_a_negative_scale_is_told_once_and_in_few_words():
    class Negative(Story):
        def model(self, x=None):
            with rows(x):
                z = pyro.sample("z", self.p_z())
                loc = self.decoder(z)
                pyro.sample("x", dist.Normal(loc, loc - 9).to_event(1), obs=x)

    report = check_story(Negative(), {"x": X})
    assert len(report.errors) == 1 and "scale" in str(report)
    assert len(str(report)) < 1000, str(report)


@pytest.mark.parametrize(
    ("event", "once", "told", "mended"),
    [
        ((3,), lambda b, x: x @ b, "(b * x).sum(-1) for x @ b", lambda b, x: (b * x).sum(-1)),
        ((), lambda b, x: (b * x).sum(-1), "b[..., None]", lambda b, x: (b[..., None] * x).sum(-1)),
    ],
)
def test_how_a_shared_latent_is_written_for_several_draws(event, once, told, mended):
    def story(mean):
        def model(x, y=None):
            b = pyro.sample("b", dist.Normal(torch.zeros(event), 1.0).to_event(len(event)))
            with rows(x, y):
                pyro.sample("y", dist.Normal(mean(b, x), 1.0), obs=y)

        return check_story(model, {"x": X, "y": X[:, 0]}, guide="auto")

    report = story(once)
    assert report.codes == ("particles",) and told in report.findings[0].mend, str(report)
    assert not len(story(mended)), str(story(mended))


def test_a_class_without_guide_is_told_of_the_automatic_one():
    class NoGuide(Model):
        model = Story.model
        p_z, p_x = Story.p_z, Story.p_x

        def __init__(self):
            super().__init__()
            self.decoder = MLP(2, 3, hidden=(8,))

    report = check_story(NoGuide(), {"x": X})
    assert report.codes == ("story",) and "has no method `guide`" in report.findings[0].what
    assert 'guide="auto"' in report.findings[0].mend
    with pytest.raises(vaeppl.errors.StoryError, match="--guide auto"):
        vaeppl.fit(NoGuide(), {"x": X}, epochs=1, progress=False)
    assert not check_story(NoGuide(), {"x": X}, guide="auto").errors


# --- sound stories ---


class Enumerated(Mixture):
    def guide(self, x):
        with rows(x):
            logits = self.encoder(x)[:, :2]
            pyro.sample("k", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            pyro.sample("z", self.q_z(x))


class Dropout(Story):
    def __init__(self):
        super().__init__()
        self.encoder = MLP(3, 4, hidden=(8,), norm="layer", dropout=0.3)


class StartsAtZero(Story):
    """A last layer of zeros: no draw depends on the row yet."""

    def __init__(self):
        super().__init__()
        self.encoder = MLP(3, 4, hidden=(8,))
        nn.init.zeros_(self.encoder.layers[-1].weight)
        nn.init.zeros_(self.decoder.layers[-1].weight)


class Frozen(Story):
    def __init__(self):
        super().__init__()
        self.decoder.requires_grad_(False)


class Chain(Story):
    """w above z above x, the guide going up."""

    def model(self, x=None):
        with rows(x):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            z = pyro.sample("z", dist.Normal(w.unsqueeze(-1), 1.0).expand_by([]).to_event(1))
            pyro.sample("x", self.p_x(torch.cat([z, z], -1)), obs=x)

    def guide(self, x):
        with rows(x):
            loc = self.encoder(x)
            z = pyro.sample("z", dist.Normal(loc[:, :1], 1.0).to_event(1))
            pyro.sample("w", dist.Normal(z[..., 0], loc[:, 3].exp()))


class PositiveLatent(Story):
    def p_z(self):
        return dist.Gamma(torch.full((2,), 2.0), 2.0).to_event(1)

    def q_z(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        return dist.LogNormal(loc, F.softplus(raw) + 1e-3).to_event(1)


class ConstrainedParameter(Story):
    def model(self, x=None):
        sigma = pyro.param("sigma", torch.tensor(1.0), constraint=constraints.positive)
        with rows(x):
            z = pyro.sample("z", self.p_z())
            pyro.sample("x", dist.Normal(self.decoder(z), sigma).to_event(1), obs=x)


class Factor(Story):
    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", self.p_z())
            pyro.factor("pull", -0.01 * z.square().sum(-1))
            pyro.sample("x", self.p_x(z), obs=x)


class Given(Story):
    """A regression on x with a latent of the row."""

    def model(self, x, y=None):
        with rows(x, y):
            z = pyro.sample("z", self.p_z())
            loc = self.decoder(z) + x
            pyro.sample("y", dist.Normal(loc, 1.0).to_event(1), obs=y)

    def guide(self, x, y):
        with rows(x, y):
            pyro.sample("z", self.q_z(y - x))


class Auxiliary(Story):
    def guide(self, x):
        with rows(x):
            a = pyro.sample("a", dist.Normal(x, 1.0).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("z", self.q_z(a))


class Series(Model):
    """A latent for each of three steps, in a plate of its own."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 3)

    def model(self, x=None):
        plate = rows(x)
        with pyro.plate("steps", 3, dim=-2), plate:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with plate:
            steps_last = z.transpose(-1, -2).unsqueeze(-3)
            pyro.sample("x", dist.Normal(steps_last, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("steps", 3, dim=-2), rows(x):
            pyro.sample("z", dist.Normal(self.encoder(x).transpose(-1, -2), 1.0))


class Weighted(Story):
    def model(self, x=None):
        with poutine.scale(scale=0.5):
            super().model(x)

    def guide(self, x):
        with poutine.scale(scale=0.5):
            super().guide(x)


SOUND = {
    **{
        story.__name__: (story, {"x": X})
        for story in (
            Story, ScaleWithAPrior, Enumerated, Dropout, StartsAtZero, Frozen, PositiveLatent,
            ConstrainedParameter, Factor, Auxiliary, Series, Weighted, Chain,
        )
    },
    "given": (Given, {"x": X, "y": X.flip(0)}),
    "one row": (Story, {"x": X[:1]}),
    "equal rows": (Story, {"x": torch.ones(N, 3)}),
    "double": (lambda: VAE(3, 2, likelihood="normal", hidden=(8,)).double(), {"x": X}),
    "counts": (
        lambda: VAE(3, 2, likelihood=likelihoods.Poisson(), hidden=(8,)),
        {"x": torch.poisson(40 * torch.rand(N, 3))},
    ),
    "in its unit": (
        lambda: VAE(3, 2, likelihood=likelihoods.Normal.for_data(3000 + 500 * X), hidden=(8,)),
        {"x": 3000 + 500 * X},
    ),
    "convolutions": (
        lambda: VAE(
            16,
            2,
            encoder=vaeppl.nets.ConvEncoder((4, 4), 8, channels=(4,)),
            decoder=vaeppl.nets.ConvDecoder(2, (4, 4), channels=(4,)),
        ),
        {"x": (torch.rand(N, 16) < 0.5).float()},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("story", "data"), SOUND.values(), ids=SOUND)
def test_a_sound_story_raises_no_alarm(story, data):
    report = check_story(story(), data)
    assert report.ok and not len(report), str(report)


def test_functions_are_checked_as_classes_are():
    story = Story()

    def model(x=None):
        pyro.sample("mu", dist.Normal(0.0, 1.0))
        with rows(x):
            z = pyro.sample("z", story.p_z())
            pyro.sample("x", story.p_x(z), obs=x)

    def guide(x=None):
        with rows(x):
            pyro.sample("z", story.q_z(x))

    report = check_story(model, {"x": X}, guide=guide)
    assert report.codes == ("latent-not-in-guide",) and report.findings[0].site == "mu"
    assert check_story(model, {"x": X}, guide=AutoNormal(model)).codes[0] == "autoguide-of-rows"


# --- estimators ---


@pytest.mark.parametrize(
    ("estimator", "severity"), [("stl", "error"), ("elbo", "warning"), ("score_function", None)]
)
def test_what_must_be_reparametrised_depends_on_the_estimator(estimator, severity):
    report = check_story(Mixture(), {"x": X}, estimator=estimator)
    assert [f.severity for f in report] == ([severity] if severity else [])


# --- the report ---


def test_a_report_is_text_json_and_an_exit_code():
    report = check_story(Misspelt(), {"x": X})
    text = str(report)
    assert "error" in text and "test_stories.py:" in text and "why" in text and "mend" in text
    assert text.splitlines()[-1].startswith("Misspelt: 1 error ")
    told = json.loads(report.to_json())
    assert told["story"] == "Misspelt" and told["ok"] is False
    assert told["findings"][0]["code"] == "latent-not-in-guide"
    assert told["findings"][0]["line"] == report.findings[0].line.number
    assert report.exit_code() == 1
    with pytest.raises(vaeppl.errors.StoryError, match=r"'Z' is latent .*test_stories.py:\d+\)"):
        report.raise_errors()
    sound = check_story(Story(), {"x": X})
    assert str(sound).startswith("Story: nothing wrong") and sound.exit_code() == 0


def test_a_warning_counts_where_the_report_is_strict():
    report = check_story(Unused(), {"x": X})
    assert not report.ok and not report.errors and len(report.warnings) == 1
    assert report.exit_code() == 0 and report.exit_code(strict=True) == 1
    report.raise_errors()


@pytest.mark.parametrize(
    ("model", "data", "code"),
    [
        (Story(), {"y": X}, "column"),
        (Story(), {"x": X / 0}, "column"),
        (VAE(3, 2), {"x": X}, "value-outside-support"),
        (Model(), {"x": X}, "story"),
        (lambda x=None: None, {"x": X}, "story"),
    ],
)
def test_what_ends_a_check_is_a_finding_too(model, data, code):
    report = check_story(model, data)
    assert report.codes == (code,) and report.exit_code() == 1


def test_the_fast_part_alone():
    report = check_story(Unused(), {"x": X}, fast_only=True)
    assert report.ok and report.checks < check_story(Unused(), {"x": X}).checks


def test_a_check_leaves_no_trace():
    story = NormalisesTheBatch()
    story.train()
    before = {k: v.clone() for k, v in story.state_dict().items()}
    state = torch.get_rng_state()
    check_story(story, {"x": X})
    assert torch.equal(torch.get_rng_state(), state) and story.training
    assert all(torch.equal(v, before[k]) for k, v in story.state_dict().items())
    assert all(p.grad is None for p in story.parameters())
    assert story.draw_initial_weights(3)  # its weights still count as drawn


def test_a_family_of_ones_own_is_sound():
    class Wide(guides.Family):
        def make_parameters(self, in_dim, latent_dim):
            self.head = nn.Linear(in_dim, latent_dim)

        def forward(self, h):
            return dist.StudentT(5.0, self.head(h), 1.0).to_event(1)

    report = check_story(VAE(3, 2, likelihood="normal", guide_family=Wide(), hidden=(8,)), {"x": X})
    assert report.ok, str(report)
