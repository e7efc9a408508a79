"""What a fitted estimator tells of itself: what it was fitted on, what it gives, whose code it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlserver.tabular import Features, Fitted, Method, is_known_code, text_input
from mlserver.types import MetadataTensor, RequestInput
from mlserver_sklearn.linear import straight

__all__ = ["OUTPUTS", "final_type", "open_estimator"]

# What a request may ask for: methods whose result for a row depends on that row alone.
OUTPUTS = (
    "predict",
    "predict_proba",
    "transform",
    "decision_function",
    "predict_log_proba",
    "score_samples",
    "apply",
)
_ROW_WISE = frozenset((*OUTPUTS, "inverse_transform"))


class Columns(Features):
    """The features of an estimator of rows. missing: by column of text, what stands for a missing one.

    Encoders and imputers tell None from NaN, and which of them a frame holds depends on where it came from.
    """

    def __init__(
        self,
        names: Iterable[str],
        count: int | None,
        datatypes: Mapping[str, str],
        examples: Mapping[str, Any],
        missing: Mapping[str, Any],
    ) -> None:
        super().__init__(names, count, datatypes=datatypes, examples=examples)
        self._missing = missing

    def arrange(self, data: Any) -> Any:
        data = super().arrange(data)
        if not self._missing or not hasattr(data, "columns"):
            return data
        changed = {
            name: (column := data[name]).astype(object).where(column.notna(), value)
            for name, value in self._missing.items()
            if name in data
        }
        return data.assign(**changed)


class Documents(Features):
    """The features of an estimator that wants texts, in one dimension, rather than rows of features."""

    def arrange(self, data: Any) -> Any:
        if isinstance(data, np.ndarray):
            return data.ravel() if data.ndim == 2 and data.shape[1] == 1 else data
        columns = getattr(data, "columns", None)
        return data.iloc[:, 0] if columns is not None and len(columns) == 1 else data

    def miscast(self, inputs: Sequence[RequestInput]) -> str | None:
        for tensor in inputs:
            if tensor.datatype != "BYTES":
                return f"must hold text, but has datatype {tensor.datatype}"
        return None

    def inputs(self) -> list[MetadataTensor]:
        return [text_input("input-0")]

    def samples(self) -> Iterator[Any]:
        yield ["text"]


def open_estimator(estimator: Any, method: str) -> Fitted:
    """What an estimator can do. method: its method that answers when a request asks for no outputs."""
    methods: dict[str, Method] = {
        name: straight(estimator, name) or bound
        for name in OUTPUTS
        if (bound := getattr(estimator, name, None)) is not None
    }

    def default(data: Any) -> Any:
        return getattr(estimator, method)(data)

    only_computes = all(map(is_known_code, _parts(estimator)))
    return Fitted(
        estimator,
        _features(estimator),
        methods,
        method=method,
        default=None if method in OUTPUTS else default,
        classes=getattr(estimator, "classes_", None),
        only_computes=only_computes,
        rows_independent=method in _ROW_WISE,
    )


def final_type(estimator: Any) -> type:
    """The class of what answers: of the last step, in a pipeline."""
    return type(_ends(estimator)[1])


def _features(estimator: Any) -> Features:
    first, _ = _ends(estimator)
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    count = getattr(estimator, "n_features_in_", None)
    if _is_vectorizer(first):
        return Documents(names, count)
    columns = {name: (value, missing) for name, value, missing in _particular_columns(estimator, names)}
    return Columns(
        names,
        count,
        datatypes={name: "BYTES" for name, (value, _) in columns.items() if isinstance(value, str)},
        examples={name: value for name, (value, _) in columns.items() if value != ""},
        missing={
            name: missing[0]
            for name, (value, missing) in columns.items()
            if isinstance(value, str) and len(missing) == 1
        },
    )


def _ends(estimator: Any) -> tuple[Any, Any]:
    """The step that sees the data first, and the one that answers."""
    first = last = estimator
    while isinstance(steps := getattr(first, "steps", None), list) and steps:
        first = steps[0][1]
    while isinstance(steps := getattr(last, "steps", None), list) and steps:
        last = steps[-1][1]
    return first, last


def _parts(estimator: Any) -> Iterator[Any]:
    """The estimator, and all that it is configured with: inner estimators, functions, values."""
    yield estimator
    try:
        yield from estimator.get_params(deep=True).values()
    except Exception:
        yield _parts  # something that is not known code


def _is_vectorizer(step: Any) -> bool:
    """Whether it turns documents into features."""
    return any(cls.__name__ == "_VectorizerMixin" for cls in type(step).__mro__)


def _particular_columns(estimator: Any, names: list[str]) -> Iterator[tuple[str, Any, list[Any]]]:
    """Columns that are read as text or categories, with a value that each may have, of text an empty one; and
    with what stands for a missing one."""
    whole = [("", estimator, names)]
    for _, transformer, columns in getattr(_ends(estimator)[0], "transformers_", whole):
        if isinstance(columns, (slice, int)):
            continue
        labels = [columns] if isinstance(columns, str) else columns
        if _is_vectorizer(_ends(transformer)[0]):
            yield from ((label, "", []) for label in labels if isinstance(label, str))
        for label, categories in zip(labels, _categories(transformer, len(labels)), strict=False):
            texts = [value for value in categories if isinstance(value, str)]
            known = texts or [value for value in categories if value is not None and value == value]
            if isinstance(label, str) and known:
                yield label, np.asarray(known[0]).item(), _missing(transformer, categories)


def _categories(transformer: Any, columns: int) -> Any:
    """Those of the first step that knows some; steps before it, such as an imputer, keep the columns."""
    steps = getattr(transformer, "steps", None)
    parts = [step for _, step in steps] if isinstance(steps, list) else [transformer]
    found = next((part.categories_ for part in parts if hasattr(part, "categories_")), ())
    return found if len(found) == columns else ()


def _missing(transformer: Any, categories: Any) -> list[Any]:
    """What stands for a missing value: what an imputer looks for, or else those among the categories."""
    first, _ = _ends(transformer)
    values = [first.missing_values] if hasattr(first, "missing_values") else categories
    return [value for value in values if value is None or (isinstance(value, float) and value != value)]
