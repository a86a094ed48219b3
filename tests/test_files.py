"""Files that are written whole or not at all, and said to be damaged when they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vaeppl.errors import CheckpointError
from vaeppl.files import (
    load_state,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
    write_whole,
)


def test_json_round_trip(tmp_path):
    value = {"σ": [1, 2.5, None, True], "inner": {"text": "é"}}
    write_json(tmp_path / "new" / "a.json", value)
    assert read_json(tmp_path / "new" / "a.json") == value


def test_json_refuses_nan_and_keeps_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"fine": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"bad": float("nan")})
    assert read_json(path) == {"fine": 1}


def test_a_writer_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def half(temporary):
        temporary.write_text("new, but ")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, half)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_tensors_round_trip_bit_by_bit(tmp_path):
    base = torch.randn(4, 6)
    tensors = {
        "whole": base,
        "shares memory": base[:2],
        "transposed": base.T,
        "expanded": torch.tensor(3.0).expand(5),
        "counts": torch.arange(3),
        "scalar": torch.tensor(1e-300, dtype=torch.float64),
        "odd": torch.tensor([float("nan"), float("inf"), -0.0]),
        "leaf": nn.Parameter(torch.ones(2)),
        "empty": torch.zeros(0, 3),
    }
    write_tensors(tmp_path / "t.safetensors", tensors)
    read = read_tensors(tmp_path / "t.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name].nan_to_num(nan=7.0), tensor.detach().nan_to_num(nan=7.0))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no config.json in .*is it a run"):
        read_json(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"there is no w.safetensors in"):
        read_tensors(tmp_path / "w.safetensors")


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe\x00"])
def test_damaged_json_is_said_to_be(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_json(path)


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_damaged_tensors_are_said_to_be(tmp_path, kept):
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": torch.randn(20)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_tensors(path)


def test_load_state_fills_parameters_and_buffers():
    there, here = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    there(torch.randn(10, 3))
    load_state(here, there.state_dict(), "there")
    assert torch.equal(here.running_mean, there.running_mean)


def test_load_state_names_what_does_not_fit():
    saved = nn.Linear(3, 2).state_dict()
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(CheckpointError, match=r"it lacks 0.bias, 0.weight; it has besides bias"):
        load_state(model, saved, "run")
    with pytest.raises(CheckpointError, match=r"other shapes .*weight: \(2, 3\) for \(2, 4\)"):
        load_state(nn.Linear(4, 2), saved, "run")
    before = model[0].weight.clone()
    with pytest.raises(CheckpointError):
        load_state(model, {"0.weight": torch.zeros(2, 3)}, "run")
    assert torch.equal(model[0].weight, before)
