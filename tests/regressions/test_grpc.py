"""Faults that users of servers like this one met over gRPC."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlserver.codecs import PandasCodec, StringCodec
from mlserver.errors import StartError
from mlserver.grpc import converters
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.server import MLServer
from mlserver.settings import Settings
from tests.running import write_model
from tests.server.grpc_raw import GrpcListening, grpc_server, infer, wait_until_at_rest
from tests.server.models import events, gates

MODELS = {
    name.lower(): f"tests.server.models.{name}"
    for name in ("Echo", "Numpy", "Constant", "Streams", "Slow", "Blocks")
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcListening]:
    with grpc_server(tmp_path_factory.mktemp("repository"), MODELS) as running:
        yield running


@pytest.fixture
def stub(server: GrpcListening) -> Iterator[Any]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.target, options=options) as channel:
        yield GRPCInferenceServiceStub(channel)
    wait_until_at_rest(server)
    assert server.alarm.lines == []


def test_r02_deadlines_shorter_than_predict(stub: Any) -> None:
    hasty = [stub.ModelInfer.future(infer("blocks", key="r02", id=f"{n}"), timeout=0.3) for n in range(25)]
    patient = [stub.ModelInfer.future(infer("echo", [n]), timeout=20) for n in range(25)]
    for call in hasty:
        with pytest.raises(grpc.RpcError) as caught:
            call.result()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    gates["r02"].release(25)
    for number, call in enumerate(patient):
        assert np.frombuffer(call.result().raw_output_contents[0], np.float32).tolist() == [number]
    calls = [stub.ModelInfer.future(infer("echo", [n]), timeout=20) for n in range(1000)]
    for number, call in enumerate(calls):
        assert np.frombuffer(call.result().raw_output_contents[0], np.float32).tolist() == [number]


async def test_r11_the_port_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = MLServer(Settings(host="127.0.0.1", http_port=0, grpc_port=port, metrics_port=0))
        with pytest.raises(StartError, match=f"gRPC port {port} is in use"):
            await server.start()


@pytest.mark.parametrize("use_raw", [True, False])
def test_r26_r27_text_and_frames_come_back(stub: Any, use_raw: bool) -> None:
    frame = pd.DataFrame({"b": ["x", "é"], "a": [1, 2]})
    for use_bytes in (True, False):
        request = PandasCodec.encode_request(frame, use_bytes=use_bytes)
        sent = converters.ModelInferRequestConverter.from_types(request, "echo", use_raw=use_raw)
        response = converters.ModelInferResponseConverter.to_types(stub.ModelInfer(sent))
        for output, given in zip(response.outputs, request.inputs, strict=True):
            output.parameters = given.parameters
        back = PandasCodec.decode_response(response)
        assert back["b"].tolist() == ["x", "é"] and back["a"].tolist() == [1, 2]
        assert list(back.columns) == ["b", "a"]
    texts = next(stub.ModelStreamInfer(iter([infer("streams", count=1)])))
    output = converters.ModelInferResponseConverter.to_types(texts).outputs[0]
    assert StringCodec.decode_output(output) == ["0"]


def test_r32_nan_and_infinities_to_the_bit(stub: Any) -> None:
    values = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
    assert stub.ModelInfer(infer("numpy", values)).raw_output_contents[0] == values.tobytes()
    answer = stub.ModelInfer(infer("constant", value="infinite"))
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [np.inf, -np.inf, 2.0]


@pytest.mark.parametrize("stream", [False, True])
def test_r35_requested_outputs(tmp_path: Path, stream: bool) -> None:
    rows, classes = load_iris(return_X_y=True)
    home = write_model(tmp_path, "iris", "mlserver_sklearn.SKLearnModel")
    estimator = LogisticRegression(max_iter=500).fit(rows, classes)
    joblib.dump(estimator, home / "model.joblib")
    request = infer("iris", rows[:3].ravel())
    request.inputs[0].shape[:] = [3, 4]
    with grpc_server(tmp_path, {}) as server, grpc.insecure_channel(server.target) as channel:
        stub = GRPCInferenceServiceStub(channel)

        def ask(*outputs: str) -> Any:
            request.ClearField("outputs")
            for name in outputs:
                request.outputs.add(name=name)
            if stream:
                [response] = stub.ModelStreamInfer(iter([request]), timeout=20)
                return response
            return stub.ModelInfer(request, timeout=20)

        answer = ask("predict_proba")
        assert [output.name for output in answer.outputs] == ["predict_proba"]
        got = np.frombuffer(answer.raw_output_contents[0]).reshape(3, 3)
        assert np.allclose(got, estimator.predict_proba(rows[:3].astype(np.float32)))
        both = ask("predict_proba", "predict")
        assert [output.name for output in both.outputs] == ["predict_proba", "predict"]
        for names in (["nothing"], ["predict", "nothing"]):
            with pytest.raises(grpc.RpcError) as caught:
                ask(*names)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "nothing" in caught.value.details()
        assert server.alarm.lines == []


def test_r36_eleven_megabytes_with_defaults(stub: Any) -> None:
    values = np.zeros(11_000_000 // 4, np.float32)
    assert stub.ModelInfer(infer("echo", values), timeout=30).raw_output_contents[0] == values.tobytes()


def test_r75_the_first_response_arrives_before_the_second_is_made(stub: Any) -> None:
    replies = stub.ModelStreamInfer(iter([infer("streams", count=3, key="r75 grpc")]), timeout=20)
    for number in range(3):
        next(replies)
        assert f"made {number + 1}" not in events["r75 grpc"]
        gates["r75 grpc"].release()
    assert list(replies) == []


def test_c5_a_call_is_finished_before_the_server_stops(tmp_path: Path) -> None:
    with grpc_server(tmp_path, MODELS) as server:
        with grpc.insecure_channel(server.target) as channel:
            call = GRPCInferenceServiceStub(channel).ModelInfer.future(infer("blocks", key="c5", id="c5"))
            while not events["c5"]:
                time.sleep(0.01)
            server.loop.call_soon_threadsafe(server.server._request_stop)
            time.sleep(0.3)
            with pytest.raises(grpc.RpcError) as caught:
                GRPCInferenceServiceStub(channel).ModelReady(pb.ModelReadyRequest(name="echo"), timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            gates["c5"].release()
            assert call.result(20).id == "c5"
        server.thread.join(10)
        assert not server.thread.is_alive() and server.alarm.lines == []
