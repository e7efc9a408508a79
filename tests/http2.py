"""A client of HTTP/2 for tests: frames to bytes and back, and a record of what the server's caller heard."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from mlserver.wire.http2 import PREFACE, Connection, ErrorCode, Field, Headers, Limits, Stream, encode_headers

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x1, 0x4, 0x8, 0x20
TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, WINDOW, MAX_FRAME, MAX_LIST = range(1, 7)
MAX_WINDOW = 2**31 - 1

REQUEST: list[Field] = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
    (b":authority", b"localhost"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]
BLOCK = encode_headers(REQUEST)
HEAD = encode_headers([(b":status", b"200"), (b"content-type", b"application/grpc")])
TRAILERS = encode_headers([(b"grpc-status", b"0")])


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def headers(stream: int, block: bytes = BLOCK, end: bool = False) -> bytes:
    return frame(HEADERS, END_HEADERS | end, stream, block)


def data(stream: int, payload: bytes = b"", end: bool = False) -> bytes:
    return frame(DATA, int(end), stream, payload)


def padded(payload: bytes, padding: int) -> bytes:
    return bytes([padding]) + payload + bytes(padding)


def settings(values: Iterable[tuple[int, int]] = ()) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *value) for value in values))


def credit(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def reset(stream: int, code: int = ErrorCode.CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> ErrorCode:
        """Of RST_STREAM and GOAWAY."""
        at = 4 if self.kind == GOAWAY else 0
        return ErrorCode(int.from_bytes(self.payload[at : at + 4], "big"))

    @property
    def number(self) -> int:
        """Of WINDOW_UPDATE, and the last stream of GOAWAY."""
        return int.from_bytes(self.payload[:4], "big")


def parse(sent: bytes) -> list[Frame]:
    found, position = [], 0
    while position < len(sent):
        word, flags, stream = struct.unpack_from(">IBI", sent, position)
        end = position + 9 + (word >> 8)
        assert end <= len(sent), "half a frame was sent"
        found.append(Frame(word & 0xFF, flags, stream, sent[position + 9 : end]))
        position = end
    return found


class Peer:
    """A connection, its client and its caller. Notes what is told; `on` lets a test act within an event."""

    def __init__(self, limits: Limits | None = None, greet: bool = True, first: bytes = b"") -> None:
        self.connection = Connection(self, limits)
        self.events: list[Any] = []
        self.streams: dict[int, Stream] = {}
        self.bodies: dict[int, bytes] = {}
        self.on: dict[str, Callable[..., None]] = {}
        self.now = 1000.0
        if greet:
            self.send(PREFACE + (first or settings()) + frame(SETTINGS, ACK))
            self.sent()
            self.events.clear()

    # The client

    def send(self, *parts: bytes) -> bool:
        buffer = bytearray(b"".join(parts))
        alive = self.connection.receive(memoryview(buffer), self.now)
        buffer[:] = b"\xee" * len(buffer)  # as a reused buffer: whatever is still looked at is wrong
        return alive

    def sent(self) -> list[Frame]:
        """What the server has sent since it was asked last."""
        before = self.connection.pending_bytes
        raw = b"".join(self.connection.take_output())
        assert before - self.connection.pending_bytes == len(raw)
        return parse(raw)

    def kinds(self) -> list[int]:
        return [sent.kind for sent in self.sent()]

    def goaway(self) -> ErrorCode:
        """The error that the connection ended with, told by its last frame."""
        last = self.sent()[-1]
        assert last.kind == GOAWAY and self.connection.error == last.code
        assert not self.connection.receive(headers(99), self.now) and self.connection.finished
        assert not self.connection.open_streams
        return last.code

    def resets(self) -> list[tuple[int, ErrorCode]]:
        """The streams that were reset, on a connection that goes on."""
        assert self.connection.error is None, self.connection.reason
        return [(sent.stream, sent.code) for sent in self.sent() if sent.kind == RST_STREAM]

    # The caller

    def _note(self, name: str, stream: Stream, *rest: Any) -> None:
        assert self.streams.setdefault(stream.id, stream) is stream
        self.events.append((name, stream.id, *rest))
        if name in self.on:
            self.on[name](stream)

    def request(self, stream: Stream, headers: Headers, end_stream: bool) -> None:
        self._note("request", stream, headers.fields, end_stream)

    def headers_too_large(self, stream: Stream, end_stream: bool) -> None:
        self._note("too large", stream, end_stream)

    def data(self, stream: Stream, chunk: memoryview, end_stream: bool) -> None:
        assert not stream.closed and stream.ended == end_stream and (chunk or end_stream)
        self.bodies[stream.id] = self.bodies.get(stream.id, b"") + bytes(chunk)
        self._note("data", stream, bytes(chunk), end_stream)

    def trailers(self, stream: Stream, headers: Headers) -> None:
        self._note("trailers", stream, headers.fields)

    def reset(self, stream: Stream, code: int) -> None:
        assert stream.closed and not stream.pending
        self._note("reset", stream, code)

    def writable(self, stream: Stream) -> None:
        assert not stream.pending
        self._note("writable", stream)
