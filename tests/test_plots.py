"""Facts about the pictures: they show the numbers they claim to, and say what they need."""

from __future__ import annotations

import sys
import types
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import vaeppl
from vaeppl import plots, rows
from vaeppl.data import Data
from vaeppl.errors import CheckpointError, StoryError
from vaeppl.models import VAE
from vaeppl.plots._tiles import SMALLEST_TILE
from vaeppl.plots.latent import _in_two_dimensions

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
    return vaeppl.fit(VAE(H * W, 2, hidden=(4,)), data, epochs=3, valid=0.25, progress=False)


@pytest.fixture
def loaded(fit, tmp_path):
    return vaeppl.load(fit.save(tmp_path / "run"))


def tiles(ax, across):
    """Cut the canvas of a picture back into its tiles, one number a pixel."""
    canvas = np.ma.filled(ax.images[0].get_array().astype(float), np.nan)
    down, zoom = int(ax.get_ylim()[0]), -(-SMALLEST_TILE // max(H, W))
    cells = canvas.reshape(down, H * zoom + 1, across, W * zoom + 1).swapaxes(1, 2)
    return cells[:, :, : H * zoom : zoom, : W * zoom : zoom].reshape(down * across, H * W)


def conditional(x=None, u=None):
    with rows(x, u):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = torch.cat([z, z, z], -1) + u[:, None]
        pyro.sample("x", dist.Normal(mean, 0.1).to_event(1), obs=x)


def conditional_guide(x=None, u=None):
    with rows(x, u):
        pyro.sample("z", dist.Normal(x[:, :2] - u[:, None], 0.1).to_event(1))


class Conditional:
    model, guide = staticmethod(conditional), staticmethod(conditional_guide)


# --- learning curve ---


def test_learning_curve_draws_the_history(fit):
    ax = plots.learning_curve(fit, split=True)
    curves = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert np.array_equal(curves["ELBO, training rows"], fit.history["elbo"])
    assert np.array_equal(curves["ELBO, held-out rows"], fit.history["valid_elbo"])
    assert np.allclose(curves["reconstruction"] + curves["−KL"], fit.history["elbo"], atol=1e-4)
    assert ax.get_ylabel() == "nats per row"


def test_learning_curve_is_not_flattened_by_its_start():
    elbo = np.concatenate([[-1e6, -1e4], np.linspace(-100, -90, 30)])
    history = pd.DataFrame({"elbo": elbo}, index=np.arange(1, 33))
    pair = SimpleNamespace(name="toy")
    low, high = plots.learning_curve(
        SimpleNamespace(history=history, best_epoch=32, pair=pair)
    ).get_ylim()
    assert -101 < low < -98 and -90 < high < -89
    with pytest.raises(ValueError, match="no epoch"):
        plots.learning_curve(SimpleNamespace(history=history[:0]))


def test_one_epoch_and_nan_terms_are_drawn(fit):
    history = pd.DataFrame({"elbo": [-3.0], "reconstruction": [np.nan], "kl": [np.nan]}, index=[1])
    run = SimpleNamespace(history=history, best_epoch=1, pair=fit.pair)
    assert len(plots.learning_curve(run, split=True).lines) == 1


# --- pictures of rows ---


def test_samples_show_the_means_of_draws_from_the_story(fit):
    shown = tiles(plots.samples(fit, 6, seed=3), 3)
    draws = fit.sample(6, seed=3)
    with torch.no_grad():
        mean = fit.model.likelihood(fit.model.decoder(draws["z"])).mean
    assert np.allclose(shown, mean.numpy(), atol=1e-6)
    assert np.array_equal(tiles(plots.samples(fit, 6, seed=3, mean=False), 3), draws["x"].numpy())


def test_an_incomplete_last_line_of_tiles_is_left_blank(fit):
    shown = tiles(plots.samples(fit, 5), 3)
    assert np.isfinite(shown[:5]).all() and np.isnan(shown[5]).all()


def test_reconstructions_stand_below_their_data(fit, data):
    ax = plots.reconstructions(fit, data, num=5, seed=1)
    shown = tiles(ax, 5)
    x = data["x"].numpy()
    picked = [np.flatnonzero((x == row).all(1))[0] for row in shown[:5]]
    made = fit.reconstruct({"x": x[picked]})["x"]
    assert np.allclose(shown[5:], made.numpy(), atol=1e-5)


def test_manifold_runs_along_the_quantiles_of_the_prior(fit):
    shown = tiles(plots.manifold(fit, size=3), 3)
    q = dist.Normal(0.0, 1.0).icdf(torch.tensor([1 / 6, 0.5, 5 / 6]))
    z = torch.stack([q.repeat(3), q.flip(0).repeat_interleave(3)], -1)
    with torch.no_grad():
        mean = fit.model.likelihood(fit.model.decoder(z)).mean
    assert np.allclose(shown, mean.numpy(), atol=1e-5)


def test_manifold_says_what_it_needs(data):
    with pytest.raises(StoryError, match=r"dimension 2; VAE has z of shape \(3,\)"):
        plots.manifold(VAE(H * W, 3, hidden=(4,)), data=data)
    with pytest.raises(StoryError, match="no pictures"):
        plots.manifold(VAE(H * W, 2, hidden=(4,)))
    with pytest.raises(ValueError, match="a row has 6 entries, which are no picture of 5 × 5"):
        plots.manifold(VAE(H * W, 2, hidden=(4,)), image_shape=(5, 5))


def test_columns_that_the_story_is_given_come_from_the_data():
    x, u = torch.randn(20, 6), torch.full((20,), 100.0)
    data = Data({"x": x, "u": u}, image_shape={"x": (H, W)})
    shown = tiles(plots.samples(Conditional(), 9, data=data), 3)
    assert (abs(shown - 100) < 10).all()
    with pytest.raises(StoryError, match=r"is given the column 'u'.*given=\{'u'"):
        plots.manifold(Conditional(), data=data)
    middle = tiles(plots.manifold(Conditional(), 3, data=data, given={"u": [7.0]}), 3)[4]
    assert np.allclose(middle, 7.0)
    with pytest.raises(ValueError, match="one row"):
        plots.manifold(Conditional(), 3, data=data, given={"u": [7.0, 8.0]})


@pytest.mark.parametrize("width", [1, 2, 5, 30])
def test_columns_that_are_no_pictures_are_compared_with_the_data(width):
    data = Data({"x": torch.randint(0, 2, (30, width)).float()})
    vae = VAE(width, 1, hidden=(4,))
    legend = plots.samples(vae, 20, data=data).get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["data", "story"]
    assert plots.samples(vae, 20).get_title(loc="left") == "Samples of x"
    points = plots.reconstructions(vae, data).collections[0].get_offsets()
    assert len(points) == 30 * width


def test_a_loaded_fit_asks_for_data(loaded, data):
    for picture in (plots.reconstructions, plots.embedding, plots.posterior_predictive_check):
        with pytest.raises(CheckpointError, match="pass data="):
            picture(loaded)
    assert plots.reconstructions(loaded, data, num=2)


def test_unknown_columns_are_named(fit):
    with pytest.raises(ValueError, match=r"unknown column of VAE 'y'.*Known: x"):
        plots.samples(fit, column="y")


# --- latents ---


def test_embedding_of_a_plane_shows_the_posterior_means(fit, data):
    ax = plots.embedding(fit, data)
    shown = np.concatenate([c.get_offsets() for c in ax.collections])
    means = vaeppl.encode(fit, data)["z"].numpy()
    assert np.allclose(np.sort(shown, 0), np.sort(means, 0))
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["0", "1", "2"]
    assert ax.get_legend().get_title().get_text() == "y"


def test_principal_components_are_uncorrelated_and_ordered():
    z = np.random.default_rng(0).normal(size=(50, 4)) * [1, 5, 2, 0.1] + 3
    points, names = _in_two_dimensions(z, "z", "pca", 0)
    covariance = np.cov(points.T)
    largest = np.linalg.eigvalsh(np.cov(z.T))[::-1][:2]
    assert np.allclose(np.diag(covariance), largest) and abs(covariance[0, 1]) < 1e-9
    assert names[0] == f"PC 1 of z ({largest[0] / np.trace(np.cov(z.T)):.0%})"


@pytest.mark.parametrize("method", ["pca", "tsne", None])
@pytest.mark.parametrize("latent_dim", [1, 3])
def test_embeddings_by_any_method(data, method, latent_dim):
    ax = plots.embedding(VAE(H * W, latent_dim, hidden=(4,)), data, method=method, max_rows=12)
    assert sum(len(c.get_offsets()) for c in ax.collections) == 12


def test_labels_of_every_form(fit, data):
    one_hot = torch.eye(3)[data["y"]]
    names = np.array(["a", "b"] * 20)
    for labels, groups in ((one_hot, 3), (names, 2), (data["y"].float()[:, None], 3), (None, 1)):
        assert len(plots.embedding(fit, data, labels=labels).collections) == groups
    numbers = plots.embedding(fit, data, labels=np.linspace(0, 1, 40))
    assert numbers.get_legend() is None and len(numbers.figure.axes) == 2  # a colour bar
    holes = np.where(np.arange(40) < 5, np.nan, np.arange(40) % 2)
    legend = plots.embedding(fit, data, labels=holes).get_legend()
    assert [t.get_text() for t in legend.get_texts()] == ["0", "1", "missing"]
    assert len(plots.embedding(fit, {"x": data["x"]}).collections) == 1  # no column y: no colour


def test_labels_follow_their_rows_when_some_are_left_out(fit, data):
    z = vaeppl.encode(fit, data)["z"].numpy()
    ax = plots.embedding(fit, data, labels=z[:, 0] > np.median(z[:, 0]), max_rows=15)
    low, high = (c.get_offsets()[:, 0] for c in ax.collections)
    assert low.max() <= np.median(z[:, 0]) < high.min()


def test_umap_is_asked_for_its_plane_where_it_is_installed(data, monkeypatch):
    """A stand-in for the package, which nothing else needs."""

    class UMAP:
        def __init__(self, **options):
            self.options = options

        def fit_transform(self, z):
            assert self.options == {"n_neighbors": 11, "random_state": 3, "n_jobs": 1}
            return z[:, [2, 0]]

    vae = VAE(H * W, 3, hidden=(4,))
    options = {"method": "umap", "max_rows": 12, "labels": None, "seed": 3}
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="pip install umap-learn"):
        plots.embedding(vae, data, **options)
    stand_in = types.ModuleType("umap")
    stand_in.UMAP = UMAP
    monkeypatch.setitem(sys.modules, "umap", stand_in)
    ax = plots.embedding(vae, data, **options)
    points = np.asarray(ax.collections[0].get_offsets())
    chosen = np.sort(np.random.default_rng(3).choice(len(data["x"]), 12, replace=False))
    z = vaeppl.encode(vae, vaeppl.data.as_data(data).select(chosen))["z"]
    assert np.allclose(points, z[:, [2, 0]], atol=1e-5) and ax.get_xlabel() == "UMAP 1"


def test_embedding_names_what_is_wrong(fit, data):
    with pytest.raises(ValueError, match="unknown method 'umpa': did you mean 'umap'"):
        plots.embedding(fit, data, method="umpa")
    with pytest.raises(ValueError, match="unknown latent of the rows 'w'"):
        plots.embedding(fit, data, site="w")
    with pytest.raises(ValueError, match="3 labels were given for 40 rows"):
        plots.embedding(fit, data, labels=[1, 2, 3])
    with pytest.raises(ValueError, match="6 entries a row"):
        plots.embedding(fit, data, labels="x")


def test_bars_of_active_units_are_their_variances_in_order():
    table = pd.DataFrame(
        {"site": "z", "dimension": [0, 1, 2], "variance": [0.5, 0.0, 0.9], "active": [1, 0, 1]}
    )
    ax = plots.active_units(table.astype({"active": bool}))
    assert [bar.get_height() for bar in ax.patches][:2] == [0.9, 0.5]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["2", "0", "1"]
    assert ax.get_yscale() == "log"
    assert "2 of 3" in ax.get_title()


def test_the_threshold_is_shown_where_no_unit_reaches_it():
    table = pd.DataFrame({"site": "z", "dimension": [0, 1], "variance": [1e-3, 9e-4]})
    ax = plots.active_units(table.assign(active=False))
    low, high = ax.get_ylim()
    assert low < 9e-4 and high > ax.lines[0].get_ydata()[0] == 0.01
    ax.figure.canvas.draw()  # matplotlib warns if the axes have no room


def test_active_units_of_a_fit(fit):
    assert len(plots.active_units(fit).patches) == 2


# --- criticism ---


def test_evidence_counts_every_row(fit, data):
    report = vaeppl.evidence(fit, data, num_particles=60)
    ax = plots.evidence(report)
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert sum(int(t.split(": ")[1].split()[0]) for t in texts if "rows" in t) == 40
    dashed = ax.lines[0]
    assert dashed.get_xdata()[0] == pytest.approx(report.mean)
    few = vaeppl.evidence(fit, data, num_particles=10)  # too few for Pareto's k
    legend = plots.evidence(few).get_legend()
    assert "Pareto k unknown: 40 rows" in [t.get_text() for t in legend.get_texts()]


def test_predictive_check_has_a_line_for_each_statistic(fit, data):
    report = vaeppl.posterior_predictive_check(
        fit, data, statistics={"mean": np.mean, "rows": len, "far": lambda x: 7.0}, num_samples=9
    )
    ax = plots.posterior_predictive_check(report)
    assert [t.get_text().split("\n")[0] for t in ax.get_yticklabels()] == ["far", "rows", "mean"]
    mean = report.table.iloc[0]
    place = [line for line in ax.lines if line.get_marker() == "o" and line.get_ydata()[0] == 2]
    assert place[0].get_xdata()[0] == pytest.approx((mean.observed - mean["mean"]) / mean.sd)


def test_predictive_check_of_a_fit_passes_options_on(fit):
    ax = plots.posterior_predictive_check(fit, num_samples=3, kind="prior")
    assert ax.get_title() == "Prior predictive check of 'x'"


# --- all of them ---


def test_every_picture_is_drawn_where_asked(fit, data):
    report = vaeppl.evidence(fit, data, num_particles=10)
    table = vaeppl.active_units(fit, data)
    _, axes = plt.subplots(8)
    drawn = [
        plots.learning_curve(fit, axes[0]),
        plots.samples(fit, 4, axes[1]),
        plots.reconstructions(fit, data, 4, axes[2]),
        plots.manifold(fit, 2, axes[3]),
        plots.embedding(fit, data, "y", axes[4]),
        plots.active_units(table, axes[5]),
        plots.evidence(report, axes[6]),
        plots.posterior_predictive_check(fit, data, axes[7], num_samples=2),
    ]
    assert all(a is b for a, b in zip(drawn, axes, strict=True))
    assert plt.get_fignums() == [1]
    assert all(a.get_title() for a in drawn)


def test_save_all_writes_the_pictures_that_suit(fit, loaded, tmp_path):
    open_before = plt.get_fignums()
    paths = plots.save_all(fit, tmp_path / "all")
    assert [p.stem for p in paths] == [
        "learning_curve", "samples", "reconstructions", "manifold", "embedding", "active_units",
        "posterior_predictive_check", "evidence",
    ]  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == sorted(p.name for p in paths)
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths)
    assert plt.get_fignums() == open_before
    without = plots.save_all(loaded, tmp_path / "none")
    assert [p.stem for p in without] == ["learning_curve", "samples"]


def test_a_picture_that_fails_leaves_no_file_and_no_figure(fit, tmp_path, monkeypatch):
    def torn(path, **options):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(plt, "savefig", torn)
    with pytest.raises(OSError, match="disk full"):
        plots.save_all(fit, tmp_path)
    assert list(tmp_path.iterdir()) == [] and plt.get_fignums() == []
