"""Pictures of a fit: how it went, what the story draws, what latents and labels tell."""

from .cells import mean_variance, volcano, zero_fractions
from .chains import chain
from .checks import evidence, posterior_predictive_check
from .comparison import comparison
from .criticism import prior_sensitivity, quantile_residuals
from .curves import learning_curve
from .estimators import bias_variance, estimator_curves, evidence_gaps, signal_to_noise
from .files import save_all
from .gp import bands, covariance, latent_paths, predictions
from .guides import inference_gaps, rank_histogram
from .images import manifold, reconstructions, samples
from .labels import analogies, calibration, confusion
from .latent import active_units, embedding
from .representation import factor_matrix, interpolations, label_efficiency, traversals

__all__ = [
    "active_units",
    "analogies",
    "bands",
    "bias_variance",
    "calibration",
    "chain",
    "comparison",
    "confusion",
    "covariance",
    "embedding",
    "estimator_curves",
    "evidence",
    "evidence_gaps",
    "factor_matrix",
    "inference_gaps",
    "interpolations",
    "label_efficiency",
    "latent_paths",
    "learning_curve",
    "manifold",
    "mean_variance",
    "posterior_predictive_check",
    "predictions",
    "prior_sensitivity",
    "quantile_residuals",
    "rank_histogram",
    "reconstructions",
    "samples",
    "save_all",
    "signal_to_noise",
    "traversals",
    "volcano",
    "zero_fractions",
]
