"""A listening gRPC port: its sockets, its connections, and what they share."""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
import time
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from mlserver.cloudevents import CloudEventsTypes, kubernetes_namespace, model_headers
from mlserver.grpc.calls import Call, Method, RefusedCall, Route
from mlserver.grpc.connection import GrpcProtocol
from mlserver.grpc.framing import CODINGS
from mlserver.grpc.services import methods
from mlserver.grpc.status import Code, RpcError, encode_status, parse_timeout, read_metadata
from mlserver.listening import listen
from mlserver.logging import logger
from mlserver.service import Service, Target
from mlserver.wire.http2 import Headers, Limits, Stream, encode_headers

if TYPE_CHECKING:
    from mlserver.metrics.requests import RequestMetrics
    from mlserver.settings import Settings

__all__ = ["GrpcServer"]

access_log = logging.getLogger("mlserver.grpc")

# Seconds between two looks at all connections.
_SWEEP = 0.25
# What gRPC clients send is smaller than this by default; larger messages come in many reads.
_READ_BUFFER = 512 * 1024
# A client with one large message need not wait for credit in the middle of it.
_STREAM_WINDOW = 16 * 1024 * 1024
_DEFAULT_MAX_MESSAGE = 100 * 1024 * 1024
# Messages that are arriving on one connection may take so many times the largest one, replies that wait to be
# read half of it. From half of it on, a client waits for credit as long as some of its calls are answered.
_HELD_MESSAGES = 8
_MOST_TARGETS = 1024

_REPLY = ((b":status", b"200"), (b"content-type", b"application/grpc"))
_ACCEPTED = b"identity, deflate, gzip"


class Deadlines:
    """When calls have to end, to a hundredth of a second: one timer for all of them."""

    _SLOT = 0.01

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, set[Call]] = {}
        self._passed = 0
        self._ticking = False

    def add(self, call: Call, seconds: float) -> None:
        now = self._loop.time()
        slot = call.deadline = int((now + seconds) / self._SLOT) + 1
        calls = self._slots.get(slot)
        if calls is None:
            calls = self._slots[slot] = set()
        calls.add(call)
        if not self._ticking:
            self._ticking = True
            self._passed = int(now / self._SLOT)
            self._loop.call_later(self._SLOT, self._tick)

    def time_of(self, call: Call) -> float | None:
        """When it has to end, as the loop counts; None for never."""
        return None if call.deadline is None else call.deadline * self._SLOT

    def remove(self, call: Call) -> None:
        assert call.deadline is not None
        calls = self._slots.get(call.deadline)
        if calls is not None:
            calls.discard(call)
            if not calls:
                del self._slots[call.deadline]
        call.deadline = None

    def _tick(self) -> None:
        current = int(self._loop.time() / self._SLOT)
        if current - self._passed > len(self._slots):
            due = [slot for slot in self._slots if slot <= current]
        else:
            due = [slot for slot in range(self._passed + 1, current + 1) if slot in self._slots]
        self._passed = current
        for slot in sorted(due):
            for call in self._slots.pop(slot, ()):
                call.deadline = None
                call.expire()
        self._ticking = bool(self._slots)
        if self._ticking:
            self._loop.call_later(self._SLOT, self._tick)


class GrpcServer:
    """Serves the services of `services.methods` on one port."""

    def __init__(self, settings: Settings, service: Service, metrics: RequestMetrics | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.service = service
        self.tls = False
        self.debug = settings.debug
        self.deadlines = Deadlines(self.loop)
        self.read_buffer = memoryview(bytearray(_READ_BUFFER))
        limit = settings.grpc_max_message_length
        if limit is None:
            limit = _DEFAULT_MAX_MESSAGE
        self.max_message: float = math.inf if limit < 0 else limit
        self.most_held = _HELD_MESSAGES * max(self.max_message, _DEFAULT_MAX_MESSAGE)
        self.most_unread = self.most_held / 2
        self.limits = Limits(
            max_streams=settings.grpc_max_concurrent_streams,
            stream_window=_STREAM_WINDOW,
            connection_window=4 * _STREAM_WINDOW,
        )
        self.header_timeout = settings.http_header_timeout
        self.write_timeout = settings.http_body_timeout
        self.keepalive_time = settings.grpc_keepalive_time
        self.keepalive_timeout = settings.grpc_keepalive_timeout
        age = settings.grpc_max_connection_age
        self.max_connection_age = math.inf if age is None else age
        self.age_grace = settings.shutdown_timeout
        self._server_name = settings.server_name
        self._namespace = kubernetes_namespace()
        self._methods: dict[bytes, Method] = {}
        for method in methods(service, settings):
            if metrics is not None:
                method.counters = metrics.grpc_method(method.kind, method.service, method.name)
            self._methods[method.path.encode()] = method
        self._targets: dict[tuple[str, str], tuple[Target, bytes]] = {}
        self._connections: set[GrpcProtocol] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone: asyncio.Future[None] | None = None  # while stopping: no connection is left
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    # Listening

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen, and return the port. Raises StartError naming the port when it is taken."""
        self.tls = tls is not None
        self._server, bound = await listen(
            lambda: GrpcProtocol(self), host, port, "gRPC", tls, self.header_timeout
        )
        self._sweep()
        return bound

    async def stop(self, timeout: float) -> None:
        """Accept no more, finish what was accepted within `timeout` seconds, then break the rest off."""
        if self._server is not None:
            self._server.close()
        self._gone = self.loop.create_future()
        self._shut_down()
        # A client that does not answer the first GOAWAY hears the last one all the same.
        hurry = self.loop.call_later(min(1.0, timeout / 2), self._shut_down)
        if self._connections:
            await asyncio.wait([self._gone], timeout=timeout)
        hurry.cancel()
        for connection in list(self._connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _shut_down(self) -> None:
        for connection in list(self._connections):
            connection.shut_down()

    # Connections

    def add(self, connection: GrpcProtocol) -> None:
        self._connections.add(connection)
        if self._gone is not None:
            connection.shut_down()

    def remove(self, connection: GrpcProtocol) -> None:
        self._connections.discard(connection)
        if self._gone is not None and not self._connections and not self._gone.done():
            self._gone.set_result(None)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it in a task that is kept until it ends."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _sweep(self) -> None:
        self._sweeper = self.loop.call_later(_SWEEP, self._sweep)
        now = time.monotonic()
        for connection in list(self._connections):
            try:
                connection.sweep(now)
            except Exception:  # whatever ails one, the others are looked after
                logger.exception("a gRPC connection could not be looked after")
                connection.abort()

    # Calls

    def route(self, headers: Headers) -> Route:
        """What headers ask for. Equal ones are asked once."""
        fields = dict(headers.fields)
        content_type = fields.get(b"content-type", b"")
        if fields[b":method"] != b"POST":
            return self._refuse_http(b"405")
        if not content_type.startswith(b"application/grpc") or content_type[16:17] not in (b"", b"+", b";"):
            return self._refuse_http(b"415")
        head = encode_headers(_REPLY)
        try:
            method = self._methods.get(fields[b":path"])
            if method is None:
                path = fields[b":path"].decode("latin-1")
                raise RpcError(Code.UNIMPLEMENTED, f"there is no method {path}")
            timeout = fields.get(b"grpc-timeout")
            coding = fields.get(b"grpc-encoding", b"").decode("latin-1") or None
            accepts = fields.get(b"grpc-accept-encoding", b"").decode("latin-1")
            metadata = read_metadata(field for field in headers.fields if not _is_internal(field[0]))
            return Route(
                method.call,
                method,
                metadata,
                None if timeout is None else parse_timeout(timeout),
                coding,
                frozenset(part.strip() for part in accepts.split(",")) & CODINGS.keys(),
                _reply_head(coding, accepts),
            )
        except RpcError as exc:
            trailers = encode_status(exc.code, str(exc))
            return Route(partial(_refuse, trailers, exc.code), None, {}, None, None, frozenset(), head)

    def _refuse_http(self, status: bytes) -> Route:
        block = encode_headers([(b":status", status)])
        return Route(_refuse_with, None, {}, None, None, frozenset(), block)

    def too_large_block(self, limit: int) -> bytes:
        """The reply to a request whose metadata is too large."""
        text = f"the metadata is larger than {limit} bytes"
        return encode_headers(_REPLY) + encode_status(Code.RESOURCE_EXHAUSTED, text)

    def target(self, name: str, version: str) -> tuple[Target, bytes]:
        """A model as a client addresses it, and the CloudEvents metadata of its replies."""
        found = self._targets.get((name, version))
        if found is None:
            headers = model_headers(CloudEventsTypes.Response, self._server_name, name, self._namespace)
            events = encode_headers(
                (key.lower().encode(), value.encode())
                for key, value in headers.items()
                if value.isascii() and value.isprintable()
            )
            found = Target(name, version or None, label=version), events
            if len(self._targets) >= _MOST_TARGETS:
                self._targets.clear()
            self._targets[name, version] = found
        return found

    async def forget(self, old: object, successor: object) -> None:
        """A model goes: no remembered target may keep it in memory."""
        self._targets.clear()

    def count(self, method: Method | None, code: Code, seconds: float) -> None:
        """A call has ended."""
        if method is None:
            return
        if method.counters is not None:
            method.counters.ended(code.name, seconds)
        if self.debug:
            access_log.info("%s %s %.1f ms", method.path, code.name, seconds * 1000)


_INTERNAL = (b"grpc-", b":")
_INTERNAL_NAMES = (b"te", b"content-type", b"content-length")


def _is_internal(name: bytes) -> bool:
    return name.startswith(_INTERNAL) or name in _INTERNAL_NAMES


def _reply_head(coding: str | None, accepts: str) -> bytes:
    """The header block of replies, which are compressed as the request was if the client can read that."""
    fields = [*_REPLY, (b"grpc-accept-encoding", _ACCEPTED)]
    if coding in CODINGS and coding in accepts:
        fields.append((b"grpc-encoding", coding.encode()))
    return encode_headers(fields)


def _refuse(trailers: bytes, code: Code, connection: GrpcProtocol, stream: Stream, route: Route) -> Call:
    """The status is encoded already: who asks in vain may ask often."""
    call = RefusedCall(connection, stream, route)
    call.finish(trailers, code)
    return call


def _refuse_with(connection: GrpcProtocol, stream: Stream, route: Route) -> Call:
    """A request that is none of gRPC: answered in HTTP."""
    connection.http2.send_headers(stream, route.head, True)
    connection.flush_later()
    call = RefusedCall(connection, stream, route)
    call.cancel()
    return call
