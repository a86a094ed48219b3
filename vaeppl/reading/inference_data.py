"""From named arrays to what the installed ArviZ works on: an InferenceData, or a DataTree."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["Group", "assemble"]

# The variables of one group: their named dimensions and values.
Group = Mapping[str, tuple[tuple[str, ...], np.ndarray]]


def assemble(
    groups: Mapping[str, Group],
    coords: Mapping[str, Any],
    *,
    attrs: Mapping[str, Any] | None = None,
    variable_attrs: Mapping[str, Mapping[str, Any]] | None = None,
) -> Any:
    """Put groups of named arrays together as the installed ArviZ wants them.

    Parameters
    ----------
    groups
        ``{"posterior": {"z": (("chain", "draw", "row", "z_dim"), values)}, ...}``; groups without
        a variable are left out.
    coords
        Labels of dimensions; a dimension without any is numbered.
    attrs
        Noted on every group.
    variable_attrs
        Noted on the variables of that name.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        The former before ArviZ 1.0, the latter since.

    Raises
    ------
    ValueError
        If a variable has another number of dimensions than names, or dimensions disagree.

    Examples
    --------
    >>> tree = assemble({"posterior": {"z": (("chain", "draw"), np.zeros((1, 5)))}}, {})
    >>> tree.posterior["z"].sizes["draw"]
    5
    """
    notes = variable_attrs or {}
    datasets = {
        name: _dataset(group, coords, attrs or {}, notes) for name, group in groups.items() if group
    }
    arviz = import_arviz()
    if int(arviz.__version__.split(".")[0]) < 1:
        return arviz.InferenceData(**datasets)
    import xarray

    return xarray.DataTree.from_dict(datasets)


def _dataset(
    group: Group,
    coords: Mapping[str, Any],
    attrs: Mapping[str, Any],
    variable_attrs: Mapping[str, Mapping[str, Any]],
) -> Any:
    import xarray

    sizes = {
        d: n for dims, values in group.values() for d, n in zip(dims, values.shape, strict=True)
    }
    labels = {d: np.asarray(coords.get(d, np.arange(n))) for d, n in sizes.items()}
    variables = {
        name: (dims, values, dict(variable_attrs.get(name, {})))
        for name, (dims, values) in group.items()
    }
    return xarray.Dataset(variables, coords=labels, attrs=dict(attrs))


def import_arviz() -> Any:
    """Import ArviZ without the notice on its refactoring that 0.23 shows at each import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz
    return arviz
