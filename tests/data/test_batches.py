"""Facts about minibatches: every row once, with its own values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaeppl.data import Data, DataError, minibatches


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.data(), st.booleans())
def test_an_epoch_visits_every_row_once(n, more, shuffle):
    size = more.draw(st.integers(1, n))
    data = Data({"x": np.arange(2 * n).reshape(n, 2) / 2, "y": np.arange(n)})
    batches = list(minibatches(data, size, shuffle=shuffle))
    assert [len(b.index) for b in batches[:-1]] == [size] * (len(batches) - 1)
    index = torch.cat([b.index for b in batches])
    assert sorted(index.tolist()) == list(range(n))
    if not shuffle:
        assert index.tolist() == list(range(n))
    assert torch.equal(torch.cat([b.columns["y"] for b in batches]), index)
    assert torch.equal(torch.cat([b.columns["x"] for b in batches]), data["x"][index])


def test_drop_last_leaves_only_full_batches():
    data = Data({"y": np.arange(10)})
    assert [len(b.index) for b in minibatches(data, 4, drop_last=True)] == [4, 4]
    assert [len(b.index) for b in minibatches(data, 5, drop_last=True)] == [5, 5]


def test_order_and_draws_are_fixed_by_the_generator():
    data = Data({"x": torch.full((20, 6), 0.5)}).binarize()
    runs = [
        torch.cat([b.columns["x"] for b in minibatches(data, 6, generator=generator)])
        for generator in (torch.Generator().manual_seed(s) for s in (5, 5, 6))
    ]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_epochs_of_one_generator_differ():
    data = Data({"y": np.arange(50)})
    generator = torch.Generator().manual_seed(0)
    orders = [
        torch.cat([b.index for b in minibatches(data, 50, generator=generator)]) for _ in range(2)
    ]
    assert not torch.equal(*orders)


def test_a_batch_does_not_share_memory_with_the_data():
    x = torch.zeros(4, 2)
    for batch in minibatches(Data({"x": x}), 4, shuffle=False):
        batch.columns["x"].add_(1)
    assert x.sum() == 0


@pytest.mark.parametrize("size", [0, -1, 8, 2.0, True, None])
def test_impossible_batch_sizes_are_refused_at_once(size):
    with pytest.raises(DataError, match="between 1 and 7"):
        minibatches(Data({"y": np.arange(7)}), size)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("resident", [True, False])
def test_batches_on_a_gpu(resident):
    data = Data({"x": torch.full((20, 6), 0.5), "y": np.arange(20)}).binarize()
    data = data.to("cuda") if resident else data
    runs = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(1)
        batches = list(minibatches(data, 6, generator=generator, device="cuda"))
        assert all(b.columns["y"].is_cuda and not b.index.is_cuda for b in batches)
        runs.append(torch.cat([b.columns["x"] for b in batches]))
    assert torch.equal(*runs)
