"""Run by an interpreter that has `tritonclient[grpc]`, with the server's address as its argument."""

import asyncio
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

target = sys.argv[1]
values = np.arange(8, dtype=np.float32).reshape(2, 4)
x = triton.InferInput("x", [2, 4], "FP32").set_data_from_numpy(values)
texts = np.array(["a", "é"], dtype=np.object_)
t = triton.InferInput("t", [2], "BYTES").set_data_from_numpy(texts)
got = queue.Queue()


def note(result, error):
    got.put((result, error))


def take():
    return got.get(timeout=30)


with triton.InferenceServerClient(target) as client:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("echo")
    assert client.get_server_metadata().name == "mlserver"
    assert list(client.get_model_metadata("echo").inputs[0].shape) == [-1, 4]
    config = client.get_model_config("echo", as_json=True)["config"]
    assert config["name"] == "echo" and config["input"][0]["data_type"] == "TYPE_FP32", config
    assert client.get_model_config("counts").config.model_transaction_policy.decoupled
    assert client.get_inference_statistics("echo").model_stats[0].name == "echo"
    assert {model.name for model in client.get_model_repository_index().models} == {"counts", "echo"}
    client.get_trace_settings()
    client.get_log_settings()
    client.get_system_shared_memory_status()
    client.get_cuda_shared_memory_status()
    client.unregister_system_shared_memory()
    client.unload_model("echo")
    states = {model.name: model.state for model in client.get_model_repository_index().models}
    assert states == {"counts": "READY", "echo": "UNAVAILABLE"}, states
    client.load_model("echo")
    assert client.is_model_ready("echo")

    wanted = [triton.InferRequestedOutput("x")]
    for coding in (None, "gzip", "deflate"):
        result = client.infer("echo", [x, t], outputs=wanted, request_id="one", compression_algorithm=coding)
        assert (result.as_numpy("x") == values).all() and result.as_numpy("t").tolist() == [
            b"a",
            "é".encode(),
        ]
        assert result.get_response().id == "one"
    for parameters, timeout, status in (
        ({"refuse": True}, 30, "StatusCode.INVALID_ARGUMENT"),
        ({"wait_ms": 9000}, 0.3, "StatusCode.DEADLINE_EXCEEDED"),
    ):
        try:
            client.infer("echo", [x], parameters=parameters, client_timeout=timeout)
        except triton.InferenceServerException as error:
            assert error.status() == status, error
        else:
            raise AssertionError(f"{parameters} was answered")
    for _ in range(100):
        client.async_infer("echo", [x], note)
    for result, error in [take() for _ in range(100)]:
        assert error is None and (result.as_numpy("x") == values).all()
    left = client.async_infer("echo", [x], note, parameters={"wait_ms": 9000})
    left.cancel()
    result, error = take()
    assert result is None and "cancel" in str(error).lower(), error

    # Triton's streams, asked for by metadata or by a parameter
    client.start_stream(note, headers={"stream-dialect": "triton"})
    for number in range(20):
        client.async_stream_infer("echo", [x], request_id=str(number))
    assert {take()[0].get_response().id for _ in range(20)} == {str(number) for number in range(20)}
    client.async_stream_infer("nobody", [x])
    assert "nobody" in str(take()[1])
    client.async_stream_infer("echo", [x], request_id="after")
    assert take()[0].get_response().id == "after"
    client.stop_stream()
    client.start_stream(note)
    client.async_stream_infer(
        "counts", [x], request_id="many", parameters={"count": 3}, enable_empty_final_response=True
    )
    responses = [take()[0].get_response() for _ in range(4)]
    finals = [response.parameters["triton_final_response"].bool_param for response in responses]
    assert finals == [False, False, False, True] and not responses[3].outputs, responses
    client.stop_stream()
    assert got.empty()


async def talk_aio():
    async with triton_aio.InferenceServerClient(target) as client:
        assert await client.is_server_ready()
        results = await asyncio.gather(*(client.infer("echo", [x]) for _ in range(100)))
        assert all((result.as_numpy("x") == values).all() for result in results)

        async def requests():
            for number in range(5):
                yield {"model_name": "echo", "inputs": [x], "request_id": str(number)}

        headers = {"stream-dialect": "triton"}
        answers = [answer async for answer in client.stream_infer(requests(), headers=headers)]
        assert len(answers) == 5 and all(error is None for _, error in answers)


asyncio.run(talk_aio())
print("all well")
