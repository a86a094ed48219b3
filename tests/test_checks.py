"""What is found wrong before a fit starts, and that sound models pass."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from vaeppl import Model, likelihoods, rows
from vaeppl.checks import CHUNK, check
from vaeppl.data import Data, Field
from vaeppl.errors import ColumnError, StoryError
from vaeppl.guides import Flow
from vaeppl.models import VAE
from vaeppl.pair import Pair
from vaeppl.priors import MixtureOfNormals

N = 20
ZEROS = dist.Normal(torch.zeros(2), 1.0).to_event(1)


def table(n=N, width=3, value=1.0):
    return torch.full((n, width), value)


def spoilt(value, row, entry, x=None):
    x = table() if x is None else x.clone()
    x[row, entry] = value
    return x


def vae(likelihood="bernoulli", x_dim=3, **options):
    return VAE(x_dim, 2, likelihood=likelihood, hidden=(4,), **options)


# --- bad data ---

MIXED = [
    (2, likelihoods.Normal()), (1, likelihoods.Categorical(3)), (2, likelihoods.Poisson()),
    (1, likelihoods.Bernoulli()),
]  # fmt: skip
ROW = torch.tensor([0.5, -3.0, 2.0, 7.0, 0.0, 1.0]).repeat(N, 1)
LARGE = table(2 * CHUNK + 3)

BAD_DATA = {
    "negative count": (
        vae(likelihoods.Poisson()), {"x": spoilt(-3.0, 17, 1)},
        r"column 'x' holds -3 at row 17, entry 1 .*a Poisson likelihood takes counts >= 0 \(int",
    ),
    "count in pieces": (
        vae(likelihoods.NegativeBinomial()), {"x": spoilt(2.5, 3, 0)},
        r"holds 2.5 at row 3, entry 0 .*a NegativeBinomial likelihood takes counts >= 0",
    ),
    "more than the total": (
        vae(likelihoods.Binomial(16)), {"x": spoilt(17.0, 4, 2)},
        r"holds 17 at row 4, entry 2 .*takes integers from 0 to 16",
    ),
    "grey pixels": (
        vae(), {"x": spoilt(0.25, 9, 1)},
        r"holds 0.25 at row 9.*Bernoulli likelihood takes 0 or 1; binarise them with "
        r"data.binarize\('x'\), or use likelihoods.ContinuousBernoulli",
    ),
    "bytes": (
        vae(), {"x": spoilt(255.0, 9, 1)},
        r"holds 255 at row 9.*use likelihoods.Binomial\(255\)",
    ),
    "minus one for false": (vae(), {"x": spoilt(-1.0, 0, 0)}, r"holds -1 at row 0.*takes 0 or 1"),
    "beyond the unit interval": (
        vae(likelihoods.ContinuousBernoulli()), {"x": spoilt(1.25, 2, 0)},
        r"holds 1.25 at row 2.*takes reals from 0 to 1",
    ),
    "category among the first rows": (
        vae(likelihoods.Categorical(3)), {"x": spoilt(3.0, 1, 2)},
        r"holds 3 at row 1, entry 2.*Categorical likelihood takes integers from 0 to 2",
    ),
    "category in a later row": (
        vae(likelihoods.Categorical(3)), {"x": spoilt(3.0, 19, 2)},
        r"holds 3 at row 19, entry 2.*Categorical likelihood takes integers from 0 to 2",
    ),
    "category in pieces": (
        vae(likelihoods.Categorical(3)), {"x": spoilt(0.5, 19, 2)},
        r"holds 0.5 at row 19, entry 2",
    ),
    "missing": (
        vae(likelihoods.Normal()), {"x": spoilt(math.nan, 12, 2)},
        r"holds nan at row 12, entry 2 .*takes no missing or infinite values: drop the row or fill",
    ),
    "infinite": (
        vae(likelihoods.Normal()), {"x": spoilt(-math.inf, 5, 0)}, "holds -inf at row 5, entry 0",
    ),
    "named fields": (
        vae(likelihoods.Poisson()),
        Data({"x": spoilt(-2.0, 1, 1)}, field_names={"x": ["age", "visits", "height"]}),
        r"holds -2 at row 1, entry 1 \('visits'\)",
    ),
    "mixed, category": (
        vae(likelihoods.Mixed(MIXED), 6), {"x": spoilt(4.0, 15, 2, ROW)},
        "holds 4 at row 15, entry 2 .*a Categorical likelihood takes integers from 0 to 2",
    ),
    "mixed, count": (
        vae(likelihoods.Mixed(MIXED), 6), {"x": spoilt(-4.0, 15, 4, ROW)},
        "holds -4 at row 15, entry 4 .*a Poisson likelihood takes counts",
    ),
    "mixed, binary": (
        vae(likelihoods.Mixed(MIXED), 6), {"x": spoilt(0.5, 15, 5, ROW)},
        "holds 0.5 at row 15, entry 5 .*a Bernoulli likelihood takes 0 or 1",
    ),
    "last row of many": (
        vae(), {"x": spoilt(2.0, len(LARGE) - 1, 1, LARGE)}, f"holds 2 at row {len(LARGE) - 1},",
    ),
    "last row of a chunk": (
        vae(), {"x": spoilt(2.0, CHUNK - 1, 1, LARGE)}, f"holds 2 at row {CHUNK - 1},",
    ),
    "column by another case": (
        vae(), {"X": table()},
        r"VAE takes the columns 'x'; the data have no 'x', but 'X'. "
        r"Rename one: data.rename\(\{'X': 'x'\}\)",
    ),
    "column by another name": (
        vae(), {"images": table(), "label": torch.zeros(N)},
        "no 'x', but 'images', 'label'.*<its name>",
    ),
    "too wide": (
        vae(), {"x": table(width=4)}, "'x' has 4 entries a row, but VAE was built with x_dim=3",
    ),
    "pictures": (vae(), {"x": torch.ones(N, 3, 1)}, r"'x' has shape \(3, 1\) a row, but VAE was"),
    "numbers for vectors": (vae(), {"x": torch.ones(N)}, r"'x' has shape \(\) a row"),
}  # fmt: skip


@pytest.mark.parametrize(("model", "data", "message"), BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data_are_refused(model, data, message):
    data = data if isinstance(data, Data) else Data(data)
    with pytest.raises(ColumnError, match=message):
        check(Pair(model), data)


@pytest.mark.parametrize("size", [0, -1, N + 1])
def test_a_minibatch_has_between_one_row_and_all(size):
    with pytest.raises(ColumnError, match=f"batch_size is {size}, but the data have {N} rows"):
        check(Pair(vae()), Data({"x": table()}), batch_size=size)
    for fine in (1, N):
        check(Pair(vae()), Data({"x": table()}), batch_size=fine)


# --- bad stories ---


def observed(z, x, scale=1.0):
    pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)


def good_model(x=None):
    with rows(x):
        observed(pyro.sample("z", ZEROS), x)


def good_guide(x=None):
    with rows(x):
        pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


def empty(x=None):
    pass


def two_latents(x=None):
    with rows(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        observed(pyro.sample("z", ZEROS), x)


def draws_the_data(x=None):
    with rows(x):
        pyro.sample("z", dist.Normal(x, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(x, 1.0).to_event(1))


def misspelt(x=None):
    with rows(x):
        pyro.sample("Z", dist.Normal(x, 1.0).to_event(1))


def outside(x=None):
    pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


def own_plate(size):
    def guide(x=None):
        with pyro.plate("rows", size, subsample=torch.arange(len(x))):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    return guide


def other_plate(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


def no_event_model(x=None):
    with rows(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x)]))
        observed(z.reshape(-1, 1).expand(-1, 2), x)


def no_event_guide(x=None):
    with rows(x):
        pyro.sample("z", dist.Normal(x[:, :1], 1.0).to_event(1))


def as_many_columns_as_rows(x=None):
    """Batch shape (8, 8) for the first eight rows: the plate takes the columns for the rows."""
    with rows(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(8), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def latent_as_many(x=None):
    with rows(x):
        pyro.sample("z", dist.Normal(x, 1.0))


def latent_as_many_model(x=None):
    with rows(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(8, 8), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def as_many_guide(x=None):
    with rows(x):
        pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


def global_model(plate):
    def model(x=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with plate(x):
            observed(mu.expand(len(x), 2), x)

    return model


def global_guide(x=None):
    pyro.sample("mu", dist.Normal(0.0, 1.0))


def components(x=None):
    """A latent in a plate that is not that of the rows is global too."""
    with pyro.plate("components", 3):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        observed(mu.mean().expand(len(x), 2), x)


def components_guide(x=None):
    with pyro.plate("components", 3):
        pyro.sample("mu", dist.Normal(0.0, 1.0))


def no_plate_at_all(x=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(mu, 1.0).expand(x.shape).to_event(2), obs=x)


def scaled_guide(x=None):
    with poutine.scale(scale=0.5):
        good_guide(x)


def failing(x=None):
    with rows(x):
        pyro.sample("z", dist.Normal(x @ torch.ones(7, 2), 1.0).to_event(1))


def strict(x, y):
    good_model(x)


def lenient(x, y):
    good_guide(x)


def needs_y(x=None, y=None):
    with rows(x):
        pyro.sample("z", dist.Normal(x + y, 1.0).to_event(1))


def y_needed(x, y):
    good_guide(x)


def good_of_two(x=None, y=None):
    good_model(x)


X2, X8 = torch.randn(N, 2), torch.randn(N, 8)

BAD_STORIES = {
    "latent missing in the guide": (
        two_latents, good_guide, X2,
        r"'w' is latent in the model of two_latents but the guide does not draw it \(its sites: 'z",
    ),
    "guide without latents": (good_model, empty, X2, r"does not draw it \(its sites: none\)"),
    "latent missing in the model": (
        good_model, lambda x=None: (good_guide(x), pyro.sample("w", dist.Normal(0.0, 1.0))), X2,
        r"'w' is drawn by the guide of good_model but absent in the model \(its latents: 'z'\)",
    ),
    "misspelt": (good_model, misspelt, X2, "'z' is latent in the model"),
    "data drawn by the guide": (
        good_model, draws_the_data, X2, "'x' is drawn by the guide of good_model but observed in",
    ),
    "guide outside the plate": (
        good_model, outside, X2, r"'z' of the guide has batch shape \(8,\) but stands in no plate",
    ),
    "forgotten to_event on a latent": (
        latent_as_many_model, as_many_guide, X8, "'z' has 0 event dimensions in the model and 1 in",
    ),
    "forgotten to_event in the guide": (
        as_many_columns_as_rows, latent_as_many, X8, "'z' has 1 event dimensions in the model and",
    ),
    "forgotten to_event on both sides": (
        latent_as_many_model, latent_as_many, X8, r"'z' of the guide has batch shape \(8, 8\) but",
    ),
    "forgotten to_event on the data": (
        as_many_columns_as_rows, as_many_guide, X8,
        r"'x' of the model has batch shape \(8, 8\) but stands in 1 plate; .*call .to_event\(1\)",
    ),
    "plates of other sizes": (
        good_model, own_plate(500), X2,
        r"'z' stands in the plates \{'rows': 20\} in the model and in \{'rows': 500\} in the guide",
    ),
    "plates of other names": (
        good_model, other_plate, X2, r"\{'rows': 20\} in the model and in \{'data': 8\} in",
    ),
    "event dimensions that differ": (
        no_event_model, no_event_guide, X2, "'z' has 0 event dimensions in the model and 1 in the",
    ),
    "global latent beside unscaled rows": (
        global_model(lambda x: pyro.plate("rows", len(x))), global_guide, X2,
        r"latents outside the plate of rows \(mu\), but site 'x' is not scaled .*vaeppl.rows\(x\)",
    ),
    "global latent and a plate of a fixed size": (
        global_model(lambda x: pyro.plate("rows", 500, subsample=torch.arange(len(x)))),
        global_guide, X2, "the plate 'rows' of site 'x' is said to have 500 rows",
    ),
    "global latents in a plate of their own": (
        components, components_guide, X2, r"outside the plate of rows \(mu\), but site 'x' is not",
    ),
    "rows in no plate": (no_plate_at_all, global_guide, X2, "site 'x' is not scaled"),
    "scaled on one side": (
        good_model, scaled_guide, X2,
        r"'z' is scaled by 2.5 in the model and by 1.25 in the guide; .*fit\(kl_weight",
    ),
    "guide that fails": (
        good_model, failing, X2,
        r"the guide of good_model does not run on the first 8 rows \(x \(8, 2\)\): RuntimeError: ",
    ),
    "model that fails": (
        lambda x=None: failing(x), good_guide, X2, "the model of <lambda> does not run on the",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "guide", "x", "message"), BAD_STORIES.values(), ids=BAD_STORIES)
def test_bad_stories_are_refused(model, guide, x, message):
    with pytest.raises(StoryError, match=message):
        check(Pair(model, guide), Data({"x": x}))


@pytest.mark.parametrize(
    ("model", "guide"), [(strict, lenient), (good_of_two, y_needed), (strict, needs_y)]
)
def test_a_column_that_model_or_guide_cannot_do_without(model, guide):
    with pytest.raises(
        ColumnError, match=r"takes the columns 'x', 'y'; the data have no 'y', but 'x'"
    ):
        check(Pair(model, guide), Data({"x": X2}))


def test_a_column_that_is_observed_but_absent():
    def model(x=None, label=None):
        with rows(x, label):
            observed(pyro.sample("z", ZEROS), x)
            pyro.sample("label", dist.Bernoulli(0.5), obs=label)

    pair = Pair(model, lambda x=None, label=None: good_guide(x))
    with pytest.raises(
        ColumnError, match="'label' of the model observes column 'label', which the"
    ):
        check(pair, Data({"x": X2}))
    check(pair, Data({"x": X2, "label": torch.ones(N)}))
    # Pyro's Bernoulli does not score integers.
    with pytest.raises(StoryError, match=r"'label' of the model has no log-density.*\.float"):
        check(pair, Data({"x": X2, "label": torch.ones(N).long()}))
    with pytest.raises(ColumnError, match="'label' holds 2 at row 4; a Bernoulli"):
        check(pair, Data({"x": X2, "label": torch.tensor([0, 1, 1, 0, 2] + [1] * 15)}))


# --- supports ---


class Observing(Model):
    """Observes x under any distribution."""

    def __init__(self, make, takes_missing=False):
        super().__init__()
        self.make, self.takes_missing = make, takes_missing

    def model(self, x=None):
        with rows(x):
            pyro.sample("x", self.make(x), obs=x)

    def guide(self, x=None):
        pass


@pytest.mark.parametrize(
    ("make", "value", "words"),
    [
        (
            lambda x: dist.LogNormal(torch.zeros(3), 1.0).to_event(1),
            -1.0,
            "LogNormal .*positive reals",
        ),
        (lambda x: dist.Gamma(torch.ones(3), 1.0).to_event(1), -0.5, "Gamma .*positive reals"),
        (lambda x: dist.Poisson(torch.ones(3)).to_event(1).mask(x[:, 0] > -9), -1.0, "Poisson"),
        (lambda x: dist.Uniform(torch.zeros(3), 2.0).to_event(1), 2.5, "reals from 0 to 2"),
        (
            lambda x: likelihoods.MixedColumns(
                [
                    dist.Normal(torch.zeros(1), 1.0).to_event(1),
                    likelihoods.MixedColumns(
                        [
                            dist.Normal(torch.zeros(1), 1.0).to_event(1),
                            dist.Poisson(torch.ones(1)).to_event(1),
                        ]
                    ),
                ]
            ),
            -1.0,
            r"entry 2 .*a Poisson",
        ),
    ],
)
def test_supports_of_other_distributions(make, value, words):
    check(Pair(Observing(make)), Data({"x": table()}))
    with pytest.raises(ColumnError, match=f"'x' holds {value:g} at row 11.*{words}"):
        check(Pair(Observing(make)), Data({"x": spoilt(value, 11, 2)}))


def test_pictures_are_named_by_their_flat_entry():
    def make(x):
        return dist.Bernoulli(torch.full((4, 5), 0.5)).to_event(2)

    x = torch.ones(N, 4, 5)
    x[13, 2, 3] = 0.5
    with pytest.raises(ColumnError, match=r"holds 0.5 at row 13, entry 13 "):
        check(Pair(Observing(make)), Data({"x": x}))


def test_a_model_that_takes_missing_values_takes_no_infinite_ones():
    def make(x):
        return dist.Normal(torch.zeros(3), 1.0).mask(~x.isnan()).to_event(1)

    class Masked(Observing):
        def model(self, x=None):
            with rows(x):
                seen = ~x.isnan()
                dist_ = dist.Normal(torch.zeros(3), 1.0).mask(seen).to_event(1)
                pyro.sample("x", dist_, obs=x)

    pair = Pair(Masked(make, takes_missing=True))
    check(pair, Data({"x": spoilt(math.nan, 12, 2)}))
    with pytest.raises(ColumnError, match="holds inf at row 12, entry 2"):
        check(pair, Data({"x": spoilt(math.inf, 12, 2)}))


# --- sound models pass ---


class Labelled(Model):
    """Labels are latent where they are not given."""

    def model(self, x=None, y=None):
        with rows(x, y):
            y = pyro.sample("y", dist.Bernoulli(0.5), obs=y)
            pyro.sample(
                "x", dist.Normal(torch.stack([1.0 * y, -1.0 * y], -1), 1.0).to_event(1), obs=x
            )

    def guide(self, x=None, y=None):
        with rows(x, y):
            if y is None:
                pyro.sample("y", dist.Bernoulli(logits=x[:, 0]))


def auxiliary(x=None):
    with rows(x):
        a = pyro.sample("a", dist.Normal(x, 1.0).to_event(1), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(a, 1.0).to_event(1))


def weighted(story):
    def scaled(x=None):
        with poutine.scale(scale=0.5):
            story(x)

    return scaled


def global_and_local(x=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with rows(x):
        z = pyro.sample("z", dist.Normal(mu, 1.0).expand([2]).to_event(1))
        observed(z, x)


def guide_of_both(x=None):
    global_guide(x)
    good_guide(x)


def series(x=None):
    """Rows and steps in two plates."""
    plate = rows(x)
    with pyro.plate("steps", 8, dim=-2), plate:
        z = pyro.sample("z", dist.Normal(torch.zeros(8, 1), 1.0))
    with plate:
        pyro.sample("x", dist.Normal(z.T, 1.0).to_event(1), obs=x)


def series_guide(x=None):
    with pyro.plate("steps", 8, dim=-2), rows(x):
        pyro.sample("z", dist.Normal(x.T, 1.0))


auto_model = global_model(rows)

SOUND = {
    "bernoulli": (vae(), None, {"x": table()}),
    "normal": (vae(likelihoods.Normal("predicted")), None, {"x": table()}),
    "flow and mixture": (
        vae(prior=MixtureOfNormals(3), guide_family=Flow(hidden=(4,))), None, {"x": table()},
    ),
    "mixed": (vae(likelihoods.Mixed(MIXED), 6), None, {"x": ROW}),
    "one row": (vae(), None, {"x": table(1)}),
    "eight columns": (vae(x_dim=8), None, {"x": table(width=8)}),
    "eight latents": (VAE(3, 8, hidden=(4,)), None, {"x": table()}),
    "bytes as counts": (
        vae(likelihoods.Binomial(255)), None, {"x": np.full((N, 3), 200, dtype=np.uint8)},
    ),
    "double": (vae().double(), None, {"x": table()}),
    "functions": (good_model, good_guide, {"x": X2}),
    "other columns beside": (vae(), None, {"x": table(), "label": torch.zeros(N)}),
    "global and local": (global_and_local, guide_of_both, {"x": X2}),
    "auxiliary": (good_model, auxiliary, {"x": X2}),
    "scaled on both sides": (weighted(good_model), weighted(good_guide), {"x": X2}),
    "autoguide": (auto_model, AutoNormal(auto_model), {"x": X2}),
    "labels given": (Labelled(), None, {"x": X2, "y": torch.ones(N)}),
    "labels latent": (Labelled(), None, {"x": X2}),
    "two plates": (series, series_guide, {"x": X8}),
    "few rows, none outside": (global_model(lambda x: pyro.plate("rows", len(x))), global_guide,
                               {"x": X2[:5]}),
}  # fmt: skip


@pytest.mark.parametrize(("model", "guide", "data"), SOUND.values(), ids=SOUND)
def test_sound_models_pass(model, guide, data):
    check(Pair(model, guide), Data(data), batch_size=1)


# --- and leave no trace ---


def test_checks_leave_the_random_state_and_the_model_alone():
    model = vae()
    model.train()
    data = Data({"x": torch.rand(N, 3)}).binarize(how="dynamic")
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    check(Pair(model), data)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_checks_leave_no_parameters_behind():
    """Else their initial values would be those of the check, whatever the seed of the fit."""

    def guide(x=None):
        pyro.param("weight", lambda: torch.randn(()))
        good_guide(x)

    pair = Pair(good_model, guide)
    check(pair, Data({"x": X2}))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        pair.initialise({"x": X2[:3]})
        torch.manual_seed(5)
        with pair.active():
            assert pyro.param("weight") == torch.randn(())
    trained = pair.stored["weight"]
    with torch.no_grad():
        trained.fill_(9.0)
    check(pair, Data({"x": X2}))
    with pair.active():
        assert pyro.param("weight") == 9


def test_fields_of_the_users_own_are_kept():
    data = Data({"x": ROW}, fields={"x": [Field(f"f{i}", "real") for i in range(6)]})
    with pytest.raises(ColumnError, match=r"entry 5 \('f5'\)"):
        bad = data.with_column("x", spoilt(0.5, 15, 5, ROW), fields=data.fields("x"))
        check(Pair(vae(likelihoods.Mixed(MIXED), 6)), bad)
