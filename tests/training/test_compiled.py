"""Compiled steps give the numbers of eager ones, and what cannot be compiled is fitted as usual."""

import random
import warnings

import gpytorch
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import vaeppl
from vaeppl import gp
from vaeppl.errors import NonFiniteELBO, StoryError
from vaeppl.estimators import available
from vaeppl.files import read_tensors
from vaeppl.models import (
    CVAE,
    GPVAE,
    ICA,
    M1,
    M1M2,
    M2,
    PPCA,
    SCANVI,
    SCVI,
    VAE,
    AutoEncoder,
    BetaVAE,
    ExactGPVAE,
    FactorAnalysis,
    HierarchicalVAE,
    M2Gumbel,
    NoisyOR,
    Regression,
    SparseCoding,
)
from vaeppl.training import compiled, inductor, loop, schedules
from vaeppl.training.compiled import worth_compiling
from vaeppl.training.loop import Trainer

ROWS = 40
build_for_real = inductor.build


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """Run graphs as they are, since compiling one takes seconds; return those that were made."""
    made = []

    def build(graph, inputs):
        made.append(graph)
        return graph

    monkeypatch.setattr(inductor, "build", build)
    return made


@pytest.fixture
def trainers(monkeypatch):
    """Return the trainers of the fits to come."""
    made, begin = [], Trainer.__post_init__

    def noted(self):
        begin(self)
        made.append(self)

    monkeypatch.setattr(Trainer, "__post_init__", noted)
    return made


def binary(rows=ROWS, columns=6):
    return (torch.rand(rows, columns, generator=torch.Generator().manual_seed(0)) < 0.4).float()


def counts():
    return torch.poisson(3 * torch.rand(ROWS, 6, generator=torch.Generator().manual_seed(0))) + 1


LABELS = torch.arange(ROWS) % 4 - 1
SMALL = {"hidden": (8,)}
NOTED = {"x": binary(), "y": LABELS}
CELLS = {"x": counts(), "batch": torch.arange(ROWS) % 3}
REAL = {"x": torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(0))}
TIMED = {
    **REAL,
    "time": torch.rand(ROWS, generator=torch.Generator().manual_seed(1)),
    "who": torch.arange(ROWS) % 4,
}
TRACE_ENUM = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
ZOO = {
    "vae": (lambda: VAE(6, 2, **SMALL), {"x": binary()}, {}),
    "vae-flow": (lambda: VAE(6, 2, guide_family="flow", **SMALL), {"x": binary()}, {}),
    "vae-full-rank": (lambda: VAE(6, 2, guide_family="full_rank", **SMALL), {"x": binary()}, {}),
    "vae-particles": (lambda: VAE(6, 2, **SMALL), {"x": binary()}, {"num_particles": 4}),
    "vae-free-bits": (lambda: VAE(6, 2, **SMALL), {"x": binary()}, {"free_bits": 0.3}),
    "vae-monte-carlo": (
        lambda: VAE(6, 2, **SMALL), {"x": binary()}, {"estimator": "elbo_monte_carlo"},
    ),
    "vae-trace": (lambda: VAE(6, 2, **SMALL), {"x": binary()}, {"estimator": "trace_elbo"}),
    "vae-mixture-prior": (lambda: VAE(6, 2, prior="mixture", **SMALL), {"x": binary()}, {}),
    "cvae": (
        lambda: CVAE(3, 6, 2, **SMALL), {"x": binary(columns=3), "y": binary()}, {},
    ),
    "regression": (
        lambda: Regression(3, 6, **SMALL), {"x": binary(columns=3), "y": binary()}, {},
    ),
    "m1": (lambda: M1(6, 2, **SMALL), {"x": binary()}, {}),
    "m2": (lambda: M2(6, 3, 2, **SMALL), NOTED, {}),
    "m2-trace-enum": (
        lambda: M2(6, 3, 2, **SMALL), NOTED, {"estimator": TRACE_ENUM},
    ),
    "m2-score-function": (
        lambda: M2(6, 3, 2, **SMALL), NOTED, {"estimator": "score_function", "num_particles": 3},
    ),
    "m2_gumbel": (lambda: M2Gumbel(6, 3, 2, **SMALL), NOTED, {}),
    "m1m2": (lambda: M1M2(6, 3, 2, 4, feature_hidden=(8,), **SMALL), NOTED, {}),
    "scvi": (lambda: SCVI.for_data(CELLS, latent_dim=2, **SMALL), CELLS, {}),
    "scvi-theta-prior": (
        lambda: SCVI.for_data(CELLS, latent_dim=2, theta_prior=(0.0, 1.0), **SMALL), CELLS, {},
    ),
    "scanvi": (
        lambda: SCANVI.for_data({**CELLS, "y": LABELS}, latent_dim=2, **SMALL),
        {**CELLS, "y": LABELS},
        {},
    ),
}  # fmt: skip
ZOO |= {
    "beta_vae": (lambda: BetaVAE(6, 2, **SMALL), {"x": binary()}, {"estimator": "beta_tc"}),
    "hierarchical": (lambda: HierarchicalVAE(6, (3, 2), **SMALL), {"x": binary()}, {}),
    "ladder": (
        lambda: HierarchicalVAE(6, (3, 2), inference="ladder", **SMALL), {"x": binary()}, {},
    ),
    "autoencoder": (lambda: AutoEncoder(6, 2, **SMALL), {"x": binary()}, {}),
    "walkback": (
        lambda: AutoEncoder(6, 2, corruption="salt_and_pepper", walkback=3, **SMALL),
        {"x": binary()},
        {},
    ),
    "factor_analysis": (lambda: FactorAnalysis(6, 2), REAL, {}),
    "ppca": (lambda: PPCA(6, 2), REAL, {}),
    "ica": (lambda: ICA(6), REAL, {}),
    "sparse_coding": (lambda: SparseCoding(6, 8), REAL, {}),
    "noisy_or": (lambda: NoisyOR(6, 3), {"x": binary()}, {}),
    "noisy_or-amortised": (
        lambda: NoisyOR(6, 3, inference="amortised", **SMALL), {"x": binary()}, {},
    ),
    "auto-guide": (lambda: VAE(6, 2, **SMALL), {"x": binary()}, {"guide": "auto"}),
}  # fmt: skip
KERNELS = {
    "rbf": gp.On("time", "rbf"),
    "matern": gp.On("time", "matern", nu=1.5),
    "own-of-each": gp.On("time", "rbf", batch_shape=[2]),
    "product": gp.On("time", "periodic") * gp.On("who", "linear", features=gp.Table(4, 2)),
    "sum": gp.On("time", "cosine") + gp.Scaled(gp.On("time", "rational_quadratic")),
    "same": gp.On("time", "rbf", learn_inducing=True) * gp.On("who", "same"),
}
SUMS_OUT = ("elbo", "elbo_monte_carlo", "score_function", "iwae", "renyi", "vr_max", "vimco",
            "miwae", "ciwae", "wake_sleep", "tvo", "capacity", "trace_enum_elbo")  # fmt: skip


def of_kernel(kernel, cls=GPVAE):
    return lambda: cls.for_data(TIMED, kernel=kernel, latent_dim=2, num_inducing=5, **SMALL)


def fit(model=None, data=None, compile=True, **options):
    options = {"epochs": 3, "batch_size": 16, "progress": False, "seed": 3, **options}
    data = {"x": binary()} if data is None else data
    model = VAE(6, 2, **SMALL) if model is None else model
    return vaeppl.fit(model, data, compile=compile, accelerator="cpu", **options)


def both(make=lambda: VAE(6, 2, **SMALL), data=None, **options):
    return [fit(make(), data, compile=compile, **options) for compile in (False, True)]


def known_nesting():
    """Return an estimator that needs not run the story once more to find out its plates."""
    return vaeppl.estimators.ELBO(max_plate_nesting=1)


def assert_same(one, two, tolerance=2e-5):
    """Assert that two fits have the same weights and the same history, but for rounding."""
    for name, weight in one.pair.state_dict().items():
        other = two.pair.state_dict()[name]
        assert torch.allclose(weight.double(), other.double(), atol=tolerance), name
    assert list(one.history.columns) == list(two.history.columns)
    for column in one.history.columns.drop("seconds"):
        a, b = one.history[column].to_numpy(), two.history[column].to_numpy()
        assert np.allclose(a, b, rtol=1e-4, atol=1e-4, equal_nan=True), column


class TestEveryModelOfTheZoo:
    @pytest.mark.parametrize("name", ZOO)
    def test_the_same_numbers_step_by_step(self, name, graphs, trainers):
        """Three epochs of two full batches, in graphs, and one smaller, which is eager.

        Weights, the report, and the mean of the gradients, which is Adam's state.
        """
        make, data, options = ZOO[name]
        assert_same(*both(make, data, lr=0.01, **options))
        assert len(graphs) == 1
        one, two = (trainer.optimizer.state_dict()["state"] for trainer in trainers)
        for number, state in one.items():
            assert float(state["step"]) == float(two[number]["step"]) == 9
            scale = 1.0 + float(state["exp_avg"].abs().max())
            assert torch.allclose(state["exp_avg"], two[number]["exp_avg"], atol=1e-5 * scale)


class TestLowerPrecision:
    @pytest.mark.parametrize("name", ["vae", "m2", "scvi", "gaussian process"])
    def test_networks_alone_are_rounded(self, name, graphs):
        """Compiled and eager alike, and near the fit in float32."""
        if name == "gaussian process":
            make, data, options = of_kernel(KERNELS["product"]), TIMED, {}
        else:
            make, data, options = ZOO[name]
        eager, graph = both(make, data, lr=0.01, precision="bf16-mixed", **options)
        assert len(graphs) == 1
        full = fit(make(), data, compile=False, lr=0.01, **options)
        a, b, c = (run.history["elbo"].to_numpy() for run in (full, eager, graph))
        assert np.allclose(b, c, rtol=1e-3)
        assert np.allclose(a, c, rtol=0.01) and not np.array_equal(a, c)
        assert next(graph.pair.parameters()).dtype == torch.float32

    def test_the_data_are_not_rounded(self):
        """In bfloat16 a count of 1001 is 1000."""
        seen = []

        class Notes(VAE):
            def guide(self, x):
                seen.append(x.max())
                super().guide(x)

        x = torch.full((ROWS, 6), 1001.0)
        story = Notes(6, 2, likelihood="poisson", **SMALL)
        fit(story, {"x": x}, compile=False, precision="bf16-mixed")
        assert {float(value) for value in seen} == {1001.0}

    def test_held_out_rows_have_the_type_of_the_weights(self):
        run = fit(compile=False, precision="64-true", valid=0.2)
        assert next(run.pair.parameters()).dtype == torch.float64
        assert run.history["valid_elbo"].notna().all()

    def test_one_that_leaves_three_digits_is_refused(self):
        with pytest.raises(ValueError, match=r"precision is one of .*given 'bf16-true'"):
            fit(precision="bf16-true")

    def test_tensor_float_is_set_for_the_fit_alone(self):
        assert_same(fit(compile=False), fit(compile=False, precision="tf32"), tolerance=1e-3)
        assert torch.get_float32_matmul_precision() == "highest"


class TestEveryEstimator:
    """Compiled or not, the numbers are the same; where there is no graph, a warning says why."""

    @pytest.mark.parametrize("name", available())
    def test_draws_of_continuous_latents(self, name, graphs):
        options = {"estimator": name, "num_particles": 4, "lr": 0.01}
        if name in ("evolution", "factor_tc", "adversarial"):
            reason = "random numbers within a step|steps of another optimiser"
            with pytest.warns(UserWarning, match=f"fitted without compiling.*({reason})"):
                assert_same(*both(**options), tolerance=1e-7)
            assert not graphs
        else:
            assert_same(*both(lambda: HierarchicalVAE(6, (3, 2), **SMALL), **options))
            assert len(graphs) == 1

    @pytest.mark.parametrize("name", SUMS_OUT)
    def test_labels_that_are_summed_out_or_drawn(self, name, graphs):
        options = {"estimator": name, "num_particles": 4, "lr": 0.01}
        assert_same(*both(lambda: M2(6, 3, 2, **SMALL), NOTED, **options))
        assert len(graphs) == 1


class Comparing(gpytorch.kernels.RBFKernel):
    """Is another one where its inputs are equal."""

    def forward(self, x1, x2, **options):
        return (1.1 if torch.equal(x1, x2) else 1.0) * super().forward(x1, x2, **options)


class BreaksDown(gpytorch.kernels.RBFKernel):
    """Is none any more after some steps."""

    def __init__(self):
        super().__init__()
        self.register_buffer("uses", torch.zeros(()))

    def forward(self, x1, x2, **options):
        if self.training:
            self.uses.add_(1.0)
        return torch.where(self.uses > 30, -1.0, 1.0) * super().forward(x1, x2, **options)


class TestGaussianProcesses:
    @pytest.mark.parametrize("name", KERNELS)
    def test_minibatches(self, name, graphs):
        assert_same(*both(of_kernel(KERNELS[name]), TIMED, lr=0.01))
        assert len(graphs) == 1

    def test_all_rows_at_once_in_parts(self, graphs):
        def make():
            story = of_kernel(KERNELS["product"], ExactGPVAE)()
            story.rows_at_once = 16
            return story

        assert_same(*both(make, TIMED, lr=0.01, batch_size=ROWS))
        assert len(graphs) == 1

    def test_a_kernel_of_ones_own_that_compares_values(self, graphs):
        points = torch.linspace(0, 1, 5).unsqueeze(-1)
        kernel = gp.On("time", Comparing(), inducing=points)
        with pytest.warns(UserWarning, match="reads the value of a tensor.*torch.equal"):
            fit(of_kernel(kernel)(), TIMED)
        assert not graphs

    def test_points_that_coincide_have_the_same_jitter(self, graphs):
        points = [[0.0], [0.5], [0.5 + 1e-9], [1.0]]
        kernel = gp.On("time", "rbf", lengthscale=3.0, inducing=points)
        assert_same(*both(of_kernel(kernel), TIMED, lr=0.01))
        assert len(graphs) == 1

    def test_a_kernel_that_breaks_down_is_explained_as_usual(self):
        messages = []
        for compile in (False, True):
            story = of_kernel(gp.On("time", BreaksDown()))()
            with pytest.raises(
                StoryError, match="BreaksDown on column 'time' has no Chol"
            ) as error:
                fit(story, TIMED, compile=compile, estimator=known_nesting(), epochs=9)
            messages.append(str(error.value))
        assert messages[0] == messages[1]
        assert "not positive semi-definite" in messages[0]


class Noisy(VAE):
    """With all that changes while a network is trained."""

    def __init__(self, x_dim):
        layers = [
            torch.nn.Linear(x_dim, 8, bias=False),
            torch.nn.BatchNorm1d(8),
            torch.nn.Dropout(0.3),
        ]
        super().__init__(x_dim, 2, hidden=(8,), encoder=torch.nn.Sequential(*layers))


class TestWhatIsAlive:
    def test_noise_is_fresh_at_every_step(self):
        """At a learning rate of nothing only the draws change the ELBO."""
        history = fit(epochs=4, batch_size=ROWS, lr=1e-30).history
        assert len(set(history["elbo"])) == 4

    def test_dropout_and_batch_norm(self):
        one, two = both(lambda: Noisy(6), epochs=4, lr=0.01, estimator=known_nesting())
        assert_same(one, two)
        assert float(two.pair.story.encoder[1].num_batches_tracked) > 12

    def test_the_kl_weight_and_the_learning_rate_follow_their_schedules(self):
        scheduled = {"kl_weight": schedules.Linear(0, 1), "lr_schedule": "cosine", "lr": 0.03}
        one, two = both(epochs=6, **scheduled)
        assert_same(one, two)
        assert two.history["kl_weight"].is_monotonic_increasing
        plain = fit(epochs=6, lr=0.03)
        assert abs(plain.history["elbo"].iloc[-1] - two.history["elbo"].iloc[-1]) > 1e-3

    @pytest.mark.parametrize(
        "options",
        [
            {"clip_norm": 0.05},
            {"optimizer": "adamw", "weight_decay": 0.1},
            {"optimizer": "adam", "weight_decay": 0.1, "clip_norm": 0.5},
            {"optimizer": "sgd", "weight_decay": 0.1, "clip_norm": 0.5},
            {"optimizer": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True)},
            {"optimizer": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, betas=(0.8, 0.9))},
            {
                "optimizer": lambda p: torch.optim.AdamW(
                    [{"params": p[:2], "lr": 0.1}, {"params": p[2:], "weight_decay": 0.2}], lr=0.01
                )
            },
        ],
    )
    def test_optimisers(self, options, graphs):
        assert_same(*both(epochs=4, **{"lr": 0.02, **options}))
        assert len(graphs) == 1

    def test_a_global_latent_and_parameters_of_functions(self, graphs):
        x = torch.randn(ROWS, generator=torch.Generator().manual_seed(0))

        def model(x=None):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            with vaeppl.rows(x):
                pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

        def guide(x):
            loc = pyro.param("loc", torch.tensor(0.0))
            scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
            pyro.sample("mean", dist.Normal(loc, scale))
            with vaeppl.rows(x):
                pass

        fits = [
            fit(model, {"x": x}, guide=guide, compile=c, lr=0.05, epochs=9) for c in (False, True)
        ]
        assert_same(*fits)
        assert len(graphs) == 1

    def test_a_tensor_that_the_story_changes_in_place(self, graphs):
        class Remembers(VAE):
            def __init__(self, x_dim):
                super().__init__(x_dim, 2, hidden=(8,))
                self.seen = torch.zeros(())  # no buffer

            def guide(self, x):
                self.seen.mul_(0.9).add_(0.1 * x.detach().mean())
                super().guide(x + self.seen)

        one, two = both(lambda: Remembers(6), batch_size=20, estimator=known_nesting())
        assert_same(one, two)
        seen = [run.pair.story.seen for run in (one, two)]
        assert torch.allclose(*seen) and float(seen[0]) > 0.1
        assert len(graphs) == 1


class TestResume:
    def test_a_run_that_was_killed_gives_the_same_numbers(self, tmp_path, monkeypatch):
        whole = fit(epochs=6, out=tmp_path / "whole", checkpoint_every=1)
        record, interrupt = compiled.GraphSteps.take, {"left": 8}

        def killed(self, *args):
            interrupt["left"] -= 1
            if interrupt["left"] < 0:
                raise SystemExit
            return record(self, *args)

        monkeypatch.setattr(compiled.GraphSteps, "take", killed)
        with pytest.raises(SystemExit):
            fit(epochs=6, out=tmp_path / "killed", checkpoint_every=1)
        monkeypatch.undo()
        monkeypatch.setattr(inductor, "build", lambda graph, inputs: graph)
        again = fit(epochs=6, out=tmp_path / "killed", resume=True)
        weights = [read_tensors(tmp_path / d / "weights.safetensors") for d in ("whole", "killed")]
        assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
        assert again.history["elbo"].tolist() == whole.history["elbo"].tolist()

    def test_a_run_may_go_on_without_compiling(self, tmp_path):
        fit(epochs=3, out=tmp_path / "run")
        again = fit(epochs=6, out=tmp_path / "run", resume=True, compile=False)
        assert_same(fit(epochs=6, compile=False), again)


BOX = {"scale": 1.0}


class Story(VAE):
    """A VAE whose guide does something in addition, with its input."""

    def __init__(self, extra):
        super().__init__(6, 2, hidden=(8,))
        self.extra, self.calls, self.kept = extra, 0, torch.zeros(())

    def guide(self, x):
        super().guide(x + self.extra(self, x))


def branches(self, x):
    return 0.1 if x.sum() > 0 else 0.2


def reads(self, x):
    return x.mean().item()


def lists(self, x):
    return x.tolist()[0][0]


def to_numpy(self, x):
    return float(x.numpy().mean())


def draws_numpy(self, x):
    return float(np.random.rand())


def draws_python(self, x):
    return random.random()


def own_generator(self, x):
    self.generator = getattr(self, "generator", None) or np.random.default_rng(0)
    return float(self.generator.normal())


def compares(self, x):
    return 0.1 if torch.equal(x, x + 0.0) else 0.2


def masked(self, x):
    return x[x > 0].shape[0] / 100.0


def counts_calls(self, x):
    self.calls += 1
    return 0.01 * self.calls


def counts_calls_unseen(self, x):
    self.calls += 1
    return 0.0 if self.calls < 10**6 else 1.0


def rebinds(self, x):
    self.kept = 0.9 * self.kept + 0.1 * x.detach().mean()
    return self.kept


class TestWhatCannotBeCompiled:
    @pytest.mark.parametrize(
        ("extra", "reason"),
        [
            (branches, r"reads the value of a tensor.*line \d+: return 0.1 if x.sum\(\) > 0"),
            (reads, r"Tensor.item\), .*return x.mean\(\).item\(\)"),
            (lists, r"Tensor.tolist.*x.tolist\(\)"),
            (to_numpy, r"Tensor.numpy.*x.numpy\(\)"),
            (compares, r"reads the value of a tensor.*torch.equal\(x, x \+ 0.0\)"),
            (draws_numpy, "random numbers of Python or NumPy"),
            (draws_python, "random numbers of Python or NumPy"),
            (own_generator, "when it runs"),
            (masked, r"shape depends on data.*return x\[x > 0\]"),
            (counts_calls, "when it runs"),
            (counts_calls_unseen, r"changes a value of its own.*calls was"),
            (rebinds, "a tensor that is another one"),
        ],
    )
    def test_it_is_fitted_as_usual_and_the_warning_names_the_reason(self, extra, reason):
        with pytest.warns(UserWarning, match=reason):
            run = fit(Story(extra), batch_size=20, estimator=known_nesting())
        if extra not in (counts_calls, own_generator, rebinds):  # these tell a trial from a step
            usual = fit(Story(extra), batch_size=20, compile=False, estimator=known_nesting())
            assert_same(usual, run, tolerance=1e-7)

    def test_an_unknown_optimiser(self):
        with pytest.warns(UserWarning, match="the optimiser is RMSprop; Adam, AdamW and SGD"):
            fit(optimizer=lambda p: torch.optim.RMSprop(p, lr=0.01))

    def test_another_precision(self):
        with pytest.warns(UserWarning, match="precision is '64-true'"):
            fit(precision="64-true")

    def test_where_there_is_no_compiler_the_graph_runs_as_it_is(self, monkeypatch):
        def fails(graph, inputs):
            raise RuntimeError("no working C++ compiler")

        monkeypatch.setattr(inductor, "build", fails)
        with pytest.warns(UserWarning, match="not compiled, as compiling failed.*C\\+\\+ compiler"):
            run = fit()
        assert_same(fit(compile=False), run)

    def test_a_compiler_that_gives_other_numbers_is_found_out(self, monkeypatch):
        def wrong(graph, inputs):
            def run(*tensors):
                with torch.no_grad():
                    tensors[0].add_(1.0)
                return graph(*tensors)

            return run

        monkeypatch.setattr(inductor, "build", wrong)
        with pytest.warns(UserWarning, match="the compiled step gives other numbers"):
            run = fit()
        assert_same(fit(compile=False), run, tolerance=1e-7)

    def test_what_a_story_depends_on_may_change_and_is_seen_at_the_audit(self, monkeypatch):
        monkeypatch.setattr(compiled, "FIRST_AUDIT", 10)
        take = compiled.GraphSteps.take

        def changes(self, *args):
            if args[-1] == 6:
                BOX["scale"] = 2.0
            return take(self, *args)

        monkeypatch.setattr(compiled.GraphSteps, "take", changes)
        hidden = type("Hidden", (), {"__slots__": (), "scale": lambda self: BOX["scale"]})()
        with pytest.warns(UserWarning, match="gives other numbers than the story"):
            fit(Story(lambda story, x: hidden.scale()), epochs=8, batch_size=20)
        BOX["scale"] = 1.0

    def test_what_is_seen_to_change_makes_a_new_graph(self, monkeypatch, graphs):
        monkeypatch.setattr(compiled, "LOOK_EVERY", 2)
        take = compiled.GraphSteps.take

        def changes(self, *args):
            self.pair.story.calls = 2.0 if args[-1] >= 6 else 1.0
            return take(self, *args)

        monkeypatch.setattr(compiled.GraphSteps, "take", changes)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit(Story(lambda story, x: story.calls), epochs=8, batch_size=20)
        assert len(graphs) == 2

    @pytest.mark.parametrize("compile", [False, True])
    def test_where_steps_are_not_looked_at_an_epoch_is(self, compile, monkeypatch):
        """As on a GPU, where a look would wait for the device."""
        monkeypatch.setattr(loop, "LOOK_EVERY", {})

        def explodes(self, x):
            self.kept.add_(1.0)
            return torch.where(self.kept > 7, torch.nan, 0.0)

        with pytest.raises(NonFiniteELBO, match="epoch 3, batch 2 or before"):
            options = {"batch_size": 20, "estimator": known_nesting(), "compile": compile}
            fit(Story(explodes), epochs=9, **options)

    def test_a_loss_that_is_not_finite_is_explained_as_usual(self):
        def explodes(self, x):
            self.kept.add_(1.0)
            return torch.where(self.kept > 7, torch.nan, 0.0)

        messages = []
        for compile in (False, True):
            with pytest.raises(NonFiniteELBO) as error:
                options = {"batch_size": 20, "estimator": known_nesting(), "compile": compile}
                fit(Story(explodes), epochs=9, **options)
            messages.append(str(error.value))
        assert messages[0] == messages[1]
        assert "epoch 3, batch 2" in messages[0]


class TestAuto:
    def test_a_short_run_is_not_compiled(self, graphs):
        fit(compile="auto")
        assert not graphs

    def test_a_run_that_is_long_enough_is(self, graphs, monkeypatch):
        monkeypatch.setattr(compiled, "FEWEST_STEPS", 1)
        fit(compile="auto")
        assert not graphs
        monkeypatch.setattr(compiled, "SECONDS_PER_OPERATION", 1.0)
        monkeypatch.setattr(compiled, "FEWEST_STEPS", 9)
        assert_same(fit(compile=False), fit(compile="auto"))
        assert len(graphs) == 1

    def test_deciding_leaves_the_numbers_alone(self, monkeypatch):
        usual = fit(compile=False)
        monkeypatch.setattr(compiled, "FEWEST_STEPS", 1)
        run = fit(compile="auto")
        assert run.history["elbo"].tolist() == usual.history["elbo"].tolist()

    def test_it_pays_for_long_runs_only(self):
        assert not worth_compiling(2_000, 250)
        assert worth_compiling(20_000, 250)
        assert not worth_compiling(100, 100_000)

    def test_any_other_word_is_refused(self):
        with pytest.raises(ValueError, match="compile is True, False or 'auto'; given 'always'"):
            fit(compile="always")


class TestInductor:
    def test_a_compiled_fit_has_the_numbers_of_an_eager_one(self, monkeypatch):
        monkeypatch.setattr(inductor, "build", build_for_real)
        make, data, _ = ZOO["scvi"]
        assert_same(*both(make, data, epochs=20, lr=0.01, batch_size=20, clip_norm=1.0))
