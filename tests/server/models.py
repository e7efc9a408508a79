"""Models for servers that run in a thread of the tests' own process, and what they and the tests share."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import numpy as np

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestOutput, ResponseOutput

# What happened, in order, by a key that the test chooses.
events: dict[str, list[str]] = defaultdict(list)
# What a model waits for before it goes on.
gates: dict[str, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(0))


def body(*inputs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A request with these inputs, or with one small one."""
    return {"inputs": list(inputs) or [tensor("x", "INT64", [1])], **fields}


def tensor(
    name: str, datatype: str, data: Any, shape: list[int] | None = None, **fields: Any
) -> dict[str, Any]:
    return {"name": name, "shape": shape or [len(data)], "datatype": datatype, "data": data, **fields}


def response(
    model: MLModel, *outputs: ResponseOutput, parameters: Parameters | None = None
) -> InferenceResponse:
    return InferenceResponse(
        model_name=model.name, model_version=model.version, parameters=parameters, outputs=list(outputs)
    )


def output(data: Any, datatype: str = "BYTES", shape: list[int] | None = None) -> ResponseOutput:
    return ResponseOutput(name="y", shape=shape or [len(data)], datatype=datatype, data=data)


class Echo(MLModel):
    """Answers with the inputs as they came."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        outputs = [
            ResponseOutput(
                name=i.name, shape=i.shape, datatype=i.datatype, parameters=i.parameters, data=i.data
            )
            for i in payload.inputs
        ]
        return response(self, *outputs)


class Told(MLModel):
    """Answers with what it was told, as JSON text."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        assert payload.parameters is not None
        told = {
            "id": payload.id,
            "headers": payload.parameters.headers,
            "parameters": payload.parameters.model_extra,
            "outputs": payload.outputs,
        }
        return response(self, output([json.dumps(told)]))


class Numpy(MLModel):
    """There and back through the numpy codec."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        arrays = [(i.name, self.decode(i, default_codec=NumpyCodec)) for i in payload.inputs]
        return response(self, *(self.encode(array, RequestOutput(name=name)) for name, array in arrays))


VALUES: dict[str, Any] = {
    "nan": (np.array([math.nan, 1.5]), None),
    "infinite": (np.array([math.inf, -math.inf, 2.0], dtype=np.float32), None),
    "plain nan": ([math.nan, math.inf, 1], "FP64"),
    "fp32": (np.array([0.1], dtype=np.float32), None),
    "fp16": (np.array([0.1], dtype=np.float16), None),
    "bytes": ([b"\xc3\xa9", b"a"], "BYTES"),
    "not utf-8": ([b"\xff"], "BYTES"),
    "one string": ("abc", "BYTES"),
    "array as data": (np.array([1, 2], dtype=np.int64), "INT64"),
    "bool": (np.array([True, False]), None),
    "large": ([2**63, -(2**63), 2**64 - 1], "UINT64"),
    "object": ([{"a": None}], "BYTES"),
    "unknown": ([object()], "BYTES"),
}


class Constant(MLModel):
    """Answers with one of VALUES, encoded by numpy, or put into `data` as it is."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        assert payload.parameters is not None
        value, datatype = VALUES[payload.parameters.value]
        if datatype is None:
            return response(self, NumpyCodec.encode_output("y", value))
        result = output([], datatype, [len(value)])
        result.data = value
        return response(self, result)


class SetsHeaders(MLModel):
    """Sets the headers that it is asked for."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        assert payload.parameters is not None
        return response(self, parameters=Parameters(headers=payload.parameters.set, note="kept"))


class EchoesParameters(MLModel):
    """Hands all parameters of the request back."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return response(self, parameters=payload.parameters)


class Oops(Exception):
    pass


class Fails(MLModel):
    """Fails in the way that it is asked for."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        assert payload.parameters is not None
        how = payload.parameters.how
        if how == "mlserver":
            raise MLServerError("on purpose", 418)
        if how == "other":
            raise Oops("a secret")
        if how == "nothing":
            return None  # type: ignore[return-value]
        if how == "rubbish":
            return 42  # type: ignore[return-value]
        if how == "exit":
            sys.exit(3)
        if how == "cancelled":
            raise asyncio.CancelledError
        raise AssertionError(how)


class Unfinished(MLModel):
    """Predicts nothing at all."""


class Streams(MLModel):
    """Streams as many responses as it is asked for, waiting at a gate before each but the first."""

    async def predict_stream(
        self, payloads: AsyncIterator[InferenceRequest]
    ) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            p = payload.parameters
            assert p is not None
            key = getattr(p, "key", "")
            try:
                for number in range(p.count):
                    if number == getattr(p, "fail_at", None):
                        raise MLServerError("on purpose", 418) if p.how == "mlserver" else Oops("a secret")
                    if key and number:
                        await asyncio.to_thread(gates[key].acquire)
                    events[key].append(f"made {number}")
                    yield response(self, StringCodec.encode_output("y", [str(number)]))
                events[key].append("finished")
            except (asyncio.CancelledError, GeneratorExit):
                events[key].append("cancelled")
                raise


class StreamsForever(MLModel):
    """Waits for ever in its stream, before the first response or after it."""

    async def predict_stream(
        self, payloads: AsyncIterator[InferenceRequest]
    ) -> AsyncIterator[InferenceResponse]:
        payload = await payloads.__anext__()
        assert payload.parameters is not None
        key = payload.parameters.key
        events[key].append("begun")
        try:
            if payload.parameters.first:
                yield response(self, output(["first"]))
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            events[key].append("cancelled")
            raise


class WaitsForever(MLModel):
    """An asynchronous predict that never ends by itself."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        assert payload.parameters is not None
        key = payload.parameters.key
        events[key].append("begun")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            events[key].append("cancelled")
            raise
        return response(self)


class Blocks(MLModel):
    """A predict that holds its thread: until a gate opens, or for some seconds of sleep or of work."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        p = payload.parameters
        assert p is not None
        key = getattr(p, "key", "")
        events[key].append(f"begun {payload.id}")
        if key:
            gates[key].acquire(timeout=30)
        time.sleep(getattr(p, "sleep", 0.0))  # noqa: ASYNC251 - models do
        end = time.monotonic() + getattr(p, "work", 0.0)
        while time.monotonic() < end:
            sum(range(1000))
        events[key].append(f"ended {payload.id}")
        return response(self, output([payload.id or ""]))


class LoadsSlowly(MLModel):
    """Loads when its gate opens."""

    async def load(self) -> bool:
        events[self.name].append("loading")
        await asyncio.to_thread(gates[self.name].acquire, timeout=30)
        return True

    async def unload(self) -> bool:
        events[self.name].append("unload")
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return response(self)


class Slow(MLModel):
    """An asynchronous predict that takes a moment."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        await asyncio.sleep(0.02)
        return response(self)


class Batches(MLModel):
    """Doubles what it is given, and notes how many rows came at once. Holds back a call that asks for it."""

    sizes: ClassVar[list[int]] = []
    holding: ClassVar[threading.Event]
    gate: ClassVar[threading.Semaphore]

    @classmethod
    def reset(cls) -> None:
        cls.sizes.clear()
        cls.holding = threading.Event()
        cls.gate = threading.Semaphore(0)

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        assert payload.parameters is not None
        if getattr(payload.parameters, "hold", False):
            self.holding.set()
            self.gate.acquire(timeout=30)
        assert self.settings.parameters is not None
        wrong = getattr(self.settings.parameters, "wrong", None)
        outputs = []
        for given in payload.inputs:
            array = NumpyCodec.decode_input(given) * 2
            if given.shape:
                self.sizes.append(given.shape[0])
            if wrong is not None:
                array = array[:1] if wrong == "few" else np.concatenate([array, array])
            name = payload.outputs[0].name if payload.outputs else "y"
            encoded = NumpyCodec.encode_output(name, array)
            if given.parameters is not None or payload.parameters.model_extra:
                asked = given.parameters if given.parameters is not None else payload.parameters
                encoded.parameters = Parameters(threshold=getattr(asked, "threshold", None))
            outputs.append(encoded)
        return response(self, *outputs)
