"""`decode_args`: signatures that say how to decode and encode."""

import inspect
from collections.abc import Awaitable
from datetime import datetime
from typing import Any, Dict, List, Optional, Tuple, Union  # noqa: UP035 - as users write hints

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from mlserver.codecs import NumpyCodec, PandasCodec, RequestCodec, StringCodec, decode_args
from mlserver.codecs.base import _requests, register_request_codec
from mlserver.codecs.decorator import SignatureCodec
from mlserver.errors import CodecNotFound, InputsNotFound, OutputNotFound
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestInput


class Model:
    """As much of a model as the decorator needs."""

    name = "m"
    version = "v"


def request(**inputs: Any) -> InferenceRequest:
    """Strings are encoded by the string codec, arrays by that of numpy."""
    encoded = [
        StringCodec.encode_input(name, value)
        if isinstance(value, list)
        else NumpyCodec.encode_input(name, value)
        for name, value in inputs.items()
    ]
    return InferenceRequest(id="a", parameters=Parameters(headers={}), inputs=encoded)


async def answer(predict: Any, **inputs: Any) -> InferenceResponse:
    response: Awaitable[InferenceResponse] = predict(Model(), request(**inputs))
    return await response


async def test_inputs_and_outputs_by_signature() -> None:
    @decode_args
    async def predict(self: Any, a: np.ndarray, b: List[str]) -> Tuple[np.ndarray, List[str]]:  # noqa: UP006
        """Doubles."""
        assert self.name == "m"
        assert isinstance(a, np.ndarray)
        return a * 2, [*b, "c"]

    response = await answer(predict, b=["x"], a=np.array([[1, 2]]))
    assert (response.model_name, response.model_version) == ("m", "v")
    assert response.parameters is None
    first, second = response.outputs
    assert (first.name, first.datatype, first.data.root) == ("output-0", "INT64", [2, 4])
    assert (second.name, second.parameters.content_type) == ("output-1", "str")
    assert second.data.root == [b"x", b"c"]


def test_the_result_takes_a_request() -> None:
    @decode_args
    async def predict(self: Any, a: np.ndarray) -> np.ndarray:
        """What it does."""
        return a

    assert list(inspect.signature(predict).parameters) == ["self", "request"]
    assert predict.__name__ == "predict"
    assert predict.__doc__ == "What it does."
    assert inspect.iscoroutinefunction(predict)
    assert not hasattr(predict, "__wrapped__")


@pytest.mark.parametrize(
    ("hint", "given", "expected"),
    [
        (np.ndarray, np.array([[1]]), [[1]]),
        (npt.NDArray[np.int64], np.array([[1]]), [[1]]),
        (Optional[np.ndarray], np.array([[1]]), [[1]]),  # noqa: UP045
        (np.ndarray | None, np.array([[1]]), [[1]]),
        (List[str], ["a"], ["a"]),  # noqa: UP006
        (list[str], ["a"], ["a"]),
        (Optional[list[str]], ["a"], ["a"]),  # noqa: UP045
        (List[bytes], ["YQ=="], [b"a"]),  # noqa: UP006
        (list[bytes] | None, ["YQ=="], [b"a"]),
        (List[Union[str, datetime]], ["2021-01-01"], [datetime(2021, 1, 1)]),  # noqa: UP006, UP007
        (List[datetime], ["2021-01-01"], [datetime(2021, 1, 1)]),  # noqa: UP006
        ("list[datetime]", ["2021-01-01"], [datetime(2021, 1, 1)]),
    ],
)
async def test_hints_of_inputs(hint: Any, given: Any, expected: Any) -> None:
    seen: list[Any] = []

    async def predict(self, value):  # type: ignore[no-untyped-def]
        seen.append(value)

    predict.__annotations__["value"] = hint
    response = await answer(decode_args(predict), value=given)
    assert response.outputs == []
    (value,) = seen
    assert (value.tolist() if isinstance(value, np.ndarray) else value) == expected


async def test_the_content_type_of_the_request_does_not_matter() -> None:
    @decode_args
    async def predict(self: Any, a: list[bytes]) -> list[bytes]:
        return a

    response = await predict(Model(), InferenceRequest(inputs=[StringCodec.encode_input("a", ["YQ=="])]))
    assert response.outputs[0].data.root == [b"YQ=="]


async def test_a_frame_takes_the_inputs_that_nothing_else_takes() -> None:
    @decode_args
    async def predict(self: Any, a: np.ndarray, rest: pd.DataFrame) -> Tuple[np.ndarray, pd.DataFrame]:  # noqa: UP006
        assert list(rest.columns) == ["b", "c"]
        assert rest["b"].tolist() == ["x", "y"]
        return a, rest

    response = await answer(predict, b=["x", "y"], a=np.array([1]), c=np.array([1, 2]))
    assert [output.name for output in response.outputs] == ["output-0", "b", "c"]
    assert response.outputs[1].parameters.content_type == "str"


async def test_an_input_named_like_the_frame_is_refused() -> None:
    @decode_args
    async def predict(self: Any, rest: pd.DataFrame) -> None: ...

    with pytest.raises(CodecNotFound, match="input field with name 'rest'"):
        await answer(predict, rest=np.array([1]))


async def test_the_whole_request() -> None:
    @decode_args
    async def predict(self: Any, payload: InferenceRequest, a: np.ndarray) -> np.ndarray:
        assert [tensor.name for tensor in payload.inputs] == ["a", "other"]
        assert payload.id == "a"
        return a

    response = await answer(predict, a=np.array([1]), other=["x"])
    assert response.outputs[0].data.root == [1]


async def test_a_whole_response() -> None:
    @decode_args
    async def predict(self: Any, a: np.ndarray) -> InferenceResponse:
        return PandasCodec.encode_response("other", pd.DataFrame({"a": a.ravel()}))

    response = await answer(predict, a=np.array([1]))
    assert response.model_name == "other"


async def test_inputs_that_nothing_takes() -> None:
    @decode_args
    async def predict(self: Any, a: np.ndarray, b: list[str]) -> None: ...

    with pytest.raises(InputsNotFound) as caught:
        await answer(predict, q=np.array([1]))
    assert str(caught.value) == "Input 'q' was not found. Available inputs are 'a', 'b'."
    assert caught.value.status_code == 400
    with pytest.raises(InputsNotFound, match="Inputs 'q', 'r' were not found"):
        await answer(predict, q=np.array([1]), r=np.array([1]))


async def test_missing_inputs() -> None:
    @decode_args
    async def predict(self: Any, a: np.ndarray, b: list[str] = ["default"]) -> list[str]:  # noqa: B006
        return b

    assert (await answer(predict, a=np.array([1]))).outputs[0].data.root == [b"default"]
    with pytest.raises(TypeError):
        await answer(predict, b=["x"])


async def test_parameters_without_a_hint_are_not_passed() -> None:
    @decode_args
    async def predict(self, a: np.ndarray, b=5) -> np.ndarray:  # type: ignore[no-untyped-def]
        assert b == 5
        return a

    assert len((await answer(predict, a=np.array([1]))).outputs) == 1
    with pytest.raises(InputsNotFound):
        await answer(predict, a=np.array([1]), b=np.array([1]))


@pytest.mark.parametrize("hint", [list[int], str, int, Dict[str, int], Any, Union[int, str]])  # noqa: UP006, UP007
def test_hints_without_a_codec_are_refused_at_once(hint: Any) -> None:
    async def predict(self, value):  # type: ignore[no-untyped-def]
        ...

    predict.__annotations__["value"] = hint
    with pytest.raises(CodecNotFound, match="input field with name 'value'"):
        decode_args(predict)
    predict.__annotations__ = {"return": hint}
    with pytest.raises(CodecNotFound):
        decode_args(predict)


@pytest.mark.parametrize(
    ("hint", "returned", "data"),
    [
        (np.ndarray, np.array([1]), [[1]]),
        (Optional[np.ndarray], np.array([1]), [[1]]),  # noqa: UP045
        (np.ndarray | None, None, []),
        (None, None, []),
        (np.ndarray, None, []),
        (Tuple[np.ndarray, List[str]], (np.array([1]), ["a"]), [[1], [b"a"]]),  # noqa: UP006
        (Tuple[np.ndarray, List[str]], (np.array([1]),), [[1]]),  # noqa: UP006
        (tuple[np.ndarray, list[str]], (np.array([1]), ["a"]), [[1], [b"a"]]),
        (tuple[np.ndarray, ...], (np.array([1]), np.array([2]), np.array([3])), [[1], [2], [3]]),
        (tuple[Optional[np.ndarray], list[str]], (None, ["a"]), [[b"a"]]),  # noqa: UP045
        ((np.ndarray, List[str]), (np.array([1]), ["a"]), [[1], [b"a"]]),  # noqa: UP006
        ("(np.ndarray, List[str])", (np.array([1]), ["a"]), [[1], [b"a"]]),
        (list[bytes], [b"a"], [[b"YQ=="]]),
        (list[datetime], [datetime(2021, 1, 1)], [[b"2021-01-01T00:00:00"]]),
    ],
)
async def test_hints_of_outputs(hint: Any, returned: Any, data: list[Any]) -> None:
    async def predict(self, a: np.ndarray):  # type: ignore[no-untyped-def]
        return returned

    predict.__annotations__["return"] = hint
    response = await answer(decode_args(predict), a=np.array([1]))
    assert [output.data.root for output in response.outputs] == data


@pytest.mark.parametrize(
    ("hint", "returned", "index"),
    [
        (inspect.Signature.empty, np.array([1]), 0),
        (None, np.array([1]), 0),
        (np.ndarray, ["a"], 0),
        (np.ndarray, [1], 0),
        (tuple[np.ndarray, list[str]], (np.array([1]), [1]), 1),
        (tuple[np.ndarray, list[str]], (np.array([1]), ["a"], ["b"]), 2),
        (tuple[np.ndarray, list[str]], (None, ["a"]), 0),
    ],
)
async def test_values_that_no_hint_allows(hint: Any, returned: Any, index: int) -> None:
    async def predict(self, a: np.ndarray):  # type: ignore[no-untyped-def]
        return returned

    if hint is not inspect.Signature.empty:
        predict.__annotations__["return"] = hint
    with pytest.raises(OutputNotFound, match=f"Output at position {index} ") as caught:
        await answer(decode_args(predict), a=np.array([1]))
    assert caught.value.status_code == 400


async def test_a_hint_of_another_request_codec() -> None:
    saved = dict(_requests._codecs)
    try:

        @register_request_codec
        class DictCodec(RequestCodec):
            ContentType = "dict"
            TypeHint = Dict[str, np.ndarray]  # noqa: UP006

            @classmethod
            def decode_request(cls, request: InferenceRequest) -> Any:
                return {tensor.name: NumpyCodec.decode_input(tensor) for tensor in request.inputs}

        @decode_args
        async def predict(self: Any, tensors: dict[str, np.ndarray]) -> np.ndarray:
            return tensors["a"] + tensors["b"]

        response = await answer(predict, a=np.array([1]), b=np.array([2]))
        assert response.outputs[0].data.root == [3]
    finally:
        _requests._codecs, _requests._all = saved, None


def test_the_codec_of_a_signature() -> None:
    async def predict(self: Any, a: np.ndarray) -> np.ndarray:
        return a

    codec = SignatureCodec(predict)
    message = InferenceRequest(
        inputs=[RequestInput(name="a", shape=[1], datatype="FP32", data=[1], parameters=Parameters(x=1))]
    )
    assert codec.decode_request(message)["a"].tolist() == [1.0]
    assert codec.encode_response("m", np.array([1.0])).outputs[0].name == "output-0"
