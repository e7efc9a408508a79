"""MLModel: what a runtime extends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)

if TYPE_CHECKING:
    from mlserver.codecs import InputCodecLike, RequestCodecLike
    from mlserver.settings import ModelSettings

__all__ = ["MLModel"]


class MLModel:
    """A model that can be loaded, asked and unloaded. A runtime overrides `load` and `predict`, and what
    else it needs.

    All three run on the model's own event loop, never on the one that talks to clients; `predict` may block
    it.

    Two promises a class may make beside its own `predict` (a subclass that overrides `predict` makes them
    anew):

    inline: `predict` is a short pure function that never awaits, so it may run wherever that is quickest.
    rows_independent: each output row depends on the same input row alone, so that requests which arrived
    together, fit together and carry no parameters of their own may be answered by one call.

    padding: inputs that may be padded, behind their elements, when calls of different lengths are merged, and
    the value to do it with, such as `{"input_ids": 0, "attention_mask": 0}`. Only numbers can be.
    """

    inline: ClassVar[bool] = False
    rows_independent: ClassVar[bool] = False
    padding: ClassVar[Mapping[str, float]] = {}

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._inputs = settings.inputs
        self._outputs = settings.outputs
        self.ready = False

    # For runtimes to override

    async def load(self) -> bool:
        """Bring the artefact into memory. False means that the model is not ready to be asked."""
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        raise NotImplementedError("predict() method not implemented")

    async def predict_stream(
        self, payloads: AsyncIterator[InferenceRequest]
    ) -> AsyncIterator[InferenceResponse]:
        """Answer a stream of requests with a stream of responses.

        By default one `predict` of the first request.
        """
        payload = await payloads.__anext__()
        yield await self.predict(payload)

    async def unload(self) -> bool:
        """Give back what `load` took."""
        return True

    async def metadata(self) -> MetadataModelResponse:
        """What the model tells of itself: name, platform, inputs and outputs."""
        return describe_model(self._settings, self.inputs, self.outputs)

    # What settings say

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def version(self) -> str | None:
        return self._settings.version

    @property
    def settings(self) -> ModelSettings:
        return self._settings

    @property
    def inputs(self) -> list[MetadataTensor]:
        """The tensors that the model takes; their content types are defaults for inputs of the same name."""
        return self._inputs

    @inputs.setter
    def inputs(self, value: list[MetadataTensor] | None) -> None:
        self._inputs = value or []

    @property
    def outputs(self) -> list[MetadataTensor]:
        """The tensors that the model gives; their content types are defaults for outputs of the same name."""
        return self._outputs

    @outputs.setter
    def outputs(self, value: list[MetadataTensor] | None) -> None:
        self._outputs = value or []

    # Tensors to Python and back, by content type

    def decode(self, request_input: RequestInput, default_codec: InputCodecLike | None = None) -> Any:
        """An input as Python sees it: by its own content type, else the metadata's, else `default_codec`,
        else as it came.

        Raises CodecError when the values do not fit.
        """
        from mlserver.codecs import negotiation

        return negotiation.decode_input(request_input, _by_name(self._inputs), default_codec)

    def decode_request(
        self, inference_request: InferenceRequest, default_codec: RequestCodecLike | None = None
    ) -> Any:
        """A whole request as Python sees it: by its content type, else the model's, else `default_codec`,
        else as it came.
        """
        from mlserver.codecs import negotiation

        return negotiation.decode_request(
            inference_request, self._settings, _by_name(self._inputs), default_codec
        )

    def encode(
        self, payload: Any, request_output: RequestOutput, default_codec: InputCodecLike | None = None
    ) -> ResponseOutput:
        """A value as the output that was asked for. Raises CodecNotFound when nothing can encode it."""
        from mlserver.codecs import negotiation

        return negotiation.encode_output(payload, request_output, _by_name(self._outputs), default_codec)

    def encode_response(
        self, payload: Any, default_codec: RequestCodecLike | None = None
    ) -> InferenceResponse:
        """A value as a whole response. Raises CodecNotFound when nothing can encode it."""
        from mlserver.codecs import negotiation

        return negotiation.encode_response(payload, self.name, self.version, default_codec)


def describe_model(
    settings: ModelSettings, inputs: list[MetadataTensor], outputs: list[MetadataTensor]
) -> MetadataModelResponse:
    """Model metadata. Of a model's parameters only the content type is anybody's business."""
    parameters = settings.parameters
    return MetadataModelResponse(
        name=settings.name,
        platform=settings.platform,
        versions=settings.versions,
        inputs=inputs,
        outputs=outputs,
        parameters=None if parameters is None else Parameters(content_type=parameters.content_type),
    )


def _by_name(tensors: list[MetadataTensor]) -> dict[str, MetadataTensor]:
    return {tensor.name: tensor for tensor in tensors} if tensors else {}


def promises(model: MLModel, promise: str) -> bool:
    """Whether the class that defines this model's `predict` itself promises `inline` or `rows_independent`.

    A model may take a promise back by an attribute of its own.
    """
    for cls in type(model).__mro__:
        if "predict" in vars(cls):
            return bool(vars(cls).get(promise, False)) and bool(getattr(model, promise))
    return False
