"""fit: the numbers it gives, when it stops, what it leaves alone, and what it refuses."""

import math
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal

import vaeppl
from vaeppl.errors import CheckpointError, ColumnError, NonFiniteELBO, StoryError
from vaeppl.likelihoods import Normal
from vaeppl.models import VAE
from vaeppl.training import schedules


def binary(n=60, d=6, seed=0):
    return {"x": (torch.rand(n, d, generator=torch.Generator().manual_seed(seed)) < 0.4).float()}


def sparse(n=60, d=6):
    """Few ones, so that a story fitted to them is much better than one that is not."""
    return {"x": (torch.rand(n, d, generator=torch.Generator().manual_seed(1)) < 0.1).float()}


def small(**kwargs):
    return VAE(6, 2, hidden=(8,), **kwargs)


def fit(model=None, data=None, **kwargs):
    kwargs = {"epochs": 3, "batch_size": 16, "progress": False, **kwargs}
    return vaeppl.fit(model or small(), data if data is not None else binary(), **kwargs)


def weights(run):
    return {k: v.clone() for k, v in run.pair.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class TestReproducibility:
    def test_the_same_seed_gives_the_same_numbers(self):
        a, b = fit(seed=4), fit(seed=4)
        assert same(weights(a), weights(b))
        assert a.history["elbo"].tolist() == b.history["elbo"].tolist()

    def test_another_seed_gives_others(self):
        assert not same(weights(fit(seed=4)), weights(fit(seed=5)))

    def test_the_seed_decides_whatever_the_callers_random_state(self):
        torch.manual_seed(1)
        a = fit(seed=0)
        torch.manual_seed(2)
        assert same(weights(a), weights(fit(seed=0)))

    def test_the_callers_random_states_are_left_as_they_were(self):
        model = small()
        torch.manual_seed(7)
        np.random.seed(7)
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
        fit(model)
        assert torch.equal(torch_state, torch.get_rng_state())
        assert (numpy_state == np.random.get_state()[1]).all()

    def test_a_fitted_model_is_fitted_further_and_not_from_the_start(self):
        model = small()
        first = fit(model, epochs=30, lr=0.01)
        second = fit(model, epochs=1, lr=1e-6)
        assert second.history["elbo"].iloc[0] > first.history["elbo"].iloc[0] + 0.1

    def test_the_elbo_rises(self):
        history = fit(data=sparse(), epochs=40, lr=0.01).history
        assert history["elbo"].iloc[-5:].mean() > history["elbo"].iloc[:5].mean() + 0.2
        assert np.allclose(history["elbo"], history["reconstruction"] - history["kl"], atol=1e-4)


class TestIsolation:
    def test_two_fits_share_nothing(self):
        alone = fit(seed=1)
        fit(seed=2)
        assert same(weights(alone), weights(fit(seed=1)))

    def test_pyros_global_store_is_left_as_it_was(self):
        with pyro.get_param_store().scope():
            mine = pyro.param("decoder$$$weight", torch.ones(3))
            fit()
            assert list(pyro.get_param_store().keys()) == ["decoder$$$weight"]
            assert torch.equal(pyro.param("decoder$$$weight"), mine)

    def test_two_pairs_of_functions_with_the_same_names(self):
        def pair(loc):
            def model(x=None):
                mu = pyro.param("mu", torch.tensor(0.0))
                with vaeppl.rows(x):
                    z = pyro.sample("z", dist.Normal(mu, 1.0))
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

            def guide(x):
                shift = pyro.param("shift", torch.tensor(0.0))
                with vaeppl.rows(x):
                    pyro.sample("z", dist.Normal(x / 2 + shift, 0.5**0.5))

            x = torch.randn(100) + loc
            run = vaeppl.fit(
                model, {"x": x}, guide=guide, epochs=60, lr=0.1, batch_size=50, progress=False
            )
            return float(run.pair.state_dict()["stored.mu"]), float(x.mean())

        for loc in (-3.0, 3.0):
            mu, mean = pair(loc)
            assert mu == pytest.approx(mean, abs=0.35)


class TestMinibatches:
    def test_a_minibatch_elbo_is_unbiased_also_with_a_global_latent(self):
        """Bayesian linear decoder with a prior on its scale: the mean over a partition is exact."""
        x = torch.randn(12, 3)

        def model(x=None):
            scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
            w = pyro.sample("w", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
            with vaeppl.rows(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z @ w, scale).to_event(1), obs=x)

        def guide(x):
            pyro.sample("scale", dist.Delta(torch.tensor(0.7)))
            pyro.sample("w", dist.Delta(torch.full((2, 3), 0.3)).to_event(2))
            with vaeppl.rows(x):
                pyro.sample("z", dist.Delta(x[:, :2] / 2).to_event(1))

        elbo = vaeppl.estimators.ELBO()
        with vaeppl.row_count(12):
            full = elbo.loss(model, guide, x)
            parts = [elbo.loss(model, guide, part) for part in x.split(4)]
            uneven = [elbo.loss(model, guide, part) for part in (x[:8], x[8:])]
        assert np.mean(parts) == pytest.approx(full, rel=1e-5)
        assert (8 * uneven[0] + 4 * uneven[1]) / 12 == pytest.approx(full, rel=1e-5)

    def test_a_plate_written_by_hand_gives_the_same_elbo(self):
        def pair(rows):
            def model(x=None):
                with rows(x):
                    z = pyro.sample("z", dist.Normal(0.0, 1.0))
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

            def guide(x):
                shift = pyro.param("shift", torch.tensor(0.0))
                with rows(x):
                    pyro.sample("z", dist.Normal(x / 2 + shift, 0.5**0.5))

            return model, guide

        x = torch.randn(96)
        elbos = []
        for rows in (vaeppl.rows, lambda x: pyro.plate("data", len(x))):
            model, guide = pair(rows)
            run = vaeppl.fit(
                model, {"x": x}, guide=guide, epochs=2, batch_size=20, valid=0.3, progress=False
            )
            elbos.append(run.history[["elbo", "valid_elbo"]].to_numpy())
        assert np.allclose(elbos[0], elbos[1], atol=1e-4)

    def test_a_site_must_bear_the_name_of_its_column(self):
        def model(x=None):
            with vaeppl.rows(x):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("obs", dist.Normal(z, 1.0), obs=x)

        def guide(x):
            with vaeppl.rows(x):
                pyro.sample("z", dist.Normal(x / 2, pyro.param("s", torch.tensor(1.0))))

        with pytest.raises(StoryError, match="site 'obs' of model observes column 'x'"):
            vaeppl.fit(model, {"x": torch.randn(9)}, guide=guide, epochs=1, progress=False)

    def test_an_autoguide_of_row_latents_is_refused(self):
        def model(x=None):
            with vaeppl.rows(x):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        guide = pyro.infer.autoguide.AutoNormal(model)
        with pytest.raises(StoryError, match="a parameter for each row"):
            vaeppl.fit(model, {"x": torch.randn(20)}, guide=guide, epochs=1, progress=False)

    def test_a_global_posterior_is_that_of_the_full_data_and_not_of_a_batch(self):
        # A conjugate normal mean: fitted by minibatches of 10 of 200 rows.
        x = torch.randn(200, generator=torch.Generator().manual_seed(0)) + 1.0

        def model(x=None):
            mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
            with vaeppl.rows(x):
                pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

        guide = pyro.infer.autoguide.AutoNormal(model)
        run = vaeppl.fit(
            model,
            {"x": x},
            guide=guide,
            epochs=150,
            batch_size=10,
            lr=0.02,
            lr_schedule="cosine",
            progress=False,
        )
        precision = 200 + 0.01
        with run.pair.active():
            loc, scale = guide.locs.mu.item(), guide.scales.mu.item()
        assert loc == pytest.approx(float(x.sum()) / precision, abs=0.02)
        assert scale == pytest.approx(precision**-0.5, rel=0.15)


class TestStopping:
    def test_early_stopping_returns_to_the_best_weights(self):
        data = vaeppl.data.Data(binary(80)).split(valid=0.5, test=0, seed=0)
        run = fit(small(), data, epochs=400, patience=5, lr=0.05)
        held_out = run.history["valid_elbo"]
        assert run.stopped == "early"
        assert run.best_epoch == held_out.idxmax()
        assert len(run.history) == run.best_epoch + 5
        assert run.elbo(data.valid, num_particles=300).mean == pytest.approx(
            held_out.max(), abs=0.15
        )

    def test_held_out_rows_of_data_with_splits_are_their_valid_split(self):
        parts = vaeppl.data.Data(binary(80)).split(valid=0.25, test=0, seed=0)
        mine = fit(small(), parts.train, valid=parts, seed=0)
        theirs = fit(small(), parts, seed=0)
        assert mine.history["valid_elbo"].tolist() == theirs.history["valid_elbo"].tolist()

    def test_ctrl_c_in_the_first_epoch_keeps_what_there_is(self, monkeypatch, tmp_path):
        def interrupt(self, batch, where):
            raise KeyboardInterrupt

        monkeypatch.setattr(vaeppl.training.loop.Trainer, "_apply_step", interrupt)
        run = fit(out=tmp_path / "run")
        assert run.stopped == "interrupted"
        assert len(run.history) == 0
        assert "interrupted" in repr(run)
        assert vaeppl.load(tmp_path / "run").stopped == "interrupted"

    def test_a_share_can_be_held_out_by_seed(self):
        run = fit(valid=0.25)
        assert len(run.train) == 45
        assert "valid_elbo" in run.history

    def test_patience_without_held_out_rows_is_refused(self):
        with pytest.raises(ColumnError, match="held-out rows"):
            fit(patience=3)

    def test_ctrl_c_keeps_the_fit_so_far(self, monkeypatch, tmp_path):
        epochs = []

        def interrupt(self, record):
            epochs.append(record)
            if len(epochs) == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(vaeppl.training.progress.ProgressBar, "update", interrupt)
        run = fit(epochs=50, out=tmp_path / "run", checkpoint_every=1)
        assert run.stopped == "interrupted"
        assert len(run.history) == 3
        assert len(vaeppl.load(tmp_path / "run").history) == 3
        monkeypatch.undo()
        assert len(fit(epochs=50, out=tmp_path / "run", resume=True).history) == 50


class TestResume:
    def run_whole(self, out=None, **kwargs):
        return fit(
            small(),
            vaeppl.data.Data(binary(61)).split(valid=0.2, test=0, seed=0),
            epochs=6,
            seed=3,
            lr_schedule="cosine",
            kl_weight=schedules.Linear(0.1, 1.0, share=0.8),
            clip_norm=5.0,
            out=out,
            **kwargs,
        )

    @pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
    def test_a_killed_run_goes_on_exactly(self, tmp_path, monkeypatch, optimizer):
        whole = self.run_whole(optimizer=optimizer)
        seen = []

        def killed(self, record):
            seen.append(record)
            if len(seen) == 4:
                raise SystemExit("killed")

        monkeypatch.setattr(vaeppl.training.progress.ProgressBar, "update", killed)
        with pytest.raises(SystemExit):
            self.run_whole(tmp_path / "run", checkpoint_every=1, optimizer=optimizer)
        monkeypatch.undo()
        resumed = self.run_whole(tmp_path / "run", resume=True, optimizer=optimizer)
        assert same(weights(whole), weights(resumed))
        columns = ["elbo", "reconstruction", "kl", "valid_elbo", "lr", "kl_weight", "step"]
        pd.testing.assert_frame_equal(whole.history[columns], resumed.history[columns])

    def test_a_process_killed_by_the_system_goes_on_exactly(self, tmp_path):
        code = f"""
            import torch, vaeppl
            from vaeppl.models import VAE
            torch.set_num_threads(1)
            x = (torch.rand(400, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
            vaeppl.fit(VAE(6, 2, hidden=(8,)), {{"x": x}}, epochs=40, batch_size=16,
                       out={str(tmp_path / "run")!r}, checkpoint_every=1, progress=False)
        """
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
        pointer = tmp_path / "run" / "checkpoints" / "checkpoint.json"
        while not pointer.exists() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        data = {"x": (torch.rand(400, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()}
        options = {"epochs": 40, "batch_size": 16}
        resumed = fit(small(), data, out=tmp_path / "run", resume=True, **options)
        assert same(weights(resumed), weights(fit(small(), data, **options)))

    def test_a_finished_run_is_not_trained_again(self, tmp_path):
        first = self.run_whole(tmp_path / "run")
        again = self.run_whole(tmp_path / "run", resume=True)
        assert same(weights(first), weights(again))
        assert len(again.history) == 6

    def test_a_run_is_never_overwritten(self, tmp_path):
        self.run_whole(tmp_path / "run")
        with pytest.raises(CheckpointError, match=r"holds a run already; pass resume=True"):
            self.run_whole(tmp_path / "run")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"lr": 0.1}, "its settings.lr is 0.001, now it is 0.1"),
            ({"seed": 9}, "settings.seed"),
            ({"batch_size": 20}, "settings.batch_size"),
            ({"data": binary(60, seed=5)}, "data.fingerprint"),
            ({"model": VAE(6, 3, hidden=(8,))}, "latent_dim is 2, now it is 3"),
            ({"model": VAE(6, 2, hidden=(9,))}, r"hidden is \[8\]"),
            ({"model": VAE(6, 2, hidden=(8,), activation="tanh")}, "activation"),
        ],
    )
    def test_another_model_data_or_setting_is_refused(self, tmp_path, change, message):
        fit(out=tmp_path / "run")
        with pytest.raises(CheckpointError, match=message):
            fit(out=tmp_path / "run", resume=True, **change)

    def test_a_checkpoint_of_another_version_is_refused(self, tmp_path):
        fit(out=tmp_path / "run")
        config = tmp_path / "run" / "config.json"
        config.write_text(config.read_text().replace(vaeppl.__version__, "99.0"))
        with pytest.raises(CheckpointError, match=r"vaeppl is '99.0'"):
            fit(out=tmp_path / "run", resume=True)

    @pytest.mark.parametrize("name", ["weights.safetensors", "config.json"])
    def test_a_truncated_file_is_named(self, tmp_path, name):
        fit(out=tmp_path / "run")
        path = tmp_path / "run" / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(CheckpointError, match=f"{name} is damaged"):
            vaeppl.load(tmp_path / "run")

    def test_nothing_half_written_is_left(self, tmp_path):
        fit(out=tmp_path / "run", checkpoint_every=1)
        assert not [p for p in (tmp_path / "run").rglob("*") if p.suffix == ".tmp"]
        assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2


class TestSavingAndLoading:
    def test_networks_of_the_users_own_are_asked_for(self, tmp_path):
        def build():
            return VAE(6, 2, decoder=torch.nn.Linear(2, 6))

        run = fit(build())
        run.save(tmp_path / "run")
        with pytest.raises(CheckpointError, match=r"decoder .*Linear.*pass it"):
            vaeppl.load(tmp_path / "run")
        again = vaeppl.load(tmp_path / "run", model=build())
        assert same(weights(run), weights(again))

    def test_weights_of_another_model_are_refused(self, tmp_path):
        fit().save(tmp_path / "run")
        with pytest.raises(CheckpointError, match="belongs to another model"):
            vaeppl.load(tmp_path / "run", model=VAE(6, 5, hidden=(8,)))

    def test_a_folder_without_a_run(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"no config\.json"):
            vaeppl.load(tmp_path)

    def test_functions_load_with_a_few_rows(self, tmp_path):
        def model(x=None):
            mu = pyro.param("mu", torch.tensor(0.0))
            with vaeppl.rows(x):
                z = pyro.sample("z", dist.Normal(mu, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x):
            scale = pyro.param("scale", torch.tensor(0.5), dist.constraints.positive)
            with vaeppl.rows(x):
                pyro.sample("z", dist.Normal(x / 2, scale))

        data = {"x": torch.randn(20)}
        run = vaeppl.fit(model, data, guide=guide, epochs=2, progress=False)
        run.save(tmp_path / "run")
        with pytest.raises(CheckpointError, match="pass a few rows"):
            vaeppl.load(tmp_path / "run", model=model, guide=guide)
        again = vaeppl.load(tmp_path / "run", model=model, guide=guide, data=data)
        assert torch.equal(again.sample(4)["x"], vaeppl.sample(run.pair, 4)["x"])


class TestObjective:
    def test_beta_changes_the_objective_and_not_the_reported_elbo(self):
        strong, plain = (fit(epochs=60, lr=0.02, kl_weight=b) for b in (20.0, 1.0))
        assert strong.history["kl"].iloc[-1] < plain.history["kl"].iloc[-1] + 1e-3
        last = strong.history.iloc[-1]
        assert last["elbo"] == pytest.approx(last["reconstruction"] - last["kl"], abs=1e-4)
        assert strong.elbo(binary()).mean == pytest.approx(last["elbo"], abs=0.3)

    def test_an_estimator_given_ready_made_keeps_its_weight(self):
        strong = vaeppl.estimators.ELBO(kl_weight=20.0)
        assert (fit(estimator=strong).history["kl_weight"] == 20.0).all()
        with pytest.raises(ValueError, match="to the estimator itself"):
            fit(estimator=strong, free_bits=0.1)

    def test_annealing_reaches_full_weight(self):
        history = fit(epochs=5, kl_weight=schedules.Linear(0.0, 1.0, share=0.5)).history
        assert history["kl_weight"].iloc[0] < 1.0
        assert history["kl_weight"].iloc[-1] == 1.0

    def test_free_bits_keep_the_kl_up(self):
        free = fit(epochs=150, lr=0.02, free_bits=0.5).history["kl"].iloc[-1]
        assert free > fit(epochs=150, lr=0.02).history["kl"].iloc[-1]
        assert free > 0.6  # 2 dimensions with up to 0.5 nats each at no loss

    def test_a_weight_for_an_estimator_that_has_none(self):
        with pytest.raises(StoryError, match="takes no KL weight"):
            fit(estimator="trace_elbo", kl_weight=0.5)

    @pytest.mark.parametrize("name", ["elbo_monte_carlo", "trace_elbo", "trace_mean_field_elbo"])
    def test_other_estimators_fit_as_well(self, name):
        history = fit(data=sparse(), epochs=60, lr=0.02, estimator=name).history
        assert history["elbo"].iloc[-1] > history["elbo"].iloc[0] + 0.2

    def test_an_optimizer_of_the_users_own(self):
        run = fit(optimizer=lambda p: torch.optim.Adagrad(p, lr=0.05), epochs=20)
        assert run.history["lr"].iloc[-1] == 0.05


class TestNonFinite:
    def test_a_collapsing_scale_is_named(self):
        class Collapse(VAE):
            def model(self, x=None):
                with vaeppl.rows(x):
                    z = pyro.sample("z", self.prior())
                    loc = self.decoder(z)
                    scale = torch.where(x > 2.0, 0.0, 1.0) if x is not None else 1.0
                    pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

        x = torch.randn(40, 6).clamp(max=1.9)
        x[37, 4] = 2.5
        with pytest.raises(NonFiniteELBO, match=r"epoch 1, batch \d: site 'x' of the model"):
            fit(Collapse(6, 2, likelihood=Normal(), hidden=(8,)), {"x": x})

    def test_diverging_weights_are_named(self):
        with pytest.raises(NonFiniteELBO, match="Lower lr"):
            fit(
                VAE(6, 2, likelihood=Normal(), hidden=(8,)),
                {"x": 1e6 * torch.randn(40, 6)},
                lr=1e8,
                epochs=50,
                optimizer="sgd",
            )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"data": {"x": torch.rand(20, 6)}}, ColumnError, r"row 0, entry 0.*0 or 1.*binarise"),
        ({"data": {"x": -torch.ones(20, 6)}}, ColumnError, "holds -1 at row 0"),
        ({"data": {"y": torch.zeros(20)}}, ColumnError, "takes the columns 'x'"),
        ({"data": {"x": torch.zeros(20, 5)}}, ColumnError, "x_dim=6"),
        ({"batch_size": 61}, ColumnError, "a number from 1 to 60"),
        ({"batch_size": 0}, ColumnError, "a number from 1 to 60"),
        ({"epochs": 0}, ValueError, "epochs is a whole number, at least 1"),
        ({"epochs": 2.5}, ValueError, "epochs is a whole number"),
        ({"seed": None}, ValueError, "seed is a whole number, at least 0"),
        ({"patience": 0, "valid": 0.2}, ValueError, "patience is a whole number"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every is a whole number"),
        ({"clip_norm": -1.0}, ValueError, "clip_norm is a number > 0; given -1.0"),
        ({"lr": "0.1"}, ValueError, "lr is a number > 0"),
        ({"kl_weight": -1.0}, ValueError, "kl_weight is >= 0 throughout"),
        ({"estimator": pyro.infer.Trace_ELBO}, ValueError, r"a class: pass an object"),
        ({"estimator": "ebo"}, ValueError, "did you mean 'elbo'"),
        ({"optimizer": "adamm"}, ValueError, "did you mean 'adam"),
        ({"lr_schedule": "cosin"}, ValueError, "did you mean 'cosine'"),
        ({"num_particles": 0}, ValueError, "at least 1"),
        ({"valid": 1.5}, ColumnError, "between 0 and 1"),
        ({"data": "digit"}, ValueError, "digits"),
        ({"data": {"x": torch.full((20, 6), math.nan)}}, ColumnError, "holds nan at row 0"),
    ],
)
def test_bad_input_is_refused_before_training(arguments, error, message, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(error, match=message):
        fit(**arguments, out=out)
    assert not out.exists()


def shared_mean(x=None):
    with pyro.plate("columns", 6, dim=-2):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with vaeppl.rows(x):
        logits = mean.squeeze(-1)
        pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


class Implicit(VAE):
    """Its guide sets z to what it makes of the row and noise."""

    def guide(self, x):
        with vaeppl.rows(x):
            pyro.sample("z", dist.Delta(x[:, :2] + torch.randn(len(x), 2), event_dim=1))


def test_where_a_latent_is_set_to_a_value_it_is_no_elbo_that_is_told(tmp_path, capsys):
    """What is told of a fit alone: the table keeps its columns."""
    options = {"epochs": 2, "progress": True, "valid": binary(), "patience": 1, "lr": 1e-9}
    run = fit(Implicit(6, 2, hidden=(8,)), out=tmp_path / "run", **options)
    told = capsys.readouterr().err
    assert "objective -" in told and "ELBO" not in told
    assert "elbo" in run.history.columns
    again = vaeppl.load(tmp_path / "run", model=Implicit(6, 2, hidden=(8,)))
    for one in (run, again):
        assert ", objective -" in repr(one) and "ELBO" not in repr(one)
    assert ", ELBO -" in repr(fit(small(), epochs=1))
    guides = {AutoDelta: ", objective -", AutoMultivariateNormal: ", ELBO -"}
    for guide, word in guides.items():  # the second sets all latents by one draw with a density
        assert word in repr(fit(shared_mean, binary(), guide=guide(shared_mean), epochs=1))
    fit(small(), epochs=1, progress=True)
    assert "ELBO -" in capsys.readouterr().err
