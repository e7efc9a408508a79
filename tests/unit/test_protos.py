"""The message modules: current, importable beside those of other clients, and usable as any other."""

from __future__ import annotations

import pickle
import runpy
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool

import mlserver.grpc
from mlserver.grpc import dataplane_pb2, dataplane_pb2_grpc, health_pb2, model_repository_pb2

GENERATOR = Path(__file__).parents[2] / "proto" / "generate.py"


def test_the_modules_are_current(tmp_path: Path) -> None:
    runpy.run_path(str(GENERATOR))["generate"](tmp_path)
    written = sorted(path.name for path in tmp_path.iterdir())
    there = Path(mlserver.grpc.__file__).parent
    assert written == sorted(path.name for path in there.glob("*_pb2*.py*"))
    for name in written:
        assert (there / name).read_text() == (tmp_path / name).read_text(), f"run `make protos`: {name}"


def test_descriptors_have_the_names_that_tools_know() -> None:
    assert dataplane_pb2.DESCRIPTOR.name == "dataplane.proto"
    assert model_repository_pb2.DESCRIPTOR.name == "model_repository.proto"
    assert [*dataplane_pb2.DESCRIPTOR.services_by_name] == ["GRPCInferenceService"]
    assert health_pb2.HealthCheckResponse.SERVING == 1


OTHER_CLIENT = """
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass

file = descriptor_pb2.FileDescriptorProto(name="grpc_service.proto", package="inference", syntax="proto3")
file.message_type.add(name="ServerLiveResponse").field.add(name="live", number=1, type=8, label=1)
file.message_type.add(name="ModelInferRequest").field.add(name="model_name", number=1, type=9, label=1)

def other_client():
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("inference.ModelInferRequest"))
"""


def test_other_clients_of_the_protocol_work_in_the_same_process() -> None:
    use = """
theirs = Other(model_name="m")
assert pb.ModelInferRequest.FromString(theirs.SerializeToString()).model_name == "m"
"""
    orders = [
        "Other = other_client()\nfrom mlserver.grpc import dataplane_pb2 as pb",
        "from mlserver.grpc import dataplane_pb2 as pb\nOther = other_client()",
    ]
    for order in orders:
        done = subprocess.run(
            [sys.executable, "-c", f"{OTHER_CLIENT}\n{order}\n{use}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr


def test_the_default_pool_stays_as_it_was() -> None:
    message = dataplane_pb2.ModelInferRequest.DESCRIPTOR
    assert message.file.pool is not descriptor_pool.Default()


class Echo(dataplane_pb2_grpc.GRPCInferenceServiceServicer):
    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        return dataplane_pb2.ModelInferResponse(
            model_name=request.model_name, raw_output_contents=request.raw_input_contents
        )

    def ModelStreamInfer(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        for request in request_iterator:
            yield self.ModelInfer(request, context)


@pytest.fixture
def channel() -> Iterator[grpc.Channel]:
    server = grpc.server(ThreadPoolExecutor(2))
    dataplane_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        server.stop(None).wait()


def test_the_stubs_work_with_grpcio(channel: grpc.Channel) -> None:
    stub = dataplane_pb2_grpc.GRPCInferenceServiceStub(channel)
    request = dataplane_pb2.ModelInferRequest(model_name="m", raw_input_contents=[b"a"])
    assert stub.ModelInfer(request, timeout=10).raw_output_contents == [b"a"]
    assert [one.model_name for one in stub.ModelStreamInfer(iter([request] * 3), timeout=10)] == ["m"] * 3
    with pytest.raises(grpc.RpcError) as caught:
        stub.ServerLive(dataplane_pb2.ServerLiveRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_messages_can_be_pickled() -> None:
    request = dataplane_pb2.ModelInferRequest(model_name="m", inputs=[{"name": "x", "shape": [1, 4]}])
    for message in (request, request.inputs[0]):
        copied = pickle.loads(pickle.dumps(message))
        assert copied == message and type(copied) is type(message)
