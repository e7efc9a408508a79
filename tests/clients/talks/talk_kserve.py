"""Run by an interpreter that has `kserve`, with the server's address as its argument."""

import asyncio
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest


def tensor(name, array, datatype, raw):
    made = InferInput(name=name, shape=list(array.shape), datatype=datatype)
    made.set_data_from_numpy(array, binary_data=raw)
    return made


async def talk(target):
    async with InferenceGRPCClient(url=target, retries=3) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("echo")
        try:
            await client.is_model_ready("nobody")
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND, error
        else:
            raise AssertionError("a model that is not there was ready")

        numbers = np.array([[1.5, np.nan, -np.inf, -0.0]], np.float32)
        texts = np.array([b"a", "é".encode()], dtype=np.object_)
        for raw in (True, False):
            request = InferRequest(
                model_name="echo",
                request_id="one",
                infer_inputs=[tensor("x", numbers, "FP32", raw), tensor("t", texts, "BYTES", raw)],
                parameters={"limit": 7, "note": "é", "deep": True},
            )
            answer = await client.infer(request, headers=[("x-own", "1")])
            assert answer.id == "one" and answer.model_name == "echo", answer
            x, t = answer.outputs
            assert x.as_numpy().tobytes() == numbers.tobytes(), x
            assert x.as_numpy().shape == (1, 4) and x.datatype == "FP32"
            got = [part if isinstance(part, bytes) else part.encode() for part in t.as_numpy().tolist()]
            assert got == texts.tolist(), got
            assert answer.parameters["limit"].int64_param == 7, answer.parameters
            assert answer.parameters["note"].string_param == "é"
        large = np.zeros((1, 3_000_000), np.float32)
        request = InferRequest("echo", infer_inputs=[tensor("x", large, "FP32", True)])
        answer = await client.infer(request)
        assert answer.outputs[0].as_numpy().shape == large.shape

        async def one(number):
            array = np.full((1, 4), number, np.float32)
            answer = await client.infer(InferRequest("echo", infer_inputs=[tensor("x", array, "FP32", True)]))
            return float(answer.outputs[0].as_numpy()[0, 0])

        assert await asyncio.gather(*map(one, range(100))) == list(range(100))

        for parameters, timeout, code in (
            ({"refuse": True}, 10, grpc.StatusCode.INVALID_ARGUMENT),
            ({"wait_ms": 5000}, 0.2, grpc.StatusCode.DEADLINE_EXCEEDED),
        ):
            refused = InferRequest(
                "echo", infer_inputs=[tensor("x", numbers, "FP32", True)], parameters=parameters
            )
            try:
                await client.infer(refused, timeout=timeout)
            except grpc.RpcError as error:
                assert error.code() is code, error
            else:
                raise AssertionError(f"{parameters} was answered")


asyncio.run(talk(sys.argv[1]))
print("all well")
