"""Rows with and without a label: read apart, weighted so that nothing is biased."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import vaeppl
from vaeppl import Model, row_count, row_share, rows
from vaeppl.data import Data
from vaeppl.errors import ColumnError, StoryError
from vaeppl.estimators import ELBO
from vaeppl.models import M1M2, M2, M2Gumbel
from vaeppl.pair import Pair
from vaeppl.reading.predictive import AtMean
from vaeppl.strata import is_missing, strata
from vaeppl.training.loop import Objective, Part, batch_sizes

N, D, K = 12, 5, 3


def data(y):
    torch.manual_seed(0)
    return {"x": (torch.rand(len(y), D) < 0.5).float(), "y": y}


def m2(**options):
    return M2(D, K, 2, hidden=(6,), **options)


SOME = [0, -1, 1, -1, 2, -1, -1, 0, -1, -1, 1, -1]


@pytest.mark.parametrize(
    "y",
    [
        SOME,
        np.array(SOME, dtype=np.int8),
        torch.tensor([float("nan") if v < 0 else float(v) for v in SOME]),
        pd.Series([None if v < 0 else v for v in SOME]),
    ],
)
def test_minus_one_and_nan_are_missing(y):
    unlabelled, labelled = strata(Pair(m2()), Data(data(y)))
    assert labelled.rows.tolist() == [n for n, v in enumerate(SOME) if v >= 0]
    assert unlabelled.rows.tolist() == [n for n, v in enumerate(SOME) if v < 0]
    assert (unlabelled.columns, labelled.columns) == (("x",), ("x", "y"))
    fit = vaeppl.fit(m2(), data(y), epochs=1, batch_size=5, progress=False)
    assert fit.encode(fit.train)["y"][labelled.rows].long().tolist() == [v for v in SOME if v >= 0]


def test_missing_is_nan_of_floats_and_negative_of_codes():
    assert is_missing(torch.tensor([-1.0, 0.0, float("nan")])).tolist() == [False, False, True]
    assert is_missing(torch.tensor([-2, 0])).tolist() == [True, False]
    assert is_missing(torch.tensor([[0.0, float("nan")], [1.0, 2.0]])).tolist() == [True, False]


def test_one_stratum_where_all_rows_are_alike():
    assert len(strata(Pair(m2()), Data({"x": torch.zeros(4, D)}))) == 1
    assert len(strata(Pair(m2()), Data(data([0, 1, 2])))) == 1


@pytest.mark.parametrize(
    ("counts", "size", "share", "sizes"),
    [
        ([59_900, 100], 200, 0.2, [160, 40]),
        ([59_990, 10], 200, 0.2, [190, 10]),
        ([500, 500], 100, 0.2, [50, 50]),
        ([10, 90], 100, 0.0, [10, 90]),
        ([1, 5], 2, 0.2, [1, 1]),
        ([7], 3, 0.2, [3]),
    ],
)
def test_rows_of_each_stratum_in_a_batch(counts, size, share, sizes):
    assert batch_sizes(counts, size, share) == sizes


def test_the_share_of_a_plate():
    assert row_share(rows(torch.zeros(3))) == 1
    with row_count(20, total=100):
        assert row_share(rows(torch.zeros(3))) == 0.2


# --- weights ---


def test_the_loss_is_unbiased_over_partitions_and_its_classification_term_is_alpha_n():
    """The mean over batches of each stratum is the loss of all rows, term by term."""
    model = M2(D, K, 2, hidden=(6,), alpha=0.7).double()
    columns = {k: torch.as_tensor(v) for k, v in data(SOME).items()}
    columns["x"] = columns["x"].double()
    pair = Pair(model)
    apart = strata(pair, Data(columns, dtype=torch.float64))
    objective = Objective(pair, Exact())

    def part(stratum, index):
        values = {c: columns[c][stratum.rows[index]] for c in stratum.columns}
        return Part(values, len(stratum.rows))

    whole = [part(s, torch.arange(len(s.rows))) for s in apart]
    batches = [
        [part(s, i) for i in torch.arange(len(s.rows)).split(k)]
        for s, k in zip(apart, (7, 5), strict=True)
    ]
    with pair.active(N):
        full = objective(whole, N, N)
        means = [
            torch.stack(
                [objective([b], N, N) * len(b.columns["x"]) / len(s.rows) for b in stratum_batches]
            ).sum()
            for s, stratum_batches in zip(apart, batches, strict=True)
        ]
    torch.testing.assert_close(torch.stack(means).sum(), full)
    # α N mean over labelled rows of log q(y | x), per row of the data.
    labelled = apart[1].rows
    log_q = model.classifier(columns["x"][labelled]).log_softmax(-1)
    picked = log_q.gather(1, columns["y"][labelled][:, None])
    without = M2(D, K, 2, hidden=(6,), alpha=0.0).double()
    without.load_state_dict(model.state_dict())
    bare = Objective(Pair(without), Exact())
    with pair.active(N):
        difference = bare(whole, N, N) - full
    torch.testing.assert_close(difference, 0.7 * picked.mean())


class Exact(ELBO):
    """Draws every continuous latent at the mean of its guide, so that losses can be compared."""

    def __init__(self):
        super().__init__(max_plate_nesting=1)

    def differentiable_loss(self, model, guide, *args, **kwargs):
        def at_mean(**columns):
            with AtMean():
                return guide(**columns)

        return super().differentiable_loss(model, at_mean, *args, **kwargs)


class SharedScale(Model):
    """A label, and a mean that all rows share."""

    partly_observed = ("y",)

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.3))

    def model(self, x=None, y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with rows(x, y):
            label = pyro.sample("y", dist.Bernoulli(0.5), obs=y)
            pyro.sample("x", dist.Normal(mu + label, 1.0), obs=x)

    def guide(self, x, y=None):
        pyro.sample("mu", dist.Normal(self.loc, 0.5))
        with rows(x, y):
            if y is None:
                pyro.sample(
                    "y", dist.Bernoulli(0.4).expand([len(x)]), infer={"enumerate": "parallel"}
                )


def test_latents_that_all_rows_share_count_once():
    pair = Pair(SharedScale())
    x = torch.randn(N)
    parts = [Part({"x": x[:8]}, 8), Part({"x": x[8:], "y": torch.ones(4)}, 4)]
    objective = Objective(pair, ELBO())
    with pair.active(N):
        objective(parts, N, 1)
    q, p = dist.Normal(torch.tensor(0.3), 0.5), dist.Normal(0.0, 1.0)
    kl = torch.distributions.kl_divergence(q, p)
    torch.testing.assert_close(-objective.report["global"], kl)
    table = {"x": x, "y": torch.tensor([float("nan")] * 8 + [1.0] * 2 + [0.0] * 2)}
    fit = vaeppl.fit(SharedScale(), table, epochs=2, batch_size=4, progress=False)
    assert np.isfinite(fit.history["elbo"]).all()


# --- fits ---


@pytest.mark.parametrize("make", [m2, lambda: M1M2(D, K, 2, 3, hidden=(6,), feature_hidden=(6,))])
def test_a_run_that_goes_on_gives_the_same_weights(make, tmp_path):
    table = data(SOME * 4)
    options = {"batch_size": 10, "seed": 3, "progress": False}
    whole = vaeppl.fit(make(), table, epochs=4, **options)
    vaeppl.fit(make(), table, epochs=2, out=tmp_path, checkpoint_every=1, **options)
    again = vaeppl.fit(make(), table, epochs=4, out=tmp_path, resume=True, **options)
    for name, value in whole.pair.state_dict().items():
        assert torch.equal(value, again.pair.state_dict()[name]), name


def test_every_row_is_seen_in_an_epoch_and_rare_rows_more_often():
    seen = []

    class Noting(M2):
        def guide(self, x, y=None):
            seen.append((x[:, 0].clone(), y is not None))
            super().guide(x, y)

    table = data([-1] * 30 + [0, 1, 2])
    table["x"] = torch.arange(33.0)[:, None].expand(33, D) / 64
    model = Noting(D, K, 2, hidden=(6,), likelihood="continuous_bernoulli")
    pair_data = table
    vaeppl.fit(model, pair_data, epochs=1, batch_size=10, rare_share=0.2, progress=False)
    steps = [s for s in seen if len(s[0])][-8:]
    unlabelled = torch.cat([x for x, labelled in steps if not labelled])
    labelled = [x for x, is_labelled in steps if is_labelled]
    assert sorted((unlabelled * 64).round().int().tolist()) == list(range(30))
    assert [len(x) for x in labelled] == [2] * 4


def test_reading_keeps_the_order_of_the_rows():
    table = data(SOME)
    fit = vaeppl.fit(m2(), table, epochs=1, progress=False)
    whole = fit.evidence(table, num_particles=50, seed=1).rows
    assert whole["log_evidence"].notna().all()
    split = fit.elbo(table, num_particles=500).rows
    labelled = torch.tensor(SOME) >= 0
    assert (split["kl[y]"].to_numpy()[labelled] == 0).all()
    assert (split["kl[y]"].to_numpy()[~labelled] > 0).all()
    # Each row alone gives the same ELBO within its Monte-Carlo error.
    for n in (0, 1, 7):
        alone = fit.elbo(
            {c: torch.as_tensor(v)[n : n + 1] for c, v in table.items()}, num_particles=500
        )
        assert alone.mean == pytest.approx(split["elbo"][n], abs=0.2)


class Shifted(Model):
    """x ~ N(100 y + z, 1), its guide being the prior of z: a draw of x tells the label."""

    partly_observed = ("y",)

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def model(self, x=None, y=None):
        with rows(x, y):
            label = pyro.sample("y", dist.Categorical(logits=torch.zeros(K)), obs=y)
            z = pyro.sample("z", dist.Normal(self.loc, 1.0))
            pyro.sample("x", dist.Normal(100.0 * label + z, 1.0), obs=x)

    def guide(self, x, y=None):
        with rows(x, y):
            if y is None:
                near = -((x[:, None] / 100 - torch.arange(K)) ** 2) * 100
                pyro.sample("y", dist.Categorical(logits=near), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(self.loc, 1.0))


def test_replications_keep_the_label_of_their_row():
    truth = torch.arange(N) % K
    x = 100.0 * truth + torch.randn(N)
    y = torch.where(torch.arange(N) < 6, truth, -1)
    table = {"x": x, "y": y}
    drawn = vaeppl.posterior_predictive(Shifted(), table, num_samples=3)["x"]
    assert torch.equal((drawn / 100).round(), truth.expand(3, N).float())
    exported = vaeppl.to_arviz(Shifted(), table, num_samples=3)
    replicated = torch.tensor(exported.posterior_predictive["x"].values)[0]
    assert torch.equal((replicated / 100).round(), truth.expand(3, N).float())


@pytest.mark.parametrize("plated", [False, True])
def test_what_stands_in_a_plate_of_its_own_counts_once_too(plated):
    class Effects(SharedScale):
        def model(self, x=None, y=None):
            if plated:
                with pyro.plate("groups", 3):
                    pyro.sample("effect", dist.Normal(0.0, 1.0))
            super().model(x, y)

        def guide(self, x, y=None):
            if plated:
                with pyro.plate("groups", 3):
                    pyro.sample("effect", dist.Normal(self.loc, 0.5))
            super().guide(x, y)

    x = torch.randn(N)
    parts = [Part({"x": x[:8]}, 8), Part({"x": x[8:], "y": torch.ones(4)}, 4)]
    elbo = ELBO()
    objective = Objective(Pair(Effects()), elbo)
    with objective.pair.active(N):
        objective(parts, N, 1)
    one = torch.distributions.kl_divergence(
        dist.Normal(torch.tensor(0.3), 0.5), dist.Normal(0.0, 1.0)
    )
    labels = 8 * torch.distributions.kl_divergence(dist.Bernoulli(0.4), dist.Bernoulli(0.5))
    shared = objective.report["kl"] - labels
    torch.testing.assert_close(shared, (4 if plated else 1) * one)


def test_active_units_leave_labels_of_any_type_out():
    floats = torch.tensor([float("nan") if v < 0 else float(v) for v in SOME])
    fit = vaeppl.fit(m2(), data(floats), epochs=1, progress=False)
    assert set(fit.active_units()["site"]) == {"z"}
    assert fit.encode()["y"].dtype == torch.int64


# --- bad input ---


def fit_m2(y, **columns):
    vaeppl.fit(m2(), {**data(y), **columns}, epochs=1, progress=False)


def test_no_labelled_row_at_all():
    with pytest.raises(ColumnError, match=r"no row has a value of column 'y'.*give labels 0, 1"):
        fit_m2([-1] * N)
    with pytest.raises(ColumnError, match="no row has a value of column 'y'"):
        vaeppl.fit(m2(), {"x": data(SOME)["x"]}, epochs=1, progress=False)


def test_a_label_without_a_row():
    with pytest.raises(
        ColumnError, match="no row of column 'y' has the label 2, but M2 was built for 3"
    ):
        fit_m2([0, 1, -1] * 4)


@pytest.mark.parametrize(
    ("bad", "match"),
    [(3, "holds 3 at row 4; M2 takes the labels 0 to 2, and -1"), (1.5, "holds 1.5 at row 4"),
     (-1.0, "holds -1 at row 4.*and NaN where there is none")],
)  # fmt: skip
def test_labels_out_of_range(bad, match):
    y = torch.tensor([0, 1, 2, 0, bad, *[2] * 7])
    with pytest.raises(ColumnError, match=match):
        fit_m2(y)


def test_labels_out_of_range_are_refused_when_a_fit_is_read():
    fit = vaeppl.fit(m2(), data(SOME), epochs=1, progress=False)
    with pytest.raises(ColumnError, match="holds 7 at row 1"):
        fit.evidence(data([0, 7, 1]), num_particles=2)
    assert len(fit.evidence({"x": data(SOME)["x"]}, num_particles=2).rows) == N  # none is needed


@pytest.mark.parametrize("estimator", ["elbo", "trace_enum_elbo", "score_function"])
def test_held_out_rows_under_each_estimator(estimator):
    table = data(SOME)
    fit = vaeppl.fit(m2(), table, valid=table, estimator=estimator, epochs=1, progress=False)
    assert np.isfinite(fit.history["valid_elbo"]).all()


def test_held_out_rows_need_no_label():
    fit = vaeppl.fit(m2(), data(SOME), valid={"x": data(SOME)["x"]}, epochs=1, progress=False)
    assert np.isfinite(fit.history["valid_elbo"]).all()
    both = vaeppl.fit(m2(), data(SOME), valid=data(SOME), epochs=1, progress=False)
    assert np.isfinite(both.history["valid_elbo"]).all()


def test_a_story_that_does_not_scale_its_rows():
    class Unscaled(SharedScale):
        def model(self, x=None, y=None):
            with pyro.plate("rows", len(x)):
                label = pyro.sample("y", dist.Bernoulli(0.5), obs=y)
                pyro.sample("x", dist.Normal(self.loc + label, 1.0), obs=x)

        def guide(self, x, y=None):
            with pyro.plate("rows", len(x)):
                if y is None:
                    pyro.sample(
                        "y", dist.Bernoulli(0.4).expand([len(x)]), infer={"enumerate": "parallel"}
                    )

    y = torch.tensor([float("nan")] * 20 + [0.0, 1.0] * 6)
    with pytest.raises(StoryError, match="has rows with and without y, so it must scale them"):
        vaeppl.fit(Unscaled(), {"x": torch.randn(32), "y": y}, epochs=1, progress=False)


def test_labels_of_another_shape_and_other_negative_codes():
    with pytest.raises(ColumnError, match=r"has \(1,\) entries a row; M2 takes one label a row"):
        fit_m2(torch.tensor(SOME)[:, None])
    with pytest.raises(ColumnError, match="holds -2 at row 0"):
        fit_m2([-2, *SOME[1:]])


def test_a_missing_label_cannot_be_held_fixed():
    with pytest.raises(ValueError, match="`given` has no 'y' in row 1"):
        vaeppl.sample(m2(), 3, given={"y": [0, -1, 1]})


def test_free_bits_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(StoryError, match="free bits are not known for latents that are summed out"):
        vaeppl.fit(m2(), data(SOME), free_bits=0.1, epochs=1, out=tmp_path / "r", progress=False)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("wrong", [{"alpha": -1.0}, {"temperature": 0.0}])
def test_arguments_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        M2Gumbel(D, K, 2, hidden=(6,), **wrong)


@pytest.mark.parametrize("share", [-0.1, 0.6])
def test_rare_share_is_a_share(share):
    with pytest.raises(ValueError, match=r"rare_share is from 0 to 0\.5"):
        vaeppl.fit(m2(), data(SOME), rare_share=share, epochs=1, progress=False)
