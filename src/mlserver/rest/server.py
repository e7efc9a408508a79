"""A listening HTTP port: its sockets, its connections, and what they share."""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import Coroutine
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from mlserver.cloudevents import CloudEventsTypes, kubernetes_namespace, model_headers
from mlserver.listening import listen
from mlserver.logging import logger
from mlserver.metrics.requests import Gauge
from mlserver.rest.asgi import ASGIApp, Scope
from mlserver.rest.head import BINARY_TENSORS, Head, InferRoute, accepts_gzip
from mlserver.rest.protocol import HttpProtocol
from mlserver.service import Service, Target

if TYPE_CHECKING:
    from mlserver.metrics.requests import RequestMetrics, RouteCounters
    from mlserver.settings import Settings

__all__ = ["HttpServer"]

# Seconds between two looks at all connections.
_SWEEP = 0.25
# Request heads that are remembered, and how long one may be.
_HEADS = 1024
_HEAD_SIZE = 4096

_UNVERSIONED = "/v2/models/{model_name}/%s"
_VERSIONED = "/v2/models/{model_name}/versions/{model_version}/%s"


class HttpServer:
    """Serves an ASGI application on one port. Where there is a `service`, inferences go there directly."""

    def __init__(
        self,
        settings: Settings,
        app: ASGIApp,
        service: Service | None = None,
        metrics: RequestMetrics | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.app = app
        self.service: Service = service  # type: ignore[assignment]
        self.metrics = metrics
        self.stopping = False
        self.tls = False
        self.debug = settings.debug
        self.gzip = settings.gzip_enabled and service is not None
        self.root_path = settings.root_path
        max_body_size = settings.http_max_body_size
        self.max_body_size: float = max_body_size if max_body_size >= 0 else math.inf
        self.max_header_size = settings.http_max_header_size
        self.header_timeout = settings.http_header_timeout
        self.body_timeout = settings.http_body_timeout
        self.keep_alive = settings.http_keep_alive
        max_connections = settings.http_max_connections
        self._max_connections = math.inf if max_connections is None else max_connections
        self._cors = settings.cors_settings is not None
        self._server_name = settings.server_name
        self._namespace = kubernetes_namespace()
        self.heads: dict[bytes, Head] = {}
        self._connections: set[HttpProtocol] = set()
        self._turned_away: set[HttpProtocol] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: asyncio.Future[None] | None = None  # while stopping: no request is left
        self._gone: asyncio.Future[None] | None = None  # then: no connection is left
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._date = 0
        self._refresh_date()

    # Listening

    async def start(self, host: str, port: int, what: str, tls: ssl.SSLContext | None = None) -> int:
        """Listen, and return the port. Raises StartError naming the port when it is taken."""
        self.tls = tls is not None
        self._server, bound = await listen(
            lambda: HttpProtocol(self), host, port, what, tls, self.header_timeout
        )
        self._sweep()
        return bound

    async def stop(self, timeout: float) -> None:
        """Accept no more, finish what was accepted within `timeout` seconds, then break the rest off."""
        self.stopping = True
        self._write_heads()
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.stop()
        self._idle = self.loop.create_future()
        self.check_idle()
        await asyncio.wait([self._idle], timeout=timeout)
        # What was written last may still be on its way to the client.
        if self._connections:
            self._gone = self.loop.create_future()
            await asyncio.wait([self._gone], timeout=1.0)
        for connection in list(self._connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    # Connections

    def add(self, connection: HttpProtocol) -> str | None:
        """Take a connection in, or say why it cannot be served."""
        reason = None
        if self.stopping:
            reason = "the server is stopping"
        # Those that were turned away stay until they have read so; they take nobody's place.
        elif len(self._connections) - len(self._turned_away) >= self._max_connections:
            reason = "the server has as many connections as `http_max_connections` allows"
        if reason is not None:
            self._turned_away.add(connection)
        self._connections.add(connection)
        return reason

    def remove(self, connection: HttpProtocol) -> None:
        self._connections.discard(connection)
        self._turned_away.discard(connection)
        if self._idle is not None:
            self.check_idle()
        if self._gone is not None and not self._connections and not self._gone.done():
            self._gone.set_result(None)

    def check_idle(self) -> None:
        """Once the server stops: notice that no request is left."""
        if self._idle is not None and not self._idle.done() and not any(c.busy for c in self._connections):
            self._idle.set_result(None)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it in a task that is kept until it ends."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _sweep(self) -> None:
        self._sweeper = self.loop.call_later(_SWEEP, self._sweep)
        self._refresh_date()
        now = time.monotonic()
        for connection in list(self._connections):
            try:
                connection.sweep(now)
            except Exception:  # whatever ails one, the others are looked after
                logger.exception("a connection could not be looked after")
                connection.abort()

    def _refresh_date(self) -> None:
        now = int(time.time())
        if now != self._date:
            self._date = now
            self._write_heads()

    def _write_heads(self) -> None:
        """What all answers begin with. The last ones say that the connection closes behind them."""
        date = formatdate(self._date, usegmt=True).encode()
        self.common_headers = b"server: mlserver\r\ndate: " + date + b"\r\n"
        self.ok_head = b"HTTP/1.1 200 OK\r\n" + self.common_headers + b"content-type: application/json\r\n"
        if self.stopping:
            self.ok_head += b"connection: close\r\n"

    # Requests

    def route_counters(self, method: str, template: str, status: int) -> RouteCounters | None:
        return None if self.metrics is None else self.metrics.route(method, template, status)

    def complete(self, head: Head) -> Head:
        """Add what a head means to this server."""
        head.accepts_gzip = self.gzip and accepts_gzip(head.headers.get("accept-encoding"))
        head.infer = self.infer_route(head)
        head.in_progress = Gauge() if self.metrics is None else self.metrics.in_progress(head.method)
        return head

    def remember(self, whole: bytes, head: Head) -> None:
        """Equal bytes will not be parsed again."""
        if len(whole) <= _HEAD_SIZE:
            if len(self.heads) >= _HEADS:
                self.heads.clear()
            self.heads[whole] = head

    async def forget(self, old: object, successor: object) -> None:
        """A model goes: no remembered head may keep it in memory."""
        self.heads.clear()

    def infer_route(self, head: Head) -> InferRoute | None:
        """The fast lane, if this request may take it."""
        if self.service is None or head.method != "POST" or (self._cors and "origin" in head.headers):
            return None
        if BINARY_TENSORS in head.headers:
            return None
        parts = head.target.partition(b"?")[0].split(b"/")
        if parts[:3] != [b"", b"v2", b"models"] or parts[-1] not in (b"infer", b"generate"):
            return None
        action = parts[-1].decode()
        if len(parts) == 5 and parts[3]:
            name, version, template = _text(parts[3]), None, _UNVERSIONED % action
        elif len(parts) == 7 and parts[3] and parts[4] == b"versions" and parts[5]:
            name, version, template = _text(parts[3]), _text(parts[5]), _VERSIONED % action
        else:
            return None
        return InferRoute(Target(name, version), template, self._event_lines(name))

    def _event_lines(self, name: str) -> bytes:
        headers = model_headers(CloudEventsTypes.Response, self._server_name, name, self._namespace)
        return b"".join(
            b"%b: %b\r\n" % (key.lower().encode(), value.encode())
            for key, value in headers.items()
            if value.isascii() and value.isprintable()
        )

    def scope(self, head: Head, transport: asyncio.Transport) -> Scope:
        """The ASGI scope of a request."""
        target = head.target
        if not target.startswith(b"/"):
            target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
        raw_path, _, query = target.partition(b"?")
        path = _text(raw_path)
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "method": head.method,
            "scheme": "https" if self.tls else "http",
            "path": self.root_path + path,
            "raw_path": self.root_path.encode() + raw_path,
            "query_string": query,
            "root_path": self.root_path,
            "headers": list(head.raw_headers),
            "client": _address(transport, "peername"),
            "server": _address(transport, "sockname"),
            "state": {},
        }


def _text(part: bytes) -> str:
    return unquote(part.decode("latin-1"), encoding="utf-8", errors="replace")


def _address(transport: asyncio.Transport, which: str) -> tuple[str, int] | None:
    address: Any = transport.get_extra_info(which)
    return (address[0], address[1]) if isinstance(address, tuple) else None
