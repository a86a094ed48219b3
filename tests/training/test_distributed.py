"""Two processes give the gradient of one: rows are shared out, files are written once."""

import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
import sys, torch, vaeppl
from vaeppl.models import VAE

torch.set_num_threads(1)


class Quiet(VAE):
    # Without noise of its own, so that one process and two must agree.
    def guide(self, x):
        import pyro, pyro.distributions as dist
        with vaeppl.rows(x):
            q = self.q(self.encoder(self.likelihood.features(x)))
            pyro.sample("z", dist.Delta(q.mean).to_event(1))


if __name__ == "__main__":
    x = (torch.rand(50, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    run = vaeppl.fit(Quiet(6, 2, hidden=(8,)), {"x": x}, epochs=3, batch_size=16, lr=0.01,
                     optimizer="sgd", accelerator="cpu", devices=int(sys.argv[1]), seed=1,
                     out=sys.argv[2], progress=False)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_fit_as_one(tmp_path):
    import torch

    from vaeppl.files import read_tensors

    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    for devices in ("1", "2"):
        subprocess.run(
            [sys.executable, str(script), devices, str(tmp_path / devices)], check=True, timeout=240
        )
    one, two = (read_tensors(tmp_path / d / "weights.safetensors") for d in ("1", "2"))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-5), name
    files = [sorted(p.name for p in (tmp_path / d).rglob("*")) for d in ("1", "2")]
    assert files[0] == files[1]
