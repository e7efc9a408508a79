"""What codecs share, and the helpers that user code calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from mlserver.codecs.base import InputCodecLike, RequestCodec, RequestCodecLike
from mlserver.codecs.decoded import (
    DecodedParameterName,
    Parametrised,
    get_decoded,
    get_decoded_or_raw,
    has_decoded,
    save_decoded,
)
from mlserver.codecs.negotiation import (
    decode_inference_request,
    decode_request_input,
    encode_inference_response,
    encode_response_output,
)
from mlserver.errors import CodecError
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput

__all__ = [
    "Codec",
    "DecodedParameterName",
    "DefaultInputPrefix",
    "DefaultOutputPrefix",
    "InputOrOutput",
    "Parametrised",
    "SingleInputRequestCodec",
    "decode_inference_request",
    "decode_request_input",
    "encode_inference_response",
    "encode_response_output",
    "get_decoded",
    "get_decoded_or_raw",
    "has_decoded",
    "inject_batch_dimension",
]

DefaultInputPrefix: Final = "input-"
DefaultOutputPrefix: Final = "output-"

InputOrOutput = RequestInput | ResponseOutput
Codec = InputCodecLike | RequestCodecLike

_save_decoded = save_decoded


def inject_batch_dimension(shape: Sequence[int]) -> list[int]:
    """The shape with a dimension of 1 appended when it has none, or only one: () -> [1], (N,) -> [N, 1]."""
    return [*shape, 1] if len(shape) < 2 else list(shape)


class SingleInputRequestCodec(RequestCodec):
    """A request or response that is one tensor.

    A subclass sets `InputCodec`, the codec of that tensor, and `ContentType`.
    """

    InputCodec: ClassVar[InputCodecLike | None] = None

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return cls.InputCodec is not None and cls.InputCodec.can_encode(payload)

    @classmethod
    def encode_response(
        cls, model_name: str, payload: Any, model_version: str | None = None, **kwargs: Any
    ) -> InferenceResponse:
        output = cls._input_codec().encode_output(f"{DefaultOutputPrefix}1", payload, **kwargs)
        return InferenceResponse.build(
            model_name=model_name,
            model_version=model_version,
            parameters=Parameters.of_content_type(cls.ContentType),
            outputs=[output],
        )

    @classmethod
    def decode_response(cls, response: InferenceResponse) -> Any:
        """The object in the only output. Raises CodecError unless there is exactly one."""
        return cls._decode_only(response.outputs, "output")

    @classmethod
    def encode_request(cls, payload: Any, **kwargs: Any) -> InferenceRequest:
        request_input = cls._input_codec().encode_input(f"{DefaultInputPrefix}1", payload, **kwargs)
        return InferenceRequest.build(
            parameters=Parameters.of_content_type(cls.ContentType), inputs=[request_input]
        )

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> Any:
        """The object in the only input, decoded already or now. Raises CodecError unless there is one."""
        return cls._decode_only(request.inputs, "input")

    @classmethod
    def _decode_only(cls, tensors: Sequence[Any], kind: str) -> Any:
        if len(tensors) != 1:
            raise CodecError(
                f"The '{cls.ContentType}' codec only supports a single {kind} tensor "
                f"({len(tensors)} were received)"
            )
        (tensor,) = tensors
        if has_decoded(tensor):
            return get_decoded(tensor)
        codec = cls.InputCodec
        if codec is None:
            return tensor.data
        decoded = codec.decode_input(tensor) if kind == "input" else codec.decode_output(tensor)
        save_decoded(tensor, decoded)
        return decoded

    @classmethod
    def _input_codec(cls) -> InputCodecLike:
        if cls.InputCodec is None:
            raise NotImplementedError(f"{cls.__name__} does not set InputCodec")
        return cls.InputCodec
