"""Whose fault was it? Finds what was wrong with a request that an estimator refused, in words for the caller.

Two signs say that the request is to blame: its data does not have the form that the estimator was fitted on,
or the error came out of the parts of scikit-learn that judge their input. All others are the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sklearn.exceptions import NotFittedError

from mlserver.errors import InferenceError
from mlserver.tabular import Features, first_element, quoted, subject_of
from mlserver.types import InferenceRequest

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


def find(exc: Exception, data: Any, request: InferenceRequest, features: Features) -> InferenceError | None:
    """What was wrong with the request, or None when the model is to blame.

    data: what the estimator was given. exc: what it raised. features: those that it was fitted on.
    """
    if isinstance(exc, NotFittedError):
        return None
    modules, functions = _path(exc)
    fault = (
        features.misfit(data, strict=False)
        # Names that it does not know matter only if it says so.
        or ("_check_feature_names" in functions and features.misfit(data))
        or _refused(exc, modules, data, features)
    )
    return InferenceError(f"{subject_of(request)} {fault}") if fault else None


def _refused(exc: Exception, modules: list[str], data: Any, features: Features) -> str | None:
    """What scikit-learn itself found wrong with the values."""
    if not modules or not isinstance(exc, (ValueError, TypeError, AttributeError)):
        return None
    judge = modules[-1]
    text = str(exc).split("\n", 1)[0]
    if text.startswith("Buffer dtype mismatch"):
        return f"holds floats of another size than the model was fitted on ({text})"
    if isinstance(exc, AttributeError):
        return "must hold text" if judge == "sklearn.feature_extraction.text" else None
    if _VALIDATION not in modules and judge not in _JUDGES:
        return None
    if text.startswith("could not convert string to float"):
        if not hasattr(data, "columns"):
            return f"holds text, but the model expects numbers{first_element(data)}"
        value = text.partition(": ")[2]
        names = [name for name in data if name not in features.texts and value in map(repr, data[name])]
        where = f" in column{'s'[: len(names) > 1]} {quoted(names)}" if names else ""
        return f"holds text{where}, but the model expects numbers ({text})"
    if "not compatible with arrays of bytes/strings" in text:
        return f"holds text, but the model expects numbers{first_element(data)}"
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
