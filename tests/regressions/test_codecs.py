"""Faults that users of servers like this one met, by the number of the report: codecs."""

from __future__ import annotations

import sys
import tracemalloc
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlserver import raw
from mlserver.codecs import (
    Base64Codec,
    DatetimeCodec,
    NumpyCodec,
    NumpyRequestCodec,
    PandasCodec,
    StringCodec,
    negotiation,
)
from mlserver.errors import CodecError
from mlserver.tensor import DTYPES, TensorData
from mlserver.types import InferenceRequest, RequestInput

MILLION = 1_000_000


def as_json(message: Any) -> Any:
    """What arrives at the other end of REST."""
    return type(message).model_validate_json(message.model_dump_json())


def as_raw(request: InferenceRequest) -> InferenceRequest:
    """What arrives at the other end of gRPC."""
    inputs, contents = raw.extract_raw(request.inputs)
    raw.inject_raw(inputs, contents)
    return request


PAYLOADS = [
    (StringCodec, ["a", "é", ""]),
    (StringCodec, []),
    (Base64Codec, [b"\xff\x00", b""]),
    (DatetimeCodec, [datetime(2021, 8, 24, 15, 1, 19, 123)]),
    *((NumpyCodec, np.array([[0, 1], [1, 0]], dtype=dtype)) for dtype in DTYPES.values()),
    (NumpyCodec, np.array(["a", "é"])),
    (NumpyCodec, np.array([b"ab", b"c"])),
    (NumpyCodec, np.array(["a", None, b"b"], dtype=object)),
    (NumpyCodec, np.zeros((0, 4), dtype="f4")),
    (NumpyCodec, np.array([np.nan, np.inf])),
    (NumpyCodec, np.ma.array([1.0, 2.0], mask=[0, 1])),
]


@pytest.mark.parametrize(
    ("codec", "payload"), PAYLOADS, ids=lambda value: getattr(value, "ContentType", None)
)
@pytest.mark.parametrize("use_bytes", [True, False])
def test_r26_what_codecs_give_can_be_sent_either_way(codec: Any, payload: Any, use_bytes: bool) -> None:
    output = codec.encode_output("x", payload, use_bytes=use_bytes)
    assert as_json(output).shape == output.shape
    assert bytes(memoryview(output.data.to_json())).startswith(b"[")
    if output.datatype == "BYTES":
        contents = raw.unpack(output, raw.pack(output))
        assert all(type(element) is bytes for element in contents)
        assert len(contents) == len(output.data)
    else:
        contents = raw.unpack(output, raw.pack(output))
        assert len(contents) == int(np.prod(output.shape))


@pytest.mark.parametrize("use_bytes", [True, False])
@pytest.mark.parametrize("send", [as_json, as_raw, lambda request: request], ids=["rest", "grpc", "directly"])
@pytest.mark.parametrize("decode", [PandasCodec.decode_request, negotiation.decode_request])
def test_r27_frames_of_integers_and_text_come_back(use_bytes: bool, send: Any, decode: Any) -> None:
    frame = pd.DataFrame({"number": [1, -2, 3], "text": ["a", "é", ""], "flag": [True, False, True]})
    decoded = decode(send(PandasCodec.encode_request(frame, use_bytes=use_bytes)))
    pd.testing.assert_frame_equal(decoded, frame)


@pytest.mark.parametrize("use_bytes", [True, False])
@pytest.mark.parametrize("send", [as_json, as_raw, lambda request: request], ids=["rest", "grpc", "directly"])
def test_r29_columns_of_bytes_encode_and_come_back(use_bytes: bool, send: Any) -> None:
    frame = pd.DataFrame({"image": [b"\x89PNG\x00", b"\xff\xd8", b"plain"]}, dtype=object)
    decoded = PandasCodec.decode_request(send(PandasCodec.encode_request(frame, use_bytes=use_bytes)))
    assert decoded["image"].tolist() == frame["image"].tolist()


def test_r29_bytes_that_are_text_go_untouched() -> None:
    frame = pd.DataFrame({"image": [b"a", b"b"]}, dtype=object)
    (output,) = PandasCodec.encode_outputs(frame)
    assert output.data.root == [b"a", b"b"]
    assert as_json(output).data.root == ["a", "b"]


@pytest.mark.parametrize("use_bytes", [True, False])
@pytest.mark.parametrize("rows", [[[0.5, 1.0], [2.0]], [[1.0], [2.0]], [[], [1, None]]])
def test_r30_columns_of_lists_are_what_they_are_declared_to_be(use_bytes: bool, rows: list[Any]) -> None:
    frame = pd.DataFrame({"embedding": rows})
    request = PandasCodec.encode_request(frame, use_bytes=use_bytes)
    (column,) = request.inputs
    assert column.datatype == "BYTES"
    assert all(isinstance(element, bytes if use_bytes else str) for element in column.data)
    assert raw.unpack(column, raw.pack(column))
    assert PandasCodec.decode_request(as_json(request))["embedding"].tolist() == rows


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_r32_null_is_nan_in_requests(datatype: str) -> None:
    body = f'{{"name": "x", "shape": [2], "datatype": "{datatype}", "data": [null, 1.0]}}'
    message = RequestInput.model_validate_json(body)
    np.testing.assert_array_equal(NumpyCodec.decode_input(message), np.array([np.nan, 1], DTYPES[datatype]))
    frame = PandasCodec.decode_request(InferenceRequest(inputs=[message]))
    assert frame["x"].isna().tolist() == [True, False]


def test_r32_nan_and_infinity_are_null_in_json_and_themselves_in_bytes() -> None:
    array = np.array([np.nan, np.inf, -np.inf, 1.0], dtype="f4")
    for encoded in (
        NumpyCodec.encode_output("x", array),
        NumpyRequestCodec.encode_response("m", array).outputs[0],
        PandasCodec.encode_outputs(pd.DataFrame({"x": array}))[0],
    ):
        assert bytes(memoryview(encoded.data.to_json())) == b"[null,null,null,1.0]"
        assert raw.pack(encoded) == array.tobytes()
        assert encoded.data.root == [None, np.inf, -np.inf, 1.0]
        assert np.isnan(np.frombuffer(raw.pack(encoded), "<f4")[0])


def test_r32_null_in_integers_is_the_callers_fault() -> None:
    message = RequestInput(name="x", shape=[2], datatype="INT32", data=[1, None])
    with pytest.raises(CodecError, match="'x': element 1 is None, which is no INT32") as caught:
        NumpyCodec.decode_input(message)
    assert caught.value.status_code == 400


@pytest.mark.parametrize(
    "data",
    [
        TensorData([1.5, 2.5]),
        TensorData.from_json(b"[1.5,2.5]"),
        TensorData.from_array(np.array([1.5, 2.5], dtype="f4")),
    ],
    ids=["list", "text", "array"],
)
def test_r34_numbers_nobody_annotated_are_an_array_for_the_asking(data: TensorData) -> None:
    message = RequestInput(name="x", shape=[2], datatype="FP32", data=data)
    decoded = negotiation.decode_input(message)
    assert np.asarray(decoded).dtype.kind == "f"
    assert np.asarray(decoded, dtype="f4").tolist() == [1.5, 2.5]


def test_r37_a_million_raw_floats_are_never_objects() -> None:
    content = np.arange(MILLION, dtype="<f4").tobytes()
    message = RequestInput(name="x", shape=[1000, 1000], datatype="FP32", data=[])
    tracemalloc.start()
    raw.inject_raw([message], [content])
    decoded = NumpyCodec.decode_input(message)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert decoded.shape == (1000, 1000)
    assert decoded.tobytes() == content
    assert peak < 1.1 * len(
        content
    )  # a list would take eight times as much, and the numbers in it thrice that


def test_r37_a_million_floats_go_out_as_they_are() -> None:
    array = np.zeros((1000, 1000), dtype="f4")
    tracemalloc.start()
    output = NumpyRequestCodec.encode_response("m", array).outputs[0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.shares_memory(output.data.array, array)
    assert peak < 100_000


def test_r37_json_becomes_an_array_without_objects() -> None:
    text = b"[" + b",".join([b"0.5"] * MILLION) + b"]"
    data = TensorData.from_json(text)
    message = RequestInput.build(name="x", shape=[MILLION], datatype="FP32", data=data)
    tracemalloc.start()
    decoded = NumpyCodec.decode_input(message)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert decoded.sum() == MILLION / 2
    assert data.to_json() is text
    assert peak < 20 * MILLION  # two buffers of 8 bytes a number; objects would take 32


def calls_of_ours(work: Any) -> int:
    """How many functions of ours, comprehensions among them, are called."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        if event == "call" and "mlserver" in frame.f_code.co_filename:
            calls += 1

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_r37_39_columns_cost_the_same_for_ten_rows_and_for_ten_thousand() -> None:
    def round_trip(rows: int) -> int:
        frame = pd.DataFrame({f"c{index}": np.arange(rows, dtype="f4") for index in range(39)})

        def work() -> None:
            decoded = PandasCodec.decode_request(as_raw(PandasCodec.encode_request(frame)))
            assert decoded.shape == (rows, 39)

        return calls_of_ours(work)

    round_trip(1)  # whatever happens only once
    assert round_trip(10) == round_trip(10_000)


def test_r37_39_columns_cost_39_times_one_column_at_most() -> None:
    def decode(columns: int) -> int:
        frame = pd.DataFrame({f"c{index}": np.arange(10, dtype="f4") for index in range(columns)})
        request = as_raw(PandasCodec.encode_request(frame))
        return calls_of_ours(lambda: PandasCodec.decode_request(request))

    decode(1)
    assert decode(39) <= 39 * decode(1)
