"""Whether the gradient reaches every parameter, and what is neither parameter nor buffer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ..estimators.elbo import ELBO
from ..training.seeds import seeded
from .case import Case, moved, store_apart, words_of
from .findings import Finding, Line
from .lines import line_of_attribute, line_of_error

__all__ = ["check_gradients", "check_kinds"]


def check_gradients(cases: Sequence[Case]) -> Iterator[Finding]:
    """Check that the gradient of the ELBO reaches every parameter, and is finite."""
    pair = cases[0].pair
    found: dict[str, Tensor | None] = {}
    for case in cases:
        try:
            _add(found, _gradients(case))
        except Exception as error:
            yield Finding(
                "error",
                "no-elbo",
                f"the ELBO of {pair.name} cannot be computed: {words_of(error)}",
                "nothing can be fitted",
                "",
                line=line_of_error(error),
            )
            return
    unreached = [n for n, g in found.items() if g is None and not _is_replaced(pair, n)]
    still = [n for n, g in found.items() if g is not None and not g.any()]
    still = still and _still(cases, still)
    lost = [n for n, g in found.items() if g is not None and not g.isfinite().all()]
    for names, severity, what, why, mend in (
        (
            unreached, "warning", "no gradient reaches",
            "what no gradient reaches is never fitted",
            "use it in model or guide outside of torch.no_grad() and without .detach(); take it "
            "away; or freeze it by .requires_grad_(False)",
        ),
        (
            still, "warning", "the gradient is exactly zero at",
            "a parameter without gradient stays where it is",
            "look for a network that puts out a constant: all units off, a product with zero, a "
            "value clamped or saturated",
        ),
        (
            lost, "error", "the gradient is NaN or infinite at",
            "one such step destroys the parameters",
            "look for log, sqrt or division at 0, or exp of a large number; torch.where does not "
            "help unless the argument is made safe too",
        ),
    ):  # fmt: skip
        for group, members in _grouped(names).items():
            listed = group if len(members) > 1 else members[0]
            count = f" ({len(members)} tensors)" if len(members) > 1 else ""
            yield Finding(
                severity,
                {"warning": "no-gradient", "error": "gradient-not-finite"}[severity],
                f"{what} parameter {listed!r} of {pair.name}{count}",
                why,
                mend,
                listed,
                _line(pair, members[0]),
            )


def _add(found: dict[str, Tensor | None], gradients: dict[str, Tensor | None]) -> None:
    """Add gradients, of which some may be ``None``."""
    for name, gradient in gradients.items():
        before = found.get(name)
        found[name] = before if gradient is None else gradient + (0 if before is None else before)


def _is_replaced(pair: Any, name: str) -> bool:
    """Tell whether a parameter may belong to a model's own guide, in whose place is another."""
    own = pair.source[0]
    replaced = len(pair.source) > 1 and isinstance(own, nn.Module) and hasattr(own, "guide")
    return replaced and name in dict(own.named_parameters())


def _still(cases: Sequence[Case], names: Sequence[str]) -> list[str]:
    """Return the parameters whose gradient is zero elsewhere too: not by a layer of zeros."""
    found: dict[str, Tensor | None] = {}
    for case in cases:
        _add(found, _gradients(case, step=0.3))
    return [n for n in names if (g := found.get(n)) is None or not g.any()]


def _gradients(case: Case, step: float = 0.0) -> dict[str, Tensor | None]:
    """Return the gradient of the ELBO for each parameter that is to be fitted.

    ``step`` says how far the parameters are moved before.
    """
    pair = case.pair
    training = {m: m.training for m in pair.modules()}
    buffers = {n: b.clone() for n, b in pair.named_buffers()}
    pair.train()
    try:
        with seeded(0), pair.active(case.full), store_apart(), ExitStack() as stack:
            if step:
                case.run("model", replayed=case.run("guide"))  # makes the parameters of the store
            stack.enter_context(moved(case, step))
            loss = ELBO().differentiable_loss(pair.model, pair.guide, **case.batch)
            named: dict[str, Tensor] = {
                n.removeprefix("story."): p for n, p in pair.named_parameters()
            }
            known = {id(p) for p in named.values()}
            for name, parameter in pyro.get_param_store().named_parameters():
                if id(parameter) not in known:
                    named[name] = parameter
            free = {n: p for n, p in named.items() if p.requires_grad}
            if not free or not loss.requires_grad:
                return dict.fromkeys(free)
            found = torch.autograd.grad(loss, list(free.values()), allow_unused=True)
            return dict(zip(free, found, strict=True))
    finally:
        for module, mode in training.items():
            module.training = mode
        with torch.no_grad():
            for name, buffer in pair.named_buffers():
                buffer.copy_(buffers[name])


def _grouped(names: Sequence[str]) -> dict[str, list[str]]:
    groups = defaultdict(list)
    for name in names:
        groups[name.partition(".")[0]].append(name)
    return groups


def _line(pair: Any, name: str) -> Line | None:
    return line_of_attribute(pair.source[0], name.partition(".")[0])


def check_kinds(cases: Sequence[Case]) -> Iterator[Finding]:
    """Check that tensors are parameters or buffers, on one device, of one floating type."""
    pair = cases[0].pair
    tensors = [*pair.named_parameters(), *pair.named_buffers()]
    devices = {t.device for _, t in tensors}
    if len(devices) > 1:
        yield Finding(
            "error",
            "devices",
            f"parameters and buffers of {pair.name} are on several devices: "
            f"{', '.join(sorted(map(str, devices)))}",
            "what is on another device cannot be used together",
            "move the model as a whole, model.to(device)",
        )
    for module in pair.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not name.startswith("_") and module is not pair:
                yield _not_registered(module, name, value)
    yield from _check_types(cases[0])


def _not_registered(module: nn.Module, name: str, value: Tensor) -> Finding:
    learnt = value.requires_grad and value.is_leaf
    owner = type(module).__name__
    return Finding(
        "warning" if learnt else "note",
        "not-registered",
        f"{owner}.{name} is a tensor, but neither a parameter nor a buffer"
        + (", though it asks for a gradient" if learnt else ""),
        "it is never fitted nor saved" if learnt else "it is not saved, and stays on its device",
        f"write self.{name} = nn.Parameter(...)"
        if learnt
        else f"write self.register_buffer({name!r}, ...)",
        name,
        line_of_attribute(module, name),
    )


def _check_types(case: Case) -> Iterator[Finding]:
    """Check that sites are scored in the floating type of the parameters."""
    expected = case.pair.dtype
    for role, trace in (("guide", case.guide), ("model", case.model)):
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or type(site["fn"]).__name__ == "_Subsample":
                continue
            with torch.no_grad():
                found = site["fn"].log_prob(site["value"]).dtype
            if found.is_floating_point and found != expected:
                yield Finding(
                    "warning",
                    "floating-types",
                    f"site {name!r} of the {role} is computed in {_short(found)}, but the "
                    f"parameters of {case.pair.name} are {_short(expected)}",
                    "mixed types are slow, and fail where a matrix is multiplied",
                    "make tensors by x.new_tensor(...) or register_buffer; NumPy's numbers are "
                    "float64 unless told otherwise",
                    name,
                    case.line(role, name),
                )
                return


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


CHECKS: tuple[Callable[[Sequence[Case]], Iterator[Finding]], ...] = (check_gradients, check_kinds)
