"""The messages of gRPC, each beside the floor that nothing could beat.

    make bench-micro

Rows of one group belong together: compare the medians of `ours` with those of protobuf's own classes and of
the floor, which copies the bytes once into warm memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlserver.batching import merge
from mlserver.codecs import NumpyCodec
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.wire.protobuf import (
    decode_request,
    encode_parts,
    encode_response,
    encode_split,
    read_head,
)

SIZES = [4, 150_528, 1_048_576]  # 16 bytes, 602 KB, 4 MB
BATCHES = [32, 128]


def body_of(n: int, raw: bool = True, field: str = "fp32_contents", datatype: str = "FP32") -> bytes:
    tensor: dict[str, Any] = {"name": "x", "shape": [1, n], "datatype": datatype}
    values = np.random.default_rng(0).integers(0, 1000, n)
    if not raw:
        tensor["contents"] = {field: values.tolist()}
    raws = [values.astype("<f4").tobytes()] if raw else []
    return pb.ModelInferRequest(
        model_name="iris", id="abcdef", inputs=[tensor], raw_input_contents=raws
    ).SerializeToString()


def response_of(array: np.ndarray[Any, Any]) -> InferenceResponse:
    return InferenceResponse(model_name="m", id="a", outputs=[NumpyCodec.encode_output("y", array)])


@pytest.mark.parametrize("n", SIZES)
class TestDecodeRaw:
    """A body to a float32 array."""

    def test_ours(self, benchmark: Any, n: int) -> None:
        benchmark.group = f"decode raw {n}"
        body = body_of(n)
        array = benchmark(lambda: decode_request(body)[0].inputs[0].data.array)
        assert array.shape == (1, n)

    def test_ours_for_user_code(self, benchmark: Any, n: int) -> None:
        benchmark.group = f"decode raw {n}"
        body = bytearray(body_of(n))
        array = benchmark(lambda: NumpyCodec.decode_input(decode_request(body)[0].inputs[0]))
        assert array.flags.aligned and array.flags.writeable

    def test_protobuf(self, benchmark: Any, n: int) -> None:
        benchmark.group = f"decode raw {n}"
        body = body_of(n)

        def decode() -> Any:
            message = pb.ModelInferRequest.FromString(body)
            shape = tuple(message.inputs[0].shape)
            return np.frombuffer(message.raw_input_contents[0], "<f4").reshape(shape)

        benchmark(decode)

    def test_floor_copy(self, benchmark: Any, n: int) -> None:
        benchmark.group = f"decode raw {n}"
        source, target = np.zeros(n, "<f4"), np.zeros(n, "<f4")
        benchmark(np.copyto, target, source)


@pytest.mark.parametrize(
    ("field", "datatype"),
    [("fp32_contents", "FP32"), ("int64_contents", "INT64"), ("int64_contents", "FP32")],
)
@pytest.mark.parametrize("n", SIZES[:2])
class TestDecodeTyped:
    """Typed contents to an array of the datatype."""

    def test_ours(self, benchmark: Any, n: int, field: str, datatype: str) -> None:
        benchmark.group = f"decode {field} to {datatype} {n}"
        body = body_of(n, False, field, datatype)
        array = benchmark(lambda: decode_request(body)[0].inputs[0].data.to_array(datatype))
        assert array.size == n

    def test_protobuf(self, benchmark: Any, n: int, field: str, datatype: str) -> None:
        benchmark.group = f"decode {field} to {datatype} {n}"
        body = body_of(n, False, field, datatype)

        def decode() -> Any:
            message = pb.ModelInferRequest.FromString(body)
            return np.array(getattr(message.inputs[0].contents, field), "<f4")

        benchmark(decode)


def test_head(benchmark: Any) -> None:
    benchmark.group = "decode raw 4"
    assert benchmark(read_head, body_of(4)).model_name == "iris"


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("n", SIZES)
class TestEncode:
    """A float32 array to a body."""

    def test_ours_in_parts(self, benchmark: Any, n: int, raw: bool) -> None:
        benchmark.group = f"encode {n}"
        response = response_of(np.zeros((1, n), np.float32))
        benchmark(encode_parts, response, raw)

    def test_ours_joined(self, benchmark: Any, n: int, raw: bool) -> None:
        benchmark.group = f"encode {n}"
        response = response_of(np.zeros((1, n), np.float32))
        benchmark(encode_response, response, raw)

    def test_protobuf(self, benchmark: Any, n: int, raw: bool) -> None:
        benchmark.group = f"encode {n}"
        array = np.zeros((1, n), np.float32)

        def encode() -> bytes:
            output: dict[str, Any] = {"name": "y", "datatype": "FP32", "shape": [1, n]}
            if not raw:
                output["contents"] = {"fp32_contents": array.ravel()}
            raws = [array.tobytes()] if raw else []
            message = pb.ModelInferResponse(
                model_name="m", id="a", outputs=[output], raw_output_contents=raws
            )
            return message.SerializeToString()

        benchmark(encode)


@pytest.mark.parametrize("calls", BATCHES)
class TestBatch:
    """One-row requests of four numbers into one request, and one response back into theirs."""

    def requests(self, calls: int) -> list[InferenceRequest]:
        return [decode_request(body_of(4))[0] for _ in range(calls)]

    def test_merge(self, benchmark: Any, calls: int) -> None:
        benchmark.group = f"merge raw {calls}"
        requests = self.requests(calls)
        assert benchmark(merge, requests).inputs[0].shape == [calls, 4]

    @pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
    def test_encode_split(self, benchmark: Any, calls: int, raw: bool) -> None:
        benchmark.group = f"split and encode {calls}"
        response = response_of(np.zeros((calls, 1), np.float32))
        rows, ids = [1] * calls, [f"id-{index}" for index in range(calls)]
        assert len(benchmark(encode_split, response, rows, ids, raw)) == calls
