"""Data sets by name: what there is, where it comes from, and how to load it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .dataset import Data
from .download import Files, Remote, is_cached
from .errors import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DataSet", "available", "describe_sets", "info", "load", "register"]


@dataclass(frozen=True)
class DataSet:
    """Entry of the registry.

    Parameters
    ----------
    name : str
        What `load` calls it.
    title : str
        One line for a list.
    shape : str
        Its size in words, such as ``"70000 x 784"``.
    licence : str
        Terms of use.
    source : str
        Citation or homepage.
    parse : callable
        ``parse(files, **options)`` makes the `Data`; its keyword-only parameters are the options
        of `load`, and ``files.path(name)`` gives the path of a file, downloaded and checked.
    files : tuple of Remote
        The files to download; none for sets that come with a package.
    folder : str
        Their folder in the cache; the name if empty.
    parsed : str
        Name of the .npz file that keeps the parsed form, if the parser makes one.

    Examples
    --------
    >>> DataSet("toy", "Two points", "2 x 1", "CC0", "made up",
    ...         parse=lambda files: Data({"x": [[0.0], [1.0]]})).name
    'toy'
    """

    name: str
    title: str
    shape: str
    licence: str
    source: str
    parse: Callable[..., Data] = field(repr=False)
    files: tuple[Remote, ...] = ()
    folder: str = ""
    parsed: str = ""

    @property
    def where(self) -> str:
        """Folder of the files in the cache."""
        return self.folder or self.name

    @property
    def cached(self) -> bool:
        """Whether it loads without a download."""
        if self.parsed and is_cached(self.where, Remote(self.parsed)):
            return True
        return all(is_cached(self.where, remote) for remote in self.files)

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options that `load` takes for it."""
        parameters = inspect.signature(self.parse).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


_sets: dict[str, DataSet] = {}


def register(entry: DataSet) -> DataSet:
    """Add a data set, so that it can be loaded by name.

    Parameters
    ----------
    entry : DataSet
        It replaces one of the same name.

    Returns
    -------
    DataSet
        The entry.

    Examples
    --------
    >>> entry = DataSet("toy_points", "Two points", "2 x 1", "CC0", "made up",
    ...                 parse=lambda files: Data({"x": [[0.0], [1.0]]}))
    >>> len(load(register(entry).name))
    2
    """
    _sets[entry.name] = entry
    return entry


def available() -> list[str]:
    """Names of the data sets.

    Examples
    --------
    >>> "digits" in available()
    True
    """
    return sorted(_sets)


def info(name: str) -> DataSet:
    """Entry of a data set: title, size, terms, source, files and options.

    Raises
    ------
    DataError
        If there is none of that name.

    Examples
    --------
    >>> info("mnist").licence
    'CC BY-SA 3.0'
    """
    if name not in _sets:
        raise DataError(f"there is no data set {name!r}; {did_you_mean(name, available())}")
    return _sets[name]


def load(name: str, **options: Any) -> Data:
    """Load a data set by name, downloaded and checked at first use.

    Files are kept in ``$VAEPPL_DATA_DIR``, or in the user's cache folder.

    Parameters
    ----------
    name : str
        One of `available`.
    **options
        What the data set takes: ``info(name).options``.

    Returns
    -------
    Data

    Raises
    ------
    DataError
        If there is no such data set or option.
    DownloadError
        If a file cannot be had, or is damaged.

    Examples
    --------
    >>> load("digits").shape("x")
    (64,)
    """
    entry = info(name)
    for option in options:
        if option not in entry.options:
            takes = did_you_mean(option, entry.options) if entry.options else "it takes none"
            raise DataError(f"data set {name!r} has no option {option!r}; {takes}")
    data = entry.parse(Files(entry.where, entry.files), **options)
    data.name = name
    data._origin = {"source": name, "columns": None, "options": dict(options)}
    return data


def describe_sets() -> pd.DataFrame:
    """Table of the data sets: name, title, shape, licence, and whether a download is due.

    Examples
    --------
    >>> list(describe_sets().columns)
    ['name', 'title', 'shape', 'licence', 'cached', 'needs download']
    """
    import pandas as pd

    entries = [_sets[name] for name in available()]
    return pd.DataFrame(
        {
            "name": [e.name for e in entries],
            "title": [e.title for e in entries],
            "shape": [e.shape for e in entries],
            "licence": [e.licence for e in entries],
            "cached": [e.cached for e in entries],
            "needs download": [bool(e.files) and not e.cached for e in entries],
        }
    )
