"""One connection of gRPC clients: HTTP/2 between a socket and the calls on it.

All connections read into one buffer, since nothing of it is kept: `wire.http2` passes payload on as views, a
call copies its message out of it, once. What calls answer within one turn of the loop leaves in one write.

A client that does not read is not read either, and gets no more output than the socket takes. Deadlines of
the connection are enforced by a sweep over all of them (server.py), those of calls by `Deadlines`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from mlserver.grpc.calls import Route
from mlserver.grpc.lowwater import LowWater
from mlserver.tls import taken_by_client
from mlserver.wire.http2 import Connection, ErrorCode, Headers, Stream

if TYPE_CHECKING:
    from mlserver.grpc.server import GrpcServer

__all__ = ["GrpcProtocol"]

_now = time.monotonic

# A connection with so many bytes that its socket does not take is not read; with some of them, streams wait.
_MOST_PENDING = 8 * 1024 * 1024
_CROWDED = 1024 * 1024
# What may wait for the client's credit without end; beyond, it has to give some in time.
_MOST_QUEUED = 64 * 1024 * 1024
# What amid a frame makes up for the time it takes, bytes a second: slow is not stalled.
_SLOWEST = 1024
# Calls that are refused at once are no open streams, and so have no limit: whoever asks for many is read a
# little at a time, so that others have their turn.
_MOST_IN_VAIN = 64
_SMALL_READ = 16 * 1024
# Seconds for which a client is read after the end: it is to see the last replies, and why there are no more.
_LINGER = 1.0
# Pieces below this size are joined before they are written: a list of many costs more than the copy.
_SMALL_PIECE = 32 * 1024
_NEVER = float("inf")


class GrpcProtocol(asyncio.BufferedProtocol):
    """A connection. `server` has what all share: limits, methods, the read buffer. It is the `Events` of its
    HTTP/2 connection.
    """

    __slots__ = (
        "_aged",
        "_arrived",
        "_closing",
        "_deadline",
        "_flushing",
        "_held_back",
        "_in_vain",
        "_incomplete",
        "_low",
        "_paused",
        "_pinged",
        "_queued",
        "_reading_paused",
        "_server",
        "_since",
        "_stalled_since",
        "_transport",
        "_unsent",
        "_waiting",
        "answering",
        "expected",
        "held",
        "http2",
    )

    def __init__(self, server: GrpcServer) -> None:
        self._server = server
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self.http2 = Connection(self, server.limits)
        self.held = 0  # bytes of messages that are arriving, wait for the rest of their call, or are answered
        self.answering = 0  # calls that hold some of it and are complete: that comes back by itself
        self.expected = 0  # bytes that the message which came last is short of
        self._low = LowWater()
        self._held_back = False
        self._flushing = False
        self._paused = False  # the socket takes no more for now
        self._reading_paused = False
        self._closing = False
        self._aged = False  # asked to go, because it is too old
        self._since = self._deadline = 0.0  # when it last sent, or began; until when it may live
        self._incomplete = _NEVER  # since when something is arriving that should not take long
        self._arrived = 0  # bytes since then
        self._unsent = self._queued = 0  # what waited for the socket, and for credit, when last looked at
        self._stalled_since = 0.0  # since when the client has taken none of that
        self._waiting: list[asyncio.Future[None]] = []  # streams, for the socket to take more
        self._pinged = False
        self._in_vain = 0  # calls of the last read that were over at once

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        now = _now()
        self._since = self._incomplete = now
        self._deadline = now + self._server.max_connection_age
        self._server.add(self)
        self.flush_later()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._in_vain > _MOST_IN_VAIN:
            return self._server.read_buffer[:_SMALL_READ]
        return self._server.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._closing:
            return  # all was said; it is read only so that the client is not reset
        http2 = self.http2
        now = _now()
        self._since = now
        self._pinged = False
        self._in_vain = 0
        http2.receive(self._server.read_buffer[:nbytes], now)
        # A client that gets no credit may not be able to send what is missing.
        self._low.expect(0 if self._held_back else self.expected, self._transport)
        if not http2.incomplete:
            self._incomplete = _NEVER
        elif self._incomplete == _NEVER:
            self._incomplete = now
            self._arrived = 0
        else:
            self._arrived += nbytes
        if http2.pending_bytes or http2.finished:
            self.flush_later()
            if http2.output_bytes > _MOST_PENDING and not (self._reading_paused or self._closing):
                self._reading_paused = True
                self._transport.pause_reading()

    def eof_received(self) -> bool:
        return False  # whoever is gone looks like this; a gRPC client that wants its replies does not

    def connection_lost(self, exc: BaseException | None) -> None:
        self._closing = True
        self.http2.close()
        self._server.remove(self)

    def pause_writing(self) -> None:
        self._paused = True
        self._unsent = 0
        self._stalled_since = _now()

    def resume_writing(self) -> None:
        self._paused = False
        self.flush()
        waiting, self._waiting = self._waiting, []
        for stream in waiting:
            if not stream.done():
                stream.set_result(None)

    # Output

    def flush_later(self) -> None:
        """Write at the end of this turn of the loop, with all that others add until then."""
        if not self._flushing:
            self._flushing = True
            self._server.loop.call_soon(self.flush)

    def flush(self) -> None:
        self._flushing = False
        if self._paused or self._closing:
            return
        pieces = self.http2.take_output()
        if pieces:
            if max(map(len, pieces)) < _SMALL_PIECE:
                self._transport.write(b"".join(pieces))
            else:
                self._transport.writelines(_with_small_joined(pieces))
        if self._reading_paused and self.http2.output_bytes <= _MOST_PENDING:
            self._reading_paused = False
            self._transport.resume_reading()
        if self.http2.finished:
            self._end()

    def _end(self) -> None:
        """All is written: close, but read on until the client does. What it still sends, be it a credit or an
        acknowledgement, would make the kernel reset a closed connection, and the client lose what it has not
        read.
        """
        self._closing = True
        self._stalled_since = now = _now()
        self._deadline = now + _LINGER
        if self._transport.can_write_eof():
            try:
                self._transport.write_eof()
            except OSError:  # the client has gone already
                self._transport.abort()
        else:
            self._transport.close()

    @property
    def crowded(self) -> bool:
        """Whether streams should wait for `room`."""
        return self._paused and self.http2.output_bytes > _CROWDED

    async def room(self) -> None:
        """Wait until the socket takes more."""
        waiter = self._server.loop.create_future()
        self._waiting.append(waiter)
        await waiter

    # Memory

    def crowd(self) -> bool:
        """Look at what is held; False if that is too much. The client gets no credit while it is a lot and
        calls are answered, whose memory comes back; who waits for messages to be complete must not wait.
        """
        if self.held > self._server.most_held:
            return False
        if self.held > self._server.most_held // 2 and self.answering and not self._held_back:
            self._held_back = True
            self.http2.hold()
        return True

    def uncrowd(self) -> None:
        """Some of what is held was given back."""
        if self._held_back and (self.held <= self._server.most_held // 2 or not self.answering):
            self._held_back = False
            self.http2.release()
            self.flush_later()

    # mlserver.wire.http2.Events

    def request(self, stream: Stream, headers: Headers, end_stream: bool) -> None:
        route: Route | None = headers.user
        if route is None:
            route = headers.user = self._server.route(headers)
        call = route.call(self, stream, route)
        if call.over:
            self._in_vain += 1
            return
        stream.user = call
        if end_stream:
            call.end()

    def headers_too_large(self, stream: Stream, end_stream: bool) -> None:
        limit = self._server.limits.max_header_list
        self.http2.send_headers(stream, self._server.too_large_block(limit), True)

    def data(self, stream: Stream, chunk: memoryview, end_stream: bool) -> None:
        call = stream.user
        if call is None:
            return
        if len(chunk):
            call.data(chunk)
        if end_stream:
            call.end()

    def trailers(self, stream: Stream, headers: Headers) -> None:
        if stream.user is not None:
            stream.user.end()

    def reset(self, stream: Stream, code: int) -> None:
        if stream.user is not None:
            stream.user.cancel()

    def writable(self, stream: Stream) -> None:
        if stream.user is not None:
            stream.user.writable()

    # What the server asks of its connections

    def sweep(self, now: float) -> None:
        """Act on what took too long."""
        server = self._server
        unsent = taken_by_client(self._transport) if server.tls else self._transport.get_write_buffer_size()
        if self._paused or self._closing or (unsent and server.tls):
            # Some progress within the time is enough; TCP tells how much was taken.
            if unsent != self._unsent:
                self._unsent, self._stalled_since = unsent, now
            elif now - self._stalled_since > server.write_timeout or (
                self._closing and not unsent and now > self._deadline
            ):
                self._transport.abort()
                return
            if self._paused or self._closing:
                return
        queued = self.http2.queued_bytes
        if not (unsent and server.tls) and (queued < _MOST_QUEUED or queued < self._queued):
            self._stalled_since = now
        self._queued = queued
        if now - self._stalled_since > server.write_timeout:
            self.http2.close(ErrorCode.ENHANCE_YOUR_CALM, "no credit for the replies")
            self.flush_later()
        elif now - self._incomplete > server.header_timeout:
            if self._arrived > _SLOWEST * (now - self._incomplete):
                self._incomplete, self._arrived = now, 0
                return
            self.http2.close(reason="a frame did not arrive in time")
            self.flush_later()
        elif now > self._deadline:
            if self._aged:
                self.http2.close(reason="the connection is too old")
                self.flush_later()
            else:
                self._aged = True
                self._deadline = now + server.age_grace
                self.shut_down()
        elif now - self._since > server.keepalive_time + server.keepalive_timeout:
            self._transport.abort()
        elif now - self._since > server.keepalive_time and not self._pinged:
            self._pinged = True
            self.http2.ping(b"mlserver")
            self.flush_later()

    def shut_down(self) -> None:
        """Take no new calls, finish those that there are, close. The second time: draw the line now."""
        self.http2.shutdown()
        self.flush_later()

    def abort(self) -> None:
        self._transport.abort()


def _with_small_joined(pieces: list[bytes | bytearray | memoryview]) -> list[bytes | bytearray | memoryview]:
    joined: list[bytes | bytearray | memoryview] = []
    small: list[bytes | bytearray | memoryview] = []
    for piece in pieces:
        if len(piece) < _SMALL_PIECE:
            small.append(piece)
            continue
        if small:
            joined.append(b"".join(small))
            small = []
        joined.append(piece)
    if small:
        joined.append(b"".join(small))
    return joined
