"""The page and the example: model and explainer are trained, served and asked as they say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import DOCS, curl_bodies, train_serve_ask
from tests.running import process

EXAMPLE = DOCS.parent / "examples" / "alibi-explain"


def test_the_page(tmp_path: Path) -> None:
    train_serve_ask(DOCS / "runtimes" / "alibi-explain.md", tmp_path, train=300, start=300)


def test_the_example(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    trained = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, check=True, timeout=300, capture_output=True, text=True
    )
    assert float(trained.stdout.rpartition(": ")[2]) > 0.9
    ((path, body),) = curl_bodies(tmp_path / "README.md")
    settings = tmp_path / "why" / "model-settings.json"
    with process(tmp_path / "iris", timeout=300) as model:
        # The kernel chooses ports here: the model has one before the explainer is told of it.
        settings.write_text(settings.read_text().replace("http://localhost:8080", model.url))
        with process(tmp_path, timeout=300) as server:
            answer = server.post(path, json.loads(body)).json()
    explanation = json.loads(answer["outputs"][0]["data"][0])["data"]
    assert explanation["anchor"] and explanation["precision"] > 0.9
    assert explanation["raw"]["prediction"] == [0]
