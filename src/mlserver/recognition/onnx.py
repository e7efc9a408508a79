"""The top level of an ONNX file, which is a protobuf message: who made it, for which operators."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["describe_onnx"]

_IR_VERSION, _PRODUCER, _PRODUCER_VERSION, _GRAPH, _OPSET = 1, 2, 3, 7, 8
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_SHORT = 1_000  # bytes of a field that is worth while to look at


def describe_onnx(path: str) -> str | None:
    """Producer, format and operator sets of a file; None if it is no ONNX model."""
    size = os.path.getsize(path)
    fields: dict[int, int | bytes] = {}
    opsets = []
    try:
        with open(path, "rb") as file:
            for number, value in _fields(file, size):
                fields[number] = value
                if number == _OPSET and isinstance(value, bytes):
                    opsets.append(_opset(value))
    except ValueError:
        return None
    version = fields.get(_IR_VERSION)
    if not isinstance(version, int) or _GRAPH not in fields:
        return None
    producer = " ".join(filter(None, (_text(fields.get(key)) for key in (_PRODUCER, _PRODUCER_VERSION))))
    return f"made by {producer or 'an unknown tool'}, IR {version}, opset {', '.join(sorted(set(opsets)))}"


def _opset(content: bytes) -> str:
    fields = dict(_fields(io.BytesIO(content), len(content)))
    version = fields.get(_OPSET_VERSION)
    return f"{_text(fields.get(_OPSET_DOMAIN)) or 'ai.onnx'} {version if isinstance(version, int) else '?'}"


def _text(value: int | bytes | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _fields(file: BinaryIO, size: int) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of the fields; long ones are passed over, as no bytes. Raises ValueError."""
    while file.tell() < size:
        tag = _varint(file)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("no field has the number 0")  # such as of a file that was never written
        if wire == 0:
            yield number, _varint(file)
        elif wire == 2:
            length = _varint(file)
            if file.tell() + length > size:
                raise ValueError("a field is longer than the message")
            yield number, file.read(length) if length <= _SHORT else b""
            if length > _SHORT:
                file.seek(length, os.SEEK_CUR)
        else:
            raise ValueError(f"no field of ONNX has wire type {wire}")


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while shift < 70:
        byte = file.read(1)
        if not byte:
            raise ValueError("the message ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
    raise ValueError("a number of more than ten bytes")
