"""The JSON response that this server and runtimes' own handlers answer with."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.responses import Response as PlainResponse

from mlserver.rest.answer import failed
from mlserver.types.base import BaseModel, Parameters, RootModel

__all__ = ["Response", "error_response"]


class Response(JSONResponse):
    """Any JSON value, message or pydantic model: None is `null`, bytes are UTF-8 text, NaN is `null`."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(_plain(content), default=_default, option=orjson.OPT_NON_STR_KEYS)


def _plain(content: Any) -> Any:
    if isinstance(content, (BaseModel, Parameters)):
        return content.model_dump(mode="json") if not isinstance(content, RootModel) else _plain(content.root)
    return content


def _default(value: Any) -> Any:
    if isinstance(value, (BaseModel, Parameters)):
        return _plain(value)
    if isinstance(value, bytes):
        return value.decode()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not JSON serialisable")


def error_response(exc: Exception) -> PlainResponse:
    """The one shape that errors have."""
    if isinstance(exc, HTTPException):
        # `detail` is what clients of older servers read.
        content = {"error": exc.detail, "detail": exc.detail}
        return Response(content, exc.status_code, headers=dict(exc.headers or {}))
    status, headers, body = failed(exc)
    response = PlainResponse(body, status)
    response.raw_headers += headers
    return response
