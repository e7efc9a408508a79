"""Faults that users of servers like this one met while servers start and models come and go."""
# ruff: noqa: N802 - functions are named after the ids of the faults

from __future__ import annotations

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from mlserver.errors import ModelNotFound
from mlserver.repository import SchemalessModelRepository
from tests.running import process, serving, wait_for, write_model
from tests.server.models import body
from tests.server.test_start_errors import Repository, ended, free_port, repository, taken_port

__all__ = ["repository"]  # a fixture


def test_R10_never_ready_when_the_only_model_fails(repository: Repository) -> None:
    repository.add("bad", "SlowlyBad")
    process = repository.start()
    seen = []
    while process.poll() is None:
        seen.append(repository.get("/v2/health/ready"))
        time.sleep(0.01)
    result = ended(process)
    assert result.code != 0
    assert 200 not in seen
    assert any(status not in (None, 200) for status in seen)  # it was asked while it was loading


def test_R10_a_model_that_failed_stays_listed_with_its_error(repository: Repository) -> None:
    repository.settings["load_models_at_startup"] = False
    repository.add("bad", "Bad")
    process = repository.start()
    repository.wait_for("/v2/health/ready")
    url = f"http://127.0.0.1:{repository.port}/v2/repository"
    assert requests.post(f"{url}/models/bad/load", timeout=10).status_code >= 400
    (item,) = requests.post(f"{url}/index", json={}, timeout=10).json()
    assert (item["name"], item["state"]) == ("bad", "UNAVAILABLE")
    assert "the weights are" in item["reason"]
    process.send_signal(signal.SIGTERM)
    ended(process)


@pytest.mark.parametrize("setting", ["http_port", "grpc_port", "metrics_port"])
def test_R11_a_taken_port_is_one_line_and_a_quick_end(repository: Repository, setting: str) -> None:
    repository.add("slow", "SlowlyBad")
    with taken_port() as port:
        repository.settings[setting] = port
        results = [repository.run() for _ in range(3)]
    for result in results:
        assert result.code != 0
        assert f"port {port} is in use" in result.error and result.traceback == ""
    assert min(result.seconds for result in results) < 3.0  # it waited for nothing


async def test_R09_every_version_is_found_again_after_an_unload(tmp_path: Path) -> None:
    for version in ("1", "2"):
        folder = tmp_path / "m" / version
        folder.mkdir(parents=True)
        (folder / "model-settings.json").write_text(
            f'{{"name": "m", "implementation": "x.Y", "parameters": {{"version": "{version}"}}}}'
        )
    models = SchemalessModelRepository(str(tmp_path))
    assert sorted(str(s.version) for s in await models.find("m")) == ["1", "2"]
    with pytest.raises(ModelNotFound):
        await models.find("other")


def test_R09_unload_takes_all_versions_and_load_brings_them_back(repository: Repository) -> None:
    for version in ("1", "2"):
        repository.add(f"m{version}", "Good")
        path = repository.folder / f"m{version}" / "model-settings.json"
        path.write_text(
            f'{{"name": "m", "implementation": "models.Good", "parameters": {{"version": "{version}"}}}}'
        )
    process = repository.start()
    repository.wait_for("/v2/health/ready")
    url = f"http://127.0.0.1:{repository.port}/v2"
    versions = ("/v2/models/m/versions/1/ready", "/v2/models/m/versions/2/ready")
    assert [repository.get(path) for path in versions] == [200, 200]
    assert requests.post(f"{url}/repository/models/m/unload", timeout=10).status_code == 200
    assert [repository.get(path) for path in versions] == [404, 404]
    states = {item["state"] for item in requests.post(f"{url}/repository/index", json={}, timeout=10).json()}
    assert states == {"UNAVAILABLE"}
    request: Any = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}
    assert requests.post(f"{url}/models/m/infer", json=request, timeout=10).status_code == 404
    assert requests.post(f"{url}/repository/models/m/load", timeout=10).status_code == 200
    assert [repository.get(path) for path in versions] == [200, 200]
    process.send_signal(signal.SIGTERM)
    assert ended(process).code == 0


@pytest.mark.parametrize("how", ["sleep", "work"])
def test_R06_liveness_while_predict_blocks(tmp_path: Path, how: str) -> None:
    """How long an answer may take is generous here: the machine that tests run on is busy with others."""
    write_model(tmp_path, "m", "tests.server.models.Blocks")
    with serving(tmp_path) as server, ThreadPoolExecutor(4) as pool, requests.Session() as session:
        calls = [pool.submit(server.infer, "m", body(parameters={how: 0.4})) for _ in range(4)]
        slowest = 0.0
        asked = 0
        while not all(call.done() for call in calls):
            started = time.monotonic()
            assert session.get(f"{server.url}/v2/health/live", timeout=10).status_code == 200
            slowest = max(slowest, time.monotonic() - started)
            asked += 1
        assert {call.result().status_code for call in calls} == {200}
    assert asked > 10 and slowest < 1.0


LOADS = """
import os
from mlserver import MLModel

class Loads(MLModel):
    async def load(self):
        with open(os.path.join(self.settings.parameters.uri, "loads"), "a") as file:
            file.write(f"{os.getpid()}\\n")
        return True
"""


def test_R13_one_load_for_each_replica(tmp_path: Path) -> None:
    homes = [write_model(tmp_path, name, "models.Loads", LOADS) for name in ("a", "b")]
    with process(tmp_path) as server:
        assert server.post("/v2/repository/index", {}).json()[0]["state"] == "READY"
        assert server.stop() == 0
    for home in homes:
        assert len((home / "loads").read_text().splitlines()) == 1


ASKS = """
import json, os, time, urllib.error, urllib.request
from mlserver import MLModel
from mlserver.types import InferenceResponse

class Asked(MLModel):
    async def load(self):
        time.sleep(0.3)
        return True

    async def predict(self, payload):
        return InferenceResponse(model_name=self.name, outputs=[])

class Asks(MLModel):
    async def load(self):
        request = urllib.request.Request(
            f"http://127.0.0.1:{os.environ['MLSERVER_HTTP_PORT']}/v2/models/asked/infer",
            data=b'{"inputs": []}',
        )
        for attempt in range(1000):
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return json.load(answer)["model_name"] == "asked"
            except urllib.error.HTTPError as error:
                assert error.code in (400, 404)
                time.sleep(0.01)
"""


def test_R14_a_model_may_wait_for_another_while_it_loads(tmp_path: Path) -> None:
    write_model(tmp_path, "asks", "models.Asks", ASKS)
    write_model(tmp_path, "asked", "models.Asked", ASKS)
    for _ in range(2):
        with process(tmp_path, MLSERVER_HTTP_PORT=str(free_port())) as server:
            assert server.get("/v2/models/asks/ready").status_code == 200
            assert server.stop() == 0


COUNTS = """
from prometheus_client import Counter
import mlserver
from mlserver import MLModel
from mlserver.types import InferenceResponse

class Counts(MLModel):
    async def load(self):
        mlserver.register("own_values", "What was seen")
        self.counter = Counter("own_calls", "How often it was called", ["kind"])
        return True

    async def predict(self, payload):
        mlserver.log(own_values=2.5)
        self.counter.labels(kind="any").inc()
        return InferenceResponse(model_name=self.name, outputs=[])
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_R57_metrics_of_models_are_scraped(tmp_path: Path, workers: str) -> None:
    write_model(tmp_path, "m", "models.Counts", COUNTS, parameters={"version": "7"})
    with process(tmp_path, MLSERVER_PARALLEL_WORKERS=workers) as server:
        for _ in range(3):
            assert server.infer("m", body()).status_code == 200
        lines = server.metrics().splitlines()
        assert 'own_calls_total{kind="any"} 3.0' in lines
        assert 'own_values_sum{model_name="m",model_version="7"} 7.5' in lines
        assert server.stop() == 0


LOGS = """
import asyncio, logging
from mlserver import MLModel
from mlserver.types import InferenceResponse

class Logs(MLModel):
    async def predict(self, payload):
        await asyncio.sleep(0.001)
        logging.getLogger("mlserver.own").info(payload.id)
        return InferenceResponse(model_name=self.name, outputs=[])
"""


def test_R61_every_record_tells_model_version_and_request(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_model(tmp_path, name, "models.Logs", LOGS, parameters={"version": "7"})
    with process(tmp_path, MLSERVER_USE_STRUCTURED_LOGGING="1") as server, ThreadPoolExecutor(8) as pool:
        asked = [(name, f"{name}-{n}") for n in range(20) for name in ("a", "b")]
        list(pool.map(lambda item: server.infer(item[0], body(id=item[1])), asked))
        assert server.stop() == 0
        records = [json.loads(line) for line in server.output]
    own = [record for record in records if record["name"] == "mlserver.own"]
    seen = [(r["model_name"], r["model_version"], r["request_id"], r["message"]) for r in own]
    assert sorted(seen) == sorted((name, "7", request_id, request_id) for name, request_id in asked)


def test_C5_a_stop_lets_calls_under_way_end(tmp_path: Path) -> None:
    write_model(tmp_path, "m", "models.Sleeps", SLEEPS)
    with process(tmp_path) as server, ThreadPoolExecutor(1) as pool:
        call = pool.submit(server.infer, "m", body())
        wait_for(lambda: (tmp_path / "m" / "begun").exists(), "the call")
        server.process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                server.get("/v2/health/live")
            except requests.ConnectionError:
                return True
            return False

        wait_for(refused, "new connections to be refused")
        assert not call.done()
        assert call.result().status_code == 200
        assert server.process.wait(30) == 0


SLEEPS = """
import pathlib, time
from mlserver import MLModel
from mlserver.types import InferenceResponse

class Sleeps(MLModel):
    async def predict(self, payload):
        (pathlib.Path(self.settings.parameters.uri) / "begun").touch()
        time.sleep(1.0)
        return InferenceResponse(model_name=self.name, outputs=[])
"""
