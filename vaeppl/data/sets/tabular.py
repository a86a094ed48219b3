"""Tables: measurements of wines, tumours, eruptions and shells."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..columns import Field
from ..dataset import Data
from ..download import Files, Remote
from ..registry import DataSet, register
from ..tables import from_frame
from .labels import labels

__all__: list[str] = []

# Those that come with scikit-learn


def _wine(files: Files) -> Data:
    from sklearn.datasets import load_wine

    return _from_bunch(load_wine())


def _breast_cancer(files: Files) -> Data:
    from sklearn.datasets import load_breast_cancer

    return _from_bunch(load_breast_cancer())


def _from_bunch(bunch: Any) -> Data:
    return Data(
        {"x": bunch.data, "y": bunch.target},
        fields={
            "x": [Field(str(name), "real") for name in bunch.feature_names],
            "y": labels(bunch.target_names),
        },
    )


register(
    DataSet(
        "wine",
        "Chemical analysis of wines of three cultivars",
        "178 x 13",
        "CC BY 4.0",
        "Aeberhard and Forina (1991), UCI Wine; comes with scikit-learn",
        _wine,
    )
)
register(
    DataSet(
        "breast_cancer",
        "Shapes of cell nuclei in breast masses, malignant or benign",
        "569 x 30",
        "CC BY 4.0",
        "Wolberg et al. (1995), UCI Breast Cancer Wisconsin (Diagnostic); comes with scikit-learn",
        _breast_cancer,
    )
)


# Those of files


def _geyser(files: Files) -> Data:
    import pandas as pd

    frame = pd.read_csv(files.path("geyser.csv"))
    measured = ["duration", "waiting"]
    levels, kind = np.unique(frame["kind"], return_inverse=True)
    return Data(
        {"x": frame[measured].to_numpy(dtype=np.float64), "y": kind},
        # Waiting times are rounded to minutes, which does not make them counts.
        fields={"x": [Field(name, "positive") for name in measured], "y": labels(levels)},
    )


_ABALONE = [
    "sex",
    "length",
    "diameter",
    "height",
    "whole_weight",
    "shucked_weight",
    "viscera_weight",
    "shell_weight",
    "rings",
]


def _abalone(files: Files) -> Data:
    import pandas as pd

    frame = pd.read_csv(files.path("abalone.csv"), header=None, names=_ABALONE)
    return from_frame(frame, {"x": _ABALONE[:-1], "y": "rings"})


register(
    DataSet(
        "geyser",
        "Eruptions of Old Faithful: duration and waiting time in minutes, short or long",
        "272 x 2",
        "public",
        "Azzalini and Bowman (1990), Applied Statistics 39:357; put the file in the cache by hand",
        _geyser,
        (
            Remote(
                "geyser.csv",
                None,
                "sha256:ce8f6bd15967c9a3dee345aaf268f6b92623abb1e1d313e04d79b720aa6b8bd6",
            ),
        ),
        folder="tabular",
    )
)
register(
    DataSet(
        "abalone",
        "Abalone shells: sex, 7 measures, and the rings that tell their age",
        "4177 x 8",
        "CC BY 4.0",
        "Nash et al. (1994), UCI Abalone; put the file in the cache by hand",
        _abalone,
        (
            Remote(
                "abalone.csv",
                None,
                "sha256:eb2de13be807e9bb9ec4128b9c89b98ab23d7739121cfd17b7dde69b46ba7bf6",
            ),
        ),
        folder="tabular",
    )
)
