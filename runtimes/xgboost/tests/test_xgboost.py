"""What requests get from XGBoost models: artefacts, outputs, metadata, and words for what was wrong."""
# ruff: noqa: N802 - functions with an R are named after the ids of faults that users met

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from mlserver_xgboost import XGBoostModel, __version__
from mlserver_xgboost.whole import check_whole
from mlserver_xgboost.xgboost import _load_sklearn_interface
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

from mlserver.codecs import NumpyCodec
from mlserver.errors import InvalidModelURI, MLServerError
from mlserver.model import promises
from mlserver.types import InferenceRequest, Parameters, RequestInput


def classifier(target: Any = THREE, data: Any = X, **settings: Any) -> Any:
    return xgb.XGBClassifier(n_estimators=4, **settings).fit(data, target)


def regressor(data: Any = X, **settings: Any) -> Any:
    return xgb.XGBRegressor(n_estimators=4, **settings).fit(data, VALUES)


def booster(objective: str, target: Any, **settings: Any) -> Any:
    return xgb.train({"objective": objective, **settings}, xgb.DMatrix(X, target), 4)


async def loaded(path: Path, **settings: Any) -> Any:
    return await load(XGBoostModel, path, **settings)


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    async def serve(model: Any, name: str = "model.json", **settings: Any) -> Any:
        model.save_model(tmp_path / name)
        return await loaded(tmp_path / name, **settings)

    return serve


# --- artefacts ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*Saving model in the UBJSON format:UserWarning")
@pytest.mark.parametrize("name", ["model.json", "model.ubj", "model.bst", "iris.xgb"])
@pytest.mark.parametrize(
    ("model", "cls"),
    [
        (classifier(), xgb.XGBClassifier),
        (regressor(), xgb.XGBRegressor),
        (xgb.XGBRanker(n_estimators=2).fit(X, BINARY, qid=np.arange(90) // 9), xgb.XGBRanker),
        (booster("binary:logistic", BINARY), xgb.XGBRegressor),
    ],
)
async def test_what_was_saved_is_detected(serve: Serve, name: str, model: Any, cls: type) -> None:
    served = await serve(model, name)
    assert type(served._model) is cls
    expected = model.predict(xgb.DMatrix(X)) if isinstance(model, xgb.Booster) else model.predict(X)
    same(await answer(served, X), expected)


@pytest.mark.parametrize("dump", [joblib.dump, pickle.dump])
@pytest.mark.parametrize("name", ["model.joblib", "model.pickle", "model.pkl"])
async def test_pickles(tmp_path: Path, dump: Any, name: str) -> None:
    for model in (classifier(), booster("multi:softprob", THREE, num_class=3)):
        with (tmp_path / name).open("wb") as file:
            dump(model, file)
        served = await loaded(tmp_path)
        expected = model.predict(X if isinstance(model, xgb.XGBModel) else xgb.DMatrix(X))
        same(await answer(served, X), expected)
        assert promises(served, "inline") and promises(served, "rows_independent")


async def test_pickles_of_other_things(tmp_path: Path) -> None:
    joblib.dump({"no": "model"}, tmp_path / "model.pkl")
    with pytest.raises(MLServerError, match="holds a dict, which is no XGBoost model"):
        await loaded(tmp_path)


async def test_a_pickle_is_read_only_under_such_a_name(tmp_path: Path) -> None:
    joblib.dump(classifier(), tmp_path / "model.json")
    with pytest.raises(MLServerError, match="cannot be read"):
        await loaded(tmp_path)


class Own(xgb.XGBClassifier):  # type: ignore[misc]  # untyped
    """Code that nobody vouches for."""


async def test_code_of_others_is_promised_nothing(tmp_path: Path) -> None:
    joblib.dump(Own(n_estimators=2).fit(X, BINARY), tmp_path / "model.joblib")
    served = await loaded(tmp_path)
    assert not promises(served, "inline") and not promises(served, "rows_independent")
    assert (await answer(served, X[:1])).shape == [1, 1]


@pytest.mark.filterwarnings("ignore:.*Saving model in the UBJSON format:UserWarning")
async def test_the_first_well_known_name_wins(tmp_path: Path) -> None:
    names = ["model.bst", "model.json", "model.ubj"]
    models = [classifier(BINARY), regressor(), classifier()]
    for name, model in zip(names, models, strict=True):
        model.save_model(tmp_path / name)
    for name, model in zip(names, models, strict=True):
        same(await answer(await loaded(tmp_path), X), model.predict(X))
        (tmp_path / name).unlink()


async def test_a_path_through_links(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    model = regressor()
    model.save_model(tmp_path / "store" / "blob.json")
    (tmp_path / "models").symlink_to(tmp_path / "store")
    (tmp_path / "model.json").symlink_to(tmp_path / "models" / "blob.json")
    same(await answer(await loaded(tmp_path / "model.json"), X), model.predict(X))


async def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "other.json").touch()
    with pytest.raises(InvalidModelURI) as caught:
        await loaded(tmp_path)
    assert caught.value.status_code == 422
    assert str(caught.value) == (
        f"Invalid URI specified for model m ({tmp_path} holds none of "
        "model.bst, model.json, model.ubj, model.joblib, model.pickle, model.pkl)"
    )
    with pytest.raises(InvalidModelURI, match=re.escape(f"for model m ({tmp_path}/no)")):
        await loaded(tmp_path / "no")


# XGBoost 3.2 ends the process, or hangs, for most of these.
@pytest.mark.parametrize(
    "cut", [lambda raw: raw[:0], lambda raw: raw[:1], lambda raw: raw[:-30], lambda raw: b"no"]
)
@pytest.mark.parametrize("raw_format", ["json", "ubj"])
async def test_an_artefact_that_cannot_be_read(tmp_path: Path, cut: Any, raw_format: str) -> None:
    path = tmp_path / f"model.{raw_format}"
    path.write_bytes(cut(bytes(classifier().get_booster().save_raw(raw_format))))
    with pytest.raises(MLServerError, match=re.escape(f"the artefact {path} cannot be read: ")) as caught:
        await loaded(path)
    assert caught.value.status_code == 500
    assert "libxgboost" not in str(caught.value)


@pytest.mark.parametrize(
    "model",
    [
        classifier(data=FRAME),
        regressor(booster="dart"),
        regressor(booster="gblinear"),
        booster("multi:softprob", THREE, num_class=3),
    ],
)
def test_wherever_a_file_was_cut_it_is_noticed(model: Any) -> None:
    kept = model if isinstance(model, xgb.Booster) else model.get_booster()
    content = bytes(kept.save_raw("ubj"))
    check_whole(content)
    for end in [*range(100), *range(100, len(content), 17), *range(len(content) - 100, len(content))]:
        with pytest.raises(ValueError, match="cut off" if end > 1 else "the file has"):
            check_whole(content[:end])


def test_the_helper_that_explainers_use(tmp_path: Path) -> None:
    classifier().save_model(tmp_path / "c.json")
    assert isinstance(_load_sklearn_interface(str(tmp_path / "c.json")), xgb.XGBClassifier)
    booster("reg:squarederror", VALUES).save_model(tmp_path / "b.json")
    assert isinstance(_load_sklearn_interface(str(tmp_path / "b.json")), xgb.XGBRegressor)


# --- outputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [BINARY, THREE])
async def test_R55_outputs_of_classifiers(serve: Serve, target: Any) -> None:
    model = classifier(target)
    served = await serve(model)
    labels = await answer(served, X)
    assert (labels.datatype, labels.shape, labels.parameters.content_type) == ("INT64", [90, 1], "np")
    same(labels, model.predict(X))
    proba = await answer(served, X, "predict_proba")
    assert (proba.datatype, proba.shape) == ("FP32", [90, len(np.unique(target))])
    same(proba, model.predict_proba(X))
    same(await answer(served, X, "decision_function"), model.predict(X, output_margin=True))
    same(await answer(served, X, "apply"), model.apply(X))
    contributions = model.get_booster().predict(xgb.DMatrix(X), pred_contribs=True)
    same(await answer(served, X, "pred_contribs"), contributions)
    both = await served.predict(request(X, "predict_proba", "predict"))
    assert [output.name for output in both.outputs] == ["predict_proba", "predict"]


async def test_outputs_of_boosters(serve: Serve) -> None:
    for objective, target, more in (
        ("binary:logistic", BINARY, {}),
        ("multi:softprob", THREE, {"num_class": 3}),
    ):
        model = booster(objective, target, **more)
        served = await serve(model)
        output = await answer(served, X)
        assert output.datatype == "FP32"
        same(output, model.predict(xgb.DMatrix(X)))
        same(await answer(served, X, "decision_function"), model.predict(xgb.DMatrix(X), output_margin=True))
        text = await refused(served, request(X, "predict_proba"))
        assert text == "XGBRegressor models do not support 'predict_proba"


async def test_outputs_that_are_not_there(serve: Serve) -> None:
    served = await serve(regressor())
    output = await answer(served, X)
    assert (output.datatype, output.shape) == ("FP32", [90, 1])
    assert await refused(served, request(X, "predict_proba")) == (
        "XGBRegressor models do not support 'predict_proba"
    )
    for name in ("transform", "explain"):
        assert await refused(served, request(X, "predict", name)) == (
            f"XGBoostModel only supports 'predict' and 'predict_proba' as outputs ({name} was received)"
        )
    linear = await serve(regressor(booster="gblinear"))
    assert await refused(linear, request(X, "apply")) == (
        "XGBRegressor models do not support 'apply'; "
        "this one has 'predict', 'decision_function', 'pred_contribs'"
    )
    same(await answer(linear, X), linear._model.predict(X))


async def test_trees_of_several_targets_have_no_contributions(serve: Serve) -> None:
    for strategy in ("multi_output_tree", "one_output_per_tree"):
        model = xgb.XGBRegressor(n_estimators=2, multi_strategy=strategy).fit(X, X[:, :2])
        served = await serve(model)
        same(await answer(served, X), model.predict(X))
        if strategy == "multi_output_tree":
            text = await refused(served, request(X, "pred_contribs"))
            assert text.startswith(
                "XGBRegressor models do not support 'pred_contribs'; this one has 'predict'"
            )
        else:
            assert (await answer(served, X, "pred_contribs")).shape == [90, 2, 4]


async def test_another_model_can_be_put_in_place(serve: Serve) -> None:
    served = await serve(regressor())
    served._model = classifier()
    assert (await answer(served, X, "predict_proba")).shape == [90, 3]
    served._model = booster("binary:logistic", BINARY)
    same(await answer(served, X), served._model.predict(xgb.DMatrix(X)))


async def test_trees_after_an_early_stop_are_left_out(serve: Serve) -> None:
    model = xgb.XGBRegressor(n_estimators=50, early_stopping_rounds=2, learning_rate=1.0)
    model.fit(X[:45], VALUES[:45], eval_set=[(X[45:], VALUES[45:])], verbose=False)
    served = await serve(model)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    same(await answer(served, X), model.predict(X))
    same(await answer(served, X, "apply"), model.apply(X))
    contributions = NumpyCodec.decode_output(await answer(served, X, "pred_contribs"))
    np.testing.assert_allclose(contributions.sum(axis=1), model.predict(X), rtol=1e-4)


# --- inputs ------------------------------------------------------------------------------------------------


async def test_missing_values_pass(serve: Serve) -> None:
    model = regressor()
    served = await serve(model)
    holes = np.where(X > 0.5, np.nan, X)
    same(await answer(served, holes), model.predict(holes))
    tensor = RequestInput(name="x", datatype="FP64", shape=[1, 3], data=[None, 1.0, None])
    response = await served.predict(InferenceRequest(inputs=[tensor]))
    same(response.outputs[0], model.predict(np.array([[np.nan, 1.0, np.nan]])))


async def test_columns_in_any_order(serve: Serve) -> None:
    model = classifier(data=FRAME)
    served = await serve(model)
    shuffled = request(FRAME[["depth", "width", "height"]])
    for parameters in (shuffled.parameters, None):
        shuffled.parameters = parameters
        same((await served.predict(shuffled)).outputs[0], model.predict(FRAME))
    same(await answer(served, X), model.predict(X))
    contributions = model.get_booster().predict(xgb.DMatrix(FRAME), pred_contribs=True)
    for data in (X, FRAME):
        same(await answer(served, data, "pred_contribs"), contributions)
        same(await answer(served, data, "apply"), model.apply(FRAME))


async def test_a_frame_for_a_model_without_names(serve: Serve) -> None:
    model = classifier()
    served = await serve(model)
    same(await answer(served, FRAME), model.predict(X))
    assert "has 2 columns, but the model expects 3" in await refused(served, request(FRAME[COLUMNS[:2]]))


def cities() -> pd.DataFrame:
    city = pd.Categorical(np.array(["Oslo", "Rome"])[BINARY])
    return pd.DataFrame({"city": city, "size": X[:, 1], "floor": THREE, "new": X[:, 2] > 0.5})


KEEPS_CATEGORIES = hasattr(xgb.Booster, "get_categories")  # since 3.1


@pytest.mark.skipif(not KEEPS_CATEGORIES, reason="this XGBoost does not keep categories")
async def test_categories(serve: Serve) -> None:
    frame = cities()
    model = xgb.XGBRegressor(n_estimators=4, enable_categorical=True).fit(frame, VALUES)
    served = await serve(model)
    kinds = [(tensor.name, tensor.datatype) for tensor in served.inputs]
    assert kinds == [("city", "BYTES"), ("size", "FP32"), ("floor", "INT64"), ("new", "BOOL")]
    for rows in (frame, frame[frame.city == "Rome"].iloc[:1]):
        same(await answer(served, rows), model.predict(rows))
        same(await answer(served, rows, "apply"), model.apply(rows))
    assert "holds numbers, not text, in column 'city'" in await refused(served, request(frame.assign(city=1)))
    floors = frame.assign(floor=pd.Categorical(frame.floor))
    model = xgb.XGBRegressor(n_estimators=4, enable_categorical=True).fit(floors, VALUES)
    served = await serve(model)
    assert [tensor.datatype for tensor in served.inputs] == ["BYTES", "FP32", "INT64", "BOOL"]
    same(await answer(served, frame), model.predict(floors))
    assert "holds no numbers in column 'floor'" in await refused(served, request(frame.assign(floor="x")))


def column(name: str, datatype: str, *values: Any, content_type: str | None = None) -> RequestInput:
    parameters = None if content_type is None else Parameters(content_type=content_type)
    return RequestInput(
        name=name, datatype=datatype, shape=[len(values), 1], data=list(values), parameters=parameters
    )


def houses(codes: Any = (3, 7, 9)) -> tuple[pd.DataFrame, Any]:
    """Data with categories of text and of integers, and what depends on them and on their being missing."""
    frame = pd.DataFrame({"city": ["Oslo", "Rome", None] * 30, "code": pd.Categorical(np.repeat(codes, 30))})
    frame["city"] = pd.Categorical(frame["city"])
    cities = frame["city"].cat.codes.map({0: 0.0, 1: 5.0, -1: 50.0})
    return frame, cities + frame["code"].cat.codes.to_numpy()


@pytest.mark.skipif(not KEEPS_CATEGORIES, reason="this XGBoost does not keep categories")
@pytest.mark.parametrize("booster", ["gbtree", "dart"])
async def test_categories_that_the_fit_did_not_know_are_missing(serve: Serve, booster: str) -> None:
    frame, target = houses()
    model = xgb.XGBRegressor(n_estimators=20, booster=booster, enable_categorical=True).fit(frame, target)
    served = await serve(model)

    async def ask(cities: list[Any], *codes: Any, datatype: str = "INT64") -> Any:
        inputs = [column("city", "BYTES", *cities), column("code", datatype, *codes)]
        (output,) = (await served.predict(InferenceRequest(inputs=inputs))).outputs
        return NumpyCodec.decode_output(output).ravel().round().tolist()

    assert await ask(["Oslo", "Rome", None], 3, 3, 3) == [0, 5, 50]
    assert await ask([None], 9) == [52]
    for unknown in ("", "Berlin", "Paris", "Zagreb"):
        assert await ask([unknown], 3) == [50]
        assert await ask([unknown, "Rome", unknown], 3, 3, 3) == [50, 5, 50]
    missing = (await ask(["Rome"], None, datatype="FP64"))[0]
    for datatype in ("INT8", "INT32", "INT64", "UINT8", "UINT64", "FP32", "FP64"):
        assert await ask(["Rome"] * 3, 3, 9, 99, datatype=datatype) == [5, 7, missing]


@pytest.mark.skipif(not KEEPS_CATEGORIES, reason="this XGBoost does not keep categories")
@pytest.mark.parametrize("dtype", ["int8", "int32"])
async def test_categories_of_integers_of_another_size(serve: Serve, dtype: str) -> None:
    frame, target = houses(np.array([3, 7, 9], dtype))
    model = xgb.XGBRegressor(n_estimators=4, enable_categorical=True).fit(frame, target)
    served = await serve(model)
    same(await answer(served, frame.astype({"city": object, "code": "int64"})), model.predict(frame))


@pytest.mark.skipif(not KEEPS_CATEGORIES, reason="this XGBoost does not keep categories")
async def test_categories_that_are_no_text_are_named(serve: Serve) -> None:
    frame, target = houses()
    served = await serve(xgb.XGBRegressor(n_estimators=2, enable_categorical=True).fit(frame, target))
    city = column("city", "BYTES", "T3Nsbw==", content_type="base64")
    text = await refused(served, InferenceRequest(inputs=[city, column("code", "INT64", 3)]))
    assert text == "the request holds values that are no text in column 'city'"


@pytest.mark.skipif(not KEEPS_CATEGORIES, reason="this XGBoost does not keep categories")
async def test_metadata_of_a_classifier_with_categories(serve: Serve) -> None:
    frame, _ = houses()
    served = await serve(xgb.XGBClassifier(n_estimators=2, enable_categorical=True).fit(frame, BINARY))
    proba = served.outputs[1]
    assert (proba.name, proba.datatype, proba.shape) == ("predict_proba", "FP32", [-1, 2])
    plain = frame.astype({"city": object, "code": "int64"})
    assert (await answer(served, plain, "predict_proba")).datatype == "FP32"


async def test_categories_of_models_that_did_not_keep_them(tmp_path: Path) -> None:
    frame = cities()
    fitted = xgb.XGBRegressor(n_estimators=4, enable_categorical=True).fit(frame, VALUES)
    content = json.loads(fitted.get_booster().save_raw("json"))
    empty: dict[str, list[int]] = {"enc": [], "feature_segments": [], "sorted_idx": []}
    content["learner"]["gradient_booster"]["model"]["cats"] = empty
    (tmp_path / "model.json").write_text(json.dumps(content))
    served = await loaded(tmp_path)
    assert [tensor.datatype for tensor in served.inputs] == ["INT64", "FP32", "INT64", "BOOL"]
    numbers = frame.assign(city=frame.city.cat.codes.astype("int64"))
    same(await answer(served, numbers), fitted.predict(frame))
    same(await answer(served, numbers.to_numpy(dtype="float64")), fitted.predict(frame))
    words = request(frame.astype({"city": object}))
    assert await refused(served, words) == "the request holds no numbers in column 'city'"


@pytest.mark.skipif(not KEEPS_CATEGORIES, reason="this XGBoost reads the format")
async def test_the_old_binary_format(tmp_path: Path) -> None:
    (tmp_path / "model.bst").write_bytes(b"binf" + bytes(100))
    with pytest.raises(MLServerError, match="it has the old binary format"):
        await loaded(tmp_path)


@pytest.mark.parametrize(("data", "text"), MISFITS)
async def test_R51_what_does_not_fit_is_named(serve: Serve, data: Any, text: str) -> None:
    served = await serve(classifier(data=FRAME))
    assert (await refused(served, request(data))).startswith(text)


async def test_infinity_where_xgboost_does_not_take_it(serve: Serve) -> None:
    served = await serve(classifier())
    data = np.where(X > 0.9, np.inf, X)
    same(await answer(served, data), served._model.predict(data))
    assert await refused(served, request(data, "pred_contribs")) == (
        "input 'input-1' holds infinity, which the model does not take"
    )


async def test_other_tensors_that_do_not_fit(serve: Serve) -> None:
    served = await serve(classifier())
    vector = RequestInput(name="x", datatype="FP32", shape=[3], data=[1, 2, 3])
    text = await refused(served, InferenceRequest(inputs=[vector]))
    assert text == "input 'x' has shape [3], but the model expects [rows, 3]"
    words = RequestInput(name="x", datatype="BYTES", shape=[1, 3], data=["a", "b", "c"])
    text = await refused(served, InferenceRequest(inputs=[words]))
    assert text == "input 'x' holds text, but the model expects numbers (the first element is 'a')"
    assert "single input tensor (2 were" in await refused(served, InferenceRequest(inputs=[vector, words]))
    assert "single input tensor (0 were" in await refused(served, InferenceRequest(inputs=[]))


# --- metadata ----------------------------------------------------------------------------------------------


async def test_R40_metadata_comes_from_the_artefact(serve: Serve) -> None:
    metadata = await (await serve(classifier())).metadata()
    assert metadata.platform == "xgboost"
    assert described(metadata.inputs) + described(metadata.outputs) == [
        ("input-0", "FP32", [-1, 3]),
        ("predict", "INT64", [-1, 1]),
        ("predict_proba", "FP32", [-1, 3]),
    ]
    assert metadata.outputs[1].parameters.classes == [0, 1, 2]
    metadata = await (await serve(regressor(FRAME), platform="own")).metadata()
    assert metadata.platform == "own"
    assert described(metadata.inputs) == [(name, "FP32", [-1, 1]) for name in COLUMNS]
    assert [t.name for t in metadata.outputs] == ["predict"]
    assert metadata.parameters.content_type == "pd"


def test_version() -> None:
    assert __version__
