"""Whole requests: the keyword arguments of a pipeline."""

from __future__ import annotations

from typing import Any, ClassVar

from mlserver.codecs import (
    Base64Codec,
    DatetimeCodec,
    NumpyCodec,
    RequestCodec,
    StringCodec,
    register_request_codec,
)
from mlserver.codecs.base import InputCodecLike, find_input_codec
from mlserver.codecs.decoded import get_decoded, has_decoded
from mlserver.errors import CodecError
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestInput,
    ResponseOutput,
)
from mlserver_huggingface.codecs.conversation import HuggingfaceConversationCodec
from mlserver_huggingface.codecs.image import PILImageCodec
from mlserver_huggingface.codecs.json import HuggingfaceListJSONCodec, HuggingfaceSingleJSONCodec
from mlserver_huggingface.codecs.numpylist import NumpyListCodec
from mlserver_huggingface.codecs.raw import RawCodec

__all__ = ["OUTPUT_PREFIX", "HuggingfaceRequestCodec"]

OUTPUT_PREFIX = "output_"

_BY_PAYLOAD: tuple[InputCodecLike, ...] = (
    PILImageCodec,
    HuggingfaceSingleJSONCodec,
    HuggingfaceListJSONCodec,
    HuggingfaceConversationCodec,
    NumpyListCodec,
    RawCodec,
    StringCodec,
    NumpyCodec,
    Base64Codec,
    DatetimeCodec,
)


@register_request_codec
class HuggingfaceRequestCodec(RequestCodec):
    """Keyword arguments of a pipeline <-> a request with one input each; results <-> outputs."""

    ContentType: ClassVar[str] = "hf"
    TypeHint: ClassVar[Any] = dict[str, Any]

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """A dict of values that can be encoded, or a list of what pipelines answer with."""
        if isinstance(payload, dict):
            return all(isinstance(name, str) for name in payload) and all(
                _codec_for(value) is not None for value in payload.values()
            )
        return isinstance(payload, list) and _codec_for(payload) is HuggingfaceListJSONCodec

    @classmethod
    def encode_request(cls, payload: Any, **kwargs: Any) -> InferenceRequest:
        """payload: values by name. Raises CodecError naming a value that nothing can encode."""
        return InferenceRequest.build(
            parameters=Parameters.of_content_type(cls.ContentType),
            inputs=[
                _needed_codec(name, value).encode_input(name, value, **kwargs)
                for name, value in payload.items()
            ],
        )

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> Any:
        """Values by name, each by its own content type, text without one."""
        return {tensor.name: _decode(tensor) for tensor in request.inputs}

    @classmethod
    def encode_response(
        cls, model_name: str, payload: Any, model_version: str | None = None, **kwargs: Any
    ) -> InferenceResponse:
        """payload: values by name, or a list, whose elements become `output_0`, `output_1`, ..."""
        values = payload
        if not isinstance(payload, dict):
            elements = payload if isinstance(payload, list) else [payload]
            values = {f"{OUTPUT_PREFIX}{index}": value for index, value in enumerate(elements)}
        outputs = [
            _needed_codec(name, value).encode_output(name, value, **kwargs) for name, value in values.items()
        ]
        return InferenceResponse.build(
            model_name=model_name,
            model_version=model_version,
            parameters=Parameters.of_content_type(cls.ContentType),
            outputs=outputs,
        )

    @classmethod
    def decode_response(cls, response: InferenceResponse) -> Any:
        """A list where all outputs are named `output_<n>`, in that order; else a dict by name."""
        values = {tensor.name: _decode(tensor) for tensor in response.outputs}
        if values and all(name.startswith(OUTPUT_PREFIX) for name in values):
            return [values[name] for name in sorted(values, key=_number)]
        return values


def _number(name: str) -> tuple[int, str]:
    rest = name[len(OUTPUT_PREFIX) :]
    return (int(rest), "") if rest.isdigit() else (-1, name)


def _decode(tensor: RequestInput | ResponseOutput) -> Any:
    if has_decoded(tensor):
        return get_decoded(tensor)
    content_type = tensor.parameters.content_type if tensor.parameters is not None else None
    codec = find_input_codec(content_type) if content_type else None
    codec = codec or StringCodec
    return codec.decode_input(tensor) if isinstance(tensor, RequestInput) else codec.decode_output(tensor)


def _codec_for(value: Any) -> InputCodecLike | None:
    return next((codec for codec in _BY_PAYLOAD if codec.can_encode(value)), None)


def _needed_codec(name: str, value: Any) -> InputCodecLike:
    codec = _codec_for(value)
    if codec is None:
        raise CodecError(f"'{name}': no codec for a {type(value).__name__}")
    return codec
