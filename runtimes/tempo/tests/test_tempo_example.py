"""The example: two models and a pipeline are made, served and asked as its README says."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mlserver_tempo")
pytest.importorskip("tempo.version")

from tests.docs.pages import ROOT, curl_bodies
from tests.running import process

pytestmark = pytest.mark.timeout(300)


def test_the_example(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples" / "tempo", tmp_path, dirs_exist_ok=True)
    trained = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, check=True, timeout=200, capture_output=True, text=True
    )
    assert float(trained.stdout.rpartition(": ")[2]) > 0.9
    with socket.socket() as probe:  # pipelines call their own server, so they have to know its port
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with process(tmp_path, timeout=200, MLSERVER_HTTP_PORT=port) as server:
        said = []
        for path, body in curl_bodies(tmp_path / "README.md"):
            answer = server.post(path, json.loads(body))
            assert answer.status_code == 200, server.log()
            said.append(answer.json()["outputs"][0]["data"])
    assert said == [[0, 1], [-1]]
