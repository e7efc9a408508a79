"""The page and the example: the detector is fitted, served and asked as they say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.test_docs import DOCS, blocks, curl_bodies
from tests.running import process

PAGE = DOCS / "runtimes" / "alibi-detect.md"
EXAMPLE = DOCS.parent / "examples" / "alibi-detect"


def test_the_page(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(blocks(PAGE, "python file=train.py")[0])
    (tmp_path / "model-settings.json").write_text(blocks(PAGE, "json file=model-settings.json")[0])
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, check=True, timeout=300)
    with process(tmp_path, timeout=300) as server:
        exec(blocks(PAGE, "python client")[0], {"server": server.url})


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
