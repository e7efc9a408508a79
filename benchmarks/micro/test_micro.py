"""The pure parts of the data path, each beside the floor that nothing could beat.

    make bench-micro

Rows of one group belong together: compare the medians of `ours` with those of the floor.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest

from mlserver import MLModel, ModelSettings
from mlserver.batching import merge, rows_of, split
from mlserver.codecs import NumpyCodec
from mlserver.executor import Call, Executor
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.wire.json import decode_request, encode_response, encode_split

SIZES = [4, 1_000, 150_528]
BATCHES = [2, 32, 128]


def body_of(n: int) -> bytes:
    values = np.random.default_rng(0).random(n).tolist()
    tensor = {"name": "x", "shape": [1, n], "datatype": "FP32", "data": values}
    return orjson.dumps({"inputs": [tensor]})


def response_of(array: np.ndarray[Any, Any]) -> InferenceResponse:
    return InferenceResponse(model_name="m", outputs=[NumpyCodec.encode_output("y", array)])


@pytest.mark.parametrize("n", SIZES)
class TestDecode:
    """A body to a float32 array."""

    def test_ours(self, benchmark: Any, n: int) -> None:
        benchmark.group = f"decode {n}"
        body = body_of(n)
        array = benchmark(lambda: NumpyCodec.decode_input(decode_request(body).inputs[0]))
        assert array.shape == (1, n)

    def test_orjson_and_numpy(self, benchmark: Any, n: int) -> None:
        benchmark.group = f"decode {n}"
        body = body_of(n)
        benchmark(lambda: np.array(orjson.loads(body)["inputs"][0]["data"], dtype=np.float32))

    def test_floor_copy(self, benchmark: Any, n: int) -> None:
        benchmark.group = f"decode {n}"
        body = body_of(n)
        benchmark(lambda: bytearray(body))


@pytest.mark.parametrize("n", SIZES)
class TestEncode:
    """A float32 array to a body."""

    def test_ours(self, benchmark: Any, n: int) -> None:
        benchmark.group = f"encode {n}"
        array = np.random.default_rng(0).random((1, n)).astype(np.float32)
        body = benchmark(lambda: encode_response(response_of(array)))
        assert len(orjson.loads(body)["outputs"][0]["data"]) == n

    def test_msgspec_from_a_list(self, benchmark: Any, n: int) -> None:
        benchmark.group = f"encode {n}"
        array = np.random.default_rng(0).random((1, n)).astype(np.float32)
        benchmark(lambda: msgspec.json.encode({"outputs": [{"data": array.ravel().tolist()}]}))

    def test_floor_orjson_array(self, benchmark: Any, n: int) -> None:
        benchmark.group = f"encode {n}"
        array = np.random.default_rng(0).random(n)
        benchmark(lambda: orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY))


@pytest.mark.parametrize("calls", BATCHES)
class TestBatch:
    """One-row requests of four numbers into one request, and one response back into theirs."""

    def requests(self, calls: int) -> list[InferenceRequest]:
        return [decode_request(body_of(4)) for _ in range(calls)]

    def test_merge(self, benchmark: Any, calls: int) -> None:
        benchmark.group = f"merge {calls}"
        requests = self.requests(calls)
        assert benchmark(merge, requests).inputs[0].shape == [calls, 4]

    def test_merge_floor(self, benchmark: Any, calls: int) -> None:
        benchmark.group = f"merge {calls}"
        arrays = [np.zeros((1, 4), np.float32) for _ in range(calls)]
        benchmark(np.concatenate, arrays)

    def test_split(self, benchmark: Any, calls: int) -> None:
        benchmark.group = f"split and encode {calls}"
        response = response_of(np.zeros((calls, 1), np.float32))
        rows, ids = [1] * calls, ["id"] * calls
        benchmark(lambda: [encode_response(part) for part in split(response, rows, ids)])

    def test_encode_split(self, benchmark: Any, calls: int) -> None:
        benchmark.group = f"split and encode {calls}"
        response = response_of(np.zeros((calls, 1), np.float32))
        rows, ids = [1] * calls, ["id"] * calls
        assert len(benchmark(encode_split, response, rows, ids)) == calls

    def test_rows(self, benchmark: Any, calls: int) -> None:
        benchmark.group = f"merge {calls}"
        requests = self.requests(calls)
        assert benchmark(lambda: sum(map(rows_of, requests))) == calls


class Doubles(MLModel):
    rows_independent = True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return response_of(NumpyCodec.decode_input(payload.inputs[0]) * 2)


@pytest.mark.parametrize("calls", [1, *BATCHES])
def test_executor(benchmark: Any, calls: int) -> None:
    """Bodies to bodies, around a model that costs next to nothing."""
    benchmark.group = "executor"
    executor = Executor(Doubles(ModelSettings(name="m", implementation=Doubles)), {})
    batch = [Call(body_of(4), {"host": "localhost"}) for _ in range(calls)]
    loop = asyncio.new_event_loop()
    try:
        replies = benchmark(lambda: loop.run_until_complete(executor.run(batch)))
    finally:
        loop.close()
    assert [reply.status for reply in replies] == [200] * calls
