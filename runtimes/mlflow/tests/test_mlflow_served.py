"""MLflow models behind a real server: over REST and gRPC, in workers, in environments of their own, asked by
many."""
# ruff: noqa: N802 - functions with an R are named after the ids of faults that users met

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
import saving
from processes import Server, mlserver
from saving import COLUMNS, PETS, X, Y
from tests.refusals import as_parameters, check_refused, of_matrix, tensor

from mlserver.codecs import NumpyCodec, PandasCodec
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import InferenceRequest, InferenceResponse, Parameters

MODELS = ("columns", "matrix", "named", "local", "pets", "plain", "faulty", "echo")


def write_settings(folder: Path, name: str, uri: Path, **parameters: Any) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    settings = {
        "name": name,
        "implementation": "mlserver_mlflow.MLflowRuntime",
        "parameters": {"uri": str(uri), "version": "v1", **parameters},
    }
    (folder / name / "model-settings.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def server(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("repository")
    for name in MODELS:
        write_settings(folder, name, saved / name)
    with mlserver(folder, workers=1) as server:
        yield server


@pytest.fixture
def stub(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield GRPCInferenceServiceStub(channel)


def over_grpc(stub: Any, name: str, request: InferenceRequest, use_raw: bool = False) -> InferenceResponse:
    message = ModelInferRequestConverter.from_types(
        request, model_name=name, model_version=None, use_raw=use_raw
    )
    response: InferenceResponse = ModelInferResponseConverter.to_types(stub.ModelInfer(message, timeout=60))
    return response


def over_rest(server: Server, name: str, request: InferenceRequest) -> InferenceResponse:
    answer = server.infer(name, json.loads(request.model_dump_json()))
    assert answer.status_code == 200, answer.text
    return InferenceResponse.model_validate(answer.json())


def test_metadata_over_both(server: Server, stub: Any) -> None:
    rest = server.get("/v2/models/named").json()
    assert rest["platform"] == "mlflow" and rest["parameters"] == {"content_type": "dict"}
    assert [(t["name"], t["datatype"], t["shape"]) for t in rest["inputs"]] == [
        ("a", "FP32", [-1, 2]),
        ("b", "INT64", [-1]),
    ]
    assert [(t["name"], t["datatype"]) for t in rest["outputs"]] == [("sum", "FP32"), ("twice", "INT64")]
    over = stub.ModelMetadata(pb.ModelMetadataRequest(name="named"), timeout=60)
    for ours, theirs in ((over.inputs, rest["inputs"]), (over.outputs, rest["outputs"])):
        assert [(t.name, t.datatype, list(t.shape)) for t in ours] == [
            (t["name"], t["datatype"], t["shape"]) for t in theirs
        ]
    params = stub.ModelMetadata(pb.ModelMetadataRequest(name="local"), timeout=60).parameters["params"]
    assert [param["name"] for param in json.loads(params.string_param)] == ["factor", "shift"]


def test_columns_over_both(server: Server, stub: Any) -> None:
    rows = X.iloc[[0, 60, 120]].reset_index(drop=True)
    request = PandasCodec.encode_request(rows, use_bytes=False)
    for answer in (over_rest(server, "columns", request), over_grpc(stub, "columns", request)):
        assert NumpyCodec.decode_output(answer.outputs[0]).ravel().tolist() == [0, 1, 2]
        assert (answer.model_name, answer.model_version) == ("columns", "v1")


def test_texts_numbers_and_truths_over_both(server: Server, stub: Any) -> None:
    expected = saving.pets_model().predict(PETS).tolist()
    frame = PETS.astype({"kind": object})
    for use_bytes, ask in ((False, over_rest), (True, over_grpc)):
        request = PandasCodec.encode_request(frame, use_bytes=use_bytes)
        answer = ask(server if ask is over_rest else stub, "pets", request)  # type: ignore[operator]
        assert NumpyCodec.decode_output(answer.outputs[0]).ravel().tolist() == expected


@pytest.mark.parametrize("use_raw", [False, True])
def test_a_matrix_over_grpc(stub: Any, use_raw: bool) -> None:
    request = InferenceRequest(inputs=[NumpyCodec.encode_input("x", X.to_numpy())])
    answer = over_grpc(stub, "matrix", request, use_raw)
    assert (NumpyCodec.decode_output(answer.outputs[0]).ravel() == Y).mean() > 0.9


def test_named_tensors_over_both(server: Server, stub: Any) -> None:
    inputs = [
        NumpyCodec.encode_input("a", np.array([[1, 2], [3, 4]], dtype=np.float32)),
        NumpyCodec.encode_input("b", np.array([5, 6])),
    ]
    for made in inputs:
        made.parameters = None
    # The codec writes one dimension as a column.
    inputs[1].shape = [2]
    request = InferenceRequest(inputs=inputs)
    for answer in (over_rest(server, "named", request), over_grpc(stub, "named", request)):
        values = {output.name: NumpyCodec.decode_output(output).ravel().tolist() for output in answer.outputs}
        assert values == {"sum": [3, 7], "twice": [10, 12]}


def test_params_over_both(server: Server, stub: Any) -> None:
    request = InferenceRequest(
        inputs=[NumpyCodec.encode_input("x", np.array([1.0, 2.0]))], parameters=Parameters(factor=2.5)
    )
    for answer in (over_rest(server, "local", request), over_grpc(stub, "local", request)):
        assert NumpyCodec.decode_output(answer.outputs[0]).ravel().tolist() == [2.5, 5]


def test_refusals_over_both(server: Server, stub: Any) -> None:
    request = InferenceRequest(inputs=[NumpyCodec.encode_input("width", np.array([1.0]))])
    answer = server.infer("local", json.loads(request.model_dump_json()))
    text = "the request lacks 'x' and has 'width', which the model does not know: the model expects 'x'"
    assert (answer.status_code, answer.json()["error"]) == (400, text)
    with pytest.raises(grpc.RpcError) as caught:
        over_grpc(stub, "local", request)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, text)


def test_faults_over_both(server: Server, stub: Any) -> None:
    request = InferenceRequest(inputs=[NumpyCodec.encode_input("x", np.array([1.0]))])
    answer = server.infer("faulty", json.loads(request.model_dump_json()))
    assert answer.status_code == 500 and "swordfish" not in answer.text
    with pytest.raises(grpc.RpcError) as caught:
        over_grpc(stub, "faulty", request)
    assert caught.value.code() is grpc.StatusCode.INTERNAL and "swordfish" not in caught.value.details()
    assert "swordfish" in server.log()


def test_one_model_in_a_worker_answers_mlflows_routes(server: Server) -> None:
    assert server.get("/ping").content == b"\n"
    body = {"inputs": [[1.0]]}
    answer = server.post("/invocations", json=body)
    # All models have the route; which of them answers is whichever was loaded first.
    assert answer.headers["content-type"] in ("application/json", "application/json; charset=utf-8")
    assert "error" in answer.text or "predictions" in answer.text


def test_every_one_of_many_callers_gets_its_own_answer(server: Server) -> None:
    expected = saving.pets_model().predict(PETS).tolist()

    def ask(index: int) -> None:
        which = [(index + k) % len(PETS) for k in range(1 + index % 3)]
        frame = PETS.iloc[which].reset_index(drop=True).astype({"kind": object})
        if index % 10 == 9:
            frame = frame.drop(columns="age")
        request = PandasCodec.encode_request(frame, use_bytes=False)
        answer = server.infer("pets", json.loads(request.model_dump_json()))
        if index % 10 == 9:
            assert answer.status_code == 400 and "lacks 'age'" in answer.json()["error"]
            return
        assert answer.status_code == 200, answer.text
        assert answer.json()["outputs"][0]["data"] == [expected[i] for i in which]

    with ThreadPoolExecutor(16) as callers:
        list(callers.map(ask, range(120)))


def test_a_wrong_category_fails_alone(server: Server) -> None:
    """A value that the estimator refuses, among many that it takes: they may have been one batch."""

    def ask(index: int) -> int:
        frame = PETS.head(1).astype({"kind": object})
        if index % 8 == 0:
            frame.loc[0, "kind"] = "unicorn"
        request = PandasCodec.encode_request(frame, use_bytes=False)
        status: int = server.infer("pets", json.loads(request.model_dump_json())).status_code
        return status

    with ThreadPoolExecutor(16) as callers:
        statuses = list(callers.map(ask, range(64)))
    assert statuses == [400 if index % 8 == 0 else 200 for index in range(64)]


@pytest.fixture
def tarball(tmp_path: Path) -> Path:
    """A packed environment: a small one that borrows the packages of this."""
    home = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True, timeout=120)
    (site,) = home.glob("lib/python*/site-packages")
    entries = [entry for entry in sys.path if entry and os.path.isdir(entry)]
    (site / "borrowed.pth").write_text("\n".join(entries))
    path = tmp_path / "environment.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(home, ".")
    return path


def test_R45_invocations_of_a_model_in_an_environment_of_its_own(
    saved: Path, tmp_path: Path, tarball: Path
) -> None:
    folder = tmp_path / "repository"
    write_settings(folder, "columns", saved / "columns", environment_tarball=str(tarball))
    with mlserver(folder, workers=1, MLSERVER_ENVIRONMENTS_DIR=str(tmp_path / "envs")) as server:
        answer = server.post("/invocations", json={"dataframe_records": [dict.fromkeys(COLUMNS, 1.0)]})
        assert answer.status_code == 200, answer.text + server.log()
        assert list(answer.json()) == ["predictions"]
        assert server.get("/ping").status_code == 200


def test_routes_come_and_go_with_the_model(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    write_settings(folder, "columns", saved / "columns")

    def ping(server: Server) -> requests.Response:
        return server.get("/ping")

    with mlserver(folder) as server:
        assert ping(server).status_code == 200
        assert server.post("/v2/repository/models/columns/unload").status_code == 200
        assert ping(server).status_code == 404
        assert server.post("/v2/repository/models/columns/load").status_code == 200
        assert ping(server).status_code == 200


def test_R49_a_model_whose_code_is_missing_says_so(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    write_settings(folder, "columns", saved / "columns")
    with mlserver(folder) as server:
        broken = folder / "broken" / "model"
        broken.mkdir(parents=True)
        for name in ("MLmodel", "local.py"):
            (broken / name).write_bytes((saved / "local" / name).read_bytes())
        write_settings(folder, "broken", broken)
        answer = server.post("/v2/repository/models/broken/load")
        assert answer.status_code >= 400
        assert "No module named 'scaling'" in answer.text and sys.executable in answer.text


_COLUMNS = [tensor(name, [[0.5], [0.6]]) for name in COLUMNS]
_OTHERS, _LAST = _COLUMNS[:-1], COLUMNS[-1]
_PATTERN = re.escape(_LAST)
_A, _B = tensor("a", [[1.0, 2.0]], "FP32"), tensor("b", [5], "INT64")
_CASES = {
    # Inputs that the signature does not name are ignored, as MLflow does, unless `extra_inputs` refuses them.
    "columns": {
        "wrong name": ([*_OTHERS, tensor("colour", [[1.0], [2.0]])], f"lacks '{_PATTERN}' and has 'colour'"),
        "text": ([*_OTHERS, tensor(_LAST, [["a"], ["b"]], "BYTES")], f"input '{_PATTERN}'"),
        "missing column": (_OTHERS, f"lacks '{_PATTERN}'"),
        "two in a row": ([*_OTHERS, tensor(_LAST, np.ones((2, 2)))], rf"'{_PATTERN}'.*\[2, 2\]"),
        "fewer rows": ([*_OTHERS, tensor(_LAST, [[0.5]])], f"'{_PATTERN}' has 1 rows"),
        "twice": ([*_COLUMNS, _COLUMNS[0]], "'sepal length .* is given twice"),
        "no rows": ([{**column, "shape": [0, 1], "data": []} for column in _COLUMNS], "no rows"),
        "no inputs": ([], f"lacks .*'{_PATTERN}'"),
    },
    "matrix": of_matrix(features=4),
    "named": {
        "wrong name": ([_A, {**_B, "name": "c"}], "lacks 'b' and has 'c'"),
        "text": ([_A, tensor("b", ["x"], "BYTES")], "'b': dtype of input"),
        "missing input": ([_A], "lacks 'b'"),
        "rank 3": ([tensor("a", [[[1.0], [2.0]]], "FP32"), _B], r"'a': Shape of input \(1, 2, 1\)"),
        "features": ([tensor("a", [[1.0]], "FP32"), _B], r"'a': Shape of input \(1, 1\)"),
        "twice": ([_A, _B, _B], "'b' is given twice"),
        "no inputs": ([], "lacks 'a', 'b'"),
    },
}


@pytest.mark.parametrize(("model", "inputs", "pattern"), as_parameters(_CASES))
def test_refused_by_name(server: Server, model: str, inputs: list[Any], pattern: str) -> None:
    check_refused(server, model, inputs, pattern)
