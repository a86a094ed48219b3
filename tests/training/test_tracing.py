"""Graphs of steps: what is in them, and what is refused."""

import random

import numpy as np
import pytest
import torch

from vaeppl.training.tracing import Untraceable, place_of, trace, trace_twice

A = torch.arange(6.0).view(2, 3)
OUTSIDE = torch.ones(3)


def run(graph, *inputs):
    return graph.module(*inputs, *graph.closed_over)


def test_gradients_and_changes_in_place_are_a_part_of_the_graph():
    weight = torch.nn.Parameter(torch.ones(3))

    def step(weight, x):
        loss = (x * weight).square().sum()
        (gradient,) = torch.autograd.grad(loss, [weight])
        with torch.no_grad():
            weight.sub_(0.1 * gradient)
        return loss.detach()

    graph = trace(step, [weight, A])
    with torch.no_grad():
        weight.fill_(1.0)
        loss = run(graph, weight, A)
    assert float(loss) == float(A.square().sum())
    assert torch.allclose(weight, 1.0 - 0.2 * A.square().sum(0))


def test_closed_over_tensors_are_inputs_and_literals_are_not():
    graph = trace_twice(lambda x: x + OUTSIDE + torch.tensor(2.0), [A])
    assert len(graph.closed_over) == 1 and graph.closed_over[0] is OUTSIDE
    assert torch.equal(graph.module(A, 5 * OUTSIDE), A + 7)


def test_random_numbers_are_those_of_torchs_generator():
    graph = trace_twice(lambda x: x + torch.randn(3) * torch.bernoulli(torch.full((3,), 0.5)), [A])
    torch.manual_seed(1)
    one, two = run(graph, A), run(graph, A)
    torch.manual_seed(1)
    expected = A + torch.randn(3) * torch.bernoulli(torch.full((3,), 0.5))
    assert torch.equal(one, expected) and not torch.equal(one, two)


def test_dropout_draws_what_it_would():
    graph = trace_twice(lambda x: torch.nn.functional.dropout(x, 0.5, True), [A + 1])
    torch.manual_seed(3)
    mine = run(graph, A + 1)
    torch.manual_seed(3)
    assert torch.equal(mine, torch.nn.functional.dropout(A + 1, 0.5, True))


def test_one_hot_codes_are_looked_up_without_being_read():
    codes = torch.tensor([0, 2])
    graph = trace_twice(lambda c: torch.nn.functional.one_hot(c, 3), [codes])
    assert torch.equal(run(graph, codes), torch.nn.functional.one_hot(codes, 3))
    with pytest.raises(IndexError):
        run(graph, torch.tensor([0, 3]))


def if_positive(x):
    return x if x.sum() > 0 else -x


def while_large(x):
    while float(x.max()) > 1:
        x = x / 2
    return x


class Counts:
    calls = 0

    def __call__(self, x):
        self.calls += 1
        return x * self.calls

    def more_operations(self, x):
        self.calls += 1
        for _ in range(self.calls):
            x = x + 1
        return x


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (if_positive, "Tensor.__bool__"),
        (while_large, "Tensor.__float__"),
        (lambda x: x * x[0, 1].item(), "Tensor.item"),
        (lambda x: x + torch.as_tensor(np.asarray(x.detach())), "Tensor.__array__"),
        (lambda x: x * int(x[0, 0]), "Tensor.__int__"),
        (lambda x: [print(x), x][1], "Tensor.__repr__|Tensor.__format__"),
        (lambda x: torch.nn.functional.one_hot(x.long()), "num_classes"),
        (lambda x: x * random.random(), "Python or NumPy"),
        (lambda x: x * np.random.rand(), "Python or NumPy"),
        (lambda x: x.nonzero() * 1.0, "a shape depends on data"),
        (lambda x: x[x > 2], "a shape depends on data"),
        (lambda x: x.unique(), "a shape depends on data"),
        (Counts(), r"depends on something beside tensors.*mul.Tensor.*became"),
        (Counts().more_operations, "operations, and .* when it ran again"),
        (lambda x: x + torch.ones(3).clone().requires_grad_().detach().numpy().sum(), "numpy"),
    ],
)
def test_what_is_refused(step, reason):
    with pytest.raises(Untraceable, match=reason):
        trace_twice(step, [A])


def test_a_graph_may_have_masks_where_shapes_stay():
    graph = trace_twice(lambda x: torch.where(x > 2, x, 0.0).masked_fill(x > 4, -1.0), [A])
    assert run(graph, A).tolist() == [[0, 0, 0], [3, 4, -1]]


def test_the_place_is_the_innermost_line_of_the_users_own():
    def fails():
        torch.zeros(2) @ torch.zeros(3)

    try:
        fails()
    except RuntimeError as error:
        place = place_of(error.__traceback__)
    assert place.endswith("torch.zeros(2) @ torch.zeros(3)")
    assert "test_tracing.py, line" in place
