"""Why an ELBO became NaN or infinite: the site, the rows and the likely cause."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor, nn

from ..pair import Batch, Pair

__all__ = ["explain"]


def explain(pair: Pair, batch: Batch, rows: int, where: str) -> str:
    """Run the pair again on the batch and say which site is not finite, and why that may be.

    Parameters
    ----------
    pair
        The model and its guide, with the parameters at hand.
    batch
        The columns of the batch.
    rows
        Rows of the full data.
    where
        Epoch and batch, in words.
    """
    # The message only reports what can be seen again; the draws of the failed step are gone.
    found = f"the ELBO is not finite at {where}: "
    bad = [n for n, p in pair.named_parameters() if not p.isfinite().all()]
    if bad:
        return found + (
            f"the parameter {bad[0]!r} holds NaN or infinity (the step before diverged). "
            "Lower lr, or give clip_norm=10"
        )
    with torch.no_grad(), pyro.validation_enabled(False), pair.active(rows):
        guide_trace = poutine.trace(pair.guide).get_trace(**batch)
        model_trace = poutine.trace(poutine.replay(pair.model, trace=guide_trace)).get_trace(
            **batch
        )
    for role, trace in (("guide", guide_trace), ("model", model_trace)):
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and (reason := _reason(site)):
                return found + f"site {name!r} of the {role}, {reason}"
    return found + (
        "no site is, when the batch is run again, so it was a rare draw or a gradient. "
        "Lower lr, or give clip_norm=10"
    )


def _reason(site: Any) -> str:
    """Return what is wrong with a site, or nothing."""
    fn, value = site["fn"], site["value"]
    base = getattr(fn, "base_dist", fn)
    for parameter in getattr(base, "arg_constraints", {}):
        tensor = base.__dict__.get(parameter)
        if isinstance(tensor, Tensor) and not tensor.isfinite().all():
            return (
                f"a {type(base).__name__}, has {parameter} = {_first_bad(tensor)}{_row(tensor)}: "
                "the network put out too large a number. Lower lr, or give clip_norm=10"
            )
    log_p = fn.log_prob(value)
    if log_p.isfinite().all():
        return ""
    scale = base.__dict__.get("scale")
    small = isinstance(scale, Tensor) and float(scale.min()) < 1e-6
    cause = (
        f"its smallest scale is {float(scale.min()):.2g}: the likelihood collapses onto the data. "
        "Fix its scale, or take a larger floor"
        if small and scale is not None
        else "the value has probability zero there. Check the support of model and guide"
    )
    return f"a {type(base).__name__}, has log-probability {_first_bad(log_p)}{_row(log_p)}; {cause}"


def _first_bad(tensor: Tensor) -> float:
    return float(tensor[~tensor.isfinite()][0])


def _row(tensor: Tensor) -> str:
    if tensor.ndim == 0:
        return ""
    return f" at row {int((~tensor.isfinite()).nonzero()[0][0])} of the batch"


def has_nonfinite_gradient(module: nn.Module) -> bool:
    """Tell whether any gradient holds NaN or infinity."""
    return any(p.grad is not None and not p.grad.isfinite().all() for p in module.parameters())
