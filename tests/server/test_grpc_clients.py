"""The clients that people use: grpcio in both forms, its health and reflection clients, tritonclient."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc import model_repository_pb2 as old_pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.grpc.model_repository_pb2_grpc import ModelRepositoryServiceStub
from mlserver.grpc.status import Code, encode_metadata
from tests.running import wait_for, write_model
from tests.server.grpc_raw import (
    INFER,
    GrpcListening,
    connected,
    grpc_server,
    infer,
    message,
    wait_until_at_rest,
)
from tests.server.models import events, gates
from tests.server.raw import open_gates, seen

MODELS = {
    **{
        name.lower(): f"tests.server.models.{name}"
        for name in (
            "Echo", "Told", "Numpy", "SetsHeaders", "Fails", "Streams", "StreamsForever", "WaitsForever",
            "Slow", "Blocks", "EchoesParameters",
        )
    },
    "waits": "tests.server.raw.Waits",
    "refuses": "tests.server.raw.Refuses",
    "sized": "tests.server.grpc_raw.Sized",
}  # fmt: skip
WAIT = 20.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcListening]:
    with grpc_server(tmp_path_factory.mktemp("models"), MODELS) as running:
        yield running


@pytest.fixture
def channel(server: GrpcListening) -> Iterator[grpc.Channel]:
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.target, options=unlimited) as channel:
        yield channel
    wait_until_at_rest(server)


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return GRPCInferenceServiceStub(channel)


@contextlib.contextmanager
def fails(code: str, text: str = "") -> Iterator[None]:
    with pytest.raises(grpc.RpcError) as caught:
        yield
    assert caught.value.code().name == code, caught.value
    assert text in caught.value.details()


# Methods


def test_every_method_of_the_inference_service(stub: Any) -> None:
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    assert stub.ModelReady(pb.ModelReadyRequest(name="echo")).ready
    assert stub.ServerMetadata(pb.ServerMetadataRequest()).name == "mlserver"
    assert stub.ModelMetadata(pb.ModelMetadataRequest(name="echo")).name == "echo"
    assert stub.ModelConfig(pb.ModelConfigRequest(name="echo")).config.name == "echo"
    statistics = stub.ModelStatistics(pb.ModelStatisticsRequest(name="echo"))
    assert [model.name for model in statistics.model_stats] == ["echo"]
    assert len(stub.ModelStatistics(pb.ModelStatisticsRequest()).model_stats) == len(MODELS)
    index = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
    assert {(model.name, model.state) for model in index.models} == {(name, "READY") for name in MODELS}
    for name in ("SystemSharedMemoryStatus", "CudaSharedMemoryStatus", "TraceSetting", "LogSettings"):
        getattr(stub, name)(getattr(pb, f"{name}Request")())
    for kind in ("System", "Cuda"):
        getattr(stub, f"{kind}SharedMemoryUnregister")(getattr(pb, f"{kind}SharedMemoryUnregisterRequest")())
        with fails("UNIMPLEMENTED", "shared memory"):
            getattr(stub, f"{kind}SharedMemoryRegister")(getattr(pb, f"{kind}SharedMemoryRegisterRequest")())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_both_repository_services(channel: grpc.Channel, stub: Any) -> None:
    for repository, messages in ((stub, pb), (ModelRepositoryServiceStub(channel), old_pb)):
        index = partial(repository.RepositoryIndex, messages.RepositoryIndexRequest())
        repository.RepositoryModelUnload(messages.RepositoryModelUnloadRequest(model_name="slow"))
        assert {m.name: m.state for m in index().models}["slow"] == "UNAVAILABLE"
        with fails("NOT_FOUND", "slow"):
            stub.ModelInfer(infer("slow"))
        repository.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="slow"))
        assert {m.name: m.state for m in index().models}["slow"] == "READY"
        stub.ModelInfer(infer("slow"))
        with fails("NOT_FOUND", "nobody"):
            repository.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="nobody"))
        with fails("NOT_FOUND", "nobody"):
            repository.RepositoryModelUnload(messages.RepositoryModelUnloadRequest(model_name="nobody"))


def test_methods_and_services_that_are_not_there(channel: grpc.Channel) -> None:
    for path in ("/inference.GRPCInferenceService/Nothing", "/nobody.Service/ModelInfer", "/x"):
        with fails("UNIMPLEMENTED", path):
            channel.unary_unary(path)(b"")
        with fails("UNIMPLEMENTED", path):
            list(channel.stream_stream(path)(iter([b""])))


# Tensors

DTYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16,
    "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
FIELDS = {
    "BOOL": "bool", "UINT8": "uint", "UINT16": "uint", "UINT32": "uint", "UINT64": "uint64", "INT8": "int",
    "INT16": "int", "INT32": "int", "INT64": "int64", "FP32": "fp32", "FP64": "fp64",
}  # fmt: skip


def extremes(datatype: str) -> Any:
    dtype = DTYPES[datatype]
    if dtype is np.bool_:
        return np.array([True, False, True, False])
    if issubclass(dtype, np.floating):
        return np.array([np.nan, -np.inf, np.finfo(dtype).max, -0.0], dtype)
    return np.array([np.iinfo(dtype).min, np.iinfo(dtype).max, 0, 1], dtype)


@pytest.mark.parametrize("model", ["echo", "numpy"])
@pytest.mark.parametrize("datatype", DTYPES)
def test_raw_in_raw_out_to_the_bit(stub: Any, datatype: str, model: str) -> None:
    for array in (extremes(datatype).reshape(2, 2), np.zeros((0, 3), DTYPES[datatype])):
        request = pb.ModelInferRequest(model_name=model)
        request.inputs.add(name="x", datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
        response = stub.ModelInfer(request)
        assert [(o.name, o.datatype, tuple(o.shape)) for o in response.outputs] == [
            ("x", datatype, array.shape)
        ]
        assert list(response.raw_output_contents) == [array.tobytes()]


@pytest.mark.parametrize("datatype", FIELDS)
def test_typed_in_typed_out(stub: Any, datatype: str) -> None:
    array = extremes(datatype)
    request = pb.ModelInferRequest(model_name="numpy")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[4])
    getattr(tensor.contents, f"{FIELDS[datatype]}_contents").extend(array.tolist())
    response = stub.ModelInfer(request)
    assert not response.raw_output_contents
    values = getattr(response.outputs[0].contents, f"{FIELDS[datatype]}_contents")
    assert np.array(values, DTYPES[datatype]).tobytes() == array.tobytes()


def test_bytes_both_ways(stub: Any) -> None:
    elements = [b"", b"\xff\x00", "é".encode(), b"x" * 70_000]
    request = pb.ModelInferRequest(model_name="echo")
    request.inputs.add(name="x", datatype="BYTES", shape=[4]).contents.bytes_contents.extend(elements)
    assert list(stub.ModelInfer(request).outputs[0].contents.bytes_contents) == elements
    raw = b"".join(len(e).to_bytes(4, "little") + e for e in elements)
    request.inputs[0].ClearField("contents")
    request.raw_input_contents.append(raw)
    assert list(stub.ModelInfer(request).raw_output_contents) == [raw]


@pytest.mark.parametrize("count", [1_000_000, 12_000_000])
def test_large_tensors_with_defaults(stub: Any, count: int) -> None:
    values = np.random.default_rng(0).random(count // 4, dtype=np.float32)
    response = stub.ModelInfer(infer("echo", values), timeout=WAIT)
    assert response.raw_output_contents[0] == values.tobytes()


def test_uploads_wait_for_those_that_are_answered(tmp_path: Path) -> None:
    """From half of what a connection may hold, the client gets no credit for a while; no call is lost."""
    with grpc_server(tmp_path, MODELS) as server:
        window = 4 * 2**20
        server.grpc.limits = replace(server.grpc.limits, stream_window=window, connection_window=window)
        server.grpc.most_held = 24 * 2**20
        request = infer("waits", np.zeros(450_000), id="uploads")
        size = request.ByteSize()
        with grpc.insecure_channel(server.target) as channel:
            stub = GRPCInferenceServiceStub(channel)
            calls = [stub.ModelInfer.future(request, timeout=WAIT) for _ in range(7)]
            [connection] = wait_for(lambda: server.connections, "the connection")
            wait_for(lambda: connection.held >= 7 * size, "more than half to be held")
            calls += [stub.ModelInfer.future(request, timeout=WAIT) for _ in range(6)]
            time.sleep(0.5)
            # What its window takes has arrived, the rest of the calls has not.
            assert 0 < connection.answering <= 7 + window // size and not any(call.done() for call in calls)
            open_gates.add("uploads")
            assert all(call.result(WAIT).model_name == "waits" for call in calls)
            wait_for(lambda: connection.held == 0, "all of it to be given back")
            stub.ModelInfer(request, timeout=WAIT)


# Metadata


def test_metadata_reaches_the_model(stub: Any) -> None:
    metadata = (("x-own", "1"), ("x-twice", "a"), ("x-twice", "b"), ("x-binary-bin", b"\x00\xff"))
    request = infer("setsheaders")
    answer, call = stub.ModelInfer.with_call(infer("echo", id="one"), metadata=metadata)
    assert answer.id == "one"
    assert all(m.key.startswith("grpc-") for m in call.initial_metadata() or ())
    trailing = {m.key: m.value for m in call.trailing_metadata()}
    assert trailing["ce-id"] == trailing["ce-requestid"] == "one"
    assert trailing["ce-specversion"] == "0.3" and trailing["ce-type"].endswith("response")
    with contextlib.suppress(grpc.RpcError):
        stub.ModelInfer(request, metadata=metadata)
    told = json.loads(
        stub.ModelInfer(told_request(), metadata=metadata[:3]).outputs[0].contents.bytes_contents[0]
    )
    headers = {key.lower(): value for key, value in told["headers"].items()}
    assert headers["x-own"] == "1" and headers["x-twice"] == "b" and headers["ce-specversion"] == "0.3"
    assert "grpc-accept-encoding" not in headers and "te" not in headers


def told_request() -> Any:
    request = pb.ModelInferRequest(model_name="told")
    request.inputs.add(name="x", datatype="INT64", shape=[1]).contents.int64_contents.append(1)
    return request


def test_metadata_that_a_model_hands_back(server: GrpcListening) -> None:
    """What a client said of its own message must not be said of the reply: clients would refuse it."""
    with connected(server) as client:
        content = infer("echoesparameters")
        reply = client.ask(
            content, INFER, (b"content-length", b"%d" % len(message(content))), (b"x-own", b"1")
        )
        assert reply.code is Code.OK and reply.trailers["x-own"] == "1"
        assert "content-length" not in reply.trailers
    for name in ("content-length", "transfer-encoding", "connection", "te", "grpc-status"):
        with pytest.raises(ValueError, match=name):
            encode_metadata({name: "1"})
    assert encode_metadata({"tenant": "1"})


def test_parameters_both_ways(stub: Any) -> None:
    request = infer("echoesparameters", a=True, b=7, c="é")
    request.parameters["d"].double_param = 0.5
    answer = stub.ModelInfer(request)
    for name in "abcd":
        assert answer.parameters[name] == request.parameters[name]


# Codes


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "INVALID_ARGUMENT"), (404, "NOT_FOUND"), (422, "FAILED_PRECONDITION"), (500, "INTERNAL"),
        (418, "UNKNOWN"), (401, None), (429, "RESOURCE_EXHAUSTED"), (503, None),
    ],
)  # fmt: skip
def test_codes_of_errors(stub: Any, status: int, code: str | None) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(infer("refuses", status=status))
    assert caught.value.details() == "refused"
    assert code is None or caught.value.code().name == code


def test_other_codes(stub: Any) -> None:
    for model, version, text in (("nobody", "", "Model nobody not found"), ("echo", "v9", "version v9")):
        request = infer(model)
        request.model_version = version
        with fails("NOT_FOUND", text):
            stub.ModelInfer(request)
        with fails("NOT_FOUND", text):
            list(stub.ModelStreamInfer(iter([request])))
        with fails("NOT_FOUND", text):
            stub.ModelMetadata(pb.ModelMetadataRequest(name=model, version=version))
        with fails("NOT_FOUND", text):
            stub.ModelReady(pb.ModelReadyRequest(name=model, version=version))
    wrong = infer("numpy")
    wrong.inputs[0].datatype = "FP31"
    with fails("INVALID_ARGUMENT", "FP31"):
        stub.ModelInfer(wrong)
    few = infer("echo")
    few.inputs.add(name="y", datatype="FP32", shape=[1])
    with fails("INVALID_ARGUMENT", "y"):
        stub.ModelInfer(few)
    for how in ("other", "rubbish", "exit"):
        with fails("INTERNAL", "Internal Server Error"):
            stub.ModelInfer(infer("fails", how=how))
    for call in (stub.ModelInfer, lambda request: list(stub.ModelStreamInfer(iter([request])))):
        with fails("INVALID_ARGUMENT", "Model 'fails' returned no predictions after inference"):
            call(infer("fails", how="nothing"))
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(infer("fails", how="cancelled"), timeout=5)


def test_long_texts_of_errors_arrive(stub: Any) -> None:
    for name in ("é" * 20_000, "x" * 20_000, "\n%\t" * 5_000):
        with fails("NOT_FOUND", f"Model {name[:100]}"):
            stub.ModelInfer(infer(name))


# Streams


def streamed(key: str, count: int = 3, **parameters: Any) -> Any:
    return infer("streams", key=key, count=count, **parameters)


def texts(response: Any) -> list[bytes]:
    raw = response.raw_output_contents[0]
    return [raw[4:]]


def test_a_stream_as_it_is_made(stub: Any) -> None:
    replies = stub.ModelStreamInfer(iter([streamed("grpc stream")]), timeout=WAIT)
    for number in range(3):
        assert texts(next(replies)) == [b"%d" % number]
        assert f"made {number + 1}" not in events["grpc stream"]
        gates["grpc stream"].release()
    assert list(replies) == [] and replies.code() is grpc.StatusCode.OK
    assert dict(replies.trailing_metadata())["ce-specversion"] == "0.3"


def test_many_requests_of_one_stream(stub: Any) -> None:
    requests: queue.Queue[Any] = queue.Queue()
    replies = stub.ModelStreamInfer(iter(requests.get, None), timeout=WAIT)
    for number in range(50):
        requests.put(streamed("", 1, id=f"{number}"))
        assert texts(next(replies)) == [b"0"]
    requests.put(None)  # half-close
    assert list(replies) == []
    many = [streamed("", 1) for _ in range(500)]
    assert len(list(stub.ModelStreamInfer(iter(many), timeout=WAIT))) == 500


def test_streams_of_models_that_only_predict_and_that_fail(stub: Any) -> None:
    assert len(list(stub.ModelStreamInfer(iter([infer("echo")]), timeout=WAIT))) == 1
    with fails("INVALID_ARGUMENT", "at least one"):
        list(stub.ModelStreamInfer(iter([]), timeout=WAIT))
    replies = stub.ModelStreamInfer(iter([streamed("", 3, fail_at=2, how="mlserver")]), timeout=WAIT)
    assert [texts(next(replies)) for _ in range(2)] == [[b"0"], [b"1"]]
    with fails("UNKNOWN", "on purpose"):
        next(replies)


def triton_stream(channel: grpc.Channel) -> Any:
    return channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )


@pytest.mark.parametrize("by", ["parameter", "metadata"])
def test_tritons_dialect(channel: grpc.Channel, by: str) -> None:
    requests = [infer("echo", [n], id=str(n)) for n in range(5)] + [infer("nobody", id="x")]
    if by == "parameter":
        for request in requests:
            request.parameters["triton_enable_empty_final_response"].bool_param = True
    metadata = (("stream-dialect", "triton"),) if by == "metadata" else ()
    replies = list(triton_stream(channel)(iter(requests), timeout=WAIT, metadata=metadata))
    assert [(r.error_message, r.infer_response.id) for r in replies if r.error_message] == [
        ("Model nobody not found", "x")
    ]
    answers = {r.infer_response.id: r.infer_response for r in replies if r.infer_response.outputs}
    assert sorted(answers) == list("01234")
    assert np.frombuffer(answers["3"].raw_output_contents[0], np.float32) == [3]
    # One response a request, which is the last: no empty one follows, or clients would count it.
    assert len(replies) == 6
    assert all(answer.parameters["triton_final_response"].bool_param for answer in answers.values())


@pytest.mark.parametrize("wanted", [True, False])
def test_the_end_of_many_responses_in_tritons_dialect(channel: grpc.Channel, stub: Any, wanted: bool) -> None:
    assert stub.ModelConfig(pb.ModelConfigRequest(name="streams")).config.model_transaction_policy.decoupled
    assert not stub.ModelConfig(pb.ModelConfigRequest(name="echo")).config.model_transaction_policy.decoupled
    requests = [streamed("", 3, id=text) for text in "ab"]
    for request in requests:
        request.parameters["triton_enable_empty_final_response"].bool_param = wanted
    replies = [r.infer_response for r in triton_stream(channel)(iter(requests), timeout=WAIT)]
    for text in "ab":
        own = [reply for reply in replies if reply.id == text]
        finals = [reply.parameters["triton_final_response"].bool_param for reply in own]
        assert finals == [False] * 3 + [True] * wanted
        assert [len(reply.outputs) for reply in own] == [1] * 3 + [0] * wanted


# Cancellation, deadlines


def test_a_cancelled_call_reaches_the_model(stub: Any) -> None:
    call = stub.ModelInfer.future(infer("waitsforever", key="grpc cancel"))
    wait_for(lambda: events["grpc cancel"], "the model to begin")
    call.cancel()
    wait_for(lambda: events["grpc cancel"] == ["begun", "cancelled"], "the model to be told")


@pytest.mark.parametrize("first", [True, False])
def test_a_cancelled_stream_reaches_the_model(stub: Any, first: bool) -> None:
    key = f"grpc cancelled stream {first}"
    call = stub.ModelStreamInfer(iter([infer("streamsforever", key=key, first=first)]))
    if first:
        next(call)
        time.sleep(0.2)  # until it waits for more than for its first response to be taken
    wait_for(lambda: events[key], "the model to begin")
    call.cancel()
    wait_for(lambda: events[key] == ["begun", "cancelled"], "the model to be told")


def test_a_closed_channel_reaches_the_model(server: GrpcListening) -> None:
    with grpc.insecure_channel(server.target) as channel:
        call = GRPCInferenceServiceStub(channel).ModelInfer.future(infer("waitsforever", key="closed"))
        wait_for(lambda: events["closed"], "the model to begin")
    assert call.cancelled() or call.code()
    wait_for(lambda: events["closed"] == ["begun", "cancelled"], "the model to be told")


def test_deadlines(stub: Any) -> None:
    started = time.monotonic()
    with fails("DEADLINE_EXCEEDED"):
        stub.ModelInfer(infer("waitsforever", key="grpc deadline"), timeout=0.3)
    assert 0.2 < time.monotonic() - started < 2
    wait_for(lambda: events["grpc deadline"] == ["begun", "cancelled"], "the model to be told")
    with fails("DEADLINE_EXCEEDED"):
        list(stub.ModelStreamInfer(iter([infer("streamsforever", key="ds", first=True)]), timeout=0.3))
    wait_for(lambda: events["ds"] == ["begun", "cancelled"], "the model to be told")


# Compression, sizes


@pytest.mark.parametrize("coding", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages(server: GrpcListening, coding: Any) -> None:
    with grpc.insecure_channel(server.target, compression=coding) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for size in (1, 5_000, 500_000):
            values = np.zeros(size, np.float32)
            assert stub.ModelInfer(infer("echo", values)).raw_output_contents[0] == values.tobytes()
        assert len(list(stub.ModelStreamInfer(iter([streamed("", 1)] * 3)))) == 3
        assert stub.ServerLive(pb.ServerLiveRequest()).live


def test_sizes_have_a_limit_both_ways(tmp_path: Path) -> None:
    with grpc_server(tmp_path, MODELS, grpc_max_message_length=100_000) as server:
        with grpc.insecure_channel(server.target) as channel:
            stub = GRPCInferenceServiceStub(channel)
            assert stub.ModelInfer(infer("echo", np.zeros(24_000))).outputs
            with fails("RESOURCE_EXHAUSTED", "grpc_max_message_length"):
                stub.ModelInfer(infer("echo", np.zeros(25_001)))
            with fails("RESOURCE_EXHAUSTED", "grpc_max_message_length"):
                stub.ModelInfer(infer("sized", count=100_001))
            with fails("RESOURCE_EXHAUSTED", "grpc_max_message_length"):
                list(stub.ModelStreamInfer(iter([infer("sized", count=100_001)])))
        wait_until_at_rest(server)


def test_no_limit(tmp_path: Path) -> None:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with (
        grpc_server(tmp_path, MODELS, grpc_max_message_length=-1) as server,
        grpc.insecure_channel(server.target, options=options) as channel,
    ):
        response = GRPCInferenceServiceStub(channel).ModelInfer(infer("sized", count=110_000_000))
        assert len(response.raw_output_contents[0]) == 110_000_000


# Connections


def test_a_stopping_server_finishes_what_it_accepted(tmp_path: Path) -> None:
    with grpc_server(tmp_path, MODELS) as server:
        with grpc.insecure_channel(server.target) as channel:
            stub = GRPCInferenceServiceStub(channel)
            watch = watching(channel)
            assert next(watch) == 1
            slow = stub.ModelInfer.future(infer("waits", id="stopping"))
            wait_for(lambda: seen["stopping"], "the model to begin")
            server.loop.call_soon_threadsafe(server.server._request_stop)
            with fails("UNAVAILABLE"):
                list(watch)
            with fails("UNAVAILABLE"):
                stub.ModelInfer(infer("echo"), timeout=5)
            open_gates.add("stopping")
            assert slow.result(WAIT).model_name == "waits"
            server.thread.join(5)
            assert not server.thread.is_alive()
        assert server.alarm.lines == []


def test_keepalive_and_age(tmp_path: Path) -> None:
    """An idle client is asked for a sign of life and gives it; an old connection is replaced unnoticed."""
    times = {"grpc_keepalive_time": 0.3, "grpc_keepalive_timeout": 0.3, "grpc_max_connection_age": 1.5}
    with grpc_server(tmp_path, MODELS, **times) as server, grpc.insecure_channel(server.target) as channel:
        stub = GRPCInferenceServiceStub(channel)
        stub.ModelInfer(infer("echo"))
        first = server.connections
        time.sleep(1.0)
        assert server.connections == first
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            stub.ModelInfer(infer("echo"), timeout=5)
            time.sleep(0.01)
        assert server.connections and server.connections != first
        dead = server.connect_grpc()
        wait_for(lambda: len(server.connections) == 2, "the connection")
        dead.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        wait_for(lambda: len(server.connections) <= 1, "the dead connection to be given up", 5)
        dead.close()


def test_clients_may_ping(server: GrpcListening) -> None:
    options = [("grpc.keepalive_time_ms", 100), ("grpc.keepalive_permit_without_calls", 1),
               ("grpc.http2.max_pings_without_data", 0)]  # fmt: skip
    with grpc.insecure_channel(server.target, options=options) as channel:
        stub = GRPCInferenceServiceStub(channel)
        call = stub.ModelInfer.future(infer("waits", id="pinging"))
        time.sleep(1.0)
        open_gates.add("pinging")
        assert call.result(WAIT).model_name == "waits"


# grpcio's asyncio API


async def test_grpc_aio(server: GrpcListening) -> None:
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = GRPCInferenceServiceStub(channel)
        answers = await asyncio.gather(*(stub.ModelInfer(infer("echo", [n])) for n in range(300)))
        assert [np.frombuffer(a.raw_output_contents[0], np.float32)[0] for a in answers] == list(range(300))
        call = stub.ModelStreamInfer()
        for _ in range(5):
            await call.write(streamed("", 1))
            assert texts(await call.read()) == [b"0"]
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF and await call.code() is grpc.StatusCode.OK
        waiting = stub.ModelInfer(infer("waitsforever", key="aio"))
        running = asyncio.ensure_future(asyncio.wait_for(waiting, WAIT))
        await asyncio.to_thread(wait_for, lambda: events["aio"], "the model to begin")
        running.cancel()
        await asyncio.to_thread(
            wait_for, lambda: events["aio"] == ["begun", "cancelled"], "the model to be told"
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelInfer(infer("nobody"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_many_threads_on_one_channel(stub: Any) -> None:
    def one(number: int) -> float:
        answer = stub.ModelInfer(infer("echo", [number]), timeout=WAIT)
        return float(np.frombuffer(answer.raw_output_contents[0], np.float32)[0])

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(one, range(500))) == list(range(500))


# Health and reflection


def watching(channel: grpc.Channel, name: str = "") -> Any:
    from mlserver.grpc import health_pb2

    watch = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )(health_pb2.HealthCheckRequest(service=name))
    return (reply.status for reply in watch)


def test_health_with_grpcios_client(channel: grpc.Channel, stub: Any) -> None:
    health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")
    health_pb2_grpc = pytest.importorskip("grpc_health.v1.health_pb2_grpc")
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "inference.GRPCInferenceService", "grpc.health.v1.Health", "echo"):
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == 1
    with fails("NOT_FOUND"):
        health.Check(health_pb2.HealthCheckRequest(service="nobody"))
    watch = health.Watch(health_pb2.HealthCheckRequest(service="slow"))
    assert next(watch).status == 1
    stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="slow"))
    assert next(watch).status == 3
    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="slow"))
    while next(watch).status != 1:
        pass
    watch.cancel()


def test_reflection_with_grpcios_client(channel: grpc.Channel) -> None:
    module = pytest.importorskip("grpc_reflection.v1alpha.proto_reflection_descriptor_database")
    from google.protobuf.descriptor_pool import DescriptorPool

    database = module.ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= services
    pool = DescriptorPool(database)
    for name in services:
        assert pool.FindServiceByName(name).methods
    assert "raw_input_contents" in pool.FindMessageTypeByName("inference.ModelInferRequest").fields_by_name
    with pytest.raises(KeyError):
        pool.FindMessageTypeByName("inference.Nothing")


# tritonclient


def test_tritonclient(server: GrpcListening) -> None:
    triton: Any = pytest.importorskip("tritonclient.grpc", exc_type=(ImportError, RuntimeError))
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = triton.InferInput("x", [2, 3], "FP32").set_data_from_numpy(values)
    text = triton.InferInput("t", [2], "BYTES").set_data_from_numpy(np.array(["a", "é"], dtype=np.object_))
    with triton.InferenceServerClient(server.target) as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("echo")
        assert client.get_server_metadata().name == "mlserver"
        assert client.get_model_metadata("echo").name == "echo"
        assert client.get_model_config("echo").config.name == "echo"
        assert client.get_inference_statistics("echo").model_stats[0].name == "echo"
        assert {m.name for m in client.get_model_repository_index().models} == set(MODELS)
        client.unload_model("slow")
        client.load_model("slow")
        client.get_trace_settings()
        client.get_log_settings()
        client.unregister_system_shared_memory()
        for coding in (None, "gzip", "deflate"):
            result = client.infer("echo", [tensor, text], compression_algorithm=coding)
            assert (result.as_numpy("x") == values).all()
            assert result.as_numpy("t").tolist() == [b"a", "é".encode()]
        got: queue.Queue[Any] = queue.Queue()
        client.async_infer("echo", [tensor], lambda result, error: got.put((result, error)))
        result, error = got.get(timeout=WAIT)
        assert error is None and (result.as_numpy("x") == values).all()
        client.start_stream(
            lambda result, error: got.put((result, error)), headers={"stream-dialect": "triton"}
        )
        for number in range(3):
            client.async_stream_infer("echo", [tensor], request_id=str(number))
        ids = set()
        for _ in range(3):
            result, error = got.get(timeout=WAIT)
            assert error is None and (result.as_numpy("x") == values).all()
            ids.add(result.get_response().id)
        assert ids == {"0", "1", "2"}
        client.async_stream_infer("nobody", [tensor])
        result, error = got.get(timeout=WAIT)
        assert "nobody" in str(error)
        client.stop_stream()
        client.start_stream(lambda result, error: got.put((result, error)))
        client.async_stream_infer("echo", [tensor], enable_empty_final_response=True, request_id="f")
        only = got.get(timeout=WAIT)[0]
        assert (only.as_numpy("x") == values).all()
        assert only.get_response().parameters["triton_final_response"].bool_param
        client.stop_stream()
        with pytest.raises(triton.InferenceServerException) as caught:
            client.infer("nobody", [tensor])
        assert caught.value.status() == "StatusCode.NOT_FOUND"
    wait_until_at_rest(server)


def test_nothing_was_logged_as_an_error_but_what_models_did(server: GrpcListening) -> None:
    assert all("the model failed to answer" in line for line in server.alarm.lines), server.alarm.lines
    assert threading.active_count() < 200


def test_the_example_of_the_documentation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    joblib: Any = pytest.importorskip("joblib")
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    home = write_model(tmp_path, "iris", "mlserver_sklearn.SKLearnModel")
    joblib.dump(LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True)), home / "model.joblib")
    text = (Path(__file__).parents[2] / "docs" / "grpc.md").read_text()
    code = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[0]
    with grpc_server(tmp_path, {}) as server:
        exec(code.replace("localhost:8081", server.target), {})
    assert "[0]" in capsys.readouterr().out.splitlines()
