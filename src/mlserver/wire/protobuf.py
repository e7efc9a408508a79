"""V2 protobuf: `ModelInferRequest` bytes to messages, responses to bytes, at the speed of memory.

A request's top level is walked here, so that tensors stay where they are: arrays and BYTES are views of the
body. What is left are a few dozen bytes that say the same from call to call, but for the id. protobuf reads
them once; then they are looked up. Whatever the walk does not expect it leaves to protobuf as a whole, which
alone decides what is valid.

Responses are written by hand: a header, and behind it the memory of the arrays.
"""

from __future__ import annotations

import copy
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from mlserver.batching.merge import cuts_plainly, fits, split
from mlserver.errors import CodecError, InvalidRequest, InvalidTensor, MLServerError
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.raw import bytes_elements, datatype_name, filling_array, pack_bytes, unpack_array, unpack_bytes
from mlserver.tensor import DATATYPES, DTYPES, TensorData
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)
from mlserver.types.base import set_field
from mlserver.wire.forms import Form

__all__ = [
    "Buffer",
    "Head",
    "decode_request",
    "decode_response",
    "encode_parts",
    "encode_request",
    "encode_response",
    "encode_split",
    "encode_stream_error",
    "encode_stream_item",
    "raw_tensor_offset",
    "read_head",
    "recognise_request",
    "to_parameters",
]

Array = npt.NDArray[Any]
Buffer = bytes | bytearray | memoryview

# Arrays of so many bytes are sent from where they are.
LARGE: Final = 16 * 1024
# Typed contents of so many bytes are read here, without a Python object per element.
_LARGE_CONTENTS: Final = 256
# A message of more fields than this is protobuf's, which walks them quicker.
_MOST_FIELDS: Final = 4096
# What is remembered of requests: how long one may be without its tensors, and how many.
_LONGEST_PLAN: Final = 2 * 1024
_MOST_PLANS: Final = 512
_LARGEST_FORM: Final = 4 * 1024
_UNKNOWN: Final = object()

# A field starts with its number times eight, plus 2 where a length and so many bytes follow.
_NAME, _VERSION, _ID, _TENSOR, _RAW_INPUT = 0x0A, 0x12, 0x1A, 0x2A, 0x3A
_CONTENTS: Final = 0x2A  # of a tensor

# `replace` is several times as quick as building a message by keyword.
_renew: Callable[..., Any] = msgspec.structs.replace


class Head(NamedTuple):
    """Which model a request is for. Empty text stands for what was not sent: the default version, no id."""

    model_name: str
    model_version: str
    id: str


# --- requests in ------------------------------------------------------------------------------------------


def read_head(body: Buffer) -> Head:
    """What a request says before its tensors, which are not looked at.

    Raises InvalidRequest (400) for bytes that are no request, as far as can be told from their outside.
    """
    model_name: Buffer = b""
    model_version: Buffer = b""
    request_id: Buffer = b""
    at, end = 0, len(body)
    try:
        for _ in range(_MOST_FIELDS):
            if at == end:
                break
            tag = body[at]
            size = body[at + 1]
            at += 2
            if size >= 0x80:
                size, at = _read_varint(body, at - 1)
            stop = at + size
            if tag & 0x87 != 2 or stop > end:
                raise _Unexpected
            if tag == _NAME:
                model_name = body[at:stop]
            elif tag == _VERSION:
                model_version = body[at:stop]
            elif tag == _ID:
                request_id = body[at:stop]
            at = stop
        else:
            raise _Unexpected
        return Head(str(model_name, "utf-8"), str(model_version, "utf-8"), str(request_id, "utf-8"))
    except (_Unexpected, IndexError, UnicodeDecodeError):
        message = _parse(pb.ModelInferRequest, body)
        return Head(message.model_name, message.model_version, message.id)


def decode_request(body: Buffer) -> tuple[InferenceRequest, bool]:
    """A V2 inference request, and whether its tensors came raw, so that its answer has to be raw.

    body: bytes (of format `B`) that do not change any more, for arrays and BYTES are views of them. Those
    arrays can be written to if `body` can; of others the `np` codec makes a copy, so that user code may
    always write to what it decodes.

    An id that was not sent is None. BYTES are read when somebody looks at them, and then may raise
    InvalidTensor.

    Raises InvalidRequest for bytes that are no such message, InvalidTensor naming a tensor whose raw bytes
    are not there or do not fill it; both stand for status 400.
    """
    try:
        rest, request_id, raws, contents = _cut(body, _LARGE_CONTENTS)
        if not raws and not contents:
            # Typed: cut out all contents, for they alone differ from call to call.
            rest, request_id, raws, contents = _cut(body, 1)
    except (_Unexpected, IndexError, UnicodeDecodeError):
        message = _parse(pb.ModelInferRequest, body)
        raw_contents = message.raw_input_contents
        raws = [(raw, 0, len(raw)) for raw in raw_contents[: len(message.inputs)]]
        return _fill(_Plan(message), message.id, raws, {}), bool(raw_contents)
    plan = _plans.get(rest)
    if plan is None:
        plan = _Plan(_parse(pb.ModelInferRequest, rest))
        if len(rest) <= _LONGEST_PLAN and all(tensor.data is None for tensor in plan.tensors):
            if len(_plans) >= _MOST_PLANS:
                _plans.clear()
            _plans[rest] = plan
    return _fill(plan, request_id, raws, contents), bool(raws)


def raw_tensor_offset(start: Buffer) -> int:
    """Where in a ModelInferRequest its first raw tensor begins, as far as its first bytes tell; else 0."""
    at, end = 0, len(start)
    try:
        for _ in range(_MOST_FIELDS):
            tag = start[at]
            size, at = _read_varint(start, at + 1)
            if tag == _RAW_INPUT:
                return at
            if tag & 0x87 != 2 or at + size >= end:
                return 0
            at += size
    except (_Unexpected, IndexError):
        pass
    return 0


# Where some bytes are: in what, from where, to where.
_Span = tuple[Buffer, int, int]


class _Unexpected(Exception):
    """Bytes that are better left to protobuf."""


def _cut(body: Buffer, least: int) -> tuple[bytes, str, list[_Span], dict[int, TensorData]]:
    """A request without its id, raw tensors and contents of `least` bytes or more; and these: the contents
    by index of the input that they belong to.
    """
    rest: list[Buffer] = []
    request_id = ""
    raws: list[_Span] = []
    contents: dict[int, TensorData] = {}
    tensors = 0
    begin = at = 0  # `begin`: of what is not in `rest` yet
    end = len(body)
    for _ in range(_MOST_FIELDS):
        if at == end:
            break
        start = at
        tag = body[at]
        if tag & 0x87 != 2:  # not one byte, or no length
            raise _Unexpected
        size = body[at + 1]
        at += 2
        if size >= 0x80:
            size, at = _read_varint(body, at - 1)
        stop = at + size
        if stop > end:
            raise _Unexpected
        if tag == _RAW_INPUT:
            raws.append((body, at, stop))
        elif tag == _ID:
            request_id = str(body[at:stop], "utf-8")
        elif tag == _TENSOR:
            tensors += 1
            if size >= least:
                tensor, data = _cut_contents(body, at, stop, least)
                if data is not None:
                    contents[tensors - 1] = data
                    rest += body[begin:start], _field(b"\x2a", tensor)
                    begin = stop
            at = stop
            continue
        else:
            at = stop
            continue
        if begin < start:
            rest.append(body[begin:start])
        at = begin = stop
    else:
        raise _Unexpected
    if begin < end:
        rest.append(body[begin:end])
    return b"".join(rest), request_id, raws, contents


def _walk(body: Buffer, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a message: the byte that each starts with, and where its content is."""
    for _ in range(_MOST_FIELDS):
        if at == end:
            return
        tag = body[at]
        if tag & 0x87 != 2:
            raise _Unexpected
        size, at = _read_varint(body, at + 1)
        stop = at + size
        if stop > end:
            raise _Unexpected
        yield tag, at, stop
        at = stop
    raise _Unexpected


def _read_varint(body: Buffer, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 28:  # beyond 2 GiB, or longer than it need be
            raise _Unexpected


def _cut_contents(body: Buffer, begin: int, end: int, least: int) -> tuple[bytes, TensorData | None]:
    """An input without its contents, and these; nothing, where they have less than `least` bytes."""
    rest: list[Buffer] = []
    data = None
    at = begin
    for tag, start, stop in _walk(body, begin, end):
        if tag != _CONTENTS:
            rest.append(body[at:stop])
        elif data is not None:
            raise _Unexpected  # two, to be merged
        elif stop - start < least:
            return b"", None
        else:
            data = _read_contents(body, start, stop)
        at = stop
    return b"".join(rest), data


def recognise_request(body: Buffer) -> tuple[RawForm, Buffer, str | None] | None:
    """The form of a small raw request, its tensor and its id; None for one that is to be decoded."""
    if len(body) > _LARGEST_FORM:
        return None
    try:
        rest, request_id, raws, contents = _cut(body, _LARGE_CONTENTS)
    except (_Unexpected, IndexError, UnicodeDecodeError):
        return None
    plan = _plans.get(rest)
    if plan is None or contents or len(raws) != 1:
        return None
    form = plan.form
    if form is _UNKNOWN:
        form = plan.form = _form_of(plan)
    _, at, stop = raws[0]
    if form is None or stop - at != form.n_bytes:
        return None
    return form, body[at:stop], request_id or None


class RawForm(Form):
    """One raw tensor of numbers. n_bytes: of its values."""

    __slots__ = ("dtype", "n_bytes")

    def __init__(self, request: InferenceRequest, key: tuple[Any, ...], tensor: _TensorPlan) -> None:
        super().__init__(request, key)
        self.dtype = tensor.dtype
        self.n_bytes = tensor.n_bytes

    def join(self, parts: Sequence[Buffer]) -> TensorData:
        return TensorData.from_binary(np.frombuffer(b"".join(parts), dtype=self.dtype))


def _form_of(plan: _Plan) -> RawForm | None:
    if len(plan.tensors) != 1:
        return None
    tensor = plan.tensors[0]
    if tensor.dtype is None or tensor.n_bytes < 0 or tensor.data is not None:
        return None
    request = _renew(plan.request, inputs=[tensor.tensor])
    key = fits(request)
    return None if key is None else RawForm(request, key, tensor)


class _Plan:
    """What all requests are that differ in nothing but their ids and their raw tensors.

    form: of those with one small raw tensor; None if they have none that can be known.
    """

    __slots__ = ("form", "request", "tensors")

    def __init__(self, message: pb.ModelInferRequest) -> None:
        outputs = [
            RequestOutput.build(name=output.name, parameters=to_parameters(output.parameters))
            for output in message.outputs
        ]
        self.request: InferenceRequest = InferenceRequest.build(
            inputs=[], parameters=to_parameters(message.parameters), outputs=outputs or None
        )
        self.tensors = [_plan_tensor(RequestInput, tensor) for tensor in message.inputs]
        self.form: Any = _UNKNOWN


class _TensorPlan(NamedTuple):
    tensor: Any  # without data
    dtype: np.dtype[Any] | None  # of numbers that can be used where they are
    n_bytes: int  # that fill the shape
    data: TensorData | None  # contents that came with it


_plans: dict[bytes, _Plan] = {}


def _plan_tensor(cls: type[RequestInput] | type[ResponseOutput], message: Any) -> _TensorPlan:
    name, datatype, shape = message.name, message.datatype, list(message.shape)
    if datatype not in DATATYPES:
        raise InvalidTensor(f"'{name}': '{datatype}' is no datatype")
    dtype = DTYPES.get(datatype)
    if dtype is not None and dtype.kind == "b":  # any byte but 0 is true, which numpy expects to be 1
        dtype = None
    tensor = cls.build(
        name=name, shape=shape, datatype=datatype, parameters=to_parameters(message.parameters), data=None
    )
    n_bytes = -1 if dtype is None or min(shape, default=0) < 0 else math.prod(shape) * dtype.itemsize
    return _TensorPlan(tensor, dtype, n_bytes, _to_data(message.contents))


def _fill(
    plan: _Plan, request_id: str, raws: Sequence[_Span], contents: dict[int, TensorData]
) -> InferenceRequest:
    request, tensors = plan.request, plan.tensors
    if contents:
        tensors = [
            _TensorPlan(tensor, dtype, n_bytes, contents.get(index, data))
            for index, (tensor, dtype, n_bytes, data) in enumerate(tensors)
        ]
    filled: InferenceRequest = _renew(request, id=request_id or None, inputs=_fill_tensors(tensors, raws))
    if filled.parameters is not None:
        set_field(filled, "parameters", copy.copy(filled.parameters))
    if filled.outputs is not None:
        set_field(filled, "outputs", [_renew_output(output) for output in filled.outputs])
    return filled


def _renew_output(output: RequestOutput) -> RequestOutput:
    return _renew(output, parameters=copy.copy(output.parameters))  # type: ignore[no-any-return]


def _fill_tensors(plans: Sequence[_TensorPlan], raws: Sequence[_Span]) -> list[Any]:
    """The tensors, of which each without contents takes the next raw bytes, if there are any at all."""
    tensors = []
    used = 0
    for tensor, dtype, n_bytes, data in plans:
        if data is None:
            if used < len(raws):
                body, start, stop = raws[used]
                used += 1
                shape = tensor.shape
                if dtype is not None and stop - start == n_bytes:
                    try:
                        data = TensorData.from_binary(np.ndarray(shape, dtype, body, start))
                    except ValueError as exc:  # too many dimensions, or too long ones beside one of 0
                        raise InvalidTensor(f"'{tensor.name}': shape {shape} is impossible ({exc})") from exc
                elif tensor.datatype == "BYTES":
                    view = memoryview(body)[start:stop]
                    data = TensorData.when_asked(partial(_read_bytes, view, tensor.name))
                else:
                    data = TensorData.from_binary(unpack_array(tensor, memoryview(body)[start:stop]))
            elif raws:
                raise InvalidTensor(
                    f"'{tensor.name}' has no contents, and the {len(raws)} raw buffers are those of others"
                )
            else:
                data = TensorData([])
        tensor = _renew(tensor, shape=tensor.shape.copy(), data=data)
        if tensor.parameters is not None:
            set_field(tensor, "parameters", copy.copy(tensor.parameters))
        tensors.append(tensor)
    return tensors


def _read_bytes(raw: memoryview, name: str) -> TensorData:
    return TensorData(unpack_bytes(raw, name))


# Fields of InferTensorContents, by the byte that each starts with, and the dtype of its elements.
_FIXED: Final[dict[int, np.dtype[Any]]] = {0x32: np.dtype("<f4"), 0x3A: np.dtype("<f8")}
_VARYING: Final[dict[int, np.dtype[Any]]] = {
    0x0A: np.dtype(np.bool_),
    0x12: np.dtype("<i4"),
    0x1A: np.dtype("<i8"),
    0x22: np.dtype("<u4"),
    0x2A: np.dtype("<u8"),
}


def _to_data(contents: pb.InferTensorContents) -> TensorData | None:
    """The values of the first field that has any, whatever the datatype says."""
    for _, values in contents.ListFields():
        return TensorData(list(values))
    return None


def _read_contents(body: Buffer, begin: int, end: int) -> TensorData | None:
    """The same of contents that are not parsed yet: numbers right into an array."""
    tag = body[begin]
    size, at = _read_varint(body, begin + 1)
    if at + size == end:  # the one field that there is
        if tag in _FIXED and size % _FIXED[tag].itemsize == 0:
            dtype = _FIXED[tag]
            return TensorData.from_binary(np.ndarray((size // dtype.itemsize,), dtype, body, at))
        if tag in _VARYING and size >= _LARGE_CONTENTS:
            values = _unpack_varints(np.ndarray((size,), np.uint8, body, at))
            if values is not None:
                return TensorData.from_binary(values.astype(_VARYING[tag]))
    return _to_data(_parse(pb.InferTensorContents, body[begin:end]))


def _unpack_varints(data: Array) -> Array | None:
    """Integers of seven bits a byte, the least first, each byte but the last with its highest bit set, as
    uint64; None where the last one does not end or one is too long.
    """
    if data[-1] >= 0x80:
        return None
    last = np.flatnonzero(data < 0x80)
    if last.size == data.size:
        return data.astype(np.uint64)
    first = np.empty_like(last)
    first[0] = 0
    np.add(last[:-1], 1, out=first[1:])
    length = last - first
    values = (data[first] & 0x7F).astype(np.uint64)
    for byte in range(1, int(length.max()) + 1):
        if byte > 9:
            return None
        some = np.flatnonzero(length >= byte)
        bits = (data[first[some] + byte] & 0x7F).astype(np.uint64)
        if byte == 9 and bits.max() > 1:
            return None
        values[some] |= bits << np.uint64(7 * byte)
    return values


def _parse(cls: Any, data: Buffer) -> Any:
    try:
        return cls.FromString(bytes(data))
    except (DecodeError, ValueError) as exc:
        raise InvalidRequest(f"body is no {cls.DESCRIPTOR.name}: {exc}", status_code=400) from exc


def to_parameters(message: Any) -> Parameters | None:
    """A map of InferParameter; None where it is empty. What has no value is None; `headers` is left out.

    Raises InvalidRequest (400) for a `content_type` that is no text.
    """
    if not message:
        return None
    values: dict[str, Any] = {}
    for key, parameter in message.items():
        choice = parameter.WhichOneof("parameter_choice")
        values[key] = None if choice is None else getattr(parameter, choice)
    values.pop("headers", None)  # of the transport, which nobody should imitate
    content_type = values.get("content_type")
    if content_type is not None and not isinstance(content_type, str):
        raise InvalidRequest(f"content_type is {content_type!r}, which is no string", status_code=400)
    return Parameters(**values)


# --- responses in: for clients ----------------------------------------------------------------------------


def decode_response(body: Buffer) -> InferenceResponse:
    """A V2 inference response, raw or typed. What was not sent, version or id, is None.

    Raises InvalidRequest and InvalidTensor as `decode_request` does.
    """
    message = _parse(pb.ModelInferResponse, body)
    raws = [(raw, 0, len(raw)) for raw in message.raw_output_contents]
    response: InferenceResponse = InferenceResponse.build(
        model_name=message.model_name,
        model_version=message.model_version or None,
        id=message.id or None,
        parameters=to_parameters(message.parameters),
        outputs=_fill_tensors([_plan_tensor(ResponseOutput, output) for output in message.outputs], raws),
    )
    return response


# --- messages out -----------------------------------------------------------------------------------------


def encode_response(response: InferenceResponse, raw: bool) -> bytes:
    """A response as ModelInferResponse; see `encode_parts`."""
    parts = encode_parts(response, raw)
    return parts[0] if len(parts) == 1 and type(parts[0]) is bytes else b"".join(parts)


def encode_parts(response: InferenceResponse, raw: bool) -> list[Buffer]:
    """A response as ModelInferResponse in pieces, to be sent one behind the other: large arrays are views of
    their memory and not copied.

    raw: all outputs in `raw_output_contents`, as answer to a raw request; else in the typed contents that
    belong to their datatype, FP16 in `fp32_contents`.

    Parameters that are lists, dicts or None are left out, and so are `headers`.
    Raises MLServerError (500) naming an output whose values do not fit its datatype, or its shape where raw.
    """
    parts: list[Buffer] = [_start(response)]
    tails: list[Buffer] = []
    for output in response.outputs:
        try:
            _write_tensor(output, raw, b"\x32", parts, tails)
        except CodecError as exc:
            raise _fault_of(output, exc) from exc
    return _join_small(parts + tails)


def encode_request(
    request: InferenceRequest, model_name: str, model_version: str | None = None, raw: bool = False
) -> bytes:
    """A request as ModelInferRequest, for clients. Raises CodecError for values that do not fit."""
    head = _text(b"\x0a", model_name) + _text(b"\x12", model_version)
    parts: list[Buffer] = [head, _text(b"\x1a", request.id), _parameters(b"\x22", request.parameters)]
    tails: list[Buffer] = []
    for tensor in request.inputs:
        _write_tensor(tensor, raw, b"\x3a", parts, tails)
    for output in request.outputs or ():
        wanted = _text(b"\x0a", output.name) + _parameters(b"\x12", output.parameters)
        parts.append(_field(b"\x32", wanted))
    return b"".join(parts + tails)


def encode_split(
    response: InferenceResponse, rows: Sequence[int], ids: Sequence[str | None], raw: bool
) -> list[bytes]:
    """The response to a merged request as one body per member: `rows[i]` rows and id `ids[i]` for the i-th.

    What all bodies have in common is encoded once. Raises what `batching.split` and `encode_parts` raise.
    """
    total = sum(rows)
    cuts: list[_Cut | None] = [None]
    if all(cuts_plainly(output, total) for output in response.outputs):
        cuts = [_to_cut(output, raw) for output in response.outputs]
    if None in cuts:
        return [encode_response(part, raw) for part in split(response, rows, ids)]
    head = _text(b"\x0a", response.model_name) + _text(b"\x12", response.model_version)
    parameters = _parameters(b"\x22", response.parameters)
    written: dict[int, list[bytes]] = {}  # by number of rows: what stands before each tensor's values
    bodies = []
    row = 0
    for count, request_id in zip(rows, ids, strict=True):
        before = written.get(count)
        if before is None:
            before = written[count] = _before_values(cuts, count, raw)  # type: ignore[arg-type]
        parts: list[Buffer] = [head, _text(b"\x1a", request_id), parameters]
        for start, cut in zip(before, cuts, strict=True):
            width = cut.row_bytes  # type: ignore[union-attr]
            parts += start, cut.values[row * width : (row + count) * width]  # type: ignore[union-attr]
        bodies.append(b"".join(parts))
        row += count
    return bodies


def encode_stream_item(parts: Iterable[Buffer]) -> list[Buffer]:
    """The pieces of a ModelInferResponse as those of Triton's ModelStreamInferResponse."""
    parts = list(parts)
    return [b"\x12" + _varint(sum(map(len, parts))), *parts]


def encode_stream_error(text: str, request_id: str = "") -> bytes:
    """An error in a stream of Triton's dialect, which stays open. request_id: what it is the answer to."""
    item = pb.ModelStreamInferResponse(error_message=text)
    if request_id:
        item.infer_response.id = request_id
    return item.SerializeToString()


class _Cut(NamedTuple):
    """An output whose rows all take the same number of bytes."""

    output: ResponseOutput
    tag: bytes  # of the field in `contents`
    values: Buffer
    row_bytes: int


def _to_cut(output: ResponseOutput, raw: bool) -> _Cut | None:
    """None where rows differ in length: integers in typed contents, unless all are small."""
    try:
        array = output.data.to_array(output.datatype)
        tag, values = (b"", _memory(array)) if raw else _pack(array)
    except CodecError as exc:
        raise _fault_of(output, exc) from exc
    width = math.prod(output.shape[1:])
    if array.size and len(values) % array.size:
        return None
    n_bytes = len(values) // array.size if array.size else 0
    if tag in _VARYING_TAGS and n_bytes != 1:
        return None
    return _Cut(output, tag, values, width * n_bytes)


def _before_values(cuts: Sequence[_Cut], count: int, raw: bool) -> list[bytes]:
    starts = []
    for cut in cuts:
        start = _tensor(cut.output, [count, *cut.output.shape[1:]])
        size = count * cut.row_bytes
        starts.append(_field(b"\x2a", start + b"\x2a\x00") if raw else _typed(start, cut.tag, size))
    if raw and cuts:
        # First all outputs, then all values.
        lengths = [b"\x32" + _varint(count * cut.row_bytes) for cut in cuts]
        starts = [b"".join(starts) + lengths[0], *lengths[1:]]
    return starts


def _start(response: InferenceResponse) -> bytes:
    return b"".join(
        (
            _text(b"\x0a", response.model_name),
            _text(b"\x12", response.model_version),
            _text(b"\x1a", response.id),
            _parameters(b"\x22", response.parameters),
        )
    )


def _write_tensor(
    tensor: RequestInput | ResponseOutput, raw: bool, raw_tag: bytes, parts: list[Buffer], tails: list[Buffer]
) -> None:
    """Add a tensor to `parts`; raw values, which follow behind all tensors, to `tails`."""
    start = _tensor(tensor, tensor.shape)
    datatype = datatype_name(tensor.datatype)
    if datatype not in DTYPES and datatype != "BYTES":
        raise CodecError(f"'{datatype}' is no datatype")
    data = tensor.data if isinstance(tensor.data, TensorData) else TensorData(tensor.data)
    values: Buffer
    if raw:
        values = pack_bytes(data.root) if datatype == "BYTES" else _memory(filling_array(tensor))
        parts.append(_field(b"\x2a", start + b"\x2a\x00"))
        tails += raw_tag + _varint(len(values)), values
    elif datatype == "BYTES":
        values = b"".join([_field(b"\x42", element) for element in bytes_elements(data.root)])
        parts += _typed(start, b"", len(values)), values
    else:
        tag, values = _pack(data.to_array(datatype))
        parts += _typed(start, tag, len(values)), values


def _tensor(tensor: RequestInput | ResponseOutput, shape: Sequence[int]) -> bytes:
    """A tensor up to its contents."""
    name, datatype, parameters = tensor.name, datatype_name(tensor.datatype), tensor.parameters
    if len(name) <= _LONGEST_NAME:
        if parameters is None:
            return _tensor_of_type(name, datatype, tuple(shape), None)
        if not parameters.model_extra:
            return _tensor_of_type(name, datatype, tuple(shape), parameters.content_type)
    return _write_start(name, datatype, shape, parameters)


# Outputs say the same from call to call; clients may choose the names of what is echoed, but not fill memory.
_LONGEST_NAME: Final = 256


@lru_cache(maxsize=512)
def _tensor_of_type(name: str, datatype: str, shape: Sequence[int], content_type: str | None) -> bytes:
    parameters = None if content_type is None else Parameters.of_content_type(content_type)
    return _write_start(name, datatype, shape, parameters)


def _write_start(name: str, datatype: str, shape: Sequence[int], parameters: Parameters | None) -> bytes:
    dimensions = b"".join([_varint(int(dimension) & _64_BITS) for dimension in shape])
    return b"".join(
        (
            _text(b"\x0a", name),
            _text(b"\x12", datatype),
            _field(b"\x1a", dimensions) if dimensions else b"",
            _parameters(b"\x22", parameters),
        )
    )


def _typed(start: bytes, tag: bytes, size: int) -> bytes:
    """A whole tensor but for its values, `size` bytes that come behind it."""
    # BYTES bring their own tags, and nothing needs none.
    contents = tag + _varint(size) if tag and size else b""
    start += b"\x2a" + _varint(len(contents) + size) + contents
    return b"\x2a" + _varint(len(start) + size) + start


_VARYING_TAGS: Final = frozenset((b"\x12", b"\x1a", b"\x22", b"\x2a"))
_64_BITS: Final = 2**64 - 1
# Fewer integers than these are quicker one by one.
_FEW: Final = 24


def _pack(array: Array) -> tuple[bytes, Buffer]:
    """The field of InferTensorContents for an array, as the byte that it starts with, and its content."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "f":
        if size == 2:
            array = array.astype("<f4")
        return (b"\x3a" if size == 8 else b"\x32"), _memory(array)
    if kind == "b":
        return b"\x0a", array.tobytes()
    if kind == "i":
        return (b"\x1a" if size == 8 else b"\x12"), _pack_varints(array)
    return (b"\x2a" if size == 8 else b"\x22"), _pack_varints(array)


def _pack_varints(array: Array) -> bytes:
    """Integers of seven bits a byte; negative ones as 64 bits. See `_unpack_varints`."""
    if array.size <= _FEW:
        return b"".join([_varint(value & _64_BITS) for value in array.ravel().tolist()])
    values = array.ravel()
    values = values.astype(np.int64).view(np.uint64) if array.dtype.kind == "i" else values.astype(np.uint64)
    most = int(values.max())
    if most < 0x80:
        return values.astype(np.uint8).tobytes()
    longest = (most.bit_length() + 6) // 7
    length = np.ones(values.size, np.int64)
    for byte in range(1, longest):
        length += values >= np.uint64(1 << (7 * byte))
    end = np.cumsum(length)
    first = end - length
    packed = np.empty(int(end[-1]), np.uint8)
    for byte in range(longest):
        some = np.flatnonzero(length > byte)
        bits = (values[some] >> np.uint64(7 * byte)).astype(np.uint8) & 0x7F
        packed[first[some] + byte] = bits | ((length[some] > byte + 1).astype(np.uint8) << 7)
    return packed.tobytes()


def _memory(array: Array) -> Buffer:
    """The bytes of an array, row-major; of a large one, where they are."""
    if array.nbytes < LARGE:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _join_small(parts: Sequence[Buffer]) -> list[Buffer]:
    joined: list[Buffer] = []
    small: list[Buffer] = []
    for part in parts:
        if len(part) < LARGE:
            small.append(part)
            continue
        joined += b"".join(small), part
        small.clear()
    if small:
        joined.append(b"".join(small))
    return joined


def _parameters(tag: bytes, parameters: Parameters | None) -> bytes:
    """A map of InferParameter."""
    if parameters is None:
        return b""
    entries = []
    for key, value in parameters.items():
        choice = _parameter(key, value)
        if choice is not None and key != "headers":
            entry = _field(b"\x0a", str(key).encode()) + _field(b"\x12", choice)
            entries.append(_field(tag, entry))
    return b"".join(entries)


def _parameter(key: str, value: Any) -> bytes | None:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return _field(b"\x1a", value.encode())
    if isinstance(value, bool):
        return b"\x08\x01" if value else b"\x08\x00"
    if isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return b"\x10" + _varint(value & _64_BITS)
        if 0 < value <= _64_BITS:
            return b"\x28" + _varint(value)
        raise MLServerError(f"parameter '{key}' is {value}, which is beyond 64 bits", 500)
    if isinstance(value, float):
        return b"\x21" + _DOUBLE.pack(value)
    return None


_DOUBLE = struct.Struct("<d")
_ONE_BYTE: Final = [bytes((value,)) for value in range(0x80)]


def _text(tag: bytes, text: str | None) -> bytes:
    """A field of text, which is left out where there is none."""
    return _field(tag, text.encode()) if text else b""


def _field(tag: bytes, content: Buffer) -> bytes:
    return b"".join((tag, _varint(len(content)), content))


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _ONE_BYTE[value]
    packed = bytearray()
    while value >= 0x80:
        packed.append(value & 0x7F | 0x80)
        value >>= 7
    packed.append(value)
    return bytes(packed)


def _fault_of(output: ResponseOutput, exc: CodecError) -> MLServerError:
    # The model's, not the caller's.
    return MLServerError(f"output '{output.name}': {exc.reason}", 500)
