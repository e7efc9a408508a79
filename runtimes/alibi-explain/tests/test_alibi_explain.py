"""What explainers answer and refuse. They explain real models, black boxes over a real connection."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import mlserver_alibi_explain
import numpy as np
import pandas as pd
import pytest
import trustme
from explained import HALVES, IMAGES, NAMES, X
from mlserver_alibi_explain import AlibiExplainRuntime, common, remote
from mlserver_alibi_explain.common import construct_metadata_url
from mlserver_alibi_explain.errors import RemoteInferenceError
from mlserver_alibi_explain.explainers import EXPLAINERS
from tests.running import InThread, serving, write_model

import mlserver
from mlserver import ModelSettings
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, PandasCodec, StringCodec, StringRequestCodec
from mlserver.errors import InvalidModelURI, MLServerError
from mlserver.settings import ModelParameters
from mlserver.types import (
    InferenceRequest,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
    RequestInput,
    ResponseOutput,
)

Load = Callable[..., Awaitable[AlibiExplainRuntime]]

BLACK = {
    "anchor_tabular": "linear",
    "kernel_shap": "linear",
    "anchor_text": "texts",
    "anchor_image": "halves",
}
WHITE = {
    "tree_shap": "forest.joblib",
    "tree_partial_dependence": "boosted.joblib",
    "tree_partial_dependence_variance": "boosted.joblib",
    "integrated_gradients": "net.keras",
}


@pytest.fixture(scope="module")
def boxes(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InThread]:
    """A server of the models that are black boxes."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("linear", "texts"):
        uri = str(saved / "models" / f"{name}.joblib")
        write_model(folder, name, "mlserver_sklearn.SKLearnModel", parameters={"uri": uri})
    write_model(folder, "halves", "models.Halves", HALVES)
    with serving(folder) as server:
        yield server


@pytest.fixture
def load(saved: Path, boxes: InThread) -> Load:
    """Loads an explainer by its type; keywords are its settings in `parameters.extra`."""

    async def load(kind: str, uri: Path | None = None, **extra: Any) -> AlibiExplainRuntime:
        if kind in BLACK:
            extra.setdefault("infer_uri", f"{boxes.url}/v2/models/{BLACK[kind]}/infer")
        else:
            extra.setdefault("infer_uri", str(saved / "models" / WHITE.get(kind, "forest.joblib")))
        extra = {"explainer_type": kind, **extra}
        if kind == "kernel_shap":
            extra.setdefault("infer_output", "predict_proba")
        parameters = ModelParameters(uri=str(uri or saved / kind), version="v1", extra=extra)
        settings = ModelSettings(name="m", implementation=AlibiExplainRuntime, parameters=parameters)
        model = AlibiExplainRuntime(settings)
        model.ready = await model.load()
        return model

    return load


def tensor(values: Any, **explain_parameters: Any) -> InferenceRequest:
    request = NumpyRequestCodec.encode_request(np.asarray(values))
    return with_parameters(request, explain_parameters) if explain_parameters else request


def with_parameters(request: InferenceRequest, explain_parameters: Any) -> InferenceRequest:
    request.parameters = Parameters(explain_parameters=explain_parameters)
    return request


def texts(*values: str) -> InferenceRequest:
    return StringRequestCodec.encode_request(list(values))


async def explain(model: AlibiExplainRuntime, request: InferenceRequest) -> dict[str, Any]:
    """The explanation's data."""
    response = await model.predict(request)
    assert (response.model_name, response.model_version) == ("m", "v1")
    (output,) = response.outputs
    assert (output.name, output.datatype, output.shape) == ("explanation", "BYTES", [1, 1])
    assert output.parameters is not None and output.parameters.content_type == "str"
    explanation = common.convert_from_bytes(output, dict)
    assert set(explanation) == {"meta", "data"}
    data: dict[str, Any] = explanation["data"]
    return data


async def refused(model: AlibiExplainRuntime, request: InferenceRequest, status: int = 400) -> str:
    with pytest.raises(MLServerError) as caught:
        await model.predict(request)
    assert caught.value.status_code == status
    return str(caught.value)


# --- black boxes -------------------------------------------------------------------------------------------


async def test_anchors_of_rows(load: Load) -> None:
    model = await load("anchor_tabular")
    assert type(model).__name__ == "BlackBoxRuntime" and isinstance(model, AlibiExplainRuntime)
    data = await explain(model, tensor(X[:3]))
    assert data["raw"]["prediction"] == [0] and data["raw"]["instance"] == X[0].tolist()
    assert data["precision"] > 0.9 and any("petal" in condition for condition in data["anchor"])
    data = await explain(model, tensor(X[:1], threshold=0.5, max_anchor_size=1))
    assert len(data["anchor"]) <= 1
    data = await explain(model, with_parameters(tensor(X[:1]), '{"max_anchor_size": 1}'))
    assert len(data["anchor"]) <= 1
    response = await model.predict(tensor(X[:1]))
    assert response.parameters is not None and response.parameters.headers == {
        "x-seldon-alibi-type": "explanation",
        "x-seldon-alibi-method": "anchor_tabular",
    }


async def test_anchors_of_probabilities(load: Load) -> None:
    data = await explain(await load("anchor_tabular", infer_output="predict_proba"), tensor(X[:1]))
    assert data["raw"]["prediction"] == [0]  # the most probable class


async def test_shapley_values(load: Load, capfd: pytest.CaptureFixture[str]) -> None:
    model = await load("kernel_shap", explainer_batch=True)
    data = await explain(model, tensor(X[:3], nsamples=50))
    assert np.shape(data["shap_values"]) == (3, 3, 4)
    total = np.sum(data["shap_values"], axis=2) + np.array(data["expected_value"])[:, None]
    np.testing.assert_allclose(total.T, data["raw"]["raw_prediction"], atol=1e-5)
    assert "it/s" not in capfd.readouterr().err
    data = await explain(await load("kernel_shap"), tensor(X[:3], nsamples=50))
    assert np.shape(data["shap_values"]) == (3, 1, 4)


async def test_many_rows_are_several_calls(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    model = await load("kernel_shap")
    whole = await explain(model, tensor(X[:1], nsamples=30))
    sizes = []
    predict = common.remote_predict

    def counted(request: InferenceRequest, *args: Any) -> Any:
        sizes.append(request.inputs[0].shape)
        return predict(request, *args)

    monkeypatch.setattr(remote, "remote_predict", counted)
    monkeypatch.setattr(remote, "_MOST_VALUES", 400)
    cut = await explain(model, tensor(X[:1], nsamples=30))
    np.testing.assert_allclose(cut["shap_values"], whole["shap_values"], atol=1e-8)
    assert len(sizes) > 3 and max(rows for rows, _ in sizes) == 100 and {width for _, width in sizes} == {4}


async def test_texts(load: Load) -> None:
    model = await load("anchor_text")
    data = await explain(model, texts("a good film", "a bad one"))
    assert data["anchor"] == ["good"] and data["raw"]["instance"] == "a good film"
    assert "input-1' has no rows" in await refused(model, texts())
    assert await refused(model, tensor(X[:1]))
    as_bytes = RequestInput(name="t", datatype="BYTES", shape=[1], data=[b"a bad film"])
    assert (await explain(model, InferenceRequest(inputs=[as_bytes])))["raw"]["instance"] == "a bad film"


@pytest.mark.parametrize("init", [None, {"image_shape": [8, 8, 1], "segmentation_fn": "slic", "seed": 1}])
async def test_images(load: Load, init: dict[str, Any] | None) -> None:
    model = await load("anchor_image", init_parameters=init)
    data = await explain(model, tensor(IMAGES[:2], p_sample=0.5))
    assert np.shape(data["anchor"]) == (8, 8, 1) and np.shape(data["segments"]) == (8, 8)
    assert await refused(model, tensor(IMAGES[:, :4])) == (
        "input 'input-1' has shape [20, 4, 8, 1], but the explainer expects [rows, 8, 8, 1]"
    )
    model = await load("anchor_image", explainer_batch=True, init_parameters=init)
    one = RequestInput(name="x", datatype="FP32", shape=[8, 8, 1], data=IMAGES[0].ravel().tolist())
    assert np.shape((await explain(model, InferenceRequest(inputs=[one])))["anchor"]) == (8, 8, 1)
    assert await refused(model, tensor(IMAGES[:2])) == (
        "input 'input-1' has 2 rows, but AnchorImage explains one at a time"
    )


async def test_a_model_that_comes_later(load: Load, boxes: InThread) -> None:
    assert boxes.post("/v2/repository/models/linear/unload").status_code == 200
    try:
        model = await load("anchor_tabular")  # for all it knows, the model is on its way
        text = await refused(model, tensor(X[:1]))
        assert text.startswith(f"the model to explain, {boxes.url}/v2/models/linear, answered 404: ")
    finally:
        assert boxes.post("/v2/repository/models/linear/load").status_code == 200
    assert (await explain(model, tensor(X[:1])))["raw"]["prediction"] == [0]
    # Gone again in the midst of explaining, and back.
    assert boxes.post("/v2/repository/models/linear/unload").status_code == 200
    assert "answered 404" in await refused(model, tensor(X[:1]))
    assert boxes.post("/v2/repository/models/linear/load").status_code == 200
    assert (await explain(model, tensor(X[:1])))["raw"]["prediction"] == [0]


async def test_models_that_do_not_answer_as_they_should(load: Load, boxes: InThread) -> None:
    nowhere = await load("anchor_tabular", infer_uri="http://127.0.0.1:1/v2/models/linear/infer")
    assert "cannot be reached" in await refused(nowhere, tensor(X[:1]), 503)
    wrong = await load("anchor_tabular", infer_output="colour")
    assert "colour was received" in await refused(wrong, tensor(X[:1]))
    other = await load("anchor_tabular", infer_uri=f"{boxes.url}/v2/health/live")
    assert "answered" in await refused(other, tensor(X[:1]))
    with pytest.raises(
        MLServerError, match=r"is the URL where its model is asked, not \./model\.joblib"
    ) as path:
        await load("anchor_tabular", infer_uri="./model.joblib")
    assert path.value.status_code == 422


async def test_a_model_behind_tls(load: Load, saved: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "certificate.pem"))
    leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    uri = str(saved / "models" / "linear.joblib")
    write_model(tmp_path, "linear", "mlserver_sklearn.SKLearnModel", parameters={"uri": uri})
    files = {"tls_certificate": tmp_path / "certificate.pem", "tls_private_key": tmp_path / "key.pem"}
    with serving(tmp_path, **{name: str(path) for name, path in files.items()}) as server:
        url = f"https://127.0.0.1:{server.port}/v2/models/linear/infer"
        model = await load("anchor_tabular", infer_uri=url, ssl_verify_path=str(tmp_path / "authority.pem"))
        assert (await explain(model, tensor(X[:1])))["anchor"]
        for path in (None, "/nowhere/authority.pem"):
            model = await load("anchor_tabular", infer_uri=url, ssl_verify_path=path)
            assert f"{construct_metadata_url(url)}, cannot be reached: " in await refused(
                model, tensor(X[:1]), 503
            )


# --- white boxes -------------------------------------------------------------------------------------------


async def test_shapley_values_of_trees(load: Load) -> None:
    model = await load("tree_shap", explainer_batch=True)
    assert type(model).__name__ == "WhiteBoxRuntime"
    data = await explain(model, tensor(X[:3]))
    assert np.shape(data["shap_values"]) == (3, 3, 4) and data["feature_names"] == NAMES
    data = await explain(model, tensor(X[:3], interactions=True))
    assert np.shape(data["shap_interaction_values"]) == (3, 3, 4, 4)
    data = await explain(await load("tree_shap"), tensor(X[:3]))
    assert np.shape(data["shap_values"]) == (3, 1, 4)


async def test_xgboost(load: Load, saved: Path) -> None:
    uri = (saved / "models" / "xgboost.ubj").as_uri()
    model = await load("tree_shap", infer_uri=uri, init_parameters='{"model_output": "raw"}')
    data = await explain(model, tensor(X[:1]))
    assert np.shape(data["shap_values"]) == (3, 1, 4)
    assert "has 3 features per row" in await refused(model, tensor(X[:1, :3]))


async def test_partial_dependence(load: Load) -> None:
    model = await load("tree_partial_dependence", explainer_batch="true")
    data = await explain(model, tensor(X, features=[0, [2, 3]], grid_resolution=10))
    assert data["feature_names"] == [NAMES[0], NAMES[2:]]
    assert [np.shape(values) for values in data["pd_values"]] == [(3, 10), (3, 10, 10)]
    data = await explain(model, tensor(X, features=[1], grid_points={"1": [2.0, 3.0]}))
    assert np.shape(data["pd_values"]) == (1, 3, 2)
    variance = await load(
        "tree_partial_dependence_variance",
        explainer_batch=True,
        init_parameters={"feature_names": NAMES},
    )
    importance = (await explain(variance, tensor(X)))["feature_importance"]
    assert np.shape(importance) == (3, 4)
    with pytest.raises(MLServerError, match="cannot save a PartialDependenceVariance: give init_parameters"):
        await load("tree_partial_dependence_variance")


async def test_gradients(load: Load, saved: Path) -> None:
    from explained import keras_model

    model = await load("integrated_gradients", explainer_batch=True)
    data = await explain(model, tensor(X[:3]))
    expected = keras_model()(X[:3]).numpy().argmax(axis=1)
    assert data["target"] == expected.tolist() and np.shape(data["attributions"]) == (1, 3, 4)
    assert (await explain(model, tensor(X[:3], target=1)))["target"] == [1, 1, 1]
    made = await load("integrated_gradients", init_parameters={"n_steps": 20})
    assert np.shape((await explain(made, tensor(X[:3])))["attributions"]) == (1, 1, 4)
    assert "has 3 features per row (shape [150, 3])" in await refused(made, tensor(X[:, :3]))


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["anchor_tabular", "kernel_shap", "tree_shap", "tree_partial_dependence"])
async def test_rows_of_another_form(load: Load, kind: str) -> None:
    model = await load(kind)
    assert await refused(model, tensor(X[:, :2])) == (
        "input 'input-1' has 2 features per row (shape [150, 2]), but the explainer expects 4"
    )
    assert "has shape [1, 150, 4], but the explainer expects [rows, 4]" in await refused(
        model, tensor(X[None])
    )
    flat = RequestInput(name="x", datatype="FP32", shape=[4], data=X[0].tolist())
    assert "input 'x' has shape [4], but the explainer expects rows" in await refused(
        model, InferenceRequest(inputs=[flat])
    )
    assert "input 'input-1' has no rows (shape [0, 4])" in await refused(model, tensor(X[:0]))
    text = await refused(model, tensor([["a", "b", "c", "d"]]))
    assert text.startswith("input 'input-1' holds text, but the explainer expects numbers")
    assert await refused(model, InferenceRequest(inputs=[*tensor(X).inputs, *tensor(X).inputs]))


async def test_explain_parameters_that_do_not_suit(load: Load) -> None:
    model = await load("tree_partial_dependence")
    text = await refused(model, tensor(X[:1], colour="red"))
    assert text.startswith("input 'input-1' does not suit the explainer with explain_parameters {'colour'")
    assert await refused(model, with_parameters(tensor(X[:1]), [1])) == (
        "explain_parameters must map names to values, got list"
    )
    assert "explain_parameters is no JSON" in await refused(model, with_parameters(tensor(X[:1]), "{"))
    text = await refused(model, tensor(X, features=[9]))
    assert "explain_parameters {'features': [9]}" in text


async def test_data_frames(load: Load) -> None:
    frame = pd.DataFrame(X[:2], columns=NAMES)
    data = await explain(await load("tree_shap", explainer_batch=True), PandasCodec.encode_request(frame))
    assert np.shape(data["shap_values"]) == (3, 2, 4)


# --- load --------------------------------------------------------------------------------------------------


async def test_metadata(load: Load) -> None:
    metadata = await (await load("tree_shap")).metadata()
    assert metadata.platform == "alibi"
    assert [(t.name, t.datatype, t.shape) for t in metadata.inputs] == [("input-0", "FP64", [-1, 4])]
    assert [(t.name, t.datatype, t.shape) for t in metadata.outputs] == [("explanation", "BYTES", [1, 1])]
    metadata = await (await load("anchor_text")).metadata()
    assert [(t.name, t.datatype) for t in metadata.inputs] == [("input-0", "BYTES")]


async def test_folders_that_hold_no_explainer(load: Load, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for uri in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(InvalidModelURI) as missing:
            await load("tree_shap", uri)
        assert missing.value.status_code == 422
    broken = tmp_path / "broken"
    shutil.copytree(saved / "tree_shap", broken)
    (broken / "explainer.dill").write_bytes(b"no pickle")
    with pytest.raises(MLServerError, match=f"the explainer {broken} cannot be read") as unreadable:
        await load("tree_shap", broken)
    assert unreadable.value.status_code == 500
    with pytest.raises(
        MLServerError, match="holds a KernelShap, but explainer_type is anchor_tabular"
    ) as other:
        await load("anchor_tabular", saved / "kernel_shap")
    assert other.value.status_code == 422


async def test_explainers_that_were_not_fitted(load: Load, saved: Path) -> None:
    with pytest.raises(MLServerError) as unfitted:
        await load("anchor_tabular", saved / "unfitted")
    assert unfitted.value.status_code in (422, 500)
    with pytest.raises(MLServerError, match="a KernelShap has to be fitted: save one that is"):
        await load("kernel_shap", init_parameters={})
    with pytest.raises(MLServerError, match="no TreeShap can be made of init_parameters: TypeError"):
        await load("tree_shap", init_parameters={"colour": "red"})


async def test_models_that_are_not_there(load: Load, tmp_path: Path) -> None:
    with pytest.raises(MLServerError, match="infer_uri names no model: there is no") as missing:
        await load("tree_shap", infer_uri=str(tmp_path / "model.joblib"))
    assert missing.value.status_code == 422
    (tmp_path / "model.joblib").write_text("no pickle")
    with pytest.raises(MLServerError, match="cannot be read") as broken:
        await load("tree_shap", infer_uri=str(tmp_path))
    assert broken.value.status_code == 500


async def test_settings(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MLServerError, match="explainer_type 'magic' is not known; known are anchor_image, "):
        await load("magic")
    for wrong in ({"init_parameters": "{"}, {"explainer_batch": "perhaps"}):
        with pytest.raises(MLServerError, match=f"parameters.extra: {next(iter(wrong))}: ") as caught:
            await load("tree_shap", **wrong)
        assert caught.value.status_code == 422
    settings = ModelSettings(name="m", implementation=AlibiExplainRuntime)
    with pytest.raises(MLServerError, match="infer_uri: Field required; explainer_type: Field required"):
        AlibiExplainRuntime(settings)
    monkeypatch.setenv("MLSERVER_MODEL_ALIBI_EXPLAIN_EXPLAINER_BATCH", "true")
    assert np.shape((await explain(await load("tree_shap"), tensor(X[:3])))["shap_values"]) == (3, 3, 4)


# --- helpers -----------------------------------------------------------------------------------------------


def test_requests_to_black_boxes() -> None:
    url = "http://host/v2/models/m/infer"
    assert common.construct_metadata_url(url) == "http://host/v2/models/m"
    named = MetadataModelResponse(
        name="m",
        platform="",
        inputs=[MetadataTensor(name="x", datatype="FP32", shape=[-1, 4])],
        outputs=[MetadataTensor(name="y", datatype="FP32", shape=[-1])],
    )
    request = common.to_v2_inference_request(X[:2], named)
    assert (request.inputs[0].name, request.inputs[0].shape) == ("x", [2, 4])
    assert [output.name for output in request.outputs or []] == ["y"]
    assert [o.name for o in common.to_v2_inference_request(X, named, "z").outputs or []] == ["z"]
    request = common.to_v2_inference_request(["a", "b"])
    assert request.inputs[0].datatype == "BYTES" and request.outputs is None
    column = ResponseOutput(name="y", datatype="FP32", shape=[2, 1], data=[1, 2])
    assert common.rows_of(column).tolist() == [1, 2]
    assert common.rows_of(NumpyCodec.encode_output("y", np.zeros((1, 3)))).shape == (1, 3)
    assert common.rows_of(StringCodec.encode_output("y", ["a", "b"])).tolist() == ["a", "b"]
    assert common.convert_from_bytes(StringCodec.encode_output("y", ["{}"])) == "{}"
    assert common.SELDON_SKIP_LOGGING_HEADER == "Seldon-Skip-Logging"
    for kind in EXPLAINERS.values():
        assert common.import_and_get_class(f"alibi.explainers.{kind.name}")
    with pytest.raises(ImportError):
        common.import_and_get_class("alibi.explainers.Magic")
    with pytest.raises(RemoteInferenceError):
        common.remote_metadata("http://127.0.0.1:1/v2/models/m")


def test_version() -> None:
    assert mlserver_alibi_explain.__version__ == mlserver.__version__
