"""What requests get from CatBoost models: artefacts, outputs, metadata, and words for what was wrong."""
# ruff: noqa: N802 - functions with an R are named after the ids of faults that users met

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import catboost
import joblib
import numpy as np
import pandas as pd
import pytest
from catboost import CatBoostClassifier, CatBoostRanker, CatBoostRegressor
from mlserver_catboost import CatboostModel, __version__
from tests.tabular import (
    BINARY,
    COLUMNS,
    FRAME,
    MISFITS,
    THREE,
    VALUES,
    Serve,
    X,
    answer,
    described,
    load,
    refused,
    request,
    same,
)

from mlserver.codecs import PandasCodec, StringCodec
from mlserver.errors import InvalidModelURI, MLServerError
from mlserver.model import promises
from mlserver.types import InferenceRequest, RequestInput

QUIET = {"iterations": 4, "verbose": 0, "allow_writing_files": False}


def fitted(cls: Any, target: Any, data: Any = X, fit: dict[str, Any] | None = None, **settings: Any) -> Any:
    return cls(**QUIET, **settings).fit(data, target, **(fit or {}))


def ranker() -> Any:
    return fitted(CatBoostRanker, BINARY, fit={"group_id": np.arange(90) // 9})


async def loaded(path: Path, **settings: Any) -> Any:
    return await load(CatboostModel, path, **settings)


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    async def serve(model: Any, name: str = "model.cbm", **settings: Any) -> Any:
        model.save_model(tmp_path / name, format="json" if name.endswith(".json") else "cbm")
        return await loaded(tmp_path / name, **settings)

    return serve


# --- artefacts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.cbm", "model.bin", "model.json", "iris.catboost"])
@pytest.mark.parametrize(
    "model",
    [
        fitted(CatBoostClassifier, BINARY),
        fitted(CatBoostClassifier, THREE),
        fitted(CatBoostRegressor, VALUES),
        fitted(CatBoostRegressor, VALUES, loss_function="Quantile:alpha=0.3"),
        fitted(CatBoostRegressor, BINARY, loss_function="Poisson"),
        ranker(),
    ],
)
async def test_what_was_saved_is_detected(serve: Serve, name: str, model: Any) -> None:
    served = await serve(model, name)
    assert type(served._model) is type(model)
    same(await answer(served, X), served._model.predict(X))
    np.testing.assert_allclose(served._model.predict(X), model.predict(X))
    assert promises(served, "inline") and promises(served, "rows_independent")


@pytest.mark.parametrize("dump", [joblib.dump, pickle.dump])
@pytest.mark.parametrize("name", ["model.joblib", "model.pickle", "model.pkl"])
async def test_pickles(tmp_path: Path, dump: Any, name: str) -> None:
    for model in (fitted(CatBoostClassifier, THREE), catboost.CatBoost(QUIET).fit(X, VALUES)):
        with (tmp_path / name).open("wb") as file:
            dump(model, file)
        same(await answer(await loaded(tmp_path), X), model.predict(X))


async def test_pickles_of_other_things(tmp_path: Path) -> None:
    joblib.dump({"no": "model"}, tmp_path / "model.pkl")
    with pytest.raises(MLServerError, match="holds a dict, which is no CatBoost model"):
        await loaded(tmp_path)


async def test_the_first_well_known_name_wins(tmp_path: Path) -> None:
    models = [fitted(CatBoostClassifier, BINARY), fitted(CatBoostRegressor, VALUES)]
    names = ["model.cbm", "model.bin"]
    for name, model in zip(names, models, strict=True):
        model.save_model(tmp_path / name)
    for name, model in zip(names, models, strict=True):
        same(await answer(await loaded(tmp_path), X), model.predict(X))
        (tmp_path / name).unlink()


async def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "other.cbm").touch()
    with pytest.raises(InvalidModelURI) as caught:
        await loaded(tmp_path)
    assert caught.value.status_code == 422
    assert str(caught.value) == (
        f"Invalid URI specified for model m ({tmp_path} holds none of "
        "model.cbm, model.bin, model.json, model.joblib, model.pickle, model.pkl)"
    )
    with pytest.raises(InvalidModelURI, match=re.escape(f"for model m ({tmp_path}/no)")):
        await loaded(tmp_path / "no")


@pytest.mark.parametrize("content", [b"", b"no model", b"CBM1xx", b"{", b"{}"])
async def test_an_artefact_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.cbm"
    path.write_bytes(content)
    with pytest.raises(MLServerError, match=re.escape(f"the artefact {path} cannot be read: ")) as caught:
        await loaded(path)
    assert caught.value.status_code == 500


@pytest.mark.parametrize("name", ["model.cbm", "model.json"])
async def test_a_file_that_was_cut_off(serve: Serve, tmp_path: Path, name: str) -> None:
    await serve(fitted(CatBoostClassifier, THREE), name)
    content = (tmp_path / name).read_bytes()
    for end in range(0, len(content), 211):
        (tmp_path / name).write_bytes(content[:end])
        with pytest.raises(MLServerError, match="cannot be read: "):
            await loaded(tmp_path / name)


# --- outputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [BINARY, THREE])
async def test_R55_outputs_of_classifiers(serve: Serve, target: Any) -> None:
    model = fitted(CatBoostClassifier, target)
    served = await serve(model)
    output = await answer(served, X)
    assert (output.datatype, output.shape) == ("INT64", [90, 1])
    same(output, model.predict(X))
    same(await answer(served, X, "predict_proba"), model.predict_proba(X))
    same(await answer(served, X, "predict_log_proba"), model.predict_log_proba(X))
    same(await answer(served, X, "decision_function"), model.predict(X, prediction_type="RawFormulaVal"))
    same(await answer(served, X, "apply"), model.calc_leaf_indexes(X))
    contributions = model.get_feature_importance(catboost.Pool(X), type="ShapValues")
    same(await answer(served, X, "pred_contribs"), contributions)
    both = await served.predict(request(X, "predict_proba", "predict"))
    assert [output.name for output in both.outputs] == ["predict_proba", "predict"]


async def test_labels_of_text(serve: Serve) -> None:
    for target in (np.array(["cat", "mouse"])[BINARY], np.array(["a", "bb", "ccc"])[THREE]):
        model = fitted(CatBoostClassifier, target)
        served = await serve(model)
        output = await answer(served, X)
        assert (output.datatype, output.shape) == ("BYTES", [90, 1])
        assert StringCodec.decode_output(output) == model.predict(X).ravel().tolist()
        assert served.outputs[1].parameters.classes == np.unique(target).tolist()


async def test_several_targets(serve: Serve) -> None:
    model = fitted(CatBoostRegressor, X[:, :2], loss_function="MultiRMSE")
    same(await answer(await serve(model), X), model.predict(X))
    model = fitted(CatBoostClassifier, np.column_stack([BINARY, 1 - BINARY]), loss_function="MultiLogloss")
    served = await serve(model)
    for name in ("predict", "predict_proba"):
        same(await answer(served, X, name), getattr(model, name)(X))


async def test_outputs_that_are_not_there(serve: Serve) -> None:
    served = await serve(fitted(CatBoostRegressor, VALUES))
    text = await refused(served, request(X, "predict_proba"))
    assert text == (
        "CatBoostRegressor models do not support 'predict_proba'; "
        "this one has 'predict', 'decision_function', 'apply', 'pred_contribs'"
    )
    for name in ("transform", "explain"):
        assert await refused(served, request(X, "predict", name)) == (
            "CatboostModel only supports 'predict', 'predict_proba', 'predict_log_proba', "
            f"'decision_function', 'apply' and 'pred_contribs' as outputs ({name} was received)"
        )
    served = await serve(ranker())
    same(await answer(served, X, "decision_function"), served._model.predict(X))
    text = await refused(served, request(X, "predict_proba"))
    assert text.startswith("CatBoostRanker models do not support 'predict_proba'; this one has 'predict', ")


# --- inputs ------------------------------------------------------------------------------------------------


async def test_what_passes_besides_a_matrix(serve: Serve) -> None:
    model = fitted(CatBoostRegressor, VALUES)
    served = await serve(model)
    holes = np.where(X > 0.5, np.nan, X)
    same(await answer(served, holes), model.predict(holes))
    vector = RequestInput(name="x", datatype="FP32", shape=[3], data=X[4].tolist())
    response = await served.predict(InferenceRequest(inputs=[vector]))
    same(response.outputs[0], model.predict(X[4:5]))


async def test_columns_in_any_order(serve: Serve) -> None:
    model = fitted(CatBoostRegressor, VALUES, FRAME)
    served = await serve(model)
    shuffled = request(FRAME[["depth", "width", "height"]])
    for parameters in (shuffled.parameters, None):
        shuffled.parameters = parameters
        same((await served.predict(shuffled)).outputs[0], model.predict(FRAME))
    same(await answer(served, X), model.predict(FRAME))


async def test_categories_and_texts(serve: Serve) -> None:
    frame = pd.DataFrame({"city": np.array(["Oslo", "Rome"])[BINARY], "size": X[:, 1], "floor": THREE})
    model = fitted(CatBoostRegressor, VALUES, frame, {"cat_features": ["city", "floor"]})
    served = await serve(model)
    assert [t.datatype for t in served.inputs] == ["BYTES", "FP32", "BYTES"]
    for rows in (frame, frame.iloc[3:4]):
        same(await answer(served, rows), model.predict(rows))
        pool = catboost.Pool(rows, cat_features=["city", "floor"])
        contributions = model.get_feature_importance(pool, type="ShapValues")
        same(await answer(served, rows, "pred_contribs"), contributions)
    kept = PandasCodec.encode_request(frame, use_bytes=True)
    for tensor in kept.inputs:
        tensor.parameters = None
    same((await served.predict(kept)).outputs[0], model.predict(frame))
    text = await refused(served, request(frame.assign(city=1.5, floor=0.5)))
    assert text.startswith("the request does not suit the model: Invalid type for cat_feature")
    assert "no numbers in column 'size'" in await refused(served, request(frame.assign(size="x")))


async def test_categories_in_a_matrix(serve: Serve) -> None:
    matrix = np.column_stack([THREE, X[:, 1]]).astype(object)
    matrix[:, 0] = matrix[:, 0].astype(int)
    model = fitted(CatBoostRegressor, VALUES, matrix, {"cat_features": [0]})
    served = await serve(model)
    same(await answer(served, np.column_stack([THREE, X[:, 1]])), model.predict(matrix))
    text = await refused(served, request(X[:, :2]))
    assert text.startswith("input 'input-1' does not suit the model: Invalid type for cat_feature")


async def test_a_column_of_documents(serve: Serve) -> None:
    texts = np.array(["good fine", "bad awful"])[BINARY]
    frame = pd.DataFrame({"text": texts, "size": X[:, 1]})
    model = fitted(CatBoostClassifier, BINARY, frame, {"text_features": ["text"]})
    served = await serve(model)
    assert [t.datatype for t in served.inputs] == ["BYTES", "FP32"]
    same(await answer(served, frame), model.predict(frame))
    same(await answer(served, frame, "predict_proba"), model.predict_proba(frame))
    text = await refused(served, request(frame.assign(text=1)))
    assert text == "the request holds numbers, not text, in column 'text'"


@pytest.mark.parametrize(("data", "text"), MISFITS)
async def test_R51_what_does_not_fit_is_named(serve: Serve, data: Any, text: str) -> None:
    served = await serve(fitted(CatBoostRegressor, VALUES, FRAME))
    assert (await refused(served, request(data))).startswith(text)


async def test_other_tensors_that_do_not_fit(serve: Serve) -> None:
    served = await serve(fitted(CatBoostRegressor, VALUES))
    vector = RequestInput(name="x", datatype="FP32", shape=[4], data=[1, 2, 3, 4])
    text = await refused(served, InferenceRequest(inputs=[vector]))
    assert text == "input 'x' has shape [4], but the model expects [rows, 3]"
    assert "single input tensor (2 were" in await refused(served, InferenceRequest(inputs=[vector, vector]))
    assert "single input tensor (0 were" in await refused(served, InferenceRequest(inputs=[]))


# --- metadata ----------------------------------------------------------------------------------------------


async def test_R40_metadata_comes_from_the_artefact(serve: Serve) -> None:
    metadata = await (await serve(fitted(CatBoostClassifier, THREE))).metadata()
    assert metadata.platform == "catboost"
    assert described(metadata.inputs) + described(metadata.outputs) == [
        ("input-0", "FP32", [-1, 3]),
        ("predict", "INT64", [-1, 1]),
        ("predict_proba", "FP64", [-1, 3]),
    ]
    assert metadata.outputs[1].parameters.classes == [0, 1, 2]
    metadata = await (await serve(fitted(CatBoostRegressor, VALUES, FRAME), platform="own")).metadata()
    assert metadata.platform == "own"
    assert described(metadata.inputs) == [(name, "FP32", [-1, 1]) for name in COLUMNS]
    assert described(metadata.outputs) == [("predict", "FP64", [-1, 1])]
    assert metadata.parameters.content_type == "pd"


def test_version() -> None:
    assert __version__
