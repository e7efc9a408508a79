"""Text: `list[str]` as a BYTES tensor of UTF-8."""

from __future__ import annotations

from typing import Any, ClassVar, List  # noqa: UP035 - the hint users compare with

from mlserver.codecs.base import (
    InputCodec,
    register_input_codec,
    register_request_codec,
)
from mlserver.codecs.lists import elements_in, elements_of, is_list_of
from mlserver.codecs.utils import SingleInputRequestCodec
from mlserver.errors import CodecError
from mlserver.tensor import TensorData
from mlserver.types import Parameters, RequestInput, ResponseOutput

__all__ = ["StringCodec", "StringRequestCodec", "decode_str", "encode_str"]


def encode_str(elem: str) -> bytes:
    """UTF-8."""
    return elem.encode()


def decode_str(encoded: Any) -> Any:
    """Text from UTF-8 bytes; text and None as they are; anything else is empty text."""
    if isinstance(encoded, bytes):
        return encoded.decode()
    if encoded is None or isinstance(encoded, str):
        return encoded
    return str(encoded, "utf-8") if isinstance(encoded, (bytearray, memoryview)) else ""


@register_input_codec
class StringCodec(InputCodec):
    """List of str <-> BYTES tensor of shape [N, 1], None as null."""

    ContentType: ClassVar[str] = "str"
    TypeHint: ClassVar[Any] = List[str]  # noqa: UP006

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return is_list_of(payload, str)

    @classmethod
    def encode_output(cls, name: str, payload: Any, use_bytes: bool = True, **kwargs: Any) -> ResponseOutput:
        """use_bytes: UTF-8 bytes, else str, as JSON wants.

        Raises CodecError naming an element that is neither str nor None.
        """
        elements = elements_of(payload)
        try:
            if not is_list_of(elements, str):
                _refuse_other_types(name, elements)
            data = [None if e is None else encode_str(e) for e in elements] if use_bytes else elements
        except UnicodeEncodeError as exc:
            raise CodecError(f"'{name}': text that UTF-8 cannot hold ({exc})") from exc
        return ResponseOutput.build(
            name=name,
            shape=[len(data), 1],
            datatype="BYTES",
            parameters=Parameters.of_content_type(cls.ContentType),
            data=TensorData(data),
        )

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        """A list of str; null is None. The datatype does not matter, nor the shape of a single element.

        Raises CodecError for bytes that are not UTF-8, InvalidTensor for several that do not fill the shape.
        """
        elements = elements_in(request_input)
        if is_list_of(elements, str):
            return elements
        try:
            return [decode_str(element) for element in elements]
        except UnicodeDecodeError as exc:
            raise CodecError(f"'{request_input.name}': bytes that are not UTF-8 ({exc})") from exc


def _refuse_other_types(name: str, elements: list[Any]) -> None:
    for index, element in enumerate(elements):
        if element is not None and not isinstance(element, str):
            raise CodecError(f"'{name}': element {index} is {type(element).__name__}, expected str")


@register_request_codec
class StringRequestCodec(SingleInputRequestCodec):
    """List of str <-> a request or response of one BYTES tensor."""

    InputCodec = StringCodec
    ContentType: ClassVar[str] = StringCodec.ContentType
    TypeHint: ClassVar[Any] = List[str]  # noqa: UP006
