"""Readers of the file formats that data sets are published in."""

from __future__ import annotations

import gzip
import warnings
import zlib
from pathlib import Path

import numpy as np

from .errors import DownloadError

__all__ = ["read_amat", "read_expression_table", "read_idx"]


def read_idx(path: Path) -> np.ndarray:
    """Read the array of bytes in a gzipped IDX file, the format of MNIST.

    The header is two zero bytes, the type (8: unsigned byte), the number of dimensions, and
    each size as a big-endian 32-bit integer.

    Parameters
    ----------
    path : Path

    Returns
    -------
    ndarray of uint8

    Raises
    ------
    DownloadError
        If the file is not of this format, or cut short.

    Examples
    --------
    >>> read_idx(Path("train-labels-idx1-ubyte.gz")).shape  # doctest: +SKIP
    (60000,)
    """
    try:
        with gzip.open(path, "rb") as handle:
            raw = handle.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DownloadError(f"cannot unpack {path} ({error}); delete it and load again") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise DownloadError(f"{path} is not an IDX file of bytes; delete it and load again")
    start = 4 + 4 * raw[3]
    shape = tuple(int(size) for size in np.frombuffer(raw[4:start], dtype=">u4"))
    if len(raw) - start != np.prod(shape, dtype=np.int64):
        raise DownloadError(
            f"{path} announces shape {shape} but holds {len(raw) - start} values; "
            "delete it and load again"
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)


def read_amat(path: Path, width: int) -> np.ndarray:
    r"""Read zeros and ones of a text file with `width` digits a line, separated by blanks.

    Parameters
    ----------
    path : Path
    width : int
        Digits a line.

    Returns
    -------
    ndarray of uint8, shape (N, width)

    Raises
    ------
    DownloadError
        If something else is found.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "bits.amat"
    >>> _ = file.write_text("0 1 1\n1 0 0\n")
    >>> read_amat(file, 3).tolist()
    [[0, 1, 1], [1, 0, 0]]
    """
    raw = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    digits = raw[raw > ord(" ")]
    if not digits.size or digits.size % width or digits.min() < 48 or digits.max() > 49:
        raise DownloadError(f"{path} is not a table of 0 and 1 with {width} values a line")
    return (digits - 48).reshape(-1, width)


def read_expression_table(path: Path) -> dict[str, np.ndarray]:
    """Read counts and annotations in the layout of the mouse cortex table (Zeisel et al. 2015).

    Tab-separated. First come rows of annotations of the cells: an empty cell, the name of the
    annotation, one value a cell. Then one row a gene: its name, a cluster number, one count a
    cell.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of str to ndarray
        The counts of N cells by D genes as the parts of a compressed sparse row matrix
        (``data``, ``indices``, ``indptr``, ``shape``), ``gene_names`` of shape (D,), and one
        array of text of shape (N,) an annotation, called ``cell:<name>``.

    Raises
    ------
    DownloadError
        If a row has another length than the first, or a count is no number.

    Examples
    --------
    >>> read_expression_table(Path("expression_mRNA_17-Aug-2014.txt"))  # doctest: +SKIP
    """
    annotations: dict[str, np.ndarray] = {}
    genes: list[str] = []
    indices: list[np.ndarray] = []
    counts: list[np.ndarray] = []
    cells = -1
    with open(path, encoding="utf-8", errors="replace") as handle, warnings.catch_warnings():
        # NumPy only warns when it stops early.
        warnings.simplefilter("error", DeprecationWarning)
        for number, line in enumerate(handle, start=1):
            head, _, rest = line.rstrip("\r\n").partition("\t")
            label, _, values = rest.partition("\t")
            if head:
                row = _counts(values, cells, path, number)
                present = row.nonzero()[0]
                genes.append(head)
                indices.append(present.astype(np.int32))
                counts.append(row[present])
            elif label and values:
                annotations[f"cell:{label}"] = np.array(values.split("\t"), dtype=np.str_)
                cells = len(annotations[f"cell:{label}"]) if cells < 0 else cells
    if not genes or not annotations:
        raise DownloadError(f"{path} has no annotations or no genes: is it the right file?")
    return {**_transposed(indices, counts, cells), "gene_names": np.array(genes), **annotations}


def _counts(text: str, cells: int, path: Path, number: int) -> np.ndarray:
    """Read counts of one gene; NumPy reads a number a field, and stops at what is none."""
    fields = text.count("\t") + 1
    try:
        row = np.fromstring(text, dtype=np.int32, sep="\t")
    except (ValueError, DeprecationWarning) as error:
        raise DownloadError(f"{path}, line {number}: a count is no whole number") from error
    if len(row) != fields or fields != cells:
        raise DownloadError(
            f"{path}, line {number}: {len(row)} counts read of {fields}, for {cells} cells; "
            "the file is damaged or cut short: delete it and load again"
        )
    return row


def _transposed(
    indices: list[np.ndarray], counts: list[np.ndarray], cells: int
) -> dict[str, np.ndarray]:
    """Sparse rows of cells, from sparse rows of genes."""
    from scipy import sparse

    starts = np.concatenate([[0], np.cumsum([len(row) for row in indices])])
    by_gene = sparse.csr_array(
        (np.concatenate(counts), np.concatenate(indices), starts), shape=(len(indices), cells)
    )
    by_cell = by_gene.T.tocsr()
    parts = {"data": by_cell.data, "indices": by_cell.indices, "indptr": by_cell.indptr}
    return {**parts, "shape": np.array(by_cell.shape)}
