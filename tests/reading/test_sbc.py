"""Calibration of guides that are right, too narrow, too wide, and off."""

from __future__ import annotations

import matplotlib
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import binom, norm
from torch import nn

import vaeppl
from vaeppl import rows
from vaeppl.errors import StoryError
from vaeppl.models import CVAE, VAE
from vaeppl.reading.sbc import CalibrationReport, calibrate_guide

matplotlib.use("Agg")


class Conjugate(vaeppl.Model):
    """z ~ N(0, 1), x ~ N(z, 1), with the posterior N(x / 2, 1/2), stretched and shifted."""

    def __init__(self, stretch: float = 1.0, shift: float = 0.0):
        super().__init__()
        self.stretch, self.shift = stretch, shift
        self.w = nn.Parameter(torch.tensor(0.5))

    def model(self, x=None):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with rows(x):
            pyro.sample("z", dist.Normal(self.w * x + self.shift, self.stretch * 0.5**0.5))


def test_the_posterior_has_uniform_ranks():
    found = [
        calibrate_guide(Conjugate(), {"x": torch.zeros(3)}, num_rows=400, seed=s).p_value
        for s in range(40)
    ]
    assert 0.3 < np.mean(found) < 0.7 and np.mean(np.array(found) < 0.1) < 0.25


@pytest.mark.parametrize("stretch", [0.5, 2.0])
def test_the_ranks_of_a_guide_of_wrong_width_have_the_known_distribution(stretch):
    """The chance of rank r is that of r successes in L, Φ(u / stretch) apiece, u ~ N(0, 1)."""
    report = calibrate_guide(
        Conjugate(stretch), {"x": torch.zeros(3)}, num_rows=20_000, num_draws=9
    )
    u = np.linspace(-8, 8, 4001)
    mass = norm.pdf(u) / norm.pdf(u).sum()
    chances = binom.pmf(np.arange(10)[:, None], 9, norm.cdf(u / stretch)) @ mass
    counts = np.bincount(report.ranks["z"][:, 0], minlength=10)
    se = np.sqrt(20_000 * chances * (1 - chances))
    assert (np.abs(counts - 20_000 * chances) < 4.5 * se).all()
    line = report.table.iloc[0]
    assert line.p_value < 1e-6 and (line.spread > 1) == (stretch < 1)
    assert ("too narrow" in repr(report)) == (stretch < 1)


CASES = {
    "exact": (1.0, 0.0, "no departure found"),
    "shifted": (1.0, 0.3, "off (latents lie below the guide)"),
    "shifted far": (1.0, 3.0, "off (latents lie below the guide)"),
    "shifted the other way": (1.0, -0.3, "off (latents lie above the guide)"),
    "wide and shifted": (1.6, 0.8, "too wide and off (latents lie below the guide)"),
    "narrow": (0.6, 0.0, "too narrow"),
}


@pytest.mark.parametrize("case", CASES)
def test_width_and_place_of_a_guide_are_told_apart(case):
    """Posterior N(x/2, 1/2): z lies at N(m, s²) in units of q, s = 1 / stretch; E Φ is known."""
    stretch, shift, words = CASES[case]
    story, n = Conjugate(stretch, shift), 4000
    report = calibrate_guide(story, {"x": torch.zeros(3)}, num_rows=n, seed=1)
    line = report.table.iloc[0]
    s = 1 / stretch
    m = -shift * s / 0.5**0.5
    assert line.spread == pytest.approx(s**2, rel=4.5 * (2 / n) ** 0.5 * (2 if abs(m) > 3 else 1))
    mean = norm.cdf(m / (1 + s**2) ** 0.5)
    assert line.mean_rank == pytest.approx(mean, abs=4.5 * 0.3 / n**0.5)
    assert line.finding == words and words in repr(report)
    assert ("narrow" in repr(report)) == ("narrow" in words)
    assert ("wide" in repr(report)) == ("wide" in words)


def test_few_draws_tell_the_same_spread():
    """The fit knows of L: with 9 draws the spread is the same as with 99."""
    few = calibrate_guide(Conjugate(0.6), {"x": torch.zeros(3)}, num_rows=4000, num_draws=9)
    assert few.table.spread[0] == pytest.approx(1 / 0.36, rel=0.2)


def test_ranks_all_at_one_end_say_no_more_than_off():
    report = CalibrationReport({"z": np.full((200, 1), 99)}, 99)
    assert report.table.finding[0] == "off (latents lie above the guide)"


def test_ranks_of_two_heaps_are_of_another_shape():
    """A fourth and three fourths of the way: centred and as wide as uniform ranks, not uniform."""
    u = np.concatenate([norm.ppf(np.linspace(0.20, 0.30, 500))])
    u = np.concatenate([u, -u])
    ranks = np.round(99 * norm.cdf(u / u.std())).astype(int)[:, None]
    report = CalibrationReport({"z": ranks}, 99)
    assert report.p_value < 1e-6 and report.table.finding[0] == "of another shape"


def test_every_dimension_of_every_site():
    report = calibrate_guide(VAE(6, 3, hidden=(4,)), {"x": torch.zeros(5, 6)}, num_rows=50)
    assert report.ranks["z"].shape == (50, 3) and len(report.table) == 3
    assert report.ranks["z"].min() >= 0 and report.ranks["z"].max() <= 99


def test_a_condition_is_given_and_not_drawn():
    data = {"x": torch.randn(8, 2), "y": (torch.rand(8, 3) < 0.5).float()}
    report = calibrate_guide(CVAE(2, 3, 2, hidden=(4,)), data, num_rows=40)
    assert report.ranks["z"].shape[0] == 40


def test_bins_divide_the_ranks_evenly():
    report = CalibrationReport({"z": np.zeros((1000, 1))}, 99)
    assert report.histogram(np.arange(1000) % 100).tolist() == [50] * 20
    few = CalibrationReport({"z": np.zeros((30, 1))}, 9)
    assert few.histogram(np.arange(30) % 10).tolist() == [6] * 5


def test_pictures():
    report = calibrate_guide(Conjugate(0.5), {"x": torch.zeros(3)}, num_rows=400)
    ax = vaeppl.plots.rank_histogram(report)
    heights = [bar.get_height() for bar in ax.containers[0]]
    assert heights == report.histogram(report.ranks["z"][:, 0]).tolist() and sum(heights) == 400
    (words,) = (t.get_text() for t in ax.get_legend().get_texts())
    assert words == "where 95% of counts lie if ranks are uniform"
    band = next(p for p in ax.patches if p.get_label() == words)
    edges = band.get_y(), band.get_y() + band.get_height()
    assert edges == binom.interval(0.95, 400, 1 / 20)
    with pytest.raises(ValueError, match="there is no latent 'y'; known: z"):
        vaeppl.plots.rank_histogram(report, "y")
    with pytest.raises(ValueError, match="latent 'z' has 1 dimension, 0; given 9"):
        vaeppl.plots.rank_histogram(report, "z", 9)
    wide = CalibrationReport({"z": np.zeros((100, 3))}, 99)
    with pytest.raises(ValueError, match="latent 'z' has 3 dimensions, 0 to 2; given 3"):
        vaeppl.plots.rank_histogram(wide, "z", 3)
    x = torch.randn(12)
    gaps = vaeppl.inference_gaps(Conjugate(0.5), {"x": x}, steps=5, num_temperatures=5)
    ax = vaeppl.plots.inference_gaps(gaps)
    drawn = np.array([bar.get_height() for bar in ax.containers[0]])
    np.testing.assert_allclose(np.sort(drawn), np.sort(gaps.rows["approximation"]), atol=1e-6)


def test_bad_input():
    with pytest.raises(ValueError, match="num_rows is a whole number, at least 10; given 5"):
        calibrate_guide(Conjugate(), {"x": torch.zeros(3)}, num_rows=5)
    with pytest.raises(ValueError, match="num_draws is a whole number, at least 1"):
        calibrate_guide(Conjugate(), {"x": torch.zeros(3)}, num_draws=0)

    class Coins(Conjugate):
        def model(self, x=None):
            with rows(x):
                y = pyro.sample("y", dist.Bernoulli(torch.tensor(0.5)))
                pyro.sample("x", dist.Normal(y, 1.0), obs=x)

        def guide(self, x):
            with rows(x):
                pyro.sample("y", dist.Bernoulli(logits=self.w * x))

    with pytest.raises(StoryError, match="Coins has no continuous latent of a row"):
        calibrate_guide(Coins(), {"x": torch.zeros(3)})
