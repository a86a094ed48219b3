"""Data larger than memory: read by batch, with the numbers of data that are resident."""

import anndata
import numpy as np
import pytest
import scipy.sparse
import torch

import vaeppl
from vaeppl import likelihoods
from vaeppl.data import Data, as_data
from vaeppl.models import VAE

COUNTS = np.random.default_rng(0).poisson(2.0, size=(50, 6)).astype("float32")


def memory_mapped(folder):
    store = np.memmap(folder / "x.dat", dtype="float32", mode="w+", shape=COUNTS.shape)
    store[:] = COUNTS
    return Data({"x": store})


def sparse(folder):
    return Data({"x": scipy.sparse.csr_matrix(COUNTS)})


def backed(folder):
    anndata.AnnData(COUNTS).write_h5ad(folder / "x.h5ad")
    return as_data(folder / "x.h5ad", backed=True)


@pytest.mark.parametrize("source", [memory_mapped, sparse, backed])
def test_a_fit_is_the_same_as_on_resident_data(source, tmp_path):
    def fit(data):
        vae = VAE(6, 2, likelihood=likelihoods.Poisson(), hidden=(8,))
        return vaeppl.fit(vae, data, epochs=2, batch_size=16, seed=0, progress=False)

    data = source(tmp_path)
    assert data.is_lazy("x")
    lazy, resident = fit(data), fit({"x": COUNTS})
    assert lazy.history["elbo"].tolist() == resident.history["elbo"].tolist()
    for a, b in zip(lazy.pair.parameters(), resident.pair.parameters(), strict=True):
        assert torch.equal(a, b)
    assert lazy.evidence(data, num_particles=5).rows.shape == (50, 5)


def test_float64_models_are_fitted_in_float64():
    vae = VAE(6, 2, likelihood=likelihoods.Normal(), hidden=(8,)).double()
    run = vaeppl.fit(vae, {"x": COUNTS.astype("float64")}, epochs=2, progress=False)
    assert next(run.pair.parameters()).dtype == torch.float64
    assert run.sample(3)["x"].dtype == torch.float64


@pytest.mark.gpu
def test_a_fit_on_a_gpu_agrees_with_one_on_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")

    def fit(accelerator):
        vae = VAE(6, 2, likelihood=likelihoods.Poisson(), hidden=(8,))
        return vaeppl.fit(
            vae, {"x": COUNTS}, epochs=60, lr=0.01, accelerator=accelerator, progress=False
        )

    cpu, gpu = fit("cpu"), fit("gpu")
    assert gpu.pair.device.type == "cuda"
    assert gpu.elbo({"x": COUNTS}).mean == pytest.approx(cpu.elbo({"x": COUNTS}).mean, abs=0.5)
    assert gpu.evidence({"x": COUNTS}).rows.notna().all().all()
