"""Named tensors: what fits a signature is passed on as it came, all else is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver import MLModel, ModelSettings
from mlserver.artefact import options_of
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError, MLServerError
from mlserver.settings import ModelParameters
from mlserver.signature import Signature, TensorModel, TensorSpec
from mlserver.tensor import TensorData
from mlserver.types import InferenceRequest, MetadataTensor, Parameters, RequestInput, RequestOutput
from tests.tabular import described, refused

MODEL = MLModel(ModelSettings(name="m", implementation=MLModel))


def request(*outputs: RequestOutput, **arrays: Any) -> InferenceRequest:
    inputs = []
    for name, array in arrays.items():
        tensor = NumpyCodec.encode_input(name, array)
        tensor.shape = list(array.shape)
        inputs.append(tensor)
    return InferenceRequest(inputs=inputs, outputs=list(outputs) or None)


class Scaler(TensorModel):
    """A library of one file: factors, which rows are multiplied by."""

    platform_name = "scaler"
    filenames = ("model.npy",)

    def _read(self, path: str) -> Any:
        return np.load(path)

    def _open(self, model: Any) -> Signature:
        form = (None, len(model))
        return Signature([TensorSpec("x", "FP64", form)], [TensorSpec("y", "FP64", form)])

    def _run(self, arrays: dict[str, Any], names: list[str]) -> dict[str, Any]:
        with np.errstate(over="raise"):
            return {"y": arrays["x"] * self._model}

    def _refusal(self, exc: Exception) -> str | None:
        return "too large" if isinstance(exc, FloatingPointError) else None


async def test_a_runtime_of_ones_own(tmp_path: Path) -> None:
    np.save(tmp_path / "model.npy", np.array([1.0, 1e300]))
    parameters = ModelParameters(uri=str(tmp_path))
    model = Scaler(ModelSettings(name="m", implementation=Scaler, parameters=parameters))
    assert await model.load()
    metadata = await model.metadata()
    assert metadata.platform == "scaler" and described(metadata.outputs) == [("y", "FP64", [-1, 2])]
    wish = RequestOutput(name="y", parameters=Parameters(content_type="np"))
    for outputs in ((), (wish,), (wish, wish)):
        response = await model.predict(request(*outputs, x=np.ones((1, 2))))
        assert [output.data.root for output in response.outputs] == [[1.0, 1e300]] * max(1, len(outputs))
    assert await refused(model, request(x=np.full((1, 2), 1e300))) == (
        "the inputs ('x' [1, 2]) do not suit the model: too large"
    )
    model._model = np.array([2.0, 3.0, 4.0])  # another one in place
    assert (await model.predict(request(x=np.ones((1, 3))))).outputs[0].data.root == [2, 3, 4]


def test_arrays_are_the_memory_of_the_request() -> None:
    body = np.arange(6, dtype=np.float32).tobytes()
    array = np.frombuffer(body, np.float32)
    tensor = RequestInput.build(name="x", datatype="FP32", shape=[2, 3], data=TensorData.from_binary(array))
    signature = Signature([TensorSpec("x", "FP32", ("n", 3))])
    got = signature.arrays(InferenceRequest(inputs=[tensor]), MODEL)["x"]
    assert got.shape == (2, 3) and np.shares_memory(got, array) and not got.flags.writeable


@pytest.mark.parametrize(
    ("inputs", "outputs", "independent"),
    [
        ([("n", 2)], [("n",)], True),
        ([(None, 2)], [("n",)], True),
        ([("n", 2), ("n",)], [(None, None)], True),
        ([("n", 2), ("m", 2)], [("n",)], False),
        ([("n", 2)], [(1, 2)], False),
        ([("n", 2)], [()], False),
        ([("n", 2)], [None], False),
        ([("n", 2)], [], False),
    ],
)
def test_rows_that_are_independent(inputs: Any, outputs: Any, independent: bool) -> None:
    signature = Signature(
        [TensorSpec(f"i{index}", "FP32", shape) for index, shape in enumerate(inputs)],
        [TensorSpec(f"o{index}", "FP32", shape) for index, shape in enumerate(outputs)],
    )
    assert signature.rows_independent is independent


def test_bounds_of_a_dimension() -> None:
    signature = Signature([TensorSpec("x", "FP64", ("n",))], bounds={"n": (2, 4)})
    assert signature.arrays(request(x=np.ones(4)), MODEL)["x"].shape == (4,)
    with pytest.raises(InferenceError, match=r"\[5\], where \[n\] is expected, but 'n' may be 2 to 4"):
        signature.arrays(request(x=np.ones(5)), MODEL)


def test_a_single_input_of_any_name() -> None:
    specs = [TensorSpec("x"), TensorSpec("mask", required=False)]
    assert list(Signature(specs, by_position=True).arrays(request(z=np.ones(1)), MODEL)) == ["x"]
    for signature, made in (
        (Signature(specs), request(z=np.ones(1))),
        (Signature(specs, by_position=True), request(mask=np.ones(1))),
        (Signature(specs, by_position=True), request(z=np.ones(1), mask=np.ones(1))),
    ):
        with pytest.raises(InferenceError, match="the request lacks input 'x'"):
            signature.arrays(made, MODEL)


def test_what_metadata_shows() -> None:
    assert TensorSpec("x").described() is None
    for shape, shown in ((("n", 3, None), [-1, 3, -1]), (None, [-1]), ((), [])):
        tensor = TensorSpec("x", "FP32", shape).described()
        assert tensor is not None and tensor.shape == shown
    declared = TensorSpec.declared(MetadataTensor(name="x", datatype="FP32", shape=[-1, 3]))
    assert declared == TensorSpec("x", "FP32", (None, 3))


SHAPES = st.lists(st.integers(0, 4), max_size=4)
SPECS = st.none() | st.lists(st.none() | st.integers(0, 4) | st.sampled_from("nm"), max_size=4).map(tuple)


@given(SHAPES, SHAPES, SPECS, SPECS)
def test_any_shapes_fit_or_are_refused(first: Any, second: Any, expected: Any, other: Any) -> None:
    signature = Signature([TensorSpec("a", "FP64", expected), TensorSpec("b", "FP64", other)])
    try:
        arrays = signature.arrays(request(a=np.ones(first), b=np.ones(second)), MODEL)
    except InferenceError as exc:
        assert "input '" in str(exc)
        return
    sizes: dict[str, int] = {}
    for name, spec in (("a", expected), ("b", other)):
        assert 0 not in arrays[name].shape[:1]
        for size, dimension in zip(arrays[name].shape, spec or (), strict=spec is not None):
            if isinstance(dimension, str):
                assert sizes.setdefault(dimension, size) == size
            else:
                assert dimension in (None, size)


class Options(msgspec.Struct):
    threads: int = 1


def test_options() -> None:
    def options(extra: Any) -> Options:
        parameters = ModelParameters(extra=extra)
        return options_of(ModelSettings(name="m", implementation=Scaler, parameters=parameters), Options)

    assert options({"threads": 2}).threads == 2 and options(None).threads == 1
    assert options_of(ModelSettings(name="m", implementation=Scaler), Options).threads == 1
    for extra, text in (
        ({"thread": 2}, "unknown 'thread'; known are 'threads'"),
        ({"threads": "2"}, "`str`"),
    ):
        with pytest.raises(MLServerError, match=text) as caught:
            options(extra)
        assert caught.value.status_code == 422
