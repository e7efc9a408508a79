"""Linear models, straight from their coefficients.

scikit-learn computes `X @ coef_.T + intercept_` in a few microseconds and spends two hundred on looking at X
before: whether it is a frame, sparse, on another device, finite. Here a request has become an array already,
so for a plain one only what can still be wrong with it is checked, and the same operations follow. Everything
else, and every mistake, is left to the estimator: it knows best what to say.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from mlserver.tabular import Method

__all__ = ["straight"]

_PLAIN = (np.dtype(np.float64), np.dtype(np.float32))


def straight(estimator: Any, name: str) -> Method | None:
    """A short way to what `getattr(estimator, name)` returns, bit by bit; None where there is none.

    Only for estimators whose methods are those of scikit-learn's linear models, tried on a few rows.
    """
    method = getattr(estimator, name)
    compute = _computation(type(estimator), name)
    coefficients = getattr(estimator, "coef_", None)
    if compute is None or type(coefficients) is not np.ndarray:
        return None  # another kind of model, one that is not fitted, or with sparse coefficients
    width = coefficients.shape[-1]

    def call(data: Any) -> Any:
        if (
            type(data) is np.ndarray
            and data.ndim == 2
            and data.shape[1] == width
            and len(data)
            and data.dtype in _PLAIN
            and np.isfinite(data).all()
        ):
            return compute(estimator, data)
        return method(data)

    return call if _agree(call, method, width) else None


def _computation(kind: Any, name: str) -> Any:
    try:
        base = importlib.import_module("sklearn.linear_model._base")
        classifier, regressor = base.LinearClassifierMixin, base.LinearModel
    except (ImportError, AttributeError):
        return None  # a release that has them somewhere else
    # Some classes override a method to document it. One of somebody else's may compute anything.
    if issubclass(kind, classifier) and _is_theirs(getattr(kind, name), kind.decision_function):
        return {"decision_function": _decide, "predict": _classify}.get(name)
    if issubclass(kind, regressor) and _is_theirs(getattr(kind, name), kind._decision_function):
        return {"predict": _regress}.get(name)
    return None


def _is_theirs(*methods: Any) -> bool:
    return all(method.__module__.startswith("sklearn.") for method in methods)


def _decide(estimator: Any, data: Any) -> Any:
    scores = data @ estimator.coef_.T + estimator.intercept_
    return scores.reshape(-1) if scores.ndim > 1 and scores.shape[1] == 1 else scores


def _classify(estimator: Any, data: Any) -> Any:
    scores = _decide(estimator, data)
    indices = (scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)
    return estimator.classes_.take(indices, axis=0)


def _regress(estimator: Any, data: Any) -> Any:
    return data @ estimator.coef_.T + estimator.intercept_


def _agree(call: Method, method: Method, width: int) -> bool:
    """Whether both give the same for a few rows: another release may compute something else."""
    rows = np.random.default_rng(0).normal(scale=10, size=(7, width))
    try:
        short, long = call(rows), method(rows)
    except Exception:
        return False
    return (short.dtype, short.shape) == (long.dtype, long.shape) and short.tobytes() == long.tobytes()
