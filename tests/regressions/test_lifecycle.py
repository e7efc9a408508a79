"""Faults that users of servers like this one met while servers start and models come and go."""
# ruff: noqa: N802 - functions are named after the ids of the faults

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from mlserver.errors import ModelNotFound
from mlserver.repository import SchemalessModelRepository
from tests.server.test_start_errors import Repository, ended, repository, taken_port

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


@pytest.mark.parametrize("setting", ["http_port", "metrics_port"])
def test_R11_a_taken_port_is_one_line_and_a_quick_end(repository: Repository, setting: str) -> None:
    repository.add("slow", "SlowlyBad")
    with taken_port() as port:
        repository.settings[setting] = port
        results = [repository.run() for _ in range(3)]
    for result in results:
        assert result.code != 0
        assert f"port {port} is in use" in result.error and result.traceback == ""
    assert min(result.seconds for result in results) < 1.0


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
