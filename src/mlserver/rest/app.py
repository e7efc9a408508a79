"""The comfortable road: every request that is not a plain inference, as a Starlette application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response as PlainResponse
from starlette.responses import StreamingResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mlserver.errors import InvalidRequest, MLServerError
from mlserver.executor import Call, Reply, describe
from mlserver.rest.custom import CustomHandlers
from mlserver.rest.responses import Response
from mlserver.service import Inference, Service, Target
from mlserver.settings import Settings
from mlserver.types import RepositoryIndexRequest

__all__ = ["create_app"]

Endpoint = Callable[[Request], Awaitable[PlainResponse]]


class TemplateRoute(Route):
    """Tells the metrics which template a path belongs to."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        if match is Match.FULL:
            child["route_template"] = self.path
        return match, child


def create_app(
    service: Service, settings: Settings, custom: CustomHandlers, extra_routes: Sequence[Route] = ()
) -> ASGIApp:
    """All REST routes over `service`; `custom` holds those that models bring along."""
    endpoints = _Endpoints(service)
    model, versioned = "/v2/models/{model_name}", "/v2/models/{model_name}/versions/{model_version}"
    routes = [
        _get("/v2/health/live", endpoints.live, counted=False),
        _get("/v2/health/ready", endpoints.ready, counted=False),
        _get("/v2", endpoints.metadata),
        _get("/v2/models", endpoints.models),
        *(_get(prefix, endpoints.model_metadata) for prefix in (model, versioned)),
        *(_get(f"{prefix}/ready", endpoints.model_ready) for prefix in (model, versioned)),
        *(
            _post(f"{prefix}/{name}", endpoints.infer)
            for prefix in (model, versioned)
            for name in ("infer", "generate")
        ),
        *(
            _post(f"{prefix}/{name}_stream", endpoints.infer_stream)
            for prefix in (model, versioned)
            for name in ("infer", "generate")
        ),
        _post("/v2/repository/index", endpoints.index),
        _post("/v2/repository/models/{model_name}/load", endpoints.load),
        _post("/v2/repository/models/{model_name}/unload", endpoints.unload),
        *extra_routes,
    ]
    middleware = []
    if settings.cors_settings is not None:
        cors = settings.cors_settings
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=cors.allow_origins,
                allow_origin_regex=cors.allow_origin_regex,
                allow_credentials=cors.allow_credentials,
                allow_methods=cors.allow_methods,
                allow_headers=cors.allow_headers,
                expose_headers=cors.expose_headers,
                max_age=cors.max_age,
            )
        )
    handlers: dict[Any, Any] = {
        HTTPException: _http_error,
        MLServerError: _service_error,
        Exception: _service_error,
    }
    built_in = Starlette(routes=routes)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        # What the server itself offers cannot be taken over by a model.
        if custom.matches(scope) and not any(route.matches(scope)[0] is Match.FULL for route in routes):
            await custom(scope, receive, send)
        else:
            await built_in.router(scope, receive, send)

    app = Starlette(middleware=middleware, exception_handlers=handlers)
    app.router = dispatch  # type: ignore[assignment]
    return app


def _get(path: str, endpoint: Endpoint, counted: bool = True) -> Route:
    return (TemplateRoute if counted else Route)(path, endpoint, methods=["GET"])


def _post(path: str, endpoint: Endpoint) -> Route:
    return TemplateRoute(path, endpoint, methods=["POST"])


async def _http_error(request: Request, exc: Exception) -> PlainResponse:
    assert isinstance(exc, HTTPException)
    # `detail` is what clients of older servers read.
    return Response(
        {"error": exc.detail, "detail": exc.detail}, exc.status_code, headers=dict(exc.headers or {})
    )


async def _service_error(request: Request, exc: Exception) -> PlainResponse:
    status, body = describe(exc)
    return PlainResponse(body, status, media_type="application/json")


class _Endpoints:
    """One method a route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def live(self, request: Request) -> PlainResponse:
        live = self._service.live()
        return Response({"live": live}, 200 if live else 400)

    async def ready(self, request: Request) -> PlainResponse:
        ready = self._service.ready()
        return Response({"ready": ready}, 200 if ready else 400)

    async def metadata(self, request: Request) -> PlainResponse:
        return Response(self._service.metadata())

    async def models(self, request: Request) -> PlainResponse:
        names = {loaded.name for loaded in self._service.registry.all() if loaded.name}
        return Response({"models": sorted(names)})

    async def model_metadata(self, request: Request) -> PlainResponse:
        return Response(await self._service.model_metadata(*_model(request)))

    async def model_ready(self, request: Request) -> PlainResponse:
        name, version = _model(request)
        ready = self._service.model_ready(name, version)
        return Response({"name": name, "ready": ready}, 200 if ready else 400)

    async def infer(self, request: Request) -> PlainResponse:
        """Inference for requests that the fast lane leaves alone, such as those of web pages under CORS."""
        reply = await self._ask(Target(*_model(request)), await _call(request))
        response = PlainResponse(reply.body, reply.status, media_type="application/json")
        for key, value in (reply.headers or {}).items():
            response.headers[str(key)] = str(value)
        return response

    async def _ask(self, target: Target, call: Call) -> Reply:
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def answer(reply: Reply) -> None:
            if not answered.done():
                answered.set_result(reply)

        inference: Inference = self._service.infer(target, call, answer)
        try:
            return await answered
        except asyncio.CancelledError:
            inference.abandon()
            raise

    async def infer_stream(self, request: Request) -> PlainResponse:
        replies = self._service.infer_stream(Target(*_model(request)), await _call(request))
        try:
            first = await replies.__anext__()  # an error before the first event has a status of its own
        except StopAsyncIteration:
            return StreamingResponse(_nothing(), media_type="text/event-stream")
        return StreamingResponse(_events(first, replies), media_type="text/event-stream")

    async def index(self, request: Request) -> PlainResponse:
        body = await request.body()
        wanted = None
        if body.strip():
            try:
                wanted = msgspec.json.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError) as exc:
                raise InvalidRequest(f"body is not valid JSON: {exc}") from None
        try:
            only_ready = RepositoryIndexRequest.model_validate(wanted or {}).ready or False
        except ValueError as exc:
            raise InvalidRequest(f"not a repository index request: {_first_line(exc)}") from None
        return Response(await self._service.index(only_ready))

    async def load(self, request: Request) -> PlainResponse:
        await self._service.load(request.path_params["model_name"])
        return PlainResponse(status_code=200)

    async def unload(self, request: Request) -> PlainResponse:
        await self._service.unload(request.path_params["model_name"])
        return PlainResponse(status_code=200)


def _first_line(exc: Exception) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())  # type: ignore[attr-defined]


def _model(request: Request) -> tuple[str, str | None]:
    return request.path_params["model_name"], request.path_params.get("model_version")


async def _call(request: Request) -> Call:
    headers: dict[str, str] = {}
    for key, value in request.headers.items():
        headers.setdefault(key, value)
    return Call(await request.body(), headers)


async def _events(first: bytes, replies: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield b"data: %b\n\n" % first
    try:
        async for reply in replies:
            yield b"data: %b\n\n" % reply
    except Exception as exc:
        yield b"data: %b\n\n" % describe(exc)[1]
        raise


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
