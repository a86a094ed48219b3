"""vaeppl: variational auto-encoders as generative stories on Pyro."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import checks as checks
    from . import corruptions as corruptions
    from . import data as data
    from . import errors as errors
    from . import estimators as estimators
    from . import gp as gp
    from . import guides as guides
    from . import likelihoods as likelihoods
    from . import linear as linear
    from . import models as models
    from . import nets as nets
    from . import plots as plots
    from . import priors as priors
    from . import representation as representation
    from . import singlecell as singlecell
    from .catalogue import likelihood_for as likelihood_for
    from .checks.full import check as check
    from .comparison import compare_estimators as compare_estimators
    from .copying import copy_model as copy_model
    from .fitted import Fit as Fit
    from .fitted import load as load
    from .model import Model as Model
    from .model import row_count as row_count
    from .model import row_share as row_share
    from .model import rows as rows
    from .reading.ais import annealed_evidence as annealed_evidence
    from .reading.analogies import analogies as analogies
    from .reading.chains import Chain as Chain
    from .reading.chains import chain as chain
    from .reading.classifier import LatentClassifier as LatentClassifier
    from .reading.collapse import latent_report as latent_report
    from .reading.compare import compare as compare
    from .reading.criticism import posterior_predictive_check as posterior_predictive_check
    from .reading.evidence import active_units as active_units
    from .reading.evidence import elbo as elbo
    from .reading.evidence import evidence as evidence
    from .reading.export import to_arviz as to_arviz
    from .reading.gaps import inference_gaps as inference_gaps
    from .reading.imputation import hide_entries as hide_entries
    from .reading.imputation import impute as impute
    from .reading.imputation import score_imputation as score_imputation
    from .reading.pit import quantile_residuals as quantile_residuals
    from .reading.prediction import predict as predict
    from .reading.prediction import predict_proba as predict_proba
    from .reading.prediction import score_labels as score_labels
    from .reading.predictive import encode as encode
    from .reading.predictive import posterior_predictive as posterior_predictive
    from .reading.predictive import reconstruct as reconstruct
    from .reading.predictive import sample as sample
    from .reading.sbc import calibrate_guide as calibrate_guide
    from .reading.scoring import calibration as calibration
    from .reading.scoring import calibration_error as calibration_error
    from .reading.scoring import classification_report as classification_report
    from .reading.scoring import confusion as confusion
    from .reading.sensitivity import prior_sensitivity as prior_sensitivity
    from .showing import show as show
    from .training.fit import fit as fit
    from .training.solved import as_fit as as_fit

# Where each public name lives. They are imported when first used, so that `import vaeppl` is quick.
_HOME = {
    "Chain": "reading.chains",
    "Fit": "fitted",
    "LatentClassifier": "reading.classifier",
    "Model": "model",
    "active_units": "reading.evidence",
    "analogies": "reading.analogies",
    "annealed_evidence": "reading.ais",
    "as_fit": "training.solved",
    "calibrate_guide": "reading.sbc",
    "calibration": "reading.scoring",
    "calibration_error": "reading.scoring",
    "chain": "reading.chains",
    "compare": "reading.compare",
    "compare_estimators": "comparison",
    "check": "checks.full",
    "classification_report": "reading.scoring",
    "copy_model": "copying",
    "confusion": "reading.scoring",
    "elbo": "reading.evidence",
    "encode": "reading.predictive",
    "evidence": "reading.evidence",
    "fit": "training.fit",
    "inference_gaps": "reading.gaps",
    "latent_report": "reading.collapse",
    "hide_entries": "reading.imputation",
    "impute": "reading.imputation",
    "likelihood_for": "catalogue",
    "load": "fitted",
    "posterior_predictive": "reading.predictive",
    "posterior_predictive_check": "reading.criticism",
    "predict": "reading.prediction",
    "predict_proba": "reading.prediction",
    "prior_sensitivity": "reading.sensitivity",
    "quantile_residuals": "reading.pit",
    "reconstruct": "reading.predictive",
    "row_count": "model",
    "row_share": "model",
    "rows": "model",
    "sample": "reading.predictive",
    "score_imputation": "reading.imputation",
    "score_labels": "reading.prediction",
    "show": "showing",
    "to_arviz": "reading.export",
}
_MODULES = (
    "checks",
    "corruptions",
    "data",
    "errors",
    "estimators",
    "gp",
    "guides",
    "likelihoods",
    "linear",
    "models",
    "nets",
    "plots",
    "priors",
    "representation",
    "singlecell",
)

__all__ = [*_HOME, *_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
