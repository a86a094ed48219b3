"""Steps on a GPU: recorded as CUDA graphs, in lower precision; what needs none runs anywhere."""

import contextlib

import numpy as np
import pytest
import torch

import vaeppl
from vaeppl import gp
from vaeppl.models import GPVAE, M2, SCVI, VAE, HierarchicalVAE
from vaeppl.training import compiled
from vaeppl.training.cuda_graphs import WARM_UP, Captured


class Recorder:
    """Stands for a CUDA graph where there is no GPU: a replay runs the function on its memory."""

    def __init__(self, function):
        self.function, self.inputs, self.result, self.runs = function, None, None, 0

    def __call__(self, *inputs):
        self.inputs, self.runs = inputs, self.runs + 1
        self.result = self.function(*inputs)
        return self.result

    def replay(self):
        self.result.copy_(self.function(*self.inputs))


@pytest.fixture
def no_gpu(monkeypatch):
    """Let torch's entries to CUDA graphs do nothing."""

    class Nothing:
        def __init__(self, *_, **__):
            pass

        def wait_stream(self, other):
            pass

    quiet = contextlib.nullcontext
    for name, stand_in in {
        "Stream": Nothing,
        "CUDAGraph": Nothing,
        "current_stream": Nothing,
        "stream": lambda stream: quiet(),
        "graph": lambda graph, **_: quiet(),
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": lambda mode: None,
        "synchronize": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)


def test_inputs_that_are_given_anew_are_copied_in_and_out(no_gpu):
    def step(weight, total, batch):
        weight.add_(batch.sum())
        total.add_(weight)
        return weight * 2

    weight, batch = torch.zeros(()), torch.ones(3)
    run = Recorder(step)
    captured = Captured(run, [weight, torch.zeros(()), batch], anew=[1, 2], written=[1])
    captured.graph.replay = run.replay
    assert run.runs == WARM_UP + 1
    weight.zero_()  # who records it puts back what that changed
    first, second = torch.tensor(10.0), torch.tensor(20.0)
    assert float(captured(weight, first, torch.ones(3))) == 6.0
    assert float(captured(weight, second, torch.full((3,), 2.0))) == 18.0
    assert (float(weight), float(first), float(second)) == (9.0, 13.0, 29.0)
    assert torch.equal(batch, torch.ones(3))  # the rows that it was recorded with stay as they are


# --- what needs a GPU ---

gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]
ROWS = 64
X = (torch.rand(ROWS, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
COUNTS = {"x": torch.poisson(3 * torch.rand(ROWS, 6)) + 1, "batch": torch.arange(ROWS) % 3}
TIMED = {"x": torch.randn(ROWS, 6), "time": torch.rand(ROWS)}
STORIES = {
    "vae": (lambda: VAE(6, 2, hidden=(8,)), {"x": X}, {}),
    "iwae": (lambda: VAE(6, 2, hidden=(8,)), {"x": X}, {"estimator": "iwae", "num_particles": 5}),
    "ladder": (lambda: HierarchicalVAE(6, (3, 2), inference="ladder", hidden=(8,)), {"x": X}, {}),
    "m2": (lambda: M2(6, 3, 2, hidden=(8,)), {"x": X, "y": torch.arange(ROWS) % 4 - 1}, {}),
    "scvi": (lambda: SCVI.for_data(COUNTS, latent_dim=2, hidden=(8,)), COUNTS, {}),
    "gpvae": (
        lambda: GPVAE.for_data(TIMED, kernel=gp.On("time", "rbf"), latent_dim=2, hidden=(8,)),
        TIMED,
        {},
    ),
}


def fit(make, data, **options):
    options = {"epochs": 4, "batch_size": 32, "lr": 0.01, "progress": False, **options}
    return vaeppl.fit(make(), data, accelerator="gpu", seed=3, **options)


class TestOnAGPU:
    pytestmark = gpu

    @pytest.mark.parametrize("name", STORIES)
    def test_a_recorded_step_has_the_numbers_of_an_eager_one(self, name, monkeypatch):
        recorded, take = [], compiled.GraphSteps.take

        def noted(self, *args):
            done = take(self, *args)
            recorded.extend(v.run for v in self.variants.values() if v is not None)
            return done

        monkeypatch.setattr(compiled.GraphSteps, "take", noted)
        make, data, options = STORIES[name]
        eager, graph = (fit(make, data, compile=c, **options) for c in (False, True))
        assert recorded and all(isinstance(run, Captured) for run in recorded)
        a, b = (f.history["elbo"].to_numpy() for f in (eager, graph))
        assert np.allclose(a, b, rtol=1e-3, atol=1e-3)
        for name, weight in eager.pair.state_dict().items():
            assert torch.allclose(weight, graph.pair.state_dict()[name], atol=1e-3), name

    def test_noise_is_fresh_at_every_replay(self):
        run = fit(*STORIES["vae"][:2], compile=True, lr=1e-30, batch_size=ROWS, epochs=6)
        assert len(set(run.history["elbo"])) == 6

    @pytest.mark.parametrize("name", STORIES)
    def test_lower_precision_keeps_the_elbo(self, name):
        make, data, options = STORIES[name]
        full = fit(make, data, epochs=40, compile=False, **options)
        half = fit(make, data, epochs=40, precision="bf16-mixed", **options)
        apart = half.elbo(num_particles=50).mean - full.elbo(num_particles=50).mean
        assert abs(apart) < 0.02 * abs(full.elbo(num_particles=50).mean)

    @pytest.mark.parametrize("name", vaeppl.estimators.available())
    def test_every_estimator(self, name):
        make = lambda: HierarchicalVAE(6, (3, 2), hidden=(8,))  # noqa: E731
        run = fit(make, {"x": X}, estimator=name, num_particles=4, compile=False)
        assert np.isfinite(run.history["elbo"]).all()
        assert np.isfinite(run.evidence(num_particles=20).mean)
