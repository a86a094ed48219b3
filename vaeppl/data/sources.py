"""From what users have at hand (tables, AnnData, files, names of data sets) to `Data`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from .columns import Field
from .dataset import Data
from .errors import DataError, did_you_mean
from .kinds import kind_of_values
from .registry import load

__all__ = ["as_data", "from_anndata", "from_frame", "from_origin"]

_SUFFIXES = (".npz", ".csv", ".tsv", ".h5ad")


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
        the table, as in `from_frame`; otherwise a mapping ``{new name: old name}``, or a sequence
        of names to keep.
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
    if _is(source, "anndata", "AnnData"):
        return _choose(from_anndata(source, dtype=dtype, **options), columns)
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
    data = as_data(origin["source"], columns=origin["columns"], **origin["options"])
    if "binarize" in origin:
        data = data.binarize(**origin["binarize"])
    if "split" in origin:
        data = data.split(**origin["split"])
    return data


def from_frame(
    df: Any,
    columns: Mapping[str, str | Sequence[str]] | None = None,
    name: str = "frame",
    *,
    dtype: torch.dtype | None = None,
) -> Data:
    """Make `Data` of a pandas DataFrame.

    Text and categories become integer codes with levels, booleans become 0 and 1, and missing
    entries become NaN.

    Parameters
    ----------
    df : pandas.DataFrame
        The table, one row an observation.
    columns : mapping, optional
        From column name, as the model knows it, to one column of the table (values of shape
        (N,)) or a list of them (values of shape (N, D), one field each). All columns of the
        table go into ``"x"`` if None.
    name : str
        What reports call the data.
    dtype : torch.dtype, optional
        Floating type of the values, as in `Data`.

    Returns
    -------
    Data

    Raises
    ------
    DataError
        If a column is not in the table, or holds dates or other things that are no numbers.

    Examples
    --------
    >>> import pandas as pd
    >>> df = pd.DataFrame({"mass": [1.5, 2.0, 3.1], "sex": ["f", "m", "f"]})
    >>> data = from_frame(df, {"x": ["mass", "sex"], "y": "sex"})
    >>> data.shape("x"), data.kind("x"), data.levels("y")
    ((2,), 'mixed', ('f', 'm'))
    """
    wanted = {"x": list(df.columns)} if columns is None else columns
    if not isinstance(wanted, Mapping):
        raise DataError(
            "columns must map names that the model knows to columns of the table, such as "
            f"{{'x': ['length', 'mass'], 'y': 'rings'}}; not {wanted!r}"
        )
    arrays, fields = {}, {}
    for key, chosen in wanted.items():
        single = isinstance(chosen, str) or not isinstance(chosen, Sequence)
        parts = [_frame_column(df, part) for part in ([chosen] if single else chosen)]
        if not parts:
            raise DataError(f"column {key!r} is made of no column of the table; name at least one")
        fields[key] = tuple(field for _, field in parts)
        arrays[key] = (
            parts[0][0] if single else np.stack([v.astype(np.float64) for v, _ in parts], axis=1)
        )
    return Data(arrays, name=name, fields=fields, dtype=dtype)


def from_anndata(
    adata: Any,
    layer: str | None = None,
    x: str = "x",
    obs: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Data:
    """Make `Data` of annotated single-cell data.

    The matrix stays sparse, or on disk, until a batch is read.

    Parameters
    ----------
    adata : anndata.AnnData
        N cells by D genes.
    layer : str, optional
        The layer to read, ``adata.X`` if None.
    x : str
        What the model calls the matrix.
    obs : mapping of str to str, optional
        From column name to a column of ``adata.obs``, such as ``{"y": "cell_type"}``: categories
        become codes with levels, numbers stay.
    dtype : torch.dtype, optional
        Floating type of the values, as in `Data`.

    Returns
    -------
    Data

    Raises
    ------
    DataError
        If there is no such layer or column, or no matrix.

    Examples
    --------
    >>> import anndata, numpy
    >>> cells = anndata.AnnData(numpy.ones((3, 2), dtype="float32"))
    >>> from_anndata(cells).shape("x")
    (2,)
    """
    if layer is not None and layer not in adata.layers:
        raise DataError(
            f"the AnnData has no layer {layer!r}; {did_you_mean(layer, adata.layers.keys())}"
        )
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise DataError(f"the AnnData has no X; name a layer of {list(adata.layers.keys())}")
    arrays: dict[str, Any] = {x: matrix}
    fields: dict[str, tuple[Field, ...]] = {}
    for key, column in (obs or {}).items():
        arrays[key], field = _frame_column(adata.obs, column)
        fields[key] = (field,)
    # Names only: to infer kinds here would read the whole matrix.
    names = {x: tuple(adata.var_names)}
    return Data(arrays, name="anndata", fields=fields, field_names=names, dtype=dtype)


# Tables


def _frame_column(df: Any, column: Any) -> tuple[np.ndarray, Field]:
    """Numbers of one column of a table, and what they are."""
    import pandas as pd

    if column not in df.columns:
        raise DataError(
            f"the table has no column {column!r}; {did_you_mean(str(column), df.columns)}"
        )
    series = df[column]
    if getattr(series, "ndim", 1) != 1:
        raise DataError(f"the table has several columns called {column!r}; rename them")
    if series.dtype == object:
        series = _inferred(series)
    name = str(column)
    if pd.api.types.is_datetime64_any_dtype(series) or series.dtype.kind in "mM":
        raise DataError(
            f"column {name!r} holds dates ({series.dtype}); convert them to numbers, such as "
            "days since a start"
        )
    if pd.api.types.is_bool_dtype(series):
        return _plain_numbers(series), Field(name, "binary")
    if pd.api.types.is_numeric_dtype(series):
        return _numeric(name, series)
    return _categorical(name, series)


def _inferred(series: Any) -> Any:
    """Give an object column the type of what it holds: numbers, booleans, or text."""
    seen = series.dropna()
    if not len(seen):
        return series.astype("float64")  # nothing was observed
    if all(isinstance(value, (bool, np.bool_)) for value in seen):
        return series.astype("boolean")
    return series.infer_objects()


def _plain_numbers(series: Any) -> np.ndarray:
    """Integers where nothing is missing, otherwise floats with NaN."""
    if series.isna().any():
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    whole = series.dtype.kind in "biu"
    return np.asarray(series.to_numpy(dtype=np.int64 if whole else np.float64))


def _numeric(name: str, series: Any) -> tuple[np.ndarray, Field]:
    if series.dtype.kind == "c":
        raise DataError(f"column {name!r} is complex; pass real and imaginary parts as two columns")
    values = _plain_numbers(series)
    seen = values[np.isfinite(values)]
    kind = "real"
    if seen.size:
        whole = bool(np.all(seen == np.round(seen)))
        kind = kind_of_values(float(seen.min()), float(seen.max()), whole)
    return values, Field(name, kind)


def _categorical(name: str, series: Any) -> tuple[np.ndarray, Field]:
    """Codes of text or categories; NaN where an entry is missing."""
    for row, value in enumerate(series):
        if not (isinstance(value, (str, int, float, bool, np.generic)) or _is_missing(value)):
            raise DataError(
                f"column {name!r} holds {value!r} at row {row}; expected numbers, text or "
                "categories"
            )
    # Mixed types cannot be sorted, text can.
    category = series if series.dtype.name == "category" else _as_text(series).astype("category")
    codes = category.cat.codes.to_numpy()
    levels = tuple(str(level) for level in category.cat.categories)
    values = codes.astype(np.int64)
    if (codes < 0).any():
        values = np.where(codes < 0, np.nan, codes.astype(np.float64))
    return values, Field(name, "categorical", levels)


def _as_text(series: Any) -> Any:
    return series.astype(object).map(str, na_action="ignore")


def _is_missing(value: Any) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


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
    # NumPy leaves a file open that it fails to read, so it is opened here.
    with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as archive:
        chosen = _choose_keys({key: key for key in archive.files}, columns)
        return {name: archive[key] for name, key in chosen.items()}


def _read_h5ad(
    path: Path, columns: Any, dtype: torch.dtype | None, options: dict[str, Any]
) -> Data:
    import anndata

    mode = "r" if options.pop("backed", False) else None
    adata = _guarded(path, lambda: anndata.read_h5ad(path, backed=mode))
    data = from_anndata(adata, dtype=dtype, **options)
    data.name = path.stem
    return _choose(data, columns)


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
