"""HTTP/1.1 on asyncio: one connection, from bytes to bytes.

Inference takes the fast lane: a parsed head is looked up, not parsed, when the same bytes were parsed before (a client sends the
same head again and again); the body goes to the service as it came; the reply is one write. No task, no ASGI cycle. Any other
request runs the ASGI application in a task of its own.

llhttp (through httptools) parses heads and chunked bodies and is strict; what it lets pass and we do not is refused in
`_on_head`. One request is answered at a time on each connection; what a client pipelines waits its turn.

Deadlines are kept as numbers and enforced by one sweep over all connections (server.py), since a timer a request would cost more
than the request.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httptools

from mlserver.errors import MLServerError
from mlserver.executor import Call, Reply, describe
from mlserver.rest.compression import DecompressionError, compress, decompress
from mlserver.wire.json import encode_error

if TYPE_CHECKING:
    from mlserver.rest.server import HttpServer
    from mlserver.service import Inference, Target

__all__ = ["Head", "HttpProtocol", "InferRoute"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
ASGIApp = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

access_log = logging.getLogger("mlserver.rest")
_now = time.monotonic

# Bytes that may wait behind a request that is being answered before the connection stops reading.
_READ_AHEAD = 64 * 1024
# Bodies above this size are compressed and decompressed off the loop.
_LARGE = 64 * 1024
_NEVER = math.inf

STATUS_LINES = {status: f"HTTP/1.1 {status} {status.phrase}\r\n".encode() for status in HTTPStatus}


def status_line(status: int) -> bytes:
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status  # type: ignore[call-overload]


class InferRoute:
    """Where an inference request goes, and what its answers have in common."""

    __slots__ = ("counters", "events", "target", "template")

    def __init__(self, target: Target, template: str, events: bytes) -> None:
        self.target = target
        self.template = template
        self.events = events  # CloudEvents response headers, ready to be written
        self.counters: dict[int, Any] = {}


class Head:
    """The head of a request. Equal bytes share one, so nothing may change it."""

    __slots__ = (
        "accepts_gzip",
        "chunked",
        "content_encoding",
        "content_length",
        "expects_continue",
        "headers",
        "infer",
        "keep_alive",
        "method",
        "raw_headers",
        "target",
        "version",
    )

    method: str
    target: bytes
    version: str
    raw_headers: list[tuple[bytes, bytes]]
    headers: dict[str, str]
    content_length: int | None
    chunked: bool
    content_encoding: str
    keep_alive: bool
    expects_continue: bool
    accepts_gzip: bool
    infer: InferRoute | None


class Refusal(Exception):
    """This connection is answered with an error and closed."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class HttpProtocol(asyncio.Protocol):
    """One connection. `server` holds what all connections share: limits, routes, the service, the application."""

    __slots__ = (
        "_app_run",
        "_body",
        "_body_size",
        "_deadline",
        "_drained",
        "_eof",
        "_head",
        "_head_bytes",
        "_in_head",
        "_in_message",
        "_inference",
        "_keep",
        "_missing",
        "_parser",
        "_pending",
        "_queue",
        "_raw_headers",
        "_reading_paused",
        "_request",
        "_server",
        "_started",
        "_target",
        "_task",
        "_timeout_answer",
        "_transport",
        "_whole_head",
    )

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._parser: Any = None
        # The message being read.
        self._target = b""
        self._raw_headers: list[tuple[bytes, bytes]] = []
        self._head: Head | None = None
        self._head_bytes = 0
        self._in_head = False
        self._in_message = False
        self._whole_head: bytes | None = None
        self._body: list[bytes] = []
        self._body_size = 0
        self._missing = 0  # bytes of a body of known length that are still to come
        # Messages that are read and wait, and bytes behind them.
        self._queue: deque[tuple[Head, bytes]] = deque()
        self._pending = b""
        # The request being answered.
        self._request: Head | None = None
        self._started = 0.0
        self._inference: Inference | None = None
        self._task: asyncio.Task[None] | None = None
        self._app_run: _AppRun | None = None
        # The connection.
        self._keep = True
        self._eof = False
        self._reading_paused = False
        self._drained: asyncio.Future[None] | None = None
        self._deadline = _NEVER
        self._timeout_answer: str | None = None  # what to say when the deadline passes; None closes without a word

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        if not self._server.add(self):
            self._refuse(503, "the server has as many connections as `http_max_connections` allows")
            return
        self._deadline = _now() + self._server.header_timeout

    def connection_lost(self, exc: BaseException | None) -> None:
        self._server.remove(self)
        self._keep = False
        self._deadline = _NEVER
        self._queue.clear()
        self._pending = b""
        if self._request is not None:
            self._server.request_done(self._request)
            self._request = None
        if self._inference is not None:
            self._inference.abandon()
            self._inference = None
        if self._app_run is not None:
            self._app_run.disconnect()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def eof_received(self) -> bool:
        # A client may say that it sends no more and still wait for its answer.
        self._eof = True
        return self._request is not None

    def pause_writing(self) -> None:
        self._drained = self._server.loop.create_future()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def data_received(self, data: bytes) -> None:
        if not self._keep:
            return  # refused: what still comes is not read
        if self._request is not None or self._queue:
            self._pending = self._pending + data if self._pending else data
            if len(self._pending) > _READ_AHEAD and not self._reading_paused:
                self._reading_paused = True
                self._transport.pause_reading()
            return
        self._read(data)
        if self._queue and self._request is None:
            self._next()

    # Reading

    def _read(self, data: bytes) -> None:
        """Take bytes of a message, up to the end of the data. Whole messages go to the queue."""
        try:
            while data and not self._queue:
                if self._missing:
                    data = self._read_body(data)
                elif self._parser is None:
                    data = self._read_known_head(data)
                else:
                    data = self._parse(data)
            self._pending = data
        except Refusal as refusal:
            self._refuse(refusal.status, str(refusal))

    def _read_known_head(self, data: bytes) -> bytes:
        """A message starts here. If its head was parsed before, there is nothing to parse."""
        end = data.find(b"\r\n\r\n") + 4
        if end >= 4:
            whole = data[:end]
            head = self._server.heads.get(whole)
            if head is not None:
                length = head.content_length or 0
                if len(data) - end >= length:
                    self._queue.append((head, data[end : end + length]))
                    return data[end + length :]
                self._begin_body(head)
                return data[end:]
            self._whole_head = whole
        self._parser = httptools.HttpRequestParser(self)
        self._in_head = True
        self._head_bytes = 0
        self._deadline = _now() + self._server.header_timeout
        self._timeout_answer = "the request head did not arrive in time (`http_header_timeout`)"
        return self._parse(data)

    def _parse(self, data: bytes) -> bytes:
        limit = self._server.max_header_size
        if self._in_head and self._head_bytes + len(data) > limit:
            # Only as much as a head may have, so that a long one is noticed while it is being read.
            data, rest = data[: limit - self._head_bytes + 1], data[limit - self._head_bytes + 1 :]
        else:
            rest = b""
        was_in_head = self._in_head
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            # An offer to upgrade may be passed over: the parser stops behind the head, the body is read like any other.
            self._in_message = True
            rest = data[exc.args[0] :] + rest
        except httptools.HttpParserCallbackError as exc:
            if isinstance(exc.__context__, Refusal):
                raise exc.__context__ from None
            raise
        except httptools.HttpParserError as exc:
            raise Refusal(400, f"not a valid HTTP/1.1 request: {exc}") from exc
        if self._in_head and was_in_head and self._head_bytes > limit:
            raise Refusal(431, f"the request head is larger than `http_max_header_size` ({limit} bytes)")
        head = self._head
        if not self._in_message:
            self._parser = None
        elif head is not None and head.content_length is not None:
            # The length is known: from here on the body needs no parser.
            self._missing = head.content_length - self._body_size
            self._parser = None
            if not self._missing:
                self._complete()
        return rest

    def on_message_begin(self) -> None:
        self._in_message = True
        if self._queue:
            # A second message in one read: its head is not at the start of the data, so it is not remembered.
            self._whole_head = None
            self._in_head = True
            self._head_bytes = 0
        self._target = b""
        self._raw_headers = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._raw_headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        head = self._on_head()
        self._begin_body(head)
        if self._whole_head is not None:
            if not head.chunked and not head.expects_continue:
                self._server.remember(self._whole_head, head)
            self._whole_head = None

    def _on_head(self) -> Head:
        parser = self._parser
        head = Head()
        head.method = parser.get_method().decode("ascii")
        head.target = self._target
        head.version = parser.get_http_version()
        head.raw_headers = self._raw_headers
        head.keep_alive = parser.should_keep_alive()
        head.headers = headers = {}
        lengths = []
        codings = []
        for name, value in self._raw_headers:
            if name == b"content-length":
                lengths.append(value)
            elif name == b"transfer-encoding":
                codings.append(value)
            headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        if head.version not in ("1.1", "1.0"):
            raise Refusal(505, f"HTTP/{head.version} is not spoken here, HTTP/1.1 is")
        if lengths and codings:
            raise Refusal(400, "a request has either `Content-Length` or `Transfer-Encoding`, not both")
        if len(lengths) > 1:
            raise Refusal(400, "more than one `Content-Length`")
        if codings and (len(codings) > 1 or codings[0].strip().lower() != b"chunked"):
            raise Refusal(501, "the only transfer coding understood is `chunked`")
        if codings and head.version == "1.0":
            raise Refusal(400, "HTTP/1.0 knows no `Transfer-Encoding`")
        if head.version == "1.1" and sum(name == b"host" for name, _ in self._raw_headers) != 1:
            raise Refusal(400, "an HTTP/1.1 request has exactly one `Host`")
        if not head.target.startswith((b"/", b"http://", b"https://")) and head.target != b"*":
            raise Refusal(400, "the request target is no path")
        if parser.should_upgrade() and (codings or head.method == "CONNECT"):
            raise Refusal(400, "this server speaks HTTP/1.1 and nothing else: no CONNECT, no upgrade")
        if self._whole_head is not None and self._whole_head.count(b"\n") != self._whole_head.count(b"\r\n"):
            raise Refusal(400, "a line of the request head ends in a bare line feed")
        head.chunked = bool(codings)
        head.content_length = None if head.chunked else int(lengths[0]) if lengths else 0
        head.expects_continue = headers.get("expect", "").lower() == "100-continue"
        head.content_encoding = headers.get("content-encoding", "").strip().lower()
        head.accepts_gzip = self._server.gzip and _accepts_gzip(headers.get("accept-encoding"))
        head.infer = self._server.infer_route(head)
        return head

    def _begin_body(self, head: Head) -> None:
        self._head = head
        self._body = []
        self._body_size = 0
        self._missing = head.content_length or 0
        if self._missing > self._server.max_body_size:
            raise self._too_large()
        if head.expects_continue and (self._missing or head.chunked):
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._missing or head.chunked:
            self._deadline = _now() + self._server.body_timeout
            self._timeout_answer = "the request body did not arrive in time (`http_body_timeout`)"

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is larger than `http_max_body_size` ({self._server.max_body_size} bytes)")

    def on_body(self, data: bytes) -> None:
        self._body_size += len(data)
        if self._body_size > self._server.max_body_size:
            raise self._too_large()
        self._body.append(data)
        self._deadline = _now() + self._server.body_timeout

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return  # nothing of the body was read yet
        self._complete()

    def _read_body(self, data: bytes) -> bytes:
        missing = self._missing
        if len(data) < missing:
            self._body.append(data)
            self._missing = missing - len(data)
            self._deadline = _now() + self._server.body_timeout
            return b""
        self._body.append(data[:missing] if len(data) > missing else data)
        self._missing = 0
        self._complete()
        return data[missing:]

    def _complete(self) -> None:
        head, body = self._head, self._body
        assert head is not None
        self._in_message = False
        self._missing = 0
        self._head = None
        self._body = []
        self._queue.append((head, body[0] if len(body) == 1 else b"".join(body)))

    # Answering

    def _next(self) -> None:
        """Begin with the request at the head of the queue."""
        head, body = self._queue.popleft()
        self._request = head
        self._deadline = _NEVER
        self._server.request_begun(head)
        self._started = time.perf_counter()
        if head.content_encoding and head.content_encoding != "identity":
            self._task = self._server.loop.create_task(self._decompress(head, body))
        else:
            self._dispatch(head, body)

    async def _decompress(self, head: Head, body: bytes) -> None:
        limit = self._server.max_body_size
        try:
            if len(body) > 1024:
                body = await asyncio.to_thread(decompress, head.content_encoding, body, limit)
            else:
                body = decompress(head.content_encoding, body, limit)
        except DecompressionError as exc:
            if self._request is head:
                if exc.too_large:
                    self.respond_error(413, str(self._too_large()))
                else:
                    self.respond_error(exc.status, str(exc))
            return
        if self._request is head:
            self._dispatch(head, body)

    def _dispatch(self, head: Head, body: bytes) -> None:
        route = head.infer
        if route is None:
            self._app_run = _AppRun(self, head, body)
            self._task = self._server.loop.create_task(self._app_run.run(self._server.app))
            return
        try:
            self._inference = self._server.service.infer(route.target, Call(body, head.headers), self._answer)
        except MLServerError as exc:
            self.respond(exc.status_code, JSON_HEADERS, describe(exc)[1], route.template)

    def _answer(self, reply: Reply) -> None:
        """The reply of an inference."""
        self._inference = None
        head = self._request
        if head is None:
            return
        route = head.infer
        assert route is not None
        status, body = reply.status, reply.body
        if status != 200:
            self.respond(status, JSON_HEADERS, body, route.template)
            return
        if reply.headers or not head.keep_alive or (head.accepts_gzip and len(body) >= _MIN_GZIP):
            try:
                extra = _encode_headers(reply.headers or {})
            except ValueError as exc:
                self.respond(*describe(exc), template=route.template)  # type: ignore[misc]
                return
            self.respond(200, [*JSON_HEADERS, *extra], body, route.template, _event_lines(route, reply.id))
            return
        self._transport.write(
            b"%b%bcontent-length: %d\r\n\r\n%b" % (self._server.ok_head, _event_lines(route, reply.id), len(body), body)
        )
        self._done(200, route.template, len(body))

    def respond_error(self, status: int, text: str, template: str | None = None) -> None:
        self.respond(status, JSON_HEADERS, encode_error(text), template)

    def respond(
        self, status: int, headers: Headers, body: bytes, template: str | None = None, lines: bytes = b""
    ) -> None:
        """Answer the request with a whole body. `template`: the route, for metrics. `lines`: further header lines."""
        head = self._request
        if head is None:
            return
        if head.accepts_gzip and len(body) >= _MIN_GZIP and not any(n == b"content-encoding" for n, _ in headers):
            headers = [*headers, (b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding")]
            if len(body) > _LARGE:
                self._task = self._server.loop.create_task(
                    self._compress_and_respond(head, status, headers, body, template, lines)
                )
                return
            body = compress(body)
        self._write_whole(head, status, headers, body, template, lines)

    async def _compress_and_respond(
        self, head: Head, status: int, headers: Headers, body: bytes, template: str | None, lines: bytes
    ) -> None:
        compressed = await asyncio.to_thread(compress, body)
        if self._request is head:
            self._write_whole(head, status, headers, compressed, template, lines)

    def _write_whole(
        self, head: Head, status: int, headers: Headers, body: bytes, template: str | None, lines: bytes
    ) -> None:
        parts = [self.head_bytes(head, status, headers), lines]
        if status >= 200 and status not in (204, 304):
            parts.append(b"content-length: %d\r\n\r\n" % len(body))
            if head.method != "HEAD":
                parts.append(body)
        else:
            parts.append(b"\r\n")
        self._transport.write(b"".join(parts))
        self._done(status, template, len(body))

    def head_bytes(self, head: Head, status: int, headers: Headers) -> bytes:
        """Status line and headers, without the empty line that ends them."""
        if self._eof or not head.keep_alive or self._server.stopping:
            self._keep = False
        parts = [status_line(status), self._server.common_headers]
        parts += [b"%b: %b\r\n" % (n, v) for n, v in headers if n not in (b"content-length", b"connection")]
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

    def abort(self) -> None:
        """Break the connection off, so that the client sees that its answer is not whole."""
        self._transport.abort()

    def finish_stream(self, status: int, template: str | None) -> None:
        self._done(status, template, 0)

    def _done(self, status: int, template: str | None, size: int) -> None:
        """The answer is written; go on with what waits, or wait for more."""
        head = self._request
        assert head is not None
        self._request = None
        self._app_run = None
        self._task = None
        server = self._server
        server.request_done(head)
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
        if not self._keep or server.stopping or self._eof:
            self._keep = False
            self._transport.close()
            return
        if self._queue:
            server.loop.call_soon(self._continue)
            return
        if self._pending:
            server.loop.call_soon(self._continue)
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        self._timeout_answer = None
        self._deadline = _now() + (server.keep_alive if self._drained is None else server.body_timeout)

    def _continue(self) -> None:
        if self._request is not None or not self._keep:
            return
        if not self._queue and self._pending:
            data, self._pending = self._pending, b""
            self._read(data)
        if self._queue and self._request is None:
            self._next()

    def _refuse(self, status: int, text: str) -> None:
        """Answer with an error and close: what follows on this connection cannot be trusted."""
        if not self._keep:
            return
        self._keep = False
        self._queue.clear()
        self._pending = b""
        body = encode_error(text)
        self._transport.write(
            status_line(status)
            + self._server.common_headers
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        if self._server.debug:
            access_log.info("refused a request: %d %s", status, text)
        self._deadline = _now() + self._server.keep_alive
        self._timeout_answer = None
        self._server.close_gently(self._transport)

    # Deadlines, called by the sweep

    def sweep(self, now: float) -> None:
        if now < self._deadline:
            return
        self._deadline = _NEVER
        if self._timeout_answer is not None and self._keep:
            self._refuse(408, self._timeout_answer)
        else:
            self._transport.abort()

    def stop(self) -> None:
        """The server stops: an idle connection closes now, a busy one when its answer is written."""
        if self._request is None and not self._queue:
            self._keep = False
            self._transport.close()


JSON_HEADERS: Headers = ((b"content-type", b"application/json"),)
_MIN_GZIP = 500


def _accepts_gzip(accept: str | None) -> bool:
    if not accept or "gzip" not in accept.lower():
        return False
    for part in accept.lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() == "gzip":
            return weight.strip().replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _event_lines(route: InferRoute, request_id: str | None) -> bytes:
    # An id is the client's text: it becomes a header only if it cannot be mistaken for more than a header's value.
    if request_id and request_id.isascii() and request_id.isprintable():
        return b"%bce-id: %b\r\nce-requestid: %b\r\n" % (route.events, request_id.encode(), request_id.encode())
    return route.events


_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


def _encode_headers(headers: dict[str, Any]) -> Iterable[tuple[bytes, bytes]]:
    """Headers that a model set, as they go on the wire. Raises ValueError for what cannot be a header."""
    encoded = []
    for name, value in headers.items():
        raw_name, raw_value = str(name).lower().encode("latin-1"), str(value).encode("latin-1")
        if not raw_name or not _TOKEN.issuperset(raw_name) or any(c < 32 and c != 9 or c == 127 for c in raw_value):
            raise ValueError(f"the model set a header that is none: {name!r}")
        if raw_name not in _FRAMING:
            encoded.append((raw_name, raw_value))
    return encoded


_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection", b"content-type"))


class _AppRun:
    """One request through the ASGI application."""

    def __init__(self, protocol: HttpProtocol, head: Head, body: bytes) -> None:
        self._protocol = protocol
        self._head = head
        self._body: bytes | None = body
        self._gone = asyncio.Event()
        self._scope: Scope = {}
        self._status = 0
        self._headers: Headers = ()
        self._streaming = False
        self._chunked = False
        self._finished = False

    def disconnect(self) -> None:
        self._gone.set()

    async def run(self, app: ASGIApp) -> None:
        self._scope = self._protocol._server.scope(self._head, self._protocol._transport)
        try:
            await app(self._scope, self.receive, self.send)
        except Exception as exc:
            if self._gone.is_set():
                return
            if self._streaming or self._finished:
                if not self._finished:
                    self._protocol.abort()
                describe(exc)
                return
            status, body = describe(exc)
            self._status = status
            self._finish(JSON_HEADERS, body)
            return
        if not self._finished and not self._gone.is_set():
            self._protocol.abort()

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._gone.is_set() or self._finished:
            return
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = list(message.get("headers", ()))
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if not self._streaming and not more:
            self._finish(self._headers, body)
            return
        if not self._streaming:
            self._begin_stream()
        if body and self._head.method != "HEAD":
            self._protocol.write(b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body)
            await self._protocol.drain()
        if not more and not self._gone.is_set():
            if self._chunked and self._head.method != "HEAD":
                self._protocol.write(b"0\r\n\r\n")
            self._finished = True
            self._protocol.finish_stream(self._status, self._scope.get("route_template"))

    def _begin_stream(self) -> None:
        self._streaming = True
        length = next((value for name, value in self._headers if name == b"content-length"), None)
        self._chunked = length is None and self._head.version == "1.1"
        protocol = self._protocol
        if length is None and not self._chunked:
            protocol._keep = False  # the end of the connection is the end of the body
        head = protocol.head_bytes(self._head, self._status, self._headers)
        if length is not None:
            head += b"content-length: %b\r\n" % length
        elif self._chunked:
            head += b"transfer-encoding: chunked\r\n"
        protocol.write(head + b"\r\n")

    def _finish(self, headers: Headers, body: bytes) -> None:
        self._finished = True
        self._protocol.respond(self._status, headers, body, self._scope.get("route_template"))

