"""The cache folder: where files of data sets lie, how they get there, and that they are whole."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DownloadError

__all__ = ["Files", "Remote", "cache_dir", "fetch", "is_cached", "open_npz", "read_npz"]

# Files found whole in this process, by path, size and time of change: one check each is enough.
_verified: set[tuple[str, int, int]] = set()


@dataclass(frozen=True)
class Remote:
    """One file of a data set.

    Parameters
    ----------
    file : str
        Its name in the cache.
    url : str or None
        Where it is downloaded from; None if it must be put into the cache by hand.
    checksum : str or None
        ``"md5:..."`` or ``"sha256:..."``. If None, the sum of the first download is recorded
        beside the file, and checked from then on.

    Examples
    --------
    >>> Remote("faces.npz", "https://example.org/faces.npz", "md5:0cc175b9c0f1b6a831c399e269772661")
    ... # doctest: +ELLIPSIS
    Remote(file='faces.npz', ...)
    """

    file: str
    url: str | None = None
    checksum: str | None = None


def cache_dir() -> Path:
    """Folder of the cache: ``$VAEPPL_DATA_DIR``, or the user's cache folder.

    Returns
    -------
    Path
        It need not exist.

    Examples
    --------
    >>> cache_dir().is_absolute()
    True
    """
    given = os.environ.get("VAEPPL_DATA_DIR")
    if given:
        return Path(given).expanduser().absolute()
    import pooch

    return Path(pooch.os_cache("vaeppl"))


def is_cached(folder: str, remote: Remote) -> bool:
    """Whether a file lies in the cache (whole or not: `fetch` checks)."""
    return (cache_dir() / folder / remote.file).is_file()


def fetch(folder: str, remote: Remote, *, progress: bool = True) -> Path:
    """Path of a file in the cache, downloaded if it is not there, and checked.

    Parameters
    ----------
    folder : str
        Folder of the data set in the cache.
    remote : Remote
        The file.
    progress : bool
        Whether to show a progress bar while downloading.

    Returns
    -------
    Path

    Raises
    ------
    DownloadError
        If the file is missing and cannot be downloaded, or is not what it should be.

    Examples
    --------
    >>> fetch("mnist", Remote("labels.gz"))  # doctest: +SKIP
    PosixPath('/home/me/.cache/vaeppl/mnist/labels.gz')
    """
    path = cache_dir() / folder / remote.file
    if not path.is_file():
        _download(path, remote, progress)
    _verify(path, remote)
    return path


def _download(path: Path, remote: Remote, progress: bool) -> None:
    """Download to a temporary file beside `path`, check it, and only then give it its name."""
    if remote.url is None:
        raise DownloadError(
            f"file {remote.file!r} is not offered for download and is not in the cache; "
            f"put it at {path} (the cache folder can be set with VAEPPL_DATA_DIR)"
        )
    import pooch

    _make_folder(path.parent)
    downloader = pooch.HTTPDownloader(progressbar=progress and _has_tqdm(), timeout=60)
    with _hush_pooch(), _temporary(path) as part:
        try:
            downloader(remote.url, str(part), None)
        except Exception as error:  # of requests, urllib3 or the operating system
            raise DownloadError(
                f"could not download {remote.url} ({_first_line(error)}). Try again when there "
                f"is a connection, or put the file {remote.file!r} at {path} by hand"
            ) from None
        _check(part, remote, f"what {remote.url} sent", "try again; nothing was kept")
        os.replace(part, path)


def _verify(path: Path, remote: Remote) -> None:
    """Check a file of the cache, once in a process."""
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key in _verified:
        return
    mend = f"delete {path} and load again to download it" if remote.url else f"replace {path}"
    if remote.checksum is None:
        _check_recorded(path, remote, mend)
    else:
        _check(path, remote, f"file {path}", mend)
    _verified.add(key)


def _check(path: Path, remote: Remote, what: str, mend: str) -> None:
    if remote.checksum is None:
        return
    found = _sum_of(path, remote.checksum)
    if found != remote.checksum.lower():
        origin = f" (from {remote.url})" if remote.url and remote.url not in what else ""
        raise DownloadError(
            f"{what}{origin} has checksum {found}, expected {remote.checksum}: it is damaged, "
            f"cut short, or another version; {mend}"
        )


def _check_recorded(path: Path, remote: Remote, mend: str) -> None:
    """Compare with the sum of the first download, or record it."""
    record = path.with_name(path.name + ".sha256.json")
    if not record.is_file():
        content = {"file": remote.file, "url": remote.url, "checksum": _sum_of(path, "sha256:")}
        _write_whole(record, lambda part: part.write_text(json.dumps(content, indent=1) + "\n"))
        return
    try:
        checksum = str(json.loads(record.read_text())["checksum"])
    except (ValueError, KeyError, TypeError) as error:
        raise DownloadError(
            f"cannot read the checksum in {record} ({_first_line(error)}); delete {record}"
        ) from None
    recorded = Remote(remote.file, remote.url, checksum)
    _check(path, recorded, f"file {path}", f"{mend} (and {record})")


def _sum_of(path: Path, like: str) -> str:
    """Checksum of a file by the algorithm of another, such as ``"md5:..."``."""
    algorithm = like.split(":")[0]
    with open(path, "rb") as handle:
        digest = hashlib.file_digest(handle, algorithm) if _NEW else _digest(handle, algorithm)
    return f"{algorithm}:{digest.hexdigest()}"


_NEW = hasattr(hashlib, "file_digest")  # Python 3.11


def _digest(handle: Any, algorithm: str) -> Any:
    digest = hashlib.new(algorithm)
    for block in iter(lambda: handle.read(1 << 20), b""):
        digest.update(block)
    return digest


@dataclass(frozen=True)
class Files:
    """The files of one data set, as its parser asks for them.

    Parameters
    ----------
    folder : str
        Folder in the cache.
    remotes : tuple of Remote
        The files that there are.
    """

    folder: str
    remotes: tuple[Remote, ...] = ()

    def path(self, file: str) -> Path:
        """Path of one file, downloaded and checked.

        Raises
        ------
        DownloadError
            If it cannot be had, or is damaged.
        """
        return fetch(self.folder, next(r for r in self.remotes if r.file == file))

    def arrays(self, file: str) -> dict[str, np.ndarray]:
        """Content of an .npz file, downloaded and checked."""
        return read_npz(self.path(file))

    def parsed(
        self, file: str, parse: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Get the parsed form of an expensive source: kept by an earlier start, else made now.

        Parameters
        ----------
        file : str
            Name of the .npz file that keeps it.
        parse : callable
            Makes the arrays from the source.

        Returns
        -------
        dict of str to ndarray
        """
        path = cache_dir() / self.folder / file
        if path.is_file():
            return read_npz(path)
        arrays = parse()
        _write_whole(path, lambda part: _save_npz(part, arrays))
        return arrays


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an .npz file; pickles are refused.

    Raises
    ------
    DownloadError
        If the file is damaged.
    """
    try:
        with open_npz(path) as archive:
            return {key: archive[key] for key in archive.files}
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        raise DownloadError(
            f"cannot read {path} ({_first_line(error)}); it is damaged or cut short: delete it "
            "and load again"
        ) from None


@contextmanager
def open_npz(path: Path) -> Iterator[Any]:
    """Archive of an .npz file, whose arrays are read when asked for; pickles are refused."""
    # NumPy leaves a file open that it fails to read, so it is opened here.
    with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as archive:
        yield archive


def _save_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as handle:
        np.savez_compressed(handle, allow_pickle=False, **arrays)


def _write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file whole or not at all; a cache that cannot be written stays as it is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path) as part:
            write(part)
            os.replace(part, path)
    except OSError as error:
        # Losing the shortcut costs time only, so it is no reason to stop.
        logging.getLogger(__name__).info("could not keep %s: %s", path, error)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Path of a temporary file in the folder of `path`, gone afterwards whatever happens."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        _allow_reading(part)
        yield part
    finally:
        part.unlink(missing_ok=True)


def _allow_reading(path: Path) -> None:
    """Undo mkstemp's privacy: a cache may be shared, so the user's umask decides."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            f"cannot make the cache folder {folder} ({error.strerror}); set VAEPPL_DATA_DIR to "
            "a folder that you may write to"
        ) from None
    if not os.access(folder, os.W_OK):
        raise DownloadError(
            f"cannot write to the cache folder {folder}; set VAEPPL_DATA_DIR to one that you can"
        )


def _has_tqdm() -> bool:
    from importlib.util import find_spec

    return find_spec("tqdm") is not None


@contextmanager
def _hush_pooch() -> Iterator[None]:
    """Leave the talking to the progress bar."""
    import pooch

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
