"""Requests and responses that are a dict of arrays, as models with named tensors take and give."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from mlserver.codecs import NumpyCodec, RequestCodec, get_decoded_or_raw, register_request_codec
from mlserver.types import InferenceRequest, InferenceResponse, Parameters

__all__ = ["TensorDictCodec"]

TensorDict = dict[str, np.ndarray[Any, Any]]


@register_request_codec
class TensorDictCodec(RequestCodec):
    """dict[str, ndarray] <-> one tensor per key, named after it."""

    ContentType: ClassVar[str] = "dict"
    TypeHint: ClassVar[Any] = dict[str, np.ndarray]

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, dict) and all(isinstance(value, np.ndarray) for value in payload.values())

    @classmethod
    def encode_response(
        cls, model_name: str, payload: TensorDict, model_version: str | None = None, **kwargs: Any
    ) -> InferenceResponse:
        return InferenceResponse(
            model_name=model_name,
            model_version=model_version,
            parameters=Parameters(content_type=cls.ContentType),
            outputs=[NumpyCodec.encode_output(name, value, **kwargs) for name, value in payload.items()],
        )

    @classmethod
    def decode_response(cls, response: InferenceResponse) -> TensorDict:
        """Every output as an array, whatever its own content type."""
        return {output.name: NumpyCodec.decode_output(output) for output in response.outputs}

    @classmethod
    def encode_request(cls, payload: TensorDict, **kwargs: Any) -> InferenceRequest:
        return InferenceRequest(
            parameters=Parameters(content_type=cls.ContentType),
            inputs=[NumpyCodec.encode_input(name, value, **kwargs) for name, value in payload.items()],
        )

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> dict[str, Any]:
        """Every input as its own content type, or the metadata's, decoded it; without one, its raw data."""
        return {tensor.name: get_decoded_or_raw(tensor) for tensor in request.inputs}
