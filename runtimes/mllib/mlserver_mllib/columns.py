"""The columns that a model of pyspark.ml reads and writes, as far as its stages tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from mlserver.tabular import text_input
from mlserver.types import MetadataTensor

__all__ = ["NUMBER", "TEXT", "UNKNOWN", "VECTOR", "Column", "last_outputs", "needed", "rows_independent"]

NUMBER = "number"
TEXT = "text"
LABEL = "label"  # text mostly, numbers if it was trained on them
VECTOR = "vector"
UNKNOWN = "unknown"

_OWN = "pyspark.ml."
# Their columns stand in a statement or a formula that Spark alone reads.
_OPAQUE = frozenset(("SQLTransformer", "RFormulaModel"))
# Spark's own stages whose rows may depend on others, or change their order.
_NOT_ROW_WISE = frozenset(("SQLTransformer", "ALSModel", "FPGrowthModel"))
_DROPS_ROWS = (("handleInvalid", "skip"), ("coldStartStrategy", "drop"))

_SINGLE = ("inputCol", "featuresCol", "userCol", "itemCol", "itemsCol")
_SEVERAL = ("inputCols", "featuresCols")
_WRITTEN = (
    "outputCol",
    "outputCols",
    "predictionCol",
    "probabilityCol",
    "rawPredictionCol",
    "varianceCol",
    "leafCol",
    "topicDistributionCol",
)
_OF_NUMBERS = frozenset(
    ("ALSModel", "Binarizer", "Bucketizer", "ImputerModel", "OneHotEncoderModel", "VectorAssembler")
)
_OF_TEXT = frozenset(("RegexTokenizer", "Tokenizer"))
_OF_VECTORS = frozenset(
    (
        "BucketedRandomProjectionLSHModel",
        "DCT",
        "ElementwiseProduct",
        "IDFModel",
        "MaxAbsScalerModel",
        "MinHashLSHModel",
        "MinMaxScalerModel",
        "Normalizer",
        "PCAModel",
        "PolynomialExpansion",
        "RobustScalerModel",
        "StandardScalerModel",
        "VarianceThresholdSelectorModel",
        "VectorIndexerModel",
        "VectorSlicer",
    )
)


class Column(NamedTuple):
    """A column that a model reads. size: of its vectors; None where unknown."""

    name: str
    kind: str
    size: int | None = None

    def describe(self) -> MetadataTensor:
        if self.kind in (TEXT, LABEL):
            return text_input(self.name)
        datatype = "BYTES" if self.kind == UNKNOWN else "FP64"
        size = (self.size or -1) if self.kind == VECTOR else 1
        return MetadataTensor(name=self.name, datatype=datatype, shape=[-1, size])


def stages_of(model: Any) -> Iterator[Any]:
    """The stages of a pipeline, inner ones included, in order; a model that is none is its own stage."""
    if hasattr(model, "stages") and isinstance(model.stages, list):
        for stage in model.stages:
            yield from stages_of(stage)
    else:
        yield model


def needed(model: Any) -> tuple[list[Column], bool]:
    """The columns that a request has to bring, and whether these are known to be all."""
    columns: dict[str, Column] = {}
    made: set[str] = set()
    complete = True
    for stage in stages_of(model):
        if not _is_own(stage) or type(stage).__name__ in _OPAQUE:
            complete = False
        else:
            for column in _reads(stage):
                if column.name not in made:
                    columns.setdefault(column.name, column)
        made.update(_writes(stage))
    return list(columns.values()), complete


def last_outputs(model: Any) -> list[str]:
    """The columns that the last stage adds; empty where it does not tell."""
    *_, last = stages_of(model)
    return _writes(last)


def rows_independent(model: Any) -> bool:
    """Whether each row that comes out is known to depend on one row that went in, the same in order."""
    return all(
        _is_own(stage)
        and type(stage).__name__ not in _NOT_ROW_WISE
        and not any(_param(stage, name) == value for name, value in _DROPS_ROWS)
        for stage in stages_of(model)
    )


def _is_own(stage: Any) -> bool:
    return type(stage).__module__.startswith(_OWN)


def _param(stage: Any, name: str) -> Any:
    """The value of a parameter that is set or has a default; None where there is none."""
    if not hasattr(stage, "hasParam") or not stage.hasParam(name):
        return None
    param = stage.getParam(name)
    return stage.getOrDefault(param) if stage.isDefined(param) else None


def _reads(stage: Any) -> Iterator[Column]:
    several = [name for param in _SEVERAL for name in _param(stage, param) or ()]
    if several:
        for name in several:
            yield Column(name, _kind(stage, "inputCols"))
        return
    for param in _SINGLE:
        name = _param(stage, param)
        if name:
            kind = _kind(stage, param)
            yield Column(name, kind, _size(stage) if kind == VECTOR else None)


def _writes(stage: Any) -> list[str]:
    written = []
    for param in _WRITTEN:
        value = _param(stage, param)
        written += value if isinstance(value, list) else [value] if value else []
    return written


def _kind(stage: Any, param: str) -> str:
    name = type(stage).__name__
    if param == "featuresCol" or name in _OF_VECTORS:
        return VECTOR
    if name in _OF_NUMBERS:
        return NUMBER
    if name == "StringIndexerModel":
        return LABEL
    return TEXT if name in _OF_TEXT else UNKNOWN


def _size(stage: Any) -> int | None:
    """How many features its vectors have."""
    try:
        if type(stage).__name__ == "StandardScalerModel":
            return len(stage.mean)
        if hasattr(stage, "clusterCenters"):
            return len(stage.clusterCenters()[0])
        count = int(getattr(stage, "numFeatures", -1))
    except Exception:  # a Java object that has no such method
        return None
    return count if count > 0 else None
