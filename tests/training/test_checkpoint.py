"""Checkpoints that survive being killed, and optimisers that go on bit by bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vaeppl import files
from vaeppl.errors import CheckpointError
from vaeppl.training import checkpoint

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adam amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.9)),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "groups": lambda p: torch.optim.Adam(
        [{"params": p[:1], "lr": 0.1}, {"params": p[1:], "weight_decay": 0.5}], lr=0.01
    ),
}


def network(dtype=torch.float32):
    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).to(dtype)
    net.unused = nn.Parameter(torch.ones(2, dtype=dtype))
    return net


def step(net, optimizer, number):
    for i in range(number):
        torch.manual_seed(100 + i)
        loss = net(torch.randn(8, 5, dtype=net[0].weight.dtype)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimiser_goes_on_bit_by_bit(tmp_path, make, dtype):
    net = network(dtype)
    optimizer = make(list(net.parameters()))
    step(net, optimizer, 5)
    optimizer.param_groups[0]["lr"] *= 1 / 3  # as a schedule leaves it
    tensors, meta = checkpoint.optimizer_tensors(optimizer)
    weights = {f"weights/{k}": v for k, v in net.state_dict().items()}
    checkpoint.write(tmp_path, 5, {**weights, **tensors}, {"optimizer": meta})
    step(net, optimizer, 5)

    read, told = checkpoint.read(tmp_path)
    other = network(dtype)
    other.load_state_dict({k[8:]: v for k, v in read.items() if k.startswith("weights/")})
    again = make(list(other.parameters()))
    state = {k: v for k, v in read.items() if not k.startswith("weights/")}
    checkpoint.restore_optimizer(again, state, told["optimizer"])
    step(other, again, 5)
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    for mine, theirs in zip(optimizer.param_groups, again.param_groups, strict=True):
        assert mine["lr"] == theirs["lr"]


def test_the_newest_checkpoint_is_read_and_older_ones_go(tmp_path):
    folder = tmp_path / "checkpoints"
    assert not checkpoint.has_checkpoint(folder)
    for epoch in (1, 2, 3):
        checkpoint.write(folder, epoch, {"a": torch.tensor(float(epoch))}, {"epoch": epoch})
    tensors, meta = checkpoint.read(folder)
    assert tensors["a"] == 3 and meta["epoch"] == 3 and checkpoint.has_checkpoint(folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint.json", "epoch-000003.safetensors",
    ]  # fmt: skip


class Killed(BaseException):
    """A run that ends without any clean-up of its own."""


@pytest.mark.parametrize("at", ["tensors half written", "between", "pointer half written", "tidy"])
def test_a_run_killed_while_it_writes_keeps_a_whole_checkpoint(tmp_path, monkeypatch, at):
    checkpoint.write(tmp_path, 1, {"a": torch.tensor(1.0)}, {"epoch": 1})

    def half(value, path, *rest):
        path.write_bytes(b"half of a file")
        raise Killed

    def half_text(path, *rest, **more):
        half(None, path)

    def stop(*arguments, **more):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if at == "tensors half written":
            patch.setattr(files, "save_file", half)
        elif at == "between":
            patch.setattr(checkpoint, "write_json", stop)
        elif at == "pointer half written":
            patch.setattr("pathlib.Path.write_text", half_text)
        else:
            patch.setattr("pathlib.Path.glob", stop)
        checkpoint.write(tmp_path, 2, {"a": torch.tensor(2.0)}, {"epoch": 2})
    kept = 2 if at == "tidy" else 1
    tensors, meta = checkpoint.read(tmp_path)
    assert tensors["a"] == kept and meta["epoch"] == kept
    # The next one goes through, and tidies up.
    checkpoint.write(tmp_path, 2, {"a": torch.tensor(2.0)}, {"epoch": 2})
    assert checkpoint.read(tmp_path)[1]["epoch"] == 2
    assert len(list(tmp_path.glob("epoch-*"))) == 1


def test_damage_is_said_to_be(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint.json"):
        checkpoint.read(tmp_path)
    checkpoint.write(tmp_path, 1, {"a": torch.zeros(9)}, {"epoch": 1})
    path = tmp_path / "epoch-000001.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.read(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"no epoch-000001.safetensors"):
        checkpoint.read(tmp_path)
