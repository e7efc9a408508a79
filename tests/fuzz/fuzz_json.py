"""Bodies that may or may not be V2 requests, through decoding, codecs and the executor.

Whatever the bytes are: a request is decoded or refused with a 4xx that says why,
each of its tensors likewise, and
the models answer with 200 or a 4xx and a body that is JSON. Nothing else is raised,
nothing is logged as an error,
no input takes long, and memory does not grow.

    python -m tests.fuzz.fuzz_json --runs 1000000
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import time
from collections import Counter
from typing import Any

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, NumpyRequestCodec
from mlserver.errors import MLServerError
from mlserver.executor import Call, Executor
from mlserver.settings import ModelSettings
from mlserver.tensor import DATATYPES
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from mlserver.wire.json import decode_request
from tests.fuzz.mutate import Alarm, Found, Mutator, Summary, command_line, resident_mib, seeds

TOKENS = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"null", b"true", b"false", b"NaN", b"Infinity", b"-",
    b"0", b"1e5",
    b"1e400", b"-1", b"0.1", b'"\\ud800"', b'"\\u0000"', b"\xff", b"\xc3\xa9", b"\xef\xbb\xbf", b"[" * 600,
    b'{"a":' * 600,
    b'"BOOL"', b'"UINT8"', b'"UINT64"', b'"INT8"', b'"INT64"', b'"FP16"', b'"FP32"', b'"FP64"', b'"BYTES"',
    b'"bytes"',
    b'"name":"x"', b'"shape":[2]', b'"shape":[-1,2]', b'"shape":[]', b'"shape":[0]', b'"datatype":"INT32"',
    b'"data":[1,2]',
    b'"parameters":{"content_type":"np"}', b'"parameters":{"headers":{"a":1}}', b'"parameters":null',
    b'"id":"1"', b'"id":1',
    b'"content_type":"str"', b'"content_type":"base64"', b'"content_type":"datetime"', b'"content_type":"pd"',
    b'"outputs":[{"name":"y"}]', b'[[1,2],[3,4]]', b'["a","b"]', b"[1.5,2.5]", b"[null]", b"[[1],[2,3]]",
    b"1," * 3000,
)  # fmt: skip
# Seconds of computing that one input may take.
_PATIENCE = 5.0


_OBJECTS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 255, 256, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**40, 0.5,
    -1.5, 1e38, 1e39, 1e308,
    "", "a", "1", "1.5", "é", "\0", "\ud800", "NaN", "2020-01-01", "aGk=", "x" * 300, [], {}, [[]], [None],
    [1, "a"], [[1], [2, 3]],
    {"content_type": "np"}, {"content_type": "str"}, {"content_type": "base64"}, {"content_type": "datetime"},
    {"content_type": "pd"}, {"content_type": "nothing"}, {"content_type": 1}, {"headers": {"a": 1}},
    {"a": {"b": [1]}},
    *DATATYPES, [1], [2], [-1], [2, 2], [1, 2, 1], [0], [0, 3], [-2], [2**40, 2**40], [2**70], ["1"], [1.0],
    [1.5], [True],
    [[1, 2], [3, 4]], [["a"], ["b"]], [[[1.5]]], list(range(100)),
)  # fmt: skip
_VALUES = [json.dumps(value) for value in _OBJECTS]
_LARGE = [json.dumps(value) for value in ([0.25] * 6000, [[7, 8]] * 3000, ["a"] * 5000, [[None] * 9] * 500)]


_FIELDS = {
    "datatype": [json.dumps(name) for name in DATATYPES],
    "shape": [
        "[]", "[0]", "[1]", "[2]", "[-1]", "[2,2]", "[1,2]", "[2,-1]", "[-1,-1]", "[3000]", "[0,5]",
        "[4,0]", "[1,1,2]",
    ],
    "data": [value for value in _VALUES if value[0] in '["'] * 3 + _VALUES,
    "parameters": [value for value in _VALUES if value[0] == "{"],
    "name": ['"x"', '"y"', '""'],
}  # fmt: skip


class Bodies(Mutator):
    """Every second body is JSON, with other values in it."""

    def make(self) -> bytes:
        choose = self.random
        if choose.random() < 0.5:
            return super().make()
        body = json.loads(choose.choice(self.seeds))
        for _ in range(choose.choice((1, 2, 3))):
            if choose.random() < 0.8:
                self._fill(choose.choice(body["inputs"] or [body]))
            else:
                self._replace(body)
                break
        text = json.dumps(body, ensure_ascii=choose.random() < 0.9).encode(errors="surrogatepass")
        return text[: self.most]

    def _fill(self, tensor: dict[str, Any]) -> None:
        """Give a field another value of its own kind."""
        field = self.random.choice(tuple(_FIELDS))
        large = field == "data" and self.random.random() < 0.03
        tensor[field] = json.loads(self.random.choice(_LARGE if large else _FIELDS[field]))

    def _replace(self, body: Any) -> None:
        """Put another value somewhere, or take one away."""
        choose = self.random
        places: list[tuple[Any, Any]] = []
        todo = [body]
        while todo:
            value = todo.pop()
            items = list(value.items() if isinstance(value, dict) else enumerate(value[:4]))
            places += [(value, key) for key, _ in items]
            todo += [item for _, item in items if isinstance(item, (dict, list))]
        if not places:
            return
        holder, key = choose.choice(places)
        kind = choose.random()
        if kind < 0.08:
            del holder[key]
        elif kind < 0.2 and isinstance(holder, list):
            holder.insert(key, json.loads(json.dumps(holder[key])))
        elif kind < 0.3:
            other = json.loads(choose.choice(self.seeds))
            inputs = other["inputs"] or [other]
            holder[key] = choose.choice((other, inputs, inputs[0], inputs[0].get("data")))
        else:
            holder[key] = json.loads(choose.choice(_VALUES))


class Echo(MLModel):
    """Answers with what it was asked."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        outputs = [
            ResponseOutput(
                name=i.name, shape=i.shape, datatype=i.datatype, parameters=i.parameters, data=i.data
            )
            for i in payload.inputs
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)


class Numpy(MLModel):
    """Answers with the arrays that it was asked with, and takes requests together."""

    rows_independent = True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        outputs = [NumpyCodec.encode_output(i.name, NumpyCodec.decode_input(i)) for i in payload.inputs]
        return InferenceResponse(model_name=self.name, outputs=outputs)


class Decoding(MLModel):
    """Decodes by the content types that the client chose."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        for tensor in payload.inputs:
            self.decode(tensor, default_codec=NumpyCodec)
        self.decode_request(payload, default_codec=NumpyRequestCodec)
        return InferenceResponse(model_name=self.name, outputs=[])


class Fuzzer:
    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.alarm = Alarm()
        logging.getLogger("mlserver").addHandler(self.alarm)
        self._executors = [
            Executor(kind(ModelSettings(name="m", implementation=kind)), {})
            for kind in (Echo, Numpy, Decoding)
        ]
        self._before = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'

    def close(self) -> None:
        logging.getLogger("mlserver").removeHandler(self.alarm)

    async def check(self, data: bytes) -> None:
        """Raises AssertionError, or whatever should not have been raised."""
        started = time.process_time()
        self._decode(data)
        for executor in self._executors:
            calls = [Call(data, {})]
            if executor.merges:  # beside another request, so that those that fit together are merged
                calls.append(Call(self._before, {}))
            replies = await executor.run(calls)
            assert not self.alarm.lines, f"logged: {self.alarm.lines}"
            for reply in replies:
                assert reply.status == 200 or 400 <= reply.status < 500, f"{reply.status} {reply.body!r}"
                body = json.loads(reply.body)
                assert reply.status == 200 or isinstance(body["error"], str), reply.body
                self.outcomes[str(reply.status)] += 1
        self._before = data
        assert time.process_time() - started < _PATIENCE, "took too long"

    def _decode(self, data: bytes) -> None:
        try:
            request = decode_request(data)
        except MLServerError as exc:
            assert 400 <= exc.status_code < 500, repr(exc)
            self.outcomes["undecodable"] += 1
            return
        for tensor in request.inputs:
            try:
                NumpyCodec.decode_input(tensor)
            except MLServerError as exc:
                assert 400 <= exc.status_code < 500, repr(exc)
                self.outcomes["tensors refused"] += 1
            else:
                self.outcomes["tensors decoded"] += 1


def run(runs: int, seed: int, report_every: float = math.inf) -> Summary:
    return asyncio.run(_run(runs, seed, report_every))


async def _run(runs: int, seed: int, report_every: float) -> Summary:
    choose = random.Random(seed)
    fuzzer = Fuzzer()
    texts = seeds("json")
    small = [text for text in texts if len(text) < 1000]
    bodies = iter(Bodies(choose, small * 4 + texts, TOKENS))
    started = reported = time.monotonic()
    before = 0.0
    try:
        for number in range(runs):
            data = next(bodies)
            try:
                await fuzzer.check(data)
            except (Exception, RecursionError) as exc:
                raise Found(data, seed, number, exc) from exc
            if number == runs // 10:
                before = resident_mib()
            now = time.monotonic()
            if now - reported > report_every:
                reported = now
                print(f"{number:,} {now - started:.0f} s {resident_mib():.1f} MiB", flush=True)
    finally:
        fuzzer.close()
    return Summary(runs, time.monotonic() - started, dict(fuzzer.outcomes), before, resident_mib())


if __name__ == "__main__":
    command_line(run)
