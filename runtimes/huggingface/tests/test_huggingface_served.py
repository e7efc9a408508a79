"""Pipelines behind a real server, asked over REST and gRPC by many at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from huggingface_asking import picture
from tests.refusals import check_refused

from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

TIMEOUT = 60
TASKS = (
    "text-classification",
    "token-classification",
    "question-answering",
    "text-generation",
    "image-classification",
    "feature-extraction",
)


@dataclass
class Server:
    url: str
    grpc: str

    def post(self, model: str, inputs: list[dict[str, Any]], path: str = "infer") -> requests.Response:
        return requests.post(f"{self.url}/v2/models/{model}/{path}", json={"inputs": inputs}, timeout=TIMEOUT)

    def infer(self, model: str, body: Any) -> requests.Response:
        return self.post(model, body["inputs"])

    @property
    def grpc_port(self) -> int:
        return int(self.grpc.rpartition(":")[2])

    def rows(self, model: str, inputs: list[dict[str, Any]]) -> list[Any]:
        response = self.post(model, inputs)
        assert response.status_code == 200, response.text
        (output,) = response.json()["outputs"]
        assert output["shape"] == [len(output["data"]), 1]
        return [json.loads(element) for element in output["data"]]

    def generation_steps(self) -> float:
        text = requests.get(f"{self.url}/steps", timeout=TIMEOUT).text
        return float(text)


def tensor(
    name: str, data: list[Any], datatype: str = "BYTES", content_type: str | None = None
) -> dict[str, Any]:
    parameters = {"parameters": {"content_type": content_type}} if content_type else {}
    return {"name": name, "shape": [len(data)], "datatype": datatype, "data": data, **parameters}


GENERATION = [
    tensor("args", ["the fox"]),
    tensor("do_sample", [False], "BOOL"),
    tensor("eos_token_id", [399], "INT64"),
]

# Counts the steps of all generations, so that a test can tell when they end.
COUNTING = """
import functools

from fastapi import Response
from mlserver.handlers import custom_handler
from mlserver_huggingface import HuggingFaceRuntime


class Counting(HuggingFaceRuntime):
    steps = 0

    async def load(self):
        done = await super().load()
        forward = self._model.model.forward

        @functools.wraps(forward)
        def counted(*args, **kwargs):
            self.steps += 1
            return forward(*args, **kwargs)

        self._model.model.forward = counted
        return done

    @custom_handler(rest_path="/steps", rest_method="GET")
    async def count(self) -> Response:
        return Response(str(self.steps))
"""


@pytest.fixture(scope="module", params=[0, 1], ids=["in-process", "worker"])
def server(
    request: pytest.FixtureRequest,
    folder_of: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    for task in TASKS:
        home = folder / task
        home.mkdir()
        implementation = "mlserver_huggingface.HuggingFaceRuntime"
        if task == "text-generation":
            implementation = "counting.Counting"
            (home / "counting.py").write_text(COUNTING)
        extra = {"task": task, "device": "cpu", "intra_op_threads": 1}
        parameters = {"uri": str(folder_of(task)), "extra": extra}
        values = {"name": task, "implementation": implementation, "parameters": parameters}
        (home / "model-settings.json").write_text(json.dumps(values))
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        http_port, grpc_port = one.getsockname()[1], other.getsockname()[1]
    settings = {
        "host": "127.0.0.1",
        "http_port": http_port,
        "grpc_port": grpc_port,
        "metrics_endpoint": None,
        "parallel_workers": request.param,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    env = {k: v for k, v in os.environ.items() if not k.upper().startswith("MLSERVER_")}
    process = subprocess.Popen([sys.executable, "-m", "mlserver", "start", "."], cwd=folder, env=env)
    try:
        served = Server(f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}")
        deadline = time.monotonic() + 100
        while True:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server did not become ready"
            try:
                if requests.get(f"{served.url}/v2/health/ready", timeout=5).status_code == 200:
                    break
            except requests.ConnectionError:
                pass
            time.sleep(0.05)
        yield served
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_concurrent_callers_get_their_own_answers(server: Server) -> None:
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "film", "sea"]
    texts = [" ".join(words[: 1 + index % 10] + words[index % 7 :]) for index in range(24)]

    def close(got: Any, expected: Any) -> None:
        assert [one.keys() for one in got] == [one.keys() for one in expected]
        for one, other in zip(got, expected, strict=True):
            for key, value in other.items():
                assert one[key] == (pytest.approx(value, abs=1e-4) if isinstance(value, float) else value)

    def asks(text: str) -> list[tuple[str, list[dict[str, Any]]]]:
        return [
            ("text-classification", [tensor("args", [text])]),
            ("text-classification", [tensor("args", [text]), tensor("top_k", [2], "INT64")]),
            ("token-classification", [tensor("args", [text])]),
            ("question-answering", [tensor("question", ["the dog?"]), tensor("context", [text])]),
        ]

    asked = [one for text in texts for one in asks(text)]
    alone = [server.rows(model, inputs) for model, inputs in asked]
    with ThreadPoolExecutor(16) as callers:
        together = list(callers.map(lambda one: server.rows(*one), asked))
    for got, expected in zip(together, alone, strict=True):
        close(got, expected)


def test_generation_with_arguments_of_their_own(server: Server) -> None:
    def ask(index: int) -> list[Any]:
        inputs = [
            *GENERATION,
            tensor("max_new_tokens", [1 + index % 4], "INT32", "raw"),
            tensor("return_tensors", [index % 3 == 0], "BOOL"),
        ]
        inputs[0] = tensor("args", [f"the fox {'and the dog ' * (index % 5)}"])
        return server.rows("text-generation", inputs)

    alone = list(map(ask, range(24)))
    with ThreadPoolExecutor(16) as callers:
        assert list(callers.map(ask, range(24))) == alone


def test_images(server: Server) -> None:
    red, blue = picture("red"), picture("blue")
    for content_type in ("pillow_image", "base64", None):
        first, second = server.rows(
            "image-classification", [tensor("inputs", [red, blue], "BYTES", content_type)]
        )
        assert {label["label"] for label in first} == {"LABEL_0", "LABEL_1", "LABEL_2"}
        assert first != second
    bad = server.post("image-classification", [tensor("inputs", ["bm9uZQ=="], "BYTES", "pillow_image")])
    assert bad.status_code == 400
    assert "'inputs': element 0 is no image" in bad.json()["error"]


def test_the_hf_content_type(server: Server) -> None:
    body = {"inputs": [tensor("args", ["a good film"])], "parameters": {"content_type": "hf"}}
    url = f"{server.url}/v2/models/text-classification"
    answer = requests.post(f"{url}/infer", json=body, timeout=TIMEOUT)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["parameters"] == {"content_type": "hg_jsonlist"}
    metadata = requests.get(url, timeout=TIMEOUT).json()
    assert metadata["platform"] == "huggingface"
    assert metadata["inputs"] == [
        {"name": "args", "datatype": "BYTES", "shape": [-1], "parameters": {"content_type": "str"}}
    ]


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ([tensor("args", ["a film"]), tensor("top", [1], "INT64")], "input 'top' is not known"),
        ([tensor("args", [])], "input 'args' is empty"),
        ([tensor("args", ["the " * 100])], "input 'args': text 0 has 102 tokens, the model takes 64"),
    ],
)
def test_refusals(server: Server, inputs: list[dict[str, Any]], match: str) -> None:
    refused = server.post("text-classification", inputs)
    assert refused.status_code == 400
    assert match in refused.json()["error"]


def test_one_bad_request_among_many_fails_alone(server: Server) -> None:
    def ask(index: int) -> int:
        text = "the " * 100 if index % 8 == 0 else "the dog"
        return server.post("text-classification", [tensor("args", [text])]).status_code

    with ThreadPoolExecutor(16) as callers:
        statuses = list(callers.map(ask, range(48)))
    assert statuses == [400 if index % 8 == 0 else 200 for index in range(48)]


def _events(response: requests.Response) -> Iterator[str]:
    for line in response.iter_lines():
        if line.startswith(b"data:"):
            (output,) = json.loads(line[5:])["outputs"]
            yield json.loads(output["data"][0])["generated_text"]


def test_text_streams_over_rest(server: Server) -> None:
    inputs = [*GENERATION, tensor("max_new_tokens", [20], "INT64")]
    ((whole,),) = [server.rows("text-generation", inputs)]
    url = f"{server.url}/v2/models/text-generation/infer_stream"
    with requests.post(url, json={"inputs": inputs}, stream=True, timeout=TIMEOUT) as response:
        assert response.status_code == 200
        pieces = list(_events(response))
    assert len(pieces) > 3
    assert "the fox" + "".join(pieces) == whole["generated_text"]


def test_generation_ends_when_the_caller_leaves(server: Server) -> None:
    inputs = [*GENERATION, tensor("max_new_tokens", [240], "INT64"), tensor("min_new_tokens", [240], "INT64")]
    url = f"{server.url}/v2/models/text-generation/infer_stream"
    before = server.generation_steps()
    with requests.post(url, json={"inputs": inputs}, stream=True, timeout=TIMEOUT) as response:
        next(_events(response))
    deadline = time.monotonic() + TIMEOUT
    seen = -1.0
    while (steps := server.generation_steps()) != seen:
        assert time.monotonic() < deadline
        seen = steps
        time.sleep(0.2)
    assert 0 < seen - before < 240


def _grpc_request(model: str, **texts: list[bytes]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    for name, values in texts.items():
        given = request.inputs.add(name=name, datatype="BYTES", shape=[len(values)])
        given.contents.bytes_contents.extend(values)
    return request


def test_grpc(server: Server) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        answer = stub.ModelInfer(_grpc_request("text-classification", args=[b"a good film", b"the dog"]))
        (output,) = answer.outputs
        assert (output.name, list(output.shape)) == ("output", [2, 1])
        assert output.parameters["content_type"].string_param == "hg_jsonlist"
        got = [json.loads(element) for element in output.contents.bytes_contents]
        expected = server.rows("text-classification", [tensor("args", ["a good film", "the dog"])])
        for one, other in zip(got, expected, strict=True):
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)

        import base64

        file = base64.b64decode(picture())
        (image,) = stub.ModelInfer(_grpc_request("image-classification", inputs=[file])).outputs
        assert len(json.loads(image.contents.bytes_contents[0])) == 3

        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(_grpc_request("text-classification", args=[b"x"], temper=[b"1"]))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "input 'temper' is not known" in caught.value.details()

        request = _grpc_request("text-generation", args=[b"the fox"])
        length = request.inputs.add(name="max_new_tokens", datatype="INT64", shape=[1])
        length.contents.int64_contents.append(12)
        greedy = request.inputs.add(name="do_sample", datatype="BOOL", shape=[1])
        greedy.contents.bool_contents.append(False)
        pieces = [
            json.loads(answer.outputs[0].contents.bytes_contents[0])["generated_text"]
            for answer in stub.ModelStreamInfer(iter([request]))
        ]
        whole = json.loads(stub.ModelInfer(request).outputs[0].contents.bytes_contents[0])
        assert "the fox" + "".join(pieces) == whole["generated_text"]


_TEXT = tensor("args", ["a good film"])
_QUESTION = tensor("question", ["who?"])


@pytest.mark.parametrize(
    ("task", "inputs", "pattern"),
    [
        ("text-classification", [tensor("texts", ["a"])], "'texts' is not known"),
        ("text-classification", [_TEXT, tensor("colour", ["red"])], "'colour' is not known"),
        ("text-classification", [_TEXT, _TEXT], "'args' and 'args' both"),
        ("text-classification", [tensor("args", [1.5], "FP64")], "'args' has datatype FP64"),
        (
            "text-classification",
            [{**_TEXT, "shape": [2, 2], "data": ["a"] * 4}],
            r"'args' has shape \[2, 2\]",
        ),
        ("text-classification", [{**_TEXT, "shape": [0], "data": []}], "'args' is empty"),
        (
            "text-classification",
            [_TEXT, tensor("top_k", ["x"])],
            r"'top_k' is \['x'\], expected a whole number",
        ),
        ("text-classification", [], "no input to ask about.*'array_inputs'"),
        ("text-generation", [_TEXT, tensor("temperature", ["x"])], "'temperature' is .*expected a number"),
        ("question-answering", [_QUESTION], "'context' is missing"),
        ("question-answering", [_QUESTION, tensor("ctx", ["a"])], "'ctx' is not known"),
        ("question-answering", [_QUESTION, tensor("context", [1.5], "FP64")], "'context' has datatype FP64"),
        ("question-answering", [], "'question' is missing"),
        ("image-classification", [tensor("inputs", ["bm8="])], "'inputs': element 0 is no image"),
        ("image-classification", [tensor("inputs", [1.5], "FP32")], "'inputs'"),
    ],
)
def test_refused_by_name(server: Server, task: str, inputs: list[dict[str, Any]], pattern: str) -> None:
    check_refused(server, task, inputs, pattern)
