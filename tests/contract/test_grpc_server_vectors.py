"""Golden gRPC cases, replayed over a socket by grpcio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from tests.contract.test_rest_vectors import add_model
from tests.contract.values import Case, case_id, cases, load
from tests.running import serving


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("repository")
    models = load()["models"]
    for name, settings in models["settings"].items():
        add_model(folder / name, models["source"], {"name": name, **settings})
    with serving(folder) as server, grpc.insecure_channel(f"127.0.0.1:{server.server.grpc_port}") as channel:
        yield GRPCInferenceServiceStub(channel)


@pytest.mark.parametrize("case", cases("grpc"), ids=case_id)
def test_grpc(case: Case, stub: Any) -> None:
    request = json_format.ParseDict(case["request"], pb.ModelInferRequest())
    if case["code"] == "OK":
        assert stub.ModelInfer(request, timeout=20) == json_format.ParseDict(
            case["response"], pb.ModelInferResponse()
        )
        return
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=20)
    assert (caught.value.code().name, caught.value.details()) == (case["code"], case["details"])
