"""One request through an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from mlserver.executor import describe
from mlserver.rest.answer import (
    BODILESS,
    Headers,
    checked_headers,
    failed,
    final_status,
    value_of,
)
from mlserver.rest.head import Head

if TYPE_CHECKING:
    from mlserver.rest.protocol import HttpProtocol

__all__ = ["ASGIApp", "AppRun", "Scope"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class AppRun:
    """One request through the ASGI application."""

    def __init__(self, protocol: HttpProtocol, head: Head, body: bytes) -> None:
        self._protocol = protocol
        self._head = head
        self._body: bytes | None = body
        self._over = asyncio.Event()
        self._gone = False
        self._scope: Scope = {}
        self._status = 0
        self._headers: Headers = ()
        self.streaming = False
        self._chunked = False
        self._left: int | None = None  # bytes that are missing of a body of known length
        self._finished = False

    def probe(self) -> None:
        """Send what means nothing, where the stream has such a thing."""
        events = (value_of(b"content-type", self._headers) or b"").startswith(b"text/event-stream")
        if events and self._head.method != "HEAD":
            self._write(b":\n\n")

    def disconnect(self) -> None:
        self._gone = True
        self._over.set()

    async def run(self, app: ASGIApp) -> None:
        self._scope = self._protocol._server.scope(self._head, self._protocol._transport)
        try:
            await app(self._scope, self.receive, self.send)
        except Exception as exc:
            if self._gone:
                return
            if not self.streaming and not self._finished:
                self._status, headers, body = failed(exc)
                self._finish(headers, body)
                return
            if self._status < 500:  # else it was told, and logged
                describe(exc)
        if not self._finished and not self._gone:
            self._protocol.break_off(framed=self._chunked or self._left is not None)

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._gone or self._finished:
            return
        if message["type"] == "http.response.start":
            self._headers = checked_headers(message.get("headers", ()))
            self._status = final_status(message["status"])
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if not self.streaming and not more:
            self._finish(self._headers, body)
            return
        if not self.streaming:
            self._begin_stream()
        if body and self._head.method != "HEAD" and self._status not in BODILESS:
            self._write(body)
            await self._protocol.drain()
        if not more and not self._gone:
            self._end_stream()

    def _begin_stream(self) -> None:
        self.streaming = True
        length = value_of(b"content-length", self._headers)
        if length is not None:
            self._left = int(length)
        elif self._status not in BODILESS:
            self._chunked = self._head.version == "1.1"
            if not self._chunked:
                self._protocol.end_with_connection()
        parts = [self._protocol.head_bytes(self._head, self._status, self._headers)]
        if length is not None:
            parts.append(b"content-length: %b\r\n" % length)
        elif self._chunked:
            parts.append(b"transfer-encoding: chunked\r\n")
        self._protocol.write(b"".join((*parts, b"\r\n")))

    def _write(self, body: bytes) -> None:
        if self._left is not None:
            if len(body) > self._left:
                raise RuntimeError("the body of a response is longer than its Content-Length")
            self._left -= len(body)
        self._protocol.write(b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body)

    def _end_stream(self) -> None:
        if self._head.method != "HEAD":
            if self._left:
                raise RuntimeError("the body of a response is shorter than its Content-Length")
            if self._chunked:
                self._protocol.write(b"0\r\n\r\n")
        self._finished = True
        self._protocol.finish_stream(self._status, self._scope.get("route_template"))
        self._over.set()

    def _finish(self, headers: Headers, body: bytes) -> None:
        self._finished = True
        self._protocol.respond(self._status, headers, body, self._scope.get("route_template"))
        self._over.set()
