"""Models of four libraries in one server process, asked by many at once over REST and gRPC.

Everybody gets the rows that the bare library gives for what he sent, whoever his rows were computed with.
"""
# ruff: noqa: N802 - functions with an R are named after the ids of faults that users met

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import catboost
import grpc
import joblib
import lightgbm as lgb
import numpy as np
import pytest
import xgboost as xgb
from sklearn.linear_model import LogisticRegression

from mlserver.codecs import NumpyCodec, NumpyRequestCodec
from mlserver.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import InferenceRequest, InferenceResponse, RequestOutput
from tests.running import AsProcess, process, write_model
from tests.tabular import FRAME, THREE, X

Calls = dict[str, Callable[[Any], Any]]

MODELS = ("sklearn", "xgboost", "lightgbm", "catboost")
CLASSES = {
    "sklearn": "mlserver_sklearn.SKLearnModel",
    "xgboost": "mlserver_xgboost.XGBoostModel",
    "lightgbm": "mlserver_lightgbm.LightGBMModel",
    "catboost": "mlserver_catboost.CatboostModel",
}
# Settings of the models, and how many worker processes they run in.
WAYS: dict[str, tuple[dict[str, Any], int]] = {
    "plain": ({}, 0),
    "batched": ({"max_batch_size": 16, "max_batch_time": 0.02}, 0),
    "worker": ({}, 1),
    "batched in a worker": ({"max_batch_size": 16, "max_batch_time": 0.02}, 1),
}


def train(folder: Path, settings: dict[str, Any]) -> dict[str, Calls]:
    """Trains and saves a model of each library; gives what the library itself answers, by output."""
    home = {
        name: write_model(folder, name, implementation, **settings)
        for name, implementation in CLASSES.items()
    }
    linear = LogisticRegression().fit(X, THREE)
    joblib.dump(linear, home["sklearn"] / "model.joblib")
    extreme = xgb.XGBClassifier(n_estimators=5).fit(FRAME, THREE)
    extreme.save_model(home["xgboost"] / "model.json")
    light = lgb.train(
        {"objective": "multiclass", "num_class": 3, "verbose": -1}, lgb.Dataset(FRAME, THREE), 5
    )
    light.save_model(home["lightgbm"] / "model.bst")
    cat = catboost.CatBoostClassifier(iterations=5, verbose=0, allow_writing_files=False).fit(X, THREE)
    cat.save_model(home["catboost"] / "model.cbm")
    return {
        "sklearn": {
            "predict": linear.predict,
            "predict_proba": linear.predict_proba,
            "decision_function": linear.decision_function,
        },
        "xgboost": {
            "predict": extreme.predict,
            "predict_proba": extreme.predict_proba,
            "decision_function": partial(extreme.predict, output_margin=True),
            "pred_contribs": lambda rows: extreme.get_booster().predict(
                xgb.DMatrix(rows, feature_names=list(FRAME)), pred_contribs=True
            ),
        },
        "lightgbm": {
            "predict": light.predict,
            "predict_proba": light.predict,
            "decision_function": partial(light.predict, raw_score=True),
            "apply": partial(light.predict, pred_leaf=True),
        },
        "catboost": {
            "predict": cat.predict,
            "predict_proba": cat.predict_proba,
            "decision_function": partial(cat.predict, prediction_type="RawFormulaVal"),
            "apply": cat.calc_leaf_indexes,
        },
    }


@pytest.fixture(scope="module", params=list(WAYS))
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[AsProcess, dict[str, Calls]]]:
    folder = tmp_path_factory.mktemp("models")
    settings, workers = WAYS[request.param]
    calls = train(folder, settings)
    with process(folder, MLSERVER_PARALLEL_WORKERS=str(workers)) as server:
        yield server, calls


def body(rows: Any, *outputs: str) -> InferenceRequest:
    made: InferenceRequest = NumpyRequestCodec.encode_request(rows)
    made.outputs = [RequestOutput(name=name) for name in outputs] or None
    return made


def over_rest(server: AsProcess, model: str, made: InferenceRequest) -> InferenceResponse:
    answer = server.infer(model, made.model_dump())
    assert answer.status_code == 200, answer.text
    response: InferenceResponse = InferenceResponse.model_validate_json(answer.content)
    return response


def over_grpc(channel: Any, model: str, made: InferenceRequest) -> InferenceResponse:
    message = ModelInferRequestConverter.from_types(made, model_name=model, use_raw=True)
    answer = GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=30)
    response: InferenceResponse = ModelInferResponseConverter.to_types(answer)
    return response


def check(response: InferenceResponse, rows: Any, calls: Calls, wish: tuple[str, ...]) -> None:
    assert [output.name for output in response.outputs] == list(wish or ("predict",))
    for output in response.outputs:
        expected = np.asarray(calls[output.name](rows))
        assert output.shape[0] == len(rows)
        got = NumpyCodec.decode_output(output).reshape(expected.shape)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("transport", ["rest", "grpc"])
@pytest.mark.parametrize("model", MODELS)
def test_everybody_gets_his_own_rows(
    served: tuple[AsProcess, dict[str, Calls]], model: str, transport: str
) -> None:
    server, calls = served
    wishes: list[tuple[str, ...]] = [(), *((name,) for name in calls[model]), ("predict_proba", "predict")]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, ThreadPoolExecutor(16) as callers:
        ask = partial(over_rest, server, model) if transport == "rest" else partial(over_grpc, channel, model)

        def call(index: int) -> None:
            rows = X[index % 80 : index % 80 + 1 + index % 3].astype(np.float64)
            wish = wishes[index % len(wishes)]
            check(ask(body(rows, *wish)), rows, calls[model], wish)

        list(callers.map(call, range(150)))


@pytest.mark.parametrize("model", MODELS)
def test_who_sends_nonsense_is_refused_alone(served: tuple[AsProcess, dict[str, Calls]], model: str) -> None:
    server, calls = served
    expected = np.asarray(calls[model]["predict"](X[:1]))

    def call(index: int) -> None:
        made = body(X[:1] if index % 5 else X[:1, :2])
        answer = server.infer(model, made.model_dump())
        if index % 5:
            assert answer.status_code == 200
            np.testing.assert_allclose(answer.json()["outputs"][0]["data"], expected.ravel(), rtol=1e-6)
        else:
            assert answer.status_code == 400
            assert answer.json()["error"].startswith("input 'input-1' has 2 features per row (shape [1, 2])")

    with ThreadPoolExecutor(16) as callers:
        list(callers.map(call, range(60)))


@pytest.mark.parametrize("model", MODELS)
def test_grpc_says_invalid_argument(served: tuple[AsProcess, dict[str, Calls]], model: str) -> None:
    server, _ = served
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        for made, text in (
            (body(X[None, :2]), "input 'input-1' has shape [1, 2, 3], but the model expects [rows, 3]"),
            (body(X[:1], "explain"), "(explain was received)"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                over_grpc(channel, model, made)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert text in caught.value.details()


@pytest.mark.parametrize("model", MODELS)
def test_R40_metadata_over_rest(served: tuple[AsProcess, dict[str, Calls]], model: str) -> None:
    server, _ = served
    metadata = server.get(f"/v2/models/{model}").json()
    assert metadata["platform"] == model
    named = model in ("xgboost", "lightgbm")
    assert [tensor["name"] for tensor in metadata["inputs"]] == (list(FRAME) if named else ["input-0"])
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["predict", "predict_proba"]


@pytest.mark.parametrize("model", MODELS)
def test_a_folder_without_an_artefact(model: str, tmp_path: Path) -> None:
    home = write_model(tmp_path, "empty", CLASSES[model])
    with process(tmp_path, MLSERVER_LOAD_MODELS_AT_STARTUP="false") as server:
        answer = server.post("/v2/repository/models/empty/load")
    assert answer.status_code == 422
    assert f"({home} holds none of model." in answer.json()["error"]
