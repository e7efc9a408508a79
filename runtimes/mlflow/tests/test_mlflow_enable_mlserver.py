"""`mlflow models serve --enable-mlserver`, and what an image of `mlflow models build-docker` runs, start this
server. MLflow had both up to 3.12.

Each version of MLflow is in an environment of its own, `$MLFLOW_ENVIRONMENTS/<version>`, with this server and
this runtime installed beside it; `make test-runtimes-mlflow` makes them.
"""
# ruff: noqa: N802 - functions with an R are named after the ids of faults that users met

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from processes import Server, free_port, running
from saving import COLUMNS, X
from test_mlflow_scoring import ANSWERED, CSV, JSON, PARQUET, REFUSED, Case

ENVIRONMENTS = os.environ.get("MLFLOW_ENVIRONMENTS", "")
VERSIONS = ("2.22.0", "3.12.0")
HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(not ENVIRONMENTS, reason="needs environments with older versions of MLflow")

# Tells which process answered, and configures logging as user code does.
WHO = """
import logging
import os
import time

import mlflow

logging.basicConfig(level=logging.INFO)

class Who(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        logging.getLogger("who").info("asked for %s", model_input.iloc[0, 0])
        time.sleep(0.05)
        return [os.getpid()] * len(model_input)

mlflow.models.set_model(Who())
"""
SAVE = """
import pathlib, sys
import mlflow, saving
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

folder = pathlib.Path(sys.argv[1])
saving.save_all(folder)
who = ModelSignature(inputs=Schema([ColSpec("string", "x")]))
saving.save_code(folder, "who", sys.argv[2], signature=who)
"""
# The entry point of the image, with another folder and port than those that only an image has.
CONTAINER = """
import sys
from mlflow.models import container

container.MODEL_PATH = sys.argv[1]
container.DEFAULT_MLSERVER_PORT = int(sys.argv[2])
container._serve("local")
"""


@dataclass
class Installed:
    """A version of MLflow, and models that it saved."""

    version: str
    bin: Path
    models: Path

    def serve(self, model: str, *options: str, **env: str) -> AbstractContextManager[Server]:
        port, grpc_port = free_port(), free_port()
        ports = {"MLSERVER_GRPC_PORT": str(grpc_port), "MLSERVER_METRICS_PORT": str(free_port())}
        serve = [str(self.bin / "mlflow"), "models", "serve", "--model-uri", str(self.models / model)]
        command = [*serve, "--env-manager", "local", "--port", str(port), *options]
        return running(
            command, port, "/ping", grpc_port, cwd=self.models, **{**ports, **self.environment(), **env}
        )

    def contain(self, model: str, **env: str) -> AbstractContextManager[Server]:
        port = free_port()
        ports = {"MLSERVER_GRPC_PORT": "0", "MLSERVER_METRICS_PORT": "0"}
        image = {
            "ENABLE_MLSERVER": "True",
            "MLFLOW_DISABLE_ENV_CREATION": "True",
            "MLSERVER_HOST": "127.0.0.1",
        }
        command = [str(self.bin / "python"), "-c", CONTAINER, str(self.models / model), str(port)]
        return running(
            command, port, "/ping", cwd=self.models, **{**ports, **image, **self.environment(), **env}
        )

    def environment(self) -> dict[str, str]:
        # PYTHONPATH would show this environment's packages; some of MLflow's texts list a set.
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return {"PATH": path, "PYTHONPATH": "", "PYTHONHASHSEED": "0"}


@pytest.fixture(scope="module", params=VERSIONS)
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    installed = Installed(
        request.param, Path(ENVIRONMENTS) / request.param / "bin", tmp_path_factory.mktemp("models")
    )
    env = {**os.environ, **installed.environment(), "PYTHONPATH": str(HERE)}
    command = [str(installed.bin / "python"), "-W", "ignore", "-c", SAVE, str(installed.models)]
    done = subprocess.run(
        [*command, WHO], env=env, capture_output=True, text=True, timeout=240, cwd=installed.models
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return installed


@pytest.fixture(scope="module")
def server(installed: Installed) -> Iterator[Server]:
    with installed.serve("columns", "--enable-mlserver") as server:
        yield server


def ask(server: Server, content_type: str, body: bytes | str) -> requests.Response:
    data = body.encode() if isinstance(body, str) else body
    return server.post("/invocations", data=data, headers={"content-type": content_type})


def predictions(answer: requests.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    found: list[int] = answer.json()["predictions"]
    return found


def test_it_is_this_server(installed: Installed, server: Server) -> None:
    assert server.get("/version").text == installed.version
    metadata = server.get("/v2").json()
    assert (metadata["name"], metadata["version"]) == ("mlserver", "1.8.0")
    model = server.get("/v2/models/mlflow-model").json()
    assert (model["platform"], [t["name"] for t in model["inputs"]]) == ("mlflow", COLUMNS)
    for path in ("/ping", "/health"):
        assert (server.get(path).status_code, server.get(path).text) == (200, "\n")


def test_frames_in_every_form(server: Server) -> None:
    frame = X.iloc[[0, 60, 120]]
    split = {"dataframe_split": frame.to_dict(orient="split")}
    records = {"dataframe_records": frame.to_dict(orient="records")}
    columns = {"inputs": frame.to_dict(orient="list")}
    instances = {"instances": frame.to_dict(orient="records")}
    for body in (split, records, columns, instances):
        assert predictions(ask(server, JSON, json.dumps(body))) == [0, 1, 2]
    assert predictions(ask(server, CSV, frame.to_csv(index=False))) == [0, 1, 2]


def test_v2_beside_it(server: Server) -> None:
    inputs = [
        {"name": name, "datatype": "FP64", "shape": [1], "data": [float(X[name][60])]} for name in COLUMNS
    ]
    answer = server.infer("mlflow-model", {"inputs": inputs})
    assert answer.status_code == 200 and answer.json()["outputs"][0]["data"] == [1]


@pytest.mark.parametrize("content_type", [JSON, CSV])
def test_bad_input_has_a_code_and_a_message(server: Server, content_type: str) -> None:
    for body in ("", "{", "[1]"):
        answer = ask(server, content_type, body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error_code"] in ("BAD_REQUEST", "INVALID_PARAMETER_VALUE")
        assert answer.json()["message"]


def test_unknown_content_types_are_refused(server: Server) -> None:
    for content_type in ("", "application/xml", f"{JSON}; charset=latin-1", f"{JSON}; format=x"):
        assert ask(server, content_type, "{}").status_code == 415


def cases(model: str, version: str) -> dict[str, Case]:
    found = {**ANSWERED[model], **REFUSED[model]}
    if version.startswith("2."):
        found = {name: case for name, case in found.items() if case[0] != PARQUET}
    return found


@pytest.mark.parametrize("model", ["columns", "local"])
def test_R46_answers_are_those_of_mlflows_own_server(installed: Installed, model: str) -> None:
    asked = cases(model, installed.version)
    with installed.serve(model) as theirs, installed.serve(model, "--enable-mlserver") as ours:
        for name, (content_type, body) in asked.items():
            assert content_type is not None
            expected, got = ask(theirs, content_type, body), ask(ours, content_type, body)
            assert "stack_trace" not in got.text
            if expected.status_code >= 500:
                assert got.status_code == 400, (name, got.text)
                continue
            assert got.status_code == expected.status_code, (name, got.text)
            if expected.status_code == 400:
                content = expected.json()
                content.pop("stack_trace", None)
                assert got.json() == content, name
            else:
                assert got.content == expected.content, name


def test_schema_failures_are_refused_by_v2_too(installed: Installed) -> None:
    with installed.serve("pets", "--enable-mlserver", MLSERVER_MODEL_NAME="pets") as server:
        tensor = {"name": "kind", "datatype": "BYTES", "shape": [1], "data": ["cat"]}
        answer = server.infer("pets", {"inputs": [tensor]})
        assert (answer.status_code, answer.json()["error"]) == (
            400,
            "the request lacks 'age', 'weight', 'tame': the model expects 'kind', 'age', 'weight', 'tame'",
        )


def who_answers(server: Server, model: str) -> set[int]:
    """Processes that answer when many ask at once."""

    def one(index: int) -> int:
        body = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": [f"no {index}"]}]}
        answer = server.infer(model, body)
        assert answer.status_code == 200, answer.text
        pid: int = answer.json()["outputs"][0]["data"][0]
        return pid

    with ThreadPoolExecutor(8) as callers:
        return set(callers.map(one, range(32)))


def nothing_is_logged_twice(server: Server) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not any("no 31" in line for line in server.lines):
        time.sleep(0.05)
    messages = Counter(
        line.rpartition(" - ")[2].strip()
        for line in server.lines
        if "[mlserver" in line or "asked for" in line
    )
    assert any("Loaded model" in message for message in messages), server.log()
    assert {message for message, times in messages.items() if times > 1} == set()


@pytest.mark.parametrize("workers", [1, 2])
def test_R77_the_option_sets_the_workers(installed: Installed, workers: int) -> None:
    with installed.serve("who", "--enable-mlserver", "--workers", str(workers)) as server:
        assert len(who_answers(server, "mlflow-model")) == workers
        nothing_is_logged_twice(server)


def test_R77_one_variable_sets_the_workers_of_an_image(installed: Installed) -> None:
    with installed.contain("who", MLSERVER_INFER_WORKERS="2", MLSERVER_MODEL_NAME="who") as server:
        assert len(who_answers(server, "who")) == 2
        nothing_is_logged_twice(server)
        assert server.post("/invocations", json={"dataframe_records": [{"x": "a"}]}).status_code == 200


def test_the_server_goes_when_mlflow_goes(installed: Installed) -> None:
    with installed.serve("columns", "--enable-mlserver") as server:
        assert server.get("/v2/health/live").status_code == 200
        server.process.kill()
        server.process.wait(30)
        wait_until(lambda: not answers(server))


def answers(server: Server) -> bool:
    try:
        return server.get("/ping").ok
    except requests.ConnectionError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "this did not come true"
        time.sleep(0.1)
