"""A small model of each library, beside the runtime that serves it, for `runtimes.py`.

Each builder trains in the folder it is given, and raises ImportError where its library is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import mlserver
from mlserver import MLModel, ModelSettings
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, PandasCodec, StringCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest

__all__ = ["BUILDERS", "FEATURES", "Subject"]

FEATURES = 10
TREES = 50
_TEXTS = ["the", "old", "friend", "lives", "in", "a", "small", "house", "with", "good", "and", "bad", "films"]


@dataclass
class Subject:
    """One model.

    runtime: what serves it. values: so many rows, as the bare call takes them. encode: the same as a request.
    bare: what one calls without a server; its answer is the first output's, unless it is another `kind`.
    """

    runtime: type[MLModel]
    settings: dict[str, Any]
    bare: Callable[[Any], Any]
    values: Callable[[int], Any]
    encode: Callable[[Any], InferenceRequest]
    comparable: bool = True

    def model(self) -> MLModel:
        """A new one; it still has to be loaded."""
        parameters = ModelParameters(**self.settings)
        return self.runtime(ModelSettings(name="m", implementation=self.runtime, parameters=parameters))


def _matrix(rows: int) -> Any:
    return np.random.default_rng(1).random((rows, FEATURES))


def _single(rows: int) -> Any:
    return _matrix(rows).astype(np.float32)


def _named(name: str) -> Callable[[Any], InferenceRequest]:
    return lambda values: InferenceRequest(inputs=[NumpyCodec.encode_input(name, values)])


def _texts(values: Sequence[str]) -> InferenceRequest:
    return InferenceRequest(inputs=[StringCodec.encode_input("args", list(values), use_bytes=False)])


def _frame(rows: int) -> Any:
    import pandas as pd

    return pd.DataFrame(_matrix(rows), columns=[f"x{number}" for number in range(FEATURES)])


def _classes() -> tuple[Any, Any]:
    """2,000 rows, and to which of three classes each belongs."""
    x = np.random.default_rng(0).random((2_000, FEATURES))
    return x, np.digitize(x[:, 0] + x[:, 1], [0.7, 1.3])


def sklearn(folder: Path) -> Subject:
    import joblib
    from mlserver_sklearn import SKLearnModel
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=500).fit(*_classes())
    joblib.dump(model, folder / "model.joblib")
    uri = {"uri": str(folder / "model.joblib")}
    return Subject(SKLearnModel, uri, model.predict, _matrix, NumpyRequestCodec.encode_request)


def xgboost(folder: Path) -> Subject:
    import xgboost as xgb
    from mlserver_xgboost import XGBoostModel

    model = xgb.XGBClassifier(n_estimators=TREES).fit(*_classes())
    model.save_model(folder / "model.json")
    uri = {"uri": str(folder / "model.json")}
    return Subject(XGBoostModel, uri, model.predict, _matrix, NumpyRequestCodec.encode_request)


def lightgbm(folder: Path) -> Subject:
    import lightgbm as lgb
    from mlserver_lightgbm import LightGBMModel

    parameters = {"objective": "multiclass", "num_class": 3, "verbose": -1}
    model = lgb.train(parameters, lgb.Dataset(*_classes()), TREES)
    model.save_model(folder / "model.txt")
    uri = {"uri": str(folder / "model.txt")}
    return Subject(LightGBMModel, uri, model.predict, _matrix, NumpyRequestCodec.encode_request)


def catboost(folder: Path) -> Subject:
    import catboost as cb
    from mlserver_catboost import CatboostModel

    model = cb.CatBoostClassifier(iterations=TREES, verbose=0, allow_writing_files=False).fit(*_classes())
    model.save_model(str(folder / "model.cbm"))
    uri = {"uri": str(folder / "model.cbm")}
    return Subject(CatboostModel, uri, model.predict, _matrix, NumpyRequestCodec.encode_request)


def onnx(folder: Path) -> Subject:
    import onnxruntime as ort
    from mlserver_onnx import OnnxModel
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=500).fit(*_classes())
    path = folder / "model.onnx"
    path.write_bytes(to_onnx(model, _single(1), options={"zipmap": False}).SerializeToString())
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = [value.name for value in session.get_inputs()]

    def bare(values: Any) -> Any:
        return session.run(None, {name: values})[0]

    return Subject(OnnxModel, {"uri": str(path)}, bare, _single, _named(name))


def torch(folder: Path) -> Subject:
    import torch as pytorch
    from mlserver_torch import TorchModel

    pytorch.manual_seed(0)
    net = pytorch.nn.Sequential(
        pytorch.nn.Linear(FEATURES, 32), pytorch.nn.ReLU(), pytorch.nn.Linear(32, 3)
    ).eval()
    rows = pytorch.export.Dim("rows", min=1, max=1_000_000)
    exported = pytorch.export.export(net, (pytorch.rand(2, FEATURES),), dynamic_shapes=({0: rows},))
    pytorch.export.save(exported, folder / "model.pt2")
    loaded = pytorch.export.load(folder / "model.pt2").module()

    def bare(values: Any) -> Any:
        with pytorch.inference_mode():
            return loaded(pytorch.from_numpy(values)).numpy()

    return Subject(TorchModel, {"uri": str(folder / "model.pt2")}, bare, _single, _named("input"))


@mlserver.from_function
def double(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return x * 2


def function(folder: Path) -> Subject:
    return Subject(double, {}, lambda values: values * 2, _matrix, _named("x"))


def huggingface(folder: Path) -> Subject:
    import transformers
    from mlserver_huggingface import HuggingFaceRuntime
    from served import make_distilbert

    make_distilbert.main(str(folder), "32", "1", " ".join(_TEXTS))
    transformers.logging.set_verbosity_error()
    pipeline = transformers.pipeline("text-classification", str(folder), device="cpu", batch_size=32)

    def values(rows: int) -> list[str]:
        return [" ".join(_TEXTS[number % 7 :]) for number in range(rows)]

    settings = {
        "uri": str(folder),
        "extra": {"task": "text-classification", "device": "cpu", "batch_size": 32},
    }
    return Subject(HuggingFaceRuntime, settings, pipeline, values, _texts, comparable=False)


def mlflow(folder: Path) -> Subject:
    import mlflow as flow
    from mlserver_mlflow import MLflowRuntime
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=500).fit(_frame(2_000), _classes()[1])
    path = folder / "model"
    signature = flow.models.infer_signature(_frame(5), model.predict(_frame(5)))
    options = {"serialization_format": "cloudpickle", "pip_requirements": []}
    flow.sklearn.save_model(model, str(path), signature=signature, **options)
    bare = flow.pyfunc.load_model(str(path)).predict
    return Subject(MLflowRuntime, {"uri": str(path)}, bare, _frame, PandasCodec.encode_request)


def mllib(folder: Path) -> Subject:
    from mlserver_mllib import MLlibModel
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import LogisticRegression
    from pyspark.ml.feature import VectorAssembler
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.master("local[*]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    columns = list(_frame(1).columns)
    labelled = _frame(2_000).assign(label=_classes()[1].astype(float))
    stages = [VectorAssembler(inputCols=columns, outputCol="features"), LogisticRegression()]
    model = Pipeline(stages=stages).fit(spark.createDataFrame(labelled))
    model.write().overwrite().save(str(folder / "model"))

    def bare(values: Any) -> Any:
        answers = model.transform(spark.createDataFrame(values)).select("prediction").collect()
        return [answer.prediction for answer in answers]

    return Subject(
        MLlibModel, {"uri": str(folder / "model")}, bare, _frame, PandasCodec.encode_request, comparable=False
    )


def alibi_detect(folder: Path) -> Subject:
    from alibi_detect.cd import KSDrift
    from alibi_detect.saving import save_detector
    from mlserver_alibi_detect import AlibiDetectRuntime

    detector = KSDrift(_matrix(500), p_val=0.05)
    save_detector(detector, folder / "detector")
    uri = {"uri": str(folder / "detector")}
    return Subject(
        AlibiDetectRuntime, uri, detector.predict, _matrix, NumpyRequestCodec.encode_request, comparable=False
    )


def alibi_explain(folder: Path) -> Subject:
    """Shapley values of a forest; the bare call makes the same text of them."""
    import joblib
    from alibi.explainers import TreeShap
    from mlserver_alibi_explain import AlibiExplainRuntime
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(n_estimators=TREES, max_depth=4, random_state=0).fit(*_classes())
    explainer = TreeShap(forest).fit()
    explainer.save(folder / "explainer")
    joblib.dump(forest, folder / "model.joblib")

    def bare(values: Any) -> Any:
        return explainer.explain(values).to_json()

    settings = {
        "uri": str(folder / "explainer"),
        "extra": {
            "explainer_type": "tree_shap",
            "infer_uri": str(folder / "model.joblib"),
            "explainer_batch": True,
        },
    }
    return Subject(
        AlibiExplainRuntime, settings, bare, _matrix, NumpyRequestCodec.encode_request, comparable=False
    )


def tempo(folder: Path) -> Subject:
    """A pipeline without children: what Tempo does of its own is part of what is added."""
    import mlserver_tempo  # noqa: F401  lets Tempo be imported beside pydantic 2
    import tempo as mlops_tempo
    from tempo.mlserver import InferenceRuntime
    from tempo.serve.utils import pipeline

    @pipeline(name="double", local_folder=str(folder))
    def doubled(payload: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return payload * 2

    mlops_tempo.save(doubled, save_env=False)
    return Subject(
        InferenceRuntime, {"uri": str(folder)}, lambda values: values * 2, _matrix, _named("payload")
    )


BUILDERS: tuple[Callable[[Path], Subject], ...] = (
    *(sklearn, xgboost, lightgbm, catboost, onnx, torch, function, huggingface, mlflow, mllib),
    *(alibi_detect, alibi_explain, tempo),
)
