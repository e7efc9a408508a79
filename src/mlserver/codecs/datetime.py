"""Points in time: `list[datetime]` as a BYTES tensor of ISO 8601 text."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Any, ClassVar, List, Union  # noqa: UP035 - the hint users compare with

from mlserver.codecs.base import InputCodec, register_input_codec
from mlserver.codecs.lists import elements_in, elements_of, is_list_of
from mlserver.errors import CodecError
from mlserver.tensor import TensorData
from mlserver.types import Parameters, RequestInput, ResponseOutput

__all__ = ["DatetimeCodec"]


@register_input_codec
class DatetimeCodec(InputCodec):
    """List of datetime <-> BYTES tensor of shape [N, 1], None as null."""

    ContentType: ClassVar[str] = "datetime"
    TypeHint: ClassVar[Any] = List[Union[str, datetime]]  # noqa: UP006, UP007

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return is_list_of(payload, datetime)

    @classmethod
    def encode_output(cls, name: str, payload: Any, use_bytes: bool = True, **kwargs: Any) -> ResponseOutput:
        """use_bytes: ISO text as ASCII bytes, else as str. Elements that are str pass as they are."""
        texts = [_to_text(name, index, element) for index, element in enumerate(elements_of(payload))]
        return ResponseOutput.build(
            name=name,
            shape=[len(texts), 1],
            datatype="BYTES",
            parameters=Parameters.of_content_type(cls.ContentType),
            data=TensorData([_encode(text) for text in texts] if use_bytes else texts),
        )

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        """A list of datetime; null is None, a date alone is its midnight.

        Raises CodecError naming an element that is no ISO 8601.
        """
        elements = elements_in(request_input)
        return [_to_datetime(request_input.name, index, element) for index, element in enumerate(elements)]


def _to_text(name: str, index: int, element: Any) -> str | None:
    if element is None:
        return None
    if isinstance(element, str) and element.isascii():
        return element
    if isinstance(element, date):  # datetime is one
        return element.isoformat()
    what = type(element).__name__
    raise CodecError(f"'{name}': element {index} is {what}, expected datetime or ISO 8601 text")


def _encode(text: str | None) -> bytes | None:
    return None if text is None else text.encode("ascii")


def _to_datetime(name: str, index: int, element: Any) -> datetime | None:
    if element is None:
        return None
    try:
        text = element.decode("ascii") if isinstance(element, bytes) else element
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            # What Python 3.11 and later take: a trailing Z, and digits beyond microseconds.
            return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", re.sub(r"[zZ]$", "+00:00", text)))
    except (ValueError, TypeError) as exc:
        shown = repr(element)[:60]
        raise CodecError(f"'{name}': element {index} is {shown}, expected ISO 8601 text") from exc
