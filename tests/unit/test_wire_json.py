"""V2 JSON by its three ways in, and its way out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mlserver.errors import CodecError, InvalidRequest
from mlserver.tensor import TensorData
from mlserver.types import InferenceResponse, Parameters, ResponseOutput
from mlserver.wire.json import LARGE_BODY, decode_request, encode, encode_error, encode_response, encode_split

LARGE = b" " * LARGE_BODY


def tensor(**fields: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [2], "datatype": "INT64", "data": [1, 2], **fields}


def body(*tensors: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"inputs": list(tensors) or [tensor()], **fields}).encode()


def refused(text: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        decode_request(text)
    assert caught.value.status_code == 422
    return caught.value


# Small bodies


def test_a_request_is_read() -> None:
    request = decode_request(
        body(
            tensor(parameters={"content_type": "np", "k": 1}),
            id="a",
            parameters={"headers": {"h": "1"}, "p": [2]},
            outputs=[{"name": "y", "parameters": {"content_type": "str"}}],
            unknown=3,
        )
    )
    assert request.model_dump() == {
        "id": "a",
        "parameters": {"headers": {"h": "1"}, "p": [2]},
        "inputs": [
            {
                "name": "x",
                "shape": [2],
                "datatype": "INT64",
                "parameters": {"content_type": "np", "k": 1},
                "data": [1, 2],
            }
        ],
        "outputs": [{"name": "y", "parameters": {"content_type": "str"}}],
    }
    assert isinstance(request.inputs[0].data, TensorData)


def test_data_is_echoed_as_it_came() -> None:
    text = b'[ 1, 2.0,1e3 , "\\u00e4", null, [true]]'
    request = decode_request(b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":' + text + b"}]}")
    assert bytes(memoryview(request.inputs[0].data.to_json())) == text


@pytest.mark.parametrize("pad", [b"", LARGE])
@pytest.mark.parametrize("name", ["self", "cls", "content_type ", "", "model_extra"])
def test_parameters_may_have_any_name(name: str, pad: bytes) -> None:
    request = decode_request(body(parameters={name: 1}) + pad)
    assert request.parameters.model_dump() == {name: 1}


# Lax reading


@pytest.mark.parametrize("pad", [b"", LARGE])
@pytest.mark.parametrize("shape", [["2", 1.0, True], ["2", "1", 1], [2.0, 1, 1]])
def test_numbers_in_a_shape_are_coerced(shape: list[Any], pad: bytes) -> None:
    request = decode_request(body(tensor(shape=shape)) + pad)
    assert request.inputs[0].shape == [2, 1, 1]
    assert [type(dimension) for dimension in request.inputs[0].shape] == [int] * 3
    assert list(request.inputs[0].data) == [1, 2]


def test_huge_integers_are_integers() -> None:
    request = decode_request(body(tensor(shape=[2**70], data=[2**70])))
    assert request.inputs[0].shape == [2**70]
    assert list(request.inputs[0].data) == [2**70]


@pytest.mark.parametrize("pad", [b"", LARGE])
@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" * 5000])
def test_numbers_beyond_what_python_reads_are_the_callers_fault(number: str, pad: bytes) -> None:
    text = body(tensor(data=["N"])).replace(b'"N"', number.encode()) + pad
    for read in (lambda data: data.root, lambda data: data.to_array("FP64")):
        with pytest.raises(CodecError, match="out of range"):
            read(decode_request(text).inputs[0].data)


# Refusals


@pytest.mark.parametrize("pad", [b"", LARGE])
@pytest.mark.parametrize(
    ("text", "loc", "kind"),
    [
        (body(id=1), ["id"], "string_type"),
        (body(parameters=1), ["parameters"], "model_attributes_type"),
        (body(parameters={"content_type": 1}), ["parameters", "content_type"], "string_type"),
        (body(parameters={"headers": [1]}), ["parameters", "headers"], "dict_type"),
        (b"{}", ["inputs"], "missing"),
        (b'{"inputs": null}', ["inputs"], "list_type"),
        (b'{"inputs": "x"}', ["inputs"], "list_type"),
        (b'{"inputs": [3]}', ["inputs", 0], "model_attributes_type"),
        (b'{"inputs": [{"name": "x", "shape": [1], "data": []}]}', ["inputs", 0, "datatype"], "missing"),
        (
            b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32"}]}',
            ["inputs", 0, "data"],
            "missing",
        ),
        (body(tensor(), tensor(name=None)), ["inputs", 1, "name"], "string_type"),
        (body(tensor(datatype="FP99")), ["inputs", 0, "datatype"], "enum"),
        (body(tensor(datatype=[1])), ["inputs", 0, "datatype"], "enum"),
        (body(tensor(shape=2)), ["inputs", 0, "shape"], "list_type"),
        (body(tensor(shape=[1, 1.5])), ["inputs", 0, "shape", 1], "int_from_float"),
        (body(tensor(shape=["one"])), ["inputs", 0, "shape", 0], "int_parsing"),
        (body(tensor(shape=[None])), ["inputs", 0, "shape", 0], "int_type"),
        (body(outputs=[{}]), ["outputs", 0, "name"], "missing"),
        (b"[]", [], "model_attributes_type"),
        (b"3", [], "model_attributes_type"),
        (b"null", [], "missing"),
        (b"", [], "missing"),
        (b" \n", [], "missing"),
    ],
)
def test_each_fault_has_a_place_and_a_kind(text: bytes, loc: list[Any], kind: str, pad: bytes) -> None:
    error = refused(text + pad)
    (fault,) = error.details
    assert (fault["loc"], fault["type"]) == (["body", *loc], kind)
    assert fault["msg"] in str(error) and fault.keys() == {"type", "loc", "msg", "input"}
    assert json.loads(encode_error(str(error), error.details))["detail"] == error.details


@pytest.mark.parametrize("pad", [b"", LARGE])
@pytest.mark.parametrize(
    ("text", "position"),
    [
        (b'{"inputs": [}', 12),
        (b'{"inputs": []} x', None),
        (b'{"inputs": [], }', 15),
        (body(tensor(data=["N"])).replace(b'"N"', b"NaN"), None),
        (b'{"inputs": [', None),
        (b'\xef\xbb\xbf{"inputs": []}', 0),
    ],
)
def test_what_is_no_json_says_where(text: bytes, position: int | None, pad: bytes) -> None:
    error = refused(text + pad)
    (fault,) = error.details
    assert (fault["type"], fault["loc"][0]) == ("json_invalid", "body")
    assert fault["loc"][1] == (fault["loc"][1] if position is None else position)
    assert str(error).startswith("body is not valid JSON: ")


@pytest.mark.parametrize("pad", [b"", LARGE])
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf"])
@pytest.mark.parametrize("where", ["name", "data", "id"])
def test_text_that_is_not_utf_8_is_refused_wherever_it_is(where: str, bad: bytes, pad: bytes) -> None:
    fields: Any = {"id": "BAD"} if where == "id" else {}
    one = tensor(**({"name": "BAD"} if where == "name" else {"datatype": "BYTES", "data": ["BAD"]}))
    text = body(one, **fields).replace(b"BAD", bad) + pad
    assert refused(text).details[0]["type"] == "json_invalid"


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"inputs":' + b"[" * 100_000,
        b'{"a":' * 100_000,
        body(tensor(data=["N"])).replace(b'"N"', b"[" * 100_000 + b"]" * 100_000),
        b'{"inputs": [], "parameters": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    ],
)
def test_deep_nesting_is_refused(text: bytes) -> None:
    assert "nested too deeply" in str(refused(text))


def test_all_faults_are_told_at_once() -> None:
    error = refused(body(tensor(name=1, shape=[None], datatype="X"), id=2))
    assert len(error.details) == 4
    assert str(error).endswith(" and 1 more")


@pytest.mark.parametrize(
    "text",
    [
        body(tensor(name=["a" * 1_000_000])),
        body(tensor(datatype="x" * 1_000_000)),
        body(id={"a" * 1_000_000: 1}),
        body(tensor(shape=["a"] * 300_000)),
        b'{"inputs": [' + b"{}," * 100_000 + b"{}]}",
    ],
)
def test_an_error_is_small_however_large_the_request(text: bytes) -> None:
    error = refused(text)
    assert len(encode_error(str(error), error.details)) < 50_000


def test_the_message_counts_faults_that_it_does_not_show() -> None:
    assert str(refused(body(tensor(shape=["a"] * 10)))).endswith(" and 7 more")
    assert str(refused(body(tensor(shape=["a"] * 1_000)))).endswith(" and many more")


# Large bodies are read as small ones are


def _content(text: bytes) -> Any:
    request = decode_request(text)
    arrays = []
    for one in request.inputs:
        try:
            arrays.append(None if one.datatype == "BYTES" else one.data.to_array(one.datatype).tolist())
        except CodecError as exc:
            arrays.append(str(exc))
    echoes = [json.loads(bytes(memoryview(one.data.to_json()))) for one in request.inputs]
    return repr((request.model_dump(), arrays, echoes))  # `repr`: 1 is not 1.0 is not true


@pytest.mark.parametrize(
    "fields",
    [
        {"datatype": "BYTES", "data": ["a", "ä", "", "\u0000", '["']},
        {"datatype": "BYTES", "data": [["a"], ["b"]]},
        {"datatype": "BYTES", "data": "ab"},
        {"datatype": "BYTES", "data": ["a", 1, None, True, {"k": [1]}, ["b"]]},
        {"datatype": "BOOL", "data": [True, False, 1, 0, None]},
        {"datatype": "BOOL", "data": [[True], [False]]},
        {"datatype": "FP32", "data": [1, 2]},
        {"datatype": "FP32", "data": [1, 2.5, -0.0, 1e30, 1e39, 0.1]},
        {"datatype": "FP64", "data": [[1, 2.5], [3, 4]]},
        {"datatype": "FP64", "data": [1.0, None]},
        {"datatype": "FP64", "data": ["1", "2"]},
        {"datatype": "FP64", "data": [2**63, 2**64, 2**70]},
        {"datatype": "FP16", "data": [1, 70000.0]},
        {"datatype": "INT64", "data": [[1, 2], [3, 4]]},
        {"datatype": "INT64", "data": [[[1], [2]], [[3], [4]]]},
        {"datatype": "INT64", "data": [2**63 - 1, -(2**63)]},
        {"datatype": "INT64", "data": [1.0, 2.7, "3"]},
        {"datatype": "INT64", "data": [True, False]},
        {"datatype": "INT8", "data": [1, 300]},
        {"datatype": "UINT8", "data": [1, -1]},
        {"datatype": "UINT64", "data": [2**64 - 1]},
        {"datatype": "INT32", "data": [1, None]},
        {"datatype": "INT32", "data": [1, [2]]},
        {"datatype": "INT32", "data": [1, [], [2, 3]]},
        {"datatype": "INT32", "data": [[1], [2, 3]]},
        {"datatype": "FP32", "data": [[1, [2]], [3, 4]]},
        {"datatype": "INT32", "data": []},
        {"datatype": "INT32", "data": [[], []]},
        {"datatype": "INT32", "data": 3},
        {"datatype": "FP32", "data": None},
        {"datatype": "FP32", "data": {"a": 1}},
        {"name": "[", "data": [1, 2], "parameters": {"k": [1, [2]]}},
        {"name": "x", "unknown": [1]},
    ],
)
def test_a_large_body_says_what_a_small_one_does(fields: dict[str, Any]) -> None:
    for text in (body(tensor(**fields)), body(tensor(), tensor(**fields), id="a", outputs=[{"name": "y"}])):
        assert _content(text + LARGE) == _content(text)


@pytest.mark.parametrize(
    ("once", "again"),
    [
        (b'"id":"b"', b'"id":"a","id":"b"'),
        (b'"name":"q"', b'"name":"p","name":"q"'),
        (b'"data":[2]', b'"data":[1],"data":[2]'),
    ],
)
def test_of_equal_keys_the_last_counts_in_large_bodies_too(once: bytes, again: bytes) -> None:
    text = b'{"id":"b","inputs":[{"name":"q","shape":[1],"datatype":"FP32","data":[2]}]}'
    repeated = text.replace(once, again)
    assert repeated != text
    assert _content(repeated + LARGE) == _content(repeated) == _content(text)


def test_large_numbers_become_an_array_and_are_echoed_as_they_came() -> None:
    values: list[Any] = [0.5, 1, 2, 3.25] * 5_000
    data = decode_request(body(tensor(datatype="FP32", shape=[20_000], data=values))).inputs[0].data
    array = data.array
    assert array is not None and array.dtype == np.float32
    np.testing.assert_array_equal(array, np.array(values, np.float32))
    assert bytes(memoryview(data.to_json())) == json.dumps(values).encode()
    assert [type(value) for value in data.root[:2]] == [float, int]


def test_many_small_tensors_are_left_until_somebody_looks() -> None:
    request = decode_request(body(*(tensor(name=f"c{i}") for i in range(1_000))))
    assert request.inputs[500].data.array is None
    assert request.inputs[500].data.to_array("INT64").tolist() == [1, 2]


# The way out


def response(data: Any, datatype: str = "FP32", **fields: Any) -> InferenceResponse:
    output = ResponseOutput(name="y", shape=[2], datatype=datatype, data=data)
    return InferenceResponse(model_name="m", outputs=[output], **fields)


def test_what_is_none_is_left_out_and_empty_parameters_stay() -> None:
    told = encode_response(response([1.0, None], parameters={"a": None, "b": 1}))
    assert told == (
        b'{"model_name":"m","parameters":{"b":1},"outputs":'
        b'[{"name":"y","shape":[2],"datatype":"FP32","data":[1.0,null]}]}'
    )
    empty = InferenceResponse(model_name="m", id="a", parameters=Parameters(), outputs=[])
    assert encode_response(empty) == b'{"model_name":"m","id":"a","parameters":{},"outputs":[]}'


@pytest.mark.parametrize("data", [[1.0, float("nan")], np.array([1, np.nan], np.float32)])
def test_nan_is_null(data: Any) -> None:
    for value in (data, TensorData.from_array(np.array(data))):
        assert json.loads(encode_response(response(value)))["outputs"][0]["data"] == [1.0, None]


def test_bytes_are_text_where_they_are_utf_8() -> None:
    assert json.loads(encode_response(response(["ä".encode(), "b"], "BYTES")))["outputs"][0]["data"] == [
        "ä",
        "b",
    ]
    with pytest.raises(CodecError, match="base64"):
        encode_response(response([b"\xff", b"b"], "BYTES"))


@pytest.mark.parametrize("data", [[object()], [{1, 2}]])
def test_what_json_cannot_hold_is_an_error_that_says_so(data: Any) -> None:
    with pytest.raises(CodecError, match="JSON"):
        encode_response(response(data))


def test_a_split_response_has_each_members_id_and_rows() -> None:
    parts = encode_split(response(TensorData.from_array(np.array([1.5, np.nan]))), [1, 1], ["a", "b"])
    assert [json.loads(part) for part in parts] == [
        {
            "model_name": "m",
            "id": "ab"[row],
            "parameters": {},
            "outputs": [{"name": "y", "shape": [1], "datatype": "FP32", "data": [[1.5], [None]][row]}],
        }
        for row in range(2)
    ]


def test_errors_and_plain_values() -> None:
    assert encode_error('say "no"') == b'{"error":"say \\"no\\""}'
    assert encode_error("no", []) == b'{"error":"no","detail":[]}'
    assert encode([Parameters(a=1, b=None), np.array([1, 2])]) == b'[{"a":1},[1,2]]'
