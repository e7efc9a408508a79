"""What goes through a codec and back is what it was, directly, as JSON and as raw bytes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver import raw
from mlserver.codecs import (
    Base64Codec,
    DatetimeCodec,
    NumpyCodec,
    NumpyRequestCodec,
    PandasCodec,
    StringCodec,
    StringRequestCodec,
)
from mlserver.codecs.negotiation import decode_request
from mlserver.errors import CodecError
from mlserver.tensor import DTYPES, TensorData
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput
from tests import strategies as ours

Path = Callable[[Any], Any]


def directly(message: Any) -> Any:
    return message


def through_json(message: Any) -> Any:
    """As a client that validates sends it."""
    return type(message).model_validate_json(message.model_dump_json())


def through_unread_json(message: RequestInput) -> RequestInput:
    """As the server reads it: the data stays text until somebody asks."""
    text = bytes(memoryview(TensorData(message.data).to_json()))
    return RequestInput.build(
        name=message.name,
        shape=message.shape,
        datatype=message.datatype,
        parameters=message.parameters,
        data=TensorData.from_json(text),
    )


def through_raw(message: RequestInput) -> RequestInput:
    (message,), contents = raw.extract_raw([message])
    raw.inject_raw([message], contents)
    return message


PATHS = [directly, through_json, through_unread_json, through_raw]
REQUEST_PATHS = [directly, through_json]


def batched(array: Any) -> Any:
    """The array in the shape in which it comes back."""
    return array.reshape([*array.shape, 1]) if array.ndim < 2 and array.ndim else np.atleast_1d(array)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("datatype", ours.NUMERIC)
@given(data=st.data())
def test_numbers(datatype: str, path: Path, data: st.DataObject) -> None:
    array = data.draw(ours.arrays(datatype))
    message = NumpyCodec.encode_input("x", array)
    assert message.datatype == datatype
    decoded = NumpyCodec.decode_input(path(message))
    expected = batched(array)
    if "json" in path.__name__ and array.dtype.kind == "f":  # JSON has no infinity: null, which is NaN
        expected = np.where(np.isinf(expected), np.nan, expected).astype(array.dtype)
    assert decoded.dtype == DTYPES[datatype]
    assert decoded.shape == expected.shape
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
@given(data=st.data())
def test_floats_keep_every_bit_as_raw_bytes(datatype: str, data: st.DataObject) -> None:
    array = data.draw(ours.arrays(datatype))
    decoded = NumpyCodec.decode_input(through_raw(NumpyCodec.encode_input("x", array)))
    assert decoded.tobytes() == array.tobytes()


@given(array=ours.text_arrays())
def test_text_arrays_through_json(array: Any) -> None:
    decoded = NumpyCodec.decode_input(through_json(NumpyCodec.encode_input("x", array)))
    assert decoded.shape == batched(array).shape
    assert decoded.tolist() == batched(array).tolist()


@pytest.mark.parametrize("path", [directly, through_raw])
@given(array=ours.text_arrays())
def test_text_arrays_as_bytes_are_their_utf8(path: Path, array: Any) -> None:
    decoded = NumpyCodec.decode_input(path(NumpyCodec.encode_input("x", array)))
    assert decoded.shape == batched(array).shape
    assert [element.decode() for element in decoded.ravel()] == array.ravel().tolist()


@given(array=ours.object_arrays())
def test_object_arrays(array: Any) -> None:
    decoded = NumpyCodec.decode_input(NumpyCodec.encode_input("x", array))
    assert decoded.shape == batched(array).shape
    assert decoded.tolist() == batched(array).tolist()


@given(array=ours.object_arrays(ours.binaries))
def test_arrays_of_bytes_as_raw_bytes(array: Any) -> None:
    decoded = NumpyCodec.decode_input(through_raw(NumpyCodec.encode_input("x", array)))
    assert decoded.shape == batched(array).shape
    assert decoded.tolist() == batched(array).tolist()


@given(
    elements=st.lists(
        st.binary(min_size=1, max_size=4).filter(lambda raw: not raw.endswith(b"\0")), min_size=2
    )
)
def test_fixed_width_arrays(elements: list[bytes]) -> None:
    array = np.array(elements)
    decoded = NumpyCodec.decode_input(NumpyCodec.encode_input("x", array))
    assert decoded.tolist() == [[element] for element in elements]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("use_bytes", [True, False])
@given(payload=st.lists(ours.texts))
def test_strings(use_bytes: bool, path: Path, payload: list[str]) -> None:
    message = StringCodec.encode_input("x", payload, use_bytes=use_bytes)
    assert StringCodec.decode_input(path(message)) == payload


@pytest.mark.parametrize("path", [directly, through_json, through_unread_json])
@given(payload=st.lists(st.none() | ours.texts))
def test_null_among_strings(path: Path, payload: list[str | None]) -> None:
    assert StringCodec.decode_input(path(StringCodec.encode_input("x", payload))) == payload


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("use_bytes", [True, False])
@given(payload=st.lists(ours.binaries))
def test_base64(use_bytes: bool, path: Path, payload: list[bytes]) -> None:
    message = Base64Codec.encode_input("x", payload, use_bytes=use_bytes)
    assert Base64Codec.decode_input(path(message)) == payload


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("use_bytes", [True, False])
@given(payload=st.lists(ours.datetimes))
def test_datetimes(use_bytes: bool, path: Path, payload: list[datetime]) -> None:
    message = DatetimeCodec.encode_input("x", payload, use_bytes=use_bytes)
    assert DatetimeCodec.decode_input(path(message)) == payload


@given(payload=st.lists(ours.texts))
def test_outputs_and_inputs_are_alike(payload: list[str]) -> None:
    output = StringCodec.encode_output("x", payload)
    assert type(output) is ResponseOutput
    assert output.model_dump() == StringCodec.encode_input("x", payload).model_dump()
    assert StringCodec.decode_output(through_json(output)) == payload


@pytest.mark.parametrize("path", REQUEST_PATHS)
@pytest.mark.parametrize("datatype", ours.NUMERIC)
@given(data=st.data())
def test_requests_of_one_array(datatype: str, path: Path, data: st.DataObject) -> None:
    array = data.draw(ours.arrays(datatype).filter(lambda array: np.isfinite(array).all()))
    request = path(NumpyRequestCodec.encode_request(array))
    np.testing.assert_array_equal(NumpyRequestCodec.decode_request(request), batched(array))
    response = path(NumpyRequestCodec.encode_response("m", array, "v"))
    assert (response.model_name, response.model_version) == ("m", "v")
    np.testing.assert_array_equal(NumpyRequestCodec.decode_response(response), batched(array))


@pytest.mark.parametrize("path", REQUEST_PATHS)
@given(payload=st.lists(ours.texts))
def test_requests_of_one_list(path: Path, payload: list[str]) -> None:
    assert StringRequestCodec.decode_request(path(StringRequestCodec.encode_request(payload))) == payload
    response = path(StringRequestCodec.encode_response("m", payload))
    assert StringRequestCodec.decode_response(response) == payload


@pytest.mark.parametrize("path", REQUEST_PATHS)
@pytest.mark.parametrize("use_bytes", [True, False])
@given(frame=ours.frames())
def test_frames(use_bytes: bool, path: Path, frame: pd.DataFrame) -> None:
    request = PandasCodec.encode_request(frame, use_bytes=use_bytes)
    for column in request.inputs:
        assert column.shape == [len(frame), 1]
        kinds = (str, bytes) if column.datatype == "BYTES" else (bool, int, float)
        assert all(value is None or isinstance(value, kinds) for value in column.data)
    # Both ways of a request into a frame: the codec alone, and with every input decoded first.
    assert_same_frame(PandasCodec.decode_request(path(request)), frame, path)
    assert_same_frame(decode_request(path(request)), frame, path)


@given(frame=ours.frames())
def test_frames_in_responses(frame: pd.DataFrame) -> None:
    response = PandasCodec.encode_response("m", frame, "v")
    assert type(response) is InferenceResponse
    assert_same_frame(PandasCodec.decode_response(response), frame, directly)


def assert_same_frame(decoded: pd.DataFrame, frame: pd.DataFrame, path: Path) -> None:
    assert list(decoded.columns) == list(frame.columns)
    for label in frame.columns:
        before, after = frame[label], decoded[label]
        if isinstance(before.dtype, np.dtype) and before.dtype.kind != "O":
            assert after.dtype == before.dtype
        values = [plain(value, path) for value in before.tolist()]
        assert [plain(value, path) for value in after.tolist()] == values


def plain(value: Any, path: Path) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    return None if path is through_json and isinstance(value, float) and np.isinf(value) else value


@pytest.mark.parametrize("datatype", [*ours.NUMERIC, "BYTES"])
@given(value=ours.json_values, shape=st.lists(st.integers(-2, 4), max_size=3))
def test_any_json_decodes_or_is_refused(datatype: str, value: Any, shape: list[int]) -> None:
    data = TensorData.from_json(ours.as_json(value))
    message = RequestInput.build(name="x", shape=shape, datatype=datatype, data=data)
    with suppress(CodecError):  # and never another error
        NumpyCodec.decode_input(message)
    for codec in (StringCodec, Base64Codec, DatetimeCodec):
        with suppress(CodecError):
            codec.decode_input(message)
    with suppress(CodecError):
        PandasCodec.decode_request(InferenceRequest.build(inputs=[message]))


@pytest.mark.parametrize("datatype", ours.NUMERIC)
@given(value=ours.json_values)
def test_large_and_small_json_read_alike(datatype: str, value: Any) -> None:
    """Large texts take a quicker way; it must not show."""
    text = ours.as_json(value)
    padded = text[:1] + b" " * 300 + text[1:] if text[:1] in b"[{" else text + b" " * 300
    results = []
    for form in (text, padded):
        try:
            array = TensorData.from_json(form).to_array(datatype)
            results.append((array.dtype, array.shape, array.tobytes()))
        except CodecError:
            results.append(None)
    assert results[0] == results[1]


@given(content=st.binary(max_size=40), shape=st.lists(st.integers(-1, 4), max_size=2))
@pytest.mark.parametrize("datatype", [*ours.NUMERIC, "BYTES"])
def test_any_bytes_unpack_or_are_refused(datatype: str, content: bytes, shape: list[int]) -> None:
    message = RequestInput.build(name="x", shape=shape, datatype=datatype, data=[])
    with suppress(CodecError):
        message.data = raw.unpack(message, content)
        assert raw.pack(message) == (bytes(map(bool, content)) if datatype == "BOOL" else content)
