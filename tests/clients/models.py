"""The models that clients are tried against. Copied into the folder of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from mlserver import MLModel
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Echo(MLModel):
    """Answers with the inputs as they came. Waits for the milliseconds that the parameter `wait_ms` asks for,
    and refuses where `refuse` is true.
    """

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        asked = payload.parameters
        if getattr(asked, "refuse", False):
            raise InferenceError("refused, as it was asked for: é")
        await asyncio.sleep(getattr(asked, "wait_ms", 0) / 1000)
        outputs = [
            ResponseOutput(
                name=i.name, shape=i.shape, datatype=i.datatype, parameters=i.parameters, data=i.data
            )
            for i in payload.inputs
        ]
        return InferenceResponse(
            model_name=self.name, model_version=self.version, parameters=asked, outputs=outputs
        )


class Counts(MLModel):
    """Answers each request of a stream with the numbers below its parameter `count`, one a response."""

    async def predict_stream(
        self, payloads: AsyncIterator[InferenceRequest]
    ) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            for number in range(getattr(payload.parameters, "count", 3)):
                output = ResponseOutput(name="n", shape=[1], datatype="INT64", data=[number])
                yield InferenceResponse(model_name=self.name, outputs=[output])
