"""`from_function`: a plain function as a model."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pytest

import mlserver
from mlserver import MLModel, ModelSettings
from mlserver.codecs import NumpyCodec, PandasCodec, StringCodec
from mlserver.errors import CodecError, CodecNotFound, InferenceError, InputsNotFound, MLServerError
from mlserver.model import promises
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor, RequestInput, RequestOutput
from tests.docs.pages import DOCS, blocks
from tests.running import process, serving, write_model


async def ask(cls: type[MLModel], **inputs: Any) -> InferenceResponse:
    """Lists are encoded as texts, all else as arrays."""
    model = cls(ModelSettings(name="m", implementation=cls))
    assert await model.load()
    encoded = [
        StringCodec.encode_input(name, value)
        if isinstance(value, list)
        else NumpyCodec.encode_input(name, np.asarray(value))
        for name, value in inputs.items()
    ]
    return await model.predict(InferenceRequest(inputs=encoded))


@mlserver.from_function
def double(x: np.ndarray) -> np.ndarray:
    """Twice as much."""
    return x * 2


async def test_a_function_of_an_array() -> None:
    (output,) = (await ask(double, x=np.array([[1, 2]]))).outputs
    assert (output.name, output.datatype, output.data.root) == ("output-0", "INT64", [2, 4])
    assert (double.__name__, double.__module__, double.__doc__) == ("double", __name__, "Twice as much.")
    assert double.function(21) == 42
    assert not promises(double(ModelSettings(name="m", implementation=double)), "rows_independent")


async def test_an_async_function_with_defaults_and_two_outputs() -> None:
    @mlserver.from_function(rows_independent=True)
    async def model(
        texts: list[str], times: int = 2, suffix: str | None = None, *, upper: bool | None
    ) -> tuple[list[str], int]:
        repeated = [text * times + (suffix or "") for text in texts]
        return [text.upper() for text in repeated] if upper else repeated, len(texts)

    texts, count = (await ask(model, texts=["a", "b"])).outputs
    assert StringCodec.decode_output(texts) == ["aa", "bb"]
    assert (count.name, count.datatype, count.shape, count.data.root) == ("output-1", "INT64", [1, 1], [2])
    texts, _ = (await ask(model, texts=["a"], times=3, suffix=["!"], upper=True)).outputs
    assert StringCodec.decode_output(texts) == ["AAA!"]
    assert promises(model(ModelSettings(name="m", implementation=model)), "rows_independent")


async def test_a_function_of_a_frame() -> None:
    @mlserver.from_function
    def model(frame: pd.DataFrame, factor: float = 1) -> pd.DataFrame:
        return frame.assign(area=frame["w"] * frame["h"] * factor)

    (w, h, area) = (await ask(model, w=np.array([1, 2]), h=np.array([3, 4]), factor=2)).outputs
    assert [w.name, h.name, area.name] == ["w", "h", "area"]
    assert area.data.root == [6.0, 16.0]


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (int, 1.5, "'x' must hold one int, but holds 1.5"),
        (int, [1, 2], "'x' must hold one value, but holds 2"),
        (int, np.array([], dtype=int), "'x' must hold one value, but holds 0"),
        (bool, 2, "'x' must hold one bool, but holds 2"),
        (float, np.array(["a"]), "'x' must hold one float, but holds 'a'"),
        (str, 1, "'x' must hold one str, but has datatype INT64"),
    ],
)
async def test_single_values_that_do_not_fit(kind: Any, value: Any, text: str) -> None:
    def function(x: Any) -> int:
        raise AssertionError

    function.__annotations__["x"] = kind
    with pytest.raises(CodecError, match=text) as caught:
        await ask(mlserver.from_function(function), x=np.asarray(value))
    assert caught.value.status_code == 400


async def test_requests_that_do_not_fit() -> None:
    @mlserver.from_function
    def model(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a + b

    with pytest.raises(InferenceError, match="the request lacks input 'b'"):
        await ask(model, a=1)
    with pytest.raises(InferenceError, match="the request lacks inputs 'a', 'b'"):
        await ask(model)
    with pytest.raises(InputsNotFound, match=r"Input 'c' was not found\. Available inputs are 'a', 'b'"):
        await ask(model, a=1, b=1, c=1)
    tensor = RequestInput(name="a", datatype="FP32", shape=[2], data=[1])
    with pytest.raises(CodecError, match="'a': the tensor has shape"):
        await model(ModelSettings(name="m", implementation=model)).predict(InferenceRequest(inputs=[tensor]))


async def test_shapes_that_settings_declare() -> None:
    declared = [
        MetadataTensor(name="x", datatype="FP64", shape=[-1, 2]),
        MetadataTensor(name="names", datatype="BYTES", shape=[-1]),
    ]

    @mlserver.from_function
    def model(x: np.ndarray, y: np.ndarray, names: list[str]) -> np.ndarray:
        return x * y

    served = model(ModelSettings(name="m", implementation=model, inputs=declared))

    async def asked(*shape: int) -> InferenceResponse:
        arrays = {"x": np.ones(shape), "y": np.ones(1)}
        inputs = [NumpyCodec.encode_input(name, array) for name, array in arrays.items()]
        inputs.append(StringCodec.encode_input("names", ["a"]))
        return await served.predict(InferenceRequest(inputs=inputs))

    assert (await asked(3, 2)).outputs[0].shape == [3, 2]
    for shape in ((3, 1), (2, 3, 2), (4, 3)):
        with pytest.raises(InferenceError) as caught:
            await asked(*shape)
        assert str(caught.value) == f"input 'x' has shape {list(shape)}, but the model expects [?, 2]"


async def test_declared_shapes_bind_arrays_alone() -> None:
    """Codecs send vectors, columns and single values with a last dimension of 1."""
    declared = [
        MetadataTensor(name="x", datatype="FP64", shape=[-1]),
        MetadataTensor(name="times", datatype="INT64", shape=[1]),
        MetadataTensor(name="a", datatype="FP64", shape=[-1]),
    ]

    @mlserver.from_function
    def model(x: np.ndarray, times: int, columns: pd.DataFrame) -> np.ndarray:
        assert x.ndim == 1
        return x * times + columns["a"].to_numpy()

    request = PandasCodec.encode_request(pd.DataFrame({"a": [1.0, 2.0]}))
    request.inputs += [
        NumpyCodec.encode_input("x", np.ones(2)),
        NumpyCodec.encode_input("times", np.array([3])),
    ]
    assert [tensor.shape for tensor in request.inputs] == [[2, 1], [2, 1], [1, 1]]
    served = model(ModelSettings(name="m", implementation=model, inputs=declared))
    assert (await served.predict(request)).outputs[0].data.root == [4.0, 5.0]


async def test_a_function_that_breaks_its_own_promise() -> None:
    @mlserver.from_function
    def model(x: np.ndarray) -> list[str]:
        return x  # type: ignore[return-value]

    with pytest.raises(MLServerError) as caught:
        await ask(model, x=1)
    assert caught.value.status_code == 500


async def test_a_column_named_like_the_frame() -> None:
    @mlserver.from_function
    def model(data: pd.DataFrame) -> np.ndarray:
        return data["data"].to_numpy() * data["w"].to_numpy()

    assert (await ask(model, data=np.array([1, 2]), w=np.array([3, 4]))).outputs[0].data.root == [3, 8]


@pytest.mark.parametrize(("element", "text"), [(str, "a"), (datetime, "2021-01-01")])
async def test_null_in_lists(element: Any, text: str) -> None:
    def function(x: Any) -> Any:
        assert x[1] is None
        return x

    async def asked(hint: Any) -> Any:
        function.__annotations__.update({"x": hint, "return": hint})
        model = mlserver.from_function(function)
        tensor = RequestInput(name="x", datatype="BYTES", shape=[2, 1], data=[text, None])
        served = model(ModelSettings(name="m", implementation=model))
        return (await served.predict(InferenceRequest(inputs=[tensor]))).outputs[0].data.root

    expected = "text" if element is str else "points in time"
    for hint in (list[element], Annotated[list[Annotated[element, "x"]], "x"], list[element] | None):
        with pytest.raises(InferenceError) as caught:
            await asked(hint)
        assert str(caught.value) == f"input 'x' holds null in element 1, but the model expects {expected}"
    for hint in (list[element | None], Annotated[list[Annotated[element | None, "x"]], "x"]):
        first, second = await asked(hint)
        assert first.startswith(text.encode()) and second is None


async def test_a_function_that_returns_nothing() -> None:
    def function(x: int) -> Any:
        pass

    async def asked(hint: Any) -> InferenceResponse:
        function.__annotations__["return"] = hint
        return await ask(mlserver.from_function(function), x=1)

    for hint in (int, Annotated[np.ndarray, "x"], tuple[int | None, str]):
        with pytest.raises(MLServerError, match="The function of model 'm' returned nothing") as caught:
            await asked(hint)
        assert caught.value.status_code == 500
    for hint in (None, int | None):
        assert (await asked(hint)).outputs == []


async def test_large_integers() -> None:
    def function(x: int) -> Any:
        return 2**x - 1

    async def asked(hint: Any, bits: int) -> Any:
        function.__annotations__["return"] = hint
        (output,) = (await ask(mlserver.from_function(function), x=bits)).outputs
        return output.datatype, output.data.root

    assert await asked(int, 63) == ("INT64", [2**63 - 1])
    assert await asked(int, 64) == ("UINT64", [2**64 - 1])
    for hint, bits in ((int, 65), (float, 2000)):
        with pytest.raises(MLServerError) as caught:
            await asked(hint, bits)
        assert str(caught.value) == f"'output-0' is an int of {bits} bits, which no datatype holds"
        assert caught.value.status_code == 500


async def test_outputs_that_are_asked_for() -> None:
    def pair(x: int) -> tuple[int, int]:
        return x, -x

    def frame(x: int) -> pd.DataFrame:
        return pd.DataFrame({"a": [x], "b": [-x]})

    async def asked(function: Any, *names: str) -> Any:
        model = mlserver.from_function(function)
        request = InferenceRequest(
            inputs=[NumpyCodec.encode_input("x", np.array([1]))],
            outputs=[RequestOutput(name=name) for name in names],
        )
        served = model(ModelSettings(name="m", implementation=model))
        return [(output.name, output.data.root) for output in (await served.predict(request)).outputs]

    assert await asked(pair) == [("output-0", [1]), ("output-1", [-1])]
    assert await asked(pair, "output-1") == [("output-1", [-1])]
    assert await asked(frame, "b", "a") == [("b", [-1]), ("a", [1])]
    with pytest.raises(InferenceError, match="the model has no output 'c': it gives 'a', 'b'"):
        await asked(frame, "c")


async def test_a_parameter_with_a_note_may_not_be_left_out() -> None:
    @mlserver.from_function
    def model(x: Annotated[np.ndarray, "pixels"]) -> np.ndarray:
        return x

    with pytest.raises(InferenceError, match="the request lacks input 'x'"):
        await ask(model)


def test_functions_that_are_no_models() -> None:
    def no_hint(x) -> int: ...  # type: ignore[no-untyped-def]
    def no_return(x: int): ...  # type: ignore[no-untyped-def]
    def any_number(*x: int) -> int: ...  # type: ignore[empty-body]
    def unknown(x: set[int]) -> int: ...  # type: ignore[empty-body]

    for function, error, text in (
        (no_hint, TypeError, "no_hint: parameter 'x' needs a type hint"),
        (no_return, TypeError, "no_return: what it returns needs a type hint"),
        (any_number, TypeError, "any_number: parameter 'x' cannot be given by its name"),
        (unknown, CodecNotFound, "with name 'x'"),
    ):
        with pytest.raises(error, match=text):
            mlserver.from_function(function)


def test_the_page(tmp_path: Path) -> None:
    page = DOCS / "runtimes" / "function.md"
    (tmp_path / "models.py").write_text(blocks(page, "python file=models.py")[0])
    (tmp_path / "model-settings.json").write_text(blocks(page, "json file=model-settings.json")[0])
    with process(tmp_path) as server:  # in a worker
        exec(blocks(page, "python client")[0], {"server": server.url})


SLOW = """
import time
import mlserver

@mlserver.from_function
def slow(seconds: float) -> float:
    time.sleep(seconds)
    return seconds
"""


def test_a_function_that_blocks_holds_up_nobody_else(tmp_path: Path) -> None:
    write_model(tmp_path, "slow", "models.slow", SLOW)
    tensor = {"name": "seconds", "shape": [1], "datatype": "FP64", "data": [1.5]}
    with serving(tmp_path) as server, ThreadPoolExecutor(1) as caller:  # without workers, the worst case
        answer = caller.submit(server.infer, "slow", {"inputs": [tensor]})
        answered = 0
        while not answer.done():
            assert server.get("/v2/health/live").ok
            answered += not answer.done()
            time.sleep(0.02)
        assert answer.result().json()["outputs"][0]["data"] == [1.5]
    assert answered > 1
