"""Counts of RNA molecules in single cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..columns import Field
from ..dataset import Data
from ..download import Files, Remote
from ..errors import DataError
from ..parsers import read_expression_table
from ..registry import DataSet, register
from .labels import labels

__all__: list[str] = []


def _counts(file: str) -> Callable[[Files], Data]:
    """Make the parser of one file of counts."""

    def parse(files: Files) -> Data:
        arrays = files.arrays(file)
        return Data(
            {"x": arrays["counts"], "y": arrays["labels"], "batch": arrays["batches"]},
            fields={
                "x": [Field(str(gene), "count") for gene in arrays["gene_names"]],
                "y": labels(arrays["label_names"]),
                "batch": labels(range(int(arrays["batches"].max()) + 1), "batch"),
            },
        )

    return parse


def _register_counts(
    name: str, file: str, checksum: str, title: str, shape: str, licence: str, source: str
) -> None:
    register(
        DataSet(
            name,
            title,
            shape,
            licence,
            source,
            _counts(file),
            (Remote(file, None, checksum),),
            folder="singlecell",
        )
    )


_register_counts(
    "zeisel3",
    "zeisel3_558.npz",
    "sha256:cb36672eb4bf5b5b5a85df2d2409941f1a87fa219f1b68f253f7018f94dab0a9",
    "Mouse cortex: UMI counts, 3 of the 7 cell types",
    "1464 x 558",
    "GPL-2+",
    "Zeisel et al. (2015), Science 347:1138",
)
_register_counts(
    "cellbench",
    "cellbench5cl_720.npz",
    "sha256:d4a542a8c9940ace79a56b2bea1d52202aca81394acfa50a495dc2dc8f573b35",
    "Five cell lines told apart by genotype, in 3 batches: UMI counts",
    "909 x 720",
    "MIT",
    "Tian et al. (2019), Nature Methods 16:479 (CellBench)",
)
_register_counts(
    "pbmc8k",
    "pbmc8k_200.npz",
    "sha256:3bbccae938e69ba70dbabed211ee55996bcc213c842c95008c5aaece50c35742",
    "Blood cells (10x Genomics): UMI counts, 5 cell types",
    "7439 x 200",
    "BSD-3-Clause",
    "Zheng et al. (2017), Nature Communications 8:14049; 10x Genomics PBMC 8k",
)

_CORTEX = Remote(
    "expression_mRNA_17-Aug-2014.txt",
    "https://exampledata.scverse.org/scvi-tools/expression_mRNA_17-Aug-2014.txt",
    None,
)
_CORTEX_PARSED = "expression_mRNA_17-Aug-2014.npz"


def _cortex(files: Files) -> Data:
    from scipy import sparse

    arrays = files.parsed(_CORTEX_PARSED, lambda: read_expression_table(files.path(_CORTEX.file)))
    shape = (int(arrays["shape"][0]), int(arrays["shape"][1]))
    counts = sparse.csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
    if "cell:level1class" not in arrays:
        raise DataError(f"{_CORTEX.file} has no row 'level1class'; is it the right file?")
    columns: dict[str, Any] = {"x": counts}
    fields = {"x": tuple(Field(str(gene), "count") for gene in arrays["gene_names"])}
    for name, row in (("y", "cell:level1class"), ("subclass", "cell:level2class")):
        if row in arrays:
            levels, columns[name] = np.unique(arrays[row], return_inverse=True)
            fields[name] = labels(levels, name)
    return Data(columns, fields=fields)


register(
    DataSet(
        "cortex",
        "Mouse cortex, the whole table: UMI counts, 7 cell types",
        "3005 x 19972",
        "none stated",
        "Zeisel et al. (2015), Science 347:1138; http://linnarssonlab.org/cortex/",
        _cortex,
        (_CORTEX,),
        folder="singlecell",
        parsed=_CORTEX_PARSED,
    )
)
