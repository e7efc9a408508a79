"""The LightGBM runtime: text files of boosters, and pickles of the scikit-learn interface."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import lightgbm as lgb
import numpy as np

from mlserver.tabular import (
    PICKLES,
    Features,
    Fitted,
    Method,
    TabularModel,
    is_known_code,
    is_pickle,
)

__all__ = ["LightGBMModel"]

WELLKNOWN_MODEL_FILENAMES = ("model.bst", "model.txt", *PICKLES)


class LightGBMModel(TabularModel):
    """Serves a Booster from the text file that it saved, or what a pickle holds.

    `_model` is an lgb.Booster, which answers `predict` with probabilities if it is a classifier, or the
    pickled LGBMClassifier, LGBMRanker or LGBMRegressor, which answers as itself.
    """

    platform_name = "lightgbm"
    filenames = WELLKNOWN_MODEL_FILENAMES
    output_names = ("predict", "predict_proba", "decision_function", "apply", "pred_contribs")

    def _read(self, path: str) -> Any:
        if not is_pickle(path):
            text = Path(path).read_text("utf-8")
            _check_whole(text)
            return lgb.Booster(model_str=text)
        model = joblib.load(path)
        if not isinstance(model, (lgb.Booster, lgb.LGBMModel)):
            raise TypeError(f"it holds a {type(model).__name__}, which is no LightGBM model")
        return model

    def _open(self, model: Any) -> Fitted:
        booster = model if isinstance(model, lgb.Booster) else model.booster_
        return Fitted(
            model,
            _features(booster),
            _methods(model, booster),
            classes=getattr(model, "classes_", None) if isinstance(model, lgb.LGBMClassifier) else None,
            only_computes=is_known_code(model),
            openmp=True,
        )

    def _kind(self) -> str:
        if isinstance(self._model, lgb.Booster):
            return f"Booster (objective '{_header(self._model).get('objective', 'custom').split()[0]}')"
        return super()._kind()


def _check_whole(text: str) -> None:
    """Raises ValueError for a file that was cut off: LightGBM would end the process when it misses trees."""
    head, _, rest = text.partition("\nTree=0\n")
    sizes = re.search(r"^tree_sizes=(.+)", head, re.MULTILINE)
    trees = len("Tree=0\n") + len(rest.encode()) if rest else 0
    says_its_end = re.search(r"^version=v[3-9]", head, re.MULTILINE) is not None
    if (
        (sizes is not None and trees < sum(map(int, sizes[1].split())))
        or (says_its_end and "\nend of trees" not in text)
        or ("\nparameters:" in rest and "\nend of parameters" not in rest)
    ):
        raise ValueError(f"the file was cut off after {len(text)} characters")


class _Features(Features):
    """LightGBM puts an underscore in place of each blank in a name."""

    def name_of(self, label: Any) -> str:
        return str(label).replace(" ", "_")


def _header(booster: Any) -> dict[str, str]:
    """What a model file says before its first tree."""
    head = booster.model_to_string(num_iteration=1).partition("\n\n")[0]
    return dict(line.split("=", 1) for line in head.splitlines() if "=" in line)


def _features(booster: Any) -> Features:
    count = booster.num_feature()
    names = booster.feature_name()
    if names == [f"Column_{index}" for index in range(count)]:
        return Features(count=count)  # made up, for want of names
    categories = _categories(booster, names)
    datatypes = {
        name: "BYTES" if any(isinstance(value, str) for value in values) else "INT64"
        for name, values in categories.items()
    }
    return _Features(names, count, datatypes=datatypes, categories=categories)


def _categories(booster: Any, names: list[str]) -> dict[str, list[Any]]:
    """The columns that were categories of pandas, and their values."""
    kept = booster.pandas_categorical or []
    # The range of a number is [low:high], the categories of others are 0:1:2.
    infos = _header(booster).get("feature_infos", "").split(" ")
    columns = [name for name, info in zip(names, infos, strict=False) if not info.startswith("[")]
    if len(columns) != len(kept):  # a constant column has no information
        columns = [name for name, info in zip(names, infos, strict=False) if info[:1] not in ("[", "n")]
    return dict(zip(columns, kept, strict=False))


def _methods(model: Any, booster: Any) -> dict[str, Method]:
    def contributions(data: Any) -> Any:
        flat = booster.predict(data, pred_contrib=True)
        classes = booster.num_model_per_iteration()
        return flat if classes == 1 else flat.reshape(len(flat), classes, -1)

    methods: dict[str, Method] = {
        "predict": model.predict,
        "decision_function": partial(model.predict, raw_score=True),
        "apply": partial(booster.predict, pred_leaf=True),
        # What each feature, and last the bias, adds to the raw score: [rows, (classes,) features + 1].
        "pred_contribs": contributions,
    }
    if hasattr(model, "predict_proba"):
        methods["predict_proba"] = model.predict_proba
    elif isinstance(model, lgb.Booster):
        objective = _header(model).get("objective", "").split(" ")[0]
        if objective in ("multiclass", "multiclassova"):
            methods["predict_proba"] = model.predict
        elif objective == "binary":
            methods["predict_proba"] = partial(_both_classes, model.predict)
    return methods


def _both_classes(predict: Method, data: Any) -> Any:
    positive = predict(data)
    return np.column_stack([1 - positive, positive])
