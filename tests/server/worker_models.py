"""Models for tests of worker processes; what they do is chosen by the request's first value."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import numpy as np
from starlette.requests import Request
from starlette.responses import StreamingResponse

import mlserver
from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.errors import MLServerError
from mlserver.handlers import custom_handler
from mlserver.logging import logger


class Echo(MLModel):
    """Gives back its input, and the process that did."""

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        values = NumpyCodec.decode_input(payload.inputs[0])
        outputs = [
            NumpyCodec.encode_output("y", values),
            NumpyCodec.encode_output("pid", np.array([[os.getpid()]])),
        ]
        return types.InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)


class Prints(Echo):
    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        print("hello", flush=True)
        return await Echo.predict(self, payload)


class TellsItsPackage(MLModel):
    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        outputs = [StringCodec.encode_output("y", [mlserver.__file__])]
        return types.InferenceResponse(model_name=self.name, outputs=outputs)


class Moody(Echo):
    """A negative first value is an order to misbehave."""

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        order = float(NumpyCodec.decode_input(payload.inputs[0]).flat[0])
        if order == -1:
            os.kill(os.getpid(), signal.SIGKILL)
        if order == -2:
            raise ValueError("secret: the path of the weights")
        if order == -3:
            raise MLServerError("not like this", 418)
        if order == -4:
            time.sleep(3600)  # noqa: ASYNC251 - it hangs
        if order == -5:
            os._exit(7)
        if -1 < order < 0:
            time.sleep(-order)  # noqa: ASYNC251 - it computes
        if 0 < order < 1:
            await asyncio.sleep(order)
        return await super().predict(payload)


class Rowwise(Echo):
    """May answer many calls at once; says how many rows it was asked about."""

    rows_independent = True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        values = NumpyCodec.decode_input(payload.inputs[0])
        if (values < 0).any():
            if (values == -1).any():
                os.kill(os.getpid(), signal.SIGKILL)
            raise MLServerError("negative", 422)
        time.sleep(0.001)  # noqa: ASYNC251 - it computes
        rows = np.full((len(values), 1), len(values))
        outputs = [NumpyCodec.encode_output("y", values * 2), NumpyCodec.encode_output("rows", rows)]
        return types.InferenceResponse(model_name=self.name, outputs=outputs)


class Talks(Echo):
    """Streams, handles requests of its own, counts and logs."""

    async def load(self) -> bool:
        mlserver.register("spoken", "How much it spoke.")
        self.closed = 0
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        logger.info("answering in %s", "a worker")
        mlserver.log(spoken=2.5)
        return await super().predict(payload)

    async def predict_stream(
        self, payloads: AsyncIterator[types.InferenceRequest]
    ) -> AsyncIterator[types.InferenceResponse]:
        async for payload in payloads:
            values = NumpyCodec.decode_input(payload.inputs[0])
            try:
                for _ in range(int(values.flat[0])):
                    await asyncio.sleep(0.001)
                    yield await self.predict(payload)
                if values.flat[0] == 3:
                    raise MLServerError("three is enough", 418)
            finally:
                self.closed += 1

    async def metadata(self) -> types.MetadataModelResponse:
        metadata = await super().metadata()
        metadata.platform = f"pid {os.getpid()}"
        return metadata

    @custom_handler(rest_path="/talk/{name}")
    async def talk(
        self, name: str, words: list[str], request: Request, loud: bool = False
    ) -> dict[str, object]:
        agent = request.headers["x-agent"]
        return {"name": name, "words": words, "loud": loud, "agent": agent, "pid": os.getpid()}

    @custom_handler(rest_path="/closed", rest_method="GET")
    def how_many_closed(self) -> int:
        return self.closed

    @custom_handler(rest_path="/fail", rest_method="GET")
    async def fail(self) -> None:
        raise MLServerError("no", 409)

    @custom_handler(rest_path="/events", rest_method="GET")
    async def events(self) -> StreamingResponse:
        async def items() -> AsyncIterator[bytes]:
            for number in range(3):
                yield b"data: %d\n\n" % number

        return StreamingResponse(items(), media_type="text/event-stream")


class Behind(Echo):
    """Takes one request of a stream and leaves the others where they are until the file that its id names is
    there; then tells how many there were.
    """

    async def predict_stream(
        self, payloads: AsyncIterator[types.InferenceRequest]
    ) -> AsyncIterator[types.InferenceResponse]:
        first = await anext(payloads)
        yield await self.predict(first)
        while not os.path.exists(str(first.id)):  # noqa: ASYNC110, ASYNC240 - another process makes it
            await asyncio.sleep(0.01)
        count = 1
        async for _ in payloads:
            count += 1
        output = NumpyCodec.encode_output("count", np.array([[count]]))
        yield types.InferenceResponse(model_name=self.name, outputs=[output])


class FailsToLoad(MLModel):
    async def load(self) -> bool:
        raise ValueError("no weights here")


class NotReady(MLModel):
    async def load(self) -> bool:
        return False


class ExitsOnLoad(MLModel):
    async def load(self) -> bool:
        os._exit(3)


class HangsOnLoad(MLModel):
    async def load(self) -> bool:
        time.sleep(3600)  # noqa: ASYNC251 - it hangs
        return True
