"""Images: a list of PIL images as a BYTES tensor of base64, which JSON can carry."""

from __future__ import annotations

import base64
import binascii
import io
import re
from typing import Any, ClassVar, List  # noqa: UP035 - the hint users compare with

from PIL import Image

from mlserver.codecs import InputCodec, register_input_codec
from mlserver.codecs.lists import column_of_bytes, elements_of, is_list_of
from mlserver.errors import CodecError
from mlserver.types import RequestInput, ResponseOutput

__all__ = ["PILImageCodec", "data_uri", "decode_image"]

_DATA_URI = re.compile(r"data:[\w/+.-]*(;[\w=-]+)*,")


@register_input_codec
class PILImageCodec(InputCodec):
    """List of PIL images <-> BYTES tensor of shape [N, 1]: image files (PNG, JPEG, ...) as base64."""

    ContentType: ClassVar[str] = "pillow_image"
    TypeHint: ClassVar[Any] = List[Image.Image]  # noqa: UP006

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, list) and len(payload) > 0 and is_list_of(payload, Image.Image)

    @classmethod
    def encode_output(cls, name: str, payload: Any, use_bytes: bool = True, **kwargs: Any) -> ResponseOutput:
        """use_bytes: base64 as ASCII bytes, else as str. An image keeps its format; without one it is PNG."""
        encoded = [base64.b64encode(_file_of(image)) for image in payload]
        return column_of_bytes(name, cls.ContentType, encoded, use_bytes)

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        """A list of images, from base64, data URIs, or the bytes of image files as gRPC can send them.

        Raises CodecError naming the first element that holds no image.
        """
        return [
            decode_image(request_input.name, index, element)
            for index, element in enumerate(elements_of(request_input.data))
        ]


def decode_image(name: str, index: int, element: Any) -> Image.Image:
    """The image that an element of the tensor `name` holds. Raises CodecError."""
    if isinstance(element, str):
        start = _DATA_URI.match(element)
        file = (
            element[start.end() :].encode("utf-8", "replace") if start else element.encode(errors="replace")
        )
    elif isinstance(element, (bytes, bytearray, memoryview)):
        file = bytes(element)
    else:
        raise CodecError(
            f"'{name}': element {index} is {type(element).__name__}, expected an image as base64"
        )
    try:
        file = base64.b64decode(file, validate=True)
    except (binascii.Error, ValueError):
        pass  # then it is the file itself, or nothing
    try:
        image = Image.open(io.BytesIO(file))
        image.load()
    except Exception as exc:  # Pillow's readers raise whatever a broken file makes them raise
        raise CodecError(f"'{name}': element {index} is no image that can be read ({exc})") from exc
    return image


def _file_of(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format=image.format or "PNG")
    return file.getvalue()


def data_uri(image: Image.Image) -> str:
    """An image as text: `data:image/png;base64,...`."""
    kind = (image.format or "PNG").lower()
    return f"data:image/{kind};base64,{base64.b64encode(_file_of(image)).decode('ascii')}"
