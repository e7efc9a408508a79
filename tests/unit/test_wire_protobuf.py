"""V2 protobuf: requests in, responses out, each beside what protobuf itself makes of it."""

from __future__ import annotations

import contextlib
import math
import struct
import time
from typing import Any

import numpy as np
import pytest

from mlserver.batching import fits, split
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.errors import InvalidRequest, InvalidTensor, MLServerError
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.tensor import DTYPES, TensorData
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput
from mlserver.wire import protobuf
from mlserver.wire.protobuf import (
    LARGE,
    decode_request,
    decode_response,
    encode_parts,
    encode_request,
    encode_response,
    encode_split,
    encode_stream_error,
    encode_stream_item,
    read_head,
    recognise_request,
)


def tensor(**fields: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 4], **fields}


def message(*tensors: dict[str, Any], **fields: Any) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name="m", inputs=tensors or [tensor()], **fields)


def body(*tensors: dict[str, Any], **fields: Any) -> bytes:
    return message(*tensors, **fields).SerializeToString()


def refused(data: bytes, error: type[MLServerError] = InvalidTensor) -> str:
    with pytest.raises(error) as caught:
        decode_request(data)
    assert caught.value.status_code == 400
    return str(caught.value)


FOUR = np.array([1, -2.5, np.nan, np.inf], "<f4")


# Raw requests


def test_a_raw_request_is_read() -> None:
    data = message(
        tensor(parameters={"content_type": pb.InferParameter(string_param="np")}),
        id="a",
        parameters={
            "b": pb.InferParameter(bool_param=False),
            "i": pb.InferParameter(int64_param=-3),
            "s": pb.InferParameter(string_param="ä"),
            "d": pb.InferParameter(double_param=0.5),
            "u": pb.InferParameter(uint64_param=2**64 - 1),
            "none": pb.InferParameter(),
        },
        outputs=[{"name": "y", "parameters": {"k": pb.InferParameter(int64_param=1)}}],
        raw_input_contents=[FOUR.tobytes()],
    )
    for _ in range(2):  # the second time it is known
        request, raw = decode_request(data.SerializeToString())
        assert raw and request.parameters.none is None
        assert request.model_dump() == {
            "id": "a",
            "parameters": {"b": False, "i": -3, "s": "ä", "d": 0.5, "u": 2**64 - 1},
            "inputs": [
                {
                    "name": "x",
                    "shape": [1, 4],
                    "datatype": "FP32",
                    "parameters": {"content_type": "np"},
                    "data": [1, -2.5, pytest.approx(math.nan, nan_ok=True), math.inf],
                }
            ],
            "outputs": [{"name": "y", "parameters": {"k": 1}}],
        }


def test_requests_that_say_the_same_share_nothing() -> None:
    data = body(
        tensor(parameters={"a": pb.InferParameter(int64_param=1)}),
        parameters={"b": pb.InferParameter(int64_param=1)},
        outputs=[{"name": "y"}],
        raw_input_contents=[bytes(16)],
    )
    first, second = decode_request(data)[0], decode_request(data)[0]
    first.inputs[0].shape.append(1)
    first.inputs[0].name = "z"
    first.inputs[0].parameters.a = 2
    first.parameters.headers = {"h": "1"}
    first.outputs[0].name = "z"
    first.outputs.append(first.outputs[0])
    assert second.model_dump() == decode_request(data)[0].model_dump()
    assert second.inputs[0].shape == [1, 4] and second.inputs[0].parameters.a == 1
    assert second.parameters.headers is None and [output.name for output in second.outputs] == ["y"]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("n", [4, 1_000_000])
def test_numbers_are_not_copied(kind: Any, n: int) -> None:
    values = np.arange(n, dtype="<f4")
    data = kind(body(tensor(shape=[n]), raw_input_contents=[values.tobytes()]))
    array = decode_request(data)[0].inputs[0].data.array
    assert array is not None
    np.testing.assert_array_equal(array, values)
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))
    assert array.flags.writeable == (kind is bytearray)


@pytest.mark.parametrize("field", ["fp32_contents", "fp64_contents"])
def test_large_typed_floats_are_not_copied(field: str) -> None:
    values = np.arange(10_000, dtype="<f4")
    data = body(tensor(shape=[10_000], contents={field: values}))
    array = decode_request(data)[0].inputs[0].data.array
    np.testing.assert_array_equal(array, values)
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_what_user_code_decodes_is_aligned_and_may_be_written_to(kind: Any) -> None:
    for length in range(1, 9):
        data = kind(body(tensor(name="x" * length, datatype="FP64"), raw_input_contents=[bytes(32)]))
        tensors = decode_request(data)[0].inputs
        array = NumpyCodec.decode_input(tensors[0])
        assert array.flags.aligned and array.flags.writeable
        array[:] = 1
        assert tensors[0].data.to_array("FP64").flags.aligned


@pytest.mark.parametrize("datatype", DTYPES)
def test_raw_numbers_of_every_datatype(datatype: str) -> None:
    values = np.array([[0, 1, 1]], DTYPES[datatype])
    request, _ = decode_request(
        body(tensor(datatype=datatype, shape=[1, 3]), raw_input_contents=[values.tobytes()])
    )
    array = request.inputs[0].data.to_array(datatype)
    assert array.dtype == values.dtype and array.tolist() == [[0, 1, 1]]


def test_any_byte_but_zero_is_true() -> None:
    request, _ = decode_request(
        body(tensor(datatype="BOOL", shape=[3]), raw_input_contents=[b"\x00\x01\x02"])
    )
    assert list(request.inputs[0].data) == [False, True, True]


def test_raw_bytes_are_read_when_asked() -> None:
    raw = b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0\xff"
    good, bad = (
        decode_request(body(tensor(datatype="BYTES", shape=[3]), raw_input_contents=[data]))[0].inputs[0].data
        for data in (raw, raw[:-1])
    )
    assert list(good) == [b"ab", b"", b"\xff"] and good[0] == b"ab" and len(good) == 3
    for _ in range(2):
        with pytest.raises(InvalidTensor, match=r"'x'.*element 2 claims 1 bytes"):
            list(bad)


def test_inputs_without_contents_take_the_raw_buffers_in_order() -> None:
    request, raw = decode_request(
        body(
            tensor(name="a", shape=[1], contents={"fp32_contents": [2]}),
            tensor(name="b", shape=[1]),
            tensor(name="c", shape=[1], contents={}),
            raw_input_contents=[FOUR[:1].tobytes(), FOUR[1:2].tobytes(), b"surplus"],
        )
    )
    assert raw and [list(each.data) for each in request.inputs] == [[2.0], [1.0], [-2.5]]


def test_tensors_without_elements() -> None:
    request, raw = decode_request(
        body(tensor(shape=[0]), tensor(shape=[]), raw_input_contents=[b"", FOUR[:1].tobytes()])
    )
    assert raw and [list(each.data) for each in request.inputs] == [[], [1.0]]


def test_raw_buffers_that_do_not_fit_are_refused() -> None:
    four = FOUR.tobytes()
    assert "'x': FP32 [1, 4] needs 16 bytes, got 15" in refused(body(raw_input_contents=[four[:-1]]))
    assert "'y'" in refused(body(tensor(), tensor(name="y"), raw_input_contents=[four]))
    assert "negative" in refused(body(tensor(shape=[-1, 4]), raw_input_contents=[four]))
    assert "negative" in refused(body(tensor(datatype="BOOL", shape=[-1]), raw_input_contents=[b"\1"]))
    assert "'x'" in refused(body(tensor(shape=[0, 2**62]), raw_input_contents=[b""]))
    assert "'x'" in refused(body(tensor(shape=[1] * 70 + [4]), raw_input_contents=[four]))
    assert "'x'" in refused(body(tensor(datatype="BOOL", shape=[1] * 70), raw_input_contents=[b"\1"]))


@pytest.mark.parametrize("datatype", ["", "FP99", "fp32", "BF16"])
def test_unknown_datatypes_are_refused(datatype: str) -> None:
    for fields in ({}, {"raw_input_contents": [b""]}):
        assert f"'x': '{datatype}' is no datatype" in refused(body(tensor(datatype=datatype), **fields))


# Typed requests


@pytest.mark.parametrize("n", [4, 5_000])
def test_typed_and_raw_requests_that_are_otherwise_equal_do_not_mix(n: int) -> None:
    values = np.arange(n, dtype="<f4")
    one, empty = tensor(shape=[n]), tensor(shape=[n], contents={})
    typed = body(tensor(shape=[n], contents={"fp32_contents": values}))
    raw = body(one, raw_input_contents=[(values + 1).tobytes()])
    for _ in range(2):
        for data, first in ((raw, [1, 2]), (typed, [0, 1]), (body(one), []), (body(empty), [])):
            request, was_raw = decode_request(data)
            assert list(request.inputs[0].data)[:2] == first and was_raw == (data is raw)


@pytest.mark.parametrize("n", [3, 5_000])
@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("bool_contents", [True, False, True]),
        ("int_contents", [-1, 0, 2**31 - 1]),
        ("int64_contents", [-(2**63), 300, 2**63 - 1]),
        ("uint_contents", [0, 127, 2**32 - 1]),
        ("uint64_contents", [0, 128, 2**64 - 1]),
        ("fp32_contents", [0.5, -0.0, math.inf]),
        ("fp64_contents", [0.1, 1e300, -math.inf]),
        ("bytes_contents", [b"", b"\xff", b"a" * 300]),
    ],
)
def test_the_field_that_has_values_is_the_data(field: str, values: list[Any], n: int) -> None:
    many = (values * n)[:n]
    for datatype in ("INT32", "FP64", "BYTES"):
        request, raw = decode_request(body(tensor(datatype=datatype, shape=[7], contents={field: many})))
        assert not raw and list(request.inputs[0].data) == many
        assert [type(value) for value in request.inputs[0].data] == [type(value) for value in many]


@pytest.mark.parametrize("n", [1, 2_000])
def test_of_two_fields_the_first_is_the_data(n: int) -> None:
    contents = {"fp32_contents": [1.0] * n, "int64_contents": [7] * n}
    request, _ = decode_request(body(tensor(datatype="INT64", contents=contents)))
    assert list(request.inputs[0].data) == [7] * n


def test_no_contents_are_no_values() -> None:
    request, raw = decode_request(body(tensor(), tensor(contents={})))
    assert not raw and [list(each.data) for each in request.inputs] == [[], []]


@pytest.mark.parametrize("n", [2, 2_000])
def test_contents_that_are_not_packed_or_come_in_pieces(n: int) -> None:
    def field(number: int, content: bytes) -> bytes:
        return protobuf._field(bytes((number << 3 | 2,)), content)

    loose = b"".join(b"\x35" + struct.pack("<f", value) for value in range(n))
    half = struct.pack(f"<{n}f", *range(n))
    for contents in (loose, field(6, half) + loose, field(6, half) + field(6, half)):
        one = tensor(shape=[])
        data = field(5, message(one).inputs[0].SerializeToString() + field(5, contents))
        twice = field(5, message(one).inputs[0].SerializeToString() + field(5, contents) * 2)
        for each in (data, twice):
            expected = pb.ModelInferRequest.FromString(each).inputs[0].contents.fp32_contents
            assert list(decode_request(each)[0].inputs[0].data) == list(expected)


def test_nan_stays_nan() -> None:
    for n in (1, 1_000):
        for fields in (
            {"contents": {"fp32_contents": [math.nan] * n}},
            {"contents": {"fp64_contents": [math.nan] * n}},
        ):
            data = decode_request(body(tensor(**fields)))[0].inputs[0].data
            assert all(math.isnan(value) for value in data)
            assert np.isnan(data.to_array("FP32")).all()


# Requests as a whole


def test_an_empty_message() -> None:
    request, raw = decode_request(b"")
    assert (request.id, request.parameters, request.inputs, request.outputs, raw) == (
        None,
        None,
        [],
        None,
        False,
    )


def test_headers_are_left_out_and_content_types_are_text() -> None:
    headers = {"headers": pb.InferParameter(string_param="x"), "a": pb.InferParameter(int64_param=1)}
    request, _ = decode_request(body(tensor(parameters=headers), parameters=headers))
    assert request.parameters.model_dump() == request.inputs[0].parameters.model_dump() == {"a": 1}
    bad = {"content_type": pb.InferParameter(int64_param=1)}
    for data in (
        body(parameters=bad),
        body(tensor(parameters=bad)),
        body(outputs=[{"name": "y", "parameters": bad}]),
    ):
        assert "content_type" in refused(data, InvalidRequest)


@pytest.mark.parametrize("name", ["self", "cls", "_fields_set", "model_extra", ""])
def test_parameters_may_have_any_name(name: str) -> None:
    request, _ = decode_request(body(parameters={name: pb.InferParameter(int64_param=1)}))
    assert request.parameters.model_dump() == {name: 1}


def test_bytes_that_are_no_request_are_refused() -> None:
    good = body(id="abc", raw_input_contents=[FOUR.tobytes()])
    for bad in (
        good[:-1],
        b"\xff",
        b"\x0a",
        b"\x0a\x05ab",
        b"\x1a\x01\xff",
        b"\x02\x00",
        b"\x3a\xff\xff\xff\xff\xff",
    ):
        assert "no ModelInferRequest" in refused(bad, InvalidRequest)
        if bad != b"\x02\x00":  # field 0, which a look from outside does not mind
            with pytest.raises(InvalidRequest):
                read_head(bad)


def test_what_is_unknown_is_skipped() -> None:
    known = body(id="abc", raw_input_contents=[FOUR.tobytes()])
    unknown = [
        b"\x78\x01",
        b"\x7d\0\0\0\0",
        b"\x79" + bytes(8),
        b"\x7a\x02ab",
        b"\xfa\x01\x02ab",
        b"\x38\x05",
    ]
    for field in unknown:
        for data in (field + known, known + field):
            request, raw = decode_request(data)
            assert raw and request.id == "abc" and list(request.inputs[0].data)[:2] == [1, -2.5]
            assert read_head(data) == ("m", "", "abc")


@pytest.mark.parametrize("field", [b"\x0a\x01n", b"\x1a\x01b", b"\x3a\0", b"\x22\0", b"\x7a\0", b"\x78\0"])
def test_many_fields_are_not_walked_by_hand(field: bytes) -> None:
    known = body(tensor(shape=[0]), raw_input_contents=[b""])
    data = known + field * 500_000
    started = time.process_time()
    request, raw = decode_request(data)
    head = read_head(data)
    assert time.process_time() - started < 2
    assert raw and len(request.inputs) == 1 and head.model_name in "mn"


def test_the_head_of_a_request() -> None:
    data = message(id="a", model_version="v1", raw_input_contents=[bytes(300)]).SerializeToString()
    assert read_head(data) == ("m", "v1", "a")
    assert read_head(memoryview(data)) == read_head(bytearray(data)) == ("m", "v1", "a")
    assert read_head(data + b"\x0a\x01n\x1a\x01b") == ("n", "v1", "b")
    assert read_head(b"") == ("", "", "")


def test_what_is_remembered_is_bounded() -> None:
    for index in range(2_000):
        decode_request(body(tensor(name=f"n{index}"), raw_input_contents=[FOUR.tobytes()]))
    assert len(protobuf._plans) <= 512
    decode_request(body(tensor(name="n" * 10_000), raw_input_contents=[FOUR.tobytes()]))
    assert max(map(len, protobuf._plans)) < 3_000


# Responses


def response(*outputs: ResponseOutput, **fields: Any) -> InferenceResponse:
    return InferenceResponse(model_name="m", outputs=list(outputs), **fields)


def output(data: Any, datatype: str = "FP32", **fields: Any) -> ResponseOutput:
    data = data if isinstance(data, TensorData) else TensorData(data)
    return ResponseOutput(**{"name": "y", "shape": [len(data)], "datatype": datatype, "data": data, **fields})


def read(response: InferenceResponse, raw: bool) -> pb.ModelInferResponse:
    data = encode_response(response, raw)
    assert type(data) is bytes
    read = pb.ModelInferResponse.FromString(data)
    assert read.SerializeToString() == data or len(read.parameters) > 1  # maps have no order
    return read


def test_a_raw_response_is_written() -> None:
    parameters = Parameters(
        content_type="np",
        s="ä",
        b=True,
        i=-1,
        u=2**64 - 1,
        d=0.5,
        gone=[1],
        too={"a": 1},
        none=None,
        headers={"a": "1"},
    )
    told = read(
        response(
            output([1, None], parameters={"content_type": "np"}),
            id="a",
            model_version="v",
            parameters=parameters,
        ),
        raw=True,
    )
    assert told == pb.ModelInferResponse(
        model_name="m",
        model_version="v",
        id="a",
        parameters={
            "content_type": pb.InferParameter(string_param="np"),
            "s": pb.InferParameter(string_param="ä"),
            "b": pb.InferParameter(bool_param=True),
            "i": pb.InferParameter(int64_param=-1),
            "u": pb.InferParameter(uint64_param=2**64 - 1),
            "d": pb.InferParameter(double_param=0.5),
        },
        outputs=[
            {
                "name": "y",
                "datatype": "FP32",
                "shape": [2],
                "parameters": {"content_type": pb.InferParameter(string_param="np")},
                "contents": {},
            }
        ],
        raw_output_contents=[np.array([1, np.nan], "<f4").tobytes()],
    )
    assert told.outputs[0].HasField("contents")


@pytest.mark.parametrize("n", [2, 5_000])
@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT16", "int_contents", [-1, 300]),
        ("INT32", "int_contents", [-(2**31), 2**31 - 1]),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
        ("UINT8", "uint_contents", [0, 255]),
        ("UINT16", "uint_contents", [1, 2]),
        ("UINT32", "uint_contents", [0, 2**32 - 1]),
        ("UINT64", "uint64_contents", [127, 2**64 - 1]),
        ("FP16", "fp32_contents", [0.5, -2.0]),
        ("FP32", "fp32_contents", [0.5, math.inf]),
        ("FP64", "fp64_contents", [0.1, -math.inf]),
        ("BYTES", "bytes_contents", [b"", b"a" * 200]),
    ],
)
def test_typed_values_have_the_field_of_their_datatype(
    datatype: str, field: str, values: Any, n: int
) -> None:
    many = (values * n)[:n]
    nested = [many[: n // 2], many[n // 2 :]]
    datas: list[Any] = [many, nested]
    if datatype != "BYTES":
        datas += [TensorData.from_array(np.array(many, DTYPES[datatype])), np.array(many, DTYPES[datatype])]
    for data in datas:
        told = read(response(output(data, datatype, shape=[n])), raw=False)
        assert told.outputs[0].contents == pb.InferTensorContents(**{field: many})
        assert not told.raw_output_contents
        raw = read(response(output(data, datatype, shape=[n])), raw=True)
        (back,) = decode_response(raw.SerializeToString()).outputs
        assert list(back.data) == many


def test_text_is_bytes_and_none_is_nothing() -> None:
    for data in (["ä", b"b", None], [["ä", b"b"], [None]], np.array(["ä", b"b", None], object)):
        told = response(output(data, "BYTES", shape=[3]))
        assert list(read(told, raw=False).outputs[0].contents.bytes_contents) == ["ä".encode(), b"b", b""]
        assert read(told, raw=True).raw_output_contents == [b"\x02\0\0\0\xc3\xa4\x01\0\0\0b\0\0\0\0"]
    assert read(response(StringCodec.encode_output("y", ["ä", None])), True).outputs[0].shape == [2, 1]


def test_nan_and_infinities_are_exact() -> None:
    bits = np.array([0x7FC00001, 0x7F800000, 0xFF800000, 0x80000000], "<u4").view("<f4")
    told = response(output(TensorData.from_array(bits)))
    assert read(told, raw=True).raw_output_contents == [bits.tobytes()]
    assert bits.tobytes() in encode_response(told, raw=False)
    codec = response(NumpyCodec.encode_output("y", np.array([np.nan, np.inf])))
    assert np.isnan(read(codec, raw=False).outputs[0].contents.fp64_contents[0])


@pytest.mark.parametrize("raw", [True, False])
def test_no_elements_and_no_outputs(raw: bool) -> None:
    told = read(response(output([], shape=[0, 3]), output(np.zeros((0, 3), "f4"), shape=[0, 3])), raw)
    assert [list(each.shape) for each in told.outputs] == [[0, 3]] * 2
    assert all(each.HasField("contents") for each in told.outputs)
    assert list(told.raw_output_contents) == ([b"", b""] if raw else [])
    assert read(response(), raw) == pb.ModelInferResponse(model_name="m")


def test_large_arrays_are_sent_from_where_they_are() -> None:
    array = np.arange(1_000_000, dtype="<f4").reshape(1_000, 1_000)
    told = response(NumpyCodec.encode_output("y", array), output([1.0]), NumpyCodec.encode_output("z", array))
    for raw in (True, False):
        parts = encode_parts(told, raw)
        views = [part for part in parts if not isinstance(part, bytes)]
        assert len(views) == 2 and all(np.shares_memory(np.frombuffer(view, "u1"), array) for view in views)
        assert sum(len(part) for part in parts) < 8_000_200
        assert b"".join(parts) == encode_response(told, raw)
        read(told, raw)
    transposed = response(output(array.T, shape=[1_000, 1_000]))
    assert read(transposed, raw=True).raw_output_contents == [array.T.tobytes()]


def test_arrays_of_another_dtype_are_converted() -> None:
    told = response(output(TensorData.from_array(np.array([0.5, 1], "<f8")), "FP32"))
    assert read(told, raw=True).raw_output_contents == [np.array([0.5, 1], "<f4").tobytes()]
    assert list(read(told, raw=False).outputs[0].contents.fp32_contents) == [0.5, 1]


def test_values_that_do_not_fit_are_the_models_fault() -> None:
    for bad, raws in (
        (output([300], "INT8"), (True, False)),
        (output(["a"], "FP32"), (True, False)),
        (output([1.5], "BYTES"), (True, False)),
        (output(["\ud800"], "BYTES"), (True, False)),
        (output([1, 2], shape=[3]), (True,)),
    ):
        for raw in raws:
            with pytest.raises(MLServerError, match=r"output 'y'") as caught:
                encode_response(response(bad), raw)
            assert caught.value.status_code == 500
    assert read(response(output([1, 2], shape=[3])), raw=False).outputs[0].shape == [3]
    with pytest.raises(MLServerError, match="beyond 64 bits"):
        encode_response(response(parameters={"a": 2**64}), True)


# Merged responses


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [NumpyCodec.encode_output("y", np.arange(6, dtype="<f4"))],
        [
            NumpyCodec.encode_output("y", np.arange(12).reshape(6, 2)),
            NumpyCodec.encode_output("z", np.zeros(6)),
        ],
        [NumpyCodec.encode_output("y", np.arange(6) * 100 - 200)],
        [NumpyCodec.encode_output("y", np.zeros((6, 0)))],
        [NumpyCodec.encode_output("y", np.zeros((6, 2, 3), "<f2"))],
        [NumpyCodec.encode_output("y", np.array([True] * 6))],
        [StringCodec.encode_output("y", list("abcdef"))],
        [NumpyCodec.encode_output("y", np.zeros((6, 9_000), "<f4"))],
    ],
)
def test_a_split_response_has_each_members_id_and_rows(outputs: list[ResponseOutput], raw: bool) -> None:
    rows, ids = [1, 3, 0, 2], ["a", None, "", "d"]
    merged = response(*outputs, parameters={"k": 1})
    alone = [encode_response(part, raw) for part in split(merged, rows, ids)] if outputs else None
    together = encode_split(merged, rows, ids, raw)
    assert alone is None or together == alone
    assert [pb.ModelInferResponse.FromString(each).id for each in together] == ["a", "", "", "d"]


# Streams and clients


def test_tritons_stream_items() -> None:
    array = np.zeros(LARGE, "<f4")
    told = response(NumpyCodec.encode_output("y", array), id="a")
    item = b"".join(encode_stream_item(encode_parts(told, raw=True)))
    read = pb.ModelStreamInferResponse.FromString(item)
    assert read.infer_response.SerializeToString() == encode_response(told, raw=True)
    assert pb.ModelStreamInferResponse.FromString(encode_stream_error("no")).error_message == "no"


@pytest.mark.parametrize("raw", [True, False])
def test_a_request_written_is_read(raw: bool) -> None:
    request = InferenceRequest(
        id="a",
        parameters={"k": 1},
        inputs=[
            RequestInput(
                name="x", shape=[2], datatype="FP32", data=[0.5, 1.5], parameters={"content_type": "np"}
            ),
            RequestInput(name="s", shape=[2], datatype="BYTES", data=[b"a", b"\xff"]),
        ],
        outputs=[{"name": "y"}],
    )
    data = encode_request(request, "m", "v", raw)
    back, was_raw = decode_request(data)
    assert was_raw == raw and back == request
    assert read_head(data) == ("m", "v", "a")
    assert encode_request(InferenceRequest(inputs=[]), "m", None) == b"\x0a\x01m"


# Forms: small raw requests that differ in their values and ids alone


def raw_request(values: Any, **fields: Any) -> bytes:
    array = np.asarray(values, dtype=np.float32)
    message = pb.ModelInferRequest(
        model_name="m",
        inputs=[{"name": "x", "datatype": "FP32", "shape": list(array.shape)}],
        raw_input_contents=[array.tobytes()],
        **fields,
    )
    return message.SerializeToString()


def test_a_raw_request_is_recognised_once_one_of_its_form_was_decoded() -> None:
    first, second = raw_request([[1, 2]], id="a"), raw_request([[3, np.nan]])
    decode_request(first)
    known = [recognise_request(body) for body in (first, second)]
    assert known[0] is not None and known[1] is not None
    (form, _, first_id), (same, _, second_id) = known[0], known[1]
    assert form is same and (first_id, second_id) == ("a", None)
    assert (form.rows, form.size, form.key) == (1, 2, fits(decode_request(first)[0]))
    joined = form.join([part for _, part, _ in (known[0], known[1])])
    np.testing.assert_array_equal(joined.to_array("FP32"), np.array([1, 2, 3, np.nan], np.float32))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        raw_request([[1, 2, 3]])[:-1],
        raw_request([[1.0]]) + raw_request([[1.0]]),
        raw_request([[1.0]], parameters={"own": {"int64_param": 1}}),
        pb.ModelInferRequest(
            inputs=[{"name": "x", "datatype": "BYTES", "shape": [1]}], raw_input_contents=[b"\x01\0\0\0a"]
        ).SerializeToString(),
        pb.ModelInferRequest(
            inputs=[{"name": "x", "datatype": "BOOL", "shape": [1]}], raw_input_contents=[b"\x02"]
        ).SerializeToString(),
        pb.ModelInferRequest(
            inputs=[{"name": "x", "datatype": "FP32", "shape": [1], "contents": {"fp32_contents": [1.0]}}]
        ).SerializeToString(),
        pb.ModelInferRequest(
            inputs=[{"name": "x", "datatype": "FP32", "shape": [2]}], raw_input_contents=[b"\0" * 4]
        ).SerializeToString(),
        raw_request(np.zeros((1, 2000))),
    ],
)
def test_what_has_no_form_is_decoded(body: bytes) -> None:
    for _ in range(2):
        assert recognise_request(body) is None
        with contextlib.suppress(InvalidRequest, InvalidTensor):
            decode_request(body)
