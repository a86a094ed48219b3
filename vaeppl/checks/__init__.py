"""What is checked of a story: the fast part before each fit, and all of it on demand."""

from __future__ import annotations

from .fast import Checked, check, check_all_rows, check_batch_size
from .findings import Finding, Line, Report
from .full import check as check_story
from .values import CHUNK

__all__ = [
    "CHUNK",
    "Checked",
    "Finding",
    "Line",
    "Report",
    "check",
    "check_all_rows",
    "check_batch_size",
    "check_story",
]
