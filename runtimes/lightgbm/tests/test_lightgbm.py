"""What requests get from LightGBM models: artefacts, outputs, metadata, and words for what was wrong."""
# ruff: noqa: N802 - functions with an R are named after the ids of faults that users met

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import joblib
import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from mlserver_lightgbm import LightGBMModel, __version__
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

from mlserver.errors import InvalidModelURI, MLServerError
from mlserver.model import promises
from mlserver.types import InferenceRequest, RequestInput

QUIET = {"verbose": -1, "min_data_in_leaf": 2}


def booster(objective: str, target: Any, data: Any = X, **settings: Any) -> Any:
    return lgb.train({"objective": objective, **QUIET, **settings}, lgb.Dataset(data, target), 4)


async def loaded(path: Path, **settings: Any) -> Any:
    return await load(LightGBMModel, path, **settings)


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    async def serve(model: Any, name: str = "model.bst", **settings: Any) -> Any:
        """Boosters by their text file, anything else by a pickle."""
        if isinstance(model, lgb.Booster):
            model.save_model(tmp_path / name)
        else:
            name = "model.joblib"
            joblib.dump(model, tmp_path / name)
        return await loaded(tmp_path / name, **settings)

    return serve


# --- artefacts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.bst", "model.txt"])
async def test_text_files(tmp_path: Path, name: str) -> None:
    model = booster("regression", VALUES)
    model.save_model(tmp_path / name)
    for uri in (tmp_path, tmp_path / name):
        served = await loaded(uri)
        assert type(served._model) is lgb.Booster
        output = await answer(served, X)
        assert output.datatype == "FP64"
        same(output, model.predict(X))
        assert promises(served, "inline") and promises(served, "rows_independent")


@pytest.mark.parametrize("dump", [joblib.dump, pickle.dump])
@pytest.mark.parametrize("name", ["model.joblib", "model.pickle", "model.pkl"])
async def test_pickles(tmp_path: Path, dump: Any, name: str) -> None:
    ranker = lgb.LGBMRanker(n_estimators=4, **QUIET).fit(X, BINARY, group=[45, 45])
    classifier = lgb.LGBMClassifier(n_estimators=4, **QUIET).fit(X, THREE)
    for model in (booster("regression", VALUES), classifier, ranker):
        with (tmp_path / name).open("wb") as file:
            dump(model, file)
        served = await loaded(tmp_path)
        same(await answer(served, X), model.predict(X))
        assert promises(served, "inline") and promises(served, "rows_independent")


async def test_pickles_of_other_things(tmp_path: Path) -> None:
    joblib.dump({"no": "model"}, tmp_path / "model.pkl")
    with pytest.raises(MLServerError, match="holds a dict, which is no LightGBM model"):
        await loaded(tmp_path)


async def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "other.bst").touch()
    with pytest.raises(InvalidModelURI) as caught:
        await loaded(tmp_path)
    assert caught.value.status_code == 422
    assert str(caught.value) == (
        f"Invalid URI specified for model m ({tmp_path} holds none of "
        "model.bst, model.txt, model.joblib, model.pickle, model.pkl)"
    )
    with pytest.raises(InvalidModelURI, match=re.escape(f"for model m ({tmp_path}/no)")):
        await loaded(tmp_path / "no")


@pytest.mark.parametrize("content", [b"", b"no model", b"tree\nversion=v4\n", b"\xff\xfe"])
async def test_an_artefact_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.bst"
    path.write_bytes(content)
    with pytest.raises(MLServerError, match=re.escape(f"the artefact {path} cannot be read: ")) as caught:
        await loaded(path)
    assert caught.value.status_code == 500


async def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    """LightGBM 4.7 ends the process for many of these."""
    path = tmp_path / "model.bst"
    booster("regression", VALUES, FRAME).save_model(path)
    content = path.read_bytes()
    trees, names, last = map(content.index, (b"end of trees", b"parameters:", b"end of parameters"))
    for end in [*range(0, trees, 29), *range(names + 20, last, 97)]:
        path.write_bytes(content[:end])
        with pytest.raises(MLServerError, match="cannot be read: "):
            await loaded(path)


# --- outputs -----------------------------------------------------------------------------------------------


async def test_R55_outputs_of_a_binary_booster(serve: Serve) -> None:
    model = booster("binary", BINARY)
    served = await serve(model)
    positive = model.predict(X)
    output = await answer(served, X)
    assert (output.datatype, output.shape) == ("FP64", [90, 1])
    same(output, positive)
    same(await answer(served, X, "predict_proba"), np.column_stack([1 - positive, positive]))
    same(await answer(served, X, "decision_function"), model.predict(X, raw_score=True))
    same(await answer(served, X, "apply"), model.predict(X, pred_leaf=True))
    same(await answer(served, X, "pred_contribs"), model.predict(X, pred_contrib=True))
    both = await served.predict(request(X, "predict_proba", "predict"))
    assert [output.name for output in both.outputs] == ["predict_proba", "predict"]


@pytest.mark.parametrize("objective", ["multiclass", "multiclassova"])
async def test_R55_outputs_of_a_booster_with_classes(serve: Serve, objective: str) -> None:
    model = booster(objective, THREE, num_class=3)
    served = await serve(model)
    output = await answer(served, X)
    assert output.shape == [90, 3]
    same(output, model.predict(X))
    same(await answer(served, X, "predict_proba"), model.predict(X))
    same(await answer(served, X, "decision_function"), model.predict(X, raw_score=True))
    contributions = model.predict(X, pred_contrib=True).reshape(90, 3, 4)
    same(await answer(served, X, "pred_contribs"), contributions)


@pytest.mark.parametrize("labels", [THREE, np.array(["cat", "dog", "mouse"])[THREE]])
async def test_outputs_of_pickled_classifiers(serve: Serve, labels: Any) -> None:
    model = lgb.LGBMClassifier(n_estimators=4, **QUIET).fit(X, labels)
    served = await serve(model)
    same(await answer(served, X), model.predict(X))
    same(await answer(served, X, "predict_proba"), model.predict_proba(X))
    same(await answer(served, X, "decision_function"), model.predict(X, raw_score=True))
    same(await answer(served, X, "apply"), model.predict(X, pred_leaf=True))
    assert served.outputs[1].parameters.classes == np.unique(labels).tolist()


async def test_outputs_that_are_not_there(serve: Serve) -> None:
    served = await serve(booster("regression", VALUES))
    text = await refused(served, request(X, "predict_proba"))
    assert text == (
        "Booster (objective 'regression') models do not support 'predict_proba'; "
        "this one has 'predict', 'decision_function', 'apply', 'pred_contribs'"
    )
    for name in ("transform", "explain"):
        assert await refused(served, request(X, "predict", name)) == (
            "LightGBMModel only supports 'predict', 'predict_proba', 'decision_function', 'apply' and "
            f"'pred_contribs' as outputs ({name} was received)"
        )
    served = await serve(lgb.LGBMRegressor(n_estimators=2, **QUIET).fit(X, VALUES))
    text = await refused(served, request(X, "predict_proba"))
    assert text.startswith("LGBMRegressor models do not support 'predict_proba'; this one has 'predict', ")
    for leaf in (2, 200):  # 200: no tree has more than its root
        linear = lgb.LGBMRegressor(n_estimators=2, linear_tree=True, min_data_in_leaf=leaf, verbose=-1)
        served = await serve(linear.fit(X, VALUES))
        text = await refused(served, request(X, "pred_contribs"))
        assert text == (
            "LGBMRegressor models do not support 'pred_contribs'; "
            "this one has 'predict', 'decision_function', 'apply'"
        )


async def test_a_model_with_an_objective_of_its_own(serve: Serve) -> None:
    def squares(predicted: Any, data: Any) -> Any:
        return predicted - data.get_label(), np.ones_like(predicted)

    model = lgb.train({"objective": squares, **QUIET}, lgb.Dataset(X, VALUES), 4)
    served = await serve(model)
    same(await answer(served, X), model.predict(X))
    assert "objective 'custom'" in await refused(served, request(X, "predict_proba"))


# --- inputs ------------------------------------------------------------------------------------------------


async def test_missing_values_pass(serve: Serve) -> None:
    model = booster("regression", VALUES)
    served = await serve(model)
    holes = np.where(X > 0.5, np.nan, X)
    same(await answer(served, holes), model.predict(holes))


async def test_columns_in_any_order(serve: Serve) -> None:
    wrapped = lgb.LGBMRegressor(n_estimators=4, **QUIET).fit(FRAME, VALUES)
    for model in (booster("regression", VALUES, FRAME), wrapped):
        served = await serve(model)
        shuffled = request(FRAME[["depth", "width", "height"]])
        for parameters in (shuffled.parameters, None):
            shuffled.parameters = parameters
            same((await served.predict(shuffled)).outputs[0], model.predict(FRAME))
        same(await answer(served, X), model.predict(FRAME))


async def test_names_with_blanks(serve: Serve) -> None:
    frame = FRAME.rename(columns={"width": "petal width (cm)"})
    model = booster("regression", VALUES, frame)
    served = await serve(model)
    same(await answer(served, frame), model.predict(frame))
    same(await answer(served, frame[frame.columns[::-1]]), model.predict(frame))
    assert served.inputs[0].name == "petal_width_(cm)"


async def test_categories(serve: Serve) -> None:
    city = pd.Categorical(np.array(["Oslo", "Rome"])[BINARY])
    floor = pd.Categorical(THREE)
    frame = pd.DataFrame({"city": city, "size": X[:, 1], "floor": floor})
    for model in (
        booster("regression", VALUES, frame),
        lgb.LGBMRegressor(n_estimators=4, **QUIET).fit(frame, VALUES),
    ):
        served = await serve(model)
        assert [t.datatype for t in served.inputs] == ["BYTES", "FP64", "INT64"]
        plain = frame.astype({"city": object, "floor": "int64"})
        for rows in (slice(None), slice(3, 4)):
            same(await answer(served, plain[rows]), model.predict(frame[rows]))
        text = await refused(served, request(plain.assign(city=1)))
        assert text == "the request holds numbers, not text, in column 'city'"
        assert "no numbers in column 'size'" in await refused(served, request(plain.assign(size="x")))
        unknown = model.predict(frame.assign(city=pd.Categorical([None] * 90, categories=["Oslo", "Rome"])))
        same(await answer(served, plain.assign(city="Paris")), unknown)


async def test_categories_of_floats_and_booleans(serve: Serve) -> None:
    frame = pd.DataFrame({"share": pd.Categorical(THREE + 0.5), "new": pd.Categorical(BINARY == 1)})
    model = booster("regression", VALUES, frame)
    served = await serve(model)
    assert [t.datatype for t in served.inputs] == ["FP64", "BOOL"]
    plain = frame.astype({"share": "float64", "new": "bool"})
    same(await answer(served, plain), model.predict(frame))
    same(await answer(served, plain.astype({"new": "int64"})), model.predict(frame))


SIZES = pd.Categorical(np.array(["S", "M", "L"])[THREE], categories=["S", "M", "L"], ordered=True)


@pytest.mark.parametrize("more", [{}, {"city": pd.Categorical(np.array(["Oslo", "Rome"])[BINARY])}])
async def test_ordered_categories(serve: Serve, more: dict[str, Any]) -> None:
    """They are numbers to LightGBM, which does not keep their column."""
    frame = pd.DataFrame({"width": X[:, 0], "flag": BINARY, "size": SIZES, **more})
    plain = frame.astype(dict.fromkeys(["size", *more], object))
    for model in (
        booster("regression", VALUES, frame),
        lgb.LGBMRegressor(n_estimators=4, **QUIET).fit(frame, VALUES),
    ):
        served = await serve(model)
        assert [t.datatype for t in served.inputs][:3] == ["FP64", "FP64", "BYTES"]
        for rows in (slice(None), slice(3, 4)):
            same(await answer(served, plain[rows]), model.predict(frame[rows]))
        text = await refused(served, request(plain.assign(size=1)))
        assert text == "the request holds numbers, not text, in column 'size'"


async def test_ordered_categories_that_could_be_in_several_columns(serve: Serve) -> None:
    city = pd.Categorical(np.array(["Oslo", "Rome"])[BINARY])
    frame = pd.DataFrame({"rooms": THREE[::-1], "size": SIZES, "city": city})
    plain = frame.astype({"size": object, "city": object})
    model = booster("regression", VALUES, frame)
    served = await serve(model)
    same(await answer(served, plain), model.predict(frame))
    assert described(served.outputs) == [("predict", "FP64", [-1, 1])]
    assert await refused(served, request(plain.assign(size=1))) == (
        "the request holds categories in 'city', but the model was fitted with 2 such columns: "
        "send the texts of all, or one matrix of numbers"
    )
    text = await refused(served, request(plain.assign(city=1)))
    assert text == "the request holds numbers, not text, in column 'city'"
    codes = pd.DataFrame({"rooms": frame.rooms, "size": SIZES.codes, "city": city.codes}).to_numpy("float64")
    same(await answer(served, codes), model.predict(codes))


async def test_ordered_categories_that_are_numbers_are_not_guessed(serve: Serve) -> None:
    """Nobody would notice a wrong guess: `rooms` has the range that the codes of `grade` could have."""
    grade = pd.Categorical(BINARY + 5, categories=[5, 6, 7], ordered=True)
    model = booster("regression", VALUES, pd.DataFrame({"rooms": THREE, "grade": grade}))
    served = await serve(model)
    text = await refused(served, request(pd.DataFrame({"rooms": THREE, "grade": BINARY + 5})))
    assert text.endswith("in no column, but the model was fitted with 1 such column: "
                         "send the texts of all, or one matrix of numbers")  # fmt: skip
    codes = np.column_stack([THREE, grade.codes]).astype("float64")
    same(await answer(served, codes), model.predict(codes))


@pytest.mark.parametrize(("data", "text"), MISFITS)
async def test_R51_what_does_not_fit_is_named(serve: Serve, data: Any, text: str) -> None:
    served = await serve(booster("regression", VALUES, FRAME))
    assert (await refused(served, request(data))).startswith(text)


async def test_other_tensors_that_do_not_fit(serve: Serve) -> None:
    served = await serve(booster("regression", VALUES))
    vector = RequestInput(name="x", datatype="FP32", shape=[3], data=[1, 2, 3])
    text = await refused(served, InferenceRequest(inputs=[vector]))
    assert text == "input 'x' has shape [3], but the model expects [rows, 3]"
    assert "single input tensor (2 were" in await refused(served, InferenceRequest(inputs=[vector, vector]))
    assert "single input tensor (0 were" in await refused(served, InferenceRequest(inputs=[]))


# --- metadata ----------------------------------------------------------------------------------------------


async def test_R40_metadata_comes_from_the_artefact(serve: Serve) -> None:
    metadata = await (await serve(booster("multiclass", THREE, num_class=3))).metadata()
    assert metadata.platform == "lightgbm"
    assert described(metadata.inputs) + described(metadata.outputs) == [
        ("input-0", "FP64", [-1, 3]),
        ("predict", "FP64", [-1, 3]),
        ("predict_proba", "FP64", [-1, 3]),
    ]
    metadata = await (await serve(booster("regression", VALUES, FRAME), platform="own")).metadata()
    assert metadata.platform == "own"
    assert described(metadata.inputs) == [(name, "FP64", [-1, 1]) for name in COLUMNS]
    assert described(metadata.outputs) == [("predict", "FP64", [-1, 1])]
    assert metadata.parameters.content_type == "pd"


def test_version() -> None:
    assert __version__
