"""ONNX graphs: converted from scikit-learn, or built here node by node, and asked without a server."""
# ruff: noqa: N802 - functions with an R are named after the ids of faults that users met

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from mlserver_onnx import OnnxModel, __version__
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.tabular import THREE, X, described, refused

from mlserver import ModelSettings
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.errors import InvalidModelURI, MLServerError
from mlserver.model import promises
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, MetadataTensor, Parameters, RequestInput, RequestOutput

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
ONES = np.ones((3, 2), dtype=np.float32)


def graph(
    nodes: Sequence[Any],
    inputs: dict[str, tuple[int, Any]],
    outputs: dict[str, tuple[int, Any]],
    **weights: Any,
) -> Any:
    """A graph of nodes; its tensors by name, as element type and shape."""
    made = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, *form) for name, form in inputs.items()],
        [helper.make_tensor_value_info(name, *form) for name, form in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def matmul(rows: Any = "batch", columns: Any = 3, out: Any = "batch") -> Any:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return graph([node], {"x": (FLOAT, [rows, columns])}, {"y": (FLOAT, [out, 2])}, w=ONES)


# a + b, and the sum of each row.
TWO = graph(
    [
        helper.make_node("Add", ["a", "b"], ["total"]),
        helper.make_node("ReduceSum", ["total", "axis"], ["sums"], keepdims=0),
    ],
    {"a": (FLOAT, ["n", 2]), "b": (FLOAT, ["n", 2])},
    {"total": (FLOAT, ["n", 2]), "sums": (FLOAT, ["n"])},
    axis=np.array([1]),
)


def settings_of(uri: Path, extra: dict[str, Any] | None = None, **settings: Any) -> ModelSettings:
    parameters = ModelParameters(uri=str(uri), version="v1", extra=extra)
    return ModelSettings(name="m", implementation=OnnxModel, parameters=parameters, **settings)


@pytest.fixture
def serve(tmp_path: Path) -> Any:
    """Saves a graph and gives the model that loaded it. Keywords are settings, `extra` of the parameters."""

    async def serve(model: Any, **settings: Any) -> OnnxModel:
        onnx.save_model(model, str(tmp_path / "model.onnx"))
        loaded = OnnxModel(settings_of(tmp_path, **settings))
        assert await loaded.load()
        return loaded

    return serve


def request(*outputs: str, **arrays: Any) -> InferenceRequest:
    """Arrays as inputs of these names, their memory read-only, as that of a body may be."""
    inputs = []
    for name, value in arrays.items():
        tensor = NumpyCodec.encode_input(name, np.asarray(value))
        tensor.shape = list(np.shape(value))
        inputs.append(tensor)
    return InferenceRequest(inputs=inputs, outputs=[RequestOutput(name=name) for name in outputs] or None)


def f4(*shape: int) -> Any:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


# --- answers -----------------------------------------------------------------------------------------------


async def answers(model: OnnxModel, made: InferenceRequest) -> dict[str, Any]:
    response = await model.predict(made)
    assert (response.model_name, response.model_version) == ("m", "v1")
    return {output.name: NumpyCodec.decode_output(output) for output in response.outputs}


async def test_a_graph_answers_as_its_bare_session_does(serve: Any) -> None:
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, THREE)
    model = await serve(to_onnx(estimator, X[:1], options={"zipmap": False}))
    assert isinstance(model._model, ort.InferenceSession)
    labels, proba = model._model.run(None, {"X": X})
    got = await answers(model, request(X=X))
    assert list(got) == ["label", "probabilities"]
    np.testing.assert_array_equal(got["label"], labels)
    np.testing.assert_array_equal(got["probabilities"], proba)
    np.testing.assert_allclose(got["probabilities"], estimator.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("classes", [["red", "green", "blue"], [10, 20, 30]])
async def test_dictionaries_of_probabilities_become_a_matrix(serve: Any, classes: list[Any]) -> None:
    estimator = LogisticRegression().fit(X, np.array(classes)[THREE])
    model = await serve(to_onnx(estimator, X[:1]))  # what skl2onnx makes if not told otherwise
    got = await answers(model, request(X=X))
    assert got["output_probability"].shape == (len(X), 3)
    np.testing.assert_allclose(got["output_probability"], estimator.predict_proba(X), atol=1e-5)
    response = await model.predict(request("output_label", X=X[:2]))
    (label,) = response.outputs
    expected = estimator.predict(X[:2]).tolist()
    assert (StringCodec.decode_output(label) if isinstance(classes[0], str) else label.data.root) == expected
    assert model.rows_independent


async def test_outputs_can_be_chosen_in_any_order(serve: Any) -> None:
    model = await serve(TWO)
    a, b = f4(3, 2), f4(3, 2) + 1
    got = await answers(model, request("sums", "total", b=b, a=a))
    assert list(got) == ["sums", "total"]
    np.testing.assert_array_equal(got["total"], a + b)
    np.testing.assert_array_equal(got["sums"], (a + b).sum(axis=1))
    assert list(await answers(model, request("sums", a=a, b=b))) == ["sums"]
    assert list(await answers(model, request(a=a, b=b))) == ["total", "sums"]
    assert await refused(model, request("total", "mean", a=a, b=b)) == (
        "the model has no output 'mean': it gives 'total', 'sums'"
    )


async def test_numbers_in_json_and_a_content_type_that_is_asked_for(serve: Any) -> None:
    model = await serve(matmul())
    tensor = RequestInput(name="x", datatype="FP32", shape=[1, 3], data=[1, 2, 3])
    asked = RequestOutput(name="y", parameters=Parameters(content_type="np"))
    (output,) = (await model.predict(InferenceRequest(inputs=[tensor], outputs=[asked]))).outputs
    assert (output.datatype, output.shape, output.data.root) == ("FP32", [1, 2], [6, 6])


async def test_nothing_is_copied_on_the_way_in_and_out(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = await serve(matmul())
    made = request(x=f4(4, 3))
    body = made.inputs[0].data.array
    assert not body.flags.writeable
    seen: dict[str, Any] = {}

    class Session:
        """The session, watched."""

        def run(self, names: list[str], arrays: dict[str, Any], options: Any) -> list[Any]:
            seen["in"] = arrays["x"]
            seen["out"] = session.run(names, arrays, options)
            return list(seen["out"])

    session = model._model
    model._opened = model._model = Session()
    (output,) = (await model.predict(made)).outputs
    assert np.shares_memory(seen["in"], body)
    assert np.shares_memory(output.data.array, seen["out"][0])


async def test_texts(serve: Any) -> None:
    node = helper.make_node("Unsqueeze", ["x", "axis"], ["y"])
    model = await serve(graph([node], {"x": (STRING, ["n"])}, {"y": (STRING, ["n", 1])}, axis=np.array([1])))
    for data in (["a", "é"], [b"a", "é".encode()]):
        tensor = RequestInput(name="x", datatype="BYTES", shape=[2], data=data)
        (output,) = (await model.predict(InferenceRequest(inputs=[tensor]))).outputs
        assert (output.datatype, output.shape) == ("BYTES", [2, 1])
        assert StringCodec.decode_output(output) == ["a", "é"]
    encoded = StringCodec.encode_input("x", ["a", "b"])  # of shape [2, 1]
    (output,) = (await model.predict(InferenceRequest(inputs=[encoded]))).outputs
    assert StringCodec.decode_output(output) == ["a", "b"]
    broken = RequestInput(name="x", datatype="BYTES", shape=[1], data=[b"\xff"])
    assert "'x': bytes that are not UTF-8" in await refused(model, InferenceRequest(inputs=[broken]))
    assert "input 'x' has datatype INT64, but the model expects BYTES" in await refused(
        model, request(x=np.array([1]))
    )


async def test_scalars_vectors_and_inputs_with_defaults(serve: Any) -> None:
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    model = await serve(
        graph(
            [node],
            {"x": (FLOAT, ["n"]), "factor": (FLOAT, [])},
            {"y": (FLOAT, ["n"])},
            factor=np.array(10, dtype=np.float32),
        )
    )
    (output,) = (await model.predict(request(x=f4(3)))).outputs
    assert (output.shape, output.data.root) == ([3], [0, 10, 20])
    column = NumpyCodec.encode_input("x", f4(3))
    assert column.shape == [3, 1]
    (output,) = (await model.predict(InferenceRequest(inputs=[column]))).outputs
    assert (output.shape, output.data.root) == ([3], [0, 10, 20])
    assert not model.rows_independent
    assert [(t.name, t.parameters and t.parameters.model_dump()) for t in model.inputs] == [
        ("x", None),
        ("factor", {"required": False}),
    ]


# --- what a request gets wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        (
            {"z": f4(2, 2)},
            "the request lacks inputs 'a', 'b' and has unknown input 'z': the model expects 'a', 'b'",
        ),
        ({"a": f4(2, 2)}, "the request lacks input 'b'"),
        ({}, "the request lacks inputs 'a', 'b'"),
        ({"a": f4(2, 2), "b": f4(2, 2), "c": f4(1)}, "the request has unknown input 'c'"),
        (
            {"a": f4(2, 2), "b": f4(2, 2).astype(np.float64)},
            "input 'b' has datatype FP64, but the model expects FP32",
        ),
        (
            {"a": f4(2, 2), "b": np.array([["u", "v"]])},
            "input 'b' has datatype BYTES, but the model expects FP32",
        ),
        ({"a": f4(2, 3), "b": f4(2, 2)}, "input 'a' has shape [2, 3], but the model expects [n, 2]"),
        ({"a": f4(2), "b": f4(2, 2)}, "input 'a' has shape [2], but the model expects [n, 2]"),
        ({"a": f4(1, 2, 2), "b": f4(2, 2)}, "input 'a' has shape [1, 2, 2], but the model expects [n, 2]"),
        ({"a": f4(2, 2, 1), "b": f4(2, 2)}, "input 'a' has shape [2, 2, 1], but the model expects [n, 2]"),
        ({"a": f4(0, 2), "b": f4(0, 2)}, "input 'a' is empty (shape [0, 2])"),
        (
            {"a": f4(2, 2), "b": f4(3, 2)},
            "input 'b' has shape [3, 2], where [n, 2] is expected, but 'n' is 2 in input 'a'",
        ),
    ],
)
async def test_bad_inputs_are_named(serve: Any, arrays: Any, text: str) -> None:
    assert (await refused(await serve(TWO), request(**arrays))).startswith(text)


async def test_values_that_do_not_fill_the_shape(serve: Any) -> None:
    model = await serve(matmul())
    tensor = RequestInput(name="x", datatype="FP32", shape=[2, 3], data=[1, 2, 3])
    assert "'x': the tensor has shape [2, 3]" in await refused(model, InferenceRequest(inputs=[tensor]))
    tensor = RequestInput(name="x", datatype="FP32", shape=[1, 3], data=["a", "b", "c"])
    assert "'x': element 0 is 'a'" in await refused(model, InferenceRequest(inputs=[tensor]))
    twice = request(x=f4(1, 3)).inputs * 2
    assert await refused(model, InferenceRequest(inputs=twice)) == "input 'x' is given twice"


async def test_what_only_the_session_knows(serve: Any) -> None:
    model = await serve(matmul(columns=None))
    assert await refused(model, request(x=f4(2, 4))) == (
        "the inputs ('x' [2, 4]) do not suit the model: MatMul: Compute MatMul dimension mismatch"
    )
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    model = await serve(graph(nodes, {"x": (INT64, ["n"])}, {"y": (FLOAT, ["n", 2])}, table=ONES))
    assert "Gather: indices element out of data bounds, idx=9" in await refused(
        model, request(x=np.array([9]))
    )
    nodes = [helper.make_node("Add", ["x", "b"], ["y"])]
    model = await serve(
        graph(nodes, {"x": (FLOAT, [None, None])}, {"y": (FLOAT, [None, 3])}, b=ONES.ravel()[:3])
    )
    assert await refused(model, request(x=f4(2, 4))) == (
        "the inputs ('x' [2, 4]) do not suit the model: "
        "Add: Attempting to broadcast an axis by a dimension other than 1. 3 by 4"
    )


async def test_faults_of_the_model_stay_its_own(serve: Any) -> None:
    model = await serve(matmul())

    class Session:
        def run(self, *args: Any) -> Any:
            raise RuntimeError("while running MatMul node. Status Message: Failed to allocate memory")

    model._opened = model._model = Session()
    with pytest.raises(RuntimeError, match="Failed to allocate"):
        await model.predict(request(x=f4(1, 3)))


# --- metadata and promises ---------------------------------------------------------------------------------


async def test_R40_metadata_comes_from_the_graph(serve: Any) -> None:
    metadata = await (await serve(TWO)).metadata()
    assert (metadata.name, metadata.platform) == ("m", "onnx")
    assert described(metadata.inputs) == [("a", "FP32", [-1, 2]), ("b", "FP32", [-1, 2])]
    assert described(metadata.outputs) == [("total", "FP32", [-1, 2]), ("sums", "FP32", [-1])]


async def test_metadata_of_settings_is_kept(serve: Any) -> None:
    mine = MetadataTensor(name="x", datatype="FP32", shape=[-1, 3], parameters=Parameters(content_type="np"))
    metadata = await (await serve(matmul(), inputs=[mine], platform="own")).metadata()
    assert metadata.platform == "own"
    assert metadata.inputs == [mine]
    assert described(metadata.outputs) == [("y", "FP32", [-1, 2])]


@pytest.mark.parametrize(
    ("model", "extra", "rows"),
    [
        (matmul(), {}, True),
        (matmul(None, out=None), {}, True),
        (matmul(None, out="rows"), {}, True),
        (matmul(out="found"), {}, False),  # as many as it finds, say
        (matmul(1, out=1), {}, False),
        (matmul(out=5), {}, False),
        (matmul(), {"rows_independent": False}, False),
        (matmul(out="found"), {"rows_independent": True}, True),
    ],
)
async def test_rows_are_independent_if_the_batch_is_of_any_size(
    serve: Any, model: Any, extra: Any, rows: bool
) -> None:
    loaded = await serve(model, extra=extra)
    assert promises(loaded, "rows_independent") is rows
    assert promises(loaded, "inline")


# --- settings ----------------------------------------------------------------------------------------------


async def test_options_reach_the_session(serve: Any) -> None:
    extra = {
        "providers": [["CPUExecutionProvider", {"use_arena": "1"}]],
        "intra_op_num_threads": 2,
        "inter_op_num_threads": 2,
        "execution_mode": "parallel",
        "graph_optimization_level": "basic",
        "session_config": {"session.intra_op.allow_spinning": "0"},
    }
    model = await serve(matmul(), extra=extra)
    assert model._model.get_providers() == ["CPUExecutionProvider"]
    options = model._model.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 2)
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert list(await answers(model, request(x=f4(1, 3)))) == ["y"]


async def test_a_worker_takes_its_share_of_the_processors(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert (await serve(matmul()))._model.get_session_options().intra_op_num_threads == 3
    model = await serve(matmul(), extra={"intra_op_num_threads": 0})
    assert model._model.get_session_options().intra_op_num_threads == 0


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (
            {"provider": ["CPUExecutionProvider"]},
            "parameters.extra has unknown 'provider'; known are 'providers', ",
        ),
        (
            {"providers": ["MoonExecutionProvider"]},
            "providers: 'MoonExecutionProvider' is not available, but ",
        ),
        ({"providers": []}, "providers: names none"),
        ({"intra_op_num_threads": -1}, "Expected `int` >= 0 - at `$.intra_op_num_threads`"),
        ({"intra_op_num_threads": "two"}, "Expected `int | null`, got `str` - at `$.intra_op_num_threads`"),
        ({"execution_mode": "fast"}, "Invalid enum value 'fast' - at `$.execution_mode`"),
        ({"session_config": {"a": 1}}, "Expected `str`, got `int` - at `$.session_config[...]`"),
    ],
)
async def test_options_that_make_no_sense(serve: Any, extra: Any, text: str) -> None:
    with pytest.raises(MLServerError, match=re.escape(text)) as caught:
        await serve(matmul(), extra=extra)
    assert caught.value.status_code == 422
    assert str(caught.value).startswith("Model m: parameters.extra")


# --- artefacts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linked", [False, True])
async def test_weights_outside_of_the_file(tmp_path: Path, linked: bool) -> None:
    home = tmp_path / "real"
    home.mkdir()
    onnx.save_model(
        matmul(), str(home / "model.onnx"), save_as_external_data=True, location="weights", size_threshold=0
    )
    assert (home / "weights").exists()
    (tmp_path / "link").symlink_to(home)
    model = OnnxModel(settings_of(tmp_path / "link" if linked else home))
    await model.load()
    np.testing.assert_array_equal((await answers(model, request(x=f4(2, 3))))["y"], f4(2, 3) @ ONES)


@pytest.mark.parametrize("content", [b"", b"not a graph", matmul().SerializeToString()[:40]])
async def test_an_artefact_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(MLServerError, match=re.escape(f"the artefact {path} cannot be read: ")) as caught:
        await OnnxModel(settings_of(path)).load()
    assert caught.value.status_code == 500


async def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelURI, match=re.escape("holds none of model.onnx")) as caught:
        await OnnxModel(settings_of(tmp_path)).load()
    assert caught.value.status_code == 422


async def test_types_that_the_protocol_does_not_have(serve: Any) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    form = (TensorProto.BFLOAT16, ["n"])
    with pytest.raises(MLServerError, match=re.escape("input 'x' is of type tensor(bfloat16)")):
        await serve(graph([node], {"x": form}, {"y": form}))


def test_version() -> None:
    assert __version__
