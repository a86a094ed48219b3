"""The picture of a chain: states above, what was seen of them below."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import vaeppl
from vaeppl import plots
from vaeppl.errors import StoryError
from vaeppl.models import VAE, AutoEncoder

DATA = vaeppl.data.Data(
    {"x": (torch.rand(20, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()},
    image_shape={"x": (2, 3)},
)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def tile(ax, down, across):
    """Return the picture at a place, one number a pixel."""
    canvas = np.asarray(ax.images[0].get_array().filled(np.nan))
    zoom = 11  # of a picture three pixels wide
    top, left = down * (2 * zoom + 1), across * (3 * zoom + 1)
    return canvas[top : top + 2 * zoom : zoom, left : left + 3 * zoom : zoom].reshape(-1)


def test_the_lines_hold_the_states_and_what_was_seen():
    ae = AutoEncoder(6, 3, corruption="masking", hidden=(4,))
    ax = plots.chain(ae, DATA, num=2, steps=4, mean=False, seed=3)
    chosen = DATA.select(np.sort(np.random.default_rng(3).choice(20, 2, replace=False)))
    found = vaeppl.chain(ae, chosen, steps=4, seed=3)
    for row in range(2):
        for t in range(5):
            assert np.allclose(tile(ax, 2 * row, t), found.states[t, row])
        for t in range(4):
            assert np.allclose(tile(ax, 2 * row + 1, t), found.seen[t, row])
        assert np.isnan(tile(ax, 2 * row + 1, 4)).all()
    means = plots.chain(ae, DATA, num=2, steps=4, every=2, seed=3)
    assert np.allclose(tile(means, 0, 1), found.means[1, 0], atol=1e-6)
    assert [t.get_text() for t in means.get_xticklabels()] == ["0", "2", "4"]


def test_a_chain_without_corruption_has_one_line():
    ax = plots.chain(VAE(6, 2, hidden=(4,)), DATA, num=3, steps=2)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["x"] * 3


def test_bad_input():
    vae = VAE(6, 2, hidden=(4,))
    with pytest.raises(StoryError, match="holds no pictures"):
        plots.chain(vae, {"x": DATA["x"]})
    with pytest.raises(ValueError, match="every is at least 1"):
        plots.chain(vae, DATA, every=0)
    with pytest.raises(ValueError, match="unknown column"):
        plots.chain(vae, DATA, column="w")


def test_it_is_among_the_pictures_that_suit_a_denoising_auto_encoder(tmp_path):
    for corruption, drawn in ((None, False), ("masking", True)):
        ae = AutoEncoder(6, 3, corruption=corruption, hidden=(4,))
        fit = vaeppl.fit(ae, DATA, epochs=1, progress=False)
        names = {path.stem for path in plots.save_all(fit, tmp_path / str(drawn))}
        assert ("chain" in names) == drawn and not names & {"samples", "evidence"}
