"""What models of every light runtime refuse: a real server names what is wrong, over REST and gRPC."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

from tests.refusals import (
    OF_RANK_1,
    Case,
    as_parameters,
    check_refused,
    of_columns,
    of_matrix,
    of_pair,
    tensor,
)
from tests.running import AsProcess, process, write_model
from tests.tabular import BINARY, FRAME, VALUES, X

CODE = """
import numpy as np
import pandas as pd
from mlserver import from_function

@from_function
def mixed(x: np.ndarray, cities: list[str], times: int, title: str = "") -> list[str]:
    return [title + city * times for city in cities]

@from_function
def frame(columns: pd.DataFrame, factor: float = 1) -> np.ndarray:
    return columns.sum(axis=1).to_numpy() * factor
"""


def save_sklearn(folder: Path) -> None:
    from sklearn.cluster import KMeans
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    flats = FRAME.assign(city=np.where(BINARY, "Rome", "Oslo"))
    one_hot = make_column_transformer((OneHotEncoder(), ["city"]), remainder="passthrough")
    models = {
        "sklearn-columns": LogisticRegression().fit(FRAME, BINARY),
        "sklearn-forest-columns": RandomForestClassifier(3).fit(FRAME, BINARY),
        "sklearn-matrix": LogisticRegression().fit(X, BINARY),
        "sklearn-kmeans": KMeans(2, n_init=1).fit(X),
        "sklearn-flats": make_pipeline(one_hot, LogisticRegression()).fit(flats, BINARY),
        "sklearn-texts": make_pipeline(CountVectorizer(), LogisticRegression()).fit(["good", "bad"], [1, 0]),
    }
    for name, model in models.items():
        joblib.dump(model, write_model(folder, name, "mlserver_sklearn.SKLearnModel") / "model.joblib")


def save_trees(folder: Path) -> None:
    import catboost
    import lightgbm as lgb
    import xgboost as xgb

    for form, data in (("columns", FRAME), ("matrix", X)):
        home = write_model(folder, f"xgboost-{form}", "mlserver_xgboost.XGBoostModel")
        xgb.XGBRegressor(n_estimators=2).fit(data, VALUES).save_model(home / "model.json")
        home = write_model(folder, f"lightgbm-{form}", "mlserver_lightgbm.LightGBMModel")
        trees = lgb.LGBMRegressor(n_estimators=2, verbose=-1).fit(data, VALUES)
        trees.booster_.save_model(home / "model.bst")
        home = write_model(folder, f"lightgbm-pickle-{form}", "mlserver_lightgbm.LightGBMModel")
        joblib.dump(trees, home / "model.pkl")
        home = write_model(folder, f"catboost-{form}", "mlserver_catboost.CatboostModel")
        made = catboost.CatBoostRegressor(iterations=2, verbose=0, allow_writing_files=False)
        made.fit(data, VALUES).save_model(str(home / "model.cbm"))


def save_graphs(folder: Path) -> None:
    import onnx
    import torch
    from onnx import TensorProto, helper, numpy_helper

    def graph(node: Any, inputs: dict[str, int], **weights: Any) -> Any:
        made = helper.make_graph(
            [node],
            "graph",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", d]) for name, d in inputs.items()],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        )
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    ones = np.ones((3, 2), dtype=np.float32)
    graphs = {
        "onnx-matrix": graph(helper.make_node("MatMul", ["x", "w"], ["y"]), {"x": 3}, w=ones),
        "onnx-pair": graph(helper.make_node("Add", ["a", "b"], ["y"]), {"a": 2, "b": 2}),
    }
    for name, made in graphs.items():
        onnx.save(made, write_model(folder, name, "mlserver_onnx.OnnxModel") / "model.onnx")

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> Any:
            return self.linear(x)

    class Sum(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> Any:
            return a + b

    rows = torch.export.Dim("rows")
    for name, module, args in (
        ("torch-matrix", Linear(), (torch.zeros(2, 3),)),
        ("torch-pair", Sum(), (torch.zeros(2, 2), torch.zeros(2, 2))),
    ):
        program = torch.export.export(module, args, dynamic_shapes=[{0: rows} for _ in args])
        torch.export.save(program, write_model(folder, name, "mlserver_torch.TorchModel") / "model.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.trace(Linear(), torch.zeros(2, 3))  # type: ignore[no-untyped-call]
    script.save(write_model(folder, "torch-script", "mlserver_torch.TorchModel") / "model.pt")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AsProcess]:
    folder = tmp_path_factory.mktemp("repository")
    for save in (save_sklearn, save_trees, save_graphs):
        save(folder)
    for name in ("mixed", "frame"):
        write_model(folder, f"function-{name}", f"models.{name}", CODE)
    with process(folder, timeout=120, MLSERVER_PARALLEL_WORKERS="0") as server:
        assert server.get("/v2/health/ready").ok, server.log()
        yield server
        assert server.stop() == 0, server.log()


def flats(**changed: Any) -> list[Any]:
    made = {name: tensor(name, [[0.5]]) for name in ("width", "height", "depth")}
    made["city"] = tensor("city", [["Rome"]], "BYTES", "str")
    return [value for value in {**made, **changed}.values() if value is not None]


def texts(*values: Any) -> list[Any]:
    return [tensor("x", np.array(values, dtype=str), "BYTES")]


def mixed(**changed: Any) -> list[Any]:
    made = {
        "x": tensor("x", [[1.0]]),
        "cities": tensor("cities", ["Rome"], "BYTES"),
        "times": tensor("times", [2], "INT64"),
    }
    return [value for value in {**made, **changed}.values() if value is not None]


_OF_FRAMES = ("two in a row", "rank 3", "fewer rows", "twice")
CASES: dict[str, dict[str, Case]] = {
    **dict.fromkeys(
        (
            "sklearn-columns",
            "sklearn-forest-columns",
            "xgboost-columns",
            "lightgbm-columns",
            "lightgbm-pickle-columns",
            "catboost-columns",
        ),
        of_columns(),
    ),
    # Asked with one matrix, which the models of columns take as well.
    **{
        f"{name}-columns ": of_matrix()
        for name in ("sklearn", "xgboost", "lightgbm", "lightgbm-pickle", "catboost")
    },
    **{
        f"{name}-matrix": {**of_matrix(), "rank 1": OF_RANK_1}
        for name in ("sklearn", "xgboost", "lightgbm", "lightgbm-pickle")
    },
    "catboost-matrix": of_matrix(),
    "sklearn-kmeans": {
        **of_matrix(datatype="FP32"),
        "other floats": ([tensor("x", np.ones((2, 3)), "FP64")], "'x' holds floats of another size"),
    },
    "sklearn-flats": {
        "numbers for text": (flats(city=tensor("city", [[1.0]])), "numbers, not text, in column 'city'"),
        "unknown category": (flats(city=tensor("city", [["Bonn"]], "BYTES", "str")), "'Bonn'"),
        "text for numbers": (flats(depth=tensor("depth", [["a"]], "BYTES")), "text in column 'depth'"),
        "missing column": (flats(city=None), "lacks column 'city'"),
        "rank 3": (flats(city=tensor("city", [[["Rome"]]], "BYTES", "str")), r"'city' has shape \[1, 1, 1\]"),
        "no inputs": ([], "lacks columns 'width', 'height', 'depth', 'city'"),
    },
    "sklearn-texts": {
        "numbers": ([tensor("x", [[1.0]])], "'x' must hold text, but has datatype FP64"),
        "two columns": (texts(["good", "bad"]), "'x' must hold text"),
        "extra input": ([*texts("good"), tensor("colour", [1.0])], "'colour'"),
        "no rows": (texts(), "'x' has no rows"),
        "no inputs": ([], "0 were received"),
    },
    **{
        name: {
            **of_matrix(datatype="FP32"),
            "rank 1": ([tensor("x", [0.5] * 3, "FP32")], r"'x' has shape \[3\]"),
            "other floats": ([tensor("x", np.ones((2, 3)))], "'x' has datatype FP64"),
        }
        for name in ("onnx-matrix", "torch-matrix")
    },
    "onnx-pair": of_pair(),
    "torch-pair": of_pair(),
    # TorchScript does not say what it takes: of rank 3 it may be as well.
    "torch-script": {key: case for key, case in of_matrix(datatype="FP32").items() if key != "rank 3"},
    "function-mixed": {
        "wrong name": (mixed(cities=None, towns=tensor("towns", ["Rome"], "BYTES")), "'towns' was not found"),
        "missing input": (mixed(cities=None, times=None), "lacks inputs 'cities', 'times'"),
        "extra input": (mixed(colour=tensor("colour", [1.0])), "'colour' was not found"),
        "numbers for texts": (mixed(cities=tensor("cities", [1.0])), "'cities' has datatype FP64"),
        "numbers for a text": (mixed(title=tensor("title", [1.0])), "'title' must hold one str"),
        "text for a number": (mixed(times=tensor("times", ["a"], "BYTES")), "'times' must hold one int"),
        "two numbers": (mixed(times=tensor("times", [1, 2], "INT64")), "'times' must hold one value"),
        "no number": (mixed(times=tensor("times", np.zeros(0), "INT64")), "'times' must hold one value"),
        "twice": ([*mixed(), tensor("times", [2], "INT64")], "'times' is given twice"),
        "no inputs": ([], "lacks inputs 'x', 'cities', 'times'"),
    },
    # Which columns they want, functions do not say.
    "function-frame": {
        **{key: of_columns()[key] for key in _OF_FRAMES},
        "text for a number": ([tensor("w", [1.0]), tensor("factor", ["a"], "BYTES")], "'factor' must hold"),
        "no inputs": ([], "lacks input 'columns'"),
    },
}


@pytest.mark.parametrize(("model", "inputs", "pattern"), as_parameters(CASES))
def test_refused_by_name(server: AsProcess, model: str, inputs: list[Any], pattern: str) -> None:
    check_refused(server, model, inputs, pattern)
