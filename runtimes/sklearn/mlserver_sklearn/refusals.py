"""Whose fault was it? Finds what was wrong with a request that an estimator refused, in words for the caller.

Two signs say that the request is to blame: its data does not have the form that the estimator was fitted on,
or the error came out of the parts of scikit-learn that judge their input. All others are the model's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sklearn.exceptions import NotFittedError

from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest
from mlserver_sklearn.artefact import Artefact

__all__ = ["find"]

_VALIDATION = "sklearn.utils.validation"
# Modules that judge values themselves. Other errors pass through them, too: here the last frame decides.
_JUDGES = frozenset(
    (
        "sklearn.compose._column_transformer",
        "sklearn.feature_extraction.text",
        "sklearn.impute._base",
        "sklearn.preprocessing._encoders",
        "sklearn.utils._encode",
        "sklearn.utils._indexing",
    )
)
_MOST_NAMES_LISTED = 20


def find(exc: Exception, data: Any, request: InferenceRequest, artefact: Artefact) -> InferenceError | None:
    """What was wrong with the request, or None when the model is to blame.

    data: what the estimator was given. exc: what it raised.
    """
    if isinstance(exc, NotFittedError):
        return None
    what = f"input '{request.inputs[0].name}'" if len(request.inputs) == 1 else "the request"
    modules, functions = _path(exc)
    fault = _misfit(data, artefact, "_check_feature_names" in functions)
    if fault is None:
        fault = _refused(exc, modules, data)
    return None if fault is None else InferenceError(f"{what} {fault}")


def _misfit(data: Any, artefact: Artefact, names_refused: bool) -> str | None:
    """How the form of the data differs from what the estimator was fitted on."""
    columns = getattr(data, "columns", None)
    if columns is not None and artefact.columns:
        given = [str(name) for name in columns]
        missing = [name for name in artefact.columns if name not in given]
        unknown = [name for name in given if name not in artefact.columns]
        faults = []
        if missing:
            faults.append(f"lacks column{_s(missing)} {_quoted(missing)}")
        # Some estimators do not mind columns that they do not know.
        if unknown and (missing or names_refused):
            faults.append(f"has unknown column{_s(unknown)} {_quoted(unknown)}")
        if faults:
            return f"{' and '.join(faults)}: the model expects {_quoted(artefact.columns)}"
        return _without_rows(data.shape)
    shape: tuple[int, ...] = (len(data),) if isinstance(data, list) else getattr(data, "shape", ())
    wanted = artefact.n_features
    if wanted is not None:
        if len(shape) != 2:
            return f"has shape {list(shape)}, but the model expects [rows, {wanted}]"
        if shape[1] != wanted:
            return f"has {shape[1]} features per row (shape {list(shape)}), but the model expects {wanted}"
    return _without_rows(shape)


def _without_rows(shape: tuple[int, ...]) -> str | None:
    return f"has no rows (shape {list(shape)})" if shape and shape[0] == 0 else None


def _refused(exc: Exception, modules: list[str], data: Any) -> str | None:
    """What scikit-learn itself found wrong with the values."""
    if not modules or not isinstance(exc, (ValueError, TypeError, AttributeError)):
        return None
    judge = modules[-1]
    if isinstance(exc, AttributeError):
        return "must hold text" if judge == "sklearn.feature_extraction.text" else None
    if _VALIDATION not in modules and judge not in _JUDGES:
        return None
    text = str(exc).split("\n", 1)[0]
    if text.startswith("could not convert string to float"):
        return f"holds text, but the model expects numbers ({text})"
    if "not compatible with arrays of bytes/strings" in text:
        return f"holds text, but the model expects numbers (the first element is {str(data.flat[0])!r})"
    return f"does not suit the model: {text}"


def _path(exc: Exception) -> tuple[list[str], set[str]]:
    """Modules and names of the functions that the error passed, numerics left out, innermost last."""
    modules, functions = [], set()
    for module, function in _frames(exc):
        functions.add(function)
        if module.partition(".")[0] not in ("numpy", "pandas", "scipy"):
            modules.append(module)
    return modules, functions


def _frames(exc: Exception) -> Iterator[tuple[str, str]]:
    traceback = exc.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        yield str(frame.f_globals.get("__name__")), frame.f_code.co_name
        traceback = traceback.tb_next


def _quoted(names: Iterable[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    more = len(quoted) - _MOST_NAMES_LISTED
    return ", ".join(quoted[:_MOST_NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")


def _s(names: list[str]) -> str:
    return "s" if len(names) > 1 else ""
