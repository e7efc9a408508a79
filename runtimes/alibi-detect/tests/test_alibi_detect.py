"""What real detectors, loaded from real folders, answer and refuse."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import mlserver_alibi_detect
import numpy as np
import pandas as pd
import pytest
from detectors import CATEGORIES, CONTEXTS, IMAGES, SHIFTED, X

import mlserver
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, PandasCodec, StringRequestCodec
from mlserver.context import model_context
from mlserver.errors import InvalidModelURI, MLServerError
from mlserver.model import promises
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput

Load = Callable[..., Awaitable[Any]]


def tensor(values: Any) -> InferenceRequest:
    return NumpyRequestCodec.encode_request(np.asarray(values))


async def detect(model: Any, request: Any) -> dict[str, Any]:
    """Arrays by the name of the output."""
    return arrays(await answer(model, request))


async def answer(model: Any, request: Any) -> InferenceResponse:
    request = request if isinstance(request, InferenceRequest) else tensor(request)
    with model_context(model.settings):
        response: InferenceResponse = await model.predict(request)
    assert (response.model_name, response.model_version) == (model.name, "v1")
    return response


def arrays(response: InferenceResponse) -> dict[str, Any]:
    return {output.name: NumpyCodec.decode_output(output) for output in response.outputs}


async def refused(model: Any, request: Any) -> str:
    with pytest.raises(MLServerError) as caught:
        await answer(model, request)
    assert caught.value.status_code == 400
    return str(caught.value)


# --- offline -----------------------------------------------------------------------------------------------


async def test_drift(load: Load) -> None:
    model = await load("ks")
    response = await answer(model, SHIFTED)
    found = arrays(response)
    assert list(found) == ["is_drift", "distance", "p_val", "threshold"]
    assert found["is_drift"].tolist() == [[1]]
    assert found["distance"].shape == found["p_val"].shape == (1, 3)
    np.testing.assert_allclose(found["threshold"], [[0.05 / 3]])
    assert (await detect(model, X[:50]))["is_drift"].tolist() == [[0]]
    parameters = response.parameters
    assert parameters is not None
    assert (parameters.name, parameters.online, parameters.detector_type) == ("KSDrift", False, "drift")
    assert parameters.version
    assert parameters.headers == {"x-seldon-alibi-type": "drift", "x-seldon-alibi-method": "ks"}
    assert not promises(model, "rows_independent") and not promises(model, "inline")


async def test_predict_parameters(load: Load) -> None:
    model = await load("ks", predict_parameters={"drift_type": "feature", "return_distance": False})
    found = await detect(model, SHIFTED)
    assert found["is_drift"].shape == (1, 3) and "distance" not in found
    # As an orchestrator gives them, which knows nothing but text.
    model = await load("ks", predict_parameters='{"drift_type": "feature"}', state_save_freq="5")
    assert (await detect(model, SHIFTED))["is_drift"].shape == (1, 3)
    for wrong in ({"drift_type": "all"}, {"colour": "red"}):
        model = await load("ks", predict_parameters=wrong)
        text = await refused(model, X)
        assert text.startswith("input 'input-1' does not suit the detector with predict_parameters {")
        assert next(iter(wrong)) in text


@pytest.mark.parametrize("name", ["categories", "tabular", "mmd", "reduced"])
async def test_other_tests_for_drift(load: Load, name: str) -> None:
    model = await load(name)
    same, other = (CATEGORIES, CATEGORIES * 0) if name == "categories" else (X, SHIFTED)
    assert (await detect(model, same))["is_drift"].tolist() == [[0]]
    assert (await detect(model, other))["is_drift"].tolist() == [[1]]


async def test_outliers(load: Load) -> None:
    model = await load("forest")
    rows = np.concatenate([X[:4], X[:1] + 9])
    response = await answer(model, rows)
    found = arrays(response)
    assert list(found) == ["instance_score", "is_outlier"]  # it has no scores of features
    assert found["instance_score"].shape == found["is_outlier"].shape == (1, 5)
    assert found["is_outlier"][0, 4] == 1 and found["is_outlier"].sum() < 3
    assert response.parameters is not None and response.parameters.headers == {
        "x-seldon-alibi-type": "outlier",
        "x-seldon-alibi-method": "isolationforest",
    }
    model = await load("mahalanobis")
    found = await detect(model, np.concatenate([X, X[:1] + 90]))
    assert found["is_outlier"][0, -1] == 1
    # It learns as it goes, and has three columns from now on.
    assert "does not suit the detector" in await refused(model, X[:, :2])
    model = await load("spectrum")
    series = np.sin(np.arange(100.0))
    series[50] += 40
    assert (await detect(model, series))["is_outlier"].any()


async def test_a_kernel_that_is_learned(load: Load, saved: Path) -> None:
    import torch
    from alibi_detect.saving import load_detector

    def same_dice() -> None:
        np.random.seed(0)
        torch.manual_seed(0)

    model = await load("learned")
    for rows in (X[:60], SHIFTED[:60] + 3):
        detector = load_detector(saved / "learned")
        same_dice()
        bare = detector.predict(rows)["data"]
        same_dice()
        found = await detect(model, rows.astype(np.float64))  # which PyTorch would not multiply with its own
        assert set(found) == set(bare) - {"kernel"}
        for name, values in found.items():
            assert values.ravel().tolist() == [pytest.approx(bare[name])]
        model = await load("learned")
    assert found["is_drift"].item() == 1


# --- contexts ----------------------------------------------------------------------------------------------


def in_context(rows: Any, contexts: Any, name: str = "c") -> InferenceRequest:
    return InferenceRequest(
        inputs=[NumpyCodec.encode_input("x", np.asarray(rows)), NumpyCodec.encode_input(name, contexts)]
    )


@pytest.mark.parametrize("name", ["context", "context_tensorflow"])
async def test_rows_in_their_contexts(load: Load, saved: Path, name: str) -> None:
    import tensorflow
    import torch
    from alibi_detect.saving import load_detector

    def same_dice() -> None:
        np.random.seed(0)
        torch.manual_seed(0)
        tensorflow.random.set_seed(0)

    model = await load(name)
    for rows, drift in ((X[:60], 0), (SHIFTED[:60] + 3, 1)):
        detector = load_detector(saved / name)
        same_dice()
        bare = detector.predict(rows, CONTEXTS[:60])["data"]
        same_dice()
        found = await detect(model, in_context(rows.astype(np.float64), CONTEXTS[:60].astype(np.float64)))
        assert set(found) == set(bare) - {"coupling_xx", "coupling_yy", "coupling_xy"}
        for key, values in found.items():
            assert values.ravel().tolist() == [pytest.approx(bare[key], rel=1e-4)]
        assert found["is_drift"].item() == drift
        model = await load(name)  # it keeps what it chose for its first window
    for _ in range(2):
        await answer(model, in_context(X[:20], CONTEXTS[:20]))
    assert type(model._model._detector.clf.clf).__name__ == "SVC"  # not wrapped, once for each window
    metadata = await model.metadata()
    assert [(t.name, t.shape) for t in metadata.inputs] == [("input-0", [-1, 3]), ("c", [-1, 1])]


async def test_contexts_that_do_not_fit(load: Load) -> None:
    model = await load("context", batch_size=2)
    for request in (tensor(X), in_context(X, CONTEXTS, "context")):
        names = [made.name for made in request.inputs]
        assert await refused(model, request) == (
            "the detector compares rows in their contexts: it takes two inputs, 'c' with the contexts "
            f"and one with the rows, not {names}"
        )
    assert await refused(model, in_context(X, CONTEXTS[:5])) == (
        "input 'c' holds 5 contexts, but input 'x' has 200 rows"
    )
    assert "input 'c' has 3 features per row" in await refused(model, in_context(X, X))
    assert "input 'x' has 2 features per row" in await refused(model, in_context(X[:, :2], CONTEXTS))
    assert (await answer(model, in_context(X[:30], CONTEXTS[:30]))).outputs == []
    found = await detect(model, in_context(X[30:60], CONTEXTS[30:60]))
    assert found["is_drift"].item() == 0


async def test_what_the_library_cannot_do(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn

    monkeypatch.setattr(sklearn, "__version__", "1.8.0")
    with pytest.raises(
        MLServerError, match=r"needs scikit-learn below 1\.8, and 1\.8\.0 is installed"
    ) as caught:
        await load("context")
    assert caught.value.status_code == 400
    with pytest.raises(MLServerError, match="it has no threshold: call `infer_threshold` before it is saved"):
        await load("unfinished")


# --- metrics -----------------------------------------------------------------------------------------------


async def test_drift_is_a_metric(load: Load) -> None:
    model = await load("ks", predict_parameters={"drift_type": "feature"})
    metric = mlserver.register("seldon_model_drift", "")

    def seen() -> tuple[float, float]:
        samples = {
            sample.name: sample.value
            for family in metric.collect()
            for sample in family.samples
            if sample.labels["model_name"] == "ks" and sample.labels["model_version"] == "v1"
        }
        return samples.get("seldon_model_drift_count", 0), samples.get("seldon_model_drift_sum", 0)

    count, drifts = seen()
    await detect(model, SHIFTED)
    await detect(model, X)
    assert seen() == (count + 6, drifts + 3)


# --- batches -----------------------------------------------------------------------------------------------


async def test_requests_are_looked_at_together(load: Load) -> None:
    model = await load("ks", batch_size=3)
    together = await detect(await load("ks"), SHIFTED[:6])
    for _ in range(2):
        for rows in (SHIFTED[:1], SHIFTED[1:3]):
            waiting = await answer(model, rows)
            assert waiting.outputs == []
            assert waiting.parameters is not None and waiting.parameters.headers is not None
        # One that is refused is in nobody's batch.
        assert "has 2 features per row" in await refused(model, SHIFTED[:, :2])
        found = await detect(model, SHIFTED[3:6])
        np.testing.assert_array_equal(found["p_val"], together["p_val"])


async def test_rows_that_cannot_be_joined(load: Load) -> None:
    model = await load("reduced", batch_size=2)
    assert (await answer(model, X)).outputs == []
    assert await refused(model, X[:, :2]) == (
        "input 'input-1' has rows of shape [2], "
        "but those of the requests that it is to be batched with have shape [3]"
    )
    assert (await detect(model, X))["is_drift"].tolist() == [[0]]


# --- online ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "stat"), [("cvm_online", (5, 1, 3)), ("mmd_online", (5, 1))])
async def test_online(load: Load, name: str, stat: tuple[int, ...]) -> None:
    model = await load(name, batch_size=7)  # which is for others
    found = await detect(model, X[:5])
    assert set(found) == {"is_drift", "time", "ert", "test_stat", "threshold"}
    assert found["time"].tolist() == [[1], [2], [3], [4], [5]]
    assert found["ert"].tolist() == [[50.0]] * 5
    assert found["test_stat"].shape == stat
    assert (await detect(model, X[5:6]))["time"].tolist() == [[6]]
    found = await detect(model, SHIFTED[:60] + 3)
    assert found["is_drift"][-1].tolist() == [1]


@pytest.mark.parametrize("name", ["cvm_online", "mmd_online"])
async def test_state_outlives_the_server(load: Load, saved: Path, tmp_path: Path, name: str) -> None:
    home = tmp_path / "detector"
    shutil.copytree(saved / name, home)
    model = await load(name, home, state_save_freq=4)
    await detect(model, X[:3])
    assert not (home / "state").exists()
    await detect(model, X[3:10])  # saved after 4 and after 8
    assert [path.name.split(".")[0] for path in (home / "state").iterdir()] == ["state"]
    assert not list(home.glob(".state*"))
    again = await load(name, home, state_save_freq=4)
    found = await detect(again, X[8:10])
    assert found["time"].ravel().tolist() == [9, 10]
    if name == "cvm_online":  # the other one compares with another part of its reference data
        expected = await detect(model, X[10:12])
        np.testing.assert_array_equal((await detect(again, X[10:12]))["test_stat"], expected["test_stat"])


async def test_state_that_cannot_be_saved(
    load: Load, saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "detector"
    shutil.copytree(saved / "cvm_online", home)
    model = await load("cvm_online", home, state_save_freq=1)
    shutil.rmtree(home)  # root may write everywhere else
    with caplog.at_level("WARNING", logger="mlserver"):
        assert (await detect(model, X[:2]))["time"].tolist() == [[1], [2]]


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ks", "mmd", "tabular", "forest", "cvm_online"])
async def test_rows_of_another_form(load: Load, name: str) -> None:
    model = await load(name)
    assert await refused(model, X[:, :2]) == (
        "input 'input-1' has 2 features per row (shape [200, 2]), but the detector expects 3"
    )
    assert "has shape [1, 200, 3], but the detector expects [rows, 3]" in await refused(model, X[None])
    assert "input 'input-1' has shape [3], but the detector expects [rows, 3]" in await refused(
        model, flat(X[0])
    )
    assert "input 'input-1' has no rows (shape [0, 3])" in await refused(model, X[:0])
    text = await refused(model, np.array([["a", "b", "c"]]))
    assert text.startswith(
        "input 'input-1' holds text, but the detector expects numbers (the first element is"
    )
    texts = StringRequestCodec.encode_request(["a", "b"])
    assert "input 'input-1' holds text, but the detector expects numbers" in await refused(model, texts)
    two = InferenceRequest(inputs=[*tensor(X).inputs, *tensor(X).inputs])
    assert await refused(model, two)
    if name == "cvm_online":
        assert (await detect(model, X[:1]))["time"].tolist() == [[1]]  # nothing of it was fed


def flat(values: Any) -> InferenceRequest:
    data = np.asarray(values)
    made = RequestInput(name="input-1", datatype="FP32", shape=list(data.shape), data=data.tolist())
    return InferenceRequest(inputs=[made])


async def test_other_ranks(load: Load) -> None:
    model = await load("images")
    assert (await detect(model, IMAGES))["is_drift"].tolist() == [[0]]
    assert await refused(model, IMAGES[:, :2]) == (
        "input 'input-1' has shape [40, 2, 4, 1], but the detector expects [rows, 4, 4, 1]"
    )
    model = await load("column")
    assert (await detect(model, X[:, 0]))["is_drift"].tolist() == [[0]]
    assert "has shape [200, 3], but the detector expects [rows]" in await refused(model, X)


async def test_what_only_the_detector_can_tell(load: Load) -> None:
    text = await refused(await load("reduced"), X[:, :2])
    assert text.startswith("input 'input-1' does not suit the detector: ") and "shapes" in text
    text = await refused(await load("categories"), np.array([["a", "b"]]))
    assert "holds text" in text


async def test_data_frames(load: Load) -> None:
    model = await load("tabular")
    frame = pd.DataFrame(SHIFTED, columns=["a", "b", "c"])
    assert (await detect(model, PandasCodec.encode_request(frame)))["is_drift"].tolist() == [[1]]
    assert "the request has 2 features per row" in await refused(
        model, PandasCodec.encode_request(frame[["a", "b"]])
    )


# --- load --------------------------------------------------------------------------------------------------


async def test_metadata(load: Load) -> None:
    metadata = await (await load("ks")).metadata()
    assert metadata.platform == "alibi-detect"
    assert [(t.name, t.datatype, t.shape) for t in metadata.inputs] == [("input-0", "FP64", [-1, 3])]
    metadata = await (await load("images")).metadata()
    assert metadata.inputs[0].shape == [-1, 4, 4, 1]
    assert (await (await load("reduced")).metadata()).inputs == []


async def test_folders_that_hold_no_detector(load: Load, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidModelURI) as missing:
        await load("ks", tmp_path / "nowhere")
    assert missing.value.status_code == 422
    for broken in (tmp_path / "empty", tmp_path / "cut"):
        broken.mkdir()
    shutil.copy(saved / "ks" / "config.toml", tmp_path / "cut")
    for broken in (tmp_path / "empty", tmp_path / "cut"):
        with pytest.raises(MLServerError, match=f"no detector can be read from {broken}") as caught:
            await load("ks", broken)
        assert caught.value.status_code == 400


async def test_settings(load: Load, monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    for wrong, words in [
        ({"colour": "red"}, "colour: Extra inputs"),
        ({"batch_size": 0}, "batch_size: Input should be greater than 0"),
        ({"state_save_freq": 0}, "state_save_freq: "),
        ({"predict_parameters": "{"}, "predict_parameters: "),
        ({"predict_parameters": [1]}, "predict_parameters: "),
    ]:
        with pytest.raises(MLServerError, match=r"Model ks: parameters\.extra: ") as caught:
            await load("ks", **wrong)
        assert caught.value.status_code == 422 and words in str(caught.value)
    monkeypatch.setenv("MLSERVER_MODEL_ALIBI_DETECT_BATCH_SIZE", "2")
    monkeypatch.setenv("MLSERVER_MODEL_ALIBI_DETECT_PREDICT_PARAMETERS", '{"drift_type": "feature"}')
    model = await load("ks")
    assert (await answer(model, X)).outputs == []
    assert (await detect(model, X))["is_drift"].shape == (1, 3)
    model = await load("ks", batch_size=1)
    assert (await detect(model, X))["is_drift"].shape == (1, 3)


def test_version() -> None:
    assert mlserver_alibi_detect.__version__ == mlserver.__version__
