"""Custom handlers: FastAPI reads their signatures, their models' loops run them.

FastAPI is imported when the first model with a handler is loaded; most servers never pay for it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response as PlainResponse
from starlette.responses import StreamingResponse
from starlette.routing import Match
from starlette.types import Message, Receive, Scope, Send

from mlserver.handlers.custom import CustomHandler, get_custom_handlers
from mlserver.rest.responses import Response
from mlserver.tensor import TensorData
from mlserver.types.base import BaseModel, Parameters

if TYPE_CHECKING:
    from mlserver.registry import LoadedModel

__all__ = ["CustomHandlers"]

_Handlers = list[tuple[CustomHandler, Callable[..., Any]]]
# By id of the loaded model, in the order of registration.
_Owners = dict[int, tuple["LoadedModel", _Handlers]]


class CustomHandlers:
    """The routes of all loaded models, an ASGI application. Of equal paths the first registered answers."""

    def __init__(self) -> None:
        self._owners: _Owners = {}
        self._app: Any = None

    async def loaded(self, new: LoadedModel, old: LoadedModel | None) -> None:
        """Take over from `old`, in its place, or come last. Raises what FastAPI says of a signature."""
        handlers = get_custom_handlers(new.model)
        owners = self._owners.copy()
        if old is not None and id(old) in owners:
            owners = {}
            for key, owner in self._owners.items():
                if key == id(old):
                    key, owner = id(new), (new, handlers)
                owners[key] = owner
        elif handlers:
            owners[id(new)] = (new, handlers)
        else:
            return
        self._app = _build(owners)
        self._owners = owners

    async def unloaded(self, old: LoadedModel, successor: LoadedModel | None) -> None:
        if self._owners.pop(id(old), None) is not None:
            self._app = _build(self._owners)

    def matches(self, scope: Scope) -> bool:
        if self._app is None or scope["type"] != "http":
            return False
        return any(route.matches(scope)[0] is not Match.NONE for route in self._app.router.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        front = asyncio.get_running_loop()
        first: Message | None = await receive()  # all of the body

        async def receive_anywhere() -> Message:
            # A handler reads its request on another loop than the one that talks to the client.
            nonlocal first
            if first is not None:
                message, first = first, None
                return message
            if asyncio.get_running_loop() is front:
                return await receive()
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_call(receive), front))

        for route in app.router.routes:
            if route.matches(scope)[0] is Match.FULL:
                scope["route_template"] = route.path
                break
        await app(scope, receive_anywhere, send)


async def _call(receive: Receive) -> Message:
    return await receive()


def _build(owners: _Owners) -> Any:
    """A FastAPI application with the handlers of these models."""
    if not any(handlers for _, handlers in owners.values()):
        return None
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError

    app = FastAPI(title="MLServer", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_exception_handler(RequestValidationError, _invalid)
    # All other errors belong to the application around this one, which knows the one error shape.
    app.add_exception_handler(HTTPException, _reraise)
    app.add_exception_handler(Exception, _reraise)
    for loaded, handlers in owners.values():
        for handler, method in handlers:
            app.add_api_route(
                handler.rest_path,
                _on_model_loop(loaded, method),
                methods=[handler.rest_method],
                response_model=None,
                response_class=Response,
            )
    return app


def _on_model_loop(loaded: LoadedModel, method: Callable[..., Any]) -> Callable[..., Any]:
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
        result = await loaded.replica.on_model_loop(run(*args, **kwargs))
        if isinstance(result, StreamingResponse):
            result.body_iterator = loaded.replica.iterate(_items(result.body_iterator))
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
