"""Counts of single cells: what is asked of the columns, and what a fit says about expression."""

from __future__ import annotations

from .annotated import from_anndata
from .cells import check_cells, check_counts, sizes_for, unknown_level
from .differential import differential_expression, expected_fdr
from .expression import (
    get_denoised_counts,
    get_latent_library_size,
    get_latent_representation,
    get_normalized_expression,
)

__all__ = [
    "check_cells",
    "check_counts",
    "differential_expression",
    "expected_fdr",
    "from_anndata",
    "get_denoised_counts",
    "get_latent_library_size",
    "get_latent_representation",
    "get_normalized_expression",
    "sizes_for",
    "unknown_level",
]
