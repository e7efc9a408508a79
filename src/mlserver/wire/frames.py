"""Frames between the front and a worker: a header in MessagePack, and bytes behind it that nobody looks at.

uint32 size of the header | uint32 size of what follows it | header | bytes
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

__all__ = ["FrameReader", "encode_frame"]

_PREFIX = struct.Struct("<II")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode

Buffer = bytes | bytearray | memoryview


def encode_frame(header: Any, pieces: Sequence[Buffer] = ()) -> bytes:
    """header: anything that MessagePack can hold. pieces: the bytes behind it."""
    encoded = _encode(header)
    size = sum(map(len, pieces))
    return b"".join((_PREFIX.pack(len(encoded), size), encoded, *pieces))


class FrameReader:
    """Frames out of a stream of bytes that comes in any portions."""

    __slots__ = ("_have", "_need", "_parts")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._have = 0
        self._need = _PREFIX.size

    def feed(self, data: bytes) -> Iterator[tuple[Any, bytes]]:
        """Each frame that is complete, as its header and the bytes behind it."""
        self._parts.append(data)
        self._have += len(data)
        if self._have < self._need:
            return
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        at, end = 0, len(data)
        self._need = _PREFIX.size
        while end - at >= _PREFIX.size:
            head, body = _PREFIX.unpack_from(data, at)
            start = at + _PREFIX.size
            if end - start < head + body:
                self._need = _PREFIX.size + head + body
                break
            middle, at = start + head, start + head + body
            yield _decode(data[start:middle]), data[middle:at]
        self._parts = [data[at:]] if at < end else []
        self._have = end - at
