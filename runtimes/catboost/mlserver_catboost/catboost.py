"""The CatBoost runtime: models in CatBoost's own formats, and pickles of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import catboost
import joblib
import numpy as np

from mlserver.errors import InferenceError, MLServerError
from mlserver.tabular import (
    PICKLES,
    Features,
    Fitted,
    Method,
    TabularModel,
    is_known_code,
    is_pickle,
    subject_of,
)
from mlserver.types import InferenceRequest, MetadataTensor, RequestInput

__all__ = ["CatboostModel"]

WELLKNOWN_MODEL_FILENAMES = ("model.cbm", "model.bin", "model.json", *PICKLES)

_CLASSIFIERS = frozenset(
    ("CrossEntropy", "Logloss", "MultiClass", "MultiClassOneVsAll", "MultiCrossEntropy", "MultiLogloss")
)
# What the losses of rankers start with.
_RANKERS = ("GroupQuantile", "LambdaMart", "PairLogit", "Query", "Stochastic", "YetiRank")


class CatboostModel(TabularModel):
    """Serves a model that CatBoost saved in its formats `cbm` and `json`, or a pickled one.

    `_model` is a CatBoostClassifier, CatBoostRanker or CatBoostRegressor, by the loss that it was trained
    with.
    """

    platform_name = "catboost"
    filenames = WELLKNOWN_MODEL_FILENAMES
    output_names = (
        "predict",
        "predict_proba",
        "predict_log_proba",
        "decision_function",
        "apply",
        "pred_contribs",
    )

    def _read(self, path: str) -> Any:
        if is_pickle(path):
            model = joblib.load(path)
            if not isinstance(model, catboost.CatBoost):
                raise TypeError(f"it holds a {type(model).__name__}, which is no CatBoost model")
            return model
        kind = "cbm"
        with open(path, "rb") as file:
            if file.read(1) == b"{":
                kind = "json"
                file.seek(0)
                json.load(file)  # CatBoost takes as much as it finds for the model
        # By path: loaded from bytes, a model forgets its loss, and with it what `predict` means.
        model = catboost.CatBoost().load_model(path, format=kind)
        return _class_of(model)().load_model(path, format=kind)

    def _open(self, model: Any) -> Fitted:
        classes = np.asarray(model.classes_) if isinstance(model, catboost.CatBoostClassifier) else None
        return Fitted(
            model,
            _features(model),
            _methods(model),
            classes=classes,
            only_computes=is_known_code(model),
        )

    def _prepare(self, data: Any, payload: InferenceRequest) -> Any:
        features = self._about().features
        if isinstance(data, np.ndarray) and data.shape == (features.count,):
            data = data.reshape(1, -1)  # one row, as CatBoost itself takes it
        return super()._prepare(data, payload)

    def _refusal(self, exc: Exception, data: Any, payload: InferenceRequest) -> MLServerError | None:
        text = str(exc)
        about_values = text.startswith(("Bad value", "Invalid type"))
        if about_values and isinstance(exc, catboost.CatBoostError):
            return InferenceError(f"{subject_of(payload)} does not suit the model: {text}")
        return None


class _Features(Features):
    """categorical: indices of the columns of categories, which may be texts or integers."""

    def __init__(
        self, names: Iterable[str], count: int, datatypes: Mapping[str, str], categorical: Sequence[int]
    ) -> None:
        super().__init__(names, count, "FP32", datatypes)
        self.categorical = categorical
        self._either = frozenset(self.names[index] for index in categorical) if self.names else frozenset()

    def miscast(self, inputs: Sequence[RequestInput]) -> str | None:
        return super().miscast([tensor for tensor in inputs if tensor.name not in self._either])

    def inputs(self) -> list[MetadataTensor]:
        described = super().inputs()
        for tensor in described:
            if tensor.name in self._either:
                tensor.parameters = None  # a content type would make texts of integers
        return described

    def arrange(self, data: Any) -> Any:
        data = super().arrange(data)
        if isinstance(data, np.ndarray):
            return self._with_integers(data) if data.dtype.kind == "f" and self.categorical else data
        texts = {name: data[name].map(_text) for name in self._either if data[name].dtype == object}
        return data.assign(**texts) if texts else data

    def _with_integers(self, matrix: Any) -> Any:
        """Floats are no categories to CatBoost, but a matrix of one datatype may know no integers."""
        matrix = matrix.astype(object)
        for column in self.categorical:
            values = map(float, matrix[:, column])
            matrix[:, column] = [int(value) if value.is_integer() else value for value in values]
        return matrix


def _text(value: Any) -> Any:
    """Over gRPC, texts arrive as bytes, which are equal to no category."""
    return value.decode() if isinstance(value, bytes) else value


def _features(model: Any) -> Features:
    names = [str(name) for name in model.feature_names_]
    categorical = [int(index) for index in model.get_cat_feature_indices()]
    datatypes = {names[index]: "BYTES" for index in [*categorical, *model.get_text_feature_indices()]}
    made_up = names == [str(index) for index in range(len(names))]
    return _Features([] if made_up else names, len(names), datatypes, categorical)


def _class_of(model: Any) -> Any:
    """The class that models with the loss of this one belong to."""
    parameters = json.loads(model.get_metadata().get("params", "{}"))
    loss = parameters.get("loss_function", {}).get("type", "")
    if loss in _CLASSIFIERS or len(model.classes_):
        return catboost.CatBoostClassifier
    return catboost.CatBoostRanker if loss.startswith(_RANKERS) else catboost.CatBoostRegressor


def _methods(model: Any) -> dict[str, Method]:
    categorical, texts = model.get_cat_feature_indices(), model.get_text_feature_indices()

    def contributions(data: Any) -> Any:
        pool = catboost.Pool(data, cat_features=categorical, text_features=texts)
        return model.get_feature_importance(pool, type="ShapValues")

    methods: dict[str, Method] = {
        "predict": model.predict,
        "decision_function": partial(catboost.CatBoost.predict, model, prediction_type="RawFormulaVal"),
        "apply": model.calc_leaf_indexes,
        # What each feature, and last the bias, adds to the raw value: [rows, (classes,) features + 1].
        "pred_contribs": contributions,
    }
    if isinstance(model, catboost.CatBoostClassifier):
        methods["predict_proba"] = model.predict_proba
        methods["predict_log_proba"] = model.predict_log_proba
    return methods
