"""Checkpoints: all that a killed run needs in order to go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import read_json, read_tensors, write_json, write_tensors

__all__ = ["has_checkpoint", "optimizer_tensors", "read", "restore_optimizer", "write"]

POINTER = "checkpoint.json"


def write(folder: Path, epoch: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint: the tensors first, then the JSON that names them, then drop older ones.

    A run killed at any point in between still has the checkpoint before.
    """
    name = f"epoch-{epoch:06d}.safetensors"
    write_tensors(folder / name, tensors)
    write_json(folder / POINTER, {**meta, "tensors": name})
    for old in folder.glob("epoch-*.safetensors"):
        if old.name != name:
            old.unlink()


def has_checkpoint(folder: Path) -> bool:
    """Tell whether there is a checkpoint to go on from."""
    return (folder / POINTER).is_file()


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON of the newest checkpoint."""
    meta = read_json(folder / POINTER)
    return read_tensors(folder / meta["tensors"]), meta


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Any]:
    """Split an optimiser's state into named tensors and JSON."""
    state = optimizer.state_dict()
    tensors, plain = {}, {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                plain[f"{index}.{key}"] = value
    groups = [{k: v for k, v in g.items() if _is_json(v)} for g in state["param_groups"]]
    return tensors, {"plain": plain, "groups": groups}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Give an optimiser the state that :func:`optimizer_tensors` took."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**meta["plain"], **tensors}.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    now = optimizer.state_dict()["param_groups"]
    groups = [{**mine, **saved} for mine, saved in zip(now, meta["groups"], strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _is_json(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_json(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))
