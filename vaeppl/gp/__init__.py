"""Gaussian processes over rows: kernels on columns, of low rank, and what is known given them."""

from .chunks import InParts, in_parts
from .factorise import JITTERS, cholesky, cholesky_of_precision
from .features import bound, columns_of, covariance, for_data, leaves, low_rank, matrix, rank
from .interpolation import interpolate
from .kernels import On, Product, Same, Scaled, Sum, Table, available
from .lowrank import LowRankNormal
from .prediction import Prediction, posterior, predict, weight_sums
from .weights import (
    Weights,
    WeightsGuide,
    WeightSums,
    values_given,
    weights_given,
    weights_prior,
)

__all__ = [
    "JITTERS",
    "InParts",
    "LowRankNormal",
    "On",
    "Prediction",
    "Product",
    "Same",
    "Scaled",
    "Sum",
    "Table",
    "WeightSums",
    "Weights",
    "WeightsGuide",
    "available",
    "bound",
    "cholesky",
    "cholesky_of_precision",
    "columns_of",
    "covariance",
    "for_data",
    "in_parts",
    "interpolate",
    "leaves",
    "low_rank",
    "matrix",
    "posterior",
    "predict",
    "rank",
    "values_given",
    "weight_sums",
    "weights_given",
    "weights_prior",
]
