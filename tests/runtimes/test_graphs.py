"""Computation graphs in worker processes, asked by many at once over REST and gRPC.

Everybody gets the rows that the bare library gives for what he sent, whoever his rows were computed with.
"""
# ruff: noqa: N802 - functions with an R are named after the ids of faults that users met

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import save_file
from skl2onnx import to_onnx
from sklearn.neural_network import MLPClassifier

from mlserver.codecs import NumpyCodec
from mlserver.importing import import_class
from mlserver.types import InferenceRequest, RequestOutput
from tests.running import AsProcess, process, write_model
from tests.runtimes.test_callers import over_grpc, over_rest
from tests.tabular import THREE, X

# By name of the output, what the bare library gives for rows.
Calls = dict[str, Callable[[Any], Any]]

MODELS = {
    "onnx": "mlserver_onnx.OnnxModel",
    "pt2": "mlserver_torch.TorchModel",
    "script": "mlserver_torch.TorchModel",
    "weights": "mlserver_torch.TorchModel",
}
PLATFORMS = {"onnx": "onnx", "pt2": "pytorch", "script": "pytorch", "weights": "pytorch"}
BAD = "input 'X' has shape [1, 2], but the model expects ["
# What files without a signature need to be told.
DECLARED: dict[str, Any] = {
    "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 3]}],
    "outputs": [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
    ],
}
SETTINGS: dict[str, dict[str, Any]] = {
    "onnx": {},
    "pt2": {},
    "script": {**DECLARED, "parameters": {"extra": {"rows_independent": True}}},
    "weights": {**DECLARED, "parameters": {"extra": {"module": "nets.Net", "rows_independent": True}}},
}
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(1))

    def forward(self, X):
        probabilities = self.layers(X)
        return probabilities.argmax(1), probabilities
"""


def make_torch(home: Path) -> Calls:
    (home / "nets.py").write_text(NET)
    net = import_class("nets.Net", str(home))().eval()
    if home.name == "pt2":
        batch = {"X": {0: torch.export.Dim("batch")}}
        program = torch.export.export(net, (torch.ones(4, 3),), dynamic_shapes=batch)
        torch.export.save(program, str(home / "model.pt2"))
    elif home.name == "script":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.trace(net, torch.ones(4, 3)).save(str(home / "model.pt"))
    else:
        save_file(net.state_dict(), home / "model.safetensors")

    def run(index: int, rows: Any) -> Any:
        with torch.no_grad():
            return net(torch.from_numpy(rows))[index].numpy()

    names = ("output-0", "output-1") if home.name == "pt2" else ("label", "probabilities")
    return {name: partial(run, index) for index, name in enumerate(names)}


def make_onnx(home: Path) -> Calls:
    estimator = MLPClassifier((8,), max_iter=20, tol=0.1, random_state=0).fit(X, THREE)
    graph = to_onnx(estimator, X[:1], options={"zipmap": False}).SerializeToString()
    (home / "model.onnx").write_bytes(graph)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def run(name: str, rows: Any) -> Any:
        return session.run([name], {"X": rows})[0]

    return {name: partial(run, name) for name in ("label", "probabilities")}


MAKERS = {"onnx": make_onnx, "pt2": make_torch, "script": make_torch, "weights": make_torch}


@pytest.fixture(scope="module", params=["plain", "batched"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[AsProcess, dict[str, Calls]]]:
    folder = tmp_path_factory.mktemp("models")
    settings = {"max_batch_size": 16, "max_batch_time": 0.02} if request.param == "batched" else {}
    calls = {
        name: MAKERS[name](write_model(folder, name, implementation, **settings, **SETTINGS[name]))
        for name, implementation in MODELS.items()
    }
    with process(folder) as server:
        yield server, calls


def body(rows: Any, *outputs: str) -> InferenceRequest:
    return InferenceRequest(
        inputs=[NumpyCodec.encode_input("X", rows)],
        outputs=[RequestOutput(name=name) for name in outputs] or None,
    )


@pytest.mark.parametrize("transport", ["rest", "grpc"])
@pytest.mark.parametrize("model", MODELS)
def test_everybody_gets_his_own_rows(
    served: tuple[AsProcess, dict[str, Calls]], model: str, transport: str
) -> None:
    server, calls = served
    first, second = calls[model]
    wishes: list[tuple[str, ...]] = [(), (first,), (second,), (second, first)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, ThreadPoolExecutor(16) as callers:
        ask = partial(over_rest, server, model) if transport == "rest" else partial(over_grpc, channel, model)

        def call(index: int) -> None:
            rows = X[index % 80 : index % 80 + 1 + index % 3]
            wish = wishes[index % len(wishes)]
            outputs = ask(body(rows, *wish)).outputs
            assert [output.name for output in outputs] == list(wish or (first, second))
            for output in outputs:
                expected = calls[model][output.name](rows)
                assert output.shape == list(expected.shape)
                np.testing.assert_allclose(NumpyCodec.decode_output(output), expected, rtol=1e-5, atol=1e-6)

        list(callers.map(call, range(120)))


@pytest.mark.parametrize("model", MODELS)
def test_who_sends_nonsense_is_refused_alone(served: tuple[AsProcess, dict[str, Calls]], model: str) -> None:
    server, calls = served
    name = next(iter(calls[model]))
    expected = calls[model][name](X[:1])

    def call(index: int) -> None:
        answer = server.infer(model, body(X[:1] if index % 5 else X[:1, :2], name).model_dump())
        if index % 5:
            assert answer.status_code == 200
            np.testing.assert_allclose(answer.json()["outputs"][0]["data"], expected.ravel(), rtol=1e-5)
        else:
            assert answer.status_code == 400 and answer.json()["error"].startswith(BAD)

    with ThreadPoolExecutor(16) as callers:
        list(callers.map(call, range(60)))


@pytest.mark.parametrize("model", MODELS)
def test_grpc_says_invalid_argument(served: tuple[AsProcess, dict[str, Calls]], model: str) -> None:
    server, _ = served
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        for made, text in (
            (body(X[:1, :2]), BAD),
            (body(X[:1], "explain"), "the model has no output 'explain'"),
            (InferenceRequest(inputs=[]), "the request lacks input 'X'"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                over_grpc(channel, model, made)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert text in caught.value.details()


@pytest.mark.parametrize("model", MODELS)
def test_large_tensors_come_through_shared_memory(
    served: tuple[AsProcess, dict[str, Calls]], model: str
) -> None:
    server, calls = served
    rows = np.tile(X, (200, 1))  # 216 kB
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        for ask in (partial(over_rest, server), partial(over_grpc, channel)):
            for output in ask(model, body(rows)).outputs:
                expected = calls[model][output.name](rows)
                np.testing.assert_allclose(NumpyCodec.decode_output(output), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_R40_metadata_over_rest(served: tuple[AsProcess, dict[str, Calls]], model: str) -> None:
    server, calls = served
    metadata = server.get(f"/v2/models/{model}").json()
    assert metadata["platform"] == PLATFORMS[model]
    assert metadata["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 3]}]
    assert [tensor["name"] for tensor in metadata["outputs"]] == list(calls[model])
