"""The comfortable road: every request that is not a plain inference, as a Starlette application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from pydantic_core import ValidationError
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, StreamingResponse
from starlette.responses import Response as PlainResponse
from starlette.routing import Match, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlserver.cloudevents import (
    CLOUDEVENTS_HEADER_ID,
    CLOUDEVENTS_HEADER_REQUEST_ID,
    CloudEventsTypes,
    kubernetes_namespace,
    model_headers,
)
from mlserver.errors import InvalidRequest, MLServerError
from mlserver.executor import Call, Reply
from mlserver.replica import Calls
from mlserver.rest.answer import failed
from mlserver.rest.custom import CustomHandlers
from mlserver.rest.head import BINARY_TENSORS
from mlserver.rest.responses import Response, error_response
from mlserver.service import Pending, Service, Target
from mlserver.settings import Settings
from mlserver.types import RepositoryIndexRequest

__all__ = ["create_app"]

Endpoint = Callable[[Request], Awaitable[PlainResponse]]
T = TypeVar("T")


class _Route(Route):
    """Takes one method and no other, not even HEAD. Where it is counted, tells the metrics its template."""

    def __init__(self, path: str, endpoint: Endpoint, method: str, counted: bool = True) -> None:
        super().__init__(path, endpoint, methods=[method])
        self.methods = {method}
        self._counted = counted

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        if match is Match.FULL and self._counted:
            child["route_template"] = self.path
        return match, child


def create_app(
    service: Service, settings: Settings, custom: CustomHandlers, extra_routes: Sequence[Route] = ()
) -> ASGIApp:
    """All REST routes over `service`; `custom` holds those that models bring along."""
    endpoints = _Endpoints(service, settings.server_name)
    model, versioned = "/v2/models/{model_name}", "/v2/models/{model_name}/versions/{model_version}"
    routes = [
        _get("/v2/health/live", endpoints.live, counted=False),
        _get("/v2/health/ready", endpoints.ready, counted=False),
        _get("/v2", endpoints.metadata),
        _get("/v2/models", endpoints.models),
        *(_get(prefix, endpoints.model_metadata) for prefix in (model, versioned)),
        *(_get(f"{prefix}/ready", endpoints.model_ready) for prefix in (model, versioned)),
        *(_get(f"{prefix}/batching", endpoints.batching) for prefix in (model, versioned)),
        *(_get(f"{prefix}/rollout", endpoints.rollout) for prefix in (model, versioned)),
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
    built_in = Router(routes, redirect_slashes=False)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = built_in  # a router that belongs to an application raises what it cannot serve
        # What the server itself offers cannot be taken over by a model.
        if custom.matches(scope) and not any(route.matches(scope)[0] is Match.FULL for route in routes):
            await custom(scope, receive, send)
            return
        target = _without_slash(scope)
        if target is not None and (
            custom.matches(target) or any(r.matches(target)[0] is not Match.NONE for r in routes)
        ):
            await RedirectResponse(_location(target))(scope, receive, send)
            return
        await built_in(scope, receive, send)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def note_and_send(message: Message) -> None:
            nonlocal begun
            await send(message)
            begun = True

        try:
            await dispatch(scope, receive, note_and_send)
        except Exception as exc:
            if begun:
                raise
            await error_response(exc)(scope, receive, send)

    cors = settings.cors_settings
    return app if cors is None else CORSMiddleware(app, **cors.model_dump())


def _get(path: str, endpoint: Endpoint, counted: bool = True) -> Route:
    return _Route(path, endpoint, "GET", counted)


def _post(path: str, endpoint: Endpoint) -> Route:
    return _Route(path, endpoint, "POST")


def _without_slash(scope: Scope) -> Scope | None:
    """The scope of the same path without the slash that it ends in, if it does."""
    path = scope["path"].rstrip("/")
    if path == scope["path"] or not path.removeprefix(scope["root_path"]):
        return None
    return {**scope, "path": path, "raw_path": scope["raw_path"].rstrip(b"/")}


def _location(scope: Scope) -> str:
    """The URL of a scope as its client sees it, who may talk to a proxy that takes a prefix away."""
    headers = Headers(scope=scope)
    prefix = headers.get("x-forwarded-prefix", "").rstrip("/")
    if not prefix.startswith("/") or prefix.startswith("//"):
        prefix = scope["root_path"]
    path = scope["raw_path"].decode("latin-1").removeprefix(scope["root_path"])
    query = scope["query_string"].decode("latin-1")
    host = headers.get("host") or "{}:{}".format(*scope["server"])
    return f"{scope['scheme']}://{host}{prefix}{path}" + (f"?{query}" if query else "")


class _Endpoints:
    """One method a route."""

    def __init__(self, service: Service, server_name: str) -> None:
        self._service = service
        self._server_name = server_name
        self._namespace = kubernetes_namespace()

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

    async def batching(self, request: Request) -> PlainResponse:
        return Response(self._service.batching(*_model(request)))

    async def rollout(self, request: Request) -> PlainResponse:
        return Response(self._service.rollout(*_model(request)))

    async def infer(self, request: Request) -> PlainResponse:
        """Inference for requests that the fast lane leaves alone, such as those of web pages under CORS."""
        target = Target(*_model(request))
        reply = await _while_connected(request, self._ask(target, await _call(request)))
        response = PlainResponse(reply.body, reply.status, media_type="application/json")
        own = {str(key): str(value) for key, value in (reply.headers or {}).items()}
        response.headers.update({k: v for k, v in own.items() if k.lower() not in _FRAMING})
        if reply.status == 200:
            events = model_headers(CloudEventsTypes.Response, self._server_name, target.name, self._namespace)
            if reply.id:
                events[CLOUDEVENTS_HEADER_ID] = events[CLOUDEVENTS_HEADER_REQUEST_ID] = reply.id
            response.headers.update({k: v for k, v in events.items() if v.isascii() and v.isprintable()})
        return response

    async def _ask(self, target: Target, call: Call) -> Reply:
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def answer(reply: Reply) -> None:
            if not answered.done():
                answered.set_result(reply)

        inference: Pending = self._service.infer(target, call, answer)
        try:
            return await answered
        except asyncio.CancelledError:
            inference.abandon()
            raise

    async def infer_stream(self, request: Request) -> PlainResponse:
        replies = self._service.infer_stream(Target(*_model(request)), Calls.of(await _call(request)))
        # Waited for here: an error before the first event has a status of its own.
        first = await _while_connected(request, anext(replies, None))
        return StreamingResponse(_events(first, replies), media_type="text/event-stream")

    async def index(self, request: Request) -> PlainResponse:
        body = await request.body()
        try:
            wanted = msgspec.json.decode(body) if body.strip() else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise _not_an_index_request("json_invalid", [0], "JSON decode error", {}, exc) from None
        try:
            only_ready = (
                RepositoryIndexRequest.model_validate({} if wanted is None else wanted).ready or False
            )
        except ValidationError as exc:
            fault = exc.errors()[0]
            raise _not_an_index_request(
                fault["type"], fault["loc"], fault["msg"], fault["input"], exc
            ) from None
        return Response(await self._service.index(only_ready))

    async def load(self, request: Request) -> PlainResponse:
        await self._service.load(request.path_params["model_name"], _parameters(await request.body()))
        return PlainResponse(status_code=200)

    async def unload(self, request: Request) -> PlainResponse:
        await self._service.unload(request.path_params["model_name"])
        return PlainResponse(status_code=200)


def _parameters(body: bytes) -> dict[str, Any]:
    """Those of a load request. Its body may be anything: agents send what they like."""
    try:
        parameters = msgspec.json.decode(body).get("parameters")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError):
        return {}
    return parameters if isinstance(parameters, dict) else {}


_FRAMING = frozenset(("content-length", "content-type", "transfer-encoding", "connection"))


def _not_an_index_request(
    kind: str, loc: Iterable[Any], msg: str, got: Any, exc: Exception
) -> InvalidRequest:
    text = " ".join(str(exc).split()) if kind == "json_invalid" else msg
    detail = {"type": kind, "loc": ["body", *loc], "msg": msg, "input": got}
    return InvalidRequest(f"not a repository index request: {text}", [detail])


async def _while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client leaves. The body must have been read."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
        return await working
    finally:
        working.cancel()
        leaving.cancel()


def _model(request: Request) -> tuple[str, str | None]:
    return request.path_params["model_name"], request.path_params.get("model_version")


async def _call(request: Request) -> Call:
    headers: dict[str, str] = {}
    for key, value in request.headers.items():
        headers.setdefault(key, value)
    json_length = headers.get(BINARY_TENSORS)
    if json_length is not None and json_length != headers.get("content-length"):
        raise MLServerError(
            "binary tensors over HTTP (`Inference-Header-Content-Length`) are not supported: send the "
            "tensors as JSON, with `binary_data=False` in clients of Triton, or use gRPC",
            415,
        )
    return Call(await request.body(), headers)


async def _events(reply: Reply | None, replies: AsyncGenerator[Reply, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(replies):
        try:
            while reply is not None:
                body: Any = reply.body  # of a call in JSON, so are the replies
                yield b"data: %b\n\n" % body
                reply = await anext(replies, None)
        except Exception as exc:
            yield b"data: %b\n\n" % failed(exc)[2]
            raise
