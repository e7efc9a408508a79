"""What models of Spark answer, and what they refuse. The models are real, and so is the Spark that serves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("pyspark")

from mlserver_mllib import InvalidMLlibFormat, MLlibModel, __version__
from mlserver_mllib.artefact import FORMATS
from spark_models import FLATS, TEXTS, Saved, X

from mlserver.codecs import NumpyCodec, PandasCodec, StringCodec
from mlserver.errors import InvalidModelURI, MLServerError
from mlserver.model import promises
from mlserver.types import InferenceRequest, RequestInput, RequestOutput

pytestmark = pytest.mark.timeout(900)

Load = Callable[..., Awaitable[MLlibModel]]


def tensor(name: str, values: Any, datatype: str | None = None) -> RequestInput:
    array = np.asarray(values)
    if datatype is None:
        datatype = {"f": "FP64", "i": "INT64", "U": "BYTES"}[array.dtype.kind]
    return RequestInput(name=name, datatype=datatype, shape=list(array.shape), data=array.ravel().tolist())


def request(*inputs: RequestInput, outputs: tuple[str, ...] = ()) -> InferenceRequest:
    return InferenceRequest(
        inputs=list(inputs), outputs=[RequestOutput(name=name) for name in outputs] or None
    )


async def refused(model: MLlibModel, made: InferenceRequest) -> str:
    with pytest.raises(MLServerError) as caught:
        await model.predict(made)
    assert caught.value.status_code == 400
    return str(caught.value)


def test_version() -> None:
    assert __version__


# --- pyspark.mllib -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_format", FORMATS)
@pytest.mark.parametrize("given", [True, False])
async def test_every_format(load: Load, saved: Saved, model_format: str, given: bool) -> None:
    model = await load(model_format, format=model_format if given else None)
    rows = X[:4, :1] if model_format == "IsotonicRegression" else X[:4]
    expected = [
        float(saved.models[model_format].predict(row if rows.shape[1] > 1 else row[0])) for row in rows
    ]
    response = await model.predict(request(tensor("x", rows)))
    assert (response.model_name, response.model_version, response.parameters) == ("m", "v1", None)
    (output,) = response.outputs
    assert (output.name, output.datatype, output.shape) == ("predict", "FP32", [4])
    np.testing.assert_allclose(output.data.root, np.float32(expected))
    assert len(set(expected)) > 1 or model_format in ("SVM", "NaiveBayes")
    assert promises(model, "rows_independent") and not promises(model, "inline")


@pytest.mark.parametrize("rows", [X[0], X[:1]])
async def test_one_vector_is_answered_as_clients_know_it(load: Load, rows: Any) -> None:
    model = await load("KMeans", format="KMeans")
    (output,) = (await model.predict(request(tensor("x", rows), outputs=("anything",)))).outputs
    assert (output.name, output.shape, len(output.data.root)) == ("predict", [1], 1)


async def test_many_rows_for_trees_are_one_job(load: Load, saved: Saved) -> None:
    model = await load("DecisionTree", format="DecisionTree")
    rows = np.tile(X, (10, 1))
    (output,) = (await model.predict(request(tensor("x", rows)))).outputs
    expected = [saved.models["DecisionTree"].predict(row) for row in X] * 10
    assert np.asarray(output.data.root).tolist() == expected


@pytest.mark.parametrize("model_format", ["LinearRegression", "NaiveBayes", "KMeans", "LogisticRegression"])
async def test_vectors_of_another_form(load: Load, model_format: str) -> None:
    model = await load(model_format)
    assert (await refused(model, request(tensor("x", X[:, :2])))).startswith(
        "input 'x' has 2 features per row (shape [20, 2]), but the model expects 3"
    )
    assert "has shape [1, 20, 3], but the model expects [rows, 3]" in await refused(
        model, request(tensor("x", X[None]))
    )
    assert "input 'x' has no rows" in await refused(model, request(tensor("x", X[:0])))
    text = await refused(model, request(tensor("x", [["a", "b", "c"]])))
    assert "input 'x' holds text, but the model expects numbers" in text
    assert await refused(model, request(tensor("x", X), tensor("y", X))) == (
        "the model takes exactly one input, but got 'x', 'y'"
    )
    assert "got none" in await refused(model, request())


async def test_a_tree_needs_the_features_that_it_looks_at(load: Load) -> None:
    model = await load("RandomForest")
    text = await refused(model, request(tensor("x", [[]], "FP64")))
    assert text.startswith("input 'x' has 0 features per row (shape [1, 0]), but the model looks at")


async def test_metadata(load: Load) -> None:
    metadata = await (await load("Lasso")).metadata()
    assert metadata.platform == "spark"
    assert [(t.name, t.datatype, t.shape) for t in metadata.inputs] == [("input-0", "FP64", [-1, 3])]
    assert [(t.name, t.datatype, t.shape) for t in metadata.outputs] == [("predict", "FP32", [-1])]


# --- load --------------------------------------------------------------------------------------------------


async def test_formats_that_do_not_suit(load: Load) -> None:
    for name, model_format, words in [
        ("Lasso", "Perceptron", "(Perceptron): expected one of LogisticRegression, NaiveBayes"),
        ("Lasso", "SVM", "(SVM): the folder holds a model of format Lasso"),
        ("flats", "SVM", "holds a model of pyspark.ml (org.apache.spark.ml.PipelineModel)"),
    ]:
        with pytest.raises(InvalidMLlibFormat) as caught:
            await load(name, format=model_format)
        assert caught.value.status_code == 400
        assert words in str(caught.value)


async def test_folders_that_hold_no_model(load: Load, saved: Saved, tmp_path: Path) -> None:
    for uri in (str(tmp_path / "nowhere"), str(tmp_path), (tmp_path / "nowhere").as_uri()):
        with pytest.raises(InvalidModelURI) as caught:
            await load("", uri=uri, format="SVM")
        assert caught.value.status_code == 422
    shutil.copytree(saved.folder / "SVM", tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "data")
    with pytest.raises(MLServerError, match="Spark cannot load") as broken:
        await load("", uri=str(tmp_path / "broken"))
    assert broken.value.status_code == 500
    (part,) = (tmp_path / "broken" / "metadata").glob("part-*")
    metadata = {**json.loads(part.read_text()), "class": "org.apache.spark.mllib.feature.Word2VecModel"}
    part.write_text(json.dumps(metadata))
    with pytest.raises(InvalidMLlibFormat, match="Word2Vec"):
        await load("", uri=str(tmp_path / "broken"))


async def test_one_session_for_all(load: Load, saved: Saved) -> None:
    models = [await load("Lasso"), await load("flats")]
    assert saved.spark.sparkContext.getConf().get("spark.driver.host") == "127.0.0.1"
    assert models[1]._frames._spark is saved.spark


# --- pyspark.ml --------------------------------------------------------------------------------------------


def flats(**changes: Any) -> list[RequestInput]:
    cities, sizes, rooms, _ = zip(*FLATS, strict=True)
    columns = {"rooms": np.array(rooms)[:, None], "city": cities, "size": sizes, **changes}
    return [tensor(name, values) for name, values in columns.items() if values is not None]


async def test_a_pipeline_on_columns(load: Load, saved: Saved) -> None:
    model = await load("flats")
    assert promises(model, "rows_independent")
    response = await model.predict(request(*flats()))
    by_name = {output.name: output for output in response.outputs}
    assert set(by_name) == {"prediction", "probability", "rawPrediction"}
    frame = saved.spark.createDataFrame(FLATS, ["city", "size", "rooms", "let"])
    expected = saved.models["flats"].transform(frame).collect()
    assert NumpyCodec.decode_output(by_name["prediction"]).ravel().tolist() == [
        r.prediction for r in expected
    ]
    assert by_name["probability"].shape == [4, 2]
    np.testing.assert_allclose(
        NumpyCodec.decode_output(by_name["probability"]), [r.probability.toArray() for r in expected]
    )


async def test_any_column_can_be_asked_for(load: Load) -> None:
    model = await load("flats")
    response = await model.predict(request(*flats(), outputs=("features", "city", "prediction")))
    features, city, prediction = response.outputs
    assert (features.shape, features.datatype) == ([4, 3], "FP64")
    assert StringCodec.decode_output(city) == [row[0] for row in FLATS]
    assert prediction.shape == [4, 1]
    text = await refused(model, request(*flats(), outputs=("prob",)))
    assert text.startswith("the model has no output 'prob': there are 'rooms', 'city', 'size', 'city_index'")


async def test_a_frame_in_a_frame_out(load: Load) -> None:
    model = await load("flats", content_type="pd")
    frame = pd.DataFrame(FLATS, columns=["city", "size", "rooms", "let"]).drop(columns="let")
    made = PandasCodec.encode_request(frame)
    made.outputs = [RequestOutput(name="city"), RequestOutput(name="prediction")]
    response = await model.predict(made)
    assert response.parameters is not None and response.parameters.content_type == "pd"
    answer = PandasCodec.decode_response(response)
    assert answer["city"].tolist() == frame["city"].tolist()
    assert set(answer["prediction"]) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"size": None}, "of columns, the request lacks 'size': the model expects 'city', 'size', 'rooms'"),
        ({"floor": [1, 2, 3, 4]}, "of columns, the request has unknown 'floor': the model expects"),
        ({"size": ["a", "b", "c", "d"]}, "input 'size' holds text, but the model expects numbers"),
        ({"size": [1.0]}, "input 'size' has 1 rows, but input 'rooms' has 4"),
        ({"size": np.ones((4, 1, 1))}, "input 'size' has shape [4, 1, 1], but the model expects [rows, 1]"),
        (
            {"city": ["Rome", "Oslo", "Bonn", "Rome"]},
            "the request does not suit the model: Unseen label: Bonn",
        ),
    ],
)
async def test_columns_that_do_not_suit(load: Load, changes: dict[str, Any], text: str) -> None:
    model = await load("flats")
    assert (await refused(model, request(*flats(**changes)))).startswith(text)


async def test_columns_that_are_not_there_or_twice(load: Load) -> None:
    model = await load("flats")
    assert "the request has no inputs: the model expects 'city'" in await refused(model, request())
    twice = await refused(model, request(*flats(), *flats()))
    assert "has more than one 'city', 'rooms', 'size'" in twice
    empty = request(*[RequestInput(name=t.name, datatype=t.datatype, shape=[0, 1], data=[]) for t in flats()])
    assert "has no rows (shape [0, 1])" in await refused(model, empty)


async def test_what_a_pipeline_takes_is_told(load: Load) -> None:
    metadata = await (await load("flats")).metadata()
    assert [(t.name, t.datatype, t.shape) for t in metadata.inputs] == [
        ("city", "BYTES", [-1, 1]),
        ("size", "FP64", [-1, 1]),
        ("rooms", "FP64", [-1, 1]),
    ]
    metadata = await (await load("classifier")).metadata()
    assert [(t.name, t.datatype, t.shape) for t in metadata.inputs] == [("features", "FP64", [-1, 3])]


async def test_vectors_are_tensors(load: Load, saved: Saved) -> None:
    model = await load("classifier")
    for name in ("features", "anything"):
        (label,) = (await model.predict(request(tensor(name, X), outputs=("prediction",)))).outputs
        assert NumpyCodec.decode_output(label).ravel().tolist() == [
            saved.models["classifier"].predict(_dense(row)) for row in X
        ]
    assert "has 2 features per row (shape [20, 2]), but the model expects 3" in await refused(
        model, request(tensor("x", X[:, :2]))
    )
    assert "input 'features' has shape [3], but the model expects [rows, 3]" in await refused(
        model, request(tensor("features", X[0]))
    )


def _dense(row: Any) -> Any:
    from pyspark.ml.linalg import Vectors

    return Vectors.dense(row)


async def test_a_matrix_for_a_model_of_numbers(load: Load) -> None:
    model = await load("numbers")
    rows = np.array([[row[1], row[2]] for row in FLATS])
    by_matrix = await model.predict(request(tensor("x", rows), outputs=("probability",)))
    by_column = await model.predict(
        request(tensor("rooms", rows[:, 1]), tensor("size", rows[:, 0]), outputs=("probability",))
    )
    assert by_matrix.outputs[0].data.root == by_column.outputs[0].data.root
    assert "has 3 features per row (shape [20, 3]), but the model expects 'size', 'rooms'" in await refused(
        model, request(tensor("x", X))
    )


async def test_texts(load: Load) -> None:
    model = await load("texts")
    texts = [text for text, _ in TEXTS]
    response = await model.predict(request(tensor("text", texts), outputs=("prediction", "words")))
    prediction, words = response.outputs
    assert NumpyCodec.decode_output(prediction).ravel().tolist() == [label for _, label in TEXTS]
    assert words.parameters.content_type == "pd_json"
    assert [json.loads(value) for value in words.data.root] == [text.split() for text in texts]
    assert await refused(model, request(tensor("text", [1, 2]))) == (
        "input 'text' has datatype INT64, but the model expects text"
    )


async def test_a_stage_that_only_spark_can_read(load: Load) -> None:
    model = await load("statement")
    assert not promises(model, "rows_independent")
    made = request(tensor("size", [30.0, 80.0]), tensor("rooms", [2, 4]))
    (output,) = (await model.predict(made)).outputs
    assert (output.name, output.data.root) == ("each", [15.0, 20.0])
    text = await refused(model, request(tensor("size", [30.0])))
    assert text.startswith("the request does not suit the model: ") and "rooms" in text
