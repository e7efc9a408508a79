"""Models of rows and columns: what is known of their features, and what they answer."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver import ModelSettings
from mlserver.codecs import NumpyCodec, PandasCodec
from mlserver.errors import InferenceError, MLServerError
from mlserver.model import promises
from mlserver.tabular import Features, Fitted, TabularModel, is_known_code, is_pickle, quoted
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput
from tests.tabular import FRAME, X, load, refused, request

names = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=8, unique=True)


class Linear(TabularModel):
    """Weights in a file of numpy."""

    platform_name = "linear"
    filenames = ("model.npy",)
    output_names = ("predict", "decision_function", "apply")

    def _read(self, path: str) -> Any:
        return np.load(path)

    def _open(self, model: Any) -> Fitted:
        methods = {
            "predict": lambda rows: (np.asarray(rows) @ model > 1).astype(int),
            "decision_function": lambda rows: np.asarray(rows) @ model,
        }
        return Fitted(model, Features(list(FRAME)), methods, classes=np.array([0, 1]))


@pytest.fixture
async def linear(tmp_path: Path) -> Linear:
    np.save(tmp_path / "model.npy", np.array([1.0, -1.0, 2.0]))
    model: Linear = await load(Linear, tmp_path)
    return model


def column(name: str, datatype: str = "FP64") -> RequestInput:
    return RequestInput(name=name, datatype=datatype, shape=[1, 1], data=[1])


@given(names, st.randoms(use_true_random=False))
def test_columns_come_back_in_the_order_of_the_fit(columns: list[str], shuffle: random.Random) -> None:
    features = Features(columns)
    shuffled = columns.copy()
    shuffle.shuffle(shuffled)
    frame = pd.DataFrame({name: [float(columns.index(name))] for name in shuffled})
    assert features.misfit(frame) is None
    arranged = features.arrange(frame)
    assert list(arranged.columns) == columns
    assert arranged.iloc[0].tolist() == list(range(len(columns)))


@given(names, names)
def test_what_is_not_the_same_columns_is_named(fitted: list[str], given: list[str]) -> None:
    fault = Features(fitted).misfit(pd.DataFrame({name: [1.0] for name in given}))
    missing = [name for name in fitted if name not in given]
    unknown = [name for name in given if name not in fitted]
    assert (fault is None) == (not missing and not unknown)
    for name in missing + unknown:
        assert f"'{name}'" in (fault or "")


@given(st.integers(1, 9), st.lists(st.integers(0, 4), max_size=4))
def test_a_matrix_fits_by_its_shape(count: int, shape: list[int]) -> None:
    fault = Features(count=count).misfit(np.zeros(shape))
    assert (fault is None) == (len(shape) == 2 and shape[1] == count and shape[0] > 0)
    assert fault is None or str(shape) in fault


def test_whether_inputs_are_columns() -> None:
    features = Features(["a", "b"])
    assert features.are_columns([column("b"), column("c")])
    assert not features.are_columns([column("x"), column("y")])
    assert not features.are_columns([column("a")])  # more likely a matrix of that name
    assert Features(["a"]).are_columns([column("a")])
    assert not Features(count=2).are_columns([column("a"), column("b")])


def test_columns_of_text_that_came_as_numbers() -> None:
    features = Features(["city", "size"], datatypes={"city": "BYTES"})
    fault = "holds numbers, not text, in column 'city'"
    assert features.miscast([column("size"), column("city")]) == fault
    assert features.miscast([column("size"), column("city", "BYTES")]) is None


def test_long_lists_of_names_are_cut() -> None:
    assert quoted(map(str, range(30))).endswith("'19' and 10 more")


def test_names_of_pickles() -> None:
    assert all(map(is_pickle, ("model.pkl", "/a/b.PICKLE", "x.joblib")))
    assert not any(map(is_pickle, ("model.json", "pkl", "model.pkl.json")))


def test_known_code() -> None:
    assert is_known_code([np.sum, 3, None, "text"])
    assert not is_known_code(test_known_code) and not is_known_code([np.sum, print])


async def test_a_runtime_of_another_library(linear: Linear) -> None:
    assert promises(linear, "inline") and promises(linear, "rows_independent")
    response = await linear.predict(request(FRAME[FRAME.columns[::-1]], "decision_function", "predict"))
    margin, labels = response.outputs
    np.testing.assert_allclose(NumpyCodec.decode_output(margin).ravel(), X @ [1.0, -1.0, 2.0], rtol=1e-6)
    assert (labels.name, labels.datatype, labels.shape) == ("predict", "INT64", [90, 1])
    assert [tensor.name for tensor in linear.inputs] == list(FRAME)
    assert [(tensor.name, tensor.datatype) for tensor in linear.outputs] == [("predict", "INT64")]


async def test_a_few_rows_are_computed_by_one_thread() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    importlib.import_module("sklearn.ensemble")  # brings an OpenMP
    seen: list[int] = []

    def count(rows: Any) -> Any:
        libraries = threadpoolctl.threadpool_info()
        seen.append(max(x["num_threads"] for x in libraries if x["user_api"] == "openmp"))
        return np.zeros(len(rows))

    class Counts(TabularModel):
        def _open(self, model: Any) -> Fitted:
            return Fitted(model, Features(count=3), {"predict": count}, openmp=True, rows_independent=False)

    model = Counts(ModelSettings(name="m", implementation=Counts))
    model._model = object()
    with threadpoolctl.threadpool_limits(2, "openmp"):
        for rows in (X[:1], X[:32], X[:33]):
            await model.predict(request(rows))
        assert seen == [1, 1, 2]
        count([])
        assert seen[-1] == 2  # and it is as before


async def test_outputs_it_does_not_have(linear: Linear) -> None:
    text = "Linear only supports 'predict', 'decision_function' and 'apply' as outputs (explain was received)"
    assert await refused(linear, request(X, "explain")) == text
    assert await refused(linear, request(X, "apply")) == (
        "ndarray models do not support 'apply'; this one has 'predict', 'decision_function'"
    )


async def test_faults_of_the_model_stay_its_own(linear: Linear) -> None:
    linear._model = np.array(["no", "numbers", "here"])
    with pytest.raises(TypeError):
        await linear.predict(request(X))


class Strict(Linear):
    def _refusal(self, exc: Exception, data: Any, payload: InferenceRequest) -> MLServerError | None:
        return InferenceError("your fault") if isinstance(exc, TypeError) else None


async def test_a_library_may_say_whose_fault_it_was(tmp_path: Path) -> None:
    np.save(tmp_path / "model.npy", np.array(["no", "numbers", "here"]))
    model: Strict = await load(Strict, tmp_path)
    assert await refused(model, request(X)) == "your fault"


class Shouts(Linear):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return await super().predict(payload)


async def test_who_overrides_predict_promises_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "model.npy", np.zeros(3))
    model: Shouts = await load(Shouts, tmp_path)
    assert not promises(model, "inline") and not promises(model, "rows_independent")
    assert (await model.predict(request(X))).outputs[0].shape == [90, 1]


async def test_a_model_that_was_put_in_place_without_a_load() -> None:
    model: Linear = await load(_Preset, Path("nowhere"))
    assert (await model.predict(PandasCodec.encode_request(FRAME))).outputs[0].shape == [90, 1]


class _Preset(Linear):
    async def load(self) -> bool:
        self._model = np.ones(3)
        return True


async def test_an_artefact_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "model.npy").write_bytes(b"nothing")
    with pytest.raises(MLServerError, match=r"Model m: the artefact .*model\.npy cannot be read: ") as caught:
        await load(Linear, tmp_path)
    assert caught.value.status_code == 500
