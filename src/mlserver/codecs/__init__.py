"""Codecs: tensors <-> Python objects by content type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlserver.codecs.base import (
    InputCodec,
    InputCodecLike,
    RequestCodec,
    RequestCodecLike,
    register_deferred_request_codec,
    register_input_codec,
    register_request_codec,
)

# Lookup by payload goes through codecs in order of registration, which is the order of these imports.
from mlserver.codecs.string import StringCodec, StringRequestCodec  # isort: skip
from mlserver.codecs.numpy import NumpyCodec, NumpyRequestCodec  # isort: skip
from mlserver.codecs.base64 import Base64Codec  # isort: skip
from mlserver.codecs.datetime import DatetimeCodec  # isort: skip
from mlserver.codecs.decorator import decode_args
from mlserver.codecs.utils import (
    DecodedParameterName,
    decode_inference_request,
    decode_request_input,
    encode_inference_response,
    encode_response_output,
    get_decoded,
    get_decoded_or_raw,
    has_decoded,
)
from mlserver.errors import CodecError

if TYPE_CHECKING:
    from mlserver.codecs.pandas import PandasCodec

__all__ = [
    "Base64Codec",
    "CodecError",
    "DatetimeCodec",
    "DecodedParameterName",
    "InputCodec",
    "InputCodecLike",
    "NumpyCodec",
    "NumpyRequestCodec",
    "PandasCodec",
    "RequestCodec",
    "RequestCodecLike",
    "StringCodec",
    "StringRequestCodec",
    "decode_args",
    "decode_inference_request",
    "decode_request_input",
    "encode_inference_response",
    "encode_response_output",
    "get_decoded",
    "get_decoded_or_raw",
    "has_decoded",
    "register_input_codec",
    "register_request_codec",
]

register_deferred_request_codec("pd", "mlserver.codecs.pandas", "PandasCodec", needs="pandas")


def __getattr__(name: str) -> Any:
    if name == "PandasCodec":
        from mlserver.codecs.pandas import PandasCodec

        globals()[name] = PandasCodec
        return PandasCodec
    raise AttributeError(f"module 'mlserver.codecs' has no attribute '{name}'")
