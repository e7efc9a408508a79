"""What a folder that Spark saved says of itself, read without starting Spark where the folder is local."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from mlserver.errors import InvalidModelURI
from mlserver_mllib.errors import InvalidMLlibFormat

__all__ = ["FORMATS", "Artefact", "is_remote", "read_local", "read_remote"]

# Values of `parameters.format`: kinds of models of the RDD-based API, pyspark.mllib.
FORMATS = (
    "LogisticRegression",
    "NaiveBayes",
    "SVM",
    "KMeans",
    "IsotonicRegression",
    "LinearRegression",
    "Lasso",
    "RidgeRegression",
    "DecisionTree",
    "GradientBoostedTrees",
    "RandomForest",
)
_RDD_BASED = "org.apache.spark.mllib."
_METADATA = "metadata/part-*"


class Artefact(NamedTuple):
    """A saved model. uri: as Spark wants it. class_name: of the model, in Scala or in Python."""

    uri: str
    class_name: str

    @property
    def rdd_based(self) -> bool:
        """Whether it belongs to pyspark.mllib, rather than to pyspark.ml."""
        return self.class_name.startswith(_RDD_BASED)

    def check_format(self, name: str, model_format: str | None) -> None:
        """Raises InvalidMLlibFormat where the settings of model `name` ask for another kind of model."""
        saved = self.class_name.rpartition(".")[2].removesuffix("Model")
        if not self.rdd_based:
            if model_format is not None:
                raise InvalidMLlibFormat(
                    name,
                    model_format,
                    f"the folder holds a model of pyspark.ml ({self.class_name}), which needs no format",
                )
        elif saved not in FORMATS:
            raise InvalidMLlibFormat(name, saved, f"expected one of {', '.join(FORMATS)}")
        elif model_format not in (None, saved):
            raise InvalidMLlibFormat(name, model_format, f"the folder holds a model of format {saved}")


def is_remote(path: str) -> bool:
    """Whether only Spark can read it, such as `s3a://bucket/model` or `hdfs://host/model`."""
    return "://" in path


def read_local(name: str, path: str) -> Artefact:
    """The artefact of model `name` in a local folder. Raises InvalidModelURI where there is none."""
    folder = Path(path).absolute()
    for part in sorted(folder.glob(_METADATA)):
        lines = part.read_text().splitlines()
        if lines:  # Spark also writes parts without lines
            return _artefact(name, f"file://{folder}", lines[0])  # Spark escapes nothing
    raise InvalidModelURI(name, f"{path} holds no model that Spark saved: there is no {_METADATA}")


def read_remote(name: str, uri: str, spark: Any) -> Artefact:
    """The artefact of model `name` where Spark itself has to read. Raises InvalidModelURI."""
    try:
        line = spark.sparkContext.textFile(f"{uri.rstrip('/')}/{_METADATA}").first()
    except Exception as exc:
        raise InvalidModelURI(name, f"{uri}: Spark finds no {_METADATA} there") from exc
    return _artefact(name, uri, line)


def _artefact(name: str, uri: str, line: str) -> Artefact:
    try:
        return Artefact(uri, str(json.loads(line)["class"]))
    except (ValueError, TypeError, KeyError) as exc:
        raise InvalidModelURI(name, f"the metadata of {uri} name no class") from exc
