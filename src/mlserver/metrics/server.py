"""The metrics port."""

from __future__ import annotations

import ssl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mlserver.metrics.exposition import Collector, scrape
from mlserver.rest.server import HttpServer
from mlserver.settings import Settings

__all__ = ["MetricsServer", "metrics_route"]


def metrics_route(path: str, collector: Collector) -> Route:
    """The route that a Prometheus server scrapes."""

    def metrics(request: Request) -> Response:
        text, content_type = scrape(collector)
        return Response(text, headers={"content-type": content_type})

    return Route(path, metrics, methods=["GET"])


class MetricsServer:
    """A port of its own for metrics, so that they can be kept from the world that the models are shown to."""

    def __init__(self, settings: Settings, collector: Collector) -> None:
        self._settings = settings
        app = Starlette(routes=[metrics_route(settings.metrics_endpoint or "/metrics", collector)])
        self._server = HttpServer(settings, app)

    async def start(self, tls: ssl.SSLContext | None = None) -> int:
        """Listen, and return the port. Raises StartError when it is taken."""
        return await self._server.start(self._settings.host, self._settings.metrics_port, "metrics", tls)

    async def stop(self) -> None:
        await self._server.stop(timeout=1.0)
