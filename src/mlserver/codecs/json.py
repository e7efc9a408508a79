"""JSON inside of tensors: elements that are themselves JSON text."""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np
import orjson

from mlserver.codecs.lists import elements_of
from mlserver.errors import CodecError
from mlserver.types import RequestInput, ResponseOutput

__all__ = [
    "JSONEncoderWithArray",
    "decode_from_bytelike_json_to_dict",
    "decode_json_input_or_output",
    "encode_to_json",
    "encode_to_json_bytes",
]

# Content type of a tensor whose elements are JSON text each, as data frames with mixed columns have them.
PANDAS_JSON: Final = "pd_json"


def encode_to_json_bytes(v: Any) -> bytes:
    """Compact UTF-8 JSON: bytes are taken as UTF-8 text, NaN and infinities become null, dates ISO text.

    Raises TypeError for anything else that JSON does not have.
    """
    return orjson.dumps(v, default=_decode_bytes)


def decode_from_bytelike_json_to_dict(v: str | bytes | bytearray | memoryview) -> Any:
    """The value that a JSON text stands for. Raises a ValueError for text that is none."""
    return orjson.loads(v)


class JSONEncoderWithArray(json.JSONEncoder):
    """Knows numpy arrays and numbers."""

    def default(self, o: Any) -> Any:
        if isinstance(o, np.ndarray):
            return o.tolist()
        if isinstance(o, np.floating):
            return float(o)
        if isinstance(o, np.integer):
            return int(o)
        return super().default(o)


_encoder = JSONEncoderWithArray(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def encode_to_json(v: Any, use_bytes: bool = True) -> str | bytes:
    """Compact JSON text, or its UTF-8 bytes. Numpy arrays and numbers are allowed.

    Raises ValueError for NaN and infinities, TypeError for what JSON does not have.
    """
    text = _encoder.encode(v)
    return text.encode() if use_bytes else text


def decode_json_input_or_output(tensor: RequestInput | ResponseOutput) -> list[Any]:
    """The values that the elements of a tensor stand for, each of them JSON text; null stays None.

    Raises CodecError naming the first element that is no JSON.
    """
    values = []
    for index, element in enumerate(elements_of(tensor.data)):
        try:
            values.append(None if element is None else json.loads(element))
        except (ValueError, TypeError, RecursionError) as exc:
            raise CodecError(f"'{tensor.name}': element {index} is no JSON ({exc})") from exc
    return values


def _decode_bytes(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    raise TypeError(f"{type(value).__name__} is not JSON serialisable")
