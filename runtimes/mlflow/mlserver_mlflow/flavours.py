"""Which models are known to answer each row for itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mlflow.pyfunc import PyFuncModel

__all__ = ["TREES", "rows_are_independent"]

# Boosted trees: whatever is asked of them, a row's answer is the row's.
TREES: Final = frozenset(("mlflow.catboost", "mlflow.lightgbm", "mlflow.xgboost"))
_SKLEARN: Final = "mlflow.sklearn"
# Methods of scikit-learn's estimators of which the same can be said.
_ROW_WISE: Final = frozenset(
    ("decision_function", "predict", "predict_log_proba", "predict_proba", "score_samples", "transform")
)
_KNOWN_PACKAGES: Final = frozenset(
    ("builtins", "catboost", "lightgbm", "numpy", "scipy", "sklearn", "xgboost")
)


def rows_are_independent(model: PyFuncModel) -> bool:
    """Whether an output row is known to depend on the same input row alone."""
    if model.loader_module in TREES:
        return True
    if model.loader_module != _SKLEARN:
        return False
    method = model.metadata.flavors["python_function"].get("predict_fn", "predict")
    return method in _ROW_WISE and all(map(_is_known, _parts(model.get_raw_model())))


def _parts(estimator: Any) -> Iterator[Any]:
    """The estimator, and all estimators and functions that it was made of."""
    yield estimator
    get_params = getattr(estimator, "get_params", None)
    values = get_params(deep=True).values() if callable(get_params) else ()
    for value in values:
        if hasattr(value, "get_params") or callable(value):
            yield value


def _is_known(part: Any) -> bool:
    code = part if callable(part) else type(part)
    module = getattr(code, "__module__", None) or type(code).__module__
    return str(module).partition(".")[0] in _KNOWN_PACKAGES
