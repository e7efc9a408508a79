"""Bodies in chunks, as they arrive. Pure: no socket, no clock.

Stricter than it has to be, since two parties that disagree on where a body ends can be played off against
each other: lines end in CR LF, sizes are hexadecimal digits and nothing else. Extensions and trailers are
skipped; they mean nothing to this server.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["BadChunk", "ChunkedBody"]

# A size of more digits is larger than anything that can be sent.
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})([ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")
_MAX_LINE = 4096


class BadChunk(Exception):
    """No chunked body. `status`: 400, or 413 where the body is too large, 431 where the rest is."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


class ChunkedBody:
    """One body. max_body: bytes of content; max_extra: bytes of extensions and trailers together."""

    __slots__ = ("_expects", "_extra", "_left", "_line", "_max_body", "content")

    def __init__(self, max_body: float, max_extra: int) -> None:
        self.content = bytearray()
        self._max_body = max_body
        self._extra = max_extra
        self._left = 0  # bytes of this chunk that are still to come
        self._line = b""  # the beginning of a line
        self._expects: Callable[[ChunkedBody, bytes], bool] = ChunkedBody._on_size

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes. Returns those behind the end of the body, or None before it. Raises BadChunk."""
        at, size = 0, len(data)
        while at < size:
            if self._left:
                piece = data[at : at + self._left]
                self.content += piece
                self._left -= len(piece)
                at += len(piece)
                continue
            end = data.find(b"\n", at) + 1
            line = self._line + data[at : end or size]
            if self._expects is ChunkedBody._on_end_of_chunk and not b"\r\n".startswith(line):
                raise BadChunk("a chunk is longer than it says")
            if len(line) > _MAX_LINE:
                raise BadChunk(f"a line between chunks is longer than {_MAX_LINE} bytes", 431)
            if not end:
                self._line = line
                return None
            self._line = b""
            at = end
            if self._expects(self, line):
                return data[at:]
        return None

    def _on_size(self, line: bytes) -> bool:
        match = _SIZE.fullmatch(line)
        if match is None:
            raise BadChunk(f"not the size of a chunk: {line[:40]!r}")
        self._take_extra(len(match[2] or b""))
        self._left = int(match[1], 16)
        if len(self.content) + self._left > self._max_body:
            raise BadChunk("the body is too large", 413)
        self._expects = ChunkedBody._on_end_of_chunk if self._left else ChunkedBody._on_trailer
        return False

    def _on_end_of_chunk(self, line: bytes) -> bool:
        self._expects = ChunkedBody._on_size
        return False

    def _on_trailer(self, line: bytes) -> bool:
        """Whether this is the empty line that ends the body."""
        if line == b"\r\n":
            return True
        if not _TRAILER.fullmatch(line):
            raise BadChunk(f"not a trailer: {line[:40]!r}")
        self._take_extra(len(line))
        return False

    def _take_extra(self, size: int) -> None:
        self._extra -= size
        if self._extra < 0:
            raise BadChunk("the extensions and trailers of the chunks are too large", 431)
