"""What requests get from MLflow models: arrays, frames and dicts in, all kinds of results out, and words for
what was wrong."""
# ruff: noqa: N802 - functions with an R are named after the ids of faults that users met

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import saving
from mlflow.models import infer_signature
from mlserver_mlflow import MLflowRuntime, TensorDictCodec, __version__
from saving import COLUMNS, PETS, X, Y

from mlserver.codecs import NumpyCodec, NumpyRequestCodec, PandasCodec, StringCodec, StringRequestCodec
from mlserver.codecs.base import find_request_codec, find_request_codec_by_type_hint
from mlserver.errors import InvalidModelURI, MLServerError
from mlserver.model import promises
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor, Parameters, RequestInput

Load = Callable[..., Awaitable[MLflowRuntime]]


def tensor(name: str, values: Any, datatype: str = "FP64", content_type: str | None = None) -> RequestInput:
    shape = list(np.shape(values))
    parameters = None if content_type is None else Parameters(content_type=content_type)
    flat = np.asarray(values, dtype=object).ravel().tolist()
    return RequestInput(name=name, datatype=datatype, shape=shape, data=flat, parameters=parameters)


def request(*tensors: RequestInput, **parameters: Any) -> InferenceRequest:
    return InferenceRequest(inputs=list(tensors), parameters=Parameters(**parameters))


FLOWERS = X.head(3)


def columns(frame: pd.DataFrame = FLOWERS, **datatypes: str) -> InferenceRequest:
    """A tensor a column, without content types: the signature has them."""
    return request(
        *(tensor(name, list(frame[name]), datatypes.get(name, "FP64")) for name in map(str, frame.columns))
    )


def only(response: InferenceResponse) -> Any:
    (output,) = response.outputs
    return output


async def refused(model: MLflowRuntime, request: InferenceRequest) -> str:
    """The text of the 400 that the request gets."""
    with pytest.raises(MLServerError) as caught:
        await model.predict(request)
    assert caught.value.status_code == 400, caught.value
    return str(caught.value)


def _lightgbm() -> Any:
    import lightgbm

    return lightgbm.train({"verbose": -1}, lightgbm.Dataset(X, Y), 5)


def _xgboost() -> Any:
    import xgboost

    return xgboost.XGBClassifier(n_estimators=5).fit(X, Y)


def _catboost() -> Any:
    import catboost

    return catboost.CatBoostRegressor(iterations=5, verbose=0, allow_writing_files=False).fit(X, Y)


TREES = {"lightgbm": _lightgbm, "xgboost": _xgboost, "catboost": _catboost}


# --- import ------------------------------------------------------------------------------------------------


def test_importing_the_package_imports_no_library() -> None:
    code = (
        "import sys, mlserver_mlflow\n"
        "heavy = {'mlflow', 'pandas', 'sklearn', 'starlette', 'fastapi', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from mlserver_mlflow import MLflowRuntime\n"
        "heavy = {'mlflow', 'pandas', 'sklearn', 'fastapi'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_submodules_and_version() -> None:
    from mlserver_mlflow import codecs, metadata, runtime, version

    assert runtime.MLflowRuntime is MLflowRuntime and codecs.TensorDictCodec is TensorDictCodec
    assert version.__version__ == __version__
    assert metadata.tensors_of.__doc__
    with pytest.raises(AttributeError, match="has no attribute 'Other'"):
        getattr(__import__("mlserver_mlflow"), "Other")  # noqa: B009 - what a misspelt import does


# --- the codec ---------------------------------------------------------------------------------------------


def test_dicts_of_arrays_survive_both_ways() -> None:
    assert find_request_codec("dict") is TensorDictCodec
    assert find_request_codec_by_type_hint(dict[str, np.ndarray]) is TensorDictCodec
    payload = {"a": np.array([[1.0, 2.0]]), "b": np.array([3], dtype=np.int8)}
    response = TensorDictCodec.encode_response("m", payload, "v1")
    assert (response.model_name, response.model_version) == ("m", "v1")
    assert response.parameters is not None and response.parameters.content_type == "dict"
    back = TensorDictCodec.decode_response(response)
    assert list(back) == ["a", "b"]
    np.testing.assert_array_equal(back["a"], payload["a"])
    sent = TensorDictCodec.encode_request(payload)
    assert [tensor.datatype for tensor in sent.inputs] == ["FP64", "INT8"]
    # Only inputs that were decoded by a content type of their own are arrays.
    assert TensorDictCodec.decode_request(sent)["a"].root == [1.0, 2.0]


@pytest.mark.parametrize(
    ("payload", "can"),
    [({}, True), ({"a": np.zeros(1)}, True), ({"a": [1]}, False), ([], False), (np.zeros(1), False)],
)
def test_what_the_codec_can_encode(payload: Any, can: bool) -> None:
    assert TensorDictCodec.can_encode(payload) is can


# --- signatures --------------------------------------------------------------------------------------------


def described(tensors: list[MetadataTensor]) -> list[tuple[Any, ...]]:
    return [(t.name, t.datatype, t.shape, t.parameters and t.parameters.content_type) for t in tensors]


async def test_columns_of_all_types(load: Load) -> None:
    model = await load("echo")
    assert described(model.inputs) == [
        ("boolean", "BOOL", [-1, 1], "np"),
        ("integer", "INT32", [-1, 1], "np"),
        ("long", "INT64", [-1, 1], "np"),
        ("float", "FP32", [-1, 1], "np"),
        ("double", "FP64", [-1, 1], "np"),
        ("string", "BYTES", [-1, 1], "str"),
        ("binary", "BYTES", [-1, 1], "base64"),
        ("datetime", "BYTES", [-1, 1], "datetime"),
        ("array", "BYTES", [-1, 1], "pd_json"),
        ("object", "BYTES", [-1, 1], "pd_json"),
        ("map", "BYTES", [-1, 1], "pd_json"),
        ("optional", "FP64", [-1, 1], "np"),
    ]
    assert model.inputs[-1].parameters is not None
    assert model.inputs[-1].parameters.model_extra == {"required": False}
    assert model.outputs == []  # a signature without outputs loads, too
    metadata = await model.metadata()
    assert metadata.platform == "mlflow"
    assert metadata.parameters is not None and metadata.parameters.content_type == "pd"


async def test_every_column_type_reaches_the_model_as_it_should(load: Load) -> None:
    model = await load("echo")
    answer = await model.predict(
        request(
            tensor("boolean", [True], "BOOL"),
            tensor("integer", [1], "INT32"),
            tensor("long", [1], "INT64"),
            tensor("float", [1.5], "FP32"),
            tensor("double", [1.5]),
            tensor("string", ["a"], "BYTES"),
            tensor("binary", ["YWI="], "BYTES"),
            tensor("datetime", [datetime(2026, 1, 2).isoformat()], "BYTES"),
            tensor("array", ["[1, 2]"], "BYTES"),
            tensor("object", ['{"k": "v"}'], "BYTES"),
            tensor("map", ['{"x": 1}'], "BYTES"),
        )
    )
    told = PandasCodec.decode_response(answer)
    kinds = dict(zip(told["column"], told["kind"], strict=True))
    assert {name: kinds[name] for name in ("boolean", "integer", "long", "float", "double")} == {
        "boolean": "bool",
        "integer": "int32",
        "long": "int64",
        "float": "float32",
        "double": "float64",
    }
    assert (kinds["string"], kinds["binary"], kinds["datetime"]) == ("str", "bytes", "Timestamp")
    assert kinds["object"] == kinds["map"] == "dict"
    assert kinds["array"] in ("list", "ndarray")
    assert answer.parameters is not None and answer.parameters.content_type == "pd"


async def test_columns_and_unnamed_outputs(load: Load) -> None:
    model = await load("columns")
    assert [tensor.name for tensor in model.inputs] == COLUMNS
    assert described(model.outputs) == [("output-0", "INT64", [-1], "np")]
    output = only(await model.predict(columns()))
    assert (output.name, output.datatype, output.shape) == ("output-1", "INT64", [3, 1])
    assert output.data.root == [0, 0, 0]


async def test_columns_of_text_numbers_and_truths(load: Load) -> None:
    model = await load("pets")
    assert [t.datatype for t in model.inputs] == ["BYTES", "INT64", "FP64", "BOOL"]
    answer = await model.predict(columns(PETS, kind="BYTES", age="INT64", tame="BOOL"))
    assert only(answer).data.root == saving.pets_model().predict(PETS).tolist()


async def test_one_tensor_without_a_name(load: Load) -> None:
    model = await load("matrix")
    assert described(model.inputs) == [("input-0", "FP64", [-1, 4], "np")]
    for name in ("input-0", "anything"):
        assert only(await model.predict(request(tensor(name, X.head(2).to_numpy())))).data.root == [0, 0]


async def test_columns_without_names(load: Load) -> None:
    model = await load("unnamed")
    assert [t.name for t in model.inputs] == ["input-0", "input-1", "input-2", "input-3"]
    frame = X.head(2).set_axis(list("abcd"), axis=1)
    assert only(await model.predict(columns(frame))).data.root == [0, 0]
    assert await refused(model, columns(frame[["a", "b"]])) == (
        "the request has 2 columns, but the model expects 4"
    )


async def test_named_tensors_in_and_out(load: Load) -> None:
    model = await load("named")
    assert described(model.inputs) == [("a", "FP32", [-1, 2], "np"), ("b", "INT64", [-1], "np")]
    assert described(model.outputs) == [("sum", "FP32", [-1], "np"), ("twice", "INT64", [-1], "np")]
    answer = await model.predict(request(tensor("b", [5, 6], "INT64"), tensor("a", [[1, 2], [3, 4]], "FP32")))
    assert answer.parameters is not None and answer.parameters.content_type == "dict"
    decoded = TensorDictCodec.decode_response(answer)
    assert {name: values.ravel().tolist() for name, values in decoded.items()} == {
        "sum": [3, 7],
        "twice": [10, 12],
    }


async def test_a_signature_replaces_what_settings_say(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    declared = [MetadataTensor(name="other", datatype="BYTES", shape=[1])]
    with caplog.at_level("WARNING", logger="mlserver"):
        model = await load("columns", inputs=declared, outputs=declared, content_type="np")
    assert [tensor.name for tensor in model.inputs] == COLUMNS
    assert model.outputs[0].name == "output-0"
    assert only(await model.predict(columns())).shape == [3, 1]


async def test_without_a_signature_settings_stand(load: Load) -> None:
    declared = [MetadataTensor(name="x", datatype="FP64", shape=[-1, 4])]
    model = await load("plain", inputs=declared, content_type="np")
    assert model.inputs == declared
    assert only(await model.predict(request(tensor("x", X.head(2).to_numpy())))).data.root == [0, 0]


async def test_without_a_signature_the_request_says_how_to_read_it(load: Load) -> None:
    model = await load("plain")
    matrix = X.head(2).to_numpy()
    assert only(await model.predict(NumpyRequestCodec.encode_request(matrix))).data.root == [0, 0]
    assert only(await model.predict(PandasCodec.encode_request(X.head(2)))).data.root == [0, 0]
    text = await refused(model, request(tensor("x", matrix)))
    assert text.startswith("the model has no signature") and "content_type" in text


async def test_type_hints_are_a_signature(load: Load) -> None:
    model = await load("hinted")
    answer = await model.predict(request(tensor("texts", ["a", "b"], "BYTES")))
    assert StringRequestCodec.decode_response(answer) == ["A", "B"]
    assert "string" in await refused(model, request(tensor("numbers", [1, 2], "INT64")))


# --- results -----------------------------------------------------------------------------------------------


async def result(load: Load, what: str) -> InferenceResponse:
    model = await load("results")
    return await model.predict(StringRequestCodec.encode_request([what]))


@pytest.mark.parametrize(
    ("what", "datatype", "shape", "data"),
    [
        ("array", "FP64", [1, 2], [1.5, 2.5]),
        ("series", "INT64", [3, 1], [1, 2, 3]),
        ("numbers", "INT64", [3, 1], [1, 2, 3]),
        ("rows", "FP64", [2, 2], [1, 2, 3, 4]),
        ("scalar", "FP64", [1], [4.5]),
        ("sparse", "FP64", [2, 2], [1, 0, 0, 1]),
    ],
)
async def test_numbers_become_one_array(
    load: Load, what: str, datatype: str, shape: list[int], data: list[float]
) -> None:
    answer = await result(load, what)
    assert answer.parameters is not None and answer.parameters.content_type == "np"
    output = only(answer)
    assert (output.name, output.datatype, output.shape) == ("output-1", datatype, shape)
    assert output.data.root == data


@pytest.mark.parametrize(
    ("what", "texts"), [("texts", ["a", "b"]), ("text series", ["a", "b"]), ("one text", ["hello"])]
)
async def test_texts(load: Load, what: str, texts: list[str]) -> None:
    answer = await result(load, what)
    assert answer.parameters is not None and answer.parameters.content_type == "str"
    assert StringRequestCodec.decode_response(answer) == texts


async def test_dicts_of_lists_are_named_tensors(load: Load) -> None:
    numbers, texts = (await result(load, "lists")).outputs
    assert (numbers.name, numbers.datatype, texts.name) == ("a", "INT64", "b")
    assert StringCodec.decode_output(texts) == ["x", "y"]


async def test_frames_are_columns(load: Load) -> None:
    answer = await result(load, "frame")
    assert [output.name for output in answer.outputs] == ["n", "s"]
    assert PandasCodec.decode_response(answer)["n"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("what", "values"),
    [
        ("records", [{"a": 1}, {"a": None}]),
        ("mixed", [1, "a"]),
        ("ragged", [[1], [2, 3]]),
        ("choices", [{"choices": [{"text": "hi"}]}]),
    ],
)
async def test_anything_else_is_json(load: Load, what: str, values: list[Any]) -> None:
    output = only(await result(load, what))
    assert (output.datatype, output.shape) == ("BYTES", [len(values), 1])
    assert output.parameters.content_type == "pd_json"
    assert [json.loads(text) for text in output.data] == values


@pytest.mark.parametrize(("what", "kind"), [("nothing", "NoneType"), ("set", "set")])
async def test_what_nothing_can_hold_is_the_models_fault(load: Load, what: str, kind: str) -> None:
    with pytest.raises(MLServerError, match=f"returned a {kind}") as caught:
        await result(load, what)
    assert caught.value.status_code == 500


# --- params ------------------------------------------------------------------------------------------------


async def test_params_have_defaults_and_reach_the_model(load: Load) -> None:
    model = await load("local")

    async def ask(**parameters: Any) -> Any:
        return only(await model.predict(request(tensor("x", [1.0, 2.0]), **parameters))).data.root

    assert await ask() == [1, 2]
    assert await ask(factor=2.0, shift=[1, 1]) == [4, 6]
    assert await ask(factor=3) == [3, 6]  # whole numbers are numbers
    assert await ask(headers={"x": "y"}, binary_data_output=True, timeout=5, unheard_of=1) == [1, 2]


async def test_params_of_another_type_are_named(load: Load) -> None:
    model = await load("local")
    text = await refused(model, request(tensor("x", [1.0]), factor="much"))
    assert text.startswith("parameter 'factor'") and "double" in text
    assert "parameter 'shift'" in await refused(model, request(tensor("x", [1.0]), shift=1))


async def test_params_are_in_the_metadata(load: Load) -> None:
    parameters = (await (await load("local")).metadata()).parameters
    assert parameters is not None and parameters.model_extra is not None
    assert json.loads(parameters.model_extra["params"]) == [
        {"name": "factor", "type": "double", "default": 1.0, "shape": None},
        {"name": "shift", "type": "long", "default": [0], "shape": [-1]},
    ]


# --- refusals ----------------------------------------------------------------------------------------------


async def test_R51_missing_and_wrong_columns_are_named(load: Load) -> None:
    model = await load("pets")
    known = "the model expects 'kind', 'age', 'weight', 'tame'"
    assert await refused(model, columns(PETS.drop(columns=["age", "tame"]), kind="BYTES")) == (
        f"the request lacks 'age', 'tame': {known}"
    )
    renamed = PETS.rename(columns={"age": "Age"})
    assert await refused(model, columns(renamed, kind="BYTES", Age="INT64", tame="BOOL")) == (
        f"the request lacks 'age' and has 'Age', which the model does not know: {known}"
    )


async def test_wrong_datatypes_are_named_each(load: Load) -> None:
    model = await load("pets")
    text = await refused(model, columns(PETS.head(2), kind="BYTES", age="FP64", weight="FP64", tame="INT64"))
    first, second = text.split("; ")
    assert first.startswith("input 'age': ") and "float64 to int64" in first
    assert second.startswith("input 'tame': ") and "int64 to bool" in second
    # Text where numbers should be, and numbers where text should be.
    assert "input 'weight'" in await refused(
        model,
        request(
            *columns(PETS[["kind", "age", "tame"]].head(1), kind="BYTES", age="INT64", tame="BOOL").inputs,
            tensor("weight", ["heavy"], "BYTES", "str"),
        ),
    )


async def test_extra_columns_are_left_out_or_refused(load: Load) -> None:
    frame = X.head(3).assign(colour=[1.0, 2.0, 3.0], scent=0.0)
    assert only(await (await load("columns")).predict(columns(frame))).data.root == [0, 0, 0]
    strict = await load("columns", extra={"extra_inputs": "refuse"})
    assert await refused(strict, columns(frame)) == (
        "the request has 'colour', 'scent', which the model does not know"
    )
    assert only(await strict.predict(columns())).data.root == [0, 0, 0]
    with pytest.raises(MLServerError, match="'ignore' or 'refuse', not 'maybe'"):
        await load("columns", extra={"extra_inputs": "maybe"})


async def test_extra_tensors_are_left_out_or_refused(load: Load) -> None:
    given = [tensor("a", [[1, 2]], "FP32"), tensor("b", [1], "INT64"), tensor("c", [1], "INT64")]
    assert len((await (await load("named")).predict(request(*given))).outputs) == 2
    strict = await load("named", extra={"extra_inputs": "refuse"})
    assert "'c'" in await refused(strict, request(*given))


@pytest.mark.parametrize("rows", [[[1.0, 2.0]], [1.0, 2.0, 3.0, 4.0], [[[1.0, 2.0, 3.0, 4.0]]]])
async def test_wrong_rank_and_width_name_the_input(load: Load, rows: Any) -> None:
    text = await refused(await load("matrix"), request(tensor("petals", rows)))
    assert text == f"input 'petals': Shape of input {np.shape(rows)} does not match expected shape (-1, 4)."
    plain = await load("plain", content_type="np")
    assert (await refused(plain, request(tensor("petals", rows)))).startswith(
        "input 'petals' does not suit the model: "
    )


async def test_a_column_of_more_than_one_value_a_row(load: Load) -> None:
    given = columns()
    given.inputs[1] = tensor(COLUMNS[1], [[1.0, 2.0]] * 3)
    assert f"'{COLUMNS[1]}'" in await refused(await load("columns"), given)


async def test_wrong_tensors_are_named_each(load: Load) -> None:
    model = await load("named")
    text = await refused(model, request(tensor("a", [[1, 2, 3]], "FP32"), tensor("b", [1], "INT32")))
    first, second = text.split("; ")
    assert first.startswith("input 'a': Shape of input (1, 3)")
    assert second.startswith("input 'b': dtype of input int32")
    assert await refused(model, request(tensor("a", [[1, 2]], "FP32"))) == (
        "the request lacks 'b': the model expects 'a', 'b'"
    )


async def test_requests_without_rows_or_inputs(load: Load) -> None:
    empty = request(RequestInput(name="x", datatype="FP64", shape=[0, 4], data=[]))
    for name in ("matrix", "plain"):
        assert await refused(await load(name, content_type="np"), empty) == "input 'x' has no rows"
    model = await load("columns")
    no_rows = request(*(RequestInput(name=c, datatype="FP64", shape=[0], data=[]) for c in COLUMNS))
    assert await refused(model, no_rows) == "the request has no rows"
    assert (await refused(model, request())).startswith("the request lacks 'sepal length (cm)'")


async def test_signatures_can_be_nobodys_business(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_SCHEMA_DETAILS", "true")
    text = await refused(await load("pets"), columns(PETS[["age"]], age="INT64"))
    assert "schema" in text and "weight" not in text


async def test_faults_of_the_model_are_its_own(load: Load) -> None:
    model = await load("faulty")
    with pytest.raises(ValueError, match="swordfish"):
        await model.predict(request(tensor("x", [1.0])))
    assert "input 'x'" in await refused(model, request(tensor("x", ["a"], "BYTES")))


async def test_values_that_an_estimator_refuses(load: Load) -> None:
    model = await load("pets")
    strange = PETS.head(2).assign(kind=["cat", "unicorn"])
    assert "unicorn" in await refused(model, columns(strange, kind="BYTES", age="INT64", tame="BOOL"))
    model = await load("columns")
    assert "contains NaN" in await refused(model, columns(X.head(2).assign(**{COLUMNS[0]: np.nan})))


async def test_code_inside_of_an_estimator_fails_on_its_own(load: Load) -> None:
    model = await load("own code")
    assert only(await model.predict(columns())).shape == [3, 1]
    with pytest.raises(ValueError, match="swordfish"):
        await model.predict(columns(X.head(2).assign(**{COLUMNS[0]: 5000.0})))


# --- loading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["", "/", "/MLmodel"])
async def test_R50_the_folder_with_and_without_a_slash(load: Load, saved: Path, ending: str) -> None:
    (saved / "columns" / "data").mkdir(exist_ok=True)
    assert only(await (await load(f"{saved / 'columns'}{ending}")).predict(columns())).shape == [3, 1]


async def test_R50_the_folder_above(load: Load, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "columns", tmp_path / "model")
    (tmp_path / "data").mkdir()
    assert only(await (await load(tmp_path)).predict(columns())).shape == [3, 1]
    shutil.copytree(saved / "columns", tmp_path / "other")
    with pytest.raises(InvalidModelURI, match="holds no file MLmodel, and 2 folders with one"):
        await load(tmp_path)


async def test_uris_with_a_scheme(load: Load, saved: Path) -> None:
    parameters = {"uri": f"file:{saved / 'columns'}"}
    model = await load("columns")
    assert model.settings.parameters is not None
    model.settings.parameters.uri = parameters["uri"]
    assert await model.load()
    model.settings.parameters.uri = "models:/nobody/1"
    with pytest.raises(MLServerError, match="MLflow cannot load models:/nobody/1") as caught:
        await model.load()
    assert caught.value.status_code == 500


async def test_what_is_no_model(load: Load, tmp_path: Path) -> None:
    with pytest.raises(InvalidModelURI, match="nowhere"):
        await load(tmp_path / "nowhere")
    with pytest.raises(InvalidModelURI, match="holds no file MLmodel, and none below it either"):
        await load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidModelURI, match="is no folder with a file MLmodel"):
        await load(tmp_path / "file")
    (tmp_path / "MLmodel").write_text("flavors: {}")
    with pytest.raises(MLServerError, match="MLflow cannot load"):
        await load(tmp_path)


async def test_R49_code_of_its_own(load: Load) -> None:
    model = await load("local")
    assert only(await model.predict(request(tensor("x", [2.0]), factor=4.0))).data.root == [8]


async def test_R49_a_module_that_is_missing_is_named(load: Load, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "local", tmp_path / "local")
    shutil.rmtree(tmp_path / "local" / "code")
    for name in [name for name in sys.modules if name.partition(".")[0] == "scaling"]:
        del sys.modules[name]
    before = list(sys.path)
    sys.path[:] = [entry for entry in sys.path if not (Path(entry) / "scaling").exists()]
    try:
        with pytest.raises(MLServerError) as caught:
            await load(tmp_path / "local")
    finally:
        sys.path[:] = before
    assert f"(No module named 'scaling', in the environment of {sys.executable})" in str(caught.value)


async def test_configuration_of_a_model(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    async def greeting(**values: Any) -> Any:
        answer = await (await load("configured", **values)).predict(StringRequestCodec.encode_request(["x"]))
        return StringRequestCodec.decode_response(answer)

    assert await greeting() == ["hello"]
    monkeypatch.setenv("SERVING_MODEL_CONFIG", '{"greeting": "hallo"}')
    assert await greeting() == ["hallo"]
    assert await greeting(extra={"model_config": {"greeting": "ciao"}}) == ["ciao"]


async def test_unloading_lets_go_of_the_model(load: Load) -> None:
    model = await load("columns")
    assert await model.unload() and not hasattr(model, "_model")


# --- promises ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "independent"),
    [("columns", True), ("pets", True), ("plain", True), ("own code", False), ("named", False)],
)
async def test_rows_are_independent_where_that_is_known(load: Load, name: str, independent: bool) -> None:
    model = await load(name)
    assert promises(model, "rows_independent") is independent
    assert promises(model, "inline") is False


@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost"])
async def test_trees(load: Load, tmp_path: Path, library: str) -> None:
    pytest.importorskip(library)
    flavour = importlib.import_module(f"mlflow.{library}")
    trained = TREES[library]()
    expected = np.asarray(trained.predict(X))
    signature = infer_signature(X, expected)
    save: Any = flavour.save_model
    save(trained, str(tmp_path / "model"), signature=signature, pip_requirements=saving.REQUIREMENTS)
    model = await load(tmp_path / "model")
    assert promises(model, "rows_independent")
    np.testing.assert_array_equal(
        NumpyCodec.decode_output(only(await model.predict(columns(X)))).reshape(expected.shape), expected
    )
    assert "'sepal length (cm)'" in await refused(model, columns(X.drop(columns="sepal length (cm)")))
    # Without a signature, it is the library that says what is wrong.
    save(trained, str(tmp_path / "plain"), pip_requirements=saving.REQUIREMENTS)
    plain = await load(tmp_path / "plain", content_type="np")
    narrow = request(tensor("petals", X.head(2).to_numpy()[:, :2]))
    assert (await refused(plain, narrow)).startswith("input 'petals' does not suit the model: ")


async def test_arrays_come_back_as_they_were_made(load: Load) -> None:
    model = await load("matrix")
    rows = X.iloc[[0, 60, 120]].to_numpy()
    answer = only(await model.predict(request(NumpyCodec.encode_input("x", rows))))
    assert answer.data.root == [0, 1, 2]
