"""The endpoint `/invocations` of MLflow's own scoring server.

MLflow parses the body, calls the model and writes the answer, so that these are what they are there, byte for
byte, in whichever version is installed. Refusals are, too, but for stack traces, which are left out. What is
the model's fault is none: it is raised, for the server to log and to answer as any other.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from mlserver_mlflow import refusals

if TYPE_CHECKING:
    from mlflow.pyfunc import PyFuncModel

__all__ = ["answer"]

_JSON: Final = "application/json"
_CSV: Final = "text/csv"
_BAD_REQUEST: Final = "BAD_REQUEST"


class _Watched:
    """The model, as MLflow's scoring server asks it; keeps what it raised."""

    def __init__(self, model: PyFuncModel) -> None:
        self._model = model
        self.metadata = model.metadata
        self.asked = False
        self.fault: Exception | None = None

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        from mlflow.exceptions import MlflowException

        self.asked = True
        try:
            return self._model.predict(data, params=params)
        except MlflowException as exc:
            if exc.get_http_status_code() >= 500:
                self.fault = exc
            raise
        except Exception as exc:
            if not refusals.is_refusal(exc, data, self._model):
                self.fault = exc
            raise


def answer(model: PyFuncModel, body: bytes, content_type: str) -> Response:
    """What MLflow's scoring server would say. Raises what the model raised where that is its own fault."""
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import scoring_server

    watched = _Watched(model)
    try:
        result = scoring_server.invocations(
            _text(body, content_type), content_type, watched, model.metadata.get_input_schema()
        )
    except Exception as exc:
        if watched.fault is not None:
            raise watched.fault from None
        if isinstance(exc, MlflowException):
            return _refusal(exc)
        if watched.asked:
            raise  # the model's result cannot be written
        return _refused(f"The request body cannot be read: {type(exc).__name__}: {exc}")
    return Response(result.response, result.status, media_type=result.mimetype)


def _text(body: bytes, content_type: str) -> bytes | str:
    """Older versions of MLflow take CSV as text only."""
    if content_type.partition(";")[0].strip() != _CSV:
        return body
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body


def _refusal(exc: Any) -> Response:
    content = json.loads(exc.serialize_as_json())
    content.pop("stack_trace", None)
    status = exc.get_http_status_code()
    if status >= 500:
        # Nothing but the body was looked at so far, so that is to blame.
        status, content["error_code"] = 400, _BAD_REQUEST
    return Response(json.dumps(content), status, media_type=_JSON)


def _refused(message: str) -> Response:
    content = {"error_code": _BAD_REQUEST, "message": message}
    return Response(json.dumps(content), 400, media_type=_JSON)
