"""Sparse coding: best codes are a lasso's, and an overcomplete dictionary is recovered."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import sparse_encode

import vaeppl
from vaeppl.models import SparseCoding


def sparse_rows(n=3000, d=8, k=12, active=2, noise=0.05):
    g = torch.Generator().manual_seed(1)
    atoms = F.normalize(torch.randn(d, k, generator=g), dim=0)
    chosen = torch.rand(n, k, generator=g).argsort(1)[:, :active]
    z = torch.zeros(n, k).scatter_(1, chosen, 1.5 * torch.randn(n, active, generator=g))
    return {"x": z @ atoms.T + noise * torch.randn(n, d, generator=g) + 1}, atoms


def test_best_codes_are_those_of_a_lasso():
    data, _ = sparse_rows(40)
    story = SparseCoding.for_data(data, latent_dim=12, noise=0.1)
    ours = story.best_codes(data["x"], steps=3000)
    atoms, noise = story.weights.detach(), story.noise.item()
    theirs = sparse_encode(
        (data["x"] - story.mean.detach()).double().numpy(),
        atoms.T.double().numpy(),
        algorithm="lasso_cd",
        alpha=2**0.5 * noise**2,
        max_iter=100_000,
    )
    assert np.allclose(ours.numpy(), theirs, atol=5e-3)
    assert ((ours.numpy() == 0) == (np.abs(theirs) < 1e-6)).mean() > 0.99

    def log_joint(z):
        fit = -((data["x"] - story.mean - z @ atoms.T) ** 2).sum(-1) / (2 * noise**2)
        return (fit - 2**0.5 * z.abs().sum(-1)).detach()

    for seed in range(5):
        moved = ours + 0.01 * torch.randn(ours.shape, generator=torch.Generator().manual_seed(seed))
        assert (log_joint(moved) <= log_joint(ours) + 1e-4).all()


@pytest.mark.slow
def test_an_overcomplete_dictionary_is_recovered():
    data, atoms = sparse_rows()
    story = SparseCoding.for_data(data, latent_dim=12, noise=0.15)
    fit = vaeppl.fit(
        story, data, epochs=40, batch_size=100, lr=0.02, lr_schedule="cosine", progress=False
    )
    found = F.normalize(fit.model.weights.detach(), dim=0)
    cosines = (found.T @ atoms).abs().max(0).values
    assert (cosines > 0.98).sum() >= 9
    codes = fit.model.best_codes(data["x"])
    assert (codes == 0).float().mean() > 0.5


def test_the_bound_rises_and_beats_one_blind_to_sparseness():
    data, _ = sparse_rows(600, d=4, k=5, active=1)
    runs = [
        vaeppl.fit(
            SparseCoding.for_data(data, latent_dim=5, sweeps=sweeps), data, epochs=40, lr=0.03,
            lr_schedule="cosine", progress=False,
        )
        for sweeps in (2, 0)
    ]  # fmt: skip
    bounds = [run.history["elbo"].iloc[-1] for run in runs]
    assert bounds[0] > bounds[1] > runs[1].history["elbo"].iloc[0]
    # Atoms do not grow without end, as they do under the best code alone.
    assert runs[0].model.weights.norm(dim=0).max() < 5


@pytest.mark.parametrize("learnt", [False, True])
def test_noise_is_held_fixed_or_learnt(learnt):
    data, _ = sparse_rows(100)
    story = SparseCoding.for_data(data, latent_dim=12, noise=0.3, learn_noise=learnt)
    before = story.noise.item()
    assert before == pytest.approx(0.3 * story.unit.item())
    vaeppl.fit(story, data, epochs=2, progress=False)
    assert (story.noise.item() != before) == learnt


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 0}, "at least one dimension"),
        ({"noise": 0.0}, "noise is > 0"),
        ({"unit": 0.0}, "a unit is > 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SparseCoding(**{"x_dim": 6, **arguments})
