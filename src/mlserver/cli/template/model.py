"""The model: what it loads, and how it answers."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse


class MyModel(MLModel):
    async def load(self) -> bool:
        # Read your artefact here: `await mlserver.utils.get_model_uri(self.settings)` is its path.
        parameters = self.settings.parameters
        extra = (parameters.extra if parameters is not None else None) or {}
        self._factor = float(extra.get("factor", 1.0))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        if x.ndim != 2:
            # What you say of a bad request reaches the client, with status 400.
            raise InferenceError(f"expected rows of numbers, got shape {list(x.shape)}")
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[NumpyCodec.encode_output("y", x * self._factor)],
        )
