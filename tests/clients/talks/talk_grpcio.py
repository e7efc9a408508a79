"""Run by an interpreter that has `grpcio`, `grpcio-tools`, `grpcio-health-checking` and `grpcio-reflection`:
`talk_grpcio.py ADDRESS FOLDER_OF_PROTOS`. Knows nothing of this project but its proto files.
"""

import asyncio
import struct
import sys
import tempfile
import threading
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_tools import protoc

target, protos = sys.argv[1:]
generated = tempfile.mkdtemp()
options = [f"-I{protos}", f"--python_out={generated}", f"--grpc_python_out={generated}"]
assert protoc.main(["protoc", *options, "dataplane.proto"]) == 0
sys.path.insert(0, generated)
import dataplane_pb2 as pb  # noqa: E402
import dataplane_pb2_grpc  # noqa: E402

WAIT = 30
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def request(values=(1.0,), model="echo", **parameters):
    message = pb.ModelInferRequest(model_name=model, id="one")
    message.inputs.add(name="x", datatype="FP32", shape=[len(values)])
    message.raw_input_contents.append(struct.pack(f"<{len(values)}f", *values))
    for name, value in parameters.items():
        if isinstance(value, bool):
            message.parameters[name].bool_param = value
        else:
            message.parameters[name].int64_param = value
    return message


def floats(response):
    raw = response.raw_output_contents[0]
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


def fails(code, call):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() is code, error
    else:
        raise AssertionError(f"no {code}")


def talk(channel):
    stub = dataplane_pb2_grpc.GRPCInferenceServiceStub(channel)
    assert stub.ServerLive(pb.ServerLiveRequest(), timeout=WAIT).live
    assert stub.ServerReady(pb.ServerReadyRequest(), timeout=WAIT).ready
    assert stub.ModelReady(pb.ModelReadyRequest(name="echo"), timeout=WAIT).ready
    assert list(stub.ModelMetadata(pb.ModelMetadataRequest(name="echo")).inputs[0].shape) == [-1, 4]

    answer, call = stub.ModelInfer.with_call(request((1.0, -2.5)), metadata=[("x-own", "1")], timeout=WAIT)
    assert floats(answer) == [1.0, -2.5] and answer.id == "one"
    assert dict(call.trailing_metadata())["ce-id"] == "one", call.trailing_metadata()
    large = request((0.0,))
    large.raw_input_contents[0] = bytes(range(256)) * 40_000  # 10 MB
    large.inputs[0].shape[0] = len(large.raw_input_contents[0]) // 4
    assert stub.ModelInfer(large, timeout=WAIT).raw_output_contents[0] == large.raw_input_contents[0]

    calls = [stub.ModelInfer.future(request((float(n),)), timeout=WAIT) for n in range(500)]
    assert [floats(call.result()) for call in calls] == [[float(n)] for n in range(500)]

    fails(grpc.StatusCode.NOT_FOUND, lambda: stub.ModelInfer(request(model="nobody"), timeout=WAIT))
    fails(grpc.StatusCode.INVALID_ARGUMENT, lambda: stub.ModelInfer(request(refuse=True), timeout=WAIT))
    fails(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: stub.ModelInfer(request(wait_ms=9000), timeout=0.3))
    fails(grpc.StatusCode.UNIMPLEMENTED, lambda: channel.unary_unary("/nobody/Nothing")(b"", timeout=WAIT))
    left = stub.ModelInfer.future(request(wait_ms=9000), timeout=WAIT)
    time.sleep(0.1)
    left.cancel()
    assert left.cancelled()

    many = (request(model="counts", count=2) for _ in range(100))
    assert len(list(stub.ModelStreamInfer(many, timeout=WAIT))) == 200
    one_by_one(stub)
    endless = stub.ModelStreamInfer(iter([request(model="counts", count=1_000_000)]))
    for _ in range(100):
        next(endless)
    endless.cancel()
    fails(
        grpc.StatusCode.NOT_FOUND,
        lambda: list(stub.ModelStreamInfer(iter([request(model="nobody")]), timeout=WAIT)),
    )

    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "inference.GRPCInferenceService", "echo"):
        assert health.Check(health_pb2.HealthCheckRequest(service=name), timeout=WAIT).status == 1
    watch = health.Watch(health_pb2.HealthCheckRequest(service=""))
    assert next(watch).status == 1
    watch.cancel()

    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    [listed] = reflection.ServerReflectionInfo(iter([ask]), timeout=WAIT)
    names = {service.name for service in listed.list_services_response.service}
    assert "inference.GRPCInferenceService" in names, names


def one_by_one(stub):
    """Each reply of a stream is there before the next request is sent."""
    sent, go = threading.Semaphore(0), []

    def requests():
        for _ in range(20):
            go.append(1)
            yield request(model="counts", count=1)
            sent.acquire()

    for number, _ in enumerate(stub.ModelStreamInfer(requests(), timeout=WAIT), 1):
        assert len(go) <= number + 1
        sent.release()
    assert number == 20


async def talk_aio():
    async with grpc.aio.insecure_channel(target, options=UNLIMITED) as channel:
        stub = dataplane_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = await asyncio.gather(*(stub.ModelInfer(request((float(n),))) for n in range(200)))
        assert [floats(answer) for answer in answers] == [[float(n)] for n in range(200)]
        stream = stub.ModelStreamInfer()
        for _ in range(5):
            await stream.write(request(model="counts", count=1))
            assert (await stream.read()).model_name == "counts"
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


for compression in (None, grpc.Compression.Gzip):
    with grpc.insecure_channel(target, options=UNLIMITED, compression=compression) as opened:
        talk(opened)
asyncio.run(talk_aio())
print("all well")
