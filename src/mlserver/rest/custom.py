"""Custom handlers: FastAPI reads their signatures, their models' loops run them.

FastAPI is imported when the first model with a handler is loaded; most servers never pay for it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response as PlainResponse
from starlette.routing import Match
from starlette.types import Message, Receive, Scope, Send

from mlserver.context import model_context
from mlserver.handlers.custom import CustomHandler, get_custom_handlers
from mlserver.rest.responses import Response

if TYPE_CHECKING:
    from mlserver.registry import LoadedModel

__all__ = ["CustomHandlers"]


class CustomHandlers:
    """The routes of all loaded models, an ASGI application. Of equal paths the one registered first answers."""

    def __init__(self) -> None:
        self._owners: dict[int, tuple[LoadedModel, list[tuple[CustomHandler, Callable[..., Any]]]]] = {}
        self._app: Any = None

    async def loaded(self, new: LoadedModel, old: LoadedModel | None) -> None:
        """Take over from `old`, in its place, or come last."""
        handlers = get_custom_handlers(new.model)
        if old is not None and id(old) in self._owners:
            self._owners = {
                (id(new) if key == id(old) else key): ((new, handlers) if key == id(old) else value)
                for key, value in self._owners.items()
            }
        elif handlers:
            self._owners[id(new)] = (new, handlers)
        else:
            return
        self._rebuild()

    async def unloaded(self, old: LoadedModel, successor: LoadedModel | None) -> None:
        if self._owners.pop(id(old), None) is not None:
            self._rebuild()

    def matches(self, scope: Scope) -> bool:
        if self._app is None or scope["type"] != "http":
            return False
        return any(route.matches(scope)[0] is not Match.NONE for route in self._app.router.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The body is all here already; a handler on another loop may read it without waiting for this one.
        first = await receive()

        async def body() -> Message:
            nonlocal first
            message, first = first, {"type": "http.request", "body": b"", "more_body": False}
            return message

        for route in self._app.router.routes:
            if route.matches(scope)[0] is Match.FULL:
                scope["route_template"] = route.path
                break
        await self._app(scope, body, send)

    def _rebuild(self) -> None:
        if not self._owners:
            self._app = None
            return
        from fastapi import FastAPI
        from fastapi.exceptions import RequestValidationError

        app = FastAPI(title="MLServer", docs_url=None, redoc_url=None)
        app.add_exception_handler(RequestValidationError, _invalid)
        app.add_exception_handler(HTTPException, _http_error)
        # Errors of handlers belong to the application around this one, which knows the one error shape.
        app.add_exception_handler(Exception, _reraise)
        for loaded, handlers in self._owners.values():
            for handler, method in handlers:
                app.add_api_route(
                    handler.rest_path,
                    _on_model_loop(loaded, method),
                    methods=[handler.rest_method],
                    response_model=None,
                    response_class=Response,
                )
        app.middleware_stack = app.router  # type: ignore[assignment]
        self._app = app


def _on_model_loop(loaded: LoadedModel, method: Callable[..., Any]) -> Callable[..., Any]:
    """The handler with the signature that FastAPI is to read, run where all code of its model runs."""

    async def run(*args: Any, **kwargs: Any) -> Any:
        with model_context(loaded.settings):
            result = method(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

    @functools.wraps(method)
    async def endpoint(*args: Any, **kwargs: Any) -> PlainResponse:
        result = await loaded.replica.on_model_loop(run(*args, **kwargs))
        return result if isinstance(result, PlainResponse) else Response(result)

    return endpoint


async def _invalid(request: Request, exc: Any) -> PlainResponse:
    details = [{key: value for key, value in error.items() if key != "ctx"} for error in exc.errors()]
    texts = ", ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in details[:3])
    return Response({"error": f"invalid request: {texts}", "detail": details}, 422)


async def _http_error(request: Request, exc: Any) -> PlainResponse:
    return Response(
        {"error": exc.detail, "detail": exc.detail}, exc.status_code, headers=dict(exc.headers or {})
    )


async def _reraise(request: Request, exc: Exception) -> PlainResponse:
    raise exc
