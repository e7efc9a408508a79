"""Being merged changes nothing for anybody."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlserver import MLModel, ModelSettings
from mlserver.batching import fits, merge, rows_of, split
from mlserver.codecs import NumpyCodec
from mlserver.executor import Call, Executor
from mlserver.tensor import DTYPES
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput
from mlserver.wire.json import decode_request, encode_response, encode_split
from mlserver.wire.protobuf import encode_request

NUMERIC = sorted(set(DTYPES) - {"BOOL"})


class Rowwise(MLModel):
    """Sums each row, and echoes it."""

    rows_independent = True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0])
        if (x == 66).any():
            raise ValueError("a row that this model cannot stand")
        sums = x.astype(np.float64).sum(axis=1)
        return InferenceResponse(
            model_name=self.name,
            outputs=[NumpyCodec.encode_output("sum", sums), NumpyCodec.encode_output("echo", x)],
        )


def model() -> Rowwise:
    return Rowwise(ModelSettings(name="m", implementation=Rowwise))


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    rows, width = draw(st.integers(0, 3)), draw(st.sampled_from([1, 2, 3]))
    datatype = draw(st.sampled_from(["INT32", "FP32", "FP64", "UINT8"]))
    values: Any = draw(st.lists(st.integers(0, 100), min_size=rows * width, max_size=rows * width))
    if draw(st.booleans()):
        values = [values[row * width : (row + 1) * width] for row in range(rows)]
    tensor: dict[str, Any] = {"name": "x", "shape": [rows, width], "datatype": datatype, "data": values}
    if draw(st.integers(0, 9)) == 0:
        tensor["shape"] = [rows, width + 1]  # values that do not fill it
    body: dict[str, Any] = {"inputs": [tensor]}
    if draw(st.booleans()):
        body["id"] = draw(st.text(max_size=5))
    if draw(st.integers(0, 9)) == 0:
        body["parameters"] = {"own": 1}
    if draw(st.integers(0, 19)) == 0:
        return b'{"inputs": ['
    return json.dumps(body).encode()


def answers(runner: Executor, batches: list[list[Call]]) -> list[tuple[int, Any]]:
    async def run() -> list[tuple[int, Any]]:
        replies = [reply for batch in batches for reply in await runner.run(batch)]
        return [(reply.status, _without_made_up_id(reply.body)) for reply in replies]

    return asyncio.run(run())


def _without_made_up_id(body: bytes) -> Any:
    answer = json.loads(body)
    if len(answer.get("id", "")) == 36:
        del answer["id"]
    return answer


@given(st.lists(bodies(), min_size=1, max_size=12))
def test_the_answer_is_the_same_in_any_company(batch: list[bytes]) -> None:
    calls = [Call(body, {}) for body in batch]
    alone = answers(Executor(model(), {}), [[call] for call in calls])
    # The second time, the executor knows the forms of these requests.
    together = answers(Executor(model(), {}), [calls, calls])
    assert together == [*alone, *alone]


@st.composite
def calls_of_both_wires(draw: st.DrawFn) -> Call:
    rows, width = draw(st.integers(0, 3)), draw(st.sampled_from([1, 2]))
    datatype = draw(st.sampled_from(["INT32", "FP32", "FP64"]))
    numbers = st.integers(0, 100) if datatype == "INT32" else st.floats(width=32) | st.integers(0, 100)
    values = draw(st.lists(numbers, min_size=rows * width, max_size=rows * width))
    wire = draw(st.sampled_from(["json", "raw", "typed"]))
    finite = [None if value != value or abs(value) == np.inf else value for value in values]
    tensor = RequestInput(
        name="x",
        shape=[rows, width],
        datatype=datatype,
        data=finite if wire == "json" else np.array(values, DTYPES[datatype]).tolist(),
    )
    request = InferenceRequest(id=draw(st.text(min_size=1, max_size=5)), inputs=[tensor])
    if wire == "json":
        return Call(json.dumps(request.model_dump()).encode(), {}, "json")
    return Call(encode_request(request, "m", None, wire == "raw"), {}, "protobuf")


@given(st.lists(calls_of_both_wires(), min_size=1, max_size=12))
def test_callers_of_both_wires_get_the_same_to_the_byte(calls: list[Call]) -> None:
    async def run(batches: list[list[Call]]) -> list[tuple[int, bytes]]:
        runner = Executor(model(), {})
        replies = [reply for batch in batches for reply in await runner.run(batch)]
        pieces = [reply.body if isinstance(reply.body, list) else [reply.body] for reply in replies]
        return [(reply.status, b"".join(p)) for reply, p in zip(replies, pieces, strict=True)]

    alone = asyncio.run(run([[call] for call in calls]))
    assert asyncio.run(run([calls, calls])) == [*alone, *alone]
    assert {status for status, _ in alone} <= {200, 500}  # 66 is a row that the model cannot stand


@given(st.lists(st.integers(1, 3), min_size=2, max_size=10), st.data())
def test_one_bad_request_costs_nobody_else(rows: list[int], data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, len(rows) - 1))
    calls = [
        Call(
            json.dumps(
                {
                    "inputs": [
                        {
                            "name": "x",
                            "shape": [n, 1],
                            "datatype": "INT32",
                            "data": [66 if i == bad else 1] * n,
                        }
                    ]
                }
            ).encode(),
            {},
        )
        for i, n in enumerate(rows)
    ]
    statuses = [status for status, _ in answers(Executor(model(), {}), [calls])]
    assert statuses == [500 if i == bad else 200 for i in range(len(rows))]


@given(
    st.sampled_from(NUMERIC),
    st.lists(st.integers(0, 4), min_size=1, max_size=6),
    st.integers(1, 3),
    st.data(),
)
def test_split_undoes_merge(datatype: str, rows: list[int], width: int, data: st.DataObject) -> None:
    requests = []
    for count in rows:
        values = data.draw(st.lists(st.integers(0, 50), min_size=count * width, max_size=count * width))
        tensor = RequestInput(name="x", shape=[count, width], datatype=datatype, data=values)
        requests.append(InferenceRequest(inputs=[tensor]))
    assert len({fits(request) for request in requests}) == 1
    merged = merge(requests)
    doubled = NumpyCodec.decode_input(merged.inputs[0]) * 2
    parts = split(
        InferenceResponse(model_name="m", outputs=[NumpyCodec.encode_output("y", doubled)]),
        [rows_of(request) for request in requests],
        [str(i) for i in range(len(rows))],
    )
    for index, (request, part) in enumerate(zip(requests, parts, strict=True)):
        assert part.id == str(index)
        expected = NumpyCodec.decode_input(request.inputs[0]) * 2
        np.testing.assert_array_equal(NumpyCodec.decode_output(part.outputs[0]), expected)


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=6),
    st.lists(st.sampled_from(["FP32", "FP64", "INT64", "UINT8", "BOOL", "FP16"]), min_size=0, max_size=3),
    st.integers(1, 3),
    st.data(),
)
def test_encoding_a_split_response_at_once_gives_the_same_bytes(
    rows: list[int], datatypes: list[str], width: int, data: st.DataObject
) -> None:
    total = sum(rows)
    outputs = []
    for index, datatype in enumerate(datatypes):
        values = data.draw(st.lists(st.integers(0, 3), min_size=total * width, max_size=total * width))
        array = np.array(values).astype(DTYPES[datatype]).reshape(total, width)
        if array.dtype.kind == "f" and data.draw(st.booleans()):
            array[0, 0] = data.draw(st.sampled_from([np.nan, np.inf, 0.1]))
        outputs.append(NumpyCodec.encode_output(f"o{index}", array))
    response = InferenceResponse(
        model_name="näme",
        model_version=data.draw(st.sampled_from([None, "v1"])),
        parameters=data.draw(st.sampled_from([{}, {"content_type": "np"}])),
        outputs=outputs,
    )
    ids = [data.draw(st.text(max_size=4)) for _ in rows]
    assert encode_split(response, rows, ids) == [encode_response(part) for part in split(response, rows, ids)]


@given(bodies())
def test_padding_a_body_with_blanks_past_the_large_limit_changes_nothing(body: bytes) -> None:
    """Small bodies take the msgspec road, large ones the simdjson road."""
    assert _decoded(body) == _decoded(body + b" " * 20_000)


def _decoded(body: bytes) -> Any:
    try:
        request = decode_request(body)
    except Exception as exc:
        return type(exc)
    return request.model_dump(), [
        (i.data.to_array(i.datatype).tolist()) for i in request.inputs if _fits_plainly(i)
    ]


def _fits_plainly(tensor: RequestInput) -> bool:
    return all(isinstance(value, (int, float)) for value in tensor.data)
