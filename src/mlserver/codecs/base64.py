"""Binary: `list[bytes]` as a BYTES tensor of base64 text, which JSON can carry."""

from __future__ import annotations

import base64
import binascii
from typing import Any, ClassVar, List  # noqa: UP035 - the hint users compare with

from mlserver.codecs.base import InputCodec, register_input_codec
from mlserver.codecs.lists import column_of_bytes, elements_in, elements_of, is_list_of
from mlserver.errors import CodecError
from mlserver.types import RequestInput, ResponseOutput

__all__ = ["Base64Codec"]


@register_input_codec
class Base64Codec(InputCodec):
    """List of bytes <-> BYTES tensor of shape [N, 1]."""

    ContentType: ClassVar[str] = "base64"
    TypeHint: ClassVar[Any] = List[bytes]  # noqa: UP006

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return is_list_of(payload, bytes)

    @classmethod
    def encode_output(cls, name: str, payload: Any, use_bytes: bool = True, **kwargs: Any) -> ResponseOutput:
        """use_bytes: base64 as ASCII bytes, else as str. Elements that are str are taken as ASCII."""
        encoded = [base64.b64encode(raw) for raw in _to_bytes(name, elements_of(payload))]
        return column_of_bytes(name, cls.ContentType, encoded, use_bytes)

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        """A list of bytes. What is not strictly base64 is taken as it is.

        Raises CodecError for null, numbers and text that is not ASCII.
        """
        return [_decode(raw) for raw in _to_bytes(request_input.name, elements_in(request_input))]


def _to_bytes(name: str, elements: list[Any]) -> list[bytes]:
    raw = []
    for index, element in enumerate(elements):
        if isinstance(element, (bytes, bytearray, memoryview)):
            raw.append(bytes(element))
        elif isinstance(element, str) and element.isascii():
            raw.append(element.encode("ascii"))
        else:
            what = "text that is not ASCII" if isinstance(element, str) else type(element).__name__
            raise CodecError(f"'{name}': element {index} is {what}, expected bytes or base64 text")
    return raw


def _decode(raw: bytes) -> bytes:
    if len(raw) % 4:
        return raw
    try:
        return base64.b64decode(raw, validate=True)
    except binascii.Error:
        return raw
