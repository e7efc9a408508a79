"""The XGBoost runtime: files of XGBoost as the scikit-learn objects that they were saved from."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import xgboost as xgb

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
from mlserver.types import InferenceRequest
from mlserver_xgboost.whole import check_whole

__all__ = ["XGBoostModel"]

PREDICT_OUTPUT = "predict"
PREDICT_PROBA_OUTPUT = "predict_proba"

WELLKNOWN_MODEL_FILENAMES = ("model.bst", "model.json", "model.ubj", *PICKLES)

_INTERFACES = {"classifier": xgb.XGBClassifier, "ranker": xgb.XGBRanker, "regressor": xgb.XGBRegressor}
# Since XGBoost 3.1, which also gave up the old binary format.
_KEEPS_CATEGORIES = hasattr(xgb.Booster, "get_categories")
_DATATYPES = {"int": "INT64", "i": "BOOL"}
# What a file calls the types of integers that are categories. XGBoost takes them in the type of the fit only.
_INTEGERS = {
    9: "int8",
    10: "uint8",
    11: "int16",
    12: "uint16",
    13: "int32",
    14: "uint32",
    15: "int64",
    16: "uint64",
}


class XGBoostModel(TabularModel):
    """Serves a booster that XGBoost saved, or a pickled one, by its scikit-learn interface.

    `_model` is an XGBClassifier, XGBRanker or XGBRegressor, as the file says; a plain booster is a regressor.
    """

    platform_name = "xgboost"
    filenames = WELLKNOWN_MODEL_FILENAMES
    output_names = (PREDICT_OUTPUT, PREDICT_PROBA_OUTPUT, "decision_function", "apply", "pred_contribs")

    def _read(self, path: str) -> Any:
        return _load_sklearn_interface(path)

    def _open(self, model: Any) -> Fitted:
        model = _interface(model.save_raw("ubj")) if isinstance(model, xgb.Booster) else model
        booster = model.get_booster()
        return Fitted(
            self._model,
            _features(booster),
            _methods(model, booster),
            classes=getattr(model, "classes_", None) if isinstance(model, xgb.XGBClassifier) else None,
            only_computes=is_known_code(model),
            openmp=True,
        )

    def _refusal(self, exc: Exception, data: Any, payload: InferenceRequest) -> MLServerError | None:
        text = str(exc)
        if "`inf`" in text:
            return InferenceError(f"{subject_of(payload)} holds infinity, which the model does not take")
        return None

    def _unsupported(self, name: str) -> MLServerError:
        # Clients know these texts: the first without its later names, the second without its last quote.
        if name not in self.output_names:
            return InferenceError(
                f"XGBoostModel only supports 'predict' and 'predict_proba' as outputs ({name} was received)"
            )
        if name == PREDICT_PROBA_OUTPUT:
            return InferenceError(f"{self._kind()} models do not support '{name}")
        return super()._unsupported(name)

    def _kind(self) -> str:
        return "XGBRegressor" if isinstance(self._model, xgb.Booster) else type(self._model).__name__


def _load_sklearn_interface(uri: str) -> Any:
    """The XGBClassifier, XGBRanker or XGBRegressor that the file at `uri` holds.

    A file that was saved from a Booster does not say what it is, and is a regressor. Raises ValueError or
    TypeError for files that hold no model, XGBoostError for those that XGBoost cannot read.
    """
    if is_pickle(uri):
        model = joblib.load(uri)
        if isinstance(model, xgb.Booster):
            return _interface(model.save_raw("ubj"))
        if not isinstance(model, xgb.XGBModel):
            raise TypeError(f"it holds a {type(model).__name__}, which is no XGBoost model")
        return model
    # Bytes, because XGBoost refuses some paths that can be read, such as links out of a mounted image.
    content = bytearray(Path(uri).read_bytes())
    _check_readable(content)
    return _interface(content)


def _interface(content: bytearray) -> Any:
    attributes = json.loads(xgb.Booster(model_file=content).attr("scikit_learn") or "{}")
    model = _INTERFACES.get(attributes.get("_estimator_type"), xgb.XGBRegressor)()
    model.load_model(content)
    return model


def _check_readable(content: bytearray) -> None:
    check_whole(content)
    if content.startswith(b"binf") and _KEEPS_CATEGORIES:
        raise ValueError(
            f"it has the old binary format, which XGBoost {xgb.__version__} no longer reads: "
            "save the model anew as JSON or UBJSON with XGBoost 3.0 or older, or install that here"
        )


class _Codes(Features):
    """Categories are the numbers that the fit gave them: all columns are numbers."""

    def arrange(self, data: Any) -> Any:
        data = super().arrange(data)
        return data.to_numpy() if hasattr(data, "columns") else data


def _features(booster: Any) -> Features:
    names, types = booster.feature_names or [], booster.feature_types or []
    datatypes = {
        name: _DATATYPES[kind] for name, kind in zip(names, types, strict=False) if kind in _DATATYPES
    }
    count = booster.num_features()
    if "c" not in types:
        return Features(names, count, "FP32", datatypes)
    # Since XGBoost 3.1 a model knows its categories, and takes values; before, it takes their numbers.
    saved = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]
    kept = saved.get("gbtree", saved).get("model", {}).get("cats", {}).get("enc", [])  # dart holds a gbtree
    categories = {}
    for name, kind, encoding in zip(names, types, kept or [{}] * len(names), strict=True):
        if kind == "c":
            categories[name] = _values(encoding)
            datatypes[name] = "BYTES" if "offsets" in encoding else "INT64"
    if not kept:
        return _Codes(names, count, "FP32", datatypes)
    return Features(names, count, "FP32", datatypes, categories)


def _values(encoding: dict[str, Any]) -> Any:
    """Categories as a model file has them: integers, or texts as the signed bytes of all of them."""
    values, offsets = encoding.get("values", []), encoding.get("offsets")
    if offsets is None:
        return np.array(values, _INTEGERS.get(encoding.get("type", 0), "int64"))
    text = np.array(values, "int8").tobytes()
    return [text[start:end].decode() for start, end in pairwise(offsets)]


def _methods(model: Any, booster: Any) -> dict[str, Method]:
    # Features were compared already, and XGBoost would refuse an array where it knows names.
    predict = partial(model.predict, validate_features=False)
    best = booster.attr("best_iteration")
    trees = (0, 0 if best is None else int(best) + 1)

    def predict_matrix(data: Any, **how: bool) -> Any:
        matrix = xgb.DMatrix(data, missing=model.missing, enable_categorical=True)
        return booster.predict(matrix, validate_features=False, iteration_range=trees, **how)

    methods: dict[str, Method] = {
        "predict": predict,
        "decision_function": partial(predict, output_margin=True),
    }
    # What each feature, and last the bias, adds to the margin: [rows, (classes,) features + 1].
    contributions = partial(predict_matrix, pred_contribs=True)
    try:
        contributions(np.zeros((1, booster.num_features())))
    except xgb.core.XGBoostError:
        pass  # not for trees of several targets, which nothing but the trees themselves tells
    else:
        methods["pred_contribs"] = contributions
    if isinstance(model, xgb.XGBClassifier):
        methods["predict_proba"] = partial(model.predict_proba, validate_features=False)
    if json.loads(booster.save_config())["learner"]["gradient_booster"].get("name") != "gblinear":
        methods["apply"] = partial(predict_matrix, pred_leaf=True)
    return methods
