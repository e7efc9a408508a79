"""Explainers behind a real server, in its process and in a worker, over REST and gRPC."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from explained import X
from tests.refusals import as_parameters, check_refused, of_matrix, tensor
from tests.running import AsProcess, process, write_model

from mlserver.grpc.dataplane_pb2 import ModelInferRequest
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

_RUNTIME = "mlserver_alibi_explain.AlibiExplainRuntime"
# Alibi, and all that it imports, come before an explainer is ready.
_START = 300.0


@pytest.fixture(scope="module", params=["0", "1"], ids=["own process", "worker"])
def server(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[AsProcess]:
    """The server as its users run it, with a model, its explainer, and a white box that brings its model."""
    folder = tmp_path_factory.mktemp("repository")
    uri = str(saved / "models" / "linear.joblib")
    write_model(folder, "linear", "mlserver_sklearn.SKLearnModel", parameters={"uri": uri})
    extra = {"explainer_type": "tree_shap", "infer_uri": "./forest.joblib", "explainer_batch": True}
    home = write_model(folder, "trees", _RUNTIME, parameters={"uri": "./explainer", "extra": extra})
    shutil.copytree(saved / "tree_shap", home / "explainer")
    shutil.copy(saved / "models" / "forest.joblib", home)
    with process(folder, timeout=_START, MLSERVER_PARALLEL_WORKERS=str(request.param)) as server:
        assert server.get("/v2/health/ready").status_code == 200, server.log()
        # The port is known by now, so the explainer can be told where its model is: in this very server.
        extra = {
            "explainer_type": "anchor_tabular",
            "infer_uri": f"{server.url}/v2/models/linear/infer",
            "explainer_batch": False,
        }
        parameters = {"uri": str(saved / "anchor_tabular"), "extra": extra}
        write_model(folder, "anchors", _RUNTIME, parameters=parameters)
        assert server.post("/v2/repository/index", {}).status_code == 200
        loaded = server.post("/v2/repository/models/anchors/load")
        assert loaded.status_code == 200, loaded.text
        yield server
        assert server.stop() == 0, server.log()


def rows(values: Any, parameters: dict[str, Any] | None = None, **tensor: Any) -> dict[str, Any]:
    data = np.asarray(values)
    flat = data.ravel().tolist()
    made = {"name": "x", "datatype": "FP64", "shape": list(data.shape), "data": flat, **tensor}
    return {"inputs": [made], **({"parameters": parameters} if parameters else {})}


def test_anchors_of_a_model_beside(server: AsProcess) -> None:
    answer = server.infer("anchors", rows(X[:1], {"explain_parameters": {"threshold": 0.9}}))
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert (output["name"], output["shape"], output["datatype"]) == ("explanation", [1, 1], "BYTES")
    assert output["parameters"] == {"content_type": "str"}
    explanation = json.loads(output["data"][0])
    assert explanation["meta"]["name"] == "AnchorTabular"
    assert explanation["data"]["raw"]["prediction"] == [0] and explanation["data"]["anchor"]
    assert answer.headers["x-seldon-alibi-type"] == "explanation"
    assert answer.headers["x-seldon-alibi-method"] == "anchor_tabular"


def test_trees(server: AsProcess) -> None:
    (output,) = server.infer("trees", rows(X[:5])).json()["outputs"]
    assert np.shape(json.loads(output["data"][0])["data"]["shap_values"]) == (3, 5, 4)
    assert server.get("/v2/models/trees").json()["inputs"][0]["shape"] == [-1, 4]


_CASES = {
    model: {**of_matrix(features=4), "rank 1": ([tensor("x", X[0])], r"'x' has shape \[4\]")}
    for model in ("anchors", "trees")
}


@pytest.mark.parametrize(("model", "inputs", "pattern"), as_parameters(_CASES))
def test_refused_by_name(server: AsProcess, model: str, inputs: list[Any], pattern: str) -> None:
    check_refused(server, model, inputs, pattern)


def test_refusals_of_the_old_route(server: AsProcess) -> None:
    # As many models offer the route; the one that was loaded last has it.
    assert server.post("/explain", rows(X[:, :2])).status_code == 400
    assert server.post("/explain", {"colour": "red"}).status_code == 422


def test_the_bare_explanation(server: AsProcess) -> None:
    answer = server.post("/explain", rows(X[:1]))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-seldon-alibi-type"] == "explanation"
    assert answer.json()["meta"]["name"] in ("AnchorTabular", "TreeShap")


def test_grpc(server: AsProcess) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        asked = ModelInferRequest(model_name="anchors")
        row = asked.inputs.add(name="x", datatype="FP64", shape=[1, 4])
        row.contents.fp64_contents.extend(X[0].tolist())
        asked.parameters["explain_parameters"].string_param = '{"max_anchor_size": 1}'
        (output,) = stub.ModelInfer(asked, timeout=60).outputs
        (text,) = output.contents.bytes_contents
        assert len(json.loads(text)["data"]["anchor"]) <= 1


def test_a_model_that_is_gone(server: AsProcess) -> None:
    assert server.post("/v2/repository/models/linear/unload").status_code == 200
    answer = server.infer("anchors", rows(X[:1]))
    assert answer.status_code == 400
    assert "/v2/models/linear/infer, answered 404" in answer.json()["error"]
    assert server.post("/v2/repository/models/linear/load").status_code == 200
    assert server.infer("anchors", rows(X[:1])).status_code == 200
