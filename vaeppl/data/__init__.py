"""Named columns, data sets by name, downloads and minibatches."""

from . import sets as _sets  # noqa: F401  (fills the registry)
from .annotated import from_anndata
from .batches import Batch, minibatches
from .columns import Field
from .dataset import Data
from .download import Remote, cache_dir
from .errors import DataError, DownloadError, SplitError
from .registry import DataSet, available, describe_sets, info, load, register
from .sources import as_data, from_origin
from .tables import from_frame

__all__ = [
    "Batch",
    "Data",
    "DataError",
    "DataSet",
    "DownloadError",
    "Field",
    "Remote",
    "SplitError",
    "as_data",
    "available",
    "cache_dir",
    "describe_sets",
    "from_anndata",
    "from_frame",
    "from_origin",
    "info",
    "load",
    "minibatches",
    "register",
]
