"""Custom handlers: FastAPI reads their signatures, their models' loops run them.

FastAPI is imported when the first model with a handler is loaded; most servers never pay for it. Handlers of
a model in a worker are run there, as the ASGI application that they would be here: the front passes on what
the client sends and what the application answers.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response as PlainResponse
from starlette.responses import StreamingResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlserver.handlers.custom import CustomHandler, get_custom_handlers
from mlserver.parallel.replica import WorkerReplica
from mlserver.replica import LocalReplica
from mlserver.rest.responses import Response
from mlserver.tensor import TensorData
from mlserver.types.base import BaseModel, Parameters

if TYPE_CHECKING:
    from mlserver.registry import LoadedModel

__all__ = ["CustomHandlers", "build_handlers", "scope_in_worker"]

_OPENAPI = "/openapi.json"


class _Owner:
    """A loaded model with handlers: their routes, and the application that answers them."""

    def __init__(self, handlers: list[CustomHandler], app: ASGIApp) -> None:
        self.app = app
        self.routes = []
        for handler in handlers:
            route = Route(handler.rest_path, app, methods=[handler.rest_method])
            route.methods = {handler.rest_method.upper()}  # not HEAD beside GET
            self.routes.append(route)

    def match(self, scope: Scope) -> tuple[Match, str]:
        """How well the best route fits, and its path."""
        best, path = Match.NONE, ""
        for route in self.routes:
            match, _ = route.matches(scope)
            if match.value > best.value:
                best, path = match, route.path
        return best, path


class CustomHandlers:
    """The routes of all loaded models, an ASGI application. Of equal paths the first registered answers."""

    def __init__(self) -> None:
        self._owners: dict[int, _Owner] = {}  # by id of the loaded model, in the order of registration

    async def loaded(self, new: LoadedModel, old: LoadedModel | None) -> None:
        """Take over from `old`, in its place, or come last. Raises what FastAPI says of a signature."""
        description = new.replicas.description
        handlers = [] if description is None else description.handlers
        if not handlers and (old is None or id(old) not in self._owners):
            return
        local = new.replicas.local
        owner = (
            _Owner(handlers, _Remote(new) if local is None else build_handlers(local)) if handlers else None
        )
        owners: dict[int, _Owner] = {}
        for key, other in self._owners.items():
            if old is not None and key == id(old):
                if owner is not None:
                    owners[id(new)] = owner
            else:
                owners[key] = other
        if owner is not None:
            owners.setdefault(id(new), owner)
        self._owners = owners

    async def unloaded(self, old: LoadedModel, successor: LoadedModel | None) -> None:
        self._owners.pop(id(old), None)

    def matches(self, scope: Scope) -> bool:
        return self._find(scope) is not None or (bool(self._owners) and scope["path"] == _OPENAPI)

    def _find(self, scope: Scope) -> tuple[_Owner, str] | None:
        if scope["type"] != "http":
            return None
        best: tuple[_Owner, str] | None = None
        for owner in self._owners.values():
            match, path = owner.match(scope)
            if match is Match.FULL:
                return owner, path
            if match is Match.PARTIAL and best is None:
                best = owner, ""
        return best

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(scope)
        if found is None:
            await self._describe(scope, receive, send)
            return
        owner, path = found
        if path:
            scope["route_template"] = path
        await owner.app(scope, receive, send)

    async def _describe(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The OpenAPI document of all handlers: what each model's application says, put together."""
        if scope["method"] != "GET":
            raise HTTPException(405, headers={"allow": "GET"})
        whole: dict[str, Any] = {}
        for owner in list(self._owners.values()):
            part = orjson.loads(await _body_of(owner.app, scope))
            if not whole:
                whole = part
                continue
            for path, methods in part["paths"].items():
                whole["paths"][path] = {**methods, **whole["paths"].get(path, {})}
            for kind, components in part.get("components", {}).items():
                known = whole.setdefault("components", {}).setdefault(kind, {})
                whole["components"][kind] = {**components, **known}
        await Response(whole)(scope, receive, send)


async def _body_of(app: ASGIApp, scope: Scope) -> bytes:
    """What an application answers to a request without a body."""
    parts: list[bytes] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        parts.append(message.get("body", b""))

    await app(dict(scope), receive, send)
    return b"".join(parts)


class _Remote:
    """The handlers of a model whose copies are in workers."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        plain = {key: scope[key] for key in _PLAIN if key in scope}
        with self._loaded.replicas.talk() as replica:
            assert isinstance(replica, WorkerReplica)
            async with aclosing(replica.serve(plain, receive)) as messages:
                async for message in messages:
                    await send(message)


# What of a scope can be sent to another process, and says something there.
_PLAIN = (
    *("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path"),
    *("headers", "client", "server"),
)


def scope_in_worker(scope: dict[str, Any]) -> Scope:
    """A scope again, after a way on which tuples became lists."""
    pairs = {key: tuple(scope[key]) for key in ("client", "server") if scope.get(key) is not None}
    return {
        **scope,
        **pairs,
        "asgi": {"version": "3.0"},
        "headers": [tuple(pair) for pair in scope["headers"]],
    }


def build_handlers(replica: LocalReplica) -> ASGIApp:
    """The handlers of a model in this process. Raises what FastAPI says of a signature."""
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError

    app = FastAPI(title="MLServer", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_exception_handler(RequestValidationError, _invalid)
    # All other errors belong to the application around this one, which knows the one error shape.
    app.add_exception_handler(HTTPException, _reraise)
    app.add_exception_handler(Exception, _reraise)
    for handler, method in get_custom_handlers(replica.model):
        app.add_api_route(
            handler.rest_path,
            _on_model_loop(replica, method),
            methods=[handler.rest_method],
            response_model=None,
            response_class=Response,
        )
    host = asyncio.get_running_loop()

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        first: Message | None = await receive()  # all of the body

        async def receive_anywhere() -> Message:
            # A handler reads its request on another loop than the one that talks to the client.
            nonlocal first
            if first is not None:
                message, first = first, None
                return message
            if asyncio.get_running_loop() is host:
                return await receive()
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_call(receive), host))

        await app(scope, receive_anywhere, send)

    return run


async def _call(receive: Receive) -> Message:
    return await receive()


def _on_model_loop(replica: LocalReplica, method: Callable[..., Any]) -> Callable[..., Any]:
    """The handler with the signature that FastAPI is to read, run where all code of its model runs."""
    from fastapi.encoders import jsonable_encoder

    signature = _signature(method)
    dump = _dumper(signature.return_annotation)

    async def run(*args: Any, **kwargs: Any) -> PlainResponse:
        result = method(*args, **kwargs)
        if inspect.isawaitable(result):
            result = await result
        if isinstance(result, PlainResponse):
            return result
        # Here and not by FastAPI, which would do it on the loop that talks to the clients.
        return Response(jsonable_encoder(dump(result), custom_encoder=_MESSAGES))

    async def endpoint(*args: Any, **kwargs: Any) -> PlainResponse:
        result = await replica.on_model_loop(run(*args, **kwargs))
        if isinstance(result, StreamingResponse):
            result.body_iterator = replica.iterate(_items(result.body_iterator))
        for given in kwargs.values():
            if isinstance(given, PlainResponse) and given is not result:
                # The handler asked for it, to set status and headers of its answer.
                result.status_code = given.status_code or result.status_code
                result.raw_headers += [item for item in given.raw_headers if item[0] != b"content-length"]
        return result

    endpoint.__name__ = method.__name__
    endpoint.__doc__ = method.__doc__
    endpoint.__signature__ = signature  # type: ignore[attr-defined]
    return endpoint


async def _items(items: AsyncIterable[Any]) -> AsyncIterator[Any]:
    async for item in items:
        yield item


def _signature(method: Callable[..., Any]) -> inspect.Signature:
    """The signature, with V2 messages marked as bodies: FastAPI sees that in pydantic's models only."""
    from fastapi import Body
    from fastapi.params import Depends
    from pydantic.fields import FieldInfo

    try:
        signature = inspect.signature(method, eval_str=True)
    except NameError:
        signature = inspect.signature(method)
    parameters = []
    for parameter in signature.parameters.values():
        annotation = parameter.annotation
        marked = get_origin(annotation) is Annotated or isinstance(parameter.default, (FieldInfo, Depends))
        if not marked and any(_is_message(part) for part in (annotation, *get_args(annotation))):
            annotation = Annotated[annotation, Body()]
        parameters.append(parameter.replace(annotation=annotation))
    return signature.replace(parameters=parameters)


def _is_message(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, (BaseModel, Parameters))


def _dumper(annotation: Any) -> Callable[[Any], Any]:
    """What a return annotation does to the result: of a pydantic model, its fields and no more are shown."""
    from pydantic import BaseModel as PydanticModel
    from pydantic import PydanticUserError, TypeAdapter

    parts = [annotation, *get_args(annotation)]
    if not any(isinstance(part, type) and issubclass(part, PydanticModel) for part in parts):
        return lambda result: result
    try:
        adapter = TypeAdapter(annotation)
    except PydanticUserError:
        return lambda result: result

    def dump(result: Any) -> Any:
        return adapter.dump_python(adapter.validate_python(result, from_attributes=True), by_alias=True)

    return dump


def _dump(message: BaseModel | Parameters) -> Any:
    return message.model_dump(mode="json", exclude_unset=False, exclude_none=False)


_MESSAGES: dict[Any, Callable[[Any], Any]] = {
    BaseModel: _dump,
    Parameters: _dump,
    TensorData: TensorData.model_dump,
}


async def _invalid(request: Request, exc: Any) -> PlainResponse:
    details = [{key: value for key, value in error.items() if key != "ctx"} for error in exc.errors()]
    texts = ", ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in details[:3])
    return Response({"error": f"invalid request: {texts}", "detail": details}, 422)


async def _reraise(request: Request, exc: Exception) -> PlainResponse:
    raise exc
