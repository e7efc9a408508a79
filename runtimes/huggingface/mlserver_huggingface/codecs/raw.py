"""Single values: keyword arguments such as `max_new_tokens`."""

from __future__ import annotations

from typing import Any, ClassVar, Union

from mlserver.codecs import InputCodec, register_input_codec
from mlserver.codecs.lists import elements_of
from mlserver.errors import CodecError
from mlserver.tensor import TensorData
from mlserver.types import Parameters, RequestInput, ResponseOutput

__all__ = ["RawCodec"]


@register_input_codec
class RawCodec(InputCodec):
    """A number or a text <-> BYTES tensor of shape [1]."""

    ContentType: ClassVar[str] = "raw"
    TypeHint: ClassVar[Any] = Union[int, float, str]  # noqa: UP007

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, (int, float, str))

    @classmethod
    def encode_output(cls, name: str, payload: Any, **kwargs: Any) -> ResponseOutput:
        return ResponseOutput.build(
            name=name,
            shape=[1],
            datatype="BYTES",
            parameters=Parameters.of_content_type(cls.ContentType),
            data=TensorData([payload]),
        )

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        """The first value, text where it came as bytes. Raises CodecError when there is none."""
        elements = elements_of(request_input.data)
        if not elements:
            raise CodecError(f"'{request_input.name}' is empty, expected one value")
        value = elements[0]
        if isinstance(value, (bytes, bytearray, memoryview)):
            try:
                return str(value, "utf-8")
            except UnicodeDecodeError as exc:
                raise CodecError(f"'{request_input.name}': bytes that are not UTF-8 ({exc})") from exc
        return value
