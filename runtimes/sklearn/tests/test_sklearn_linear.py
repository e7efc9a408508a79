"""The short way of linear models: the answers of scikit-learn's own, bit by bit, and the same refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlserver_sklearn.artefact import open_estimator
from mlserver_sklearn.linear import straight
from sklearn.base import is_classifier
from sklearn.datasets import make_classification, make_multilabel_classification, make_regression
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import (
    ElasticNet,
    LinearRegression,
    LogisticRegression,
    MultiTaskLasso,
    Perceptron,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.svm import LinearSVC, LinearSVR

WIDTH = 6


def fitted(estimator: Any, classes: Any = 3, targets: int = 1) -> Any:
    if is_classifier(estimator):
        rows, labels = make_classification(
            80, WIDTH, n_informative=4, n_classes=classes, n_clusters_per_class=1, random_state=0
        )
        return estimator.fit(rows, labels)
    return estimator.fit(*make_regression(80, WIDTH, n_targets=targets, random_state=0))


def fitted_on_words() -> Any:
    rows, labels = make_classification(80, WIDTH, n_classes=2, random_state=0)
    return LogisticRegression().fit(rows, np.where(labels, "yes", "no"))


ESTIMATORS = {
    "logistic": fitted(LogisticRegression(max_iter=500)),
    "logistic of two": fitted(LogisticRegression(), classes=2),
    "logistic of words": fitted_on_words(),
    "ridge classifier": fitted(RidgeClassifier()),
    "svc": fitted(LinearSVC()),
    "sgd": fitted(SGDClassifier(random_state=0), classes=2),
    "perceptron": fitted(Perceptron()),
    "discriminant": fitted(LinearDiscriminantAnalysis()),
    "least squares": fitted(LinearRegression()),
    "least squares of two": fitted(LinearRegression(), targets=2),
    "ridge": fitted(Ridge()),
    "svr": fitted(LinearSVR()),
    "elastic net": fitted(ElasticNet()),
    "multi-task": fitted(MultiTaskLasso(), targets=3),
}


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.sampled_from([1, 2, 33, 1000]),
    dtype=st.sampled_from(["float64", "float32", "float16", "int64", "uint8", "bool"]),
    order=st.sampled_from("CF"),
)
def test_answers_are_equal_bit_by_bit(estimator: Any, seed: int, rows: int, dtype: Any, order: Any) -> None:
    data = np.random.default_rng(seed).normal(scale=50, size=(rows, WIDTH)).clip(0).astype(dtype, order=order)
    for name in ("predict", "decision_function"):
        method = open_estimator(estimator, "predict").methods.get(name)
        if method is None:
            continue
        short, long = method(data), getattr(estimator, name)(data)
        assert short.dtype == long.dtype and short.shape == long.shape
        assert short.tobytes() == long.tobytes(), name


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_all_of_them_have_it(estimator: Any) -> None:
    assert straight(estimator, "predict") is not None


def test_several_labels_a_row_are_another_matter() -> None:
    several = RidgeClassifier().fit(*make_multilabel_classification(80, WIDTH, random_state=0))
    assert straight(several, "predict") is None


@pytest.mark.parametrize(
    "data",
    [
        np.full((2, WIDTH), np.nan),
        np.full((2, WIDTH), np.inf),
        np.zeros((2, WIDTH - 1)),
        np.zeros(WIDTH),
        np.zeros((1, 2, WIDTH)),
        np.zeros((0, WIDTH)),
        np.full((1, WIDTH), "a"),
    ],
    ids=["nan", "infinite", "narrow", "one dimension", "three dimensions", "no rows", "text"],
)
def test_refusals_are_those_of_the_estimator(data: Any) -> None:
    estimator = ESTIMATORS["logistic"]
    short = straight(estimator, "predict")
    assert short is not None
    with pytest.raises(ValueError) as told:
        estimator.predict(data)
    with pytest.raises(ValueError) as refused:
        short(data)
    assert str(refused.value) == str(told.value)


def test_other_models_have_none() -> None:
    class Shifted(LogisticRegression):
        def decision_function(self, X: Any) -> Any:  # noqa: N803 - as scikit-learn has it
            return super().decision_function(X) + 1

    assert (
        straight(RandomForestClassifier(5).fit(*make_classification(80, WIDTH, random_state=0)), "predict")
        is None
    )
    assert straight(fitted(Shifted()), "predict") is None
    assert straight(LogisticRegression(), "predict") is None
    assert straight(fitted(SGDClassifier(random_state=0)).sparsify(), "predict") is None
    assert straight(ESTIMATORS["logistic"], "predict_proba") is None
