"""Corruptions: their probabilities, and bad arguments."""

import pytest
import torch

from vaeppl import corruptions
from vaeppl.config import build, to_config


def test_gaussian_noise():
    x = torch.tensor([1.0, -2.0]).expand(20_000, 2)
    noisy = corruptions.GaussianNoise(0.5)(x)
    assert torch.allclose(noisy.mean(0), x[0], atol=0.02)
    assert torch.allclose(noisy.std(0), torch.tensor(0.5), atol=0.02)


def test_salt_and_pepper_draws_anew():
    x = torch.tensor([0.0, 2.0]).expand(20_000, 2)
    seen = corruptions.SaltAndPepper(0.3, range(3))(x)
    shares = torch.stack([(seen == v).float().mean(0) for v in range(3)])
    exact = torch.tensor([[0.8, 0.1], [0.1, 0.1], [0.1, 0.8]])
    assert torch.allclose(shares, exact, atol=0.02)
    codes = torch.ones(50, 1, dtype=torch.long)
    assert corruptions.SaltAndPepper(0.5, range(3))(codes).dtype == torch.long


def test_masking():
    seen = corruptions.Masking(0.25, value=-1.0)(torch.ones(40_000, 1))
    assert set(seen.unique().tolist()) == {-1.0, 1.0}
    assert (seen == -1).float().mean().item() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("name", corruptions.available())
def test_each_is_found_by_name_and_written_as_json(name):
    found = corruptions.get(name)
    again = build(to_config(found))
    assert type(again) is type(found) and to_config(again) == to_config(found)
    assert found(torch.zeros(3, 4, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: corruptions.GaussianNoise(0.0), "sd of a noise is > 0"),
        (lambda: corruptions.Masking(1.5), "share is a probability"),
        (lambda: corruptions.SaltAndPepper(0.0), "share is a probability"),
        (lambda: corruptions.SaltAndPepper(0.1, [1.0]), "two or more"),
        (lambda: corruptions.get("pepper"), "unknown corruption 'pepper'"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_one_without_a_forward_says_so():
    with pytest.raises(TypeError, match="has no method `forward"):
        corruptions.Corruption()(torch.zeros(2, 2))
