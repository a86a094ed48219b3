"""Reading ahead changes when a batch is read, and nothing else."""

import threading
import time

import numpy as np
import pytest
import torch
from scipy import sparse

import vaeppl
from vaeppl.data.ahead import read_ahead
from vaeppl.models import VAE


def readers():
    return [t for t in threading.enumerate() if t.name == "vaeppl reads ahead"]


def test_items_come_in_order_and_are_made_in_another_thread():
    where = []

    def items():
        for i in range(50):
            where.append(threading.current_thread())
            yield i

    assert list(read_ahead(items)) == list(range(50))
    assert threading.current_thread() not in where
    assert not readers()


def test_it_is_ahead_by_no_more_than_asked():
    made = []

    def items():
        for i in range(20):
            made.append(i)
            yield i

    stream = read_ahead(items, depth=3)
    assert next(stream) == 0
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(made) == 5  # one is out, three are ready, and one waits to be put there
    stream.close()
    assert not readers()


def test_what_goes_wrong_is_told_in_its_place():
    def items():
        yield 1
        raise OSError("the disk is gone")

    stream = read_ahead(items)
    assert next(stream) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(stream)
    assert not readers()


def test_a_fit_of_counts_that_are_read_by_batch_is_that_of_counts_in_memory():
    counts = np.random.default_rng(0).poisson(0.5, (60, 8)).astype(np.float32)
    weights = []
    for x in (torch.from_numpy(counts), sparse.csr_matrix(counts)):
        torch.manual_seed(0)
        model = VAE(8, 2, hidden=(4,), likelihood="poisson")
        fit = vaeppl.fit(model, {"x": x}, epochs=3, batch_size=16, seed=0, progress=False)
        weights.append(torch.cat([p.detach().flatten() for p in fit.model.parameters()]))
    assert torch.equal(*weights)
    assert not readers()


def test_a_batch_that_cannot_be_read_ends_the_fit_with_its_error():
    class Broken:
        shape, dtype = (60, 8), np.dtype("float32")
        reads = 0

        def __getitem__(self, rows):
            Broken.reads += 1
            if Broken.reads > 8:
                raise OSError("the disk is gone")
            return np.ones((60, 8), np.float32)[rows]

    with pytest.raises(OSError, match="the disk is gone"):
        vaeppl.fit(
            VAE(8, 2, hidden=(4,), likelihood="poisson"),
            {"x": Broken()},
            epochs=50,
            batch_size=16,
            progress=False,
        )
    assert not readers()
