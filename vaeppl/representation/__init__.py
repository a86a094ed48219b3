"""How good a representation is: metrics of codes against known factors, and probes of labels.

Everything takes arrays: latents ``(N, D)``, most often the posterior means that
:func:`vaeppl.encode` gives, and factors ``(N, F)`` or labels ``(N,)`` as whole numbers.
"""

from .clusters import Clusterability, clusterability
from .correlation import total_correlation
from .fixed_factor import beta_vae_score, factor_vae_score
from .information import mig, modularity, mutual_information
from .mixing import BatchMixing, batch_mixing
from .paths import interpolate, traverse
from .prediction import DCI, dci, explicitness, sap
from .probes import label_efficiency, linear_probe
from .reports import report
from .scores import Score
from .unmixing import amari_distance

__all__ = [
    "DCI",
    "BatchMixing",
    "Clusterability",
    "Score",
    "amari_distance",
    "batch_mixing",
    "beta_vae_score",
    "clusterability",
    "dci",
    "explicitness",
    "factor_vae_score",
    "interpolate",
    "label_efficiency",
    "linear_probe",
    "mig",
    "modularity",
    "mutual_information",
    "report",
    "sap",
    "total_correlation",
    "traverse",
]
