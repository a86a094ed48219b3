"""Seconds of an epoch of a VAE: ours, pythae's trainer, and Lightning's Trainer.

The same sizes (784-400-20, black and white pixels), batches of 128, Adam, one thread; every tool
trains by its own means, in rounds in which they take turns, and the first half of its epochs is
left out. Beside ``pip install vaeppl`` it needs ``pip install pythae==0.1.2 lightning``.

    python benchmarks/peers.py
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from statistics import median
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from common import one_thread, save
from pythae.data.datasets import BaseDataset
from pythae.models import VAE as PythaeVAE
from pythae.models import VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import vaeppl
from vaeppl.models import VAE

COLUMNS, HIDDEN, LATENTS, BATCH, LR = 784, 400, 20, 128, 1e-3
Seconds = list[float]


def ours(compiled: bool) -> Any:
    """Return a function that trains with vaeppl and tells the seconds of each epoch."""

    def run(x: Tensor, epochs: int) -> Seconds:
        fit = vaeppl.fit(
            VAE(COLUMNS, LATENTS, hidden=(HIDDEN,)),
            {"x": x},
            epochs=epochs,
            batch_size=BATCH,
            lr=LR,
            compile=compiled,
            progress=False,
        )
        return list(fit.history["seconds"])

    return run


class PlainVAE(nn.Module):
    """The VAE as one would write it in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(COLUMNS, HIDDEN), nn.ReLU())
        self.q = nn.Linear(HIDDEN, 2 * LATENTS)
        self.decoder = nn.Sequential(
            nn.Linear(LATENTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, COLUMNS)
        )

    def loss(self, x: Tensor) -> Tensor:
        """Return minus the ELBO of a row."""
        loc, log_variance = self.q(self.encoder(x)).chunk(2, -1)
        z = loc + (0.5 * log_variance).exp() * torch.randn_like(loc)
        bits = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = 0.5 * (loc**2 + log_variance.exp() - 1 - log_variance).sum()
        return (bits + kl) / len(x)


class Lit(lightning.LightningModule):
    """The same for Lightning, which notes the seconds of its epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.vae, self.seconds = PlainVAE(), []

    def on_train_epoch_start(self) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        """Note the seconds."""
        self.seconds.append(time.perf_counter() - self.started)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Return the loss."""
        loss = self.vae.loss(batch[0])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=LR)


def with_lightning(x: Tensor, epochs: int) -> Seconds:
    """Train by Lightning's Trainer."""
    module = Lit()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(x), BATCH, shuffle=True))
    return list(module.seconds)


class Encoder(BaseEncoder):
    """Encoder as pythae wants it."""

    def __init__(self) -> None:
        BaseEncoder.__init__(self)
        self.net = nn.Sequential(nn.Linear(COLUMNS, HIDDEN), nn.ReLU())
        self.loc, self.log_variance = nn.Linear(HIDDEN, LATENTS), nn.Linear(HIDDEN, LATENTS)

    def forward(self, x: Tensor) -> Any:
        """Return mean and log-variance of q(z | x)."""
        h = self.net(x)
        return ModelOutput(embedding=self.loc(h), log_covariance=self.log_variance(h))


class Decoder(BaseDecoder):
    """Decoder as pythae wants it."""

    def __init__(self) -> None:
        BaseDecoder.__init__(self)
        self.net = nn.Sequential(
            nn.Linear(LATENTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, COLUMNS), nn.Sigmoid()
        )

    def forward(self, z: Tensor) -> Any:
        """Return the probabilities of the pixels."""
        return ModelOutput(reconstruction=self.net(z))


class Clock(TrainingCallback):
    """Notes the seconds of the epochs."""

    def __init__(self) -> None:
        self.seconds: Seconds = []

    def on_epoch_begin(self, training_config: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_epoch_end(self, training_config: Any, **kwargs: Any) -> None:
        """Note the seconds."""
        self.seconds.append(time.perf_counter() - self.started)


def with_pythae(x: Tensor, epochs: int) -> Seconds:
    """Train by pythae's trainer."""
    config = VAEConfig(input_dim=(COLUMNS,), latent_dim=LATENTS, reconstruction_loss="bce")
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        how = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=epochs,
            learning_rate=LR,
            per_device_train_batch_size=BATCH,
            no_cuda=True,
        )
        trainer = BaseTrainer(
            model=PythaeVAE(config, encoder=Encoder(), decoder=Decoder()),
            train_dataset=BaseDataset(x, torch.zeros(len(x))),
            training_config=how,
            callbacks=[clock],
        )
        trainer.train()
    return clock.seconds


TOOLS = {
    "vaeppl, compiled": ours(True),
    "vaeppl, eager": ours(False),
    "Lightning Trainer, eager step": with_lightning,
    "pythae": with_pythae,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=25_600)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    one_thread()
    warnings.filterwarnings("ignore")
    for name in ("lightning", "lightning.pytorch", "pythae"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.manual_seed(0)
    x = (torch.rand(given.rows, COLUMNS) < 0.2).float()
    seconds: dict[str, Seconds] = {tool: [] for tool in TOOLS}
    for _ in range(given.rounds):
        for tool, run in TOOLS.items():
            seconds[tool] += run(x, given.epochs)[given.epochs // 2 :]
    lightning_epoch = median(seconds["Lightning Trainer, eager step"])
    for tool, found in seconds.items():
        row = {
            "tool": tool,
            "seconds_per_epoch": round(median(found), 3),
            "ms_per_step": round(1000 * median(found) / -(-given.rows // BATCH), 2),
            "ratio_to_lightning": round(median(found) / lightning_epoch, 3),
            "rows": given.rows,
            "rounds": given.rounds,
        }
        print(row, flush=True)
        save("peers", [row], key=("tool",))


if __name__ == "__main__":
    main()
