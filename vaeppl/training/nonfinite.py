"""Why an ELBO became NaN or infinite: the site, the rows and the likely cause."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from ..distributions import MixedColumns
from ..pair import Batch, Pair

__all__ = ["UNSEEN", "bad_parameter", "explain"]

UNSEEN = "no site is, when the batch is run again"


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
    if (bad := bad_parameter(pair)) is not None:
        return found + (
            f"the parameter {bad!r} holds NaN or infinity (the step before diverged). "
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
        f"{UNSEEN}, so it was a rare draw or a gradient. Lower lr, or give clip_norm=10"
    )


def bad_parameter(pair: Pair) -> str | None:
    """Name a parameter that holds NaN or infinity, if there is one."""
    bad = (n for n, p in pair.named_parameters() if not p.isfinite().all())
    return next(bad, None)


def _reason(site: Any) -> str:
    """Return what is wrong with a site, or nothing."""
    fn, value = site["fn"], site["value"]
    parts = fn.parts if isinstance(fn, MixedColumns) else [fn]
    bases = [getattr(part, "base_dist", part) for part in parts]
    for base in bases:
        for parameter in getattr(base, "arg_constraints", {}):
            tensor = base.__dict__.get(parameter)
            if isinstance(tensor, Tensor) and not tensor.isfinite().all():
                return (
                    f"a {type(base).__name__}, has {parameter} = {_first_bad(tensor)}"
                    f"{_row(tensor)}: the network put out too large a number. Lower lr, or give "
                    "clip_norm=10"
                )
    log_p = fn.log_prob(value)
    if log_p.isfinite().all():
        return ""
    scales = [s.min() for b in bases if isinstance(s := b.__dict__.get("scale"), Tensor)]
    smallest = float(min(scales, default=torch.inf))
    if smallest < 1e-6:
        cause = (
            f"its smallest scale is {smallest:.2g}: the likelihood collapses onto the data. Fix "
            "its scale, or take a larger floor"
        )
    elif not value.isfinite().all():
        cause = f"its value is {_first_bad(value)}. Check what it is drawn from"
    elif (log_p == -torch.inf).any():
        cause = "the value has probability zero there. Check the support of model and guide"
    else:
        cause = "what it is computed from overflows. Lower lr, or give clip_norm=10"
    kind = type(bases[0] if len(bases) == 1 else fn).__name__
    return f"a {kind}, has log-probability {_first_bad(log_p)}{_row(log_p)}; {cause}"


def _first_bad(tensor: Tensor) -> float:
    return float(tensor.detach()[~tensor.isfinite()][0])


def _row(tensor: Tensor) -> str:
    if tensor.ndim == 0:
        return ""
    return f" at row {int((~tensor.isfinite()).nonzero()[0][0])} of the batch"
