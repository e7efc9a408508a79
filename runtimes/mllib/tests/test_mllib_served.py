"""Models of Spark behind a real server, in its process and in a worker, over REST and gRPC."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests

pytest.importorskip("pyspark")

from spark_models import Saved, X
from tests.refusals import as_parameters, check_refused, of_matrix, tensor
from tests.running import AsProcess, serving, start_process, write_model

from mlserver.grpc.dataplane_pb2 import ModelInferRequest
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

pytestmark = pytest.mark.timeout(900)

_RUNTIME = "mlserver_mllib.MLlibModel"
# A worker starts a JVM of its own before it is ready.
_START = 400.0


@pytest.fixture(scope="module")
def repository(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    conf = {"spark": {"spark.master": "local[1]"}}
    for name, model_format in (("KMeans", "KMeans"), ("flats", None)):
        parameters = {"uri": str(saved.folder / name), "format": model_format, "extra": conf}
        write_model(folder, name, _RUNTIME, parameters=parameters)
    return folder


@pytest.fixture(scope="module")
def worker(repository: Path) -> Iterator[AsProcess]:
    """The server as its users run it: models in one worker."""
    process, output = start_process(repository, MLSERVER_PARALLEL_WORKERS="1")
    server = AsProcess("127.0.0.1", 0, None, process, output)
    try:
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline and process.poll() is None and not _ready(server):
            time.sleep(0.2)
        assert _ready(server), server.log()
        yield server
    finally:
        assert server.stop() == 0, server.log()


def _ready(server: AsProcess) -> bool:
    match = re.search(r"REST: http://[^:]+:(\d+)", server.log())
    if match is None:
        return False
    server.port = int(match[1])
    try:
        return server.get("/v2/health/ready").status_code == 200
    except requests.ConnectionError:
        return False


def vectors(rows: Any) -> dict[str, Any]:
    return {
        "inputs": [{"name": "x", "datatype": "FP64", "shape": list(np.shape(rows)), "data": rows.tolist()}]
    }


def flats(cities: list[str]) -> dict[str, Any]:
    count = len(cities)
    return {
        "inputs": [
            {"name": "size", "datatype": "FP64", "shape": [count, 1], "data": [30.0, 99.0][:count]},
            {"name": "city", "datatype": "BYTES", "shape": [count, 1], "data": cities},
            {"name": "rooms", "datatype": "INT32", "shape": [count, 1], "data": [2, 4][:count]},
        ],
        "outputs": [{"name": "prediction"}, {"name": "probability"}],
    }


def check_rest(server: Any, saved: Saved) -> None:
    answer = server.infer("KMeans", vectors(X[:4])).json()
    expected = [saved.models["KMeans"].predict(row) for row in X[:4]]
    assert answer["outputs"] == [{"name": "predict", "datatype": "FP32", "shape": [4], "data": expected}]
    assert server.infer("KMeans", vectors(X[0])).json()["outputs"][0]["shape"] == [1]
    refused = server.infer("KMeans", vectors(X[:, :2]))
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("input 'x' has 2 features per row")
    prediction, probability = server.infer("flats", flats(["Rome", "Oslo"])).json()["outputs"]
    assert prediction["data"] == [1.0, 0.0] and prediction["shape"] == [2, 1]
    np.testing.assert_allclose(np.reshape(probability["data"], probability["shape"]).sum(axis=1), 1)
    refused = server.infer("flats", flats(["Rome", "Bonn"]))
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("the request does not suit the model: Unseen label: Bonn")


def test_in_the_servers_process(repository: Path, saved: Saved) -> None:
    with serving(repository) as server:
        check_rest(server, saved)
        assert server.get("/v2/models/flats").json()["platform"] == "spark"
        assert server.post("/v2/repository/models/KMeans/unload").status_code == 200
        assert server.infer("flats", flats(["Rome"])).status_code == 200  # Spark stays for those who need it


def test_in_a_worker(worker: AsProcess, saved: Saved) -> None:
    check_rest(worker, saved)


def test_many_at_once_get_their_own_rows(worker: AsProcess, saved: Saved) -> None:
    bad = "Bonn"

    def ask(index: int) -> None:
        city = bad if index % 10 == 5 else ["Rome", "Oslo"][index % 2]
        answer = worker.infer("flats", flats([city]))
        assert answer.status_code == (400 if city == bad else 200), answer.text
        if city != bad:
            assert answer.json()["outputs"][0]["data"] == [1.0]

    with ThreadPoolExecutor(8) as callers:
        list(callers.map(ask, range(40)))


def test_grpc(worker: AsProcess, saved: Saved) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{worker.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        asked = ModelInferRequest(model_name="KMeans")
        rows = asked.inputs.add(name="x", datatype="FP64", shape=[4, 3])
        rows.contents.fp64_contents.extend(X[:4].ravel().tolist())
        (output,) = stub.ModelInfer(asked, timeout=60).outputs
        assert (output.name, output.datatype, list(output.shape)) == ("predict", "FP32", [4])
        expected = [saved.models["KMeans"].predict(row) for row in X[:4]]
        assert list(output.contents.fp32_contents) == expected

        asked = ModelInferRequest(model_name="flats")
        asked.inputs.add(name="city", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(b"Oslo")
        asked.inputs.add(name="size", datatype="FP32", shape=[1, 1]).contents.fp32_contents.append(99.0)
        asked.inputs.add(name="rooms", datatype="INT64", shape=[1, 1]).contents.int64_contents.append(4)
        outputs = {output.name: output for output in stub.ModelInfer(asked, timeout=60).outputs}
        assert list(outputs["prediction"].contents.fp64_contents) == [0.0]
        assert list(outputs["probability"].shape) == [1, 2]


def _flats(**changed: Any) -> list[Any]:
    made = {
        "size": tensor("size", [[30.0], [99.0]]),
        "city": tensor("city", [["Rome"], ["Oslo"]], "BYTES"),
        "rooms": tensor("rooms", [[2], [4]], "INT32"),
        **changed,
    }
    return [value for value in made.values() if value is not None]


_CASES = {
    # A vector is one row.
    "KMeans": of_matrix(),
    "flats": {
        "wrong name": (
            _flats(city=None, town=tensor("town", [["Rome"], ["Oslo"]], "BYTES")),
            "lacks 'city' and has unknown 'town'",
        ),
        "text": (_flats(size=tensor("size", [["a"], ["b"]], "BYTES")), "'size' holds text"),
        "unknown label": (_flats(city=tensor("city", [["Bonn"], ["Oslo"]], "BYTES")), "Bonn"),
        "missing column": (_flats(city=None), "lacks 'city'"),
        "extra column": (_flats(colour=tensor("colour", [[1.0], [2.0]])), "unknown 'colour'"),
        "rank 3": (_flats(size=tensor("size", np.ones((2, 1, 1)))), r"'size' has shape \[2, 1, 1\]"),
        "two numbers a row": (
            _flats(size=tensor("size", [[30.0, 1.0], [99.0, 1.0]])),
            "'size' with several numbers",
        ),
        "texts of rank 3": (
            _flats(city=tensor("city", [[["Rome"]], [["Oslo"]]], "BYTES")),
            r"'city' has shape \[2, 1, 1\]",
        ),
        "fewer rows": (_flats(size=tensor("size", [[1.0]])), "'size' has 1"),
        "twice": ([*_flats(), tensor("size", [[1.0], [2.0]])], "more than one 'size'"),
        "no rows": ([{**column, "shape": [0, 1], "data": []} for column in _flats()], "'size' has no rows"),
        "no inputs": ([], "no inputs.*'city', 'size', 'rooms'"),
    },
}


@pytest.mark.parametrize(("model", "inputs", "pattern"), as_parameters(_CASES))
def test_refused_by_name(worker: AsProcess, model: str, inputs: list[Any], pattern: str) -> None:
    check_refused(worker, model, inputs, pattern)
