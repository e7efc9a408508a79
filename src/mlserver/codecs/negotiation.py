"""Which codec decodes an input or a request, and which one encodes what a model returns.

- An input: its own content type, then the one that the model declares for an input of that name; then the
  default codec, then the raw data.
- A request: every input first, by the same rule without the default. Then the content type of the request,
  then the model's; then the default codec, then the request itself.
- An output: the content type that the caller asked for, then the one that the model declares, or without
  either the first codec that can encode the payload; then the default codec.
- A response: the first request codec that can encode the payload, then the default codec.

A content type that nobody registered ends the search for content types: what follows is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlserver.codecs import base
from mlserver.codecs.base import InputCodecLike, RequestCodecLike
from mlserver.codecs.decoded import get_decoded, has_decoded, save_decoded
from mlserver.codecs.json import PANDAS_JSON, decode_json_input_or_output
from mlserver.errors import CodecNotFound
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)

__all__ = [
    "decode_inference_request",
    "decode_input",
    "decode_request",
    "decode_request_input",
    "encode_inference_response",
    "encode_output",
    "encode_response",
    "encode_response_output",
]

Metadata = Mapping[str, MetadataTensor]

_NOTHING: Any = object()
_NO_METADATA: Metadata = {}


def decode_input(
    request_input: RequestInput,
    metadata_inputs: Metadata = _NO_METADATA,
    default_codec: InputCodecLike | None = None,
) -> Any:
    """The object that an input holds. Raises CodecError when it does not hold what its content type says."""
    decoded = _decode_by_content_type(request_input, metadata_inputs)
    if decoded is not _NOTHING:
        return decoded
    if has_decoded(request_input):
        return get_decoded(request_input)
    if default_codec is not None:
        return default_codec.decode_input(request_input)
    return request_input.data


def decode_request(
    request: InferenceRequest,
    model_settings: Any = None,
    metadata_inputs: Metadata = _NO_METADATA,
    default_codec: RequestCodecLike | None = None,
) -> Any:
    """The object that a request holds; without a codec the request, decoded forms attached to its inputs."""
    for request_input in request.inputs:
        if (
            _decode_by_content_type(request_input, metadata_inputs) is _NOTHING
            and metadata_inputs
            and _content_type(request_input, metadata_inputs) == PANDAS_JSON
        ):
            # No codec is called that, so `decode` leaves it alone; a column declared so is JSON.
            save_decoded(request_input, decode_json_input_or_output(request_input), PANDAS_JSON)
    parameters = request.parameters
    content_type = parameters.content_type if parameters is not None else None
    if not content_type and model_settings is not None and model_settings.parameters is not None:
        content_type = model_settings.parameters.content_type
    codec = base.find_request_codec(content_type) if content_type else None
    if codec is not None:
        decoded = codec.decode_request(request)
        save_decoded(request, decoded)
        return decoded
    return request if default_codec is None else default_codec.decode_request(request)


def encode_output(
    payload: Any,
    request_output: RequestOutput,
    metadata_outputs: Metadata = _NO_METADATA,
    default_codec: InputCodecLike | None = None,
) -> ResponseOutput:
    """A response tensor named as asked that holds the payload. Raises CodecNotFound when no codec fits."""
    codec = _codec_for_output(payload, request_output, metadata_outputs) or default_codec
    if codec is None:
        raise CodecNotFound(request_output.name, str(type(payload)))
    return codec.encode_output(request_output.name, payload)


def encode_response(
    payload: Any,
    model_name: str,
    model_version: str | None = None,
    default_codec: RequestCodecLike | None = None,
) -> InferenceResponse:
    """A response that holds the payload. Raises CodecNotFound when no codec fits."""
    codec = base.find_request_codec_by_payload(payload) or default_codec
    if codec is None:
        raise CodecNotFound(payload_type=str(type(payload)), is_request=True)
    return codec.encode_response(model_name, payload, model_version)


def decode_request_input(request_input: RequestInput, metadata_inputs: Metadata = _NO_METADATA) -> Any:
    """Decode an input by its content type and keep the result on it; None without a known content type."""
    decoded = _decode_by_content_type(request_input, metadata_inputs)
    return None if decoded is _NOTHING else decoded


def decode_inference_request(
    inference_request: InferenceRequest, model_settings: Any = None, metadata_inputs: Metadata = _NO_METADATA
) -> Any:
    """Decode a request by its content types; the request itself when it has none."""
    return decode_request(inference_request, model_settings, metadata_inputs)


def encode_response_output(
    payload: Any, request_output: RequestOutput, metadata_outputs: Metadata = _NO_METADATA
) -> ResponseOutput | None:
    """A response tensor that holds the payload; None when no codec fits."""
    codec = _codec_for_output(payload, request_output, metadata_outputs)
    return None if codec is None else codec.encode_output(request_output.name, payload)


def encode_inference_response(payload: Any, model_settings: Any) -> InferenceResponse | None:
    """A response of the model with these settings that holds the payload; None when no codec can."""
    codec = base.find_request_codec_by_payload(payload)
    if codec is None:
        return None
    return codec.encode_response(model_settings.name, payload, model_settings.version)


def _content_type(tensor: RequestInput | RequestOutput, metadata: Metadata) -> str | None:
    parameters = tensor.parameters
    if parameters is not None and parameters.content_type:
        return parameters.content_type
    declared = metadata.get(tensor.name) if metadata else None
    if declared is None or declared.parameters is None:
        return None
    return declared.parameters.content_type or None


def _decode_by_content_type(request_input: RequestInput, metadata_inputs: Metadata) -> Any:
    content_type = _content_type(request_input, metadata_inputs)
    codec = base.find_input_codec(content_type) if content_type else None
    if codec is None:
        return _NOTHING
    decoded = codec.decode_input(request_input)
    save_decoded(request_input, decoded, content_type)
    return decoded


def _codec_for_output(
    payload: Any, request_output: RequestOutput, metadata_outputs: Metadata
) -> InputCodecLike | None:
    content_type = _content_type(request_output, metadata_outputs)
    if content_type:
        return base.find_input_codec(content_type)
    return base.find_input_codec_by_payload(payload)
