"""Tempo itself, in a worker of a real server: a gate that lets no outliers through to a model."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("mlserver_tempo")
pytest.importorskip("tempo.version")

from tests.refusals import check_refused, tensor
from tests.running import AsProcess, process, write_model

pytestmark = pytest.mark.timeout(300)

CHILDREN = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceResponse


class Total(MLModel):
    async def predict(self, payload):
        rows = self.decode(payload.inputs[0], NumpyCodec)
        return self.answer(rows.sum(axis=1))

    def answer(self, values):
        outputs = [NumpyCodec.encode_output("y", values)]
        return InferenceResponse(model_name=self.name, outputs=outputs)


class Outlier(Total):
    async def predict(self, payload):
        rows = self.decode(payload.inputs[0], NumpyCodec)
        return self.answer((abs(rows).max(axis=1) > 100).astype(int))
"""

SAVE = """
import sys

import numpy as np
import tempo
from tempo.aio import Model as AsyncModel
from tempo.aio.utils import pipeline as async_pipeline
from tempo.magic import t
from tempo.serve.metadata import DockerOptions, ModelFramework
from tempo.serve.model import Model
from tempo.serve.pipeline import PipelineModels
from tempo.serve.utils import pipeline, predictmethod

folder, here = sys.argv[1], DockerOptions(runtime="mlserver_tempo.endpoints.V2Runtime")


def children(cls):
    return PipelineModels(
        **{
            name: cls(name=name, platform=ModelFramework.Custom, local_folder=folder, runtime_options=here)
            for name in ("total", "outlier")
        }
    )


@pipeline(name="gate", local_folder=f"{folder}/gate", models=children(Model))
def gate(payload: np.ndarray) -> np.ndarray:
    if gate.models.outlier(payload).any():
        return np.array([-1.0])
    return gate.models.total(payload)


@async_pipeline(name="async_gate", local_folder=f"{folder}/async_gate", models=children(AsyncModel))
async def async_gate(payload: np.ndarray) -> np.ndarray:
    found = await async_gate.models.outlier(payload)
    if found.any():
        return np.array([-1.0])
    return await async_gate.models.total(payload)


@pipeline(name="counter", local_folder=f"{folder}/counter")
class Counter:
    @predictmethod
    def predict(self, text: str) -> str:
        count = int(t.state.get(text) or 0) + 1
        t.state.set(text, count)
        return f"{text} {count} {t.payload.request['inputs'][0]['datatype']}"


for made in (gate, async_gate, Counter()):
    tempo.save(made, save_env=False)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AsProcess]:
    folder = tmp_path_factory.mktemp("tempo")
    write_model(folder, "total", "models.Total", CHILDREN)
    write_model(folder, "outlier", "models.Outlier", CHILDREN)
    for name in ("gate", "async_gate", "counter"):
        write_model(folder, name, "tempo.mlserver.InferenceRuntime", parameters={"uri": "."})
    (folder / "save.py").write_text(SAVE)
    saved = subprocess.run(
        [sys.executable, folder / "save.py", str(folder)], capture_output=True, text=True, check=False
    )
    assert saved.returncode == 0, saved.stderr
    with socket.socket() as probe:  # the pipelines call their own server, so they have to know its port
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with process(folder, MLSERVER_PARALLEL_WORKERS="1", MLSERVER_HTTP_PORT=port) as server:
        yield server


def ask(server: AsProcess, model: str, rows: list[list[float]]) -> Any:
    flat = [value for row in rows for value in row]
    payload = {"name": "payload", "datatype": "FP64", "shape": [len(rows), len(rows[0])], "data": flat}
    answer = server.infer(model, {"id": "7", "inputs": [payload]})
    assert answer.status_code == 200, server.log()
    assert (answer.json()["id"], answer.json()["model_name"]) == ("7", model)
    return answer.json()["outputs"][0]


@pytest.mark.parametrize("gate", ["gate", "async_gate"])
def test_one_model_in_front_of_another(server: AsProcess, gate: str) -> None:
    output = ask(server, gate, [[1, 2, 3], [4, 5, 6]])
    assert (output["datatype"], output["data"]) == ("FP64", [6.0, 15.0])
    assert ask(server, gate, [[1, 2, 3], [4, 5, -600]])["data"] == [-1.0]


def test_text_state_and_payload(server: AsProcess) -> None:
    text = "Gr\u00fc\u00dfe"
    data = list(text.encode())
    spelled = tensor("text", data, "BYTES")
    said = []
    for _ in range(2):
        answer = server.infer("counter", {"inputs": [spelled]})
        assert answer.status_code == 200, server.log()
        (output,) = answer.json()["outputs"]
        assert output["datatype"] == "BYTES" and output["shape"] == [len(output["data"])]
        said.append(bytes(output["data"]).decode())
    assert said == [f"{text} 1 BYTES", f"{text} 2 BYTES"]


_TEXT = tensor("text", ["Hi"], "BYTES")
_ROW = tensor("payload", [[1.0, 2.0]])
_EXTRA = tensor("colour", [1.0])


# Ranks and numbers of features are for the function of a pipeline to judge.
@pytest.mark.parametrize(
    ("model", "inputs", "pattern"),
    [
        ("gate", [_ROW, _EXTRA], "has unknown input 'colour': the model expects 'payload'"),
        ("gate", [{**_ROW, "name": "rows"}, _EXTRA], "lacks input 'payload' and has unknown .*'colour'"),
        ("async_gate", [_ROW, _ROW], "more than one input 'payload'"),
        ("gate", [tensor("payload", [["a", "b"]], "BYTES")], "'payload' must be a text as the numbers"),
        ("async_gate", [], "lacks input 'payload'"),
        ("counter", [_TEXT, _EXTRA], "has unknown input 'colour'"),
        ("counter", [_TEXT], "'text' must be a text as the numbers"),
        ("counter", [tensor("text", [1.5])], "'text' has datatype FP64, but the model expects str"),
        ("counter", [], "lacks input 'text'"),
    ],
)
def test_refused_by_name(server: AsProcess, model: str, inputs: list[Any], pattern: str) -> None:
    check_refused(server, model, inputs, pattern)


def test_a_child_that_is_not_there_is_the_pipelines_fault(server: AsProcess) -> None:
    assert server.post("/v2/repository/models/outlier/unload").status_code == 200
    answer = server.infer("gate", {"inputs": [_ROW]})
    assert (answer.status_code, answer.json()) == (500, {"error": "Internal Server Error"})
    assert server.post("/v2/repository/models/outlier/load").status_code == 200


def test_other_modules_go_on_to_see_pydantic_2() -> None:
    import pydantic
    from tempo.serve.metadata import ModelDetails

    assert pydantic.VERSION.startswith("2.")
    assert ModelDetails.__mro__[1].__module__ == "pydantic.v1.main"
    assert not hasattr(ModelDetails, "model_validate")
