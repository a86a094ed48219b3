"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import CheckpointError

__all__ = ["read_json", "read_tensors", "write_json", "write_tensors", "write_whole"]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole."""
    text = json.dumps(value, indent=2, allow_nan=False)
    write_whole(path, lambda p: p.write_text(text + "\n", encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Read a JSON file, or say that it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"there is no {path.name} in {path.parent}: is it a run?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, whole."""
    # Clones, because safetensors refuses tensors that share memory.
    plain = {k: t.detach().cpu().clone().contiguous() for k, t in tensors.items()}
    write_whole(path, lambda p: save_file(plain, p))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or say that it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"there is no {path.name} in {path.parent}: is it a run?") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None


def load_state(module: torch.nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into a module's parameters and buffers; they must match one to one."""
    mine = module.state_dict()
    lacking, surplus = sorted(mine.keys() - tensors.keys()), sorted(tensors.keys() - mine.keys())
    other = [k for k in mine.keys() & tensors.keys() if mine[k].shape != tensors[k].shape]
    if lacking or surplus or other:
        shapes = [f"{k}: {tuple(tensors[k].shape)} for {tuple(mine[k].shape)}" for k in other]
        raise CheckpointError(
            f"{source} belongs to another model: "
            + "; ".join(
                f"{what} {', '.join(names[:5])}"
                for what, names in (
                    ("it lacks", lacking),
                    ("it has besides", surplus),
                    ("other shapes", shapes),
                )
                if names
            )
        )
    module.load_state_dict(dict(tensors))
