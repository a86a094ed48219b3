"""``vaeppl.fit``: from a model, a guide and data to a fit."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyro.infer
import torch

from .. import __version__, checks, estimators
from ..config import to_config
from ..data import Data, as_data
from ..errors import ColumnError, ProcessLost, StoryError, whole_number
from ..fitted import Fit, RunFolder, seconds_of
from ..guides import guide_for
from ..model import Model
from ..pair import Pair, as_pair
from ..strata import strata
from . import schedules
from .compiled import MODES
from .loop import RARE_SHARE, Trainer, check_enumeration, check_weights, make_optimizer
from .precision import PRECISIONS, matmul_precision
from .progress import ProgressBar
from .runs import can_resume, describe_data, describe_model, restore, write_checkpoint
from .seeds import Stream, derived_seed, seeded
from .state import State

__all__ = ["Settings", "fit"]

SECONDS_BETWEEN_CHECKPOINTS = 20.0
# What gloo and NCCL say when another process is gone.
LOST = re.compile(r"closed by peer|reset by peer|[Bb]roken pipe|[Tt]imed out|NCCL|Gloo", re.ASCII)


@dataclass(frozen=True)
class Settings:
    """How a fit was made: what must be the same for a run to be resumed, as JSON."""

    estimator: str
    num_particles: int
    epochs: int
    batch_size: int
    seed: int
    optimizer: str
    lr: float
    weight_decay: float
    lr_schedule: Any
    clip_norm: float | None
    kl_weight: Any
    free_bits: float
    patience: int | None
    precision: str
    rare_share: float = RARE_SHARE


def fit(
    model: Any,
    data: Any,
    *,
    guide: Callable[..., Any] | str | None = None,
    estimator: str | pyro.infer.ELBO = "elbo",
    num_particles: int = 1,
    epochs: int = 100,
    batch_size: int | None = None,
    seed: int = 0,
    optimizer: str | Callable[..., torch.optim.Optimizer] = "adam",
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    lr_schedule: Any = "constant",
    clip_norm: float | None = None,
    kl_weight: Any = None,
    free_bits: float = 0.0,
    rare_share: float = RARE_SHARE,
    valid: Any = None,
    patience: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int | None = None,
    accelerator: str = "auto",
    devices: int | str = 1,
    num_nodes: int = 1,
    precision: str = "32-true",
    compile: bool | str = "auto",
    progress: bool = True,
) -> Fit:
    """Fit a model and its guide to data by stochastic variational inference.

    Parameters
    ----------
    model
        A :class:`~vaeppl.Model`, any object with methods ``model`` and ``guide``, or a model
        function. It is fitted in place. Initial weights still as constructed are drawn again
        from ``seed``; weights that were trained, loaded or set are where the fit starts.
    data
        Named columns: a dict of arrays, a :class:`~vaeppl.data.Data`, a pandas DataFrame, a file
        (``.npz``, ``.csv``, ``.h5ad``) or the name of a data set. Of data with splits, the train
        split is fitted and the valid split is held out.
    guide
        The guide, where ``model`` is a function; it takes the same columns. ``"auto"``: one that
        is made from the story, :class:`~vaeppl.guides.AutoAmortizedGuide`.
    estimator
        A name from :func:`vaeppl.estimators.available`, or a ``pyro.infer.ELBO``.
    num_particles
        Draws from the guide for each row and step.
    epochs
        Passes over the data.
    batch_size
        Rows in a minibatch, over all devices; at most 128 if not given.
    seed
        Fixes initial weights, order of rows and draws: the same seed gives the same numbers on
        the same machine. The caller's random state is left as it was.
    optimizer, lr, weight_decay
        ``"adam"``, ``"adamw"``, ``"sgd"``, or a function from a list of parameters to a
        ``torch.optim.Optimizer`` (then ``lr`` and ``weight_decay`` are its own).
    lr_schedule
        A factor on the learning rate: ``"constant"``, ``"cosine"``, ``"linear"`` or a
        :class:`~vaeppl.training.schedules.Schedule`.
    clip_norm
        Largest norm of the gradient of the ELBO *per row*.
    kl_weight
        Weight β of the KL in the objective, a number or a schedule:
        ``schedules.Linear(0, 1, share=0.3)`` anneals it. The ELBO reported is never weighted.
        ``None``: that of the estimator, which is 1 unless it was given another.
    free_bits
        Nats that each latent dimension may cost at no loss.
    rare_share
        Where a column is observed in some rows only (a label): the smallest share of a batch that
        the rows with it, or without it, have. They are weighted, so the ELBO stays unbiased.
    valid
        Held-out rows: data of the same columns, or a share of the rows to hold out (by seed).
        ``None``: the valid split of the data, if they have one; ``False``: none.
    patience
        Stop after this many epochs without a rise of the held-out ELBO, and return to the best
        weights. ``None``: never.
    out
        Folder for the run: config.json, history.csv, weights and checkpoints. ``None``: nothing
        is written.
    resume
        Go on where a killed run in ``out`` was, with the very numbers that it would have given.
        Starts from the beginning where there is nothing yet.
    checkpoint_every
        Epochs between checkpoints; ``None``: whenever 20 seconds have passed.
    accelerator, devices, num_nodes, precision
        As in Lightning Fabric: ``"cpu"``, ``"gpu"``, ``"auto"``; how many of them on each machine;
        how many machines, on each of which the same script is started, by ``torchrun`` or SLURM's
        ``srun``; ``"32-true"``, ``"64-true"``, ``"bf16-mixed"`` or ``"16-mixed"``. Mixed, the
        networks are computed in lower precision, and all densities in float32. ``"tf32"``:
        products of matrices in TensorFloat-32, on GPUs that have it.
    compile
        Make one compiled graph of a whole step: story, gradient and optimiser. ``"auto"``: where
        the run is long enough to pay for the seconds that it takes; ``True``, ``False``: always,
        never. The numbers are the same but for rounding. Every story of the zoo can be compiled,
        and with every estimator but ``"evolution"``, ``"factor_tc"`` and ``"adversarial"``, under
        Adam, AdamW and SGD, in one process, in every precision but ``"64-true"`` and
        ``"16-mixed"``. What cannot be is fitted as usual, with a warning that says why: a story
        that reads the value of a tensor, or draws random numbers of NumPy, say.
    progress
        Show epochs, ELBO, reconstruction and KL while it runs.

    Returns
    -------
    Fit
        The fitted model, its history, and what can be asked of it. Ctrl-C ends the fit early and
        returns what there is.

    Raises
    ------
    ColumnError, StoryError
        Before training: data or model are not as they should be.
    CheckpointError
        ``out`` holds a run already and ``resume`` is false, or that run differs from this one.
    NonFiniteELBO
        The ELBO became NaN or infinite.

    Examples
    --------
    >>> import vaeppl, torch
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(200, 12) < 0.3).float()
    >>> run = vaeppl.fit(VAE(12, 2, hidden=(16,)), {"x": x}, epochs=2, seed=0, progress=False)
    >>> list(run.history.columns[:4])
    ['step', 'elbo', 'reconstruction', 'kl']
    """
    data = as_data(data)
    if isinstance(guide, str):  # where it starts depends on the story's weights
        _draw_weights(model, seed)
    others = () if valid is None or isinstance(valid, (bool, float)) else (valid,)
    pair = as_pair(model, guide_for(model, guide, data, *others, seed=seed))
    train, held_out = _split(data, valid, seed)
    _check_settings(locals())
    if patience is not None and held_out is None:
        raise ColumnError(
            "patience needs held-out rows: give valid=0.1, or data with a valid split"
        )
    batch_size = min(128, len(train)) if batch_size is None else batch_size
    checked = checks.check(pair, train, batch_size=batch_size)
    if held_out is not None:
        checks.check(pair, held_out, batch_size=len(held_out), to_fit=False)
    elbo = _estimator(estimator, num_particles, free_bits)
    beta, factor = _beta(kl_weight, elbo), schedules.get(lr_schedule)
    check_weights(elbo, beta, free_bits)
    check_enumeration(elbo, pair, checked.enumerated)
    settings = Settings(
        estimator=estimator if isinstance(estimator, str) else type(estimator).__name__,
        num_particles=elbo.num_particles,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        optimizer=optimizer if isinstance(optimizer, str) else "custom",
        lr=lr,
        weight_decay=weight_decay,
        lr_schedule=to_config(factor),
        clip_norm=clip_norm,
        kl_weight=to_config(beta),
        free_bits=free_bits,
        patience=patience,
        precision=precision,
        rare_share=rare_share,
    )
    config = {
        "vaeppl": __version__,
        "model": describe_model(pair) | ({"guide": guide} if isinstance(guide, str) else {}),
        "data": describe_data(train, data, held_out, valid),
        "settings": asdict(settings),
        "points": list(checked.points),
    }
    folder = None if out is None else RunFolder(Path(out))
    goes_on = folder is not None and can_resume(folder, config, resume)
    with seeded(seed):
        fabric = _fabric(accelerator, devices, num_nodes, precision)
        _initialise(pair, train, seed)
        trainer = Trainer(
            fabric=fabric,
            pair=pair,
            estimator=elbo,
            optimizer=make_optimizer(
                optimizer, [p for p in pair.parameters() if p.requires_grad], lr, weight_decay
            ),
            train=_resident(train, pair, fabric.device),
            valid=None if held_out is None else _resident(held_out, pair, fabric.device),
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            kl_weight=beta,
            lr_schedule=factor,
            clip_norm=clip_norm,
            patience=patience,
            rare_share=rare_share,
            scaled=checked.scaled,
            compile=compile,
        )
        if folder is not None:
            trainer.state = restore(folder, trainer) if goes_on else State()
            if fabric.is_global_zero:
                folder.write_config(config)
        called = "objective" if checked.points else "ELBO"
        shows = progress and fabric.is_global_zero
        bar = ProgressBar(epochs, trainer.state.epoch, enabled=shows, called=called)
        with matmul_precision(precision):
            _train(trainer, folder, bar, checkpoint_every)
    result = Fit(pair, trainer.state, config, train=train)
    if folder is not None and fabric.is_global_zero:
        result.save(folder.path)
    bar.close(_last_words(trainer, folder, called))
    return result


def _check_settings(settings: dict[str, Any]) -> None:
    """Refuse numbers that make no sense, by name."""
    whole = ("epochs", "seed", "num_particles", "patience", "checkpoint_every", "num_nodes")
    for name in whole:
        value = settings[name]
        least = 0 if name == "seed" else 1
        optional = name in ("patience", "checkpoint_every")
        if value is None and optional:
            continue
        whole_number(name, value, least)
    if not 0 <= settings["rare_share"] <= 0.5:
        raise ValueError(f"rare_share is from 0 to 0.5; given {settings['rare_share']}")
    for name in ("lr", "clip_norm", "weight_decay", "free_bits"):
        value = settings[name]
        above = name in ("lr", "clip_norm")
        if value is None and name == "clip_norm":
            continue
        if not isinstance(value, (int, float)) or not value >= 0 or (above and value == 0):
            raise ValueError(f"{name} is a number {'> 0' if above else '>= 0'}; given {value!r}")
    if settings["compile"] not in MODES:
        raise ValueError(f"compile is True, False or 'auto'; given {settings['compile']!r}")
    if settings["precision"] not in PRECISIONS:
        raise ValueError(
            f"precision is one of {', '.join(PRECISIONS)}; given {settings['precision']!r} (with "
            "weights and densities of 16 bits a sum over rows has three digits)"
        )
    if settings["resume"] and settings["out"] is None:
        raise ValueError("resume=True needs the folder of the run: give out=")


def _estimator(estimator: Any, num_particles: int, free_bits: float) -> Any:
    """Return the estimator; one that is given ready-made keeps its own options."""
    if isinstance(estimator, str):
        options = {"free_bits": free_bits} if free_bits else {}
        return estimators.get(estimator, num_particles=num_particles, **options)
    made = estimators.get(estimator)
    if num_particles not in (1, made.num_particles):
        raise ValueError(
            f"the estimator given has {made.num_particles} particles, but num_particles="
            f"{num_particles}; give the number to one of them only"
        )
    if free_bits:
        raise ValueError("give free_bits to the estimator itself, as it is given ready-made")
    return made


def _beta(kl_weight: Any, estimator: Any) -> schedules.Schedule:
    """Return the schedule of the KL weight; that of the estimator if none is asked for."""
    if kl_weight is None:
        kl_weight = float(getattr(estimator, "kl_weight", 1.0))
    schedule = schedules.get(kl_weight)
    if any(schedule(p / 20) < 0 for p in range(21)):
        raise ValueError("kl_weight is >= 0 throughout; a negative weight rewards a large KL")
    return schedule


def _split(data: Data, valid: Any, seed: int) -> tuple[Data, Data | None]:
    """Return the rows to fit and the rows to hold out."""
    if valid is None:
        return data.train, data.valid if data.has_split("valid") else None
    if valid is False:
        return data.train, None
    if isinstance(valid, float):
        if not 0 < valid < 1:
            raise ColumnError(
                f"valid is a share of the rows between 0 and 1, or data; given {valid}"
            )
        parts = data.train.split(valid=valid, test=0, seed=seed)
        return parts.train, parts.valid
    rows = as_data(valid)
    if rows.has_split("valid"):
        return data.train, rows.valid
    if rows.splits:
        raise ColumnError(
            f"the data given as valid have splits ({', '.join(rows.splits)}), but none is called "
            "'valid': pass the rows to hold out, valid=data.test say"
        )
    return data.train, rows


def _fabric(accelerator: str, devices: int | str, num_nodes: int, precision: str) -> Any:
    from lightning_fabric import Fabric

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*srun.*")  # no matter on a single machine
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            precision="32-true" if precision == "tf32" else precision,  # type: ignore[arg-type]
        )
    fabric.launch()
    return fabric


def _initialise(pair: Pair, train: Data, seed: int) -> None:
    """Draw the initial weights by seed, and make the parameters that exist after a first run."""
    _draw_weights(pair.source[0], seed)
    for stratum in strata(pair, train):
        columns = train.columns(*stratum.columns)
        first = columns.take(stratum.rows[:8], device=pair.device)
        pair.initialise(_as_dtype(first, pair))
    if not any(p.requires_grad for p in pair.parameters()):
        raise StoryError(f"{pair.name} has no parameter that could be fitted")


def _draw_weights(story: Any, seed: int) -> None:
    if isinstance(story, Model):
        story.draw_initial_weights(derived_seed(seed, Stream.WEIGHTS))


def _as_dtype(batch: dict[str, torch.Tensor], pair: Pair) -> dict[str, torch.Tensor]:
    return {k: v.to(pair.dtype) if v.is_floating_point() else v for k, v in batch.items()}


def _resident(data: Data, pair: Pair, device: torch.device) -> Data:
    """Return the pair's columns on the device, in the floating type of its parameters."""
    return data.columns(*[c for c in pair.columns if c in data]).to(device, dtype=pair.dtype)


def _train(trainer: Trainer, folder: RunFolder | None, bar: ProgressBar, every: int | None) -> None:
    """Run the epochs, showing and checkpointing them; Ctrl-C keeps the fit so far."""
    saved, kept = time.monotonic(), trainer.state.epoch
    try:
        for record in trainer.run():
            bar.update(record)
            epoch, now = int(record["epoch"]), time.monotonic()
            due = now - saved > SECONDS_BETWEEN_CHECKPOINTS if every is None else epoch % every == 0
            if (
                folder is not None
                and trainer.fabric.is_global_zero
                and (due or epoch == trainer.epochs)
            ):
                write_checkpoint(folder, trainer)
                saved, kept = now, epoch
    except RuntimeError as error:
        if trainer.fabric.world_size > 1 and LOST.search(str(error)):
            raise ProcessLost(_what_is_left(trainer, folder, kept)) from error
        raise
    except KeyboardInterrupt:
        trainer.state.stopped = "interrupted"
        trainer.state.best_epoch = trainer.state.epoch  # the weights are those of now
    if not trainer.state.stopped:
        trainer.state.stopped = "finished"
    if trainer.state.best_weights and trainer.state.stopped != "interrupted":
        trainer.pair.load_state_dict(trainer.state.best_weights)
    trainer.pair.eval()


def _what_is_left(trainer: Trainer, folder: RunFolder | None, kept: int) -> str:
    """Say that a process was lost, and from where the run can go on."""
    lost = (
        f"one of the {trainer.fabric.world_size} processes of this fit died in epoch "
        f"{trainer.state.epoch + 1}; its own messages say why"
    )
    if folder is None:
        return f"{lost}. Nothing was written: give out= to be able to go on after such a loss"
    if not kept:
        return f"{lost}. No checkpoint was due yet: give checkpoint_every=1 to have one soon"
    return (
        f"{lost}. The checkpoint of epoch {kept} is in {folder.checkpoints}: the same call with "
        "resume=True goes on from there"
    )


def _last_words(trainer: Trainer, folder: RunFolder | None, called: str) -> str:
    state = trainer.state
    why = {
        "early": f"stopped early: best held-out {called} at epoch {state.best_epoch}",
        "interrupted": f"interrupted after {state.epoch} epochs; the fit so far is kept",
    }.get(state.stopped, f"fitted in {seconds_of(state.history)}")
    return f"{why}; run in {folder.path}" if folder is not None else why
