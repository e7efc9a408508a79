"""Models of the RDD-based API, pyspark.mllib: a vector of features in, a number out."""

from __future__ import annotations

import importlib
import re
from typing import Any

import numpy as np

from mlserver.errors import InferenceError
from mlserver.tabular import Features
from mlserver.types import MetadataTensor
from mlserver_mllib.artefact import Artefact

__all__ = ["VectorModel", "load_vector_model"]

_MODULES = ("classification", "clustering", "regression", "tree")
# More rows than this are one job of Spark for a model that computes in the JVM; fewer are a call each.
_FEW_ROWS = 64


def load_vector_model(artefact: Artefact, spark: Any) -> Any:
    """The model of pyspark.mllib that a folder holds."""
    class_name = artefact.class_name.rpartition(".")[2]
    for module in _MODULES:
        cls = getattr(importlib.import_module(f"pyspark.mllib.{module}"), class_name, None)
        if cls is not None:
            return cls.load(spark.sparkContext, artefact.uri)
    raise TypeError(f"pyspark.mllib has no {class_name}")


class VectorModel:
    """What a loaded model of pyspark.mllib takes, and its predictions."""

    def __init__(self, model: Any, spark: Any) -> None:
        self._model = model
        self._spark = spark
        self._count = _count_features(model)
        self._least = 1 if self._count is None else self._count
        self._in_jvm = hasattr(model, "toDebugString")  # trees; all others compute in Python
        self._scalar = type(model).__name__ == "IsotonicRegressionModel"
        if self._in_jvm:
            # A tree tells which features it looks at, not how many there were.
            looked_at = re.findall(r"feature (\d+)", model.toDebugString())
            self._least = 1 + max(map(int, looked_at), default=0)

    def inputs(self) -> list[MetadataTensor]:
        return [MetadataTensor(name="input-0", datatype="FP64", shape=[-1, self._count or -1])]

    def arrange(self, name: str, data: Any) -> np.ndarray[Any, Any]:
        """A decoded input as a matrix [rows, features]. Raises InferenceError where it is none.

        One dimension is one vector, or, for isotonic regression, which has one feature, one value a row.
        """
        matrix = data if isinstance(data, np.ndarray) else np.asarray(data, dtype=object)
        if matrix.ndim == 1:
            matrix = matrix.reshape((-1, 1) if self._scalar else (1, -1))
        if matrix.ndim != 2:
            expected = self._count or "features"
            raise InferenceError(
                f"input '{name}' has shape {list(np.shape(data))}, but the model expects [rows, {expected}]"
            )
        fault = Features(count=self._count).misfit(matrix)
        if fault is None and matrix.shape[1] < self._least:
            fault = (
                f"has {matrix.shape[1]} features per row (shape {list(matrix.shape)}), "
                f"but the model looks at {self._least} or more"
            )
        if fault is None and not len(matrix):
            fault = f"has no rows (shape {list(matrix.shape)})"
        if fault is not None:
            raise InferenceError(f"input '{name}' {fault}")
        return matrix.astype(np.float64)

    def predict(self, matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """One value for each row of a matrix [rows, features]; FP32."""
        if self._scalar:
            values = self._model.predict(matrix[:, 0])
        elif self._in_jvm and len(matrix) > _FEW_ROWS:
            values = self._model.predict(self._spark.sparkContext.parallelize(list(matrix), 1)).collect()
        else:
            values = [self._model.predict(row) for row in matrix]
        return np.asarray(values, dtype=np.float32)


def _count_features(model: Any) -> int | None:
    """How many features a model was trained on; None where it does not tell."""
    name = type(model).__name__
    if name == "IsotonicRegressionModel":
        return 1
    if name == "NaiveBayesModel":
        return int(np.shape(model.theta)[1])
    if name == "KMeansModel":
        return len(model.clusterCenters[0])
    if name == "LogisticRegressionModel":
        return int(model.numFeatures)
    weights = getattr(model, "weights", None)
    return None if weights is None else len(weights)
