"""Export to ArviZ."""

from typing import Any


def to_arviz(source: Any, data: Any, **options: Any) -> Any: ...
