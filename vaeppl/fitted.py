"""A fit: the fitted model, how it got there, and what can be asked of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import build, opaque_arguments
from .data import as_data, from_origin
from .data.annotated import from_anndata, is_anndata
from .data.schema import Schema, schema_from_json, schema_of, schema_to_json
from .errors import CheckpointError
from .files import load_state, read_json, read_tensors, write_json, write_tensors, write_whole
from .guides import guide_for
from .model import Model
from .pair import Pair, as_pair
from .reading import collapse, criticism, export, imputation, prediction, predictive
from .reading import evidence as _evidence
from .reading.classifier import LatentClassifier
from .reading.labels import own_classifier
from .training.state import State

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from .data import Data

__all__ = ["Fit", "RunFolder", "load"]


class RunFolder:
    """The files of a run: config.json, history.csv, weights.safetensors, checkpoints/, plots/.

    Where the columns have names (genes, levels of a factor), they are in columns.json.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.columns = path / "columns.json"
        self.history = path / "history.csv"
        self.weights = path / "weights.safetensors"
        self.checkpoints = path / "checkpoints"
        self.plots = path / "plots"

    def exists(self) -> bool:
        """Tell whether there is a run in the folder."""
        return self.config.is_file()

    def write_config(self, config: dict[str, Any]) -> None:
        """Write how the run was made."""
        write_json(self.config, config)

    def read_config(self) -> dict[str, Any]:
        """Read how the run was made."""
        config: dict[str, Any] = read_json(self.config)
        return config


class Fit:
    """What :func:`vaeppl.fit` returns.

    Attributes
    ----------
    model
        The fitted model (the object that was passed to ``fit``), or its model function.
    pair : Pair
        Model and guide as one torch module.
    history : pandas.DataFrame
        A row an epoch: ``step``, ``elbo``, ``reconstruction``, ``kl`` per row in nats, ``global``
        (the share of latents outside the plate of rows), ``kl_weight``, ``lr``, ``valid_elbo``
        if rows were held out, ``seconds``.
    stopped : str
        ``"finished"``, ``"early"`` or ``"interrupted"``.
    best_epoch : int
        The epoch whose weights these are, with ``patience``; else the last one.
    config : dict
        How the fit was made.
    schema : dict of str to Named
        What is called how in the columns that were fitted: genes, levels of a factor.
    """

    def __init__(
        self,
        pair: Pair,
        state: State,
        config: dict[str, Any],
        train: Data | None = None,
        schema: Schema | None = None,
    ) -> None:
        self.pair = pair
        self.config = config
        self.stopped = state.stopped
        self.best_epoch = state.best_epoch or state.epoch
        self._records = state.history
        self._classifiers: dict[tuple[str, int], LatentClassifier] = {}
        self.train = train
        self.schema = dict(schema or {})
        if train is not None and schema is None:
            self.schema = schema_of(train, pair.columns)

    @property
    def model(self) -> Any:
        """The fitted model."""
        return self.pair.source[0]

    @property
    def history(self) -> pd.DataFrame:
        """A row an epoch, indexed by epoch."""
        import pandas as pd

        records = pd.DataFrame(self._records, columns=None if self._records else ["epoch", "step"])
        return records.astype({"epoch": int, "step": int}).set_index("epoch")

    @property
    def called(self) -> str:
        """What was fitted: ``"ELBO"``, or ``"objective"`` if the guide sets a latent to a value."""
        return "objective" if self.config.get("points") else "ELBO"

    def __repr__(self) -> str:
        last = self._records[self.best_epoch - 1] if self.best_epoch else {}
        elbo = f", {self.called} {last['elbo']:.2f} nats/row" if "elbo" in last else ""
        held = f", held-out {last['valid_elbo']:.2f}" if "valid_elbo" in last else ""
        return f"Fit({self.pair.name}, {len(self._records)} epochs, {self.stopped}{elbo}{held})"

    # --- keeping it ---

    def save(self, path: str | Path) -> Path:
        """Write the fit into a folder: config.json, history.csv, weights.safetensors.

        Returns
        -------
        Path
            The folder.
        """
        folder = RunFolder(Path(path))
        write_tensors(folder.weights, self.pair.state_dict())
        write_whole(folder.history, lambda p: self.history.to_csv(p))
        if self.schema:
            write_json(folder.columns, schema_to_json(self.schema))
        folder.write_config(
            {**self.config, "result": {"stopped": self.stopped, "best_epoch": self.best_epoch}}
        )
        return folder.path

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> Fit:
        """Read a fit from a folder; see :func:`load`."""
        return load(path, **options)

    # --- reading it ---

    def elbo(self, data: Any = None, **options: Any) -> Any:
        """ELBO per row with its split; see :func:`vaeppl.elbo`."""
        return _evidence.elbo(self, self._rows(data), **options)

    def evidence(self, data: Any = None, **options: Any) -> Any:
        """Estimate log p(x) per row by importance sampling; see :func:`vaeppl.evidence`."""
        return _evidence.evidence(self, self._rows(data), **options)

    def active_units(self, data: Any = None, **options: Any) -> Any:
        """Latent dimensions that vary with the data; see :func:`vaeppl.active_units`."""
        return _evidence.active_units(self, self._rows(data), **options)

    def sample(self, num_rows: int = 1, **options: Any) -> dict[str, Tensor]:
        """Draw rows from the fitted story; see :func:`vaeppl.sample`."""
        return predictive.sample(self, num_rows, **options)

    def encode(self, data: Any = None, **options: Any) -> dict[str, Tensor]:
        """Posterior means (or draws) of the latents; see :func:`vaeppl.encode`."""
        return predictive.encode(self, self._rows(data), **options)

    def reconstruct(self, data: Any = None, **options: Any) -> dict[str, Tensor]:
        """Mean of the data given each row's latents; see :func:`vaeppl.reconstruct`."""
        return predictive.reconstruct(self, self._rows(data), **options)

    def posterior_predictive(self, data: Any = None, **options: Any) -> dict[str, Tensor]:
        """Draws of new data given each row's latents; see :func:`vaeppl.posterior_predictive`."""
        return predictive.posterior_predictive(self, self._rows(data), **options)

    def impute(self, data: Any = None, **options: Any) -> Any:
        """Fill in missing entries given the rest of their row; see :func:`vaeppl.impute`."""
        return imputation.impute(self, self._rows(data), **options)

    def latent_report(self, data: Any = None, **options: Any) -> pd.DataFrame:
        """Tell what each latent dimension costs; see :func:`vaeppl.latent_report`."""
        return collapse.latent_report(self, self._rows(data), **options)

    def posterior_predictive_check(self, data: Any = None, **options: Any) -> Any:
        """Check the story; see :func:`vaeppl.posterior_predictive_check`."""
        return criticism.posterior_predictive_check(self, self._rows(data), **options)

    def predict_proba(self, data: Any = None, column: str = "y", **options: Any) -> Tensor:
        """Probability of each value of a label; see :func:`vaeppl.predict_proba`."""
        return prediction.predict_proba(self, self._rows(data), column, **options)

    def predict(self, data: Any = None, column: str = "y", **options: Any) -> Tensor:
        """Most probable label of each row; see :func:`vaeppl.predict`."""
        return prediction.predict(self, self._rows(data), column, **options)

    def score_labels(self, data: Any = None, column: str = "y", **options: Any) -> Any:
        """Predicted labels against those of the data; see :func:`vaeppl.score_labels`."""
        return prediction.score_labels(self, self._rows(data), column, **options)

    def latent_classifier(self, column: str = "y", *, seed: int = 0) -> LatentClassifier:
        """Return the classifier on the latents (that of M1), trained on the rows that were fitted.

        It is trained when first asked for, and never written to a file: see
        :class:`vaeppl.LatentClassifier`.
        """
        if (column, seed) not in self._classifiers:
            kind = own_classifier(self.pair) or "svm"
            own = LatentClassifier(self, kind, column=column, seed=seed)
            self._classifiers[column, seed] = own.fit(self._rows(None))
        return self._classifiers[column, seed]

    def to_arviz(self, data: Any = None, **options: Any) -> Any:
        """Export to ArviZ; see :func:`vaeppl.to_arviz`."""
        return export.to_arviz(self, self._rows(data), **options)

    def _read_again(self, origin: dict[str, Any]) -> Data:
        described = self.config["data"]
        rows = from_origin(origin).train
        if (share := described.get("held_out_share")) is not None:
            rows = rows.split(valid=share, test=0, seed=self.config["settings"]["seed"]).train
        if rows.fingerprint() != described["fingerprint"]:
            raise CheckpointError(
                f"the rows of {described['name']!r} are no longer those that were fitted; pass data"
            )
        return rows

    def _rows(self, data: Any) -> Any:
        """Return the rows given, or those that were fitted (a loaded fit reads them again)."""
        if is_anndata(data):
            return from_anndata(data, like=self.schema, optional=self.pair.partly_observed)
        if data is not None:
            return data
        if self.train is None:
            origin = self.config.get("data", {}).get("origin")
            if origin is None:
                raise CheckpointError("a fit that was loaded does not hold its data: pass them")
            self.train = self._read_again(origin)
        return self.train


def load(
    path: str | Path, model: Any = None, guide: Any = None, data: Any = None, classes: Any = None
) -> Fit:
    """Read a fit that :meth:`Fit.save`, or ``fit(out=...)``, wrote into a folder.

    Nothing is unpickled: the model is built again from config.json, and its weights are read from
    safetensors.

    Parameters
    ----------
    path
        The folder.
    model, guide
        The model (and its guide, for functions), where it is not one of vaeppl's own or was built
        with networks of the user's: an object of the same class, made with the same arguments.
    data
        A few rows, for functions that make parameters by ``pyro.param`` as they run; the rows
        that were fitted, for ``guide="auto"``.
    classes
        A user's own classes by their ``"module:Class"`` name, as an alternative to ``model``.

    Raises
    ------
    CheckpointError
        The folder holds no run, a damaged one, or one of another model.

    Examples
    --------
    >>> import tempfile, torch, vaeppl
    >>> from vaeppl.models import VAE
    >>> x = (torch.rand(50, 6) < 0.5).float()
    >>> run = vaeppl.fit(VAE(6, 2, hidden=(4,)), {"x": x}, epochs=1, progress=False)
    >>> again = vaeppl.load(run.save(tempfile.mkdtemp()))
    >>> bool((again.sample(3, seed=1)["x"] == run.sample(3, seed=1)["x"]).all())
    True
    """
    folder = RunFolder(Path(path))
    config = folder.read_config()
    if model is None:
        model = _build_model(config, folder, classes)
    if guide is None:
        guide = config.get("model", {}).get("guide")
    if guide == "auto" and data is None:
        origin = config.get("data", {}).get("origin")
        if origin is None:
            raise CheckpointError("a guide made from the story needs the rows fitted: pass data=")
        data = from_origin(origin)
    pair = as_pair(model, guide_for(model, guide, data))
    tensors = read_tensors(folder.weights)
    if data is not None or tensors.keys() - pair.state_dict().keys():
        _run_once(pair, data)
    load_state(pair, tensors, str(folder.weights))
    pair.eval()
    schema = schema_from_json(read_json(folder.columns)) if folder.columns.is_file() else {}
    return Fit(pair, _state(folder, config), config, schema=schema)


def _build_model(config: dict[str, Any], folder: RunFolder, classes: Any) -> Any:
    described = config.get("model", {}).get("config")
    if opaque := opaque_arguments(described, "model"):
        raise CheckpointError(
            f"the model of {folder.path} was built with what JSON cannot hold: "
            f"{', '.join(opaque)}. Build it as then, and pass it: vaeppl.load(path, model=...)"
        )
    return build(described, classes)


def _run_once(pair: Pair, data: Any) -> None:
    """Run functions that make their parameters by ``pyro.param``, so that they can be filled."""
    if data is None:
        if not isinstance(pair.source[0], Model):
            raise CheckpointError(
                f"{pair.name} makes its parameters as it runs; pass a few rows: "
                "vaeppl.load(path, model, guide, data=...)"
            )
        return
    rows = as_data(data)
    first = rows.take(range(min(8, len(rows))))
    pair.initialise(pair.batch(first))


def _state(folder: RunFolder, config: dict[str, Any]) -> State:
    import pandas as pd

    records: list[dict[str, float]] = []
    if folder.history.is_file():
        records = pd.read_csv(folder.history).to_dict("records")
    result = config.get("result", {})
    return State(
        epoch=len(records),
        history=records,
        best_epoch=result.get("best_epoch", 0),
        stopped=result.get("stopped", "unfinished"),
    )


def seconds_of(history: list[dict[str, float]]) -> str:
    """Return the time of the epochs in words."""
    seconds = sum(r.get("seconds", 0.0) for r in history)
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
