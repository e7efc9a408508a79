"""What requests get from scikit-learn models: outputs, encodings, metadata, and words for what was wrong."""
# ruff: noqa: N802 - functions with an R are named after the ids of faults that users met

from __future__ import annotations

import pickle
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from mlserver_sklearn import SKLearnModel, __version__
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import IsolationForest, RandomForestClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from mlserver import ModelSettings
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, PandasCodec, StringCodec, StringRequestCodec
from mlserver.errors import CodecError, InferenceError, InvalidModelURI, MLServerError
from mlserver.model import promises
from mlserver.settings import ModelParameters
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    Parameters,
    RequestInput,
    RequestOutput,
)

Serve = Callable[..., Awaitable[SKLearnModel]]

X = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 2.0], [2.0, 2.0, 0.0], [3.0, 1.0, 1.0]])
Y = np.array([0, 0, 1, 1])
COLUMNS = ["width", "height", "depth"]
FRAME = pd.DataFrame(X, columns=COLUMNS)


def matrix(values: Any, datatype: str = "FP64", outputs: list[str] | None = None) -> InferenceRequest:
    array = np.asarray(values)
    tensor = RequestInput(name="x", datatype=datatype, shape=list(array.shape), data=array.ravel().tolist())
    return InferenceRequest(inputs=[tensor], outputs=ask(outputs))


def ask(outputs: list[str] | None) -> list[RequestOutput] | None:
    return None if outputs is None else [RequestOutput(name=name) for name in outputs]


def only(response: InferenceResponse) -> Any:
    (output,) = response.outputs
    return output


async def refused(model: SKLearnModel, request: InferenceRequest) -> str:
    """The text of the 400 that the request gets."""
    with pytest.raises(MLServerError) as caught:
        await model.predict(request)
    assert caught.value.status_code == 400
    return str(caught.value)


# --- outputs -----------------------------------------------------------------------------------------------


async def test_labels_are_int64_in_one_column(serve: Serve) -> None:
    model = await serve(LogisticRegression().fit(X, Y))
    response = await model.predict(matrix(X))
    assert response.model_name == "m" and response.model_version == "v1"
    assert response.parameters is None
    output = only(response)
    assert (output.name, output.datatype, output.shape) == ("predict", "INT64", [4, 1])
    assert output.parameters.content_type == "np"
    assert output.data.root == [0, 0, 1, 1]


@pytest.mark.parametrize("outputs", [None, []])
async def test_no_outputs_means_predict(serve: Serve, outputs: list[str] | None) -> None:
    model = await serve(LogisticRegression().fit(X, Y))
    assert only(await model.predict(matrix(X, outputs=outputs))).name == "predict"


async def test_several_outputs_in_the_order_asked_for(serve: Serve) -> None:
    estimator = LogisticRegression().fit(X, Y)
    model = await serve(estimator)
    response = await model.predict(matrix(X, outputs=["predict_proba", "predict"]))
    proba, labels = response.outputs
    assert (proba.name, proba.datatype, proba.shape) == ("predict_proba", "FP64", [4, 2])
    assert labels.name == "predict"
    np.testing.assert_array_equal(NumpyCodec.decode_output(proba), estimator.predict_proba(X))


async def test_predict_fn_chooses_the_default(serve: Serve) -> None:
    estimator = LogisticRegression().fit(X, Y)
    model = await serve(estimator, extra={"predict_fn": "decision_function"})
    output = only(await model.predict(matrix(X)))
    assert output.name == "decision_function"
    np.testing.assert_array_equal(NumpyCodec.decode_output(output).ravel(), estimator.decision_function(X))
    assert only(await model.predict(matrix(X, outputs=["predict"]))).name == "predict"


async def test_a_predict_fn_alone_may_be_any_method(serve: Serve) -> None:
    model = await serve(KMeans(2, n_init="auto", random_state=0).fit(X), extra={"predict_fn": "score"})
    assert only(await model.predict(matrix(X))).name == "score"
    assert "score was received" in await refused(model, matrix(X, outputs=["score"]))


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        (LogisticRegression(), "decision_function"),
        (LogisticRegression(), "predict_log_proba"),
        (IsolationForest(n_estimators=5, random_state=0), "score_samples"),
        (RandomForestClassifier(n_estimators=3, random_state=0), "apply"),
        (make_pipeline(StandardScaler(), LogisticRegression()), "decision_function"),
    ],
)
async def test_R55_every_method_that_answers_rows(serve: Serve, estimator: Any, name: str) -> None:
    estimator.fit(X, Y)
    output = only(await (await serve(estimator)).predict(matrix(X, outputs=[name])))
    expected = getattr(estimator, name)(X)
    assert output.name == name
    np.testing.assert_array_equal(NumpyCodec.decode_output(output).reshape(expected.shape), expected)


async def test_transform(serve: Serve) -> None:
    estimator = StandardScaler().fit(X)
    model = await serve(estimator, extra={"predict_fn": "transform"})
    for outputs in (None, ["transform"]):
        output = only(await model.predict(matrix(X, outputs=outputs)))
        assert output.name == "transform"
        np.testing.assert_array_equal(NumpyCodec.decode_output(output), estimator.transform(X))


async def test_a_predict_fn_that_is_not_there(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    model = await serve(LogisticRegression().fit(X, Y), extra={"predict_fn": "foretell"})
    assert "predict_fn is 'foretell', which is no method of <class 'sklearn" in caplog.text
    assert (await model.predict(matrix(X, outputs=["predict"]))).outputs[0].name == "predict"
    with pytest.raises(AttributeError, match="foretell"):
        await model.predict(matrix(X))


async def test_R35_an_unknown_output_is_named(serve: Serve) -> None:
    model = await serve(LogisticRegression().fit(X, Y))
    with pytest.raises(InferenceError) as caught:
        await model.predict(matrix(X, outputs=["predict", "explain"]))
    assert str(caught.value) == (
        "SKLearnModel only supports 'predict', 'predict_proba' and 'transform' as outputs"
        " (explain was received)"
    )


@pytest.mark.parametrize(
    "estimator", [LinearRegression(), make_pipeline(StandardScaler(), LinearRegression())]
)
async def test_regressors_have_no_predict_proba(serve: Serve, estimator: Any) -> None:
    model = await serve(estimator.fit(X, Y))
    text = await refused(model, matrix(X, outputs=["predict_proba"]))
    assert text == (
        "<class 'sklearn.linear_model._base.LinearRegression'> models do not support 'predict_proba"
    )


async def test_methods_that_an_estimator_lacks_are_refused(serve: Serve) -> None:
    assert "models do not support 'transform'; this one has 'predict', 'predict_proba', " in await refused(
        await serve(LogisticRegression().fit(X, Y)), matrix(X, outputs=["transform"])
    )
    assert await refused(await serve(StandardScaler().fit(X)), matrix(X)) == (
        "<class 'sklearn.preprocessing._data.StandardScaler'> models do not support 'predict'; "
        "this one has 'transform'"
    )


@pytest.mark.parametrize("make", [StandardScaler, OneHotEncoder])
async def test_metadata_of_a_transformer_shows_what_to_ask_for(serve: Serve, make: Any) -> None:
    estimator = make().fit(X)
    (output,) = (await serve(estimator)).outputs
    assert (output.name, output.datatype) == ("transform", "FP64")
    assert output.shape == [-1, estimator.transform(X).shape[1]]
    assert output.parameters.on_request is True


@pytest.mark.parametrize("dtype", [object, "U"])
async def test_text_labels_are_one_text_per_row(serve: Serve, dtype: Any) -> None:
    model = await serve(LogisticRegression().fit(X, np.array(["cat", "cat", "mouse", "mouse"], dtype=dtype)))
    output = only(await model.predict(matrix(X)))
    assert (output.datatype, output.shape, output.parameters.content_type) == ("BYTES", [4, 1], "np")
    assert StringCodec.decode_output(output) == ["cat", "cat", "mouse", "mouse"]


async def test_labels_of_bytes_are_one_text_per_row(serve: Serve) -> None:
    model = await serve(DecisionTreeClassifier().fit(X, np.array([b"ab", b"ab", b"c", b"c"])))
    output = only(await model.predict(matrix(X[:2])))
    assert StringCodec.decode_output(output) == ["ab", "ab"]


async def test_a_content_type_asked_for_is_honoured(serve: Serve) -> None:
    model = await serve(LogisticRegression().fit(X, np.array(["cat", "cat", "mouse", "mouse"])))
    request = matrix(X)
    request.outputs = [RequestOutput(name="predict", parameters=Parameters(content_type="str"))]
    output = only(await model.predict(request))
    assert output.parameters.content_type == "str"
    assert StringCodec.decode_output(output) == ["cat", "cat", "mouse", "mouse"]


async def test_a_content_type_in_the_metadata_is_honoured(serve: Serve) -> None:
    declared = MetadataTensor(
        name="predict", datatype="BYTES", shape=[-1], parameters=Parameters(content_type="str")
    )
    model = await serve(LogisticRegression().fit(X, np.array(["a", "a", "b", "b"])), outputs=[declared])
    assert only(await model.predict(matrix(X))).parameters.content_type == "str"


async def test_several_targets(serve: Serve) -> None:
    targets = np.column_stack([Y, 1 - Y])
    model = await serve(RandomForestRegressor(n_estimators=2, random_state=0).fit(X, targets))
    output = only(await model.predict(matrix(X)))
    assert (output.datatype, output.shape) == ("FP64", [4, 2])
    assert [(t.name, t.shape) for t in model.outputs] == [("predict", [-1, 2])]


async def test_probabilities_of_several_targets_are_refused(serve: Serve) -> None:
    targets = np.column_stack([Y, 1 - Y])
    model = await serve(RandomForestClassifier(n_estimators=2, random_state=0).fit(X, targets))
    assert await refused(model, matrix(X, outputs=["predict_proba"])) == (
        "'predict_proba' of a model with 2 targets is a list of arrays, which is no tensor"
    )


async def test_a_sparse_result_is_sent_dense(serve: Serve) -> None:
    encoder = OneHotEncoder().fit(X)
    model = await serve(encoder, extra={"predict_fn": "transform"})
    output = only(await model.predict(matrix(X)))
    np.testing.assert_array_equal(NumpyCodec.decode_output(output), encoder.transform(X).toarray())


async def test_a_frame_becomes_one_output_per_column(serve: Serve) -> None:
    scaler = StandardScaler().set_output(transform="pandas").fit(FRAME)
    model = await serve(scaler, extra={"predict_fn": "transform"})
    response = await model.predict(PandasCodec.encode_request(FRAME))
    assert [output.name for output in response.outputs] == COLUMNS
    assert response.parameters is None
    pd.testing.assert_frame_equal(PandasCodec.decode_response(response), scaler.transform(FRAME))
    request = PandasCodec.encode_request(FRAME)
    request.outputs = ask(["transform", "transform"])
    assert "Cannot encode" in await refused(model, request)


# --- inputs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT64", "UINT8"])
async def test_any_numbers_will_do(serve: Serve, datatype: str) -> None:
    model = await serve(LogisticRegression().fit(X, Y))
    assert only(await model.predict(matrix(X.astype(int), datatype))).data.root == [0, 0, 1, 1]


async def test_nested_data(serve: Serve) -> None:
    model = await serve(LogisticRegression().fit(X, Y))
    tensor = RequestInput(name="x", datatype="FP64", shape=[4, 3], data=X.tolist())
    assert only(await model.predict(InferenceRequest(inputs=[tensor]))).data.root == [0, 0, 1, 1]


async def test_several_inputs_are_no_matrix(serve: Serve) -> None:
    model = await serve(LogisticRegression().fit(X, Y))
    request = InferenceRequest(inputs=[*matrix(X).inputs, *matrix(X).inputs])
    with pytest.raises(CodecError, match=re.escape("only supports a single input tensor (2 were received)")):
        await model.predict(request)


class NeedsFrame(BaseEstimator):  # type: ignore[misc]  # untyped
    """Answers the sum of two columns, which it knows by name."""

    def predict(self, frame: Any) -> Any:
        return (frame["width"] + frame["depth"]).to_numpy()


async def test_a_frame_by_content_type_of_the_request(serve: Serve) -> None:
    model = await serve(NeedsFrame())
    output = only(await model.predict(PandasCodec.encode_request(FRAME)))
    assert output.data.root == [2, 3, 2, 4]


async def test_a_frame_by_content_type_of_the_model(serve: Serve) -> None:
    model = await serve(NeedsFrame(), content_type="pd")
    request = PandasCodec.encode_request(FRAME)
    request.parameters = None
    assert only(await model.predict(request)).data.root == [2, 3, 2, 4]


async def test_columns_of_the_fit_need_no_content_type_and_no_order(serve: Serve) -> None:
    estimator = LinearRegression().fit(FRAME, X @ [1, 10, 100])
    model = await serve(estimator)
    request = PandasCodec.encode_request(FRAME[["depth", "width", "height"]])
    for parameters in (request.parameters, None):
        request.parameters = parameters
        output = only(await model.predict(request))
        np.testing.assert_allclose(NumpyCodec.decode_output(output).ravel(), X @ [1, 10, 100])


async def test_a_matrix_is_welcome_after_a_fit_on_a_frame(serve: Serve) -> None:
    model = await serve(LinearRegression().fit(FRAME, X @ [1, 10, 100]))
    for name in ("x", "width"):
        request = matrix(X)
        request.inputs[0].name = name
        output = only(await model.predict(request))
        np.testing.assert_allclose(NumpyCodec.decode_output(output).ravel(), X @ [1, 10, 100])


async def test_documents(serve: Serve) -> None:
    texts = ["good fine good", "fine", "bad", "bad awful"]
    model = await serve(make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, Y))
    column = RequestInput(name="text", datatype="BYTES", shape=[4, 1], data=texts)
    row = RequestInput(name="text", datatype="BYTES", shape=[4], data=texts)
    raw = RequestInput(name="text", datatype="BYTES", shape=[4, 1], data=[t.encode() for t in texts])
    declared = RequestInput(name="input-0", datatype="BYTES", shape=[4, 1], data=[t.encode() for t in texts])
    for request in (
        *(InferenceRequest(inputs=[tensor]) for tensor in (column, row, raw, declared)),
        StringRequestCodec.encode_request(texts),
        PandasCodec.encode_request(pd.DataFrame({"text": texts}), use_bytes=False),
    ):
        assert only(await model.predict(request)).data.root == [0, 0, 1, 1]
    assert await refused(model, matrix(X)) == "input 'x' must hold text, but has datatype FP64"
    numbers = matrix([[1]], "INT64")
    numbers.inputs[0].name = "input-0"
    assert "must hold text" in await refused(model, numbers)


# --- what a request gets wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (X[:, :2], "input 'x' has 2 features per row (shape [4, 2]), but the model expects 3"),
        (X[0], "input 'x' has shape [3], but the model expects [rows, 3]"),
        (X[None], "input 'x' has shape [1, 4, 3], but the model expects [rows, 3]"),
        (X[:0], "input 'x' has no rows (shape [0, 3])"),
        (np.where(X == 0, np.nan, X), "input 'x' does not suit the model: Input X contains NaN."),
        (np.where(X == 0, np.inf, X), "input 'x' does not suit the model: Input X contains infinity"),
    ],
)
@pytest.mark.parametrize("frame", [False, True])
@pytest.mark.parametrize("steps", [0, 1])
async def test_a_matrix_of_another_form(
    serve: Serve, values: Any, text: str, frame: bool, steps: int
) -> None:
    estimator = make_pipeline(*[StandardScaler()] * steps, LogisticRegression())
    model = await serve(estimator.fit(FRAME if frame else X, Y))
    assert (await refused(model, NumpyRequestCodec.encode_request(values))).startswith(
        text.replace("'x'", "'input-1'")
    ) or values.ndim == 1
    assert (await refused(model, matrix(values))).startswith(text)


async def test_text_where_numbers_belong(serve: Serve) -> None:
    model = await serve(LogisticRegression().fit(X, Y))
    text = await refused(model, matrix([["a", "1", "2"]], "BYTES"))
    assert text.startswith("input 'x' holds text, but the model expects numbers") and "is 'a'" in text
    text = await refused(model, StringRequestCodec.encode_request(["a", "b"]))
    assert text.startswith("input 'input-1' holds text, but the model expects numbers") and "is 'a'" in text


async def test_null_in_a_matrix(serve: Serve) -> None:
    model = await serve(LogisticRegression().fit(X, Y))
    tensor = RequestInput(name="x", datatype="FP64", shape=[1, 3], data=[1, None, 2])
    assert "contains NaN" in await refused(model, InferenceRequest(inputs=[tensor]))


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (FRAME[["width", "depth"]], "the request lacks column 'height'"),
        (
            FRAME[["width"]].rename(columns={"width": "w"}),
            "input 'w' lacks columns 'width', 'height', 'depth'",
        ),
        (FRAME.assign(colour=1.0), "the request has unknown column 'colour'"),
        (FRAME.rename(columns={"depth": "d"}), "the request lacks column 'depth' and has unknown column 'd'"),
        (FRAME[:0], "has no rows"),
    ],
)
async def test_R51_columns_of_another_frame_are_named(serve: Serve, frame: pd.DataFrame, text: str) -> None:
    model = await serve(LogisticRegression().fit(FRAME, Y))
    assert text in await refused(model, PandasCodec.encode_request(frame))
    request = PandasCodec.encode_request(frame)
    request.parameters = None
    if len(request.inputs) > 1:
        assert text in await refused(model, request)


def mixed() -> tuple[Any, pd.DataFrame]:
    """A model that knows a column of text, and the frame it was fitted on."""
    frame = pd.DataFrame({"city": ["Rome", "Oslo", "Rome", "Oslo"], "size": [1.0, 2.0, 3.0, 4.0]})
    columns = ColumnTransformer([("city", OneHotEncoder(), ["city"]), ("size", StandardScaler(), ["size"])])
    return make_pipeline(columns, LogisticRegression()).fit(frame, Y), frame


async def test_columns_of_text_and_numbers(serve: Serve) -> None:
    estimator, frame = mixed()
    model = await serve(estimator)
    for use_bytes in (True, False):
        request = PandasCodec.encode_request(frame.assign(other=1), use_bytes=use_bytes)
        assert only(await model.predict(request)).shape == [4, 1]
    assert "lacks column 'size'" in await refused(model, PandasCodec.encode_request(frame[["city"]]))
    unknown = PandasCodec.encode_request(frame.assign(city="Bonn", other=1), use_bytes=False)
    assert "Found unknown categories ['Bonn']" in (await refused(model, unknown)).replace(
        "np.str_('Bonn')", "'Bonn'"
    )
    numbers = PandasCodec.encode_request(frame.assign(city=1))
    assert await refused(model, numbers) == "the request holds numbers, not text, in column 'city'"
    text = await refused(model, matrix(X[:, :2]))
    assert text.startswith("input 'x' does not suit the model: ") and "dataframe" in text.lower()


class Broken(BaseEstimator):  # type: ignore[misc]  # untyped
    """Was fitted, and fails on good data."""

    n_features_in_ = 3

    def predict(self, data: Any) -> Any:
        raise ValueError("this model is broken")


async def test_faults_of_the_model_stay_its_own(serve: Serve) -> None:
    model = await serve(Broken())
    with pytest.raises(ValueError, match="this model is broken"):
        await model.predict(matrix(X))
    unfitted = await serve(LogisticRegression())
    with pytest.raises(ValueError, match="not fitted"):
        await unfitted.predict(matrix(X))
    damaged = LogisticRegression().fit(X, Y)
    damaged.coef_ = damaged.coef_[:, :2]
    with pytest.raises(ValueError, match=re.escape("matmul")):
        await (await serve(damaged)).predict(matrix(X))


# --- metadata ----------------------------------------------------------------------------------------------


def described(tensors: list[MetadataTensor] | None) -> list[tuple[str, str, list[int]]]:
    return [(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors or []]


@pytest.mark.parametrize(
    ("estimator", "outputs"),
    [
        (LogisticRegression(), [("predict", "INT64", [-1, 1]), ("predict_proba", "FP64", [-1, 2])]),
        (LinearRegression(), [("predict", "FP64", [-1, 1])]),
        (KMeans(2, n_init="auto", random_state=0), [("predict", "INT32", [-1, 1])]),
        (make_pipeline(StandardScaler(), LinearRegression()), [("predict", "FP64", [-1, 1])]),
    ],
)
async def test_R40_metadata_comes_from_the_artefact(serve: Serve, estimator: Any, outputs: Any) -> None:
    metadata = await (await serve(estimator.fit(X, Y))).metadata()
    assert metadata.platform == "sklearn"
    assert described(metadata.inputs) == [("input-0", "FP64", [-1, 3])]
    assert described(metadata.outputs) == outputs
    assert metadata.parameters is not None and metadata.parameters.content_type is None


async def test_metadata_lists_the_columns_of_the_fit(serve: Serve) -> None:
    metadata = await (await serve(LogisticRegression().fit(FRAME, Y))).metadata()
    assert described(metadata.inputs) == [(name, "FP64", [-1, 1]) for name in COLUMNS]
    assert metadata.parameters is not None and metadata.parameters.content_type == "pd"
    estimator, _ = mixed()
    metadata = await (await serve(estimator)).metadata()
    assert described(metadata.inputs) == [("city", "BYTES", [-1, 1]), ("size", "FP64", [-1, 1])]
    assert described(metadata.outputs) == [("predict", "INT64", [-1, 1]), ("predict_proba", "FP64", [-1, 2])]


async def test_metadata_names_the_classes(serve: Serve) -> None:
    model = await serve(LogisticRegression().fit(X, np.array(["a", "a", "b", "b"])))
    predict, proba = model.outputs
    assert predict.datatype == "BYTES"
    assert proba.parameters is not None and proba.parameters.classes == ["a", "b"]


async def test_metadata_of_settings_is_kept(serve: Serve) -> None:
    declared = MetadataTensor(name="mine", datatype="FP32", shape=[-1, 3])
    model = await serve(LogisticRegression().fit(FRAME, Y), inputs=[declared], platform="own")
    metadata = await model.metadata()
    assert metadata.platform == "own"
    assert described(metadata.inputs) == [("mine", "FP32", [-1, 3])]
    assert [output.name for output in metadata.outputs or []] == ["predict", "predict_proba"]
    assert metadata.parameters is not None and metadata.parameters.content_type is None


async def test_metadata_of_what_tells_nothing(serve: Serve) -> None:
    metadata = await (await serve(NeedsFrame())).metadata()
    assert (metadata.platform, metadata.inputs, metadata.outputs) == ("sklearn", [], [])


async def test_metadata_before_the_load() -> None:
    model = SKLearnModel(ModelSettings(name="m", implementation=SKLearnModel, parameters=ModelParameters()))
    assert (await model.metadata()).platform == "sklearn"


# --- promises ----------------------------------------------------------------------------------------------


def centred(rows: Any) -> Any:
    """What a row becomes depends on the others."""
    return rows - rows.mean(axis=0)


@pytest.mark.parametrize(
    ("estimator", "method", "inline", "rows"),
    [
        (LogisticRegression(), "predict", True, True),
        (make_pipeline(StandardScaler(), LogisticRegression()), "predict_proba", True, True),
        (KMeans(2, n_init="auto"), "fit_predict", True, False),
        (make_pipeline(FunctionTransformer(centred), LogisticRegression()), "predict", False, False),
    ],
)
async def test_promises_are_kept_to_estimators_that_keep_them(
    serve: Serve, estimator: Any, method: str, inline: bool, rows: bool
) -> None:
    model = await serve(estimator.fit(X, Y), extra={"predict_fn": method})
    assert (model.inline, model.rows_independent) == (inline, rows)
    assert SKLearnModel.inline and SKLearnModel.rows_independent


async def test_the_server_notices_that_promises_were_taken_back(serve: Serve) -> None:
    model = await serve(LogisticRegression().fit(X, Y))
    assert promises(model, "inline") and promises(model, "rows_independent")
    model = await serve(FunctionTransformer(centred).fit(X), extra={"predict_fn": "transform"})
    assert not promises(model, "inline") and not promises(model, "rows_independent")


async def test_predict_never_awaits(serve: Serve) -> None:
    model = await serve(LogisticRegression().fit(X, Y))
    with pytest.raises(StopIteration) as done:
        model.predict(matrix(X)).send(None)
    assert isinstance(done.value.value, InferenceResponse)


async def test_another_estimator_can_be_put_in_place(serve: Serve) -> None:
    model = await serve(LogisticRegression().fit(X, Y))
    model._model = DummyClassifier(strategy="constant", constant=7).fit(X, [7, 7, 7, 8])
    assert only(await model.predict(matrix(X))).data.root == [7, 7, 7, 7]


# --- artefacts ---------------------------------------------------------------------------------------------


def settings_of(uri: Path | str) -> ModelSettings:
    return ModelSettings(name="m", implementation=SKLearnModel, parameters=ModelParameters(uri=str(uri)))


def constant(value: int) -> Any:
    return DummyClassifier(strategy="constant", constant=value).fit(X, [value] * 3 + [0])


@pytest.mark.parametrize("dump", [joblib.dump, pickle.dump, cloudpickle.dump])
@pytest.mark.parametrize("name", ["model.joblib", "model.pickle", "model.pkl", "iris.bin"])
async def test_R50_ways_to_save_and_to_point_at_a_model(tmp_path: Path, dump: Any, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        dump(constant(3), file)
    uris: list[Path | str] = (
        [tmp_path / name] if name == "iris.bin" else [tmp_path / name, tmp_path, f"{tmp_path}/"]
    )
    for uri in uris:
        model = SKLearnModel(settings_of(uri))
        assert await model.load()
        assert only(await model.predict(matrix(X))).data.root == [3, 3, 3, 3]


async def test_the_first_well_known_name_wins(tmp_path: Path) -> None:
    for value, name in enumerate(["model.joblib", "model.pickle", "model.pkl"], start=1):
        joblib.dump(constant(value), tmp_path / name)
    for value, name in enumerate(["model.joblib", "model.pickle", "model.pkl"], start=1):
        model = SKLearnModel(settings_of(tmp_path))
        await model.load()
        assert only(await model.predict(matrix(X[:1]))).data.root == [value]
        (tmp_path / name).unlink()


async def test_a_folder_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "other.joblib").touch()
    with pytest.raises(InvalidModelURI) as caught:
        await SKLearnModel(settings_of(tmp_path)).load()
    assert caught.value.status_code == 422
    assert str(caught.value) == (
        f"Invalid URI specified for model m ({tmp_path} holds none of "
        "model.joblib, model.pickle, model.pkl, model.skops)"
    )


async def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidModelURI, match=re.escape(f"Invalid URI specified for model m ({tmp_path}/no)")
    ):
        await SKLearnModel(settings_of(tmp_path / "no")).load()


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x04\x95"])
async def test_an_artefact_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.joblib"
    path.write_bytes(content)
    with pytest.raises(
        MLServerError, match=re.escape(f"Model m: the artefact {path} cannot be read: ")
    ) as caught:
        await SKLearnModel(settings_of(path)).load()
    assert caught.value.status_code == 500


async def test_a_file_of_skops(tmp_path: Path) -> None:
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    skops.io.dump(estimator, tmp_path / "model.skops")
    model = SKLearnModel(settings_of(tmp_path))
    await model.load()
    output = only(await model.predict(matrix(X, outputs=["predict_proba"])))
    np.testing.assert_array_equal(NumpyCodec.decode_output(output), estimator.predict_proba(X))
    assert promises(model, "inline") and promises(model, "rows_independent")


async def test_a_file_of_skops_with_types_of_others(tmp_path: Path) -> None:
    skops.io.dump(NeedsFrame(), tmp_path / "model.skops")
    with pytest.raises(MLServerError, match=re.escape("types that are not trusted: ")) as caught:
        await SKLearnModel(settings_of(tmp_path)).load()
    assert caught.value.status_code == 500 and "NeedsFrame" in str(caught.value)
    settings = settings_of(tmp_path)
    assert settings.parameters is not None
    settings.parameters.extra = {"trusted": [f"{NeedsFrame.__module__}.NeedsFrame"]}
    model = SKLearnModel(settings)
    await model.load()
    assert only(await model.predict(PandasCodec.encode_request(FRAME))).data.root == [2, 3, 2, 4]
    assert not promises(model, "inline")


async def test_a_remote_artefact(tmp_path: Path) -> None:
    with pytest.raises(MLServerError, match="the artefact s3://bucket/model cannot be read") as caught:
        await SKLearnModel(settings_of("s3://bucket/model")).load()
    assert caught.value.status_code == 500


async def test_subclasses_that_override_predict_promise_nothing() -> None:
    class Own(SKLearnModel):
        async def predict(self, payload: InferenceRequest) -> InferenceResponse:
            return await super().predict(payload)

    model = Own(settings_of("x"))
    assert not promises(model, "inline") and not promises(model, "rows_independent")


def test_version() -> None:
    assert __version__


async def test_columns_of_categories_show_one_of_them(serve: Serve) -> None:
    """Other values may be refused, so that nobody could guess a request."""
    frame = pd.DataFrame({"city": ["Rome", None, "Oslo"], "rooms": [3, 1, 2], "size": [30.0, 50.0, 40.0]})
    city = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder())
    columns = ColumnTransformer(
        [
            ("city", city, ["city"]),
            ("rooms", OneHotEncoder(), ["rooms"]),
            ("size", StandardScaler(), ["size"]),
        ]
    )
    model = await serve(make_pipeline(columns, LogisticRegression()).fit(frame, [1, 0, 1]))
    inputs = {tensor.name: tensor for tensor in (await model.metadata()).inputs or []}
    assert {name: tensor.datatype for name, tensor in inputs.items()} == {
        "city": "BYTES",
        "rooms": "FP64",
        "size": "FP64",
    }
    assert inputs["city"].parameters == Parameters(content_type="str", example="Oslo")
    assert inputs["rooms"].parameters == Parameters(example=1)
    assert inputs["size"].parameters is None
    assert [tensor.name for tensor in model.outputs] == ["predict", "predict_proba"]


@pytest.mark.parametrize("missing", [np.nan, None])
@pytest.mark.parametrize("encoder", ["ignoring", "strict", "imputing"])
async def test_a_missing_text_is_what_the_fit_took_for_one(serve: Serve, encoder: str, missing: Any) -> None:
    """Whatever rows it comes with. Frames of SQL hold None, those of CSV hold NaN."""
    encoders = {
        "ignoring": OneHotEncoder(handle_unknown="ignore"),
        "strict": OneHotEncoder(),
        "imputing": make_pipeline(
            SimpleImputer(strategy="constant", fill_value="?", missing_values=missing), OneHotEncoder()
        ),
    }
    texts = pd.Series(["a", "b", missing, "a"], dtype=object)
    frame = pd.DataFrame({"s": texts, "v": [1.0, 2.0, 300.0, 4.0]})
    columns = ColumnTransformer([("s", encoders[encoder], ["s"])])
    model = await serve(make_pipeline(columns, Ridge(1e-9)).fit(frame, [1.0, 2.0, 300.0, 1.0]))
    answers = {"a": 1.0, "b": 2.0, None: 300.0}
    for asked in ([None], [None, None], ["a"], [None, "a"], ["b", None, "a"]):
        values = {"s": pd.Series(asked, dtype=object), "v": np.zeros(len(asked))}
        request = PandasCodec.encode_request(pd.DataFrame(values), use_bytes=False)
        predicted = only(await model.predict(request)).data.root
        np.testing.assert_allclose(predicted, [answers[text] for text in asked], rtol=1e-6)


async def test_a_pipeline_that_starts_with_categories(serve: Serve) -> None:
    frame = pd.DataFrame({"a": ["x", "y", "x"], "b": ["u", "u", "v"]})
    model = await serve(make_pipeline(OneHotEncoder(), LogisticRegression()).fit(frame, [1, 0, 1]))
    assert [tensor.parameters.example for tensor in model.inputs if tensor.parameters] == ["x", "u"]
