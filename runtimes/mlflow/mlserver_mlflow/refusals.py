"""Whose fault was it? Finds what was wrong with a request that a model refused, in words for the caller.

MLflow judges a request by the model's signature before the model sees it. Its verdict names some offenders,
and hides others behind a dump of all data: here every offender is named. What has passed the signature and
fails then is the model's fault, with three exceptions: requests without rows, errors out of those parts of
scikit-learn that judge the input of its estimators, and what boosted trees say of data that no signature has
judged before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from mlserver.errors import InferenceError, MLServerError
from mlserver.types import InferenceRequest
from mlserver_mlflow.flavours import TREES

if TYPE_CHECKING:
    from mlflow.pyfunc import PyFuncModel
    from mlflow.types import Schema

__all__ = ["extra_inputs", "find", "is_refusal", "misfit"]

_LISTED: Final = 20
_VALIDATION: Final = "sklearn.utils.validation"
# Modules that judge values themselves. Other errors pass through them, too: here the last frame decides.
_JUDGES: Final = frozenset(
    (
        "sklearn.compose._column_transformer",
        "sklearn.impute._base",
        "sklearn.preprocessing._encoders",
        "sklearn.utils._encode",
        "sklearn.utils._indexing",
    )
)
# What libraries of boosted trees raise, besides ValueError and TypeError, when they cannot use data.
_ERRORS_OF_TREES: Final = frozenset(("CatBoostError", "LightGBMError", "XGBoostError"))
# The loader of models that are code of their author's own, which may want anything.
_OWN_CODE: Final = "mlflow.pyfunc.model"


def find(exc: Exception, data: Any, request: InferenceRequest, model: PyFuncModel) -> MLServerError | None:
    """What was wrong with the request, or None when the model is to blame.

    data: what the model was given. exc: what came back.
    """
    from mlflow.exceptions import MlflowException

    what = f"input '{request.inputs[0].name}'" if len(request.inputs) == 1 else "the request"
    if isinstance(exc, MlflowException):
        status = exc.get_http_status_code()
        if status >= 500:
            return None
        return MLServerError(_verdict(exc, data, model, what), status)
    if is_refusal(exc, data, model):
        if _rows(data) == 0:
            return InferenceError(f"{what} has no rows")
        if isinstance(data, InferenceRequest):
            return InferenceError(
                "the model has no signature that would say how to read a request: "
                "name a `content_type` in the `parameters` of the request, such as 'np' or 'pd'"
            )
        return InferenceError(f"{what} does not suit the model: {' '.join(str(exc).split())}")
    return None


def is_refusal(exc: Exception, data: Any, model: PyFuncModel) -> bool:
    """Whether an error that is none of MLflow's says that the data, not the model, is wrong."""
    if _rows(data) == 0:
        return True
    if model.loader_module == _OWN_CODE:
        return False
    if isinstance(data, InferenceRequest) or _is_verdict(exc):
        return True
    if model.loader_module not in TREES or model.metadata.get_input_schema() is not None:
        return False
    return isinstance(exc, (ValueError, TypeError)) or type(exc).__name__ in _ERRORS_OF_TREES


def _verdict(exc: Any, data: Any, model: PyFuncModel, what: str) -> str:
    message = str(exc.message)
    # Anything else was raised by the model for its caller to read, or is one line already.
    if not message.startswith("Failed to enforce schema") or _details_are_hidden():
        return message
    schema = model.metadata.get_input_schema()
    fault = None if schema is None else misfit(data, schema, what)
    # MLflow's own text has all of the data and the schema before the cause.
    return fault or f"{what} does not suit the model's signature: {exc.__context__ or message}"


def _details_are_hidden() -> bool:
    """MLflow's own switch, for signatures that are nobody's business."""
    return os.environ.get("MLFLOW_DISABLE_SCHEMA_DETAILS", "").lower() in ("true", "1")


def misfit(data: Any, schema: Schema, what: str) -> str | None:
    """How data differs from an input schema, naming each column or tensor that does; None where it fits."""
    names = [str(name) for name in schema.input_names()] if schema.has_input_names() else []
    given = _names(data)
    if names and given is not None:
        missing = [name for name in map(str, schema.required_input_names()) if name not in given]
        unknown = [name for name in given if name not in names]
        if missing:
            text = f"the request lacks {_quoted(missing)}"
            if unknown:
                text += f" and has {_quoted(unknown)}, which the model does not know"
            return f"{text}: the model expects {_quoted(names)}"
    elif given is not None and len(given) < len(schema.inputs):
        return f"the request has {len(given)} columns, but the model expects {len(schema.inputs)}"
    faults = list(_faults(data, schema, given, what))
    return "; ".join(faults[:_LISTED]) or None


def extra_inputs(data: Any, schema: Schema) -> str | None:
    """Names of inputs that a schema with names does not have; None without any."""
    given = _names(data)
    if given is None or not schema.has_input_names():
        return None
    names = set(map(str, schema.input_names()))
    unknown = [name for name in given if name not in names]
    return _quoted(unknown) if unknown else None


def _faults(data: Any, schema: Schema, given: list[str] | None, what: str) -> Iterator[str]:
    """Each column or tensor alone, for MLflow stops at the first and does not always name it."""
    from mlflow.models import validate_schema
    from mlflow.types import Schema

    for position, spec in enumerate(schema.inputs):
        name: Any = spec.name
        part = data
        if given is not None and len(schema.inputs) > 1:
            if name is None:
                name = list(data)[position]
            elif name not in data:
                continue  # optional
            part = {name: data[name]} if isinstance(data, dict) else data[[name]]
        elif name is None and given is not None and len(given) == 1:
            name = given[0]
        try:
            validate_schema(part, Schema([spec]))
        except Exception as exc:
            where = what if name is None else f"input '{name}'"
            yield f"{where}: {' '.join(str(exc).split())}"


def _names(data: Any) -> list[str] | None:
    """Names of the columns of a frame, or of the tensors of a dict."""
    if isinstance(data, dict):
        return list(map(str, data))
    columns = getattr(data, "columns", None)
    return None if columns is None else list(map(str, columns))


def _rows(data: Any) -> int | None:
    """Rows of what a request was decoded to; None where nobody can tell."""
    if isinstance(data, dict):
        counts = [_rows(value) for value in data.values()]
        return 0 if 0 in counts else None
    shape = getattr(data, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else None
    return len(data) if isinstance(data, list) else None


def _is_verdict(exc: Exception) -> bool:
    """Whether the error is what scikit-learn says of values that it cannot use."""
    if not isinstance(exc, (ValueError, TypeError)) or type(exc).__name__ == "NotFittedError":
        return False
    modules = []
    traceback = exc.__traceback__
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__"))
        if module.partition(".")[0] not in ("numpy", "pandas", "scipy"):
            modules.append(module)
        traceback = traceback.tb_next
    return _VALIDATION in modules or (bool(modules) and modules[-1] in _JUDGES)


def _quoted(names: Iterable[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    more = len(quoted) - _LISTED
    return ", ".join(quoted[:_LISTED]) + (f" and {more} more" if more > 0 else "")
