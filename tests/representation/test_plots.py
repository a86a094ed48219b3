"""Facts about the pictures of representations: they show the numbers they claim to."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import vaeppl
from vaeppl import plots
from vaeppl.data import Data
from vaeppl.errors import CheckpointError, StoryError
from vaeppl.likelihoods import Categorical
from vaeppl.models import CVAE, VAE
from vaeppl.plots._tiles import SMALLEST_TILE
from vaeppl.reading.sites import column_means
from vaeppl.representation import dci, explicitness, interpolate, mig

matplotlib.use("Agg")

H, W = 2, 3


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def data():
    x = (torch.rand(40, H * W, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    return Data({"x": x, "y": torch.arange(40) % 3}, image_shape={"x": (H, W)}, name="toy")


@pytest.fixture(scope="module")
def fit(data):
    return vaeppl.fit(VAE(H * W, 3, hidden=(4,)), data, epochs=3, lr=0.05, progress=False)


def tiles(ax, across):
    """Cut the canvas of a picture back into its tiles, one number a pixel."""
    canvas = np.ma.filled(ax.images[0].get_array().astype(float), np.nan)
    down, zoom = int(ax.get_ylim()[0]), -(-SMALLEST_TILE // max(H, W))
    cells = canvas.reshape(down, H * zoom + 1, across, W * zoom + 1).swapaxes(1, 2)
    return cells[:, :, : H * zoom : zoom, : W * zoom : zoom].reshape(down, across, H * W)


def means(fit, **latents):
    num = len(next(iter(latents.values())))
    return column_means(fit.pair, latents, num)["x"].numpy()


# --- Numbers ---


def curve(accuracy, sizes=(3, 30, 300)):
    a = np.array(accuracy)
    return pd.DataFrame(
        {"labels": sizes, "accuracy": a, "low": a - 0.1, "high": a + 0.1}
    ).assign(level=0.9, repeats=5, test_rows=70)  # fmt: skip


def test_lines_and_bands_of_a_label_efficiency_are_its_table():
    tables = {"VAE": curve([0.4, 0.6, 0.9]), "pixels": curve([0.3, 0.5, 0.7])}
    ax = plots.label_efficiency(tables)
    for line, band, table in zip(ax.lines, ax.collections, tables.values(), strict=True):
        assert np.allclose(line.get_xydata(), table[["labels", "accuracy"]])
        edges = band.get_paths()[0].vertices
        for x, low, high in table[["labels", "low", "high"]].to_numpy():
            there = edges[edges[:, 0] == x, 1]
            assert (there.min(), there.max()) == pytest.approx((low, high))
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["VAE", "pixels"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["3", "30", "300"]
    assert "70 rows" in ax.get_title() and "band: 90% of them" in ax.get_title()
    plain = plots.label_efficiency(tables["VAE"].drop(columns="level"))
    assert plain.get_title().endswith("band: low to high")
    assert plots.label_efficiency(tables["VAE"]).get_legend() is None
    with pytest.raises(ValueError, match="no curve"):
        plots.label_efficiency({})


def test_cells_of_a_factor_matrix_are_its_numbers(factors, codes):
    named = pd.DataFrame(factors, columns=["shape", "x", "y"])
    score = mig(codes["rotated"], named)
    ax = plots.factor_matrix(score)
    assert np.allclose(ax.images[0].get_array(), score.matrix)
    written = {t.get_position(): float(t.get_text()) for t in ax.texts}
    assert len(written) == 9 and written[0, 0] == pytest.approx(score.matrix.iloc[0, 0], abs=5e-3)
    assert written[2, 0] == pytest.approx(score.matrix.iloc[0, 2], abs=5e-3)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["shape", "x", "y"]
    assert ax.get_title() == "MIG: 0.33"


def test_a_factor_matrix_of_dci_of_a_table_and_of_many_codes(factors, codes):
    found = dci(codes["copy"], factors, trees=2, test_share=0)
    ax = plots.factor_matrix(found)
    assert np.allclose(ax.images[0].get_array(), found.importance)
    assert ax.get_title().startswith("DCI: D = 1.00")
    many = plots.factor_matrix(pd.DataFrame(np.eye(60)), label="weight")
    assert not many.texts and len(many.get_yticklabels()) == 30
    zero = plots.factor_matrix(pd.DataFrame(np.zeros((2, 2))))
    assert np.allclose(zero.images[0].get_array(), 0)
    with pytest.raises(ValueError, match="explicitness is not computed from a number for each"):
        plots.factor_matrix(explicitness(codes["copy"], factors, test_share=0))


# --- Pictures ---


def test_lines_of_a_traversal_are_what_the_decoder_makes(fit, data):
    ax = plots.traversals(fit, row=7, dimensions=[2, 0], steps=5, limits=(-2, 2))
    z = fit.encode(data.select([7]))["z"].repeat(10, 1)
    z[:5, 2] = z[5:, 0] = torch.linspace(-2, 2, 5)
    assert tiles(ax, 5) == pytest.approx(means(fit, z=z).reshape(2, 5, -1), abs=1e-6)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["z[2]", "z[0]"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["-2", "0", "2"]
    assert "row 7" in ax.get_title()


def test_by_default_the_dimensions_that_vary_most_come_first(fit, data):
    ax = plots.traversals(fit, steps=4)
    spread = fit.encode(data)["z"].var(0)
    expected = [f"z[{d}]" for d in spread.argsort(descending=True).tolist()]
    assert [t.get_text() for t in ax.get_yticklabels()] == expected
    assert [t.get_text() for t in ax.get_xticklabels()] == ["-2.5", "2.5"]


@pytest.mark.parametrize("kind", ["linear", "spherical"])
def test_lines_of_an_interpolation_lead_from_row_to_row(fit, data, kind):
    ax = plots.interpolations(fit, num=4, steps=5, kind=kind, seed=1)
    shown = tiles(ax, 7)
    order = np.random.default_rng(1).permutation(40)
    x, z = data["x"].numpy(), fit.encode(data)["z"].numpy()
    rebuilt = fit.reconstruct(data)["x"].numpy()
    for line, (start, end) in zip(shown, zip(order[:4], order[4:8], strict=True), strict=True):
        assert (line[0] == x[start]).all() and (line[-1] == x[end]).all()
        assert line[1] == pytest.approx(rebuilt[start], abs=1e-6)
        assert line[-2] == pytest.approx(rebuilt[end], abs=1e-6)
        way = torch.tensor(interpolate(z[start], z[end], 5, kind=kind), dtype=torch.float32)
        assert line[1:-1] == pytest.approx(means(fit, z=way), abs=1e-6)


def test_axes_that_are_given_are_used(fit):
    _, axes = plt.subplots(1, 2)
    assert plots.traversals(fit, ax=axes[0]) is axes[0]
    assert plots.interpolations(fit, ax=axes[1]) is axes[1]


def test_columns_that_the_story_is_given_are_those_of_the_row(data):
    """Of p(x | z, y): a traversal keeps y, an interpolation changes it half-way."""
    cvae = CVAE(1, H * W, 2, condition=Categorical(3), hidden=(8,))
    flipped = Data({"y": data["x"], "x": data["y"]}, image_shape={"y": (H, W)})
    fit = vaeppl.fit(cvae, flipped, epochs=2, progress=False)
    ax = plots.traversals(fit, row=4, dimensions=[1], steps=3, column="y")
    code = fit.encode(flipped.select([4]))["z"].repeat(3, 1)
    code[:, 1] = torch.linspace(-2.5, 2.5, 3)
    given = {"x": torch.full((3,), 4 % 3)}
    made = column_means(fit.pair, {"z": code}, 3, given=given)["y"]
    assert tiles(ax, 3)[0] == pytest.approx(made.numpy(), abs=1e-6)
    lines = tiles(plots.interpolations(fit, num=2, steps=4, column="y"), 6)
    rebuilt = fit.reconstruct(flipped)["y"].numpy()
    order = np.random.default_rng(0).permutation(40)
    assert lines[:, 1] == pytest.approx(rebuilt[order[:2]], abs=1e-6)
    assert lines[:, -2] == pytest.approx(rebuilt[order[2:4]], abs=1e-6)


def deep(x=None):
    """z3 → z2 → z1 → x, each on the one above."""
    with vaeppl.rows(x):
        z3 = pyro.sample("z3", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        z2 = pyro.sample("z2", dist.Normal(z3, 1.0).to_event(1))
        z1 = pyro.sample("z1", dist.Normal(2 * z2, 1.0).to_event(1))
        logits = torch.cat([z1, z1, z1], -1)
        pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def deep_guide(x=None):
    with vaeppl.rows(x):
        for name in ("z1", "z2", "z3"):
            pyro.sample(name, dist.Normal(x[:, :2], 1.0).to_event(1))


@pytest.mark.parametrize(("site", "factor"), [("z1", 1), ("z2", 2), ("z3", 2)])
def test_latents_below_the_one_that_is_changed_follow_it(data, site, factor):
    from vaeppl.pair import as_pair

    pair = as_pair(deep, deep_guide)
    ax = plots.traversals(pair, data, row=0, site=site, dimensions=[0], steps=3, limits=(-1, 1))
    shown = tiles(ax, 3)[0][:, 0]
    assert shown == pytest.approx(1 / (1 + np.exp(-factor * np.array([-1, 0, 1]))), abs=1e-6)


def test_what_is_needed(fit, data, tmp_path):
    plain = Data({"x": data["x"]})
    for draw in (plots.traversals, plots.interpolations):
        with pytest.raises(StoryError, match="holds no pictures"):
            draw(fit, plain)
        with pytest.raises(CheckpointError, match="this picture needs data"):
            draw(vaeppl.load(fit.save(tmp_path / draw.__name__)))
        assert draw(fit, plain, image_shape=(3, 2)).images
    with pytest.raises(ValueError, match="did you mean 'z'"):
        plots.traversals(fit, site="zz")
    for draw in (plots.traversals, plots.interpolations):
        with pytest.raises(ValueError, match="steps is a whole number, at least 1; given 0"):
            draw(fit, steps=0)
    with pytest.raises(ValueError, match="num is a whole number, at least 1; given 0"):
        plots.interpolations(fit, num=0)
    with pytest.raises(ValueError, match="no dimension 3"):
        plots.traversals(fit, dimensions=[3])
    with pytest.raises(ValueError, match="the data have one row"):
        plots.interpolations(fit, data.select([0]))
    with pytest.raises(StoryError, match="no continuous latent"):
        plots.interpolations(_no_latents(), data)


def _no_latents():
    from vaeppl.pair import as_pair

    def story(x=None):
        with vaeppl.rows(x):
            pyro.sample("x", dist.Bernoulli(torch.full((H * W,), 0.5)).to_event(1), obs=x)

    def guide(x=None):
        pass

    return as_pair(story, guide)
