"""Models that are explained from the inside, read from their files."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import joblib

from mlserver.errors import MLServerError
from mlserver.settings import ModelSettings
from mlserver.utils import to_absolute_path
from mlserver_alibi_explain.common import import_and_get_class
from mlserver_alibi_explain.errors import InvalidExplainerSettings

__all__ = ["find_model", "read_keras_model", "read_tree_model"]

_PICKLES = ("model.joblib", "model.pickle", "model.pkl")
_OF_XGBOOST = (".bst", ".json", ".ubj")
_WELLKNOWN = (*_PICKLES, *(f"model{suffix}" for suffix in _OF_XGBOOST), "model.keras", "model.h5")


def find_model(settings: ModelSettings, uri: str) -> str:
    """The path of the model at `uri`, seen from the model's settings; in a folder, a file with a usual name.

    Raises InvalidExplainerSettings where there is nothing.
    """
    path = to_absolute_path(settings, uri.removeprefix("file://").removeprefix("file:"))
    if not os.path.exists(path):
        raise InvalidExplainerSettings(settings.name, f"infer_uri names no model: there is no {path}")
    for filename in _WELLKNOWN if os.path.isdir(path) else ():
        candidate = os.path.join(path, filename)
        if os.path.isfile(candidate):
            return candidate
    return path


def read_tree_model(path: str) -> Any:
    """A model of scikit-learn or of a library with its interface: XGBoost's own file, or a pickle."""
    if path.endswith(_OF_XGBOOST):
        try:
            read = import_and_get_class("mlserver_xgboost.xgboost._load_sklearn_interface")
        except ImportError as exc:
            needs = "pip install mlserver-alibi-explain[xgboost]"
            raise MLServerError(f"models of XGBoost need `{needs}`: {exc}", 500) from exc
        model = read(path)
    else:
        model = joblib.load(path)
    if hasattr(model, "get_booster"):
        # What Alibi's release of shap reads is no longer XGBoost's default.
        booster = model.get_booster()
        booster.save_raw = partial(booster.save_raw, raw_format="deprecated")
    return model


def read_keras_model(path: str) -> Any:
    try:
        load_model = import_and_get_class("tensorflow.keras.models.load_model")
    except ImportError as exc:
        needs = "pip install mlserver-alibi-explain[tensorflow]"
        raise MLServerError(f"models of Keras need `{needs}`: {exc}", 500) from exc
    return load_model(path)
