"""Pictures of a Gaussian-process prior show what was computed."""

import math

import matplotlib
import numpy as np
import pytest
import torch

import vaeppl
from vaeppl import gp
from vaeppl.errors import StoryError
from vaeppl.models import GPVAE, VAE, ExactGPVAE

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    matplotlib.pyplot.close("all")


def timed(n=24):
    return {
        "x": torch.randn(n, 6),
        "time": torch.linspace(0, 1, n),
        "object": torch.arange(n) % 3,
    }


def story(cls=GPVAE, **options):
    kernel = gp.On("time", "rbf", lengthscale=0.3, **options) * gp.On("object", "same")
    return cls.for_data(timed(), kernel=kernel, latent_dim=2, num_inducing=6, hidden=(4,))


def test_a_covariance_is_the_kernel_between_the_rows():
    rows = {"time": torch.tensor([0.0, 0.3, 0.3]), "object": torch.tensor([0, 0, 1])}
    shown = vaeppl.plots.covariance(story(), rows, labels=["a", "b", "c"]).images[0].get_array()
    near = math.exp(-0.5)
    assert np.allclose(shown, [[1, near, 0], [near, 1, 0], [0, 0, 1]], atol=1e-6)
    part = vaeppl.plots.covariance(story(), rows, column="time").images[0].get_array()
    assert np.allclose(part, [[1, near, near], [near, 1, 1], [near, 1, 1]], atol=1e-6)


def test_the_covariance_of_a_latent_is_its_own():
    model = story(batch_shape=[2])
    model.kernel.kernels[0].base.lengthscale = torch.tensor([0.3, 3.0]).reshape(2, 1, 1)
    rows = {"time": torch.tensor([0.0, 0.3]), "object": torch.tensor([0, 0])}
    for latent, length in ((0, 0.3), (1, 3.0)):
        shown = vaeppl.plots.covariance(model, rows, latent=latent).images[0].get_array()
        assert shown[0, 1] == pytest.approx(math.exp(-0.5 * (0.3 / length) ** 2), abs=1e-6)


def test_a_path_is_the_prediction_with_its_band():
    model, data = story(), timed()
    new = {"time": torch.linspace(0, 2, 15), "object": torch.zeros(15).long()}
    own = (data["object"] == 0).nonzero().squeeze(1)
    ax = vaeppl.plots.latent_paths(model, new, "time", data, dimensions=[1], own=own)
    found = gp.predict(model, new, data=data)
    assert np.allclose(ax.lines[0].get_ydata(), found.z_mean[:, 1])
    assert len(ax.lines[1].get_xdata()) == len(own)
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(float((found.z_mean + 2 * found.z_sd)[:, 1].max()), abs=1e-5)


def test_a_band_is_the_interval_of_the_draws():
    model, data = story(), timed()
    new = {"time": torch.linspace(0, 2, 15), "object": torch.zeros(15).long()}
    own = (data["object"] == 0).nonzero().squeeze(1)
    late = {"time": torch.tensor([1.5]), "object": torch.tensor([0]), "x": torch.full((1, 6), 9.0)}
    ax = vaeppl.plots.bands(
        model, new, "time", data, entry=4, own=own, held_out=late, level=0.5, num_samples=20
    )
    found = gp.predict(model, new, data=data, num_samples=20)
    lower, upper = found.interval(0.5)
    assert torch.equal(lower, found.x.quantile(0.25, dim=0))
    assert np.allclose(ax.lines[0].get_ydata(), found.x_given_z.mean(0)[:, 4])
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(float(upper[:, 4].max()), abs=1e-6)
    assert band.min() == pytest.approx(float(lower[:, 4].min()), abs=1e-6)
    assert np.allclose(ax.lines[1].get_ydata(), data["x"][own, 4])
    assert ax.lines[2].get_ydata() == [9.0]


def test_predictions_stand_below_each_other():
    lines = {"truth": torch.rand(5, 6), "GP": torch.rand(5, 6)}
    ax = vaeppl.plots.predictions(lines, (2, 3))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["truth", "GP"]
    assert ax.get_xlim()[1] == 5
    with pytest.raises(ValueError, match="as many pictures as the others"):
        vaeppl.plots.predictions({"truth": torch.rand(5, 6), "GP": torch.rand(4, 6)}, (2, 3))


def test_what_has_no_kernel_is_refused():
    with pytest.raises(StoryError, match="VAE has no kernel to draw"):
        vaeppl.plots.covariance(VAE(6, 2, hidden=(4,)), {"time": torch.zeros(2)})
    with pytest.raises(StoryError, match="no part on column 'angle'; it is on 'time', 'object'"):
        vaeppl.plots.covariance(story(), timed(), column="angle")


@pytest.mark.parametrize(("cls", "pictures"), [(GPVAE, 6), (ExactGPVAE, 2)])
def test_pictures_of_a_fit_are_those_that_suit_it(cls, pictures, tmp_path):
    fit = vaeppl.fit(story(cls), timed(), epochs=1, batch_size=24, progress=False)
    assert len(vaeppl.plots.save_all(fit, tmp_path)) >= pictures
