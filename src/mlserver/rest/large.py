"""The body of a large request, read into one block."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlserver.rest.protocol import HttpProtocol

__all__ = ["LARGE_BODY", "LargeBody"]

# From so many bytes on, collecting pieces and joining them costs more than a change of protocol.
LARGE_BODY = 256 * 1024
# What a client says of the size of its body is believed up to here; beyond, it has to send some of it first.
_BELIEVED = 4 * 1024 * 1024


class LargeBody(asyncio.BufferedProtocol):
    """Takes the place of a connection's protocol until the body is complete.

    The socket writes straight into the block that becomes the body: no pieces, no joining. Never reads past
    the end of the body. All that is not reading goes to the connection.
    """

    def __init__(self, connection: HttpProtocol, size: int, begin: bytes) -> None:
        self._connection = connection
        self._size = size
        self._content = bytearray(min(size, max(_BELIEVED, len(begin))))
        self._content[: len(begin)] = begin
        self._filled = len(begin)
        self._rest = memoryview(self._content)[self._filled :]

    def get_buffer(self, sizehint: int) -> memoryview:
        if not self._rest:
            self._grow()
        return self._rest

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        self._rest = self._rest[nbytes:]
        if self._filled < self._size:
            self._connection.body_continues()
        else:
            self._connection.body_complete(self._content)

    def _grow(self) -> None:
        self._rest.release()
        self._content += bytes(min(3 * self._filled, self._size - self._filled))
        self._rest = memoryview(self._content)[self._filled :]

    def eof_received(self) -> bool:
        return self._connection.eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
