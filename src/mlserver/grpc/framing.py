"""Messages in a stream of DATA: a byte that says whether it is compressed, a length of four, the message."""

from __future__ import annotations

import sys
import zlib

import numpy as np

from mlserver.grpc.status import Code, RpcError
from mlserver.wire.protobuf import raw_tensor_offset

__all__ = ["CODINGS", "Assembler", "compress", "decompress", "prefix_of"]

Message = tuple[bytes | bytearray | memoryview, bool]

_PREFIX = 5
# What a client says of the size of a message is believed up to here; beyond, it has to send some of it first.
_BELIEVED = 8 * 1024 * 1024
# Raw tensors are placed so that numpy can use them where they are.
_ALIGNMENT = 16
# zlib's window sizes: gzip container, zlib container.
CODINGS = {"gzip": 31, "deflate": 15}


def prefix_of(length: int, compressed: bool = False) -> bytes:
    """What stands before a message."""
    return b"%c%b" % (compressed, length.to_bytes(4, "big"))


def compress(coding: str, message: bytes) -> bytes:
    """At the quickest level: what it saves on the wire must not cost more on the CPU."""
    stream = zlib.compressobj(1, zlib.DEFLATED, CODINGS[coding])
    return stream.compress(message) + stream.flush()


def decompress(coding: str | None, message: bytes | bytearray | memoryview, limit: float) -> bytes:
    """A message of `limit` bytes at most. Raises RpcError."""
    if coding not in CODINGS:
        known = ", ".join(CODINGS)
        if coding is None or coding == "identity":
            raise RpcError(Code.INTERNAL, "a message is compressed, but `grpc-encoding` does not say how")
        raise RpcError(Code.UNIMPLEMENTED, f"the message encoding '{coding}' is not one of {known}")
    stream = zlib.decompressobj(CODINGS[coding])
    try:
        # 0 means no limit to zlib; one byte more than may be tells that there is too much.
        plain = stream.decompress(message, 0 if limit == float("inf") else int(limit) + 1)
    except zlib.error as exc:
        raise RpcError(Code.INTERNAL, f"a message is no valid {coding} stream: {exc}") from exc
    if len(plain) > limit:
        raise too_large(len(plain), limit, "once decompressed ")
    if not stream.eof:
        raise RpcError(Code.INTERNAL, f"the {coding} stream of a message ends too early")
    return plain


def too_large(size: int, limit: float, when: str = "") -> RpcError:
    return RpcError(
        Code.RESOURCE_EXHAUSTED,
        f"a message {when}has {size} bytes or more, `grpc_max_message_length` allows {limit:.0f}",
    )


class Assembler:
    """Puts the messages of one stream together, each in a block of its own: one copy, from the read buffer.

    limit: of the size of a message, in bytes.
    """

    __slots__ = ("_at", "_begin", "_block", "_compressed", "_limit", "_prefix", "_stop")

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._prefix = b""
        self._block: memoryview | None = None  # None between messages
        self._begin = self._at = self._stop = 0  # of the message in the block: to here it is there
        self._compressed = False

    @property
    def incomplete(self) -> bool:
        """Whether the stream must not end here."""
        return bool(self._prefix) or self._block is not None

    @property
    def held(self) -> int:
        """Bytes of memory that a message on its way takes."""
        return 0 if self._block is None else len(self._block)

    @property
    def missing(self) -> int:
        """Bytes of a message on its way that are still to come, its prefix left out."""
        return 0 if self._block is None else self._stop - self._at

    def take(self, chunk: memoryview) -> bool:
        """Take what is neither beginning nor end of a message, nor needs more memory; False for the rest,
        which is for `feed`.
        """
        block = self._block
        end = self._at + len(chunk)
        if block is None or end >= self._stop or end > len(block):
            return False
        block[self._at : end] = chunk
        self._at = end
        return True

    def feed(self, chunk: memoryview, most: int = sys.maxsize) -> tuple[list[Message], memoryview]:
        """The messages that `chunk` completes, `most` of them, and whether each is compressed; then the part
        of it that was not looked at. Raises RpcError.
        """
        complete: list[Message] = []
        while len(complete) < most and len(chunk):
            block = self._block
            if block is None:
                missing = _PREFIX - len(self._prefix)
                self._prefix += bytes(chunk[:missing])
                if len(self._prefix) < _PREFIX:
                    break
                chunk = chunk[missing:]
                block = self._start(chunk)
            part = chunk[: self._stop - self._at]
            end = self._at + len(part)
            if end > len(block):
                block = self._grow(block)
            block[self._at : end] = part
            self._at = end
            chunk = chunk[len(part) :]
            if end < self._stop:
                break
            complete.append((block[self._begin :], self._compressed))
            self._block = None
        return complete, chunk

    def _start(self, start: memoryview) -> memoryview:
        """A block for the message whose prefix is here; start: what is there of the message."""
        flag, size = self._prefix[0], int.from_bytes(self._prefix[1:], "big")
        self._prefix = b""
        if flag > 1:
            raise RpcError(Code.INTERNAL, f"a message begins with the byte {flag}, which is neither 0 nor 1")
        if size > self._limit:
            raise too_large(size, self._limit)
        self._compressed = bool(flag)
        self._begin = self._at = 0 if flag else -raw_tensor_offset(start) % _ALIGNMENT
        self._stop = self._begin + size
        self._block = block = _new_block(self._begin + min(size, max(_BELIEVED, len(start))))
        return block

    def _grow(self, block: memoryview) -> memoryview:
        self._block = larger = _new_block(min(self._stop, 4 * len(block)))
        larger[: self._at] = block[: self._at]
        return larger


def _new_block(size: int) -> memoryview:
    """Memory that nobody has cleared: every byte of it is written before any is read."""
    return np.empty(size, np.uint8).data
