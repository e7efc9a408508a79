"""Models of the kinds that people save with MLflow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array, DataType, Map, Object, Property
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

IRIS: Any = load_iris(as_frame=True)
X: pd.DataFrame = IRIS.data
Y: Any = IRIS.target
COLUMNS = list(X.columns)

# Finding out takes MLflow many seconds a model.
REQUIREMENTS = ["mlflow"]

PETS = pd.DataFrame(
    {
        "kind": ["cat", "dog", "cat", "fish"] * 5,
        "age": np.arange(20, dtype=np.int64),
        "weight": np.linspace(0.5, 30.0, 20),
        "tame": [True, False] * 10,
    }
)
LIKED = (PETS["weight"] > 12).to_numpy().astype(np.int64)

# Named tensors in, named tensors out.
NAMED = """
import mlflow

class Named(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return {"sum": model_input["a"].sum(axis=1), "twice": model_input["b"] * 2}

mlflow.models.set_model(Named())
"""

# Code of its own beside the model, and parameters.
LOCAL = """
import mlflow
from scaling.by import scaled

class Local(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        factor = (params or {}).get("factor", 1.0)
        shift = (params or {}).get("shift", [0])
        return scaled(model_input["x"], factor) + sum(shift)

mlflow.models.set_model(Local())
"""
SCALING = "def scaled(values, factor):\n    return values * factor\n"

# Whatever comes is told again, with the types that it had.
ECHO = """
import mlflow
import pandas as pd

class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        kinds = [type(model_input[name].iloc[0]).__name__ for name in model_input]
        return pd.DataFrame({"column": list(model_input), "kind": kinds})

mlflow.models.set_model(Echo())
"""

# Fails for reasons of its own.
FAULTY = """
import mlflow

class Faulty(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        raise ValueError("the password is swordfish")

mlflow.models.set_model(Faulty())
"""

# Gives what its input asks for.
RESULTS = """
import mlflow
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

RESULTS = {
    "array": np.array([[1.5, 2.5]]),
    "series": pd.Series([1, 2, 3]),
    "texts": ["a", "b"],
    "text series": pd.Series(["a", "b"]),
    "numbers": [1, 2, 3],
    "rows": [[1.0, 2.0], [3.0, 4.0]],
    "scalar": 4.5,
    "one text": "hello",
    "sparse": csr_matrix(np.eye(2)),
    "lists": {"a": [1, 2], "b": ["x", "y"]},
    "records": [{"a": 1}, {"a": None}],
    "mixed": [1, "a"],
    "ragged": [[1], [2, 3]],
    "choices": {"choices": [{"text": "hi"}]},
    "frame": pd.DataFrame({"n": [1, 2], "s": ["x", None]}),
    "nothing": None,
    "set": {1, 2},
}

class Results(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return RESULTS[model_input[0]]

mlflow.models.set_model(Results())
"""

HINTED = """
import mlflow

class Hinted(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[str]) -> list[str]:
        return [text.upper() for text in model_input]

mlflow.models.set_model(Hinted())
"""

CONFIGURED = """
import mlflow

class Configured(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [context.model_config["greeting"]]

mlflow.models.set_model(Configured())
"""

ALL_TYPES = Schema(
    [
        ColSpec(DataType.boolean, "boolean"),
        ColSpec(DataType.integer, "integer"),
        ColSpec(DataType.long, "long"),
        ColSpec(DataType.float, "float"),
        ColSpec(DataType.double, "double"),
        ColSpec(DataType.string, "string"),
        ColSpec(DataType.binary, "binary"),
        ColSpec(DataType.datetime, "datetime"),
        ColSpec(Array(DataType.long), "array"),
        ColSpec(Object([Property("k", DataType.string)]), "object"),
        ColSpec(Map(DataType.long), "map"),
        ColSpec(DataType.double, "optional", required=False),
    ]
)


def pets_model() -> Any:
    encode = ColumnTransformer([("kind", OneHotEncoder(), ["kind"])], remainder="passthrough")
    return make_pipeline(encode, LogisticRegression(max_iter=2000)).fit(PETS, LIKED)


def save_all(folder: Path) -> None:
    """Save every model below `folder`."""
    iris = LogisticRegression(max_iter=500).fit(X, Y)
    signature = infer_signature(X, iris.predict(X))
    save_sklearn(folder, "columns", iris, signature)
    bare = LogisticRegression(max_iter=500).fit(X.to_numpy(), Y)
    save_sklearn(folder, "plain", bare)
    matrix = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float64"), (-1, 4))]),
        outputs=Schema([TensorSpec(np.dtype("int64"), (-1,))]),
    )
    save_sklearn(folder, "matrix", bare, matrix)
    unnamed = ModelSignature(inputs=Schema([ColSpec("double") for _ in range(4)]))
    save_sklearn(folder, "unnamed", bare, unnamed)
    save_sklearn(folder, "pets", pets_model(), infer_signature(PETS, LIKED))
    with_code = make_pipeline(FunctionTransformer(_own_code), LogisticRegression(max_iter=500)).fit(X, Y)
    save_sklearn(folder, "own code", with_code, signature, code_paths=[__file__])
    named = ModelSignature(
        inputs=Schema(
            [TensorSpec(np.dtype("float32"), (-1, 2), "a"), TensorSpec(np.dtype("int64"), (-1,), "b")]
        ),
        outputs=Schema(
            [TensorSpec(np.dtype("float32"), (-1,), "sum"), TensorSpec(np.dtype("int64"), (-1,), "twice")]
        ),
    )
    save_code(folder, "named", NAMED, signature=named)
    local = ModelSignature(
        inputs=Schema([ColSpec("double", "x")]),
        outputs=Schema([ColSpec("double")]),
        params=ParamSchema(
            [ParamSpec("factor", "double", 1.0), ParamSpec("shift", "long", [0], shape=(-1,))]
        ),
    )
    package = folder / "scaling"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "by.py").write_text(SCALING)
    sys.path.insert(0, str(folder))
    try:
        save_code(folder, "local", LOCAL, signature=local, code_paths=[str(package)])
    finally:
        sys.path.remove(str(folder))
        for module in ("scaling", "scaling.by"):
            sys.modules.pop(module, None)
    save_code(folder, "echo", ECHO, signature=ModelSignature(inputs=ALL_TYPES))
    save_code(folder, "faulty", FAULTY, signature=ModelSignature(inputs=Schema([ColSpec("double", "x")])))
    save_code(folder, "results", RESULTS)
    save_code(folder, "hinted", HINTED)
    save_code(folder, "configured", CONFIGURED, model_config={"greeting": "hello"})


def save_sklearn(
    folder: Path, name: str, estimator: Any, signature: ModelSignature | None = None, **kwargs: Any
) -> None:
    mlflow.sklearn.save_model(
        estimator,
        str(folder / name),
        signature=signature,
        serialization_format="cloudpickle",
        pip_requirements=REQUIREMENTS,
        **kwargs,
    )


def _own_code(x: Any) -> Any:
    if (np.asarray(x) > 1000).any():
        raise ValueError("the password is swordfish")
    return x - x.mean(axis=0)


def save_code(folder: Path, name: str, code: str, **kwargs: Any) -> None:
    """Save a model that is a file of code."""
    source = folder / f"{name}.py"
    source.write_text(code)
    mlflow.pyfunc.save_model(
        str(folder / name), python_model=str(source), pip_requirements=REQUIREMENTS, **kwargs
    )
