"""V2 JSON: request bodies to messages, responses to bodies.

Three ways in, chosen by size and by need. msgspec reads small bodies straight into messages and leaves
`data` as a slice. simdjson reads large ones once, numbers going straight into arrays. Whatever the first
two refuse goes the slow way, which coerces as the protocol's lax readers do, or says in detail what is
wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np
import orjson
import simdjson

from mlserver.batching.merge import cuts_plainly, split
from mlserver.errors import InvalidRequest
from mlserver.tensor import DTYPES, TensorData, has_lists, json_parser, numbers_of
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput
from mlserver.types.base import (
    ENOUGH_FAULTS,
    BaseModel,
    ValidationFault,
    set_field,
    to_error_details,
    validate,
)

__all__ = ["decode_request", "decode_response", "encode", "encode_error", "encode_response", "encode_split"]

# No message of the protocol has more, unless it has others' beside its own.
_MOST_FIELDS = 32

# From here on one simdjson pass beats msgspec's skip over the tensor plus a second parse of it.
LARGE_BODY = 16 * 1024
# Below so many bytes a tensor, on average, it does not: many columns of few rows.
LARGE_TENSOR = 4 * 1024


def _decode_custom(cls: type, value: Any) -> Any:
    return cls(**value) if isinstance(value, dict) else cls.model_validate(value)  # type: ignore[attr-defined]


def _encode_custom(value: Any) -> Any:
    if isinstance(value, TensorData):
        text = value.to_json()
        return text if isinstance(text, msgspec.Raw) else msgspec.Raw(text)
    if isinstance(value, Parameters):
        return {key: item for key, item in value.items() if item is not None}
    # `data` that was assigned as a bare array, bytes inside parameters and the like.
    return msgspec.Raw(TensorData(value).to_json())


_decode = msgspec.json.Decoder(InferenceRequest, dec_hook=_decode_custom).decode
_decode_response = msgspec.json.Decoder(InferenceResponse, dec_hook=_decode_custom).decode
_encode = msgspec.json.Encoder(enc_hook=_encode_custom).encode


def decode_request(body: bytes | bytearray) -> InferenceRequest:
    """A V2 inference request. Tensor data stays as it came until somebody looks at it.

    Raises InvalidRequest, with details that name each fault and where it is.
    """
    if len(body) >= LARGE_BODY:
        request = _decode_large(body)
        if request is not None:
            return request
    try:
        if not body.isascii():
            body.decode()  # msgspec does not look inside the strings that it skips
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _decode_slowly(body)


def decode_response(body: bytes) -> InferenceResponse:
    """What `encode_response` wrote. Raises msgspec.MsgspecError for anything else."""
    return _decode_response(body)


def encode_response(response: InferenceResponse) -> bytes:
    """A response as compact JSON; fields that are None are left out, `parameters` never is.

    Raises CodecError for data that JSON cannot hold.
    """
    for output in response.outputs:
        if type(output.data) is not TensorData:
            # Assigned as a bare list: msgspec would write bytes in it as base64.
            set_field(output, "data", TensorData(output.data))
    return _encode(response)


def encode_split(response: InferenceResponse, rows: Sequence[int], ids: Sequence[str]) -> list[bytes]:
    """The response to a merged request as one body per member: `rows[i]` rows and id `ids[i]` for the i-th.

    What all bodies have in common is encoded once. Raises what `batching.split` and `encode_response` raise.
    """
    total = sum(rows)
    if not response.outputs or not all(cuts_plainly(output, total) for output in response.outputs):
        return [encode_response(part) for part in split(response, rows, ids)]
    head = b'{"model_name":%b,' % _encode(response.model_name)
    if response.model_version is not None:
        head += b'"model_version":%b,' % _encode(response.model_version)
    head += b'"id":'
    lead = b',"parameters":%b,"outputs":[' % _encode(response.parameters or {})
    outputs = []
    for output in response.outputs:
        outputs.append(_encoded_parts(output, lead))
        lead = b"},"
    frames: dict[int, list[bytes]] = {}  # by number of rows: what stands before the values of each output
    bodies = []
    row = 0
    for count, request_id in zip(rows, ids, strict=True):
        frame = frames.get(count)
        if frame is None:
            frame = frames[count] = [b"%b%d%b" % (before, count, behind) for before, behind, _, _ in outputs]
        parts = [head, orjson.dumps(request_id)]
        for before, (_, _, values, width) in zip(frame, outputs, strict=True):
            parts += (before, orjson.dumps(values[row * width : (row + count) * width]))
        parts.append(b"}]}")
        bodies.append(b"".join(parts))
        row += count
    return bodies


def _encoded_parts(output: ResponseOutput, lead: bytes) -> tuple[bytes, bytes, list[Any], int]:
    """What stands before and after the number of rows, all values, and how many of them make a row.

    lead: what stands before the output.
    """
    array = output.data.array
    if array.dtype.kind == "f":
        array = array.astype(np.float64, copy=False)
    trailing = b"".join(b",%d" % dim for dim in output.shape[1:])
    parameters = b"" if output.parameters is None else b',"parameters":%b' % _encode(output.parameters)
    return (
        b'%b{"name":%b,"shape":[' % (lead, _encode(output.name)),
        b'%b],"datatype":"%b"%b,"data":' % (trailing, output.datatype.encode(), parameters),
        array.ravel().tolist(),
        math.prod(output.shape[1:]),
    )


def encode(value: Any) -> bytes:
    """Any message, or plain value made of them, as compact JSON."""
    return _encode(value)


def encode_error(text: str, details: list[dict[str, Any]] | None = None) -> bytes:
    """The one shape that errors have."""
    body: dict[str, Any] = {"error": text}
    if details is not None:
        body["detail"] = details
    return _encode(body)


def _decode_large(body: bytes | bytearray) -> InferenceRequest | None:
    """The same message by way of simdjson, or None where msgspec had better judge."""
    if body.startswith(b"\xef\xbb\xbf"):
        return None  # no JSON, though simdjson would pass over it
    try:
        document = json_parser().parse(body)
        request = _fields(document, "inputs")
        if request is None:
            return None
        inputs = request["inputs"]
        if not isinstance(inputs, simdjson.Array) or len(body) < LARGE_TENSOR * len(inputs):
            return None
        tensors = []
        lists = 1 + isinstance(request.get("outputs"), list)  # in this text, as far as they were seen
        arrays = 0
        for index, item in enumerate(inputs):
            tensor = _fields(item, "data")
            if tensor is None:
                return None
            values = tensor["data"]
            lists += isinstance(tensor.get("shape"), list)
            dtype = DTYPES.get(tensor.get("datatype"))  # type: ignore[arg-type]
            array = numbers_of(values, dtype) if dtype is not None and dtype.kind != "b" else None
            if array is None:
                tensor["data"] = TensorData(_plain(values))
                lists += isinstance(values, simdjson.Array)
            else:
                tensor["data"] = TensorData.from_array(array, partial(_reread, body, index))
                lists += 1 if array.ndim == 1 else 1 + len(array)
                arrays += 1
            tensors.append(tensor)
        if arrays and not has_lists(body, lists):
            return None  # maybe lists among the numbers, which `numbers_of` does not notice
        request["inputs"] = tensors
        return InferenceRequest.model_validate(request)
    except (ValueError, TypeError, KeyError, RuntimeError, RecursionError):
        return None


def _fields(message: Any, unread: str) -> dict[str, Any] | None:
    """What an object holds, as plain values but for one; None where msgspec had better judge."""
    # Each look-up walks from the start, and finds the first of equal keys; msgspec takes the last.
    if not isinstance(message, simdjson.Object) or len(message) > _MOST_FIELDS:
        return None
    fields = {key: message[key] if key == unread else _plain(message[key]) for key in message}
    return fields if len(fields) == len(message) else None


def _reread(body: bytes | bytearray, index: int) -> TensorData:
    try:
        request = _decode(body)
    except msgspec.MsgspecError:
        request = _decode_slowly(body)
    data: TensorData = request.inputs[index].data
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    if isinstance(value, simdjson.Array):
        return value.as_list()
    return value


def _decode_slowly(body: bytes | bytearray) -> InferenceRequest:
    if not body.strip():
        raise _invalid([ValidationFault("missing", ("body",), None)])
    try:
        obj = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        text = "nested too deeply" if isinstance(exc, RecursionError) else str(exc)
        text = text.removeprefix("JSON is malformed: ")
        raise InvalidRequest(
            f"body is not valid JSON: {text}",
            [
                {
                    "type": "json_invalid",
                    "loc": ["body", _position(text)],
                    "msg": "JSON decode error",
                    "input": {},
                    "ctx": {"error": text},
                }
            ],
        ) from None
    if obj is None:
        raise _invalid([ValidationFault("missing", ("body",), None)])
    faults: list[ValidationFault] = []
    request = validate(InferenceRequest, obj, ("body",), faults)
    if faults:
        raise _invalid(faults)
    return request  # type: ignore[no-any-return]


def _position(text: str) -> int:
    _, found, tail = text.rpartition("(byte ")
    return int(tail.rstrip(")")) if found and tail.rstrip(")").isdigit() else 0


def _invalid(faults: list[ValidationFault]) -> InvalidRequest:
    """The faults in the words of pydantic, which clients of this protocol know."""
    from pydantic_core import ValidationError

    told: list[Any] = [to_error_details(fault) for fault in faults]
    error = ValidationError.from_exception_data("body", told)
    details = [
        {"type": e["type"], "loc": list(e["loc"]), "msg": e["msg"], "input": _shown(e["input"])}
        for e in error.errors(include_url=False, include_context=False)
    ]
    first = ", ".join(f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in details[:3])
    more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
    if len(faults) >= ENOUGH_FAULTS:
        more = " and many more"
    return InvalidRequest(f"not a V2 inference request: {first}{more}", details)


def _shown(value: Any) -> Any:
    """The faulty value, unless echoing it would make the answer as large as the request."""
    if isinstance(value, (BaseModel, Parameters)):
        value = value.model_dump()
    if isinstance(value, (dict, list)) or (isinstance(value, str) and len(value) > 200):
        text = msgspec.json.encode(value)
        return value if len(text) <= 1000 else f"{text[:200].decode(errors='ignore')}…"
    return value
