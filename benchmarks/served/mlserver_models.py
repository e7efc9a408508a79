"""Custom runtimes, the same file for this project and for MLServer 1.7.1: public interface only."""

import time

import numpy as np

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class SumModel(MLModel):
    """One tensor in, the sum of its elements out."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        values = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        total = np.array([[values.sum(dtype=np.float64)]])
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("sum", total)])


class BusyModel(MLModel):
    """Holds the processor in a Python loop for as many seconds as the input says."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        seconds = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        until = time.monotonic() + float(seconds.sum())
        turns = 0
        while time.monotonic() < until:
            turns += 1
        output = NumpyCodec.encode_output("turns", np.array([[turns]]))
        return InferenceResponse(model_name=self.name, outputs=[output])
