"""Six edits of a copied story, as a newcomer would make them: few lines, checked, fitted, compared.

Nothing of vaeppl is changed for any of them, and the guide is made from the edited story.
"""

import difflib
from typing import NamedTuple

import pytest
import torch

import vaeppl
from vaeppl import catalogue

torch.manual_seed(0)
N, D = 240, 5
Z = torch.randn(N, 2)
W = torch.randn(2, D)
BATCH = torch.nn.functional.one_hot(torch.arange(N) % 3, 3).float()
BINARY = torch.bernoulli(torch.sigmoid(2 * Z @ W))
REAL = Z @ W + 0.3 * torch.randn(N, D)
HEAVY = Z @ W + 0.3 * torch.distributions.StudentT(2.0).sample((N, D))
SHIFTED = REAL + BATCH @ (3 * torch.randn(3, D))

SAMPLE_X = 'pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)'
IMPORT = "import pyro\n"
WITH_DIST = "import pyro\nimport pyro.distributions as dist\n"
DECODER = "decoder = MLP(latent_dim, params"


class Edit(NamedTuple):
    changes: list  # (text before, text after)
    data: dict
    likelihood: str  # of the story before, and of the one after where it is no edit
    better: bool  # whether the edit must predict better


EDITS = {
    "negative binomial": Edit(
        [('likelihoods.Likelihood = "bernoulli"', 'likelihoods.Likelihood = "negative_binomial"')],
        {"x": BINARY}, "bernoulli", False,
    ),
    "mixture prior": Edit(
        [('priors.Prior = "normal"', 'priors.Prior = "mixture"')], {"x": BINARY}, "bernoulli", False
    ),
    "batch in the decoder": Edit(
        [
            ("from torch import Tensor, nn", "from torch import Tensor, cat, nn"),
            (DECODER, "decoder = MLP(latent_dim + 3, params"),
            ("def model(self, x: Tensor | None = None)", "def model(self, x=None, batch=None)"),
            ("self.decoder(z)", "self.decoder(cat([z, batch.expand(*z.shape[:-1], -1)], -1))"),
            ("def guide(self, x: Tensor)", "def guide(self, x, batch)"),
        ],
        {"x": SHIFTED, "batch": BATCH}, "normal", True,
    ),
    "global scale with a prior": Edit(
        [
            (IMPORT, WITH_DIST),
            (
                "        with rows(x):\n            z =",
                '        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))\n'
                "        with rows(x):\n            z =",
            ),
            (
                SAMPLE_X,
                'p_x = dist.Normal(self.decoder(z), sigma[..., None]).to_event(1)\n'
                '            pyro.sample("x", p_x, obs=x)',
            ),
        ],
        {"x": REAL}, "normal", False,
    ),
    "Student-t noise": Edit(
        [('likelihoods.Likelihood = "bernoulli"', 'likelihoods.Likelihood = "student_t"')],
        {"x": HEAVY}, "normal", True,
    ),
    "a second latent": Edit(
        [
            (IMPORT, WITH_DIST),
            (
                "        if decoder is None:",
                "        self.between = MLP(latent_dim, latent_dim, hidden=hidden)\n"
                "        if decoder is None:",
            ),
            (
                f"            {SAMPLE_X}",
                '            w = pyro.sample("w", dist.Normal(self.between(z), 1.0).to_event(1))\n'
                f"            {SAMPLE_X.replace('decoder(z)', 'decoder(w)')}",
            ),
        ],
        {"x": BINARY}, "bernoulli", False,
    ),
}  # fmt: skip


def written(path, changes):
    """Copy the VAE, edit it, and return its class with the number of lines that were changed."""
    before = vaeppl.copy_model("vae", path, name="MyStory").read_text()
    after = before
    for old, new in changes:
        assert old in after, old
        after = after.replace(old, new, 1)
    path.write_text(after)
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    changed = sum(line.startswith("+") and not line.startswith("+++") for line in lines)
    return catalogue.find(f"{path}:MyStory"), changed


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_few_lines_is_checked_fitted_and_compared(name, tmp_path):
    edit = EDITS[name]
    cls, changed = written(tmp_path / "my_story.py", edit.changes)
    assert changed <= 5
    data = vaeppl.data.Data(edit.data).split(valid=0.0, test=0.25)
    named = any("likelihoods.Likelihood =" in old for old, _ in edit.changes)
    options = {} if named else {"likelihood": edit.likelihood}
    story = cls(D, 2, hidden=(16,), **options)
    report = vaeppl.check(story, data, guide="auto")
    assert report.ok, str(report)
    shown = vaeppl.show(story, data)
    assert shown.density.startswith("p(")
    fitting = {"epochs": 60, "lr": 0.01, "lr_schedule": "cosine", "progress": False}
    fit = vaeppl.fit(story, data, guide="auto", **fitting)
    original = vaeppl.models.VAE(D, 2, hidden=(16,), likelihood=edit.likelihood)
    before = vaeppl.fit(original, data, **fitting)
    found = vaeppl.compare(
        before, fit, data=data, names=["before", "after"], num_particles=200, num_samples=20
    )
    assert found.table["elpd"].notna().all()
    if edit.better:
        line = found.table.loc["before"]
        assert line["difference"] < -2 * line["difference_se"], found
