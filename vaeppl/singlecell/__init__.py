"""Counts of single cells: what is asked of the columns, and what a fit says about expression."""

from __future__ import annotations

from .annotated import from_anndata
from .cells import check_cells, check_counts, sizes_for, unknown_level
from .checks import CountsCheck, count_statistics, predictive_check
from .differential import differential_expression, expected_fdr
from .export import to_anndata
from .expression import (
    get_denoised_counts,
    get_latent_library_size,
    get_latent_representation,
    get_normalized_expression,
)

__all__ = [
    "CountsCheck",
    "check_cells",
    "check_counts",
    "count_statistics",
    "differential_expression",
    "expected_fdr",
    "from_anndata",
    "get_denoised_counts",
    "get_latent_library_size",
    "get_latent_representation",
    "get_normalized_expression",
    "predictive_check",
    "sizes_for",
    "to_anndata",
    "unknown_level",
]
