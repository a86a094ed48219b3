"""Runs in a folder: what is written about them, and going on with one that was killed."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

import torch

from ..catalogue import source_of
from ..config import to_config
from ..data import Data
from ..errors import CheckpointError
from ..fitted import RunFolder
from ..model import Model
from ..pair import Pair
from . import checkpoint
from .loop import Trainer
from .state import State

__all__ = ["can_resume", "describe_data", "describe_model", "restore", "write_checkpoint"]


def write_checkpoint(folder: RunFolder, trainer: Trainer) -> None:
    """Write all that the run needs in order to go on from the end of this epoch."""
    state = trainer.state
    optimizer, groups = checkpoint.optimizer_tensors(trainer.optimizer)
    tensors = {f"weights/{k}": v for k, v in trainer.pair.state_dict().items()}
    tensors |= {f"best/{k}": v for k, v in state.best_weights.items()}
    tensors |= {f"optimizer/{k}": v for k, v in optimizer.items()}
    meta = {
        "epoch": state.epoch,
        "step": state.step,
        "history": state.history,
        "best": [state.best_elbo if state.best_epoch else None, state.best_epoch],
        "stopped": state.stopped,
        "optimizer": groups,
    }
    checkpoint.write(folder.checkpoints, state.epoch, tensors, meta)


def restore(folder: RunFolder, trainer: Trainer) -> State:
    """Put parameters and optimiser where the checkpoint left them."""
    for leftover in folder.path.rglob(".*.tmp"):  # of a process killed while it wrote
        leftover.unlink()
    tensors, meta = checkpoint.read(folder.checkpoints)

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

    trainer.pair.load_state_dict(part("weights/"))
    checkpoint.restore_optimizer(trainer.optimizer, part("optimizer/"), meta["optimizer"])
    best, best_epoch = meta["best"]
    return State(
        epoch=meta["epoch"],
        step=meta["step"],
        history=meta["history"],
        best_elbo=-float("inf") if best is None else best,
        best_epoch=best_epoch,
        best_weights=part("best/"),
        stopped="early" if meta["stopped"] == "early" else "",
    )


def can_resume(folder: RunFolder, config: dict[str, Any], resume: bool) -> bool:
    """Tell whether there is a run to go on with; refuse to touch one that is another."""
    if not folder.exists():
        return False
    if not resume:
        raise CheckpointError(
            f"{folder.path} holds a run already; pass resume=True (--resume) to go on with it, or "
            "give another folder as out="
        )
    there = folder.read_config()
    for part in ("vaeppl", "model", "data", "settings"):
        _compare(part, there.get(part), config[part], folder.path)
    return checkpoint.has_checkpoint(folder.checkpoints)


def _compare(path: str, there: Any, here: Any, folder: Path) -> None:
    """Raise at the first entry in which two configurations differ."""
    if path == "settings.epochs":  # a run may be made longer
        return
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*here, *(there.keys() - here.keys())]:
            _compare(f"{path}.{key}", there.get(key), here.get(key), folder)
    elif there != _through_json(here):
        raise CheckpointError(
            f"the run in {folder} cannot be resumed: its {path} is {there!r}, now it is {here!r}. "
            "Call fit as then, or give another folder as out="
        )


def _through_json(value: Any) -> Any:
    return [_through_json(v) for v in value] if isinstance(value, tuple) else value


def describe_model(pair: Pair) -> dict[str, Any]:
    """Return what is written about the model: how to build it, or at least its name and shapes."""
    shapes = {k: list(p.shape) for k, p in pair.named_parameters() if not k.startswith("stored")}
    described = {"name": pair.name, "config": _model_config(pair), "parameters": shapes}
    source = source_of(type(pair.source[0])) if isinstance(pair.source[0], Model) else None
    return described if source is None else {**described, "source": source}


def _model_config(pair: Pair) -> Any:
    try:
        return to_config(pair.source[0])
    except TypeError:
        return {"opaque": pair.name, "source": [_source_hash(story) for story in pair.source]}


def _source_hash(story: Any) -> str | None:
    """Return a hash of a function's text, which tells whether it was edited."""
    try:
        return hashlib.sha256(inspect.getsource(story).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return None


def describe_data(train: Data, data: Data, held_out: Data | None, valid: Any) -> dict[str, Any]:
    """Return what is written about the data: where to have them again, and their fingerprint."""
    return {
        "name": data.name,
        "origin": data.origin,
        "rows": len(train),
        "held_out_share": valid if isinstance(valid, float) else None,
        "held_out": None if held_out is None else held_out.fingerprint(),
        "fingerprint": train.fingerprint(),
    }
