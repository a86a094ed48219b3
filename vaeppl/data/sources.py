"""From what users have at hand (tables, AnnData, files, names of data sets) to `Data`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch

from .annotated import OnDisk, from_anndata, is_anndata
from .dataset import Data
from .download import open_npz
from .errors import DataError, did_you_mean
from .registry import load
from .tables import from_frame

__all__ = ["as_data", "from_anndata", "from_frame", "from_origin"]

_SUFFIXES = (".npz", ".csv", ".tsv", ".h5ad")
_STEPS = ("binarize", "split", "few_labels")  # of Data, in whatever order they were taken


def as_data(
    source: Any,
    *,
    columns: Any = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Data:
    """Make `Data` of whatever holds named columns.

    Parameters
    ----------
    source : Data, mapping, DataFrame, AnnData, path or str
        A mapping of arrays; a table; a file ending in .npz, .csv, .tsv or .h5ad; or the name of
        a data set (see `available`). A `Data` is returned as it is.
    columns : mapping or sequence of str, optional
        Which columns to use. For tables, a mapping from column name to one or several columns of
        the table, as in `from_frame`, and for AnnData likewise to columns of ``adata.obs``;
        otherwise a mapping ``{new name: old name}``, or a sequence of names to keep.
    dtype : torch.dtype, optional
        Floating type of the values, as in `Data`.
    **options
        Passed on: to `pandas.read_csv` for .csv and .tsv, to `from_anndata` for AnnData and
        .h5ad (and ``backed=True`` leaves the matrix on disk), to the loader of a named data set.

    Returns
    -------
    Data

    Raises
    ------
    DataError
        If the source is of no known kind, a file cannot be read, or a name is unknown.

    Examples
    --------
    >>> as_data({"x": [[0.0, 1.0], [2.0, 3.0]]}).shape("x")
    (2,)
    """
    if isinstance(source, Data):
        _no_options(options, "a Data")
        data = _choose(source, columns)
        return data if dtype is None else data.to(dtype=dtype)
    if isinstance(source, Mapping):
        _no_options(options, "a mapping of arrays")
        return Data(_choose_keys(source, columns), dtype=dtype)
    if _is(source, "pandas", "DataFrame"):
        return from_frame(source, columns, dtype=dtype, **options)
    if is_anndata(source):
        return _from_anndata(source, columns, dtype, options)
    if isinstance(source, (str, os.PathLike)):
        data = _from_text(source, columns, dtype, options)
        data._origin = _origin(source, columns, options)
        return data
    raise DataError(
        f"cannot make data of {_a(type(source).__name__)}; expected a mapping such as "
        "{'x': array}, a pandas DataFrame, an AnnData, a path ending in "
        f"{', '.join(_SUFFIXES)}, or the name of a data set"
    )


def _origin(source: Any, columns: Any, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Say how to have the data again, if JSON can hold it."""
    path = os.fspath(source)
    if path.endswith(_SUFFIXES):
        path = str(Path(path).resolve())
    origin = {"source": path, "columns": columns, "options": dict(options)}
    try:
        return cast("dict[str, Any]", json.loads(json.dumps(origin)))
    except TypeError:
        return None


def from_origin(origin: Mapping[str, Any]) -> Data:
    """Make the `Data` again that said ``data.origin``.

    Raises
    ------
    DataError
        If the file is gone, or a name is unknown.

    Examples
    --------
    >>> digits = as_data("digits").split(seed=1)
    >>> from_origin(digits.origin).fingerprint() == digits.fingerprint()
    True
    """
    source = origin["source"]
    if isinstance(source, Mapping):
        source = from_origin(source)
    data = as_data(source, columns=origin["columns"], **origin["options"])
    for step in origin:
        if step in _STEPS:
            data = getattr(data, step)(**origin[step])
    return data


# Files and names


def _from_text(
    source: str | os.PathLike[str],
    columns: Any,
    dtype: torch.dtype | None,
    options: dict[str, Any],
) -> Data:
    """Read a file by its suffix, or a data set by its name."""
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        if isinstance(source, os.PathLike) or path.exists() or os.sep in str(source):
            raise DataError(f"cannot read {path}: expected a file ending in {_SUFFIXES}")
        data = _choose(load(str(source), **options), columns)
        return data if dtype is None else data.to(dtype=dtype)
    if not path.is_file():
        raise DataError(f"there is no file {path} (working directory {Path.cwd()})")
    if suffix == ".npz":
        _no_options(options, "an .npz file")
        arrays = _guarded(path, lambda: _read_npz(path, columns))
        return Data(arrays, name=path.stem, dtype=dtype)
    if suffix == ".h5ad":
        return _read_h5ad(path, columns, dtype, options)
    import pandas as pd

    options = {"sep": "\t" if suffix == ".tsv" else ",", **options}
    frame = _guarded(path, lambda: pd.read_csv(path, **options))
    # Names such as 0, 1, ... of a file without header are hard to say; text is not.
    frame.columns = [str(column) for column in frame.columns]
    return from_frame(frame, columns, path.stem, dtype=dtype)


def _read_npz(path: Path, columns: Any) -> dict[str, Any]:
    with open_npz(path) as archive:
        chosen = _choose_keys({key: key for key in archive.files}, columns)
        return {name: archive[key] for name, key in chosen.items()}


def _read_h5ad(
    path: Path, columns: Any, dtype: torch.dtype | None, options: dict[str, Any]
) -> Data:
    import anndata

    read = OnDisk if options.get("backed") else anndata.read_h5ad
    options = {name: value for name, value in options.items() if name != "backed"}
    data = _from_anndata(_guarded(path, lambda: read(path)), columns, dtype, options)
    data.name = path.stem
    return data


def _from_anndata(
    adata: Any, columns: Any, dtype: torch.dtype | None, options: dict[str, Any]
) -> Data:
    """Read a matrix and columns of ``adata.obs``, which may be named as those of a table are."""
    if isinstance(columns, Mapping):
        obs = dict(options.get("obs") or {})
        read = (options.get("x", "x"), *obs)
        new = {name: c for name, c in columns.items() if not isinstance(c, str) or c not in read}
        options = {**options, "obs": {**obs, **new}}
        renamed = {name: c for name, c in columns.items() if name not in new}
        columns = {**renamed, **{name: name for name in new}} if renamed else None
    return _choose(from_anndata(adata, dtype=dtype, **options), columns)


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    """Read a file, and name it when that fails for whatever reason its reader has."""
    try:
        return read()
    except DataError as error:
        raise DataError(f"in {path}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # readers raise anything: OSError, KeyError, BadZipFile, ...
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"cannot read {path} ({detail}); it may be damaged or cut short, "
            f"or not be a {path.suffix} file"
        ) from error


# Choosing columns


def _choose_keys(source: Mapping[str, Any], columns: Any) -> dict[str, Any]:
    """Entries of a mapping by new name: all, the ones listed, or ``{new: old}``."""
    if columns is None:
        return dict(source)
    wanted = columns if isinstance(columns, Mapping) else {c: c for c in _listed(columns)}
    for old in wanted.values():
        if old not in source:
            raise DataError(f"there is no column {old!r}; {did_you_mean(str(old), source)}")
    return {new: source[old] for new, old in wanted.items()}


def _choose(data: Data, columns: Any) -> Data:
    if columns is None:
        return data
    wanted = _choose_keys({name: name for name in data}, columns)
    return data.columns(*wanted.values()).rename({old: new for new, old in wanted.items()})


def _listed(columns: Any) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns)


def _no_options(options: dict[str, Any], what: str) -> None:
    if options:
        raise DataError(f"unknown options {sorted(options)}; {what} takes none")


def _is(source: Any, package: str, name: str) -> bool:
    """Whether an object is of a class of a package, without importing the package."""
    return any(
        base.__name__ == name and base.__module__.split(".")[0] == package
        for base in type(source).__mro__
    )


def _a(word: str) -> str:
    return f"an {word}" if word[:1].lower() in "aeiou" else f"a {word}"
