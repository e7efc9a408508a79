"""The page and the example: the detector is fitted, served and asked as they say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import DOCS, curl_bodies, train_serve_ask
from tests.running import process

EXAMPLE = DOCS.parent / "examples" / "alibi-detect"


def test_the_page(tmp_path: Path) -> None:
    train_serve_ask(DOCS / "runtimes" / "alibi-detect.md", tmp_path, train=300, start=300)


def test_the_example(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    trained = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, check=True, timeout=300, capture_output=True, text=True
    )
    assert int(trained.stdout.rpartition(": ")[2]) < 15
    ((path, body),) = curl_bodies(tmp_path / "README.md")
    with process(tmp_path, timeout=300) as server:
        answer = server.post(path, json.loads(body)).json()
    found = {output["name"]: output["data"] for output in answer["outputs"]}
    assert found["is_drift"] == [1] and max(found["p_val"]) < 0.01
