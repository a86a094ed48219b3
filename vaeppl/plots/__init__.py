"""Pictures of a fit: how it went, what the story draws, what latents and labels tell."""

from .checks import evidence, posterior_predictive_check
from .curves import learning_curve
from .files import save_all
from .images import manifold, reconstructions, samples
from .labels import analogies, calibration, confusion
from .latent import active_units, embedding
from .representation import factor_matrix, interpolations, label_efficiency, traversals

__all__ = [
    "active_units",
    "analogies",
    "calibration",
    "confusion",
    "embedding",
    "evidence",
    "factor_matrix",
    "interpolations",
    "label_efficiency",
    "learning_curve",
    "manifold",
    "posterior_predictive_check",
    "reconstructions",
    "samples",
    "save_all",
    "traversals",
]
