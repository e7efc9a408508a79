"""Bytes that may or may not be a ModelInferRequest.

Whatever the bytes are: protobuf and we agree whether they are a message and what it says, however
it is asked; tensors are decoded or refused with a 400; what is echoed is a ModelInferResponse, or an error
that names the output. Nothing else is raised, no input takes long, and memory does not grow.

    python -m tests.fuzz.fuzz_protobuf --runs 1000000
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from mlserver.codecs import NumpyCodec
from mlserver.errors import InvalidRequest, MLServerError
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.tensor import DATATYPES, DTYPES
from mlserver.types import InferenceResponse, ResponseOutput
from mlserver.wire.protobuf import decode_request, encode_response, read_head
from tests.fuzz.mutate import Found, Mutator, Summary, command_line, resident_mib

# Fields by number and kind, lengths, numbers at their limits, groups, fields that nobody knows.
TOKENS = (
    b"\x0a", b"\x12", b"\x1a", b"\x22", b"\x2a", b"\x32", b"\x3a", b"\x42", b"\x00", b"\x01", b"\x02",
    b"\x04", b"\x7f", b"\x80", b"\x80\x01", b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\x80" * 10 + b"\x01",
    b"\x80\x00",
    b"\x0a\x01x", b"\x12\x04FP32", b"\x12\x05BYTES", b"\x12\x04BOOL", b"\x12\x05INT64", b"\x12\x04FP16",
    b"\x1a\x01\x02", b"\x1a\x00", b"\x18\x02", b"\x1a\x0a" + b"\xff" * 9 + b"\x01", b"\x2a\x00", b"\x3a\x00",
    b"\x3a\x08" + bytes(8), b"\x32\x08" + bytes(8), b"\x3a\x05\x01\0\0\0a", b"\x2a\x0a\x32\x08" + bytes(8),
    b"\x78\x01", b"\x7a\x01a", b"\x13", b"\x14", b"\x0b\x0c", b"\xfa\x01\x01a", b"\xc3\x28", b"\xed\xa0\x80",
    b"\x22\x06\x0a\x01a\x12\x01\x08", b"\x22\x09\x0a\x07headers", bytes(300), b"\xff" * 300,
)  # fmt: skip
# Seconds of computing that one input may take.
_PATIENCE = 5.0

_CONTENTS: dict[str, dict[str, Any]] = {
    "BOOL": {"bool_contents": [True, False]},
    "INT32": {"int_contents": [-1, 300]},
    "INT64": {"int64_contents": [-1, 2**60]},
    "UINT8": {"uint_contents": [1, 255]},
    "UINT64": {"uint64_contents": [1, 2**64 - 1]},
    "FP32": {"fp32_contents": [0.5, math.nan]},
    "FP64": {"fp64_contents": [0.5, math.inf]},
    "BYTES": {"bytes_contents": [b"", b"ab"]},
}


def make_seeds() -> list[bytes]:
    """Raw and typed requests of every datatype, small ones and some that are not."""
    messages = []
    for datatype in DATATYPES:
        raw = b"\x01\0\0\0a\0\0\0\0" if datatype == "BYTES" else np.ones(2, DTYPES[datatype]).tobytes()
        tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=[2])
        tensor.parameters["content_type"].string_param = "np"
        messages.append(
            pb.ModelInferRequest(model_name="m", id="1", inputs=[tensor], raw_input_contents=[raw])
        )
    for repeat in (1, 100):
        for datatype, contents in _CONTENTS.items():
            many = {field: values * repeat for field, values in contents.items()}
            typed = {"name": "x", "datatype": datatype, "shape": [2 * repeat], "contents": many}
            messages.append(pb.ModelInferRequest(model_name="m", model_version="v", inputs=[typed, typed]))
    mixed = pb.ModelInferRequest(
        inputs=[typed, {"name": "y", "datatype": "FP32", "shape": [1, 100]}], outputs=[{"name": "y"}]
    )
    mixed.parameters["p"].double_param = 0.5
    mixed.raw_input_contents.append(bytes(400))
    return [message.SerializeToString() for message in [*messages, mixed]]


class Fuzzer:
    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()

    def check(self, data: bytes) -> None:
        """Raises AssertionError, or whatever should not have been raised."""
        started = time.process_time()
        try:
            message = pb.ModelInferRequest.FromString(data)
        except DecodeError:
            self.outcomes["no message"] += 1
            self._refuses(data)
        else:
            assert read_head(data) == (message.model_name, message.model_version, message.id)
            self._reads(data, message)
        assert time.process_time() - started < _PATIENCE, "took too long"

    def _refuses(self, data: bytes) -> None:
        try:
            decode_request(data)
        except InvalidRequest as exc:
            assert exc.status_code == 400
        else:
            raise AssertionError("decoded what protobuf refuses")

    def _reads(self, data: bytes, message: pb.ModelInferRequest) -> None:
        try:
            request, raw = decode_request(bytearray(data))
            again, _ = decode_request(data)
        except MLServerError as exc:
            assert exc.status_code == 400, repr(exc)
            self.outcomes["refused"] += 1
            return
        assert raw == bool(message.raw_input_contents)
        assert (request.id or "") == message.id
        told = [(tensor.name, tensor.datatype, tensor.shape) for tensor in request.inputs]
        assert told == [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in message.inputs]
        for tensor, other, theirs in zip(request.inputs, again.inputs, message.inputs, strict=True):
            try:
                values = list(tensor.data)
            except MLServerError as exc:
                assert exc.status_code == 400 and tensor.datatype == "BYTES", repr(exc)
                self.outcomes["tensors refused"] += 1
                continue
            assert repr(values) == repr(list(other.data))
            for _, contents in theirs.contents.ListFields():
                assert repr(values) == repr(list(contents))
                break
            try:
                NumpyCodec.decode_input(other)
            except MLServerError as exc:
                assert exc.status_code == 400, repr(exc)
            self._echo(tensor, raw)

    def _echo(self, tensor: Any, raw: bool) -> None:
        output = ResponseOutput.build(
            name=tensor.name,
            shape=tensor.shape,
            datatype=tensor.datatype,
            parameters=tensor.parameters,
            data=tensor.data,
        )
        try:
            answer = encode_response(InferenceResponse.build(model_name="m", outputs=[output]), raw)
        except MLServerError as exc:
            assert exc.status_code == 500, repr(exc)
            self.outcomes["not echoed"] += 1
            return
        (echoed,) = pb.ModelInferResponse.FromString(answer).outputs
        assert (echoed.name, echoed.datatype, list(echoed.shape)) == (
            tensor.name,
            tensor.datatype,
            tensor.shape,
        )
        self.outcomes["echoed"] += 1


def run(runs: int, seed: int, report_every: float = math.inf) -> Summary:
    fuzzer = Fuzzer()
    bodies = iter(Mutator(random.Random(seed), make_seeds(), TOKENS, joins=True))
    started = reported = time.monotonic()
    before = 0.0
    for number in range(runs):
        data = next(bodies)
        try:
            fuzzer.check(data)
        except Exception as exc:
            raise Found(data, seed, number, exc) from exc
        if number == runs // 10:
            before = resident_mib()
        now = time.monotonic()
        if now - reported > report_every:
            reported = now
            print(f"{number:,} {now - started:.0f} s {resident_mib():.1f} MiB", flush=True)
    return Summary(runs, time.monotonic() - started, dict(fuzzer.outcomes), before, resident_mib())


if __name__ == "__main__":
    command_line(run)
