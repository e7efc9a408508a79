"""What a fitted estimator tells of itself: what it was fitted on, what it gives, whose code it runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import MetadataTensor, Parameters, RequestInput

__all__ = ["Artefact"]

# Methods whose result for a row depends on that row alone.
_ROW_WISE = frozenset(
    (
        "decision_function",
        "inverse_transform",
        "predict",
        "predict_log_proba",
        "predict_proba",
        "score_samples",
        "transform",
    )
)
# Packages whose estimators are known to do nothing but compute.
_KNOWN_PACKAGES = frozenset(("catboost", "lightgbm", "numpy", "scipy", "sklearn", "xgboost"))
_MOST_CLASSES_LISTED = 1_000


class Artefact:
    """A fitted estimator, the method that answers by default, and what is worth knowing before requests come.

    columns: names of the features, where it was fitted on a DataFrame. n_features: how many, where it knows.
    takes_documents: whether it wants texts (one-dimensional) rather than rows of features.
    only_computes: whether all of its code is of packages known to do nothing else.
    rows_independent: whether an output row is known to depend on the same input row alone.
    """

    def __init__(self, estimator: Any, method: str) -> None:
        self.estimator = estimator
        self.method = method
        self.methods: dict[str, Any] = {}
        for name in {method, "predict", "predict_proba", "transform"}:
            bound = getattr(estimator, name, None)
            if bound is not None:
                self.methods[name] = bound

        first, final = _ends(estimator)
        self.final_type = type(final)
        self.columns = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
        self._column_set = frozenset(self.columns)
        n_features = getattr(estimator, "n_features_in_", None)
        self.n_features: int | None = None if n_features is None else int(n_features)
        self.takes_documents = _is_vectorizer(first)
        self.arranges = bool(self.columns) or self.takes_documents
        self._text_columns = frozenset(_text_columns(first))

        self.only_computes = all(map(_is_known_code, _parts(estimator)))
        self.rows_independent = self.only_computes and method in _ROW_WISE

        if self.n_features is not None:
            # Arrays for a model that was fitted on a DataFrame are fine; a warning per request is not.
            message = "X (does not have valid|has) feature names"
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        # The first call of an estimator is slow: better now than for a client.
        self._sample = self._find_sample() if self.rows_independent else None

    # Requests

    def are_columns(self, inputs: Sequence[RequestInput]) -> bool:
        """Whether these are columns of the frame that the estimator was fitted on, rather than one matrix."""
        if len(inputs) == 1:
            return self.n_features == 1 and inputs[0].name in self._column_set
        return any(tensor.name in self._column_set for tensor in inputs)

    def arrange(self, data: Any) -> Any:
        """The data as the estimator wants it: documents in one dimension, columns in the order of the fit."""
        if isinstance(data, np.ndarray):
            one_column = data.ndim == 2 and data.shape[1] == 1
            return data.ravel() if self.takes_documents and one_column else data
        columns = getattr(data, "columns", None)
        if columns is None:
            return data
        if self.takes_documents:
            return data.iloc[:, 0] if len(columns) == 1 else data
        names = list(columns)
        if names != self.columns and len(names) == len(self.columns) and self._column_set.issuperset(names):
            return data[self.columns]
        return data

    # Metadata

    def inputs(self) -> list[MetadataTensor]:
        """The inputs it takes: its columns, or one matrix, or texts; empty where it does not know."""
        if self.takes_documents:
            return [_text_input("input-0")]
        if self.columns:
            return [
                _text_input(name) if name in self._text_columns else _numbers(name) for name in self.columns
            ]
        if self.n_features is not None:
            return [_numbers("input-0", self.n_features)]
        return []

    def outputs(self) -> list[MetadataTensor]:
        """The outputs it gives, the default one first; those that it cannot tell are left out."""
        names = [self.method]
        if self.method == "predict" and "predict_proba" in self.methods:
            names.append("predict_proba")
        described = [self._output(name) for name in names]
        return [output for output in described if output is not None]

    def _output(self, name: str) -> MetadataTensor | None:
        form = self._form_of_sample(name) or self._form_by_classes(name)
        if form is None:
            return None
        datatype, width = form
        classes = (
            _plain_values(getattr(self.estimator, "classes_", None)) if name == "predict_proba" else None
        )
        return MetadataTensor(
            name=name,
            datatype=datatype,
            shape=[-1, width],
            parameters=None if classes is None else Parameters(classes=classes),
        )

    def _form_of_sample(self, name: str) -> tuple[str, int] | None:
        if self._sample is None:
            return None
        try:
            result = self.methods[name](self._sample)
            if not isinstance(result, np.ndarray) or result.ndim > 2:
                return None
            return _datatype(result.dtype), result.shape[1] if result.ndim == 2 else 1
        except Exception:
            return None

    def _form_by_classes(self, name: str) -> tuple[str, int] | None:
        classes = getattr(self.estimator, "classes_", None)
        if not isinstance(classes, np.ndarray) or classes.ndim != 1:
            return None
        if name == "predict":
            return _datatype(classes.dtype), 1
        return ("FP64", len(classes)) if name == "predict_proba" else None

    def _find_sample(self) -> Any:
        """One row that means nothing, but that the estimator accepts. None where none can be guessed."""
        call = self.methods.get(self.method)
        if call is None:
            return None
        for sample in self._samples():
            try:
                call(sample)
            except Exception:
                continue  # it wants something else, such as categories that it knows
            return sample
        return None

    def _samples(self) -> Iterator[Any]:
        if self.takes_documents:
            yield ["text"]
        elif self.n_features is not None and not self._text_columns:
            yield np.zeros((1, self.n_features))
        if self.columns:
            try:
                import pandas as pd
            except ImportError:
                return
            yield pd.DataFrame({name: [""] if name in self._text_columns else [0.0] for name in self.columns})


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


def _is_known_code(part: Any) -> bool:
    if isinstance(part, (list, tuple)):
        return all(map(_is_known_code, part))
    if callable(part):
        code = part
    elif hasattr(part, "get_params"):
        code = type(part)
    else:
        return True  # a value
    module = getattr(code, "__module__", None) or type(code).__module__
    return module.partition(".")[0] in _KNOWN_PACKAGES


def _is_vectorizer(step: Any) -> bool:
    """Whether it turns documents into features."""
    return any(cls.__name__ == "_VectorizerMixin" for cls in type(step).__mro__)


def _text_columns(step: Any) -> Iterator[str]:
    """Columns that a ColumnTransformer reads as text."""
    for _, transformer, columns in getattr(step, "transformers_", ()):
        first = _ends(transformer)[0]
        names = [columns] if isinstance(columns, str) else columns
        if _is_vectorizer(first):
            yield from (name for name in names if isinstance(name, str))
        for name, categories in zip(names, getattr(first, "categories_", ()), strict=False):
            if isinstance(name, str) and categories.dtype.kind in "UO":
                yield name


def _numbers(name: str, width: int = 1) -> MetadataTensor:
    return MetadataTensor(name=name, datatype="FP64", shape=[-1, width])


def _text_input(name: str) -> MetadataTensor:
    # Also the default for decoding: over gRPC, texts arrive as bytes, which are equal to no category.
    parameters = Parameters(content_type=StringCodec.ContentType)
    return MetadataTensor(name=name, datatype="BYTES", shape=[-1, 1], parameters=parameters)


def _datatype(dtype: np.dtype[Any]) -> str:
    return str(NumpyCodec.encode_output("", np.zeros((0, 1), dtype=dtype)).datatype)


def _plain_values(classes: Any) -> list[Any] | None:
    """Classes as values that JSON can hold, if they are such and not too many."""
    if not isinstance(classes, np.ndarray) or classes.ndim != 1 or len(classes) > _MOST_CLASSES_LISTED:
        return None
    values: list[Any] = classes.tolist()
    return values if all(isinstance(value, (bool, int, float, str)) for value in values) else None
