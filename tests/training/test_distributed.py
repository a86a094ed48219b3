"""Two processes give the gradient of one: rows are shared out, files are written once."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
import os, sys, torch, vaeppl
from vaeppl.models import VAE

torch.set_num_threads(1)


class Quiet(VAE):
    # Without noise of its own, so that one process and two must agree.
    runs = 0

    def guide(self, x):
        import pyro, pyro.distributions as dist
        Quiet.runs += 1
        if Quiet.runs == 8 and os.environ.get("DIES") == os.environ.get("LOCAL_RANK", "0"):
            os._exit(9)
        with vaeppl.rows(x):
            q = self.q(self.encoder(self.likelihood.features(x)))
            pyro.sample("z", dist.Delta(q.mean).to_event(1))


if __name__ == "__main__":
    x = (torch.rand(50, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    run = vaeppl.fit(Quiet(6, 2, hidden=(8,)), {"x": x}, epochs=3, batch_size=16, lr=0.01,
                     optimizer="sgd", accelerator="cpu", devices=int(sys.argv[1]), seed=1,
                     out=sys.argv[2], resume=len(sys.argv) > 3, checkpoint_every=1,
                     num_nodes=int(os.environ.get("NODES", 1)),
                     compile=False, progress=False)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
"""


def run(folder, *words, dies=""):
    script = folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    return subprocess.run(
        [sys.executable, str(script), *words],
        timeout=240,
        capture_output=True,
        text=True,
        env={**os.environ, "DIES": dies},
    )


@pytest.mark.slow
def test_two_processes_fit_as_one(tmp_path):
    import torch

    from vaeppl.files import read_tensors

    for devices in ("1", "2"):
        run(tmp_path, devices, str(tmp_path / devices)).check_returncode()
    one, two = (read_tensors(tmp_path / d / "weights.safetensors") for d in ("1", "2"))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-5), name
    files = [sorted(p.name for p in (tmp_path / d).rglob("*")) for d in ("1", "2")]
    assert files[0] == files[1]


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_which_can_go_on(tmp_path):
    import torch

    from vaeppl.files import read_tensors

    whole, broken = str(tmp_path / "whole"), str(tmp_path / "broken")
    run(tmp_path, "2", whole).check_returncode()
    died = run(tmp_path, "2", broken, dies="1")
    assert died.returncode != 0
    assert "one of the 2 processes of this fit died in epoch 2" in died.stderr
    assert "The checkpoint of epoch 1 is in" in died.stderr
    run(tmp_path, "2", broken, "resume").check_returncode()
    one, two = (read_tensors(f"{d}/weights.safetensors") for d in (whole, broken))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_two_machines_fit_as_one(tmp_path):
    import torch

    from vaeppl.files import read_tensors

    run(tmp_path, "1", str(tmp_path / "one")).check_returncode()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
    launch += ["--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port]
    words = [str(tmp_path / "script.py"), "1", str(tmp_path / "two")]
    nodes = [
        subprocess.Popen(
            [*launch, "--node-rank", str(rank), *words], env={**os.environ, "NODES": "2"}
        )
        for rank in (0, 1)
    ]
    assert [node.wait(timeout=240) for node in nodes] == [0, 0]
    one, two = (read_tensors(tmp_path / d / "weights.safetensors") for d in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
