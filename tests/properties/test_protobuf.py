"""What protobuf says of bytes, we say; what we write, protobuf reads."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from mlserver.batching import split
from mlserver.errors import CodecError, InvalidRequest
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.raw import unpack
from mlserver.tensor import DTYPES, TensorData
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput
from mlserver.wire import protobuf
from mlserver.wire.protobuf import decode_request, encode_request, encode_response, encode_split, read_head
from tests.strategies import NUMERIC, arrays, binaries, names, texts

FIELDS = {
    **dict.fromkeys(["INT8", "INT16", "INT32"], "int_contents"),
    **dict.fromkeys(["UINT8", "UINT16", "UINT32"], "uint_contents"),
    **dict.fromkeys(["FP16", "FP32"], "fp32_contents"),
    "BOOL": "bool_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

choices = st.one_of(
    st.booleans().map(lambda value: pb.InferParameter(bool_param=value)),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: pb.InferParameter(int64_param=value)),
    texts.map(lambda value: pb.InferParameter(string_param=value)),
    st.floats(allow_nan=False).map(lambda value: pb.InferParameter(double_param=value)),
    st.integers(0, 2**64 - 1).map(lambda value: pb.InferParameter(uint64_param=value)),
    st.builds(pb.InferParameter),
)
parameter_maps = st.dictionaries(names, choices, max_size=3)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[dict[str, Any], bytes | None]:
    """An input as protobuf takes it, and its raw bytes unless it is typed. Some are large."""
    datatype = draw(st.sampled_from([*NUMERIC, "BYTES"]))
    fields: dict[str, Any] = {
        "name": draw(names),
        "datatype": datatype,
        "parameters": draw(parameter_maps),
    }
    repeat = draw(st.sampled_from([1, 1, 500]))
    if datatype == "BYTES":
        elements = draw(st.lists(binaries, max_size=4)) * repeat
        fields["shape"] = [len(elements)]
        raw = b"".join(len(element).to_bytes(4, "little") + element for element in elements)
        values: Any = elements
    else:
        array = np.concatenate([draw(arrays(datatype)).ravel()] * repeat)
        fields["shape"] = [array.size]
        raw, values = array.tobytes(), array.tolist()
    if draw(st.booleans()) or not values:
        return fields, raw
    return {**fields, "contents": {FIELDS[datatype]: values}}, None


@st.composite
def messages(draw: st.DrawFn) -> pb.ModelInferRequest:
    inputs = draw(st.lists(tensors(), max_size=3))
    return pb.ModelInferRequest(
        model_name=draw(names),
        model_version=draw(st.just("") | names),
        id=draw(texts),
        parameters=draw(parameter_maps),
        inputs=[fields for fields, _ in inputs],
        outputs=[{"name": draw(names)} for _ in range(draw(st.integers(0, 2)))],
        raw_input_contents=[raw for _, raw in inputs if raw is not None]
        + draw(st.lists(binaries, max_size=1)),
    )


def expected(message: pb.ModelInferRequest) -> Any:
    """A request as protobuf's own classes give it."""
    raws = iter(message.raw_input_contents)
    inputs = []
    for tensor in message.inputs:
        contents = tensor.contents.ListFields()
        one = RequestInput(
            name=tensor.name, shape=list(tensor.shape), datatype=tensor.datatype, data=TensorData([])
        )
        if contents:
            values = list(contents[0][1])
        elif message.raw_input_contents:
            values = unpack(one, next(raws))
        else:
            values = []
        parameters = plain(tensor.parameters)
        inputs.append((tensor.name, tensor.datatype, list(tensor.shape), parameters, values))
    outputs = [(output.name, plain(output.parameters)) for output in message.outputs]
    return message.id, plain(message.parameters), inputs, outputs, bool(message.raw_input_contents)


def plain(parameters: Any) -> dict[str, Any]:
    values = {}
    for key, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        values[key] = choice and getattr(parameter, choice)
    return dict(sorted(values.items()))  # maps have no order


def actual(body: Any) -> Any:
    request, raw = decode_request(body)
    inputs = [
        (tensor.name, tensor.datatype, tensor.shape, told(tensor.parameters), list(tensor.data))
        for tensor in request.inputs
    ]
    outputs = [(output.name, told(output.parameters)) for output in request.outputs or ()]
    return request.id or "", told(request.parameters), inputs, outputs, raw


def told(parameters: Any) -> dict[str, Any]:
    return dict(sorted(parameters.items())) if parameters is not None else {}


@given(messages(), st.sampled_from([bytes, bytearray, memoryview]))
def test_requests_are_read_as_protobuf_reads_them(message: pb.ModelInferRequest, kind: Any) -> None:
    body = kind(message.SerializeToString())
    assert repr(actual(body)) == repr(expected(message))  # `repr`: NaN is NaN, 1 is not True
    assert read_head(body) == (message.model_name, message.model_version, message.id)


@given(messages(), st.data())
def test_of_mutated_bytes_we_say_what_protobuf_does(
    message: pb.ModelInferRequest, data: st.DataObject
) -> None:
    body = bytearray(message.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(at, min(at + 3, len(body))))
        body[at:end] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"", bytes(body[:at]), bytes(body[at:])])
        )
    agree(bytes(body))


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused_as_protobuf_does(body: bytes) -> None:
    agree(body)


def agree(body: bytes) -> None:
    try:
        message = pb.ModelInferRequest.FromString(body)
    except DecodeError:
        with pytest.raises(InvalidRequest):
            decode_request(body)
        with suppress(InvalidRequest):
            read_head(body)
        return
    assert read_head(body) == (message.model_name, message.model_version, message.id)
    try:
        mine = actual(body)
    except (InvalidRequest, CodecError) as exc:
        assert exc.status_code == 400
        return
    assert repr(mine) == repr(expected(message))


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 300), min_size=1, max_size=60))
def test_varints(values: list[int]) -> None:
    array = np.array(values * 2, np.uint64)  # more than are written one by one
    packed = b"".join(protobuf._varint(value) for value in values * 2)
    assert protobuf._pack_varints(array) == packed
    back = protobuf._unpack_varints(np.frombuffer(packed, np.uint8))
    assert back is not None and back.tolist() == values * 2


@given(st.lists(names, unique=True, max_size=3), st.booleans(), st.data())
def test_responses_are_read_by_protobuf(labels: list[str], raw: bool, data: st.DataObject) -> None:
    outputs, values = [], []
    for label in labels:
        datatype = data.draw(st.sampled_from(NUMERIC))
        array = data.draw(arrays(datatype))
        outputs.append(
            ResponseOutput(
                name=label,
                shape=list(array.shape),
                datatype=datatype,
                data=data.draw(
                    st.sampled_from([TensorData.from_array(array), array, array.ravel().tolist()])
                ),
            )
        )
        values.append(array)
    response = InferenceResponse(model_name="m", id="a", outputs=outputs)
    read = pb.ModelInferResponse.FromString(encode_response(response, raw))
    assert [output.name for output in read.outputs] == labels
    assert len(read.raw_output_contents) == (len(labels) if raw else 0)
    for index, (output, array) in enumerate(zip(read.outputs, values, strict=True)):
        assert (output.datatype, list(output.shape)) == (outputs[index].datatype, list(array.shape))
        if raw:
            assert same(np.frombuffer(read.raw_output_contents[index], array.dtype), array.ravel())
        else:
            contents = getattr(output.contents, FIELDS[output.datatype])
            assert same(np.array(contents, array.dtype), array.ravel())


def same(left: Any, right: Any) -> bool:
    return left.dtype == right.dtype and np.array_equal(left, right, equal_nan=left.dtype.kind == "f")


@given(messages(), st.booleans())
def test_requests_are_written_as_they_were_read(message: pb.ModelInferRequest, raw: bool) -> None:
    request, _ = decode_request(message.SerializeToString())
    again, was_raw = decode_request(encode_request(request, "m", None, raw))
    assert was_raw == (raw and bool(request.inputs))
    assert [tensor.shape for tensor in again.inputs] == [tensor.shape for tensor in request.inputs]
    for ours, theirs in zip(again.inputs, request.inputs, strict=True):
        assert ours.name == theirs.name and repr(list(ours.data)) == repr(list(theirs.data))


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=6),
    st.lists(st.sampled_from(NUMERIC), max_size=3),
    st.integers(0, 3),
    st.booleans(),
    st.data(),
)
def test_a_split_response_is_what_its_parts_are(
    rows: list[int], datatypes: list[str], width: int, raw: bool, data: st.DataObject
) -> None:
    total = sum(rows)
    outputs = []
    for index, datatype in enumerate(datatypes):
        most = data.draw(st.sampled_from([1, 100, 127]))
        array = (np.arange(total * width) % (most + 1)).astype(DTYPES[datatype]).reshape(total, width)
        outputs.append(
            ResponseOutput(
                name=f"y{index}", shape=[total, width], datatype=datatype, data=TensorData.from_array(array)
            )
        )
    response = InferenceResponse(model_name="m", model_version="v", outputs=outputs)
    ids = data.draw(st.lists(st.none() | texts, min_size=len(rows), max_size=len(rows)))
    together = encode_split(response, rows, ids, raw)
    assert together == [encode_response(part, raw) for part in split(response, rows, ids)]


def test_nan_is_not_lost_between_two_of_us() -> None:
    tensor = RequestInput(name="x", shape=[2], datatype="FP32", data=[math.nan, math.inf])
    for raw in (True, False):
        request, _ = decode_request(encode_request(InferenceRequest(inputs=[tensor]), "m", raw=raw))
        assert repr(list(request.inputs[0].data)) == "[nan, inf]"
