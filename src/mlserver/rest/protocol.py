"""HTTP/1.1 on asyncio: one connection, from bytes to bytes.

Inference takes the fast lane: a head is looked up, not parsed, when the same bytes were parsed before (a
client sends the same head again and again); the body goes to the service as it came; the reply is one
write. No task, no ASGI cycle. Any other request runs the ASGI application in a task of its own.

A head is read to its end before anybody says what it means (head.py), so a remembered head is worth as much
as a parsed one.

One request is answered at a time on each connection; what a client pipelines waits its turn. A client that
does not read its answers is not read either.

Deadlines are kept as numbers and enforced by one sweep over all connections (server.py), since a timer a
request would cost more than the request.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from mlserver.executor import Call, Reply
from mlserver.rest.answer import (
    BODILESS,
    FRAMING,
    JSON_HEADERS,
    Headers,
    encode_headers,
    event_lines,
    failed,
    may_compress,
    status_line,
    value_of,
)
from mlserver.rest.asgi import AppRun
from mlserver.rest.chunked import BadChunk, ChunkedBody
from mlserver.rest.compression import DecompressionError, compress, decompress
from mlserver.rest.head import Head, Refusal, check_start, parse_head, without_empty_lines
from mlserver.rest.large import LARGE_BODY, LargeBody
from mlserver.tls import taken_by_client
from mlserver.wire.json import encode_error

if sys.platform == "win32":
    ioctl = None
else:
    from fcntl import ioctl
    from termios import TIOCOUTQ

if TYPE_CHECKING:
    from mlserver.rest.server import HttpServer
    from mlserver.service import Pending

__all__ = ["HttpProtocol"]

access_log = logging.getLogger("mlserver.rest")
_now = time.monotonic

# Bytes that may wait behind a request that is being answered before the connection stops reading.
_READ_AHEAD = 64 * 1024
# Bodies above this size are compressed off the loop, and decompressed where it takes more than a moment.
_LARGE = 64 * 1024
_LARGE_COMPRESSED = 1024
# Answers below this size are not worth compressing.
_MIN_GZIP = 500
# Seconds in which a client that was refused under TLS sends nothing before its connection is closed.
_QUIET = 0.5
_NEVER = math.inf


class HttpProtocol(asyncio.Protocol):
    """One connection. `server` has what all of them share: limits, routes, the service, the application."""

    __slots__ = (
        "_app_run",
        "_body",
        "_chunks",
        "_deadline",
        "_drained",
        "_eof",
        "_head",
        "_heard_more",
        "_inference",
        "_keep",
        "_missing",
        "_pending",
        "_reading_paused",
        "_request",
        "_server",
        "_start",
        "_started",
        "_timeout_answer",
        "_transport",
        "_unsent",
    )

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        # The message being read: the beginning of its head, or its head and the beginning of its body.
        self._start = b""
        self._head: Head | None = None
        self._body: list[bytes] = []
        self._missing = 0  # bytes of a body of known length that are still to come
        self._chunks: ChunkedBody | None = None
        # Bytes behind the request that is being answered.
        self._pending = b""
        # The request being answered.
        self._request: Head | None = None
        self._started = 0.0
        self._inference: Pending | None = None
        self._app_run: AppRun | None = None
        # The connection.
        self._keep = True  # false: nothing more is read from it
        self._heard_more = False  # whether something came all the same
        self._eof = False
        self._reading_paused = False
        self._drained: asyncio.Future[None] | None = None  # set while the client is behind with reading
        self._unsent = 0  # what it had not read when it was last looked at
        self._deadline = _NEVER
        self._timeout_answer: str | None = (
            None  # what to say when the deadline passes; None closes without a word
        )

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        reason = self._server.add(self)
        if reason is not None:
            self._refuse(503, reason)
            return
        self._deadline = _now() + self._server.header_timeout

    def connection_lost(self, exc: BaseException | None) -> None:
        self._keep = False
        self._deadline = _NEVER
        self._pending = self._start = b""
        self._head = self._chunks = None
        self._body = []
        if self._request is not None:
            self._request.in_progress.value -= 1
            self._request = None
        if self._inference is not None:
            self._inference.abandon()
            self._inference = None
        if self._app_run is not None:
            self._app_run.disconnect()
            self._app_run = None
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._server.remove(self)

    def eof_received(self) -> bool:
        # A client may say that it sends no more and still wait for its answers.
        self._eof = True
        if self._server.tls:
            return False  # no loop keeps half of a TLS connection
        if self._request is not None:
            self._probe(self._request)
            return True
        return self._keep and bool(self._pending)

    def _probe(self, head: Head) -> None:
        """Find out whether the client still listens: no model should go on working for one that has left.

        Both look the same until something is sent to them that means nothing. One that has left resets the
        connection, which `sweep` notices.
        """
        if self._app_run is not None and self._app_run.streaming:
            self._app_run.probe()
        elif head.version == "1.1":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._drained is None:
            self._deadline = -_NEVER  # at every sweep

    def pause_writing(self) -> None:
        self._drained = self._server.loop.create_future()
        self._pause_reading()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None
        if self._request is None and self._keep:
            self._deadline = _now() + self._server.keep_alive
            self._continue()
        self._resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._request is not None or self._pending or not self._keep:
            self._put_off(data)
        else:
            self._read(data)

    # Reading

    def _put_off(self, data: bytes) -> None:
        if not self._keep:
            self._heard_more = True
            return  # refused: what still comes is not read
        self._pending = self._pending + data if self._pending else data
        if len(self._pending) > _READ_AHEAD:
            self._pause_reading()

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and self._drained is None and len(self._pending) <= _READ_AHEAD:
            self._reading_paused = False
            self._transport.resume_reading()

    def _read(self, data: bytes) -> None:
        """Read up to the end of one message and begin to answer it. What lies behind waits in `_pending`."""
        try:
            if self._head is not None:
                self._read_body(self._head, data)
                return
            if self._start:
                self._read_on(data)
                return
            end = data.find(b"\r\n\r\n") + 4
            head = self._server.heads.get(data[:end])
            if head is None:
                self._read_head(data, end, 0)
                return
            stop = end + head.content_length
            if len(data) >= stop:
                self._pending = data[stop:]
                self._next(head, data[end:stop])
            else:
                self._begin_body(head, data[end:])
        except Refusal as refusal:
            self._refuse(refusal.status, str(refusal))

    def _read_on(self, data: bytes) -> None:
        """More of a head that has begun."""
        seen = len(self._start)
        data = self._start + data
        self._start = b""
        self._read_head(data, data.find(b"\r\n\r\n", max(seen - 3, 0)) + 4, seen)

    def _read_head(self, data: bytes, end: int, seen: int) -> None:
        """A head that may be unknown.

        end: where it ends; below 4 if that is yet to come. seen: how many of the bytes were here before.
        """
        server = self._server
        if data.startswith(b"\r\n"):
            # Empty lines before a request are passed over; they are no sign of life either.
            data = without_empty_lines(data)
            if data:
                self._read(data)
            return
        limit = server.max_header_size
        if (end if end >= 4 else len(data)) > limit:
            check_start(data[:limit], seen)
            raise Refusal(431, f"the request head is larger than `http_max_header_size` ({limit} bytes)")
        if end < 4:
            check_start(data, seen)
            self._start = data
            if self._timeout_answer is None:
                self._deadline = _now() + server.header_timeout
                self._timeout_answer = "the request head did not arrive in time (`http_header_timeout`)"
            return
        whole = data[:end]
        head = server.heads.get(whole)
        if head is None:
            head = server.complete(parse_head(whole))
            if head.content_length > server.max_body_size:
                raise self._too_large()
            if not head.chunked and not head.expects_continue:
                server.remember(whole, head)
        self._begin_body(head, data[end:])

    def _begin_body(self, head: Head, data: bytes) -> None:
        if not head.chunked and len(data) >= head.content_length:
            self._pending = data[head.content_length :]
            self._next(head, data[: head.content_length])
            return
        server = self._server
        self._head = head
        self._deadline = _now() + server.body_timeout
        self._timeout_answer = "the request body did not arrive in time (`http_body_timeout`)"
        if head.expects_continue and not data:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if head.chunked:
            self._chunks = ChunkedBody(server.max_body_size, server.max_header_size)
        elif head.content_length >= LARGE_BODY and head.infer is not None:
            self._read_with(LargeBody(self, head.content_length, data))
            return
        else:
            self._missing = head.content_length
        if data:
            self._read_body(head, data)

    def _read_body(self, head: Head, data: bytes) -> None:
        self._deadline = _now() + self._server.body_timeout
        if self._chunks is not None:
            self._read_chunks(head, self._chunks, data)
            return
        missing = self._missing
        if len(data) < missing:
            self._body.append(data)
            self._missing = missing - len(data)
            return
        self._body.append(data[:missing] if len(data) > missing else data)
        self._pending = data[missing:]
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._missing = 0
        self._head = None
        self._body = []
        self._next(head, body)

    def _read_with(self, protocol: asyncio.BaseProtocol) -> None:
        # Loops settle how they read when reading begins.
        if not self._reading_paused:
            self._transport.pause_reading()
        self._transport.set_protocol(protocol)
        if not self._reading_paused:
            self._transport.resume_reading()

    def body_continues(self) -> None:
        """Some of a large body arrived."""
        if self._keep:
            self._deadline = _now() + self._server.body_timeout
        else:
            self._heard_more = True
            self._read_with(self)  # refused since: what still comes is not read

    def body_complete(self, body: bytearray) -> None:
        """All of a large body arrived."""
        self._read_with(self)
        head, self._head = self._head, None
        if head is not None and self._keep:
            self._next(head, body)

    def _read_chunks(self, head: Head, chunks: ChunkedBody, data: bytes) -> None:
        try:
            rest = chunks.feed(data)
        except BadChunk as exc:
            raise self._too_large() if exc.status == 413 else Refusal(exc.status, str(exc)) from exc
        if rest is None:
            return
        self._pending = rest
        self._head = self._chunks = None
        self._next(head, bytes(chunks.content))

    def _too_large(self) -> Refusal:
        return Refusal(
            413, f"the body is larger than `http_max_body_size` ({self._server.max_body_size} bytes)"
        )

    # Answering

    def _next(self, head: Head, body: bytes | bytearray) -> None:
        """A message is here as a whole: answer it."""
        self._request = head
        self._deadline = _NEVER
        head.in_progress.value += 1
        self._started = time.perf_counter()
        if head.content_encoding and head.content_encoding != "identity":
            self._server.spawn(self._decompress(head, body))
        else:
            self._dispatch(head, body)

    async def _decompress(self, head: Head, body: bytes | bytearray) -> None:
        limit = self._server.max_body_size
        try:
            if len(body) > _LARGE_COMPRESSED:
                body = await asyncio.to_thread(decompress, head.content_encoding, body, limit)
            else:
                body = decompress(head.content_encoding, body, limit)
        except DecompressionError as exc:
            if self._request is not None:
                text = str(self._too_large() if exc.too_large else exc)
                self.respond(exc.status, JSON_HEADERS, encode_error(text), self._template(head))
            return
        except Exception as exc:
            self.respond_failure(exc, self._template(head))
            return
        if self._request is not None:
            self._dispatch(head, body)

    @staticmethod
    def _template(head: Head) -> str | None:
        return None if head.infer is None else head.infer.template

    def _dispatch(self, head: Head, body: bytes | bytearray) -> None:
        route = head.infer
        if route is None:
            self._app_run = run = AppRun(self, head, bytes(body))
            self._server.spawn(run.run(self._server.app))
            return
        try:
            self._inference = self._server.service.infer(route.target, Call(body, head.headers), self._answer)
        except Exception as exc:
            self.respond_failure(exc, route.template)

    def _answer(self, reply: Reply) -> None:
        """The reply of an inference."""
        self._inference = None
        head = self._request
        if head is None:
            return
        route = head.infer
        assert route is not None
        status = reply.status
        body: Any = reply.body  # of a call in JSON, so is the reply: bytes
        if status != 200:
            headers = [*JSON_HEADERS, *encode_headers(reply.headers)] if reply.headers else JSON_HEADERS
            self.respond(status, headers, body, route.template)
            return
        if reply.headers or not head.plain or (head.accepts_gzip and len(body) >= _MIN_GZIP):
            try:
                headers = [*JSON_HEADERS, *encode_headers(reply.headers or {})]
            except Exception as exc:
                self.respond_failure(exc, route.template)
                return
            self.respond(200, headers, body, route.template, event_lines(route.events, reply.id))
            return
        self._transport.write(
            b"%b%bcontent-length: %d\r\n\r\n%b"
            % (self._server.ok_head, event_lines(route.events, reply.id), len(body), body)
        )
        self._done(200, route.template)

    def respond_failure(self, exc: Exception, template: str | None = None) -> None:
        status, headers, body = failed(exc)
        self.respond(status, headers, body, template)

    def respond(
        self, status: int, headers: Headers, body: bytes, template: str | None = None, lines: bytes = b""
    ) -> None:
        """Answer with a whole body. `template`: the route, for metrics. `lines`: further header lines."""
        head = self._request
        if head is None:
            return
        if head.accepts_gzip and len(body) >= _MIN_GZIP and may_compress(headers):
            headers = [*headers, (b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding")]
            if len(body) > _LARGE:
                self._server.spawn(self._compress_and_respond(head, status, headers, body, template, lines))
                return
            body = compress(body)
        self._write_whole(head, status, headers, body, template, lines)

    async def _compress_and_respond(
        self, head: Head, status: int, headers: Headers, body: bytes, template: str | None, lines: bytes
    ) -> None:
        compressed = await asyncio.to_thread(compress, body)
        if self._request is not None:
            self._write_whole(head, status, headers, compressed, template, lines)

    def _write_whole(
        self, head: Head, status: int, headers: Headers, body: bytes, template: str | None, lines: bytes
    ) -> None:
        parts = [self.head_bytes(head, status, headers), lines]
        if status in BODILESS:
            parts.append(b"\r\n")
        else:
            length = b"%d" % len(body)
            if head.method == "HEAD":
                # Who answers HEAD without a body may still say how long it would be.
                length = length if body else value_of(b"content-length", headers) or length
                body = b""
            parts += (b"content-length: ", length, b"\r\n\r\n", body)
        self._transport.write(b"".join(parts))
        self._done(status, template)

    def head_bytes(self, head: Head, status: int, headers: Headers) -> bytes:
        """Status line and headers, without the empty line that ends them."""
        if not head.keep_alive or self._server.stopping:
            self._keep = False
        parts = [status_line(status), self._server.common_headers]
        parts += [b"%b: %b\r\n" % (name, value) for name, value in headers if name not in FRAMING]
        if not self._keep:
            parts.append(b"connection: close\r\n")
        elif head.version == "1.0":
            parts.append(b"connection: keep-alive\r\n")
        return b"".join(parts)

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait until a slow client has taken what was written."""
        if self._drained is not None:
            self._deadline = _now() + self._server.body_timeout
            self._timeout_answer = None
            await self._drained
            self._deadline = _NEVER

    def end_with_connection(self) -> None:
        """The end of the connection is to be the end of the body."""
        self._keep = False

    def break_off(self, framed: bool) -> None:
        """End the connection in the middle of an answer.

        framed: whether the client can tell from what it got that there should be more.
        """
        self._keep = False
        if framed and not self._transport.is_closing():
            self._deadline = _now() + self._server.body_timeout
            self._transport.close()
        else:
            self._transport.abort()

    def finish_stream(self, status: int, template: str | None) -> None:
        self._done(status, template)

    def _done(self, status: int, template: str | None) -> None:
        """The answer is written; go on with what waits, or wait for more."""
        head = self._request
        assert head is not None
        self._request = None
        self._app_run = None
        server = self._server
        head.in_progress.value -= 1
        if server.stopping:
            server.check_idle()
        seconds = time.perf_counter() - self._started
        if template is not None:
            route = head.infer
            if route is not None:
                counters = route.counters.get(status)
                if counters is None:
                    counters = route.counters[status] = server.route_counters(head.method, template, status)
            else:
                counters = server.route_counters(head.method, template, status)
            if counters is not None:
                counters.observe(seconds)
        if server.debug:
            access_log.info(
                '"%s %s HTTP/%s" %d %.1f ms',
                head.method,
                unquote(head.target.decode("latin-1")).encode("unicode_escape").decode(),
                head.version,
                status,
                seconds * 1000,
            )
        if not self._keep or server.stopping:
            self._close()
            return
        if self._pending:
            server.loop.call_soon(self._continue)
        elif self._eof:
            self._close()
            return
        self._timeout_answer = None
        self._deadline = _now() + (server.keep_alive if self._drained is None else server.body_timeout)

    def _continue(self) -> None:
        """Go on with what came while a request was being answered."""
        if self._request is not None or not self._keep or self._drained is not None:
            return
        data, self._pending = self._pending, b""
        if data:
            self._read(data)
        self._resume_reading()
        if self._eof:
            self._continue_after_eof()

    def _continue_after_eof(self) -> None:
        if self._request is not None:
            self._probe(self._request)
        elif not self._pending:
            self._close()  # what came last is no whole request

    def _close(self) -> None:
        """End the connection once what was written is on its way."""
        self._keep = False
        self._timeout_answer = None
        if self._pending or self._reading_paused:
            self._close_gently()
        else:
            self._deadline = _now() + self._server.body_timeout
            self._transport.close()

    def _close_gently(self) -> None:
        """End our side and let the client read on: closing would take away what it has not read yet."""
        self._deadline = _now() + self._server.keep_alive
        self._pending = self._start = b""
        if self._transport.is_closing():
            return
        try:
            if self._server.tls:
                self._heard_more = True
                self._close_when_quiet()
            else:
                self._transport.write_eof()
        except OSError:  # the client was quicker
            self._transport.abort()
        else:
            self._resume_reading()

    def _close_when_quiet(self) -> None:
        """Under TLS, which cannot end one side only: read on until the client sends no more."""
        if self._transport.is_closing():
            return
        if self._heard_more:
            self._heard_more = False
            self._server.loop.call_later(_QUIET, self._close_when_quiet)
        else:
            self._transport.close()

    def _refuse(self, status: int, text: str) -> None:
        """Answer with an error and close: what follows on this connection cannot be trusted."""
        if not self._keep:
            return
        self._keep = False
        self._head = self._chunks = None
        self._body = []
        body = encode_error(text)
        self._transport.write(
            status_line(status)
            + self._server.common_headers
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        if self._server.debug:
            access_log.info("refused a request: %d %s", status, text)
        self._timeout_answer = None
        self._close_gently()
        self._server.check_idle()

    # What the server asks of its connections

    @property
    def busy(self) -> bool:
        """Whether a request was accepted and not yet answered. One whose body is on its way was accepted."""
        return self._request is not None or (self._keep and (self._head is not None or bool(self._pending)))

    def sweep(self, now: float) -> None:
        """Act on a deadline that has passed."""
        if now < self._deadline:
            return
        if self._deadline == -_NEVER:
            if _was_reset(self._transport):
                self._transport.abort()
            return
        unsent = self._transport.get_write_buffer_size()
        if self._server.tls:
            unsent = left = taken_by_client(self._transport)
        else:
            left = unsent and unsent + _left_to_kernel(self._transport)
        if left and left != self._unsent:
            # The client reads, if slowly; or this is the first look at what it does not read.
            self._unsent = left
            self._deadline = now + self._server.body_timeout
        elif self._timeout_answer is not None and self._keep:
            self._refuse(408, self._timeout_answer)
        elif unsent or not self._keep:
            self._deadline = _NEVER
            self._transport.abort()
        else:
            self._close()

    def stop(self) -> None:
        """The server stops: an idle connection closes now, a busy one when its answer is written."""
        if not self.busy:
            self._keep = False
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


def _was_reset(transport: asyncio.Transport) -> bool:
    # A loop does not watch a connection that has nothing to send and whose client will send no more.
    connection = transport.get_extra_info("socket")
    try:
        return connection is not None and connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
    except OSError:
        return True


def _left_to_kernel(transport: asyncio.Transport) -> int:
    """Bytes that the kernel has taken and the client has not; 0 where that is not told.

    It takes a megabyte at a time, for which a slow client needs longer than any timeout.
    """
    connection = transport.get_extra_info("socket")
    if connection is None or ioctl is None:
        return 0
    try:
        return int.from_bytes(ioctl(connection.fileno(), TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0
