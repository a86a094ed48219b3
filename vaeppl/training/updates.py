"""Steps of torch's optimisers as operations of a graph, on the optimisers' own state.

An optimiser's ``step`` is a few calls of fused kernels, which a compiler cannot fuse any further
with what comes before. Here it is written out. The state stays that of the optimiser: its
``state_dict`` is what it would have been, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .tracing import Untraceable

__all__ = ["AdamUpdate", "SGDUpdate", "Update", "update_of"]

LIVE = ("params", "lr", "initial_lr")  # of a group of parameters; all else is fixed in a graph


class Update:
    """Base: a step of an optimiser over the parameters that have a gradient.

    Parameters
    ----------
    optimizer
        Whose state is used, and made where there is none yet.
    parameters
        Those that have a gradient; the others are left alone, as the optimiser leaves them.
    """

    scalars_per_group: int

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
        self.optimizer = optimizer
        chosen = {id(p) for p in parameters}
        self.groups = [
            (group, [p for p in group["params"] if id(p) in chosen])
            for group in optimizer.param_groups
        ]
        self.parameters: list[Tensor] = [p for _, members in self.groups for p in members]
        for group, members in self.groups:
            for parameter in members:
                self._begin(group, parameter)
        self.states = [optimizer.state[p] for p in self.parameters]

    def _begin(self, group: dict[str, Any], parameter: Tensor) -> None:
        """Make the state of a parameter before its first step."""

    def settings(self) -> Any:
        """Return what a graph of the step holds as it is."""
        return [{k: v for k, v in group.items() if k not in LIVE} for group, _ in self.groups]

    def state(self) -> list[Tensor]:
        """Return the tensors that a step changes beside the parameters."""
        found = [s[k] for s in self.states for k in sorted(s) if k != "step"]
        return [value for value in found if isinstance(value, Tensor)]

    def gradient_like(self) -> list[Tensor]:
        """Return tensors of which a step's change is linear in the gradient."""
        return self.parameters

    def scalars(self) -> list[float]:
        """Return the numbers that the next step takes, those of one group after another."""
        raise NotImplementedError

    def advance(self) -> None:
        """Count a step."""

    def forget(self) -> None:
        """Take note that others have taken steps."""

    @torch.no_grad()
    def apply(self, gradients: Sequence[Tensor], scalars: Tensor, allowed: Tensor) -> None:
        """Take a step.

        Parameters
        ----------
        gradients
            Of ``parameters``, in their order.
        scalars : Tensor, shape (groups * scalars_per_group,)
            As :meth:`scalars` returns them.
        allowed : Tensor of bool, shape ()
            Whether parameters change; they do not where the loss is not finite.
        """
        numbers = iter(scalars.unbind())
        rest = iter(zip(self.parameters, self.states, gradients, strict=True))
        for group, members in self.groups:
            mine = [next(numbers) for _ in range(self.scalars_per_group)]
            for _ in members:
                parameter, state, gradient = next(rest)
                if group.get("maximize"):
                    gradient = -gradient
                new = self.changed(parameter, gradient, state, group, mine)
                parameter.copy_(torch.where(allowed, new, parameter))

    def changed(
        self,
        parameter: Tensor,
        gradient: Tensor,
        state: dict[str, Any],
        group: dict[str, Any],
        scalars: list[Tensor],
    ) -> Tensor:
        """Return a parameter after the step, and change its state in place."""
        raise NotImplementedError


class AdamUpdate(Update):
    """Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019).

    A group's scalars are lr / (1 - β₁^t), √(1 - β₂^t) and lr.
    """

    scalars_per_group = 3

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
        super().__init__(optimizer, parameters)
        counts = [float(s["step"]) for s in self.states]
        if len(set(counts)) > 1:
            raise Untraceable("its parameters have been through unequal numbers of steps")
        # One tensor holds all counts, and the optimiser's are views of it: one addition a step.
        self.steps = torch.stack([s["step"] for s in self.states])
        for count, state in zip(self.steps, self.states, strict=True):
            state["step"] = count
        self.counts = self.steps.numpy() if self.steps.device.type == "cpu" else None
        self.known: float | None = None  # the count, where reading it would wait for a device

    def _begin(self, group: dict[str, Any], parameter: Tensor) -> None:
        if self.optimizer.state[parameter]:
            return
        on_device = group.get("fused") or group.get("capturable")
        names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group.get("amsgrad") else [])]
        step = torch.zeros((), device=parameter.device if on_device else "cpu")
        zeros = {name: torch.zeros_like(parameter, requires_grad=False) for name in names}
        self.optimizer.state[parameter].update(step=step.float(), **zeros)

    def gradient_like(self) -> list[Tensor]:
        """Return the means of the gradients."""
        return [state["exp_avg"] for state in self.states]

    def scalars(self) -> list[float]:
        """Return step sizes, bias corrections and learning rates of the next step."""
        if self.counts is not None:
            step = float(self.counts[0]) + 1.0
        else:
            self.known = float(self.steps[0]) if self.known is None else self.known
            step = self.known + 1.0
        numbers = []
        for group, _ in self.groups:
            lr, (beta1, beta2) = float(group["lr"]), group["betas"]
            numbers += [lr / (1.0 - beta1**step), (1.0 - beta2**step) ** 0.5, lr]
        return numbers

    def advance(self) -> None:
        """Count a step."""
        if self.counts is not None:
            self.counts += 1.0  # an array that shares the memory: a third of the time
        else:
            self.steps.add_(1.0)
            self.known = None if self.known is None else self.known + 1.0

    def forget(self) -> None:
        """Read the count of steps again, as others have changed it."""
        self.known = None

    def changed(
        self,
        parameter: Tensor,
        gradient: Tensor,
        state: dict[str, Any],
        group: dict[str, Any],
        scalars: list[Tensor],
    ) -> Tensor:
        """Return a parameter after the step, and change its state in place."""
        size, root, lr = scalars
        (beta1, beta2), decay = group["betas"], group["weight_decay"]
        decoupled = isinstance(self.optimizer, torch.optim.AdamW)
        decoupled = decoupled or group.get("decoupled_weight_decay", False)
        if decay and decoupled:
            parameter = parameter * (1.0 - lr * decay)
        elif decay:
            gradient = gradient + decay * parameter
        mean = state["exp_avg"].lerp_(gradient, 1.0 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        if group.get("amsgrad"):
            square = state["max_exp_avg_sq"].copy_(torch.maximum(state["max_exp_avg_sq"], square))
        return parameter - size * mean / (square.sqrt() / root + group["eps"])


class SGDUpdate(Update):
    """Stochastic gradient descent, with momentum; a group's scalar is lr."""

    scalars_per_group = 1

    def _begin(self, group: dict[str, Any], parameter: Tensor) -> None:
        there = self.optimizer.state.get(parameter, {}).get("momentum_buffer") is not None
        if group["momentum"] and not there:
            if group["dampening"]:
                raise Untraceable("SGD with dampening, whose first step is another than the rest")
            zeros = torch.zeros_like(parameter, requires_grad=False)
            self.optimizer.state[parameter]["momentum_buffer"] = zeros

    def scalars(self) -> list[float]:
        """Return learning rates."""
        return [float(group["lr"]) for group, _ in self.groups]

    def changed(
        self,
        parameter: Tensor,
        gradient: Tensor,
        state: dict[str, Any],
        group: dict[str, Any],
        scalars: list[Tensor],
    ) -> Tensor:
        """Return a parameter after the step, and change its state in place."""
        if group["weight_decay"]:
            gradient = gradient + group["weight_decay"] * parameter
        if group["momentum"]:
            held = state["momentum_buffer"].mul_(group["momentum"])
            held = held.add_(gradient, alpha=1.0 - group["dampening"])
            gradient = gradient + group["momentum"] * held if group["nesterov"] else held
        return parameter - scalars[0] * gradient


_UPDATES: dict[type[torch.optim.Optimizer], type[Update]] = {
    torch.optim.Adam: AdamUpdate,
    torch.optim.AdamW: AdamUpdate,
    torch.optim.SGD: SGDUpdate,
}


def update_of(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> Update:
    """Return the step of an optimiser, written out.

    Raises
    ------
    Untraceable
        It is none of Adam, AdamW and SGD, or is set to what is not written out here.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> sgd = torch.optim.SGD([weight], lr=0.5)
    >>> update = update_of(sgd, [weight])
    >>> update.apply([torch.ones(2)], torch.tensor(update.scalars()), torch.tensor(True))
    >>> weight.detach()
    tensor([0.5000, 0.5000])
    """
    if type(optimizer) not in _UPDATES:
        raise Untraceable(
            f"the optimiser is {type(optimizer).__name__}; Adam, AdamW and SGD are known"
        )
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not parameters or not all(id(p) in known for p in parameters):
        raise Untraceable("a parameter with a gradient is not the optimiser's")
    return _UPDATES[type(optimizer)](optimizer, parameters)
