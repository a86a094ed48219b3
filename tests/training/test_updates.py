"""Written-out optimiser steps against those of torch."""

import copy

import pytest
import torch

from vaeppl.training.tracing import Untraceable
from vaeppl.training.updates import update_of

OPTIMISERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "adam, decay": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.3, betas=(0.7, 0.8)),
    "adam, amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True, eps=1e-2),
    "adam, maximize": lambda p: torch.optim.Adam(p, lr=0.1, maximize=True),
    "adam, fused": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd, decay": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.3),
    "sgd, momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "sgd, nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "groups": lambda p: torch.optim.Adam([{"params": p[:1], "lr": 0.3}, {"params": p[1:]}], lr=0.1),
}  # fmt: skip


def parameters():
    return [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(4))]


def step(update, gradients, allowed=True):
    scalars = torch.tensor(update.scalars())
    update.apply(gradients, scalars, torch.tensor(allowed))
    update.advance()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_five_steps_between_steps_of_torchs_own(name):
    theirs = parameters()
    ours = copy.deepcopy(theirs)
    right, optimizer = OPTIMISERS[name](theirs), OPTIMISERS[name](ours)
    update = update_of(optimizer, ours)
    for number in range(7):
        gradients = [torch.randn_like(p) for p in theirs]
        for group_of in (right, optimizer):
            for group in group_of.param_groups:
                group["lr"] *= 0.9
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.clone()
        right.step()
        if number == 3:  # a step that is not written out, on the same state
            for parameter, gradient in zip(ours, gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
        else:
            step(update, gradients)
        for a, b in zip(theirs, ours, strict=True):
            assert torch.allclose(a, b, atol=1e-6)
    one, two = right.state_dict()["state"], optimizer.state_dict()["state"]
    for number in one:
        for key, value in one[number].items():
            if value is not None:
                assert torch.allclose(value, two[number][key], atol=1e-5), key


def test_a_step_that_is_not_allowed_leaves_the_parameters():
    mine = parameters()
    before = [p.detach().clone() for p in mine]
    update = update_of(torch.optim.Adam(mine), mine)
    step(update, [torch.full_like(p, torch.nan) for p in mine], allowed=False)
    assert all(torch.equal(a, b) for a, b in zip(mine, before, strict=True))


def test_a_parameter_without_a_gradient_is_left_alone():
    mine = parameters()
    optimizer = torch.optim.Adam(mine)
    step(update_of(optimizer, mine[:1]), [torch.ones(3, 2)])
    assert list(optimizer.state_dict()["state"]) == [0]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: torch.optim.RMSprop(p), "the optimiser is RMSprop"),
        (lambda p: torch.optim.SGD(p, momentum=0.9, dampening=0.5), "dampening"),
        (lambda p: torch.optim.Adam(p[:1]), "is not the optimiser's"),
    ],
)
def test_what_is_not_known_is_refused(make, reason):
    mine = parameters()
    with pytest.raises(Untraceable, match=reason):
        update_of(make(mine), mine)


def test_unequal_counts_of_steps_are_refused():
    mine = parameters()
    optimizer = torch.optim.Adam(mine)
    mine[0].grad = torch.ones(3, 2)
    optimizer.step()
    with pytest.raises(Untraceable, match="unequal numbers of steps"):
        update_of(optimizer, mine)
