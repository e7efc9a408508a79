"""Detectors behind a real server, in its process and in a worker, over REST and gRPC."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from detectors import SHIFTED, X
from tests.refusals import OF_RANK_1, as_parameters, check_refused, of_matrix
from tests.running import AsProcess, process, wait_for, write_model

from mlserver.grpc.dataplane_pb2 import ModelInferRequest
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

_RUNTIME = "mlserver_alibi_detect.AlibiDetectRuntime"
# TensorFlow and PyTorch are imported before a detector is ready.
_START = 300.0


@pytest.fixture(scope="module", params=["0", "1"], ids=["own process", "worker"])
def server(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[AsProcess]:
    """The server as its users run it, each detector's folder beside its settings."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("ks", "forest", "cvm_online"):
        home = write_model(
            folder, name, _RUNTIME, parameters={"uri": "./detector", "extra": {"state_save_freq": 2}}
        )
        shutil.copytree(saved / name, home / "detector")
    uri = str(saved / "ks")
    write_model(folder, "batched", _RUNTIME, parameters={"uri": uri, "extra": {"batch_size": 2}})
    with process(folder, timeout=_START, MLSERVER_PARALLEL_WORKERS=str(request.param)) as server:
        assert server.get("/v2/health/ready").status_code == 200, server.log()
        yield server
        assert server.stop() == 0, server.log()


def rows(values: Any, **tensor: Any) -> dict[str, Any]:
    data = np.asarray(values)
    return {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": list(data.shape), "data": data.tolist(), **tensor}
        ]
    }


def outputs(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {o["name"]: np.reshape(o["data"], o["shape"]) for o in answer.json()["outputs"]}


def test_drift(server: AsProcess) -> None:
    answer = server.infer("ks", rows(SHIFTED))
    found = outputs(answer)
    assert found["is_drift"].tolist() == [[1]] and found["p_val"].shape == (1, 3)
    assert answer.headers["x-seldon-alibi-type"] == "drift"
    assert answer.headers["x-seldon-alibi-method"] == "ks"
    parameters = answer.json()["parameters"]
    assert parameters["name"] == "KSDrift" and parameters["online"] is False
    assert "headers" not in parameters
    assert outputs(server.infer("ks", rows(X)))["is_drift"].tolist() == [[0]]
    wait_for(lambda: 'seldon_model_drift_sum{model_name="ks"' in server.metrics(), "the metric")


def test_outliers(server: AsProcess) -> None:
    answer = server.infer("forest", rows(np.concatenate([X[:2], X[:1] + 9])))
    assert outputs(answer)["is_outlier"][0, 2] == 1
    assert answer.headers["x-seldon-alibi-type"] == "outlier"


def test_a_batch_of_requests(server: AsProcess) -> None:
    for _ in range(2):
        assert outputs(server.infer("batched", rows(SHIFTED[:3]))) == {}
        assert server.infer("batched", rows(X[:, :2])).status_code == 400
        found = outputs(server.infer("batched", rows(SHIFTED[3:])))
        assert found["is_drift"].tolist() == [[1]]


def test_online(server: AsProcess) -> None:
    before = outputs(server.infer("cvm_online", rows(X[:1])))["time"].item()
    found = outputs(server.infer("cvm_online", rows(X[:3])))
    assert found["time"].ravel().tolist() == [before + 1, before + 2, before + 3]
    assert found["test_stat"].shape == (3, 1, 3)


_OF_ROWS = {**of_matrix(datatype="FP32"), "rank 1": OF_RANK_1}
_CASES = dict.fromkeys(("ks", "forest", "cvm_online", "batched"), _OF_ROWS)


@pytest.mark.parametrize(("model", "inputs", "pattern"), as_parameters(_CASES))
def test_refused_by_name(server: AsProcess, model: str, inputs: list[Any], pattern: str) -> None:
    check_refused(server, model, inputs, pattern)


def test_grpc(server: AsProcess) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        asked = ModelInferRequest(model_name="ks")
        tensor = asked.inputs.add(name="x", datatype="FP32", shape=list(SHIFTED.shape))
        tensor.contents.fp32_contents.extend(SHIFTED.ravel().tolist())
        answer, call = stub.ModelInfer.with_call(asked, timeout=60)
        found = {output.name: output for output in answer.outputs}
        assert list(found["is_drift"].contents.int64_contents) == [1]
        assert list(found["p_val"].shape) == [1, 3]
        assert answer.parameters["name"].string_param == "KSDrift"
        sent = dict((*call.initial_metadata(), *call.trailing_metadata()))
        assert sent["x-seldon-alibi-type"] == "drift"
