"""The LightGBM runtime: text files of boosters, and pickles of the scikit-learn interface."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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
    quoted,
)
from mlserver.types import RequestInput

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
    infos = dict(zip(names, _header(booster).get("feature_infos", "").split(" "), strict=False))
    kept = booster.pandas_categorical or []
    columns = _columns_of_categories(infos, kept)
    if columns is None:
        return _Undecided(names, count, infos, kept)
    categories = dict(zip(columns, kept, strict=True))
    datatypes = {name: _datatype(values) for name, values in categories.items()}
    return _Features(names, count, datatypes=datatypes, categories=categories)


def _datatype(categories: list[Any]) -> str:
    kinds = set(map(type, categories))
    if str in kinds:
        return "BYTES"
    if kinds == {bool}:
        return "BOOL"
    return "INT64" if kinds == {int} else "FP64"


_UNLIKELY = 10  # more than any guess below costs


def _columns_of_categories(infos: dict[str, str], kept: list[list[Any]]) -> list[str] | None:
    """The columns whose categories were kept, as they were in the fit, in order. None where others would do.

    infos: what the model says of the values of each column.
    """
    certain = [name for name, info in infos.items() if _are_categories(info)]
    if len(certain) == len(kept):
        return certain
    # For each number of kept categories: the cheapest ways to find them in the columns so far, two at most.
    ways: list[list[tuple[int, list[str]]]] = [[(0, [])], *([] for _ in kept)]
    for name, info in infos.items():
        taken: list[list[tuple[int, list[str]]]] = [[] for _ in ways]
        for index, values in enumerate(kept):
            cost = _cost(info, len(values))
            if cost is not None:
                taken[index + 1] = [(cost + before, [*found, name]) for before, found in ways[index]]
        # Integers may have been made categories by their names, without pandas.
        penalty = _UNLIKELY if _are_categories(info) else 0
        skipped = [[(cost + penalty, found) for cost, found in way] for way in ways]
        ways = [sorted(one + other)[:2] for one, other in zip(taken, skipped, strict=True)]
    if len(ways[-1]) < 2:
        return ways[-1][0][1] if ways[-1] else None
    (cost, columns), (next_cost, _) = ways[-1]
    # A wrong guess about texts is found out by the first request. One about numbers would never be.
    guesses = [values for name, values in zip(columns, kept, strict=True) if not _are_categories(infos[name])]
    return columns if cost < next_cost and all(_datatype(values) == "BYTES" for values in guesses) else None


def _are_categories(info: str) -> bool:
    """Whether these are categories for certain, 0:1:2. Numbers are [low:high], and so are ordered categories,
    which LightGBM takes for numbers; of a column that is constant there is nothing."""
    return info[:1] not in ("[", "n", "")


def _cost(info: str, count: int) -> int | None:
    """How unlikely it is that a column has so many categories; None where it is impossible."""
    if _are_categories(info):
        return 0 if max(map(int, info.split(":"))) < count else None
    if not info.startswith("["):
        return 1 if count == 1 else 2
    low, high = map(float, info[1:-1].split(":"))
    if (low, high) == (0, count - 1):
        return 1
    return 3 if low >= 0 and high < count and low.is_integer() and high.is_integer() else None


class _Undecided(_Features):
    """Some columns may have been ordered categories, or numbers: the request tells, by its texts."""

    def __init__(self, names: list[str], count: int, infos: dict[str, str], kept: list[list[Any]]) -> None:
        super().__init__(names, count)
        self._kept = kept
        self._certain = {name for name, info in infos.items() if _are_categories(info)}
        sizes = set(map(len, kept))
        self.texts = frozenset(
            name for name, info in infos.items() if any(_cost(info, size) is not None for size in sizes)
        )

    def miscast(self, inputs: Sequence[RequestInput]) -> str | None:
        return None  # seen once they are columns of a frame

    def samples(self) -> Iterator[Any]:
        yield np.zeros((1, len(self.names)))

    def _categories_in(self, frame: Any) -> Mapping[str, Sequence[Any]]:
        return dict(zip(self._columns(frame), self._kept, strict=False))

    def _columns(self, frame: Any) -> list[str]:
        texts = self._texts_in(frame)
        return [name for name in self.names if name in texts or name in self._certain]

    def _texts_in(self, frame: Any) -> set[str]:
        return {
            self.name_of(name)
            for name, dtype in zip(frame.columns, frame.dtypes, strict=True)
            if getattr(dtype, "kind", "O") not in "biuf"
        }

    def _misfit_of_frame(self, frame: Any, strict: bool) -> str | None:
        fault = super()._misfit_of_frame(frame, strict)
        if fault is not None:
            return fault
        columns = self._columns(frame)
        if len(columns) != len(self._kept):
            found = f"in {quoted(columns)}" if columns else "in no column"
            return (
                f"holds categories {found}, but the model was fitted with {len(self._kept)} such "
                f"column{'s'[: len(self._kept) > 1]}: send the texts of all, or one matrix of numbers"
            )
        texts = self._texts_in(frame)
        for name, values in zip(columns, self._kept, strict=True):
            if (_datatype(values) == "BYTES") != (name in texts):
                wrong, right = ("text", "numbers") if name in texts else ("numbers", "text")
                return f"holds {wrong}, not {right}, in column '{name}'"
        return None


def _methods(model: Any, booster: Any) -> dict[str, Method]:
    def contributions(data: Any) -> Any:
        flat = booster.predict(data, pred_contrib=True)
        classes = booster.num_model_per_iteration()
        return flat if classes == 1 else flat.reshape(len(flat), classes, -1)

    methods: dict[str, Method] = {
        "predict": model.predict,
        "decision_function": partial(model.predict, raw_score=True),
        "apply": partial(booster.predict, pred_leaf=True),
    }
    if not re.search(
        r"^is_linear=1$|^\[linear_tree: 1\]$", booster.model_to_string(num_iteration=1), re.MULTILINE
    ):
        # What each feature, and last the bias, adds to the raw score: [rows, (classes,) features + 1].
        methods["pred_contribs"] = contributions
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
